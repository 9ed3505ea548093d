"""Messages are one line that a terminal shows and does not obey."""

import pytest

from lightning_drift.common.errors import UserError, notice

HOSTILE = [
    ("a\nerror: all is well", "a\\nerror: all is well"),
    ("a\rb\tc", "a\\rb\\tc"),
    ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
    ("\u202egpj.exe", "\\u202egpj.exe"),
    ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
    ("\u2028\u0085", "\\u2028\\x85"),
    ("\udce9", "\\udce9"),
    ("café 月 \U0001f375", "café 月 \U0001f375"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_control_characters_are_written_out(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = UserError(f"cannot read {text}", "data.photos")
    assert str(error) == f"data.photos: cannot read {shown}"
    assert str(UserError(str(error))) == str(error)
    notice(text)
    assert capsys.readouterr().err == f"lightning-drift: {shown}\n"


def test_details_stand_on_lines_of_their_own() -> None:
    error = UserError("2 photos cannot be used:", details=["a\n  b.jpg is fine", "c.jpg is empty"])
    assert str(error).splitlines() == [
        "2 photos cannot be used:",
        "  a\\n  b.jpg is fine",
        "  c.jpg is empty",
    ]
    assert str(error.of("data")).splitlines()[2] == "  c.jpg is empty"
