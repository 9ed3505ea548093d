"""``--launcher slurm``: jobs as an array of a SLURM cluster, through submitit."""

import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.ends import signal_of
from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import real, whole
from lightning_drift.launchers import process
from lightning_drift.launchers.extras import extra
from lightning_drift.launchers.job import Job, Launcher, Running
from lightning_drift.launchers.job_log import status_in

FOLDER = "slurm"
"""In the folder of a corridor or of pictures: the cluster's files about its jobs."""
WARNING = 120
"""Seconds before the time limit at which a job is told to end and is queued again."""


@dataclass(frozen=True)
class Slurm:
    """An array of jobs on a SLURM cluster.

    A job that is preempted or reaches its time limit ends in a resumable state and is queued again. Give the
    command on a machine that has sbatch, in a folder that the nodes share.

    Args:
        minutes: Time limit of a job.
        partition: The partition; by default the cluster's own.
        gpus: GPUs of a job; 0 where the jobs use the CPU.
        cpus: CPU cores of a job.
        memory: GiB of memory of a job; by default the cluster's own.
        account: Whom to charge.
        qos: Quality of service.
        constraint: Features of the nodes, such as ``a100|h100``.
        at_once: Jobs that run side by side, at most; by default as many as the cluster has room for, up to
            256.
        setup: Lines of shell that a job runs first, such as ``module load cuda``.
        sbatch: Further options of sbatch by name.
        cluster: ``slurm``; ``local`` runs the same jobs as processes of this machine, to try it.
    """

    minutes: int = 240
    partition: str | None = None
    gpus: int = 1
    cpus: int = 4
    memory: float | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    at_once: int | None = None
    setup: list[str] = field(default_factory=list)
    sbatch: dict[str, str] = field(default_factory=dict)
    cluster: Literal["slurm", "local"] = "slurm"

    def __post_init__(self) -> None:
        whole(self.minutes, "launcher.minutes", 5, 60 * 24 * 365)
        whole(self.gpus, "launcher.gpus", 0, 64)
        whole(self.cpus, "launcher.cpus", 1, 4096)
        if self.at_once is not None:
            whole(self.at_once, "launcher.at_once", 1, 100_000)
        if self.memory is not None:
            real(self.memory, "launcher.memory", 0.5, 100_000)

    def make(self, folder: Path, on_cpu: bool) -> Launcher:
        """The launcher.

        Raises:
            UserError: submitit is not installed.
        """
        submitit = extra("submitit", "slurm")
        return SlurmLauncher(submitit, self, folder / FOLDER, 0 if on_cpu else self.gpus)


class ArrayJob:
    """A job as submitit sends it to a node: called there, and asked there to end before it is queued again.

    Args:
        job: The job.
        folder: Its working folder.
        ended: The file that its exit status is written to.
        on_cpu: It uses no GPU.
    """

    def __init__(self, job: Job, folder: Path, ended: Path, on_cpu: bool) -> None:
        self.job, self.folder, self.ended, self.on_cpu = job, folder, ended, on_cpu

    def __call__(self) -> int:
        """Run it to its end; its exit status."""
        changes: dict[str, str | None] = {"CUDA_VISIBLE_DEVICES": ""} if self.on_cpu else {}
        self._running = process.start(self.job, changes, self.folder, last=True)
        status = process.finish(self._running)
        if signal_of(status) == "SIGTERM":  # the cluster takes the node away, or somebody cancels the job:
            raise SystemExit(status)  # its state, and not this, tells whether it comes back
        with atomic_write(self.ended) as file:
            file.write(f"{status}\n".encode())
        return status

    def checkpoint(self) -> Any:
        """The cluster takes the node away: end in order, and come back as the same job."""
        import submitit

        if (running := getattr(self, "_running", None)) is not None:
            process.stop(running)
        return submitit.helpers.DelayedSubmission(ArrayJob(self.job, self.folder, self.ended, self.on_cpu))


class SlurmRunning(Running):
    """A job of the cluster."""

    def __init__(self, job: Any, ended: Path) -> None:
        self._job, self._ended = job, ended
        self._status: int | None = None
        self.place = f"SLURM as job {job.job_id}"

    def poll(self) -> int | None:
        """Its exit status; None while it waits, runs, or is queued again."""
        if self._status is None and self._job.done():
            self._status = status_in(self._ended)
            state = str(self._job.state)
            if self._status is None and state.startswith("CANCELLED"):
                self.told, self._status = (
                    f"job {self._job.job_id} of SLURM was cancelled",
                    128 + signal.SIGTERM,
                )
            elif self._status is None:
                self.lost, self._status = f"SLURM ended job {self._job.job_id} ({state})", 1
        return self._status

    def interrupt(self) -> None:
        """Cancel it; the cluster sends its processes SIGTERM, and one that waits never begins."""
        self._job.cancel(check=False)

    def end(self, deadline: float) -> None:
        """Wait for it until a moment of ``time.monotonic()``; the cluster kills what does not end."""
        while time.monotonic() < deadline and not self._job.done(force_check=True):
            time.sleep(0.5)

    def kill(self) -> None:
        """The cluster does it."""
        self._job.cancel(check=False)


