"""Run folders, ``tb_logs/<subject>/<run>``: where a fit writes, and what it resumes from."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lightning_drift.common.errors import UserError, notice
from lightning_drift.fit.checkpointing import read_checkpoint

CHILD_RUN = "LIGHTNING_DRIFT_RUN"
"""Environment variable: tells the processes of a multi-device run which folder the first one chose."""


@dataclass(frozen=True)
class Run:
    """Where a run's files lie, and where it goes on from.

    Args:
        root: The TensorBoard log folder, ``tb_logs``.
        subject: Groups the runs on one set of photos.
        name: The run's own folder.
        checkpoint: The checkpoint to go on from; None for a fresh start.
        step: That checkpoint's optimizer step, 0 for a fresh start.
    """

    root: Path
    subject: str
    name: str
    checkpoint: Path | None = None
    step: int = 0

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.root / self.subject / self.name


def choose_run(
    root: Path, subject: str | None, name: str | None, ckpt_path: str | None, default: tuple[str, str]
) -> Run:
    """Decide where a fit writes.

    With ``ckpt_path`` a named run goes on in its folder. Without it nothing is written into a run that
    exists: a fresh start gets a new folder beside it.

    Args:
        root: The TensorBoard log folder.
        subject: The configured subject; None for the default.
        name: The configured run; None for a new one.
        ckpt_path: ``last``, a checkpoint file, or None.
        default: Subject and the beginning of a new run's name.

    Raises:
        UserError: If there is nothing to resume.
    """
    subject = subject or safe_name(default[0])
    if name is not None and ckpt_path is not None:
        checkpoint = find_checkpoint(ckpt_path, root / subject / name)
        return Run(root, subject, name, checkpoint, int(read_checkpoint(checkpoint)["global_step"]))
    if name is None or _used(root / subject / name):
        former = name
        name = _new_name(root / subject, safe_name(default[1]))
        if former is not None:
            notice(
                f"{root / subject / former} holds a run; starting afresh in {root / subject / name} "
                "(pass --ckpt_path last to go on with it)"
            )
    if ckpt_path is None:
        return Run(root, subject, name)
    if ckpt_path == "last":
        raise UserError(
            "'last' is the last checkpoint of a run, and no run is named; pass the run's own "
            f"configuration: lightning-drift fit -c {root}/<subject>/<run>/config.yaml --ckpt_path last",
            "ckpt_path",
        )
    checkpoint = find_checkpoint(ckpt_path, root / subject / name)
    return Run(root, subject, name, checkpoint, int(read_checkpoint(checkpoint)["global_step"]))


def find_checkpoint(ckpt_path: str, folder: Path) -> Path:
    """Resolve ``last``, the newest checkpoint of a run that can be read, or a file name.

    Args:
        ckpt_path: ``last`` or a file name.
        folder: The run folder that ``last`` is looked for in.

    Raises:
        UserError: There is no such checkpoint, or none of the run's can be read.
    """
    if ckpt_path != "last":
        path = Path(ckpt_path)
        if not path.is_file():
            raise UserError(f"there is no checkpoint {path}", "ckpt_path")
        return path
    steps, damaged = checkpoint_steps(folder)
    for path in damaged:
        notice(f"{path} cannot be read and is passed over")
    if not steps:
        what = "no checkpoint that can be read" if damaged else "no checkpoint to resume from"
        raise UserError(
            f"{folder} holds {what}; start afresh without --ckpt_path, or name a file", "ckpt_path"
        )
    # After a kill between two saves the newest step checkpoint can be ahead of last.ckpt.
    return max(steps, key=lambda path: (steps[path], path.name == "last.ckpt"))


def checkpoint_steps(folder: Path) -> tuple[dict[Path, int], list[Path]]:
    """A run folder's checkpoints: those that can be read, with their steps, and those that cannot."""
    steps: dict[Path, int] = {}
    damaged: list[Path] = []
    for path in sorted(path for path in (folder / "checkpoints").glob("*.ckpt") if path.is_file()):
        try:
            steps[path] = int(read_checkpoint(path)["global_step"])
        except UserError:
            damaged.append(path)
    return steps, damaged


def run_name(version: int | str | None) -> str | None:
    """The run's folder that a logger's ``version`` names; Lightning makes ``version_3`` of the number 3.

    >>> run_name(3)
    'version_3'
    """
    return f"version_{version}" if isinstance(version, int) else version


def rate_text(rate: float) -> str:
    """A learning rate as people write it.

    >>> rate_text(0.00016)
    '1.6e-4'
    """
    mantissa, _, exponent = f"{rate:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def rate_name(rate: float) -> str:
    """What the name of a run at a learning rate begins with.

    >>> rate_name(2e-6)
    'lr2e-6'
    """
    return f"lr{rate_text(rate)}"


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, if it lies in one."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None


def safe_name(text: str) -> str:
    """A folder name: letters, digits, dots, hyphens and underscores."""
    return re.sub(r"[^\w.\-]+", "-", text).strip("-.") or "run"


def _used(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _new_name(folder: Path, stem: str) -> str:
    if "LOCAL_RANK" in os.environ and CHILD_RUN in os.environ:
        return os.environ[CHILD_RUN]
    number = 0
    while _used(folder / f"{stem}_{number:03d}"):
        number += 1
    os.environ[CHILD_RUN] = name = f"{stem}_{number:03d}"
    return name
