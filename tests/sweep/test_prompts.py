"""Prompts of sweeps: templates, groups, and the lists that come with the package."""

import re
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import ROOT

from lightning_drift.assets import PROMPTS
from lightning_drift.common.errors import UserError
from lightning_drift.common.prompt_lists import read_prompts
from lightning_drift.sweep.templates import Prompt, expand, read_groups, sampled

WHO = {"artist": ["Klee", "Kubin", "Ernst"], "mood": ["vast", "tiny"]}


def texts(prompts: Any, slots: Any = None) -> list[str]:
    return [prompt.text for prompt in expand(prompts, slots)]


def test_slots_are_multiplied_and_pairs_taken_once() -> None:
    assert texts("a {mood} sea", {"mood": WHO["mood"]}) == ["a vast sea", "a tiny sea"]
    assert texts("{mood} {artist}", WHO)[:3] == ["vast Klee", "vast Kubin", "vast Ernst"]
    pairs = expand("by {artist} and {artist}", {"artist": WHO["artist"]})
    assert [prompt.text for prompt in pairs] == [
        "by Klee and Kubin",
        "by Klee and Ernst",
        "by Kubin and Ernst",
    ]
    assert pairs[0] == Prompt("by Klee and Kubin", "", (("artist", "Klee + Kubin"),))
    assert texts("{{not a slot}}, 50 %") == ["{not a slot}, 50 %"]
    assert texts(["a", "", "a"]) == ["a", ""]


def test_groups_come_from_mappings_and_files(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("empty: ['']\nscenes:\n- a sea\n- 'by {artist}'\n")
    found = expand(str(file), {"artist": "artists.txt"})
    assert [(prompt.group, prompt.text) for prompt in found[:2]] == [("empty", ""), ("scenes", "a sea")]
    assert len(found) > 82
    file.write_text("- a sea\n- a wood\n")
    assert read_groups(str(file), "p") == {"": ["a sea", "a wood"]}
    assert read_groups({"one": "a, b", "more": ["c"]}, "p") == {"one": ["a, b"], "more": ["c"]}


@pytest.mark.parametrize(
    ("prompts", "slots", "sentence"),
    [
        (
            "by {artst}",
            {"artist": ["x"]},
            r"'by \{artst\}' has the slot \{artst\}, and data.slots gives \{artist\}",
        ),
        ("a sea", {"artist": ["x"]}, r"no prompt has the slot \{artist\}"),
        ("{a} and {a}", {"a": ["x"]}, "needs 2 different values, there is 1"),
        ("{a} {a} {a}", {"a": [str(n) for n in range(200)]}, "gives 1,313,400 prompts, more than 200,000"),
        ("nowhere.yaml", None, "cannot read the prompt file nowhere.yaml"),
        ("nowhere.txt", None, "cannot read the prompt file nowhere.txt"),
    ],
)
def test_what_cannot_be_filled_is_said(prompts: str, slots: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        expand(prompts, slots)


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    file = tmp_path / "numbers.yaml"
    file.write_text("frames: [1, 2]\n")
    with pytest.raises(
        UserError, match=r"numbers\.yaml, frames is not a list of prompts; .* where it is a number"
    ):
        expand(str(file), None)
    file.write_text("a: [")
    with pytest.raises(UserError, match=r"numbers\.yaml is not YAML: "):
        expand(str(file), None)


def test_a_sample_is_the_same_each_time() -> None:
    prompts = expand("by {artist} and {artist}", {"artist": "artists.txt"})
    some = sampled(prompts, 50)
    assert len(set(some)) == 50
    assert some == sampled(prompts, 50)
    assert [prompts.index(prompt) for prompt in some] == sorted(prompts.index(prompt) for prompt in some)
    assert sampled(prompts, None) == prompts


# -- the lists that come with the package --


def test_every_list_can_be_named_from_anywhere(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for path in sorted(PROMPTS.iterdir()):
        found = [prompt for group in read_groups(path.name, "p").values() for prompt in group]
        assert len(found) == len(set(found)) >= 7, path.name
    (tmp_path / "artists.txt").write_text("only mine\n")  # what is here comes first
    assert read_prompts("artists.txt", "p") == ["only mine"]
    clone = ROOT / "configs" / "prompts"
    assert {path.name for path in clone.iterdir()} == {path.name for path in PROMPTS.iterdir()}


def test_artists_are_no_longer_living_and_have_a_source() -> None:
    lines = (PROMPTS / "artists.txt").read_text(encoding="utf-8").split("\n\n")[1].splitlines()
    facts, names = lines[::2], lines[1::2]
    assert len(names) == len(set(names)) >= 80
    years = []
    for fact, name in zip(facts, names, strict=True):
        found = re.fullmatch(r"# (?:about )?(\d{4})-(\d{4}), https://en\.wikipedia\.org/wiki/\S+", fact)
        assert found is not None, fact
        assert not name.startswith("#")
        born, died = int(found[1]), int(found[2])
        assert 15 < died - born < 105, name
        assert died < 2015
        years.append(born)
    assert years == sorted(years)


def test_the_ablations_hold_what_the_essay_tried() -> None:
    groups = read_groups("ablations.yaml", "p")
    prompt = "monumental, dramatic, atmospheric, transcendent"
    assert groups["the essay's prompt"] == [prompt]
    assert groups["one adjective"] == prompt.split(", ")
    assert groups["empty"] == [""]
    assert all(text.startswith(prompt) for text in groups["with detail tokens"])
    for group in ("with a scene", "with nouns", "a single word", "a random string", "a frame number"):
        assert len(groups[group]) >= 3
