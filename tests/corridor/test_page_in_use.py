"""The page in one's hands: the slider, two runs side by side, and new data while it is open."""

import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.browser import browser
from helpers.browser_session import BrowserSession
from helpers.corridor_runs import PROMPTS, write_run
from PIL import Image

from lightning_drift.common.prompt_lists import slug
from lightning_drift.corridor.report import write_report
from lightning_drift.images.overlay import overlay

CALL = 'corridorPage(JSON.parse(byId("corridor").textContent));'
WHERE = "document.querySelector('.where').textContent"
SLIDER = "[byId('step').value, byId('step').max, document.querySelector('.steps output').textContent].join()"
NOW = "[...document.querySelectorAll('.now button')].map((e) => e.querySelector('img')?.alt ?? 'gap')"
BESIDE = NOW.replace(".now", ".strips .beside")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two rates and two steps; the second lacks a picture, the first has a map."""
    folder = tmp_path_factory.mktemp("runs")
    first = write_run(folder / "lr2e-6", 2e-6, (8, 16), {16: ("dreaming", None, 41.0)})
    second = write_run(folder / "lr4e-6", 4e-6, (8, 16), {8: ("forgetting", None, 55.0)})
    picture = f"{slug(PROMPTS[0])}_seed0003"
    (second / "grids" / "step=00008" / f"{picture}.png").unlink()
    overlay(Image.linear_gradient("L").resize((16, 16))).save(
        first / "grids" / "step=00016" / f"{picture}_map.png"
    )
    return folder


def written(folder: Path, page: Path) -> Path:
    """The page about a folder's runs, with what ``corridorPage`` returns as ``live``."""
    write_report(folder, page)
    text = page.read_text()
    assert text.count(CALL) == 1
    page.write_text(text.replace(CALL, f"window.live = {CALL}"))
    return page


@pytest.fixture(scope="module")
def page(runs: Path) -> Path:
    return written(runs, runs / "corridor.html")


@contextmanager
def opened(page: Path, tmp_path: Path, width: int = 1400, fragment: str = "") -> Iterator[BrowserSession]:
    """The page in a browser; what its scripts complain about fails the test."""
    with BrowserSession(tmp_path / "profile", width) as session:
        session.open(f"{page.as_uri()}{fragment}")
        session.wait("document.querySelector('.where')")
        yield session
        assert not session.errors


def click(session: BrowserSession, element: str, across: float = 0.5) -> None:
    """A finger on an element, at a part of its width."""
    session.run(
        f"document.querySelector({element!r}).scrollIntoView({{block: 'center', behavior: 'instant'}})"
    )
    x, y, width, height = session.run(
        f"(({{x, y, width, height}}) => [x, y, width, height])"
        f"(document.querySelector({element!r}).getBoundingClientRect())"
    )
    point = {"x": x + width * across, "y": y + height / 2}
    session.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[point])
    session.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])


def choose(session: BrowserSession, run: str) -> None:
    session.run(
        "(() => { const select = byId('compared'); select.focus();"
        f"select.value = {run!r}; select.dispatchEvent(new Event('change', {{bubbles: true}})); }})()"
    )


@browser
def test_the_slider_goes_with_keys_map_and_address(page: Path, tmp_path: Path) -> None:
    with opened(page, tmp_path, fragment="#lr4e-6/8") as session:
        assert session.run(SLIDER) == "1,2,8"
        session.press("ArrowRight")
        assert session.run(SLIDER) == "2,2,16"
        session.run('document.querySelector(\'table.map button[data-run="0"][data-step="1"]\').click()')
        assert (session.run(SLIDER), session.run(WHERE)) == ("1,2,8", "lr 2e-6 × 8")
        session.run("location.hash = '#lr4e-6/16'")
        session.wait("document.querySelector('.where').textContent === 'lr 4e-6 × 16'")
        assert session.run(SLIDER) == "2,2,16"
        # On the slider left and right are single steps too, and up and down its own, not another rate.
        session.run("byId('step').focus()")
        session.press("ArrowLeft")
        assert (session.run(SLIDER), session.run(WHERE)) == ("1,2,8", "lr 4e-6 × 8")
        session.press("ArrowDown")
        assert (session.run(SLIDER), session.run(WHERE)) == ("0,2,0", "base model")
        session.press("ArrowUp")
        assert session.run("location.hash") == "#lr4e-6/8"
        assert session.run("byId('step').getAttribute('aria-valuetext')") == "lr 4e-6 × 8"
        zones = "[...document.querySelectorAll('.ticks i')].map((each) => each.className).join()"
        assert session.run(zones) == "no-zone,forgetting,no-zone"