class SlurmLauncher(Launcher):
    """Hands jobs to a SLURM cluster, as one array where they are several.

    Args:
        submitit: The package.
        options: What was asked for.
        folder: For submitit's files; all nodes see it.
        gpus: GPUs of a job.
    """

    together = True

    def __init__(self, submitit: Any, options: Slurm, folder: Path, gpus: int) -> None:
        self._options, self._folder, self._gpus = options, folder, gpus
        self._submitit = submitit
        self._executor: Any = None

    def _made(self) -> Any:
        """The executor; the first jobs make it, since a dry run writes nothing."""
        if self._executor is not None:
            return self._executor
        o = self._options
        try:
            executor = self._submitit.AutoExecutor(folder=self._folder, cluster=o.cluster)
            parameters = {
                "timeout_min": o.minutes,
                "cpus_per_task": o.cpus,
                "gpus_per_node": self._gpus,
                "tasks_per_node": 1,
                "nodes": 1,
                "mem_gb": o.memory,
                "name": "lightning-drift",
                "stderr_to_stdout": True,
                "slurm_partition": o.partition,
                "slurm_account": o.account,
                "slurm_qos": o.qos,
                "slurm_constraint": o.constraint,
                "slurm_array_parallelism": o.at_once,
                "slurm_setup": o.setup or None,
                "slurm_signal_delay_s": WARNING,
                "slurm_additional_parameters": {"requeue": True, **o.sbatch},
            }
            executor.update_parameters(
                **{name: value for name, value in parameters.items() if value is not None}
            )
        except (RuntimeError, ValueError, TypeError, NameError, OSError, AssertionError) as error:
            raise UserError(f"submitit refuses: {' '.join(str(error).split())[:300]}", "launcher") from error
        self._executor = executor
        return executor

    def room(self) -> None:
        """The cluster lets jobs wait."""

    def launch(self, jobs: Sequence[Job]) -> list[Running]:
        """Submit them.

        Raises:
            UserError: The cluster refuses them.
        """
        executor, here = self._made(), Path.cwd()
        ended = [self._ended(job) for job in jobs]
        for path in ended:
            path.unlink(missing_ok=True)
        sent = [
            ArrayJob(Job(job.name, job.words, job.log), here, here / path, not self._gpus)
            for job, path in zip(jobs, ended, strict=True)
        ]
        try:
            with process.heard_interrupts():  # of the local executor, which is stopped by one
                submitted = executor.submit_array(sent) if len(sent) > 1 else [executor.submit(sent[0])]
        except (
            RuntimeError,
            OSError,
            subprocess.SubprocessError,
            self._submitit.core.utils.FailedJobError,
        ) as error:
            raise UserError(
                f"SLURM refuses the jobs: {' '.join(str(error).split())[:300]}", "launcher"
            ) from error
        for job, one in zip(jobs, submitted, strict=True):
            with atomic_write(self._record(job)) as file:
                file.write(f"{one.job_id}\n".encode())
        return [SlurmRunning(one, path) for one, path in zip(submitted, ended, strict=True)]

    def found(self, job: Job) -> Running | None:
        """The job that an earlier process submitted, where the cluster still has it."""
        if self._options.cluster != "slurm":
            return None
        record = self._record(job)
        if not record.is_file() or self._ended(job).exists():
            return None
        made = self._submitit.SlurmJob(self._folder, record.read_text().strip())
        return None if made.done(force_check=True) else SlurmRunning(made, self._ended(job))

    def _ended(self, job: Job) -> Path:
        return self._folder / f"{job.name}.status"

    def _record(self, job: Job) -> Path:
        return self._folder / f"{job.name}.job"

    def describe(self) -> str:
        """The cluster in words."""
        where = f", partition {self._options.partition}" if self._options.partition else ""
        return f"SLURM ({self._gpus} GPUs and {self._options.cpus} cores for each{where})"

    def places(self) -> int | None:
        """As many as may run side by side."""
        return self._options.at_once
