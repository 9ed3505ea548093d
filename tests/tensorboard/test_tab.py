"""The tab in a browser, inside a real TensorBoard."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import browser
from helpers.browser_session import BrowserSession
from helpers.corridor_runs import write_run
from helpers.sweeps import write_sweep
from helpers.tensorboards import Process
from torch.utils.tensorboard import SummaryWriter

from lightning_drift.common.lock import FolderLock

DREAM = ("dreaming", None, 41.0)
STEPS = (200, 400, 800, 1200)

pytestmark = browser


class Tab:
    """The tab, asked inside its frame.

    Args:
        session: The browser.
        process: TensorBoard.
    """

    def __init__(self, session: BrowserSession, process: Process) -> None:
        self.session = session
        session.open(f"{process.address}/#corridor")

    def run(self, script: str) -> Any:
        return self.session.run(f"(({{ document, window }}) => {script})({self._frame()})")

    def wait(self, condition: str) -> Any:
        return self.session.wait(f"(({{ document, window }}) => {condition})({self._frame()})", 60)

    @staticmethod
    def _frame() -> str:
        frame = "document.querySelector('iframe')"
        return f"({{ document: {frame}.contentDocument, window: {frame}.contentWindow }})"


@pytest.fixture
def logdir(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    for rate in (1e-6, 2e-6):
        write_run(folder / "coffee" / f"lr{rate:g}", rate, STEPS, {200: DREAM, 400: DREAM}, side=32)
    return folder


@pytest.fixture
def tab(tmp_path: Path, logdir: Path) -> Iterator[Tab]:
    with Process(logdir, tmp_path / "scratch") as process, BrowserSession(tmp_path / "profile") as session:
        yield Tab(session, process)
        assert session.errors == []
    assert "Traceback" not in process.log
    assert "warning" not in process.log.lower()


def _tile(run: int, step: int) -> str:
    return f'document.querySelector(\'table.map button[data-run="{run}"][data-step="{step}"]\')'


def test_a_corridor_that_grows_is_shown_and_the_reader_stays_where_he_is(tab: Tab, logdir: Path) -> None:
    tab.wait("document.querySelector('#pictures img')?.naturalWidth === 32")
    assert tab.run("document.querySelector('h1').textContent") == "coffee"
    tab.run(f"{_tile(1, 2)}.click()")
    tab.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    marked = "#stage img, #curves-title, #photos-title"
    tab.run(f"document.querySelectorAll('{marked}').forEach((each) => {{ each.mine = 1; }})")
    tab.run(f"{_tile(1, 2)}.focus({{ preventScroll: true }})")
    tab.run("window.scrollTo(0, 200)")
    before = tab.run("document.querySelector('#verdict').textContent")
    with SummaryWriter(str(logdir / "coffee" / "lr2e-06")) as writer:
        writer.add_scalar("drift/zone", 3, 800)
        writer.add_scalar("drift/position", 88.0, 800)
    tab.wait(f"{_tile(1, 3)}.textContent.includes('cooked')")
    assert tab.run("document.querySelector('#verdict').textContent") == before
    assert tab.run("window.scrollY") == 200
    assert tab.run("[...document.querySelectorAll('#stage img')].every((each) => each.mine)") is True
    assert tab.run("document.querySelector('#photos-title').mine") == 1  # nothing has changed there
    assert tab.run("document.querySelector('#curves-title').mine ?? 0") == 0
    assert tab.run("document.querySelectorAll('details:not([open])').length") == 0
    assert (
        tab.run("document.activeElement.closest('table.map button')?.getAttribute('aria-pressed')") == "true"
    )


def test_fits_that_run_show_how_far_they_are(tab: Tab, logdir: Path) -> None:
    run = write_run(logdir / "coffee" / "lr4e-06", 4e-6, STEPS)
    shutil.rmtree(run / "grids")
    for event_file in run.glob("events*"):
        event_file.unlink()
    lock = FolderLock(run, "run")
    now = time.time()
    with SummaryWriter(str(run)) as writer:
        for step in range(50, 501, 50):
            writer.add_scalar("train/loss", 0.2, step, walltime=now - 1000 + 2 * step)
    tab.wait("document.querySelector('#progress').textContent.includes('4e-6')")
    said = tab.run("document.querySelector('#progress').innerText.replace(/\\s+/g, ' ')")
    assert said == "lr 4e-6 500 of 1200, 23 min left 2 fits done"
    lock.release()
    tab.wait("document.querySelector('#progress').textContent.includes('stopped at 500 of 1200')")


def test_groups_are_chosen_by_name(tab: Tab, logdir: Path) -> None:
    tab.wait("document.querySelector('#pictures img')")
    assert tab.run("document.querySelector('#groups').offsetParent") is None  # one group needs no choice
    write_run(
        logdir / "</script><b>" / "run", 1e-6, (8,), {8: DREAM}, prompts=("a tree",), subject="<b>tree</b>"
    )
    tab.wait(
        "document.querySelector('#groups').length === 2 && document.querySelector('#groups').offsetParent"
    )
    tab.run(
        "{ const select = document.querySelector('#groups');"
        "select.value = [...select.options].find((each) => each.text.includes('<b>')).value;"
        "select.dispatchEvent(new Event('change')); }"
    )
    tab.wait("document.querySelector('h1').textContent === '<b>tree</b>'")
    tab.wait("document.querySelector('#stage h3').textContent === 'a tree'")
    assert tab.run("document.querySelectorAll('table.map tbody tr').length") == 1


def test_the_look_is_tensorboards(tab: Tab) -> None:
    tab.wait("document.querySelector('#pictures img')")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.run(ground)
    tab.session.run("document.body.classList.toggle('dark-mode')")
    tab.wait(f"{ground} !== '{light}'")
    tab.session.run("document.body.classList.toggle('dark-mode')")
    tab.wait(f"{ground} === '{light}'")


def test_a_folder_without_corridors_says_how_to_make_one(tab: Tab, logdir: Path) -> None:
    tab.wait("document.querySelector('#pictures img')")
    config = logdir / "coffee" / "lr1e-06" / "config.yaml"
    for run in ("lr1e-06", "lr2e-06"):
        (logdir / "coffee" / run / "config.yaml").write_text("seed_grid: 3\n")
    tab.wait(f"document.querySelector('#head').textContent.includes('{config} is not a run')")
    tab.session.press("ArrowRight")  # there is no page that it could mean
    shutil.rmtree(logdir / "coffee")
    tab.wait("document.querySelector('#nothing').offsetParent")
    assert "lightning-drift corridor" in tab.run("document.querySelector('#nothing pre').textContent")
    write_run(logdir / "cup" / "run", 1e-6, (8,), {8: DREAM}, subject="cup")
    tab.wait("document.querySelector('h1')?.textContent === 'cup' && document.querySelector('#pictures img')")
    assert tab.run("document.querySelector('#nothing').offsetParent") is None
    assert all(
        "404 (NOT FOUND)" in error for error in tab.session.errors
    )  # the group went between two questions
    tab.session.errors.clear()


HOSTILE = "</script><script>document.title = 'bad'</script>"


def _opened(tab: Tab, link: int) -> str:
    """The address that a link to a sweep opens beside TensorBoard."""
    before = {each["targetId"] for each in tab.session.call("Target.getTargets")["targetInfos"]}
    tab.run(f"document.querySelectorAll('#sweeps a')[{link}].click()")
    for _ in range(100):
        targets = tab.session.call("Target.getTargets")["targetInfos"]
        for each in targets:
            if each["targetId"] not in before and "/sweep?" in each["url"]:
                return str(each["url"])
        time.sleep(0.1)
    raise AssertionError(f"no page was opened: {targets}")


def test_a_sweep_is_opened_beside_the_tab_and_ranked(tab: Tab, logdir: Path) -> None:
    tab.wait("document.querySelector('#pictures img')")
    assert tab.run("document.querySelector('#sweeps').offsetParent") is None
    for place in range(6):
        write_sweep(logdir / "sweeps" / f"{place}<b>", (HOSTILE, "a lake"))
    tab.wait("document.querySelectorAll('#sweeps a').length === 6")
    assert tab.run("document.querySelector('#sweeps summary').textContent") == "2 more"
    assert tab.run("document.querySelector('#sweeps a').textContent") == "sweeps / 5<b>"
    address = _opened(tab, 0)
    session = tab.session
    session.call("Page.bringToFront")  # pictures load where they can be seen
    session.open(address)
    session.wait("document.querySelectorAll('.card img').length === 4")
    assert session.run("document.title") == "sweeps / 5<b>: the sweep"
    session.wait("[...document.querySelectorAll('.card img')].every((each) => each.naturalWidth === 64)")
    session.run("document.querySelector('#map').click()")
    session.wait("document.querySelector('.card .map').naturalWidth === 64")
    session.run("document.querySelector('.pin').click()")
    assert session.run("document.querySelector('#pinned').textContent") == "Pinned 1"
    session.run("document.querySelectorAll('.open')[3].click()")
    session.wait("document.querySelector('#loupe-now').naturalWidth === 64")
    assert session.run("document.querySelector('#loupe-title').textContent") == HOSTILE
    command = session.run("document.querySelector('#make').textContent")
    assert command.startswith("lightning-drift predict --model.pipeline a.ckpt ")
    assert "--model.negative_prompt 'a blur'" in command
    session.run(
        "{ const one = document.createElement('script'); one.textContent = 'window.ran = 1';"
        "document.body.append(one); }"
    )
    assert session.run("window.ran ?? 0") == 0
    (error,) = (each for each in session.errors if "favicon.ico" not in each)
    assert "Content Security Policy" in error
    session.errors.clear()
    session.open(address.replace("5%3Cb%3E", "4%3Cb%3E"))
    session.wait("document.title.includes('4<b>')")
    assert (
        session.run("document.querySelector('#pinned').textContent") == "Pinned 0"
    )  # pins are a sweep's own


def test_a_log_folder_of_sweeps_alone_shows_their_links(tab: Tab, logdir: Path) -> None:
    tab.wait("document.querySelector('#pictures img')")
    write_sweep(logdir / "sweep")
    shutil.rmtree(logdir / "coffee")
    tab.wait(
        "document.querySelector('#nothing').offsetParent && document.querySelector('#sweeps a').offsetParent"
    )
    assert tab.run("document.querySelector('#sweeps').innerText.replace(/\\s+/g, ' ')") == "Sweeps sweep"
    tab.session.errors.clear()  # the group went between two questions