@browser
def test_a_finger_moves_the_slider_of_a_narrow_page(page: Path, tmp_path: Path) -> None:
    with opened(page, tmp_path, 500) as session:
        assert session.run("byId('step').getBoundingClientRect().height") >= 44
        for part, step, where in (
            (0.1, "0", "base model"),
            (0.5, "8", "lr 2e-6 × 8"),
            (0.9, "16", "lr 2e-6 × 16"),
        ):
            click(session, "#step", part)
            session.wait(f"document.querySelector('.steps output').textContent === '{step}'")
            assert session.run(WHERE) == where
            assert all(alt.endswith(where) for alt in session.run(NOW))
        assert session.run("document.documentElement.scrollWidth") <= 500


@browser
def test_two_runs_side_by_side(page: Path, tmp_path: Path) -> None:
    with opened(page, tmp_path) as session:
        assert all(alt.endswith("base model") for alt in session.run(BESIDE))
        options = "[...byId('compared').options].map((o) => [o.textContent, o.disabled])"
        assert session.run(options) == [["base model", False], ["lr 2e-6", True], ["lr 4e-6", False]]
        choose(session, "lr4e-6")
        assert all(alt.endswith("lr 4e-6 × 16") for alt in session.run(BESIDE))
        assert session.run("document.querySelector('.choose span').textContent") == "× 16"
        session.run("byId('compared').blur()")
        session.press("ArrowLeft")
        assert [alt.split(", ")[-1] for alt in session.run(BESIDE)] == [
            "lr 4e-6 × 8",
            "gap",
            *["lr 4e-6 × 8"] * 2,
        ]
        assert all(alt.endswith("lr 2e-6 × 8") for alt in session.run(NOW))
        assert session.run("document.querySelector('.strips .beside').dataset.name") == "lr 4e-6 × 8"
        # The loupe compares the same two, and the base is a key away in both; so it is where the select is.
        session.run("document.querySelectorAll('.now button')[2].click()")
        loupe = "[byId('loupe-beside'), byId('loupe-now')].map((each) => each.alt.split(', ').at(-1))"
        assert session.run(loupe) == ["lr 4e-6 × 8", "lr 2e-6 × 8"]
        # A gap stands where a picture is missing, not where one has no map.
        gaps = """[...document.querySelectorAll(".pair figure")].map(
          (each) => getComputedStyle(each, "::before").content !== "none")"""
        assert session.run(gaps) == [False, False]
        session.run("byId('loupe').close(); document.querySelectorAll('.now button')[1].click()")
        assert session.run(gaps) == [True, False]
        session.run("byId('loupe').close(); document.querySelectorAll('.now button')[2].click()")
        session.press("b", hold=True)
        assert session.run(loupe) == ["lr 4e-6 × 8", "base model"]
        session.release("b")
        session.run("byId('loupe').close()")
        session.run("byId('compared').focus()")
        session.press("b", hold=True)
        assert all(alt.endswith("base model") for alt in session.run(NOW))
        assert session.run("byId('compared').value") == "lr4e-6"
        session.release("b")
        assert all(alt.endswith("lr 2e-6 × 8") for alt in session.run(NOW))
        # A run is not compared with itself; the next one is compared with it again.
        session.run('document.querySelector(\'table.map button[data-run="1"][data-step="2"]\').click()')
        assert session.run("byId('compared').value") == ""
        assert all(alt.endswith("base model") for alt in session.run(BESIDE))
        session.run('document.querySelector(\'table.map button[data-run="0"][data-step="2"]\').click()')
        assert session.run("byId('compared').value") == "lr4e-6"


COMMANDS = """Object.fromEntries([...document.querySelectorAll('.commands code')]
  .filter((code) => code.checkVisibility())
  .map((code) => [code.id.replace('cell-', ''), code.textContent]))"""


