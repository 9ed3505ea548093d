"""Sweeps in the log folder: which are listed, what their pages hold, which of their pictures are sent."""

import base64
import hashlib
import json
import os
import re
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import Outline
from helpers.corridor_runs import write_run
from helpers.odd_texts import ODD_TEXTS
from helpers.sweeps import FACTS, write_sweep
from helpers.tensorboards import Board
from PIL import Image

from lightning_drift.tensorboard import own_sweeps


def _names(board: Board) -> list[str]:
    return sorted(each["name"] for each in board.json("sweeps")["sweeps"])


def _data(board: Board, name: str) -> Any:
    answer = board.get(f"sweep?name={name}")
    assert answer.status_code == 200, answer.text
    found = re.search(r'<script type="application/json" id="index">(.*?)</script>', answer.text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def _prompts(data: Any) -> list[str]:
    column = next(each for each in data["parameters"] if each["name"] == "prompt")
    return [column["values"][place] for place in column["rows"]]


def _said(answer: str) -> bool:
    """Whether the page offers a command that makes a picture again."""
    return "Make it again" in answer


def test_sweeps_are_listed_wherever_they_lie_the_newest_first(tmp_path: Path) -> None:
    write_run(tmp_path / "coffee" / "run", 1e-6, (8,))
    write_sweep(tmp_path / "coffee" / "run" / "sweep", ("a cup",))
    write_sweep(tmp_path / "café 100% #1?a&name=b+c;d")
    os.utime(tmp_path / "coffee" / "run" / "sweep" / "index.csv", (7, 7))
    board = Board(tmp_path)
    first, second = board.json("sweeps")["sweeps"]
    assert second == {
        "name": "coffee/run/sweep",
        "title": "coffee / run / sweep",
        "query": "name=coffee/run/sweep",
        "pictures": 2,
    }
    assert first["name"] == "café 100% #1?a&name=b+c;d"
    answer = board.get(f"sweep?{first['query']}")
    assert "<h1>café 100% #1?a&amp;name=b+c;d</h1>" in answer.text


def test_the_log_folder_may_be_the_sweep_itself(tmp_path: Path) -> None:
    board = Board(write_sweep(tmp_path / "mine"))
    assert [(each["name"], each["title"]) for each in board.json("sweeps")["sweeps"]] == [(".", "mine")]
    assert board.plugin.is_active()
    assert board.get(_data(board, ".")["file"][0]).status_code == 200


def test_the_page_is_that_of_the_sweep_over_addresses_of_the_plugin(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a" / "sweep", ("a tower", *ODD_TEXTS), side=300, drift=1 / 3)
    board = Board(tmp_path)
    text = (folder / "sweep.html").read_text()
    written = json.loads(text.split('id="index">')[1].split("</script>")[0])
    data = _data(board, "a/sweep")
    assert data.pop("folder") == str(folder)
    own = ("file", "base_file", "map_file", "small", "folder")
    assert {name: data[name] for name in data if name not in own} == {
        name: written[name] for name in written if name not in own
    }
    for name, kind, size in (
        ("file", "image/png", (300, 300)),
        ("base_file", "image/png", (300, 300)),
        ("map_file", "image/webp", (64, 64)),
    ):
        sent = board.get(data[name][1])
        assert (sent.status_code, sent.content_type) == (200, kind)
        assert Image.open(BytesIO(sent.data)).size == size
        assert sent.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert board.get(data["file"][1]).data == (folder / "images" / "1.png").read_bytes()
    thumbnail = board.get(data["small"][data["file"][1]])
    assert Image.open(BytesIO(thumbnail.data)).size == (256, 256)


def test_its_own_script_may_run_and_no_other(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", ODD_TEXTS)
    answer = Board(tmp_path).get("sweep?name=sweep")
    assert answer.content_type == "text/html; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == {
        "default-src": "'none'",
        "img-src": "'self' data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'self'",
    }
    assert "<!--" not in answer.text
    assert [tag for tag, _ in Outline(answer.text).tags].count("script") == 2


def test_a_files_own_html_is_never_sent(tmp_path: Path) -> None:
    page = write_sweep(tmp_path / "sweep") / "sweep.html"
    page.write_text(page.read_text().replace("<body", "<img src=x onerror=alert(1)><body"))
    assert "onerror" not in Board(tmp_path).get("sweep?name=sweep").text


# -- commands ---------------------------------------------------------------------------------------------


def test_commands_say_what_the_sweeps_own_page_knows(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", drift=1 / 3, facts={"base": "a base", "width": 64})
    board = Board(tmp_path)
    data = _data(board, "sweep")
    assert data["facts"] == FACTS | {"base": "a base", "width": 64}
    assert next(each["values"] for each in data["parameters"] if each["name"] == "drift") == [1 / 3]
    assert _said(board.get("sweep?name=sweep").text)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: None,
        lambda text: "",
        lambda text: text.replace('"a tower"', '"a tree"'),
        lambda text: text.replace('"names":["images/0', '"names":["images/1'),
        lambda text: text.replace('"values":[3.0]', '"values":["3"]'),
        lambda text: text.replace('"values":[3.0]', '"values":[NaN]'),
        lambda text: text.replace('"rows":[0,1', '"rows":[0,-1'),
        lambda text: text.replace('"dtype":"auto"', '"dtype":"float1"'),
        lambda text: text.replace('"dtype":"auto"', '"dtype":["auto"]'),
        lambda text: text.replace('"width":null', '"width":true'),
        lambda text: text.replace('"base":null', '"base":null,"more":1'),
        lambda text: text.replace('"base":null,', "").replace(',"base":null', ""),
        lambda text: re.sub(r'"facts":\{.*?\}', '"facts":null', text),
        lambda text: re.sub(r'(id="index">).*?(</script>)', r"\1" + "[" * 100_000 + r"\2", text),
    ],
)
def test_a_command_that_is_not_known_for_certain_is_not_said(tmp_path: Path, change: Any) -> None:
    page = write_sweep(tmp_path / "sweep") / "sweep.html"
    before = page.read_text()
    changed = change(before)
    assert changed != before
    page.unlink()
    if changed is not None:
        page.write_text(changed)
    board = Board(tmp_path)
    assert len(_prompts(_data(board, "sweep"))) == 4
    text = board.get("sweep?name=sweep").text
    assert not _said(text)
    assert "Print it with SUPIR" in text


# -- what others may have put there -----------------------------------------------------------------------


def test_files_that_lead_out_of_the_sweep_are_missing(tmp_path: Path) -> None:
    logdir = tmp_path / "logs"
    folder = write_sweep(logdir / "sweep", ("a", "b", "c", "d", "e", "f"))
    outside = write_sweep(tmp_path / "outside") / "images" / "0.png"
    (folder / "images" / "6.png").unlink()
    (folder / "images" / "6.png").symlink_to(outside)
    (folder / "images" / "sub").mkdir()
    for copy in (folder / "7.png", folder / "images" / "sub" / "7.png"):
        shutil.copy(outside, copy)
    text = (folder / "index.csv").read_text()
    for place, name in enumerate(
        ("../../outside/images/0.png", str(outside), "images/../images/0.png", "7.png", "images/sub/7.png")
    ):
        text = text.replace(f"images/{place}.png,", f"{name},")
    text = text.replace("images/8.png,images/base #.png,images/8_map.png", f"images/8.png,{outside},../8.png")
    (folder / "index.csv").write_text(text)
    board = Board(logdir)
    data = _data(board, "sweep")
    assert data["names"] == [f"images/{place}.png" for place in (5, 7, 8, 9, 10, 11)]
    assert (data["base_file"][2], data["map_file"][2]) == (None, None)
    answer = board.get("sweep?name=sweep").text
    assert "6 more of the index have no picture" in answer
    assert "outside" not in answer
    assert ".." not in "".join(data["names"] + data["file"])


@pytest.mark.parametrize(
    "place",
    [
        "../outside/images/0.png",
        "sweep/../../outside/images/0.png",
        "{outside}/images/0.png",
        "/{outside}/images/0.png",
        "linked/images/0.png",
        "borrowed/images/0.png",
        "sweep/images/linked.png",
        "sweep/images/sub/0.png",
        "sweep/images/page.png",
        "sweep/images/pipe.png",
        "sweep/images/",
        "sweep/images",
        "sweep/sheets/0.png",
        "sweep/index.csv",
        "other/images/0.png",
        "damaged/images/0.png",
        "images/0.png",
        "sweep\\images\\0.png",
        "sweep/images/%00.png",
    ],
)
def test_only_pictures_of_sweeps_in_the_log_folder_are_sent(tmp_path: Path, place: str) -> None:
    logdir = tmp_path / "logs"
    folder, outside = write_sweep(logdir / "sweep"), write_sweep(tmp_path / "outside")
    (logdir / "linked").symlink_to(outside)
    (folder / "images" / "linked.png").symlink_to(outside / "images" / "0.png")
    for name in ("sub", "../sheets", "../../other/images", "../../borrowed/images", "../../damaged/images"):
        (folder / "images" / name).mkdir(parents=True)
        shutil.copy(outside / "images" / "0.png", folder / "images" / name)
    (logdir / "borrowed" / "index.csv").symlink_to(outside / "index.csv")
    (logdir / "damaged" / "index.csv").write_text("name,value\n")
    (folder / "images" / "page.png").write_text("<script>alert(1)</script>")
    os.mkfifo(folder / "images" / "pipe.png")
    board = Board(logdir)
    assert board.get("picture?path=sweep/images/0.png").status_code == 200
    assert board.get(f"picture?path={place.format(outside=outside)}").status_code == 404
    assert _names(board) == ["sweep"]
    assert board.get("sweep?name=linked").status_code == 404
    assert board.get("sweep?name=../outside").status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.splitlines()[0] + "\n",
        lambda text: text + "one,two\n",
        lambda text: text.replace(",0,3,50,", ",zero,3,50,"),
        lambda text: text.replace(",0,3,50,", ",0,nan,50,"),
        lambda text: text.replace(",0,3,50,", f",{'9' * 5000},3,50,"),
        lambda text: text.replace(",0.1,", ",inf,") if ",0.1," in text else text.replace(",0.1\n", ",inf\n"),
        lambda text: text + '"open\n',
        lambda text: "file,prompt\nimages/0.png,a\n",
    ],
)
def test_a_damaged_index_is_passed_over(tmp_path: Path, change: Any) -> None:
    write_sweep(tmp_path / "good")
    index = write_sweep(tmp_path / "bad") / "index.csv"
    before = index.read_text()
    index.write_text(change(before))
    assert index.read_text() != before
    board = Board(tmp_path)
    assert _names(board) == ["good"]
    assert board.get("sweep?name=bad").status_code == 404
    assert _prompts(_data(board, "good")) == ["a tower", "a tower", "a lake", "a lake"]


