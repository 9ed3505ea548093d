"""What the plugin answers over real event files, asked as TensorBoard's own application asks it."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.browser import Outline
from helpers.corridor_runs import PROMPTS, SEEDS, config, write_run
from helpers.odd_texts import ODD_TEXTS
from helpers.tensorboards import Board, Process
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from lightning_drift.common.lock import FolderLock
from lightning_drift.corridor.plan import Row, make_plan, take_up

DREAM = ("dreaming", None, 41.0)
COOKED = ("cooked", None, 90.0)


def _corridor(logdir: Path, subject: str = "coffee", **more: Any) -> Path:
    verdicts = {0: ("under-drifted", None, 0.0), 800: DREAM, 1200: COOKED}
    write_run(logdir / subject / "lr1e-6", 1e-6, (800, 1200), verdicts, subject=subject, **more)
    write_run(logdir / subject / "lr2e-6", 2e-6, (800, 1200), verdicts, subject=subject, **more)
    return logdir / subject


def _sources(page: Any) -> list[str]:
    return [str(attributes["src"]) for _, attributes in Outline(page["html"]).tags if "src" in attributes]


def _addresses(page: Any) -> list[str]:
    return [source for source in _sources(page) if source.startswith("picture?")]


def test_a_group_is_a_folder_of_runs_and_its_page_what_they_logged(tmp_path: Path) -> None:
    _corridor(tmp_path)
    write_run(tmp_path / "cup" / "corridor" / "lr3e-6", 3e-6, (8,), {8: COOKED}, subject="cup")
    board = Board(tmp_path)
    told = board.json("groups")
    assert told["folder"] == str(tmp_path)
    assert {group["name"]: group["title"] for group in told["groups"]} == {
        "coffee": "coffee",
        "cup/corridor": "cup / corridor",
    }
    page = board.json(f"page?{next(g['query'] for g in told['groups'] if g['name'] == 'coffee')}")
    assert page["title"] == "coffee"
    assert page["eyebrow"] == "Corridor, 2 learning rates × 2 milestones"
    assert page["lead"].startswith("At learning rate 1e-6 and 800 steps the model dreams: 41 of 100.")
    assert page["remarks"] == []
    data = page["data"]
    assert [run["name"] for run in data["runs"]] == ["lr1e-6", "lr2e-6"]
    assert data["steps"] == [0, 800, 1200]
    cell = data["cells"][1][2]
    assert (cell["state"], cell["zone"], cell["position"]) == ("measured", "cooked", 90.0)
    assert cell["reason"] == "Because of cooked."
    assert len(data["pictures"]) == 2 * 3 * len(PROMPTS) * len(SEEDS)
    assert page["html"].lstrip().startswith("<main>")
    assert "<script" not in page["html"]
    assert "<svg" in page["html"]


def test_the_newest_group_comes_first(tmp_path: Path) -> None:
    _corridor(tmp_path, "first")
    _corridor(tmp_path, "second")
    with SummaryWriter(str(tmp_path / "first" / "lr1e-6")) as writer:
        writer.add_scalar("train/loss", 0.1, 1201, walltime=time.time() + 60)
    board = Board(tmp_path)
    assert [group["name"] for group in board.json("groups")["groups"]] == ["first", "second"]


def test_the_log_folder_may_be_a_subjects_or_a_runs_own(tmp_path: Path) -> None:
    folder = _corridor(tmp_path)
    subject = Board(folder)
    assert [(g["name"], g["title"]) for g in subject.json("groups")["groups"]] == [(".", "coffee")]
    assert len(subject.page()["data"]["runs"]) == 2
    run = Board(folder / "lr2e-6")
    assert [(g["name"], g["title"]) for g in run.json("groups")["groups"]] == [(".", "lr2e-6")]
    page = run.page()
    assert [each["name"] for each in page["data"]["runs"]] == ["lr2e-6"]
    assert run.get(_addresses(page)[0]).status_code == 200


def test_a_run_that_grows_is_shown_by_the_same_process(tmp_path: Path) -> None:
    write_run(tmp_path / "coffee" / "lr1e-6", 1e-6, (800,), {800: DREAM})
    board = Board(tmp_path)
    before = board.page("coffee")
    assert before["data"]["steps"] == [0, 800]
    shutil.copytree(
        tmp_path / "coffee" / "lr1e-6" / "grids" / "step=00800",
        tmp_path / "coffee" / "lr1e-6" / "grids" / "step=01200",
    )
    with SummaryWriter(str(tmp_path / "coffee" / "lr1e-6")) as writer:
        writer.add_scalar("drift/zone", 3, 1200)
        writer.add_scalar("drift/position", 88.0, 1200)
    write_run(tmp_path / "coffee" / "lr2e-6", 2e-6, (800,), {800: COOKED})
    page = board.reload().page("coffee")
    assert page["data"]["steps"] == [0, 800, 1200]
    assert [run["name"] for run in page["data"]["runs"]] == ["lr1e-6", "lr2e-6"]
    assert page["data"]["cells"][0][2]["zone"] == "cooked"
    assert page["data"]["cells"][1][2]["state"] == "not run"
    write_run(tmp_path / "cup" / "run", 2e-6, (8,))
    assert len(board.reload().json("groups")["groups"]) == 2


def test_verdicts_that_tensorboard_dropped_come_from_the_readings(tmp_path: Path) -> None:
    steps = tuple(range(10, 310, 10))  # TensorBoard keeps ten texts of a run
    run = write_run(tmp_path / "coffee" / "run", 1e-6, steps, dict.fromkeys(steps, DREAM))
    (run / "drift").mkdir()
    for step in steps:
        reading = {"zone": "dreaming", "borderline": None, "position": 41.0, "reason": f"Read at {step}."}
        (run / "drift" / f"step={step:05d}.json").write_text(json.dumps(reading))
    reasons = [cell["reason"] for cell in Board(tmp_path).page("coffee")["data"]["cells"][0][1:]]
    assert set(reasons) == {"Because of dreaming."} | {r for r in reasons if r.startswith("Read at ")}
    assert any(reason.startswith("Read at ") for reason in reasons)


def test_names_of_folders_are_told_apart_from_parts_of_an_address(tmp_path: Path) -> None:
    write_run(tmp_path / "café 100% #1?a&path=b+c;d" / "run %2e.", 1e-6, (8,), {8: DREAM})
    board = Board(tmp_path)
    (group,) = board.json("groups")["groups"]
    page = board.json(f"page?{group['query']}")
    assert page["data"]["cells"][0][1]["zone"] == "dreaming"
    assert board.get(page["data"]["pictures"][0]).headers["Cache-Control"].endswith("immutable")


def test_a_page_that_has_not_changed_is_not_sent_again(tmp_path: Path) -> None:
    folder = _corridor(tmp_path)
    board = Board(tmp_path)
    first = board.get("page?group=coffee")
    etag = first.headers["ETag"]
    same = board.get("page?group=coffee", If_None_Match=etag)
    assert (same.status_code, same.data) == (304, b"")
    assert same.headers["ETag"] == etag
    assert board.get("page?group=coffee", If_None_Match='"other"').data == first.data
    path = next(folder.glob("lr1e-6/grids/step=00800/*.png"))
    Image.new("RGB", (16, 16), (1, 2, 3)).save(path)
    os.utime(path, ns=(1, 1))
    changed = board.get("page?group=coffee", If_None_Match=etag)
    assert changed.status_code == 200
    assert changed.headers["ETag"] != etag
    packed = board.get("page?group=coffee", Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"


def test_pictures_and_thumbnails_are_sent_and_kept_by_the_browser_while_they_are_the_same(
    tmp_path: Path,
) -> None:
    folder = _corridor(tmp_path, side=400)
    board = Board(tmp_path)
    page = board.page("coffee")
    assert page["data"]["pixel_art"] is False
    thumbnail = board.get(_addresses(page)[-1])
    assert thumbnail.content_type == "image/webp"
    assert thumbnail.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert thumbnail.headers["X-Content-Type-Options"] == "nosniff"
    assert Image.open(BytesIO(thumbnail.data)).size == (256, 256)
    address = page["data"]["pictures"][page["data"]["cells"][1][2]["pictures"][0][0]]
    whole = board.get(address)
    assert whole.content_type == "image/png"
    assert Image.open(BytesIO(whole.data)).size == (400, 400)
    assert whole.data in {path.read_bytes() for path in folder.glob("lr2e-6/grids/step=01200/*.png")}
    assert board.get(re.sub("v=\\d+", "v=1", address)).headers["Cache-Control"] == "no-cache"
    assert board.get(address + "&side=255").status_code == 404
    assert board.get(address + "&side=99999999").status_code == 404


def test_a_thumbnail_follows_its_file(tmp_path: Path) -> None:
    folder = _corridor(tmp_path)
    board = Board(tmp_path)
    path = next(folder.glob("lr1e-6/grids/step=00800/*.png"))
    place = f"picture?path={path.relative_to(tmp_path).as_posix()}&side=256"
    before = board.get(place).data
    assert board.get(place).data == before
    Image.new("RGB", (16, 16), (250, 0, 0)).save(path)
    os.utime(path, ns=(7, 7))
    assert Image.open(BytesIO(board.get(place).data)).getpixel((0, 0)) == (250, 0, 0)


def test_maps_are_sent_as_overlays(tmp_path: Path) -> None:
    folder = _corridor(tmp_path)
    for path in folder.glob("lr1e-6/grids/step=00800/*.png"):
        Image.new("RGB", (128, 128), (0, 200, 200)).save(path.with_name(f"{path.stem}_map.png"))
    board = Board(tmp_path)
    cell = board.page("coffee")["data"]["cells"][0][1]
    sent = board.get(cell["maps"][0][0])
    image = Image.open(BytesIO(sent.data))
    assert (image.mode, image.size) == ("RGBA", (64, 64))


@pytest.mark.parametrize(
    "place",
    [
        "../secret/grids/step=00008/a.png",
        "coffee/../../secret/grids/step=00008/a.png",
        "/{outside}/grids/step=00008/a.png",
        "{outside}/grids/step=00008/a.png",
        "coffee/lr1e-6/grids/step=00800/../../../../../secret/grids/step=00008/a.png",
        "coffee/./lr1e-6/grids/step=00800/link.png",
        "coffee/lr1e-6/grids/step=00800/link.png",
        "coffee/linked/grids/step=00008/a.png",
        "coffee/lr1e-6/grids/step=00008/a.png",
        "coffee/lr1e-6/config.yaml",
        "coffee/lr1e-6/checkpoints/step=00800.ckpt",
        "coffee/lr1e-6/grids/step=00800",
        "coffee/lr1e-6/grids/step=00800/",
        "coffee/lr1e-6/grids/step=00800/page.png",
        "coffee/lr1e-6/grids/step=00800/empty.png",
        "coffee/lr1e-6/grids/step=00800/cut.png",
        "coffee/lr1e-6/grids/step=00800/pipe.png",
        "coffee/lr1e-6/grids/other/a.png",
        "nobody/grids/step=00008/a.png",
        "coffee\\lr1e-6\\grids\\step=00800\\a.png",
        "coffee/lr1e-6/grids/step=00800/%00.png",
        "coffee/lr1e-6/grids/step=00800/" + "a" * 5000 + ".png",
        "",
    ],
)
def test_only_pictures_of_runs_in_the_log_folder_are_sent(tmp_path: Path, place: str) -> None:
    logdir, outside = tmp_path / "logs", tmp_path / "secret"
    folder = _corridor(logdir)
    write_run(outside, 1e-6, (8,))
    secret = outside / "grids" / "step=00008" / "a.png"
    Image.new("RGB", (16, 16)).save(secret)
    grid = folder / "lr1e-6" / "grids" / "step=00800"
    (grid / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(outside)
    (folder / "lr1e-6" / "grids" / "step=00008").symlink_to(secret.parent)
    (grid / "page.png").write_text("<html><script>alert(1)</script>")
    (grid / "empty.png").write_bytes(b"")
    (grid / "cut.png").write_bytes(next(grid.glob("*_seed0000.png")).read_bytes()[:60])
    os.mkfifo(grid / "pipe.png")
    (folder / "lr1e-6" / "grids" / "other").mkdir()
    shutil.copy(secret, folder / "lr1e-6" / "grids" / "other" / "a.png")
    (logdir / "nobody" / "grids" / "step=00008").mkdir(parents=True)  # no run: it has no configuration
    shutil.copy(secret, logdir / "nobody" / "grids" / "step=00008" / "a.png")
    board = Board(logdir)
    for side in ("", "&side=256"):
        answer = board.get(f"picture?path={place.format(outside=outside)}{side}")
        assert (answer.status_code, answer.text) == (404, "there is no such picture")
    assert board.get("picture").status_code == 404


def test_what_links_lead_out_to_is_not_on_the_page(tmp_path: Path) -> None:
    logdir, outside = tmp_path / "logs", tmp_path / "secret"
    folder = _corridor(logdir)
    write_run(outside, 7e-6, (8,), {8: COOKED})
    grid = folder / "lr1e-6" / "grids" / "step=00800"
    picture = next(grid.glob("*_seed0000.png"))
    picture.unlink()
    picture.symlink_to(next(outside.glob("grids/step=00008/*.png")))
    (folder / "linked").symlink_to(outside)
    (folder / "borrowed").mkdir()
    shutil.copy(next(outside.glob("events*")), folder / "borrowed")
    (folder / "borrowed" / "config.yaml").symlink_to(outside / "config.yaml")
    (folder / "lr2e-6.error.txt").symlink_to(outside / "config.yaml")
    page = Board(logdir).page("coffee")
    assert [run["name"] for run in page["data"]["runs"]] == ["lr1e-6", "lr2e-6"]
    assert "secret" not in page["html"]
    shown = [index for row in page["data"]["cells"][0][1]["pictures"] for index in row]
    assert sorted(index >= 0 for index in shown) == [False, True, True, True]
    assert page["remarks"] == [
        f"{folder / 'lr2e-6.error.txt'} is a link that leads out of {logdir}; it is passed over"
    ]


def test_a_log_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    _corridor(tmp_path / "real")
    (tmp_path / "logs").symlink_to(tmp_path / "real")
    board = Board(tmp_path / "logs")
    page = board.page("coffee")
    assert len(page["data"]["runs"]) == 2
    assert board.get(page["data"]["pictures"][0]).status_code == 200


def test_runs_of_other_programs_are_passed_over_in_silence(tmp_path: Path) -> None:
    folder = _corridor(tmp_path)
    for name, content in {
        "other": "trainer: {max_steps: 3}\nmodel: {}\n",
        "broken": "a: [",
        "bare": None,
    }.items():
        for place in (folder / name, tmp_path / "mine" / name):
            with SummaryWriter(str(place)) as writer:
                writer.add_scalar("loss", 1.0, 1)
            if content is not None:
                (place / "config.yaml").write_text(content)
    board = Board(tmp_path)
    assert [group["name"] for group in board.json("groups")["groups"]] == ["coffee"]
    page = board.page("coffee")
    assert [run["name"] for run in page["data"]["runs"]] == ["lr1e-6", "lr2e-6"]
    assert page["remarks"] == []


def test_a_damaged_run_costs_itself_and_is_named(tmp_path: Path) -> None:
    folder = _corridor(tmp_path)
    path = folder / "lr2e-6" / "config.yaml"
    path.write_text(path.read_text() + "model: [\n")
    board = Board(tmp_path)
    page = board.page("coffee")
    assert [run["name"] for run in page["data"]["runs"]] == ["lr1e-6"]
    assert len(page["remarks"]) == 1
    assert str(path) in page["remarks"][0]
    path.write_text(yaml.safe_dump(config(2e-6, (800, 1200))))  # mended while the tab is open
    assert len(board.page("coffee")["data"]["runs"]) == 2
    for each in folder.glob("*/config.yaml"):
        each.write_text("seed_grid: 3\n")
    alone = board.page("coffee")
    assert alone.keys() == {"title", "problem"}
    assert "seed_grid is 3 and no section" in alone["problem"]
    assert board.json("groups")["groups"][0]["running"] is False


def test_a_planned_corridor_shows_its_fits_before_they_begin_and_why_one_failed(tmp_path: Path) -> None:
    fit = config(1e-6, (8,))
    fit["trainer"]["logger"]["init_args"]["save_dir"] = str(tmp_path)
    plan = take_up(make_plan(fit, "1e-6,2e-6,4e-6", "8,16", "corridor"))
    write_run(plan.run(Row(1e-6)), 1e-6, (8,), {8: DREAM})
    board = Board(tmp_path)
    states = [[cell["state"] for cell in row[1:]] for row in board.page("coffee/corridor")["data"]["cells"]]
    assert states == [["measured", "not run"], ["not run", "not run"], ["not run", "not run"]]
    (plan.folder / "lr4e-6.error.txt").write_text("the loss is not finite at step 3\n")
    page = board.page("coffee/corridor")
    assert page["data"]["cells"][2][1]["reason"] == "the loss is not finite at step 3"
    assert [(each["run"], each["step"]) for each in page["progress"]][1:] == [
        ("lr2e-6", None),
        ("lr4e-6", None),
    ]


def test_progress_tells_the_step_the_end_and_the_time_left(tmp_path: Path) -> None:
    run = write_run(tmp_path / "coffee" / "run", 1e-6, (800, 1200))
    now = time.time()
    for event_file in run.glob("events*"):
        event_file.unlink()  # only points of known times
    with SummaryWriter(str(run)) as writer:
        for step in (100, 200, 300):
            writer.add_scalar("train/loss", 0.1, step, walltime=now - 1000 + step)
    board = Board(tmp_path)
    (told,) = board.page("coffee")["progress"]
    assert (told["step"], told["end"], told["running"], told["seconds_left"]) == (300, 1200, False, None)
    assert board.json("groups")["groups"][0]["running"] is False
    lock = FolderLock(run, "run")
    (told,) = board.page("coffee")["progress"]
    assert (told["running"], told["seconds_left"]) == (True, 900.0)
    assert board.json("groups")["groups"][0]["running"] is True
    content = (run / ".lock").read_bytes()
    lock.release()
    assert board.page("coffee")["progress"][0]["running"] is False
    # A fit that was killed leaves its lock; another process may have its number by now.
    (run / ".lock").write_bytes(content)
    assert board.page("coffee")["progress"][0]["running"] is False
    with SummaryWriter(str(run)) as writer:
        writer.add_scalar("train/loss", 0.1, 400, walltime=now)
    assert board.reload().page("coffee")["progress"][0]["running"] is False
    (run / ".lock").write_text(json.dumps({"pid": 1, "host": "another computer"}))
    (told,) = board.page("coffee")["progress"]
    assert (told["running"], told["seconds_left"]) == (True, 2400.0)
    with SummaryWriter(str(run)) as writer:
        writer.add_scalar("train/loss", 0.1, 1200, walltime=now)
    assert board.reload().page("coffee")["progress"][0]["running"] is False


def test_the_pace_is_that_since_the_last_resume(tmp_path: Path) -> None:
    run = write_run(tmp_path / "coffee" / "run", 1e-6, (800, 1200))
    for event_file in run.glob("events*"):
        event_file.unlink()
    (run / ".lock").write_text(json.dumps({"pid": 1, "host": "another computer"}))
    (run / "config.resume-00300.yaml").write_text(yaml.safe_dump(config(1e-6, (2000,))))
    now = time.time()
    with SummaryWriter(str(run)) as writer:
        for step, at in ((100, -90_000), (300, -80_000), (400, -40), (500, -20), (600, 0)):
            writer.add_scalar("train/loss", 0.1, step, walltime=now + at)
    (told,) = Board(tmp_path).page("coffee")["progress"]
    assert told == {
        "label": "lr 1e-6", "run": "run", "step": 600, "end": 2000, "running": True, "seconds_left": 280.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", [*ODD_TEXTS, "</script><img src=x onerror=alert(1)>", '"><svg onload=alert(1)>']
)
def test_texts_stay_texts(tmp_path: Path, text: str) -> None:
    name = text.replace("/", "∕")
    folder = tmp_path / name
    write_run(folder / name, 1e-6, (8,), {8: DREAM}, prompts=(text, "a tree"), subject=text)
    write_run(folder / "lr1e-6", 1e-6, (8,), {8: DREAM}, prompts=(text, "a tree"), subject=text)
    board = Board(tmp_path)
    (group,) = board.json("groups")["groups"]
    answer = board.get(f"page?{group['query']}")
    assert answer.content_type == "application/json"
    page = json.loads(answer.text)
    assert page["data"]["prompts"][0]["text"] == text
    assert page["title"] == text
    tags = Outline(page["html"]).tags
    assert not {tag for tag, _ in tags} & {"script", "b"}
    assert not {name for _, attributes in tags for name in attributes if name.startswith("on")}
    assert all(source.startswith(("picture?", "data:image/webp;")) for source in _sources(page))
    assert "<!--" not in page["html"]
    for address in page["data"]["pictures"]:
        assert re.fullmatch(r"picture\?path=[\w%./=~-]+&v=\d+", address, re.ASCII)
        assert board.get(address).status_code == 200


def test_the_log_folder_may_be_one_that_nobody_may_write(tmp_path: Path) -> None:
    folder = _corridor(tmp_path)
    sheet = folder / "lr1e-6" / "instance_images.png"
    Image.new("RGB", (300, 200)).save(sheet)
    (folder / "lr2e-6" / ".lock").write_text("{}")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.rglob("*"))}
    for path in sorted(files, reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        board = Board(tmp_path)
        page = board.page("coffee")
        board.json("groups")
        for address in [*page["data"]["pictures"], *_addresses(page)]:
            assert board.get(address).status_code == 200
        assert board.get("picture?path=coffee/lr1e-6/instance_images.png").status_code == 200
        assert {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.rglob("*"))} == files
    finally:
        for path in sorted(files):
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_the_sheet_of_the_photos_is_shown_where_they_lie_outside(tmp_path: Path) -> None:
    logdir, photos = tmp_path / "logs", tmp_path / "photos"
    folder = _corridor(logdir, subject="mine")
    photos.mkdir()
    Image.new("RGB", (64, 64), (200, 0, 0)).save(photos / "a.png")
    for path in folder.glob("*/config.yaml"):
        changed = yaml.safe_load(path.read_text())
        changed["data"]["init_args"]["instance_dir"] = str(photos)
        path.write_text(yaml.safe_dump(changed))
    board = Board(logdir)
    assert "The photos are no longer where the fit found them." in board.page("mine")["html"]
    Image.new("RGB", (64, 48), (0, 200, 0)).save(folder / "lr1e-6" / "instance_images.png")
    sheet = re.search(r'photos sheet"><img src="data:image/webp;base64,([^"]+)"', board.page("mine")["html"])
    assert sheet is not None
    assert Image.open(BytesIO(base64.b64decode(sheet[1]))).size == (64, 48)


def test_fifty_runs_with_two_thousand_pictures_are_answered(tmp_path: Path) -> None:
    run = write_run(tmp_path / "many" / "run00", 1e-6, tuple(range(10, 100, 10)), {10: DREAM}, side=8)
    for index in range(1, 50):
        shutil.copytree(run, tmp_path / "many" / f"run{index:02d}")
    board = Board(tmp_path)
    page = board.page("many")
    assert len(page["data"]["runs"]) == 50
    assert len(page["data"]["pictures"]) == 2000
    assert all(
        board.get(address + "&side=256").status_code == 200 for address in page["data"]["pictures"][::50]
    )


def test_a_log_folder_without_our_runs_has_no_groups(tmp_path: Path) -> None:
    empty = Board(tmp_path)
    assert empty.json("groups") == {"folder": str(tmp_path), "groups": []}
    assert empty.plugin.is_active() is False
    assert empty.get("page?group=.").status_code == 404
    assert empty.get("page").status_code == 404
    with SummaryWriter(str(tmp_path / "other")) as writer:
        writer.add_scalar("loss", 1.0, 1)
    assert empty.reload().json("groups")["groups"] == []
    _corridor(tmp_path)
    assert empty.reload().plugin.is_active() is True
    assert empty.get("page?group=elsewhere").status_code == 404
    assert empty.get("page?group=../secret").status_code == 404


def test_the_script_is_a_module_that_renders(tmp_path: Path) -> None:
    board = Board(tmp_path)
    answer = board.get("index.js")
    assert answer.content_type == "application/javascript; charset=utf-8"
    for part in ("export const render", "const STYLE = ", "const byId", "--ground"):
        assert part in answer.text
    assert board.post("groups").status_code == 405


def test_tensorboard_imports_little_at_its_start() -> None:
    code = (
        "import sys; import lightning_drift.tensorboard.plugin;"
        "names = {name.partition('.')[0] for name in sys.modules};"
        "print(*names & {'torch', 'lightning', 'PIL', 'jinja2'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_tensorboard_command_finds_the_tab_and_says_nothing_wrong(tmp_path: Path) -> None:
    logdir = tmp_path / "logs"
    _corridor(logdir)
    with Process(logdir, tmp_path / "scratch") as running:
        for _ in range(300):  # it reads event files after it has started
            groups = running.json("/data/plugin/corridor/groups")["groups"]
            if groups and running.json(f"/data/plugin/corridor/page?{groups[0]['query']}").get(
                "data", {}
            ).get("cells", [[{}]])[0][-1].get("zone"):
                break
            time.sleep(0.1)
        listing = running.json("/data/plugins_listing")["corridor"]
        assert (listing["tab_name"], listing["enabled"]) == ("Corridor", True)
        assert listing["loading_mechanism"] == {
            "type": "IFRAME",
            "module_path": "/data/plugin/corridor/index.js",
        }
        assert b"import(" in running.get("/data/plugin_entry.html?name=corridor")
        assert b"export const render" in running.get("/data/plugin/corridor/index.js")
        page = running.json("/data/plugin/corridor/page?group=coffee")
        assert [row[1]["zone"] for row in page["data"]["cells"]] == ["dreaming", "dreaming"]
        assert page["data"]["cells"][0][2]["reason"] == "Because of cooked."
        place = "/data/plugin/corridor/page?group=coffee"
        assert running.changed(place, running.etag(place)) == 304
        picture = running.get(f"/data/plugin/corridor/{page['data']['pictures'][0]}&side=256")
        assert Image.open(BytesIO(picture)).size == (16, 16)
    assert not re.search(r"error|traceback|exception|warning", running.log, re.IGNORECASE), running.log
