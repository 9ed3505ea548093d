"""A corridor whose fits are jobs of an engine, and one that two people start."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.corridors import end_corridors, say, start_corridor, until
from helpers.paths import DATA

from lightning_drift.common.lock import holder
from lightning_drift.corridor.read import read
from lightning_drift.fit.checkpoint_file import read_checkpoint

OPTIONS = [
    f"--model.pipeline={DATA / 'tiny_sd'}",
    "--model.log_every_n_steps=1",
    "--trainer.accelerator=cpu",
    "--seed_grid.num_inference_steps=1",
    "--seed_grid.groups={dream: {prompts: 'a tree, a moon', seeds: 0-1}}",
    "--step_checkpoint.last_every_n_steps=1",
]
CORRIDOR = Path("tb_logs/coffee/corridor")


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    end_corridors()


def started(folder: Path, *options: str) -> "subprocess.Popen[bytes]":
    return start_corridor(folder, *OPTIONS, *options)


def test_of_two_that_start_a_corridor_one_works_and_the_other_says_who_does(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / CORRIDOR
    first = started(tmp_path, "--lr=1e-4", "--steps=2,100000")
    try:
        until(first, lambda: (place / "lr1e-4/checkpoints/last.ckpt").exists(), tmp_path)
        begun = {path: path.stat().st_mtime_ns for path in (place / "plan.yaml", place / "fit.yaml")}
        status, out, err = say(capsys, *OPTIONS, "--lr=1e-4,2e-4", "--steps=2,100000")
        assert status == 2
        assert f"the corridor {CORRIDOR} is being written by process {first.pid} on " in err
        assert out == ""
        # A job that is given twice does nothing the second time, whoever has it.
        status, out, err = say(capsys, "fit", str(CORRIDOR), "lr1e-4")
        assert status == 2
        assert f"the run {CORRIDOR}/lr1e-4 is being written by process " in err
        assert {path: path.stat().st_mtime_ns for path in begun} == begun
        assert not (place / "lr2e-4").exists()
    finally:
        first.send_signal(signal.SIGINT)
    assert first.wait(120) == 130
    assert holder(place) is None
    assert read_checkpoint(place / "lr1e-4/checkpoints/last.ckpt")["global_step"] >= 1

    (tmp_path / "elsewhere").mkdir()
    for words, sentence in (
        (["fit", str(CORRIDOR), "lr2e-4"], "'lr2e-4' is no fit of tb_logs/coffee/corridor; they are lr1e-4"),
        (["fit", "tb_logs", "lr1e-4"], "tb_logs is no corridor's folder"),
        (["fit", str(CORRIDOR)], "run"),
    ):
        status, _, err = say(capsys, *words)
        assert status == 2
        assert sentence in err
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, _, err = say(capsys, "fit", str(place), "lr1e-4")
    assert status == 2
    assert "start this where it was begun" in err


def check_same(one: Path, other: Path) -> None:
    """Two corridors hold the same weights, optimizer states, curves, pictures and page."""
    first, second = read(one, own=True), read(other, own=True)
    assert [run.name for run in first.runs] == [run.name for run in second.runs]
    for run, twin in zip(first.runs, second.runs, strict=True):
        for path in sorted(run.folder.glob("checkpoints/step=*.ckpt")):
            here, there = read_checkpoint(path), read_checkpoint(twin.folder / path.relative_to(run.folder))
            for key in ("state_dict", "optimizer_states"):
                mine, its = leaves(here[key]), leaves(there[key])
                assert len(mine) == len(its)
                for value, same in zip(mine, its, strict=True):
                    assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same
        assert run.scalars == twin.scalars
        for path in sorted(run.folder.glob("grids/**/*.png")):
            assert path.read_bytes() == (twin.folder / path.relative_to(run.folder)).read_bytes()
    pages = [(place / "corridor.html").read_text() for place in (one, other)]
    # A run that was gone on with is gone on with by its newest configuration.
    assert len({re.sub(r"config\.resume-\d+\.yaml", "config.yaml", page) for page in pages}) == 1


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


@pytest.mark.slow
def test_a_node_of_a_ray_cluster_is_lost_and_its_fit_goes_on_on_the_other(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    rates, steps = "--lr=1e-4,2e-4,3e-4", "--steps=2,40"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        place, said = tmp_path / "ray" / CORRIDOR, tmp_path / "ray" / "said.txt"
        driver = started(
            tmp_path / "ray", rates, steps, "--launcher=ray", f"--launcher.address={cluster.address}"
        )
        begun = [place / name / "checkpoints/step=00002.ckpt" for name in ("lr1e-4", "lr2e-4")]
        until(driver, lambda: all(path.exists() for path in begun), tmp_path / "ray")
        cluster.remove_node(nodes[0], allow_graceful=False)
        assert driver.wait(300) == 0, said.read_text()
    finally:
        cluster.shutdown()
    text = said.read_text()
    print(text)
    assert len(re.findall(r"its machine was lost \(\w+\); it goes on from where it was", text)) == 1
    assert re.search(r"lr [12]e-4: fitting from step \d+ on Ray", text)

    assert started(tmp_path / "local", rates, steps).wait(300) == 0
    check_same(place, tmp_path / "local" / CORRIDOR)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["slurm", "command"])
def test_what_runs_the_fits_changes_nothing_of_the_corridor(engine: str, tmp_path: Path) -> None:
    options = {
        "slurm": ["--launcher=slurm", "--launcher.cluster=local", "--launcher.cpus=1"],
        "command": ["--launcher=command", "--launcher.run=sh -c {line}"],
    }[engine]
    rates, steps = "--lr=1e-4,2e-4,3e-4", "--steps=2,20"
    assert started(tmp_path / engine, rates, steps, *options).wait(300) == 0
    assert started(tmp_path / "local", rates, steps).wait(300) == 0
    check_same(tmp_path / engine / CORRIDOR, tmp_path / "local" / CORRIDOR)
    # The driver is started again, and finds all of it done.
    assert started(tmp_path / engine, rates, steps, *options).wait(120) == 0
    assert "lr 3e-4: 2, 20 are finished" in (tmp_path / engine / "said.txt").read_text()
