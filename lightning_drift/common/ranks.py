"""Which process of a run this one is, as launchers tell it by environment variables."""

import os
from dataclasses import dataclass

NUMBERS = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK"),
    *("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NNODES", "JSM_NAMESPACE_RANK"),
)
"""Variables of launchers that hold a number; Lightning reads some of them when it is imported."""

CHILD_RUN = "LIGHTNING_DRIFT_RUN"
"""Tells the processes of a multi-device run which folder the first one chose."""

_SHELLS = {"bash", "interactive"}
"""Names of SLURM jobs in which a person types, which Lightning takes for any machine."""


@dataclass(frozen=True)
class Launched:
    """A process of several that a launcher started together.

    Args:
        by: The launcher, ``torchrun`` or ``srun``.
        rank: This process, from 0 over all computers.
        world_size: Processes of the run.
        nodes: Computers that they are on.
    """

    by: str
    rank: int
    world_size: int
    nodes: int

    @property
    def per_node(self) -> int:
        """Processes on each computer."""
        return self.world_size // self.nodes


def launched() -> Launched | None:
    """What has started this process together with others; None where this process is the first or only one.

    None too for the children that Lightning starts by itself, for the only task of a SLURM job, and where
    the script of a job calls the command without ``srun``: these are as on any machine.
    """
    told = os.environ
    if {"TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"} <= told.keys():
        world = _number("WORLD_SIZE", 1)
        return Launched("torchrun", _number("RANK", 0), world, world // _number("LOCAL_WORLD_SIZE", world))
    if started_by_srun() and (tasks := _number("SLURM_NTASKS", 1)) > 1:
        return Launched("srun", _number("SLURM_PROCID", 0), tasks, _number("SLURM_NNODES", 1))
    return None


def in_slurm_job() -> bool:
    """Whether Lightning would take this process for one that SLURM started."""
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in _SHELLS


def started_by_srun() -> bool:
    """Whether ``srun`` started this process: a job's script has its variables but those of a step."""
    return in_slurm_job() and ("SLURM_STEP_ID" in os.environ or _number("SLURM_PROCID", 0) > 0)


def first_process() -> bool:
    """Whether this is the first or only process of a run, which speaks and writes for all."""
    if (place := launched()) is not None:
        return place.rank == 0
    if "RANK" in os.environ:
        return _number("RANK", 0) == 0
    if "LOCAL_RANK" in os.environ:
        return _number("LOCAL_RANK", 0) == _number("NODE_RANK", _number("GROUP_RANK", 0)) == 0
    return _number("JSM_NAMESPACE_RANK", 0) == 0


def _number(name: str, other: int) -> int:
    """A variable's number; what is none is refused before anything asks for it."""
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else other
