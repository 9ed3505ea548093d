"""Strategies for what no one meant to write: texts, plain values and changed bytes."""

import json
from typing import Any

from hypothesis import strategies as st

NUMBERS = [0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**70), 10**300, 0.5, -0.0, 1e308, 1e-320]
NUMBERS += [float("nan"), float("inf"), float("-inf"), True, False]

texts = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(codec=None, exclude_categories=()), max_size=20),  # lone surrogates included
    st.sampled_from(
        [
            "",
            " ",
            "\x00",
            "\r\n",
            "~",
            "null",
            "..",
            "../x",
            "</script>",
            "<!--<script>",
            "\u202eabc",
            "{",
            "}",
            "a" * 300,
            "\ufeffa",
            "=1+1",
            "#x",
            "- a",
            "a: b",
            "\x1b[31m",
            "٣",
            "²",
            "1e999",
            "nan",
        ]
    ),
)
numbers = st.one_of(st.sampled_from(NUMBERS), st.integers(), st.floats())
scalars = st.one_of(st.none(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4), st.tuples(inner, inner)
    ),
    max_leaves=8,
)


def json_text(value: Any) -> str:
    """As JSON, with Python's NaN and infinities, which JSON readers take."""
    return json.dumps(value)


@st.composite
def changed(draw: st.DrawFn, original: bytes, most: int = 8) -> bytes:
    """Bytes with a few of them overwritten, cut out, doubled or cut off, so that much is reached."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, most))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        how = draw(st.sampled_from(["byte", "byte", "bit", "number", "cut", "double", "end"]))
        length = draw(st.integers(1, 16))
        if how == "byte":
            data[at] = draw(st.integers(0, 255))
        elif how == "bit":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "number":
            high = draw(st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\1\0\0"]))
            data[at : at + 4] = high
        elif how == "cut":
            del data[at : at + length]
        elif how == "double":
            data[at:at] = data[at : at + length]
        else:
            del data[at:]
    return bytes(data)


@st.composite
def with_a_wrong_value(draw: st.DrawFn, original: Any) -> Any:
    """A nested structure in which one value, at any depth, is another or is gone."""
    if isinstance(original, dict) and original and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(original)))
        if not draw(st.integers(0, 5)):
            return {name: value for name, value in original.items() if name != key}
        return {**original, key: draw(with_a_wrong_value(original[key]))}
    if isinstance(original, list) and original and draw(st.integers(0, 4)):
        index = draw(st.integers(0, len(original) - 1))
        return [*original[:index], draw(with_a_wrong_value(original[index])), *original[index + 1 :]]
    return draw(values)
