"""The proof page in one's hands: two views under a slider, a magnifier, proof sheets, commands."""

import re
import shlex

import numpy as np
import pytest
from helpers.browser import browser, overflow
from helpers.browser_session import BrowserSession
from helpers.proofs import cell, data_of, lanczos, levels_of
from helpers.supir.running import photo
from PIL import Image

from lightning_drift import UpscaleImages

LEFT = "document.querySelector('#left-name').textContent"
RIGHT = "document.querySelector('#right-name').textContent"
CLIP = "parseFloat(document.querySelector('#over').style.clipPath.split('- ')[1])"
AT = "Number(document.querySelector('#divider').getAttribute('aria-valuenow'))"
LOADED = (
    "document.querySelector('#list button') && "
    "[...document.querySelectorAll('.layer img')].every((each) => each.complete && each.naturalWidth)"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two prints, the second with a proof sheet of three cells."""
    folder = tmp_path_factory.mktemp("page")
    photo(folder / "photos" / "a.png", size=(40, 30))
    photo(folder / "photos" / "b.png", size=(30, 40), seed=1)
    (request,) = UpscaleImages(str(folder / "photos" / "b.png")).requests
    request.look()
    (folder / "prints" / "proofs").mkdir(parents=True)
    for control, scale in ((0.6, 1.5), (0.6, 3), (0.9, 3)):
        cell(folder / "prints" / "proofs", "b", request, control, scale)
    lanczos(str(folder / "photos"), folder / "prints")
    return folder / "prints" / "proof.html"


def box(session, query):
    return session.run(
        f"(({{x, y, width, height}}) => [x, y, width, height])"
        f"(document.querySelector({query!r}).getBoundingClientRect())"
    )


def mouse(session, kind, x, y):
    buttons = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
    session.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **buttons)


@browser
def test_the_slider_the_views_and_the_magnifier(page, tmp_path):
    with BrowserSession(tmp_path / "profile") as session:
        session.open(page.as_uri())
        session.wait(LOADED)
        assert session.run(f"[{LEFT}, {RIGHT}, {AT}].join()") == "Bicubic,Print,50"
        x, y, wide, high = box(session, "#sheet")
        assert wide / high == pytest.approx(4 / 3, rel=0.01)
        assert wide % 120 == 0  # whole pixels where they are seen
        assert session.run(CLIP) == pytest.approx(wide / 2, abs=1)
        mouse(session, "mousePressed", x + wide / 2, y + high / 2)
        mouse(session, "mouseMoved", x + wide / 4, y + high / 2)
        mouse(session, "mouseReleased", x + wide / 4, y + high / 2)
        assert session.run(AT) == 25
        assert session.run(CLIP) == pytest.approx(wide / 4, abs=1)
        session.press("ArrowRight")  # the line has the focus
        assert session.run(AT) == 27
        session.press("End")
        assert session.run(AT) == 100
        touch = [{"x": x + wide * 0.6, "y": y + 9}]
        session.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=touch)
        session.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        assert session.run(AT) == 60
        # The other side takes what this one had.
        session.run("document.querySelectorAll('#left input')[2].click()")
        assert session.run(f"[{LEFT}, {RIGHT}].join()") == "Print,Bicubic"
        session.run("document.querySelectorAll('#right input')[0].click()")
        session.wait(LOADED)
        assert session.run("document.querySelector('#under img').classList.contains('px')")

        session.press("m")
        assert session.run("document.querySelector('#loupe').hidden")  # until one points
        mouse(session, "mouseMoved", x + wide * 0.3, y + high * 0.3)
        shown = "[...document.querySelectorAll('#loupe figcaption')].map((each) => each.textContent).join()"
        assert session.wait("!document.querySelector('#loupe').hidden")
        assert session.run(shown) == "Print,Source"
        session.run("document.querySelector('#view').focus()")
        place = "document.querySelector('#loupe').style.left"
        before = session.run(place)
        session.press("ArrowRight")
        assert session.run(place) != before
        assert session.run(AT) == 60
        session.press("m")
        assert session.run("document.querySelector('#loupe').hidden")
        session.press("f")
        assert box(session, "#sheet")[2:] == [120, 90]
        assert not session.errors


@browser
def test_the_magnifier_shows_the_same_place_of_both(page, tmp_path):
    """Its middles are the pixels of source and print at the pointer; read from what is seen."""
    found = data_of(page)
    source, _, printed = (
        levels_of(found["pictures"][view["picture"]]) for view in found["items"][0]["views"]
    )
    with BrowserSession(tmp_path / "profile") as session:
        session.open(page.as_uri())
        session.wait(LOADED)
        session.run("document.querySelectorAll('#left input')[0].click()")
        session.run("document.querySelectorAll('#glass input')[2].click()")
        session.wait(LOADED)
        x, y, wide, high = box(session, "#sheet")
        mouse(session, "mouseMoved", x + wide * 0.255, y + high * 0.255)
        session.wait("!document.querySelector('#loupe').hidden")
        session.screenshot(tmp_path / "seen.png")
        boxes = session.run(
            "[...document.querySelectorAll('#loupe canvas')].map((each) => each.getBoundingClientRect())"
            ".map(({x, y, width, height}) => [x + width / 2, y + height / 2])"
        )
    seen = np.asarray(Image.open(tmp_path / "seen.png").convert("RGB"), int)
    for (middle_x, middle_y), levels in zip(boxes, (source, printed), strict=True):
        rows, columns = levels.shape[:2]
        wanted = levels[int(rows * 0.255), int(columns * 0.255)]
        assert np.abs(seen[int(middle_y), int(middle_x)] - wanted).max() <= 16  # the screen's profile


@browser
def test_a_cell_is_picked_compared_and_its_command_copied(page, tmp_path):
    with BrowserSession(tmp_path / "profile") as session:
        session.open(page.as_uri())
        session.wait(LOADED)
        assert session.run("document.querySelector('#proofs').hidden")
        session.press("n")
        session.wait(LOADED)
        assert session.run("document.querySelector('#name').textContent") == "b"
        assert session.run("document.querySelectorAll('#proofs td button').length") == 3
        assert session.run("document.querySelector('#proofs .command').hidden")
        session.run("document.querySelectorAll('#proofs td button')[2].click()")
        session.run("document.querySelectorAll('#proofs td button')[1].click()")
        session.wait(LOADED)
        assert session.run(f"[{LEFT}, {RIGHT}].join(' | ')") == (
            "control_scale 0.9, s_cfg 3 | control_scale 0.6, s_cfg 3"
        )
        assert session.run("document.querySelector('#left').hidden")
        command = session.run("document.querySelector('#cell-command').textContent")
        session.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
        session.run("document.querySelector('#proofs .command button').click()")
        assert session.wait("window.copied") == command
        words = shlex.split(command)
        assert words[:4] == ["lightning-drift", "predict", "-c", "configs/supir.yaml"]
        assert words[-4:] == ["--model.control_scale", "0.6", "--model.s_cfg", "3"]
        session.run("document.querySelector('#back').click()")
        assert session.run(f"[{LEFT}, {RIGHT}].join()") == "Bicubic,Print"
        assert not session.errors


@browser
def test_nothing_is_wider_than_a_narrow_screen(page, tmp_path):
    assert overflow(page, tmp_path, 375) <= 375


def test_text_of_a_page_needs_no_other_place(page):
    text = page.read_text()
    assert "default-src 'none'; img-src data:;" in text
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|import\(", text)
