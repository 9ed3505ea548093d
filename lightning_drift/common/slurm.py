"""SLURM, as the Trainer is told of it: a fit goes on by ``--ckpt_path`` alone."""

from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

from lightning_drift.common.ranks import in_slurm_job, launched


def slurm_environment() -> ClusterEnvironment | None:
    """What tells the Trainer of its fellow processes in a SLURM job; None elsewhere, and under torchrun.

    Lightning's own choice would answer SIGUSR1 with a checkpoint of its own and queue the job again. And it
    would take a job's script, or its only task, for one of several that are never started: such a process
    is as on any machine.
    """
    if not in_slurm_job() or TorchElasticEnvironment.detect():
        return None
    place = launched()
    return LightningEnvironment() if place is None else SLURMEnvironment(auto_requeue=False)


class _NamedCheckpoints(_CheckpointConnector):
    """Goes on from the checkpoint that is named, and from none where none is."""

    _hpc_resume_path = None


def pass_over_requeued(trainer: Any) -> None:
    """Have a Trainer begin afresh where no checkpoint is named.

    In a SLURM job Lightning would prefer an ``hpc_ckpt_1.ckpt`` that lies in the working folder.
    """
    trainer._checkpoint_connector.__class__ = _NamedCheckpoints
