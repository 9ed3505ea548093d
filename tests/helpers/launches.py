"""Commands of several processes, as torchrun and srun start them."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

COMMAND = [sys.executable, "-m", "lightning_drift"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
BOTH = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]


def torchrun(*words: str, more: Sequence[str] = ("--standalone", "--nproc_per_node=2")) -> list[str]:
    """The words of ``torchrun`` with a command of the package."""
    return [*TORCHRUN, *more, "-m", "lightning_drift", *words]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def surroundings(**more: str) -> dict[str, str]:
    """The environment without what an earlier launch has left in it."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "LIGHTNING_", "PL_", "TORCHEL"))
    }
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def slurm(rank: int, port: int, tasks: int = 2) -> dict[str, str]:
    """What ``srun --ntasks-per-node`` tells a task on one computer."""
    return surroundings(
        SLURM_JOB_ID="4242", SLURM_JOB_NAME="drift", SLURM_STEP_ID="0", SLURM_NTASKS=str(tasks),
        SLURM_NTASKS_PER_NODE=str(tasks), SLURM_NNODES="1", SLURM_NODEID="0", SLURM_NODELIST="localhost",
        SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip


def begin(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(words: Sequence[str], folder: Path) -> tuple[int, str, str]:
    """Run a command to its end: status, output and errors."""
    process = begin(words, folder, surroundings())
    out, err = process.communicate(timeout=180)
    return process.returncode, out, err


def srun(folder: Path, *words: str, tasks: int = 2) -> list[tuple[int, str, str]]:
    """Run a command as ``srun`` does: status, output and errors of each task."""
    port = free_port()
    processes = [begin([*COMMAND, *words], folder, slurm(rank, port, tasks)) for rank in range(tasks)]
    outputs = [process.communicate(timeout=180) for process in processes]
    return [(p.returncode, *output) for p, output in zip(processes, outputs, strict=True)]
