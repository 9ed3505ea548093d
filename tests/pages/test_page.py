"""Templates filled: text is escaped, data can be read back, what is missing is not passed over."""

import json
from pathlib import Path

import pytest
from helpers.odd_texts import ODD_TEXTS
from jinja2 import UndefinedError

import lightning_drift
from lightning_drift.pages.page import embed, render

PACKAGE = Path(lightning_drift.__file__).parent


def test_embedded_data_is_intact_and_ends_no_element() -> None:
    data = {text: [text, 1.5, None, True] for text in ODD_TEXTS}
    text = embed(data)
    assert "<" not in text
    assert json.loads(text) == data
    with pytest.raises(ValueError, match="not JSON compliant"):
        embed([float("nan")])


def test_a_page_lacks_nothing_that_its_template_names() -> None:
    with pytest.raises(UndefinedError, match="title"):
        render("sweep/page.html", eyebrow="", lead="", small_pictures=False, tables=[], data={})


def test_every_page_leaves_its_theme_to_one_property() -> None:
    """A style that asks for the reader's preference itself would not follow a host's ``colorScheme``."""
    styles = sorted(PACKAGE.rglob("*.css"))
    assert len(styles) >= 4
    assert [style.name for style in styles if "prefers-color-scheme" in style.read_text()] == []
