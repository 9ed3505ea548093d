"""Blind labels: what the page is told and what not, who may ask, what is kept, and what comes of it."""

import base64
import html
import http.client
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import browser, chromium
from helpers.corridor_runs import write_reading, write_run
from helpers.odd_texts import ODD_TEXTS
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lightning_drift.cli import main
from lightning_drift.common.errors import UserError
from lightning_drift.corridor.label.command import label
from lightning_drift.corridor.label.exhibit import Exhibit
from lightning_drift.corridor.label.labels import Labels
from lightning_drift.corridor.label.outcome import find
from lightning_drift.corridor.label.server import LabelServer
from lightning_drift.corridor.read import read
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.threshold_file import read_thresholds
from lightning_drift.drift.verdict import Thresholds, judge, zone_of

DREAM = {
    "drift_prompt": 0.2,
    "tilt": 0.6,
    "spread": 1.0,
    "copy": 0.0,
    "pull": 0.2,
    "aim": 0.7,
    "likeness": 0.3,
}
LANGUAGE = {("lr2e-6", 8): 0.9, ("lr2e-6", 16): 0.7, ("lr4e-6", 8): 0.5, ("lr4e-6", 16): 0.4}
"""What the cells keep of it: by the shipped thresholds one dreams and three forget."""


def write_corridor(folder: Path, prompts: tuple[str, ...] = ("a tree, a moon", "a desert")) -> Path:
    for rate, name in ((2e-6, "lr2e-6"), (4e-6, "lr4e-6")):
        zones = dict.fromkeys((8, 16), ("forgetting", None, 60.0))
        run = write_run(folder / name, rate, (8, 16), zones, prompts=prompts)
        for step in (8, 16):
            measures = DREAM | {"language": LANGUAGE[name, step]}
            write_reading(
                run, step, {each: Interval(value, value, value) for each, value in measures.items()}
            )
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corridor(tmp_path_factory.mktemp("made") / "corridor")


@pytest.fixture
def corridor(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "corridor")
    return tmp_path / "corridor"


def opened(folder: Path, seed: int = 0) -> tuple[Exhibit, list[Labels]]:
    table = read(folder)
    return Exhibit([table], seed), [Labels(table)]


