"""A file of thresholds goes into the option, changes verdicts, and says where it comes from."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_drift.cli import main
from lightning_drift.common.errors import UserError
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.threshold_file import read_thresholds, write_thresholds
from lightning_drift.drift.verdict import PROVENANCE, Thresholds, judge, provenance

OWN = Thresholds(language_keep=0.6, spread=0.5, source="7 labels of 'a\x1b[2J: b', given blind")
DREAM = {"language": 0.7, "drift_prompt": 0.2, "tilt": 0.6, "spread": 1.0}
DREAM |= {"copy": 0.0, "pull": 0.2, "aim": 0.7, "likeness": 0.3}


def test_what_is_written_is_read_and_changes_a_verdict(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    write_thresholds(path, OWN, ["a remark\nof two lines: 3"])
    read = Thresholds(**read_thresholds(path))
    assert read == OWN
    measures = {name: Interval(value, value, value) for name, value in DREAM.items()}
    assert judge(measures).zone == "forgetting"
    assert judge(measures, read).zone == "dreaming"
    write_thresholds(path, Thresholds(), [])  # its own
    assert Thresholds(**read_thresholds(path)) == Thresholds()


def test_nothing_of_others_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("language_keep: 0.7\n")
    with pytest.raises(UserError, match="was not written by corridor label"):
        write_thresholds(path, OWN, [])
    assert path.read_text() == "language_keep: 0.7\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("language_kep: 0.7", "'language_kep' in .* is no threshold; there are drift_prompt"),
        ("language_keep: high", r"thresholds\.language_keep: 'high' in .* is no number"),
        ("language_keep: true", "is no number"),
        ("language_keep: 2", r"2 is not between 0 and 1 \(.*mine.yaml\)"),
        ("source: [a]", "is no text"),
        ("- 1", "does not hold options by name"),
        ("a: [b", "is not YAML"),
    ],
)
def test_what_is_no_file_of_thresholds_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_thresholds(path)


def test_the_option_takes_the_file_in_a_configuration_and_on_the_command_line(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-drift"])
    write_thresholds(tmp_path / "mine.yaml", OWN, [])
    Path("some.yaml").write_text("language_lost: 0.1\n")
    Path("config.yaml").write_text("clip_drift: {thresholds: mine.yaml}\n")

    def printed(*words: str) -> Thresholds:
        with pytest.raises(SystemExit):
            main(["fit", *words, "--print_config"])
        return Thresholds(**yaml.safe_load(capsys.readouterr().out)["clip_drift"]["thresholds"])

    assert printed("-c", "config.yaml") == OWN
    changed = printed(
        "-c", "config.yaml", "--clip_drift.thresholds=some.yaml", "--clip_drift.thresholds.tilt=0.3"
    )
    assert changed == replace(OWN, language_lost=0.1, tilt=0.3)
    assert main(["fit", "--clip_drift.thresholds", "none.yaml"]) == 2
    assert "cannot read the thresholds file none.yaml" in capsys.readouterr().err


def test_pages_and_records_say_where_thresholds_come_from() -> None:
    assert provenance(Thresholds()) == PROVENANCE
    assert provenance(OWN) == f"calibrated on {OWN.source}"
    assert provenance(Thresholds(tilt=0.4)) == "tilt 0.4 set by hand; the others " + PROVENANCE
    assert set(asdict(OWN)) - set(OWN.numbers()) == {"source"}
    with pytest.raises(UserError, match="no text of at most"):
        Thresholds(source="a" * 1001)