@browser
def test_commands_follow_the_cell_and_are_copied_as_written(tmp_path: Path) -> None:
    folder = tmp_path / "my cup's <b> $(runs)"
    write_run(folder / "lr2e-6", 2e-6, (8, 16), {16: ("dreaming", None, 41.0)})
    second = write_run(folder / "lr4e-6", 4e-6, (8, 16))
    (second / "checkpoints" / "step=00016.ckpt").unlink()
    with opened(written(folder, tmp_path / "page.html"), tmp_path, fragment="#lr2e-6/16") as session:
        session.run(
            "Object.defineProperty(navigator, 'clipboard',"
            "{value: {writeText: (text) => { window.copied = text; }}}); byId('commands').open = true"
        )
        first = session.run(COMMANDS)
        assert list(first) == ["export", "dream", "print", "resume"]
        words = {name: shlex.split(command) for name, command in first.items()}
        file = f"{folder}/lr2e-6/checkpoints/step=00016.ckpt"
        title = ["--to", "exports", "--title", "coffee-lr2e-6-step00016"]
        assert words["export"] == ["lightning-drift", "export", "--ckpt_path", file, *title]
        assert words["dream"] == ["lightning-drift", "predict", "--model.pipeline", file]
        ended = ["--trainer.max_steps", "24"]
        fit = ["lightning-drift", "fit", "-c", f"{folder}/lr2e-6/config.yaml", "--ckpt_path", "last"]
        assert words["resume"] == [*fit, *ended]
        for name, command in first.items():
            session.run(f"document.querySelector('[data-copy=cell-{name}]').click()")
            assert session.run("copied") == command
        # It stays open, and the focus on its button, as one scrubs; the chosen checkpoint's do not change.
        chosen = session.run("byId('export').textContent")
        session.run("document.querySelector('[data-copy=cell-export]').focus()")
        session.press("ArrowLeft")
        assert session.run("byId('commands').open")
        assert session.run("document.activeElement.dataset.copy") == "cell-export"
        assert session.run(COMMANDS)["export"] == first["export"].replace("00016", "00008")
        assert session.run("byId('export').textContent") == chosen == first["export"]
        session.press("ArrowLeft")  # the base model
        assert session.run("byId('commands').hidden")
        # Without the checkpoint's file its run can still go on, from an earlier one.
        session.run('document.querySelector(\'table.map button[data-run="1"][data-step="2"]\').click()')
        here = session.run(COMMANDS)
        assert {name: shlex.split(command) for name, command in here.items()} == {
            "resume": ["lightning-drift", "fit", "-c", f"{folder}/lr4e-6/config.yaml", "--ckpt_path", "last"]
        }
        assert session.run("byId('commands').open && !byId('commands').hidden")


@browser
def test_one_run_has_none_to_be_compared_with(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "lr2e-6", 2e-6, (8,))
    with opened(written(tmp_path / "runs", tmp_path / "page.html"), tmp_path) as session:
        shown = "[...document.querySelectorAll('.heads > p')].map((each) => each.checkVisibility())"
        assert session.run(shown) == [True, False, True]