@contextmanager
def served(exhibit: Exhibit, labels: list[Labels], script: str = "") -> Iterator[LabelServer]:
    """The page while it is served, with a script that acts as a person would."""

    class Driven(LabelServer):
        def page(self) -> str:
            return super().page().replace("</body>", f"<script>{script}</script></body>")

    with Driven(exhibit, labels, lambda: find(exhibit, labels).sentences()) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(
    server: LabelServer, place: str = "", content: Any = None, token: str | None = None, **headers: str
) -> tuple[int, Any, http.client.HTTPResponse]:
    """Status, what was answered, and the answer with its headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    path = f"/{server.token if token is None else token}/{place}"
    if content is None:
        connection.request("GET", path, headers=headers)
    else:
        sent = {"Content-Type": "application/json"} | headers
        connection.request("POST", path, json.dumps(content), sent)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, json.loads(body) if body[:1] == b"{" else body.decode(), answer


# -- what the page is told ------------------------------------------------------------------------------


def test_cells_are_shuffled_by_the_seed_and_each_is_there_once(corridor: Path) -> None:
    orders = [[cell.key for cell in opened(corridor, seed)[0].cells] for seed in (0, 0, 1, 2, 3)]
    assert all(sorted(order) == sorted(LANGUAGE) for order in orders)
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) > 1


def test_nothing_that_the_page_receives_names_a_cell(corridor: Path) -> None:
    for path in corridor.glob("*/grids/*/*.png"):  # a picture's text names its model, as in any fit
        about = PngInfo()
        about.add_text("parameters", f"a desert, Model: {path.parent}")
        with Image.open(path) as image:
            image.save(path, pnginfo=about)
    exhibit, labels = opened(corridor)
    with served(exhibit, labels) as server:
        texts = []
        for place in ("", "corridor/0", *(f"cell/{index}" for index in range(4))):
            status, body, answer = ask(server, place)
            assert status == 200
            texts += [json.dumps(body), str(answer.headers)]
        status, body, _ = ask(server, "label", {"cell": 0, "zone": "cooked"})
        texts += [json.dumps(body), json.dumps(ask(server, "finish", {})[1])]
    everything = "\n".join(texts)
    pictures = re.findall(r"data:image/webp;base64,[\w+/=]+", everything)
    assert len(pictures) >= 5 * 4  # base and four cells, two prompts with two seeds
    told = re.sub(r"data:image/webp;base64,[\w+/=]+", "", everything)
    for word in ("lr", "2e-6", "4e-6", "2e-06", "step", "00008", "00016", str(corridor)):
        assert word not in told, word
    for picture in pictures:
        assert b"Model" not in base64.b64decode(picture.partition(",")[2])


def test_pictures_are_those_of_the_cell_and_a_missing_one_is_a_gap(corridor: Path) -> None:
    first = opened(corridor)[0].cells[0]
    (corridor / first.run.name / "grids" / f"step={first.step:05d}" / "a-desert_seed0003.png").write_bytes(
        b"torn"
    )
    exhibit, _ = opened(corridor)
    assert exhibit.pictures(0)[1][1] is None
    shown = [exhibit.pictures(index)[0][0] for index in range(4)]
    assert len(set(shown)) == 4
    assert exhibit.corridor(0)["base"][1][1] is not None
    assert exhibit.corridor(0)["prompts"] == ["a tree, a moon", "a desert"]


# -- who may ask ----------------------------------------------------------------------------------------


def test_only_a_page_of_this_machine_with_the_token_is_answered(corridor: Path) -> None:
    exhibit, labels = opened(corridor)
    said = {"cell": 0, "zone": "cooked"}
    with served(exhibit, labels) as server:
        assert server.server_address[0] == "127.0.0.1"
        port = server.server_port
        assert f":{port}/{server.token}/" in server.url
        assert len(server.token) >= 40
        refused = [
            ask(server, token=""),
            ask(server, token=server.token[:-1]),
            ask(server, token="%C3%A9"),
            ask(server, token="..", place="labels.json"),
            ask(server, Host="evil.example"),
            ask(server, Host=f"evil.example:{port}"),
            ask(server, Host="127.0.0.1.evil.example"),
            ask(server, Host=""),
            ask(server, "label", said, token="x"),
            ask(server, "label", said, Host="evil.example"),
            ask(server, "label", said, Origin="http://evil.example"),
            ask(server, "label", said, Origin="null"),
        ]
        assert [status for status, _, _ in refused] == [403] * len(refused)
        for place in (
            "cell/4",
            "cell/-1",
            "cell/00/..",
            "../labels.json",
            "corridor/1",
            "%2e%2e/",
            "page.html",
        ):
            assert ask(server, place)[0] == 404, place
        assert ask(server, "label", said, **{"Content-Type": "text/plain"})[0] == 415
        assert ask(server, "label", {"cell": 0, "zone": "x" * 5000})[0] == 413
        for wrong in (
            {"cell": 4, "zone": "cooked"},
            {"cell": True, "zone": "cooked"},
            {"cell": 0, "zone": []},
            {},
        ):
            assert ask(server, "label", wrong)[0] == 400
        assert ask(server, "label", [1])[0] == 400
        assert ask(server, "finish", {})[:2] == (
            409,
            {"error": "no cell is labelled yet; say the zone of one at least"},
        )
        assert not labels[0].zones
        assert not labels[0].path.exists()
        status, body, answer = ask(
            server, "label", said, Host=f"localhost:{port}", Origin=f"http://localhost:{port}"
        )
        assert (status, body["labels"][0]) == (200, "cooked")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in answer.headers
        text = ask(server)[1]
    assert "default-src 'none'" in text
    assert "connect-src 'self'" in text


# -- what is kept ---------------------------------------------------------------------------------------


def test_labels_are_kept_as_they_are_said_and_the_next_command_goes_on(corridor: Path) -> None:
    exhibit, labels = opened(corridor)
    with served(exhibit, labels) as server:
        ask(server, "label", {"cell": 2, "zone": "dreaming"})
        ask(server, "label", {"cell": 0, "zone": "cooked"})
        ask(server, "label", {"cell": 0, "zone": "forgetting"})
        ask(server, "label", {"cell": 1, "zone": "broken"})
        assert ask(server, "label", {"cell": 1, "zone": None})[1] == {
            "labels": ["forgetting", None, "dreaming", None]
        }
    again, kept = opened(corridor)
    assert kept[0].zones == {again.cells[0].key: "forgetting", again.cells[2].key: "dreaming"}
    other, kept = opened(corridor, seed=3)  # another order, the same cells
    with served(other, kept) as server:
        zones = dict(zip([cell.key for cell in other.cells], server.said, strict=True))
    assert {key: zone for key, zone in zones.items() if zone} == kept[0].zones


@pytest.mark.parametrize(
    "content",
    ["[]", '{"labels": []}', '{"made_by": "lightning-drift corridor label", "labels": [{"run": 1}]}', "{"],
)
def test_labels_that_are_damaged_or_of_others_are_named(corridor: Path, content: str) -> None:
    (corridor / "labels.json").write_text(content)
    with pytest.raises(UserError, match=r"labels\.json"):
        opened(corridor)


def test_nothing_outside_the_folder_is_read(corridor: Path, tmp_path: Path, capsys: Any) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    shutil.move(corridor / "lr2e-6" / "drift" / "step=00008.json", elsewhere)
    (corridor / "lr2e-6" / "drift" / "step=00008.json").symlink_to(elsewhere)
    exhibit, _ = opened(corridor)
    assert ("lr2e-6", 8) not in [cell.key for cell in exhibit.cells]
    assert "holds no reading of step 8; it is not shown" in capsys.readouterr().err
    (corridor / "labels.json").symlink_to(elsewhere)
    with pytest.raises(UserError, match="a link that leads out of"):
        opened(corridor)


# -- what comes of it -----------------------------------------------------------------------------------


def run(corridor: Path, said: dict[tuple[str, int], str], **options: Any) -> tuple[int, list[str]]:
    """The command, with a labeller who says this; its status and what the page said in the end."""
    told: list[str] = []
    servers: list[LabelServer] = []
    opener = LabelServer.serve_forever

    def watched(server: LabelServer, poll_interval: float) -> None:
        servers.append(server)

        def act() -> None:
            for index, cell in enumerate(server.exhibit.cells):
                ask(server, "label", {"cell": index, "zone": said[cell.key]})
            told.extend(ask(server, "finish", {})[1]["sentences"])

        thread = threading.Thread(target=act)
        thread.start()
        opener(server, 0.01)
        thread.join()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabelServer, "serve_forever", watched)
        return label([str(corridor)], browser=False, **options), told


def test_thresholds_that_agree_are_written_and_change_the_verdict(corridor: Path, capsys: Any) -> None:
    said = dict.fromkeys(LANGUAGE, "dreaming") | {("lr4e-6", 16): "forgetting"}
    status, told = run(corridor, said)
    out = capsys.readouterr().out
    assert status == 0
    assert told[0] == (
        "4 labels: 2 agree with the shipped thresholds, 4 with those found, 3 with those found without the "
        "label itself."
    )
    assert told[0] in out
    assert "Moved: language_keep from 0.75 to 0.45." in told
    assert any("4 labels are too few" in sentence for sentence in told)
    assert any("nothing was labelled under-drifted or cooked" in sentence for sentence in told)
    assert re.search(r"lr4e-6 x 8: label dreaming, verdict forgetting, now dreaming$", out, re.MULTILINE)
    file = corridor / "thresholds.yaml"
    assert f"--clip_drift.thresholds {file}" in out
    thresholds = Thresholds(**read_thresholds(file))
    assert thresholds.source == "4 labels of coffee, given blind, measured by pocket; 4 of them agree"
    measures = {name: Interval(value, value, value) for name, value in (DREAM | {"language": 0.5}).items()}
    assert (judge(measures).zone, judge(measures, thresholds).zone) == ("forgetting", "dreaming")
    assert not (corridor / ".lock").exists()
    # Once more, with the labels that are there: its own file is replaced.
    file.write_text(file.read_text().replace("0.45", "0.5"))
    run(corridor, said)
    assert Thresholds(**read_thresholds(file)) == thresholds


def test_verdicts_that_agree_move_nothing(corridor: Path, capsys: Any) -> None:
    said = {key: zone_of(DREAM | {"language": value}, Thresholds()) for key, value in LANGUAGE.items()}
    _, told = run(corridor, said, to=str(corridor / "mine.yaml"))
    assert "No threshold was moved: none agrees better." in told
    found = Thresholds(**read_thresholds(corridor / "mine.yaml"))
    assert found.numbers() == Thresholds().numbers()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{corridor}", "--to", "mine.txt"], "to: mine.txt is no name of a YAML file"),
        (["{corridor}", "{corridor}", "--to", "a.yaml"], "folder: a folder is given twice"),
        (["{corridor}", "elsewhere"], "to: give the file for the thresholds of several corridors"),
        (["elsewhere"], "there is no folder elsewhere"),
        (["{corridor}", "--port", "70000"], "port: 70000 is out of range"),
        (["{corridor}", "--to", "{corridor}/lr2e-6/config.yaml"], "was not written by corridor label"),
        ([], "folders"),
    ],
)
def test_what_cannot_be_labelled_is_refused(
    corridor: Path, words: list[str], message: str, capsys: Any
) -> None:
    words = [word.format(corridor=corridor) for word in words]
    assert main(["corridor", "label", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_corridor_without_measures_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 2e-6, (8,))
    with pytest.raises(UserError, match="holds no measured cell"):
        opened(tmp_path)


def test_ctrl_c_ends_it_with_what_was_said_kept(corridor: Path, capsys: Any) -> None:
    opener = LabelServer.serve_forever

    def interrupted(server: LabelServer, poll_interval: float) -> None:
        def act() -> None:
            ask(server, "label", {"cell": 1, "zone": "cooked"})
            os.kill(os.getpid(), 2)

        thread = threading.Thread(target=act)
        thread.start()
        try:
            opener(server, 0.01)
        finally:
            thread.join()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabelServer, "serve_forever", interrupted)
        status = main(["corridor", "label", str(corridor), "--browser", "false"])
    assert status == 130
    err = capsys.readouterr().err
    assert (
        "stopped by Ctrl-C with 1 of 4 cells labelled, all kept; go on with: lightning-drift corridor label"
        in err
    )
    assert list(opened(corridor)[1][0].zones.values()) == ["cooked"]
    assert not (corridor / ".lock").exists()


# -- in a browser ---------------------------------------------------------------------------------------

KEYS = """
const key = (k, kind = "keydown") => document.dispatchEvent(new KeyboardEvent(kind, {key: k, bubbles: true}));
const shown = () => document.querySelector("#pictures .now img").src;
const ready = async () => {
  const there = () => document.querySelector("#pictures .now img");
  const waiting = () => document.body.classList.contains("waiting");
  while (!there() || waiting()) await new Promise((r) => setTimeout(r, 20));
};
(async () => {
  await ready();
  const note = [], pictures = new Set([shown()]);
  for (const k of ["2", "3", "ArrowLeft", "4", "0", "1"]) {
    key(k);
    await new Promise((r) => setTimeout(r, 150));
    await ready();
    pictures.add(shown());
    note.push(document.getElementById("note").textContent);
  }
  const own = shown();
  key("b");
  const base = shown();
  key("b", "keyup");
  document.title = JSON.stringify({ note, pictures: pictures.size, held: base !== own && shown() === own });
})();
"""


@browser
def test_keys_label_go_back_and_show_the_base(tmp_path: Path) -> None:
    folder = write_corridor(tmp_path / "corridor", prompts=ODD_TEXTS[:3])
    exhibit, labels = opened(folder)
    with served(exhibit, labels, KEYS) as server:
        document = chromium(tmp_path, "--dump-dom", server.url).stdout
        labelled = server.said
    title = re.search(r"<title>(.*?)</title>", document)
    assert title is not None
    saw = json.loads(title[1])
    assert saw["held"] is True
    assert saw["pictures"] >= 3
    assert saw["note"] == [
        *("Cell 2 of 4, 1 labelled", "Cell 3 of 4, 2 labelled", "Cell 2 of 4, 2 labelled"),
        *("Cell 3 of 4, 2 labelled", "Cell 3 of 4, 2 labelled", "Cell 4 of 4, 3 labelled"),
    ]
    assert labelled == ["dreaming", "cooked", "under-drifted", None]
    assert [html.unescape(title) for title in re.findall(r"<h3>(.*?)</h3>", document)] == list(ODD_TEXTS[:3])
