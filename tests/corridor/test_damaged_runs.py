"""A report of runs that are damaged, foreign or hostile: what can be read is shown, the rest is named."""

import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.corridor_runs import config, write_run
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from lightning_drift.cli import main
from lightning_drift.common.prompt_lists import slug
from lightning_drift.corridor.plan import Row, make_plan, take_up
from lightning_drift.corridor.read import read
from lightning_drift.corridor.report import write_report

DREAM = {8: ("dreaming", None, 41.0)}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs, of which the first is to be damaged."""
    folder = tmp_path / "subject"
    write_run(folder / "a", 1e-6, (8,), DREAM)
    write_run(folder / "b", 2e-6, (8,), DREAM)
    return folder


def report(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Status, standard error and the page of ``corridor report``."""
    page = folder.parent / "page.html"
    page.unlink(missing_ok=True)
    capsys.readouterr()
    status = main(["corridor", "report", str(folder), "--to", str(page)])
    return status, capsys.readouterr().err, page.read_text() if page.exists() else ""


def data(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="corridor">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def with_(**changes: Any) -> str:
    return yaml.safe_dump(config(1e-6, (8,)) | changes)


CONFIGS = {
    "list": "[1, 2]",
    "empty": "",
    "number": "3",
    "no YAML": "a: [b",
    "alias to itself": "a: &a [*a]",
    "alias bomb": "\n".join(
        ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))]
    ),
    "object": "!!python/object/apply:os.system ['true']",
    "not UTF-8": b"\xff\xfe\xff",
    "numbers as names": "1: 2",
    "grid of a number": with_(seed_grid=3),
    "grid of a list": with_(seed_grid=["a"]),
    "groups of a text": with_(seed_grid={"groups": "abc"}),
    "group of a number": with_(seed_grid={"groups": {"a": 3}}),
    "group without prompts": with_(seed_grid={"groups": {"a": {"seeds": "0"}}}),
    "prompts of numbers": with_(seed_grid={"groups": {"a": {"prompts": [1, None]}}}),
    "seeds that are none": with_(seed_grid={"groups": {"a": {"prompts": "x", "seeds": "abc"}}}),
    "too many seeds": with_(seed_grid={"groups": {"a": {"prompts": "x", "seeds": "0-99999"}}}),
    "rate of a text": with_(model={"init_args": {"learning_rate": "abc"}}),
    "rate of a list": with_(model={"init_args": {"learning_rate": [1]}}),
    "rate that is infinite": with_(model={"init_args": {"learning_rate": ".inf"}}),
    "rate that is no number": with_(model={"init_args": {"learning_rate": float("nan")}}),
    "negative rate": with_(model={"init_args": {"learning_rate": -1.0}}),
    "model of a text": with_(model="x"),
    "arguments of a list": with_(data={"init_args": [1]}),
    "trainer of a list": with_(trainer=[1]),
    "checkpoints of a number": with_(step_checkpoint={"dirpath": 3}),
    "checkpoints of a zero byte": with_(step_checkpoint={"dirpath": "a\0b"}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_damaged_config_is_named_and_the_others_are_shown(
    name: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = CONFIGS[name]
    path = runs / "a" / "config.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    status, err, text = report(runs, capsys)
    assert status == 0
    assert f"{path} " in err
    assert "is not a run's config" in err
    assert len(err.splitlines()) == 1
    assert [run["name"] for run in data(text)["runs"]] == ["b"]
    status, err, text = report(runs / "a", capsys)
    assert (status, text) == (2, "")
    assert re.fullmatch(rf"error: {re.escape(str(path))} .*is not a run's config: .*\n", err)


@pytest.mark.parametrize("what", ["logger", "instance_dir", "optimizer", "stop_when"])
@pytest.mark.parametrize("value", [3, [1], {"a": 1}, "x" * 10_000, None, "a\0b"])
def test_odd_values_of_the_recipe_are_shown_as_text(
    what: str, value: Any, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = config(1e-6, (8,)) | {"clip_drift": {}}
    place = {
        "logger": odd["trainer"],
        "instance_dir": odd["data"]["init_args"],
        "optimizer": odd["model"]["init_args"],
        "stop_when": odd["clip_drift"],
    }[what]
    place[what] = value
    (runs / "a" / "config.yaml").write_text(yaml.safe_dump(odd))
    status, _, text = report(runs, capsys)
    assert status == 0
    assert len(data(text)["runs"]) == 2


def write_events(folder: Path, **scalars: float) -> None:
    with SummaryWriter(str(folder)) as writer:
        for tag, value in scalars.items():
            writer.add_scalar(f"drift/{tag}", value, 8)


def events_of(folder: Path) -> Path:
    (path,) = folder.glob("events.out.tfevents.*")
    return path


def other(path: Path) -> Path:
    return path.with_name("events.out.tfevents.9.other")


def huge_length(path: Path) -> None:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    head = struct.pack("<Q", 2**62)
    other(path).write_bytes(head + struct.pack("<I", masked_crc32c(head)) + b"x" * 100)


def no_event(path: Path) -> None:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    head, body = struct.pack("<Q", 4), b"\xff" * 4
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (head, body)]
    other(path).write_bytes(head + sums[0] + body + sums[1])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    other(path).write_bytes(content)


EVENTS: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: other(path).write_bytes(path.read_bytes()[:-9]),
    "cut in its first bytes": lambda path: other(path).write_bytes(path.read_bytes()[:5]),
    "random bytes": lambda path: other(path).write_bytes(bytes(range(256)) * 9),
    "huge length": huge_length,
    "no event": no_event,
    "a flipped bit": flipped,
    "pipe": lambda path: os.mkfifo(other(path)),
    "folder": lambda path: other(path).mkdir(),
    "device": lambda path: other(path).symlink_to("/dev/zero"),
    "link to itself": lambda path: other(path).symlink_to(other(path).name),
}


@pytest.mark.parametrize("name", EVENTS)
def test_a_damaged_event_file_ends_itself_only(
    name: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    EVENTS[name](events_of(runs / "a"))
    status, err, text = report(runs, capsys)
    assert status == 0
    assert str(other(events_of(runs / "b"))).replace("/b/", "/a/").rpartition("/")[2] in err
    assert len(err.splitlines()) == 1
    assert data(text)["cells"][0][1]["zone"] == "dreaming"


def test_an_empty_event_file_is_one(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events_of(runs / "a").write_bytes(b"")
    status, err, text = report(runs, capsys)
    assert (status, err) == (0, "")
    assert data(text)["cells"][0][1]["state"] == "not measured"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-45, 1e-13, 0.0])
def test_odd_numbers_cost_no_page(value: float, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = ("position", "zone", "borderline", "adherence", "tilt", "language", "of_my_own")
    write_events(runs / "a", **dict.fromkeys(tags, value))
    with SummaryWriter(str(runs / "a")) as writer:
        writer.add_scalar("corridor/tilt_dreaming", value, 0)
        writer.add_scalar("train/loss", value, 3)
        writer.add_scalar("drift/tilt", -value, 9)
        writer.add_text("drift/verdict", '{"zone": [' + "x" * 10_000, 8)
    status, err, text = report(runs, capsys)
    assert (status, err) == (0, "")
    assert len(data(text)["cells"]) == 2


ODD_STEPS = (
    "step=99999999999999999999",
    "step=" + "9" * 240,
    "step=-1",
    "step=١٢",
    "step=x",
    "step=\udce9",
    "step=\n",
)


def test_odd_step_folders_are_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ODD_STEPS:
        (runs / "a" / "grids" / name).mkdir()
    status, err, text = report(runs, capsys)
    assert status == 0
    assert len(err.splitlines()) == 1
    assert "which are no steps of a fit" in err
    assert data(text)["steps"] == [0, 8]


def test_names_that_are_not_utf8_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "caf\udce9" / "subject"
    for name, rate in (("a\udcff", 1e-6), ("b", 1e-6)):
        folder.mkdir(parents=True, exist_ok=True)
        write_run(tmp_path / "run", rate, (8,), DREAM).rename(folder / name)  # TensorBoard's own writer fails
    page = folder / "corridor.html"
    assert main(["corridor", "report", str(folder)]) == 0
    text = page.read_text(encoding="utf-8")
    assert [run["name"] for run in data(text)["runs"]] == ["a\udcff", "b"]
    assert "caf\\udce9" in text


PICTURES: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "empty": lambda path: path.write_bytes(b""),
    "a web page": lambda path: path.write_bytes(b"<html>"),
    "a bomb": lambda path: Image.new("1", (20_000, 20_000)).save(path),
    "may not be opened": lambda path: (path.unlink(), path.symlink_to("/proc/kcore")),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_damaged_picture_costs_itself_only(
    name: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next((runs / "a" / "grids" / "step=00008").iterdir())
    PICTURES[name](path)
    status, err, text = report(runs, capsys)
    assert status == 0
    assert len(err.splitlines()) == (0 if "opened" in name else 1)
    assert name.startswith("may") or str(path) in err
    used = [place for row in data(text)["cells"][0][1]["pictures"] for place in row]
    assert sorted(place >= 0 for place in used) == [False, True, True, True]
    with Image.open(runs.parent / "page.png") as sheet:
        assert sheet.width > 192


def test_a_picture_that_is_a_pipe_or_a_folder_is_not_there(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, make in zip(
        (runs / "a" / "grids" / "step=00008").iterdir(), (os.mkfifo, Path.mkdir), strict=False
    ):
        path.unlink()
        make(path)
    (runs / "a" / "instance_images.png").mkdir()
    os.mkfifo(runs / "a.error.txt")
    os.mkfifo(runs / "a" / "config.resume-00008.yaml")
    status, err, _ = report(runs, capsys)
    assert status == 0
    assert len(err.splitlines()) == 1
    assert "config.resume-00008.yaml is a pipe" in err


def test_a_corridors_damaged_run_stands_as_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = config(1e-6, (8,))
    fit["trainer"]["logger"]["init_args"]["save_dir"] = str(tmp_path)
    plan = take_up(make_plan(fit, "1e-6,2e-6", "8", "corridor"))
    write_run(plan.run(Row(1e-6)), 1e-6, (8,), DREAM)
    (plan.run(Row(1e-6)) / "config.yaml").write_text("[1]")
    status, err, text = report(plan.folder, capsys)
    assert status == 0
    assert "is not a run's config" in err
    assert data(text)["cells"][0][1]["zone"] == "dreaming"
    for name, content in (
        ("plan.yaml", "lr: [abc]\nsteps: [8]"),
        ("plan.yaml", "[]"),
        ("fit.yaml", "seed_grid: 3"),
    ):
        before = (plan.folder / name).read_text()
        (plan.folder / name).write_text(content)
        status, err, _ = report(plan.folder, capsys)
        assert status == 2
        assert re.fullmatch(r"error: .*\n", err)
        (plan.folder / name).write_text(before)


@pytest.mark.parametrize("kind", ["gone", "file", "pipe", "empty"])
def test_what_is_no_folder_of_runs_is_a_sentence(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a\x1b[2J"
    make: dict[str, Callable[[Path], object]] = {"file": Path.touch, "pipe": os.mkfifo, "empty": Path.mkdir}
    make.get(kind, lambda _: None)(folder)
    status, err, _ = report(folder, capsys)
    assert status == 2
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err


# -- what lies outside --------------------------------------------------------------------------------------


def secret(path: Path) -> Path:
    """A picture that may not be shown, of a colour that nothing else has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((100, 100), 200).convert("RGB").save(path)
    return path


def pictures_of(text: str) -> set[str]:
    return set(re.findall(r"data:image/webp;base64,[\w+/=]+", text))


def test_a_page_holds_nothing_from_outside_its_folder(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, before = report(runs, capsys)
    outside = tmp_path / "outside"
    photo = secret(outside / "photos" / "private.png")
    (outside / "prompts.txt").write_text("my secret prompt\n")
    (outside / "config.yaml").write_text(with_(seed_grid={"groups": {"a": {"prompts": "my secret prompt"}}}))
    for run in (runs / "a", runs / "b"):
        foreign = config(1e-6, (8,))
        foreign["data"]["init_args"]["instance_dir"] = str(photo.parent)
        foreign["seed_grid"]["groups"]["dream"]["prompts"] = str(outside / "prompts.txt")
        (run / "config.yaml").write_text(yaml.safe_dump(foreign))
        (run / "instance_images.png").symlink_to(photo)
        picture = run / "grids" / "step=00008" / f"{slug(str(outside / 'prompts.txt'))}_seed0000.png"
        picture.symlink_to(photo)
        (run / "config.resume-00008.yaml").symlink_to(outside / "config.yaml")
        (runs / f"{run.name}.error.txt").symlink_to(outside / "prompts.txt")
        (run / "events.out.tfevents.9").symlink_to(events_of(run))  # which lies inside
    (runs / "c").mkdir()
    (runs / "c" / "config.yaml").symlink_to(outside / "config.yaml")
    (runs / "c" / "events.out.tfevents.1").touch()
    write_run(outside / "d", 4e-6, (8,), DREAM, prompts=("one more secret", "b"))
    (runs / "d").symlink_to(outside / "d")
    status, err, text = report(runs, capsys)
    assert status == 0, err
    assert "secret" not in text.replace(str(outside), "")
    assert pictures_of(text) <= pictures_of(before)
    assert [run["name"] for run in data(text)["runs"]] == ["a", "b"]
    assert err.count("leads out of") == 6


@pytest.mark.parametrize("way", ["dirpath", "folder", "file"])
def test_a_command_to_copy_names_no_checkpoint_of_elsewhere(
    way: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "step=00008.ckpt").touch()
    for run in (runs / "a", runs / "b"):
        shutil.rmtree(run / "checkpoints")
        if way == "dirpath":
            place = with_(step_checkpoint={"steps": "8", "dirpath": str(elsewhere)})
            (run / "config.yaml").write_text(place)
        elif way == "folder":
            (run / "checkpoints").symlink_to(elsewhere)
        else:
            (run / "checkpoints").mkdir()
            (run / "checkpoints/step=00008.ckpt").symlink_to(elsewhere / "step=00008.ckpt")
    status, _, text = report(runs, capsys)
    assert status == 0
    assert "lightning-drift export" not in text
    assert "was not kept, or lies elsewhere" in text
    assert "step=00008.ckpt" not in text
    cell = read(runs, own=True).cells["a", 8]
    assert cell.checkpoint is not None


def test_photos_inside_the_folder_and_ones_own_are_shown(runs: Path, tmp_path: Path) -> None:
    mine = config(1e-6, (8,))
    for place, own, shown in (
        (runs / "photos", False, 1),
        (tmp_path / "elsewhere", False, 0),
        (tmp_path / "elsewhere", True, 1),
    ):
        secret(place / "private.png")
        mine["data"]["init_args"]["instance_dir"] = str(place)
        (runs / "a" / "config.yaml").write_text(yaml.safe_dump(mine))
        write_report(runs, tmp_path / "page.html", own=own)
        assert (tmp_path / "page.html").read_text().count('alt="photo private.png"') == shown


def test_ones_own_links_are_followed(runs: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "disk" / "c", 4e-6, (8,), DREAM)
    (runs / "c").symlink_to(tmp_path / "disk" / "c")
    assert [run.name for run in read(runs).runs] == ["a", "b"]
    assert [run.name for run in read(runs, own=True).runs] == ["a", "b", "c"]


def test_copied_commands_take_no_value_for_an_option_or_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("-r\x15un"), 1e-6, (8,), DREAM, subject="--overwrite\x03")
    assert main(["corridor", "report", "./-r\x15un", "--to", "page.html"]) == 0
    text = Path("page.html").read_text()
    commands = re.findall(r'<code id="(?:export|dream)"[^>]*>(.*?)</code>', text)
    assert len(commands) == 2
    assert "--title=$&#39;--overwrite\\x03-" in commands[0]
    assert all("=$&#39;-r\\x15un/" in command for command in commands)