def test_an_index_that_is_no_text_or_no_file_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "folder" / "index.csv").mkdir(parents=True)
    for name in ("pipe", "bytes"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "index.csv")
    (tmp_path / "bytes" / "index.csv").write_bytes(b"file,prompt,seed\n\xff\xfe,\0,1\n")
    board = Board(tmp_path)
    assert _names(board) == []
    assert board.get("sweep?name=bytes").status_code == 404


def test_a_sweep_without_its_pictures_cannot_be_opened(tmp_path: Path) -> None:
    shutil.rmtree(write_sweep(tmp_path / "sweep") / "images")
    board = Board(tmp_path)
    assert board.get("sweep?name=sweep").status_code == 404
    assert board.get("sweep").status_code == 404


def test_links_within_the_log_folder_are_followed_and_circles_end(tmp_path: Path) -> None:
    write_sweep(tmp_path / "store" / ".old" / "sweep")
    (tmp_path / "a").symlink_to(tmp_path / "store" / ".old")
    (tmp_path / "store" / "again").symlink_to(tmp_path)
    board = Board(tmp_path)
    assert _names(board) == ["a/sweep"]
    assert board.get(_data(board, "a/sweep")["file"][0]).status_code == 200


def test_the_walk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path.joinpath(*["d"] * own_sweeps.MOST_DEPTH)
    write_sweep(deep)
    write_sweep(tmp_path / "e" / Path(*["d"] * own_sweeps.MOST_DEPTH))
    assert _names(Board(tmp_path)) == [deep.relative_to(tmp_path).as_posix()]
    monkeypatch.setattr(own_sweeps, "MOST_FOLDERS", 3)
    assert _names(Board(tmp_path)) == []


def test_a_sweep_that_ends_meanwhile_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_sweeps, "KEPT_SECONDS", 0.0)
    board = Board(tmp_path)
    assert not board.plugin.is_active()
    write_sweep(tmp_path / "sweep")
    assert _names(board) == ["sweep"]
    assert board.plugin.is_active()
    shutil.rmtree(tmp_path / "sweep")
    assert _names(board) == []
