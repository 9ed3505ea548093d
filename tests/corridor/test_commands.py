"""The commands of a cell: only those that work, quoted for a shell."""

import shlex
from pathlib import Path

import pytest
import yaml
from helpers.corridor_runs import write_run

from lightning_drift.common.lock import FolderLock
from lightning_drift.corridor import commands
from lightning_drift.corridor.read import read


def resumed(folder: Path) -> list[str]:
    """What goes on with the last run in a folder, word by word, after ``lightning-drift fit``."""
    table = read(folder)
    words = shlex.split(commands.resume(table.runs[-1], commands.further(table)))
    assert words[:2] in ([], ["lightning-drift", "fit"])
    return words[2:]


def set_options(path: Path, **changes: object) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def test_a_run_is_resumed_by_the_configuration_that_ran_last(tmp_path: Path) -> None:
    run = write_run(tmp_path / "lr2e-6", 2e-6, (8, 16))
    last = ["--ckpt_path", "last"]
    # At its end it would have nothing left to do, so it is extended by the corridor's last stride.
    assert resumed(tmp_path) == ["-c", f"{run}/config.yaml", *last, "--trainer.max_steps", "24"]
    again = run / "config.resume-00008.yaml"
    again.write_bytes((run / "config.yaml").read_bytes())
    set_options(again, trainer={"max_steps": 40})
    assert resumed(tmp_path) == ["-c", str(again), *last]
    (run / "checkpoints" / "step=00040.ckpt").touch()
    assert resumed(tmp_path) == ["-c", str(again), *last, "--trainer.max_steps", "48"]


def test_a_fit_that_was_ended_at_a_zone_goes_on_without_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "lr2e-6", 2e-6, (8, 16), {8: ("cooked", None, 80.0)})
    (run / "checkpoints" / "step=00016.ckpt").unlink()
    for zone, rest in (("forgetting", ["--clip_drift.stop_when", "null"]), (None, [])):
        set_options(run / "config.yaml", clip_drift={"stop_when": zone})
        assert resumed(tmp_path)[4:] == rest


def test_what_cannot_go_on_is_not_offered(tmp_path: Path) -> None:
    run = write_run(tmp_path / "lr2e-6", 2e-6, (8, 16))
    lock = FolderLock(run, "run")
    assert resumed(tmp_path) == []  # a fit writes it
    lock.release()
    assert resumed(tmp_path)
    fit = (run / "config.yaml").read_bytes()
    set_options(run / "config.yaml", soup=[0, 1])
    table = read(tmp_path)
    assert resumed(tmp_path) == []
    made = commands.of_cell(table, table.cells["lr2e-6", 16], commands.resume(table.runs[0], 8))
    assert list(made) == ["export", "dream", "print"]
    (run / "config.yaml").write_bytes(fit)
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    table = read(tmp_path)
    assert commands.of_cell(table, table.cells["lr2e-6", 16], commands.resume(table.runs[0], 8)) == {}


def test_checkpoints_of_elsewhere_are_not_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine" / "lr2e-6", 2e-6, (8, 16))
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    for own, offered in ((False, False), (True, True)):
        table = read(tmp_path / "mine", own)
        assert bool(commands.resume(table.runs[0], 8)) is offered
        assert bool(commands.export(table, table.cells["lr2e-6", 8])) is offered


def test_folders_that_look_like_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("-odd\x1bname") / "lr2e-6", 2e-6, (8, 16))
    table = read(Path("-odd\x1bname"))
    assert commands.resume(table.runs[0], 8).startswith(
        "lightning-drift fit --config=$'-odd\\x1bname/lr2e-6/config.yaml' --ckpt_path last"
    )
    assert "--model.pipeline=$'-odd\\x1bname/" in commands.dream(table.cells["lr2e-6", 8])
