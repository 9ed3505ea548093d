"""Checkpoints at chosen steps, complete at their final name, with room checked before they are written."""

import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from lightning_drift.common.atomic import atomic_link, atomic_write, remove_abandoned
from lightning_drift.common.ends import held
from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import whole
from lightning_drift.common.out_of_memory import during, is_out_of_memory
from lightning_drift.common.text import byte_size
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.milestones import Milestones
from lightning_drift.weights.finite import refuse_not_finite

MARGIN = 64 * 2**20  # bytes left free beside a checkpoint, for event files and pictures
PATTERN = "step={step:05d}.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name and renames it; reads tensors and plain data only.

    A kill or a full disk at any moment leaves the previous file of that name usable.

    Args:
        check: Raises a UserError if the file must not take its place: the run is another process's by now.
    """

    def __init__(self, check: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._check = check

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            UserError: If there is no room for it, it cannot be written or must not take its place; the
                previous file is untouched.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(path)
            free = shutil.disk_usage(path.parent).free
        except OSError as error:
            raise UserError(f"cannot write the checkpoint {path}: {error.strerror}") from error
        need = checkpoint_bytes(checkpoint) + MARGIN
        if need > free:
            raise UserError(
                f"no room for the checkpoint {path}: it needs {byte_size(need)} of the "
                f"{byte_size(free)} that are free. Make room and resume from the last "
                "checkpoint, or set step_checkpoint.keep"
            )
        try:
            with (
                during(f"saving the checkpoint {path.name}"),
                held(),  # PyTorch's writer would lose a signal's exception
                atomic_write(path) as file,
            ):
                torch.save(checkpoint, file)
                if self._check is not None:
                    self._check()
        except (OSError, RuntimeError) as error:  # PyTorch reports a failed write as RuntimeError
            if is_out_of_memory(error):
                raise
            raise UserError(f"cannot write the checkpoint {path}: {error}") from error

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint without running any code it may hold; its weights must be numbers."""
        checkpoint = read_checkpoint(path)
        refuse_not_finite(checkpoint["state_dict"], str(path))
        return checkpoint


def checkpoint_bytes(value: Any) -> int:
    """Bytes of all distinct tensors in a nested structure: what a checkpoint of it takes on disk, nearly."""
    sizes: dict[int, int] = {}

    def add(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, Mapping):
            for child in item.values():
                add(child)
        elif isinstance(item, list | tuple):
            for child in item:
                add(child)

    add(value)
    return sum(sizes.values())


class StepCheckpoint(Checkpoint):
    """Saves ``step=01200.ckpt`` at chosen optimizer steps, and ``last.ckpt`` every so often, to resume from.

    Files lie in ``checkpoints`` in the run folder. After a resume nothing is saved again until a new step is
    taken.

    Args:
        steps: Optimizer steps to keep, such as ``800,1200,1600``; empty for none. The last step is saved as
            ``last.ckpt``.
        last_every_n_steps: How often to renew ``last.ckpt``; 0 only at the end of the run.
        keep: Keep only this many step checkpoints, those of the highest steps; null keeps all. After going
            back to an earlier step, what lies ahead of it belongs to the branch that was left, and goes
            first. A file is deleted only once a newer one is complete, and never the one just written.
        dirpath: Another folder for the files; null for the run folder's ``checkpoints``.
    """

    def __init__(
        self,
        steps: str | int | list[int] = "800,1200,1600",
        last_every_n_steps: int = 200,
        keep: int | None = None,
        dirpath: str | None = None,
    ) -> None:
        super().__init__()
        if keep is not None:
            whole(keep, "step_checkpoint.keep", 1)
        whole(last_every_n_steps, "step_checkpoint.last_every_n_steps", 0)
        self.milestones = Milestones(steps, "step_checkpoint.steps")
        self.last_every_n_steps = last_every_n_steps
        self.keep = keep
        self.dirpath = dirpath
        self.last_saved: Path | None = None
        self.last_step = 0  # that it holds
        self._required = -1

    def require(self, step: int) -> None:
        """Save this step, if it is the present one, and do not delete it until another is required."""
        self._required = step

    def folder(self, trainer: Trainer) -> Path:
        """Where the files go."""
        return Path(self.dirpath or Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say early which steps will never be reached."""
        self.milestones.announce(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a resume, the step resumed from counts as saved."""
        self.milestones.begin(trainer)
        if trainer.ckpt_path:
            self.last_saved, self.last_step = Path(str(trainer.ckpt_path)), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where a step is due."""
        step, every = self.milestones.new_step(trainer, batch_idx), self.last_every_n_steps
        if step is None:
            return
        if step in self.milestones.steps or step == self._required:
            with held():  # what is saved is known to be saved
                self._save(trainer, pl_module, PATTERN.format(step=step))
            self._prune(trainer)
        if (every and step % every == 0) or step == trainer.max_steps:
            with held():
                self._save(trainer, pl_module, "last.ckpt")

    def _save(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        getattr(pl_module, "check_finite", lambda: None)()
        path, source = self.folder(trainer) / name, self.last_saved
        same_step = source is not None and source.name == PATTERN.format(step=trainer.global_step)
        if same_step and source is not None and source.parent == path.parent:
            if trainer.is_global_zero:
                atomic_link(source, path)
            trainer.strategy.barrier()
        else:
            try:
                trainer.save_checkpoint(path)
            except BaseException:
                # Another process was lost while this one waited for it, and the file is written.
                with suppress(UserError):
                    if read_checkpoint(path)["global_step"] == trainer.global_step:
                        self.last_saved, self.last_step = path, trainer.global_step
                raise
        self.last_saved, self.last_step = path, trainer.global_step

    def _prune(self, trainer: Trainer) -> None:
        folder = self.folder(trainer)  # asks all ranks
        if self.keep is None or not trainer.is_global_zero:
            return
        saved = {
            int(match[1]): path
            for path in folder.glob("step=*.ckpt")
            if (match := re.fullmatch(r"step=(\d{5,18})\.ckpt", path.name))
        }
        now = trainer.global_step
        # File dates tell nothing: clocks go back, and copies are new.
        newest_first = sorted(saved, key=lambda step: (step > now, -step))
        for step in newest_first[self.keep :]:
            if step not in (now, self._required):
                saved[step].unlink()
