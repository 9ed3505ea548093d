"""Options and files of text: a value within its bounds, or a sentence."""

import csv
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.bounded import value_or_sentence
from helpers.hostile import json_text, texts, values, with_a_wrong_value
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_drift.common.files import read_json, read_text, user_path
from lightning_drift.common.names import MAX_NAME_BYTES, file_name
from lightning_drift.common.number_lists import MAX_COUNT, decimals, integers
from lightning_drift.common.numbers import MAX_SEED, real, whole
from lightning_drift.common.prompt_lists import read_prompts, slug
from lightning_drift.common.yaml_files import read_yaml, read_yaml_section
from lightning_drift.fit.configuration import differences, with_prompts
from lightning_drift.images.infotext import infotext, settings_of
from lightning_drift.sweep.index import Index
from lightning_drift.sweep.templates import MOST_PROMPTS, expand, read_groups

number_texts = st.one_of(
    texts,
    st.text("0123456789,- \t.e+_x٣", max_size=24),
    st.lists(
        st.sampled_from(["0", "7", "0-3", "9-1", "1-99999999", "9" * 50, "-1", "", " 5 "]), max_size=5
    ).map(",".join),
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@given(st.one_of(number_texts, values, st.lists(number_texts, max_size=4)), st.booleans())
def test_whole_numbers(value: Any, empty: bool) -> None:
    found = value_or_sentence(lambda: integers(value, "data.seeds", empty=empty))
    if found is not None:
        assert len(set(found)) == len(found) <= MAX_COUNT
        assert all(type(number) is int and 0 <= number <= MAX_SEED for number in found)
        assert found or empty


@given(st.one_of(number_texts, values, st.lists(number_texts, max_size=4)))
def test_decimals(value: Any) -> None:
    found = value_or_sentence(lambda: decimals(value, "data.drift"))
    if found is not None:
        assert 0 < len(found) <= MAX_COUNT
        assert all(type(number) is float and math.isfinite(number) for number in found)


@given(values, st.one_of(st.none(), st.integers(-5, 5)), st.one_of(st.none(), st.integers(6, 2**40)))
def test_single_numbers(value: Any, low: int | None, high: int | None) -> None:
    found = value_or_sentence(lambda: whole(value, "model.batch_size", low, high))
    assert found is None or (
        type(found) is int and (low is None or found >= low) and (high is None or found <= high)
    )
    number = value_or_sentence(lambda: real(value, "model.guidance_scale", low, high, above=low))
    assert number is None or (math.isfinite(number) and (low is None or number > low))


@given(st.one_of(texts, values))
@example("\udd00")
def test_names(value: Any) -> None:
    name = value_or_sentence(lambda: file_name(value, "seed_grid.groups"))
    if name is not None:
        folder = Path("/a/folder")
        assert (folder / name).parent == folder
        assert (folder / name).resolve().name == name
        assert len(name.encode()) <= MAX_NAME_BYTES


@given(texts)
def test_paths(folder: Path, text: str) -> None:
    path = value_or_sentence(lambda: user_path(text, "data.images"))
    if path is not None:
        assert b"\0" not in os.fsencode(path)
        value_or_sentence(lambda: read_text(folder / path, "prompt file"))


@given(texts)
def test_a_prompt_becomes_a_file_name(prompt: str) -> None:
    name = slug(prompt)
    assert 0 < len(name.encode()) <= 255 - len("step=00000_seed0000_0123abcd.png.partial")
    assert Path("/a", name).parent == Path("/a")
    assert not name.startswith(".")
    assert slug(prompt) == name


@given(st.one_of(texts, values, st.lists(texts, max_size=4)))
def test_prompts(value: Any) -> None:
    found = value_or_sentence(lambda: read_prompts(value, "data.prompts"))
    assert found is None or (found and all(type(prompt) is str for prompt in found))


@given(st.one_of(st.binary(max_size=60), texts.map(lambda text: text.encode("utf-8", "surrogatepass"))))
@example(b"\xef\xbb\xbf# a list\na tree\n")
def test_prompt_files(folder: Path, data: bytes) -> None:
    path = folder / "prompts.txt"
    path.write_bytes(data)
    found = value_or_sentence(lambda: read_prompts(str(path), "data.prompts"))
    if found is not None:
        assert found
        assert all(prompt == prompt.strip() and not prompt.startswith("\ufeff") for prompt in found)


templates = st.lists(
    st.sampled_from(
        ["{who}", "{where}", "{{", "}}", "{", "}", "{who", "who}", " and ", "{}", "{ who }", "a"]
    ),
    max_size=8,
).map("".join)


@given(
    st.one_of(
        templates, st.lists(templates, max_size=3), st.dictionaries(texts, templates, max_size=3), values
    ),
    st.one_of(
        st.none(),
        st.dictionaries(
            st.sampled_from(["who", "where", "", "a b"]), st.lists(texts, max_size=5), max_size=3
        ),
    ),
)
def test_templates(prompts: Any, slots: Any) -> None:
    found = value_or_sentence(lambda: expand(prompts, slots))
    if found is not None:
        assert len(found) <= MOST_PROMPTS
        assert len({prompt.text for prompt in found}) == len(found)


@given(st.integers(1, 6), st.sampled_from([1, 2, 5, 60, 1000]))
def test_a_product_of_slots_is_counted_before_it_is_made(places: int, count: int) -> None:
    slots = {f"s{place}": [f"{place} {value}" for value in range(count)] for place in range(places)}
    template = " ".join(f"{{{slot}}}" for slot in slots)
    found = value_or_sentence(lambda: expand(template, slots))
    assert found is None or len(found) == count**places


yaml_lines = st.lists(
    st.sampled_from(
        [
            "a: 1",
            "b: &x [1, 2]",
            "c: *x",
            "*y",
            "<<: *x",
            "- a",
            "? [1]: 2",
            "!!python/object:os.system x",
            "'",
            "d: !!binary ====",
            "e: 2001-13-99",
            "f: 1:99:99",
            "g: 0x",
            "h: .nan",
            "i: !!int x",
            "j: |",
            "  k",
            "\t",
            "l: {",
            "}",
            "m: ]",
            "%YAML 9.9",
            "---",
            "...",
            "n: !!set {a, b}",
            "o: !!float x",
            "? ",
            ": ",
            "- - -",
            "p: &p {q: *p}",
            "r: !!timestamp 1",
            "s: 1e999",
            "t: " + "9" * 5000,
            "u: �",
            "[" * 400,
        ]
    ),
    max_size=6,
).map("\n".join)


@given(st.one_of(yaml_lines, texts, values.map(json_text)))
@example("r: !!timestamp 1")
@example("a: &a [x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\n" + "d: [*c, *c, *c, *c]")
def test_yaml_files(folder: Path, text: str) -> None:
    path = folder / "config.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    value_or_sentence(lambda: read_yaml(path, "configuration"))
    section = value_or_sentence(lambda: read_yaml_section(path, "configuration"))
    assert section is None or all(type(key) is str for key in section)
    groups = value_or_sentence(lambda: read_groups(str(path), "data.prompts"))
    assert groups is None or all(type(prompt) is str for some in groups.values() for prompt in some)


@given(st.one_of(values.map(json_text), texts, st.just("[" * 100_000), st.just('{"a":' * 50_000)))
def test_json_files(folder: Path, text: str) -> None:
    path = folder / "state.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    found = value_or_sentence(lambda: read_json(path, "state"))
    assert found is None or type(found) is dict


@given(values, values)
def test_two_configurations(old: Any, new: Any) -> None:
    changes = differences({"a": old}, {"a": new}, re.compile("(?!)"))
    assert isinstance(changes, dict)
    assert not differences({"a": scalar_free(old)}, {"a": scalar_free(old)}, re.compile("(?!)"))


def scalar_free(value: Any) -> Any:
    """The same without numbers that differ from themselves."""
    return json.loads(json.dumps(value, default=str).replace("NaN", "0").replace("Infinity", "1"))


@given(with_a_wrong_value({"dream": {"prompts": "a tree", "seeds": "0-3"}, "language": {"prompts": ["x"]}}))
def test_a_seed_grids_groups(groups: Any) -> None:
    value_or_sentence(lambda: with_prompts(groups))


# As A1111 reads the last line.
_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


@given(
    texts.filter(lambda text: "\n" not in text),
    texts.filter(lambda text: "\n" not in text),
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), min_size=1),
        min_size=3,
        max_size=3,
    ),
)
@example("", "", ['"a"', "x", "y"])
def test_infotext_is_read_back_as_a1111_does(prompt: str, negative: str, settings: list[str]) -> None:
    given_pairs = dict(
        zip(("Steps", "Sampler", "Model"), (text.strip() or "x" for text in settings), strict=True)
    )
    text = infotext(prompt, negative, given_pairs)
    last = text.split("\n")[-1]
    assert {key: unquoted(value) for key, value in _PAIR.findall(last)} == given_pairs
    assert settings_of(text) == given_pairs


@given(texts, st.lists(texts, max_size=4))
@example("a", ['1, b: "', '"\\u12', '"\\ud800"'])
def test_settings_of_any_text_are_texts(name: str, given_texts: list[str]) -> None:
    found = settings_of(", ".join(f"{name}: {each}" for each in given_texts))
    assert all(isinstance(each, str) for pair in found.items() for each in pair)


def unquoted(value: str) -> Any:
    """A value as A1111 takes it: what is no JSON stays as it is."""
    try:
        return json.loads(value) if value[:1] == '"' == value[-1:] else value
    except ValueError:
        return value


rows = st.fixed_dictionaries(
    {"prompt": texts, "seed": st.integers(0, MAX_SEED), "file": texts, "drift": st.floats()}
)


@given(st.lists(rows, max_size=4))
def test_the_index_of_a_sweep_is_one_row_per_cell(folder: Path, cells: list[dict[str, Any]]) -> None:
    path = folder / "index.csv"
    Index(cells, []).save(path)
    with open(path, encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["seed"] for row in read] == [str(cell["seed"]) for cell in cells]
    assert not any(
        row["prompt"][:1] in ("=", "+", "@", "\t", "\r") for row in read
    )  # a spreadsheet's formulas
