"""``--launcher ray``: jobs as tasks of a Ray cluster, which queues and places them."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_drift.common import ends
from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import real, whole
from lightning_drift.launchers.extras import extra
from lightning_drift.launchers.job import Job, Launcher, Running
from lightning_drift.launchers.process import run_here


@dataclass(frozen=True)
class Ray:
    """Tasks of a Ray cluster; one of this machine is started where there is none.

    Args:
        address: The cluster, such as ``auto`` or ``10.0.0.1:6379``; ``local`` starts one on this machine. By
            default ``RAY_ADDRESS``, or the cluster that this machine belongs to, or else one that is started.
        gpus: GPUs of a job; by default one, or none where the cluster has no GPU. A half puts two on a GPU.
        cpus: CPU cores of a job.
    """

    address: str | None = None
    gpus: float | None = None
    cpus: int = 1

    def __post_init__(self) -> None:
        if self.gpus is not None:
            real(self.gpus, "launcher.gpus", 0, 64)
        whole(self.cpus, "launcher.cpus", 1, 4096)

    def make(self, folder: Path, on_cpu: bool) -> "RayLauncher":
        """Join the cluster.

        Raises:
            UserError: Ray is not installed, the cluster does not answer, or it has no room for a job at all.
        """
        del folder
        ray = extra("ray", "ray")
        if not ray.is_initialized():
            try:
                ray.init(
                    address=self.address, log_to_driver=False, include_dashboard=None, logging_level="error"
                )
            except (ConnectionError, ValueError, RuntimeError, OSError) as error:
                raise UserError(
                    f"Ray does not answer: {' '.join(str(error).split())[:300]}", "launcher.address"
                ) from error
        # Of a lost machine Ray prints forty lines of its daemon's state; this program says what is done.
        ray._private.worker._worker_logs_enabled = False
        ends.listen_again()  # Ray takes SIGTERM
        has = ray.cluster_resources()
        gpus = self.gpus if self.gpus is not None else float(has.get("GPU", 0) >= 1 and not on_cpu)
        if on_cpu and gpus:
            raise UserError("the jobs use the CPU (trainer.accelerator); leave it out", "launcher.gpus")
        for kind, needed in (("GPU", gpus), ("CPU", self.cpus)):
            most = max((node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]), default=0)
            if needed > most:
                raise UserError(
                    f"no machine of the cluster has {needed:g} {kind}s; the largest has {most:g}",
                    f"launcher.{kind.lower()}s",
                )
        return RayLauncher(ray, gpus, self.cpus)


def on_a_node(gpus: float, cpus: int) -> dict[str, str | None]:
    """The environment variables of a job on a node, where Ray has set what it may see."""
    changes: dict[str, str | None] = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cpus))}
    if not gpus:
        changes["CUDA_VISIBLE_DEVICES"] = ""
    return changes


def _run(job: Job, folder: Path, gpus: float, cpus: int) -> int:
    """What a task does; Ray has chosen the machine."""
    return run_here(job, on_a_node(gpus, cpus), folder)


class RayRunning(Running):
    """A task of a Ray cluster."""

    place = "Ray"

    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self._reference = ray, reference
        self._status: int | None = None

    def poll(self) -> int | None:
        """The job's exit status; None while it waits or runs."""
        if self._status is None and self._ray.wait([self._reference], timeout=0)[0]:
            self._status = self._ended()
        return self._status

    def _ended(self) -> int:
        errors = self._ray.exceptions
        try:
            return int(self._ray.get(self._reference))
        except errors.TaskCancelledError:
            return 130
        except errors.OutOfMemoryError:
            self.told = "Ray ended it: the memory of its machine was full"
            return 1
        except errors.RayTaskError as error:  # of this package's function on the node
            if isinstance(error.cause, KeyboardInterrupt):
                return 130
            self.told = f"it could not be started on a node of the Ray cluster: {error.cause!r}"
            return 1
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.RayError) as error:
            self.lost = f"its machine was lost ({type(error).__name__})"
            return 1

    def interrupt(self) -> None:
        """Cancel the task: its process is interrupted, and one that waits never begins."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.cancel(self._reference, force=False)

    def end(self, deadline: float) -> None:
        """Wait for it until a moment of ``time.monotonic()``; then end its worker, and the process too."""
        with suppress(self._ray.exceptions.RayError):
            if not self._ray.wait([self._reference], timeout=max(0.1, deadline - time.monotonic()))[0]:
                self._ray.cancel(self._reference, force=True)


class RayLauncher(Launcher):
    """Hands jobs to a Ray cluster.

    Args:
        ray: The package, joined to a cluster.
        gpus: GPUs of a job.
        cpus: CPU cores of a job.

    Attributes:
        gpus: GPUs of a job.
        cpus: CPU cores of a job.
    """

    def __init__(self, ray: Any, gpus: float, cpus: int) -> None:
        self._ray, self.gpus, self.cpus = ray, gpus, cpus
        # No retries: a lost job goes on from its files, which this program knows better.
        self._task = ray.remote(num_gpus=gpus, num_cpus=cpus, max_retries=0)(_run)

    def room(self) -> None:
        """Ray lets jobs wait."""

    def launch(self, jobs: Sequence[Job]) -> list[Running]:
        """Hand tasks over."""
        here = Path.cwd()
        started: list[Running] = []
        for job in jobs:
            sent = Job(job.name, job.words, job.log)  # descriptors mean nothing elsewhere
            reference = self._task.options(name=job.name).remote(sent, here, self.gpus, self.cpus)
            started.append(RayRunning(self._ray, reference))
        return started

    def describe(self) -> str:
        """The cluster in words."""
        has = self._ray.cluster_resources()
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        machines = f"{nodes} machine{'s' * (nodes != 1)}"
        return f"Ray ({machines}, {has.get('GPU', 0):g} GPUs, {has.get('CPU', 0):g} cores)"

    def places(self) -> int:
        """As many as the cluster has room for when it is empty."""
        has = self._ray.cluster_resources()
        room = [int(has.get("CPU", 0) // self.cpus)]
        if self.gpus:
            room.append(int(has.get("GPU", 0) / self.gpus))
        return max(1, min(room))

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()