@pytest.fixture(scope="module")
def longer(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page after a run of a lower rate came, above the others, and a step between and a step after."""
    folder = tmp_path_factory.mktemp("longer") / "runs"
    shutil.copytree(runs, folder)
    write_run(folder / "lr1e-6", 1e-6, (8, 12, 16, 24), {24: ("dreaming", None, 38.0)})
    return written(folder, folder / "corridor.html")


REPLACE = """((page, data) => {
  const come = new DOMParser().parseFromString(page, "text/html");
  for (const part of ["main", "footer", "nav", "dialog"])
    document.querySelector(part).replaceWith(document.adoptNode(come.querySelector(part)));
  live.update(data ?? JSON.parse(come.getElementById("corridor").textContent));
})"""


@browser
def test_new_cells_leave_the_page_where_it_was(page: Path, longer: Path, tmp_path: Path) -> None:
    come = json.dumps(longer.read_text())
    with opened(page, tmp_path, fragment="#lr2e-6/16") as session:
        choose(session, "lr4e-6")
        session.press("m")
        session.run("document.querySelectorAll('.now button')[1].click()")
        session.run("window.kept = [...document.querySelectorAll('#pictures button')]")
        for _ in range(2):  # and again, with nothing new
            session.run(f"{REPLACE}({come})")
            assert (session.run(WHERE), session.run("location.hash")) == ("lr 2e-6 × 16", "#lr2e-6/16")
            assert session.run(SLIDER) == "3,4,16"
            assert session.run("byId('loupe').open")
            assert session.run("byId('loupe-now').alt").endswith("seed 3, lr 2e-6 × 16")
            assert session.run("[byId('loupe-now-map').hidden, byId('maps').ariaPressed]") == [False, "true"]
            assert session.run("byId('compared').value") == "lr4e-6"
            assert session.run("byId('compared').options.length") == 4
            assert all(alt.endswith("lr 4e-6 × 16") for alt in session.run(BESIDE))
            # The same pictures on the same buttons: nothing flickers.
            assert session.run("kept.every((each) => each.isConnected)")
            assert session.run("document.querySelectorAll('#pictures button').length") == len(PROMPTS) * 4
        # What was replaced is clicked as before.
        session.run("document.querySelector('#loupe .close').click()")
        session.wait("!byId('loupe').open")
        session.run(f"{REPLACE}({come})")
        assert not session.run("byId('loupe').open")
        session.run('document.querySelector(\'table.map button[data-run="0"][data-step="4"]\').click()')
        assert (session.run(WHERE), session.run(SLIDER)) == ("lr 1e-6 × 24", "4,4,24")
        session.run("document.querySelector('[data-go=\"1,0\"]').click()")
        assert session.run(WHERE) == "lr 2e-6 × 24"
        assert session.run("document.querySelector('.chip').textContent") == "not run"
        session.run("byId('maps').click()")
        assert session.run("byId('maps').ariaPressed") == "false"
        session.run("document.querySelector('[data-copy=export]').click()")
        copied = "document.querySelector('[data-copy=export]').textContent === 'Copied'"
        session.wait(f"{copied} || getSelection().toString() === byId('export').textContent")


@browser
def test_the_focus_stays_on_a_map_that_is_replaced(page: Path, longer: Path, tmp_path: Path) -> None:
    come = json.dumps(longer.read_text())
    with opened(page, tmp_path, fragment="#lr2e-6/8") as session:
        session.run("document.querySelector('table.map button[aria-pressed=true]').focus()")
        session.run(f"{REPLACE}({come})")
        session.press("ArrowUp")
        assert session.run(WHERE) == "lr 1e-6 × 8"
        assert session.run("document.activeElement.dataset.run") == "0"
        session.run("document.activeElement.blur(); byId('verdict').tabIndex = 0; byId('verdict').focus()")
        session.run(f"{REPLACE}({come})")
        assert session.run("document.activeElement === document.body")


@browser
def test_other_prompts_have_other_pictures(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    write_run(folder / "lr2e-6", 2e-6, (16,), {16: ("dreaming", None, 41.0)}, prompts=(PROMPTS[1], "a tower"))
    other = written(folder, folder / "corridor.html")
    come = json.dumps(other.read_text())
    with opened(page, tmp_path, fragment="#lr4e-6/8") as session:
        choose(session, "lr2e-6")
        # The second prompt is the first one now, and stays under the loupe; the run is no longer there.
        session.run("document.querySelectorAll('.now button')[3].click()")
        session.run(f"{REPLACE}({come})")
        assert session.run(WHERE) == "lr 2e-6 × 16"
        titles = "[...document.querySelectorAll('#pictures h3')].map((each) => each.textContent)"
        assert session.run(titles) == [PROMPTS[1], "a tower"]
        assert session.run("byId('loupe').open")
        assert session.run("byId('loupe-title').textContent") == f"{PROMPTS[1]}, seed 3"
        assert session.run("document.querySelector('.choose').hidden")
        session.run(f"{REPLACE}({json.dumps(page.read_text())})")
        session.run("byId('loupe').close()")
        session.wait("document.querySelectorAll('#pictures h3')[0].textContent.startsWith('monumental')")
        session.run("document.querySelectorAll('.now button')[0].click()")
        session.run(f"{REPLACE}({come})")  # without the prompt under the loupe
        assert not session.run("byId('loupe').open")


@browser
def test_a_host_chooses_the_theme(page: Path, tmp_path: Path) -> None:
    colours = """["body", "h1", ".ticks .forgetting"].map((each) => document.querySelector(each)).map(
      (each, i) => getComputedStyle(each)[i === 1 ? "color" : "backgroundColor"]).join(" ")"""
    light = "rgb(245, 243, 239) rgb(33, 31, 28) rgb(227, 178, 92)"
    dark = "rgb(18, 17, 16) rgb(233, 229, 221) rgb(214, 165, 80)"
    with opened(page, tmp_path, fragment="#lr4e-6/8") as session:
        for scheme, seen in (("", light), ("dark", dark), ("light", light), ("dark", dark)):
            session.run(f"document.documentElement.style.colorScheme = '{scheme}'")
            assert session.run(colours) == seen
