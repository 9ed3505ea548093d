"""The index: what spreadsheets would run is quoted, and what was written comes back."""

import csv
from pathlib import Path

import pytest

from lightning_drift.common.errors import UserError
from lightning_drift.sweep.cells import Cell
from lightning_drift.sweep.index import Index
from lightning_drift.sweep.templates import Prompt

TEXTS = (
    *("=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "''=1", "'tis", "'"),
    *("a, b", 'a "b"', "a\rb", "a\nb", "a\0b", "", " ", "čaj \U0001f375", "a\u202eb"),
)


def test_texts_come_back_and_none_is_a_formula(tmp_path: Path) -> None:
    cells = [
        Cell("-x", Prompt(text, text, ((text or "slot", text),)), 0, 3.0, 2, text, 1.0) for text in TEXTS
    ]
    index = Index.of(cells, TEXTS, TEXTS, [{"tilt": -0.5}] * len(TEXTS))
    index.save(tmp_path / "index.csv")
    with open(tmp_path / "index.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file, strict=True))
    columns = {name: place for place, name in enumerate(lines[0])}
    for line in lines:
        assert [text for place, text in enumerate(line) if text[:1] in "=+-@\t\r\n" and text] == (
            [] if line is lines[0] else ["-0.5"]
        )
    assert columns["tilt"]
    again = Index.load(tmp_path / "index.csv")
    for row, text in zip(again.rows, TEXTS, strict=True):
        assert [row[name] for name in ("product", "group", "prompt", "checkpoint", "file")] == [
            "-x",
            *[text] * 4,
        ]
        assert row[text or "slot"] == text
        assert row["tilt"] == "-0.5"
    assert again.slots == index.slots


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", 'file,prompt\n"a', "file,prompt\n1,2,3\n", "file,prompt\n1\n", "\xff", "\0"]
)
def test_what_is_no_index_is_a_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"index\.csv"):
        Index.load(tmp_path / "index.csv")
