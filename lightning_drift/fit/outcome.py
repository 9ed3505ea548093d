"""What a fit has reached when it ends, told by its files; and the command that goes on."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer

from lightning_drift.common.errors import UserError
from lightning_drift.common.out_of_memory import is_out_of_memory
from lightning_drift.common.text import command, printable, shell_word
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.checkpointing import StepCheckpoint
from lightning_drift.fit.runs import Run


def stopped(trainer: Trainer, run: Run | None, words: Sequence[str], changed: Sequence[str] = ()) -> str:
    """How far a fit came that did not end by itself, and how to go on, as the rest of a sentence.

    Args:
        trainer: Its Trainer, in whatever state.
        run: Its run folder; None without a TensorBoard logger.
        words: The command line after ``lightning-drift``.
        changed: Options that the command which goes on needs beside them.
    """
    words = [*words, *changed]
    begun = run.step if run is not None else 0
    step, limit = max(trainer.global_step, begun), trainer.max_steps
    at = f"at step {step} of {limit}" if limit > 0 else f"at step {step}"
    checkpoint, saved = _newest(trainer, run)
    if checkpoint is None:
        return f"{at}, before a checkpoint was saved; start it again with: {command(words)}"
    if 0 < limit <= saved:
        dream = command(["predict", "--model.pipeline", str(checkpoint)])
        return f"after its last step, with nothing left to go on with; dream of it with: {dream}"
    again = _going_on(run, checkpoint, saved, words, changed)
    return f"{at}, saved up to step {saved}; go on with: {again}"


def finished(trainer: Trainer, run: Run | None) -> list[str]:
    """What a fit that ended by itself has left behind, in lines; only what is there is named."""
    if getattr(trainer, "fast_dev_run", False):
        return ["This was a trial (trainer.fast_dev_run): nothing of it is kept"]
    begun = run.step if run is not None else 0
    step, limit = trainer.global_step, trainer.max_steps
    folder = run.folder if run is not None else Path(trainer.log_dir or trainer.default_root_dir)
    if step <= begun:
        because = next(
            (
                f", since trainer.{option} is 0"
                for option in ("max_steps", "max_epochs", "limit_train_batches")
                if getattr(trainer, option, None) == 0
            ),
            "",
        )
        there = f"; {folder} holds no new checkpoint" if folder.is_dir() else ""
        return [f"Nothing was trained{because}{there}"]
    callback = _callback(trainer)
    kept = callback.folder(trainer) if callback is not None else folder / "checkpoints"
    places = [("seed grids", folder / "grids"), ("checkpoints", kept)]
    named = [f"{what} in {_within(place, folder)}/" for what, place in places if _any_file(place)]
    lines = [f"The run is in {folder}{': ' if named else ''}{', '.join(named)}"]
    if step < limit:
        lines.append(f"It ended at step {step} of {limit}")
    if run is not None:
        root = shell_word(str(run.root))
        lines.append(f"Look at it:   tensorboard --logdir {root} --samples_per_plugin images=1000")
    last = callback.last_saved if callback is not None else None
    if last is not None and last.is_file():
        lines.append(f"Dream of it:  lightning-drift predict --model.pipeline {shell_word(str(last))}")
    return [*map(printable, lines)]


def _callback(trainer: Trainer) -> StepCheckpoint | None:
    return next((c for c in trainer.callbacks if isinstance(c, StepCheckpoint)), None)  # type: ignore[attr-defined]


def _newest(trainer: Trainer, run: Run | None) -> tuple[Path | None, int]:
    """The checkpoint that was saved last, or resumed from, and its step."""
    callback = _callback(trainer)
    candidates = [(callback.last_saved, callback.last_step)] if callback is not None else []
    candidates += [(run.checkpoint, run.step)] if run is not None else []
    for path, step in candidates:
        if path is not None:
            try:
                return path, int(read_checkpoint(path)["global_step"])
            except UserError as error:  # it was deleted or damaged meanwhile
                if is_out_of_memory(error):  # it is there, and only this process cannot look
                    return path, step
    return None, 0


def _going_on(
    run: Run | None, checkpoint: Path, saved: int, words: Sequence[str], changed: Sequence[str]
) -> str:
    """The command that goes on from a checkpoint: the run's own configuration where there is one."""
    if run is None:
        return command([*words, "--ckpt_path", str(checkpoint)])
    # A resumed run is set up as its last session was.
    names = [f"config.resume-{run.step:05d}.yaml"] if run.checkpoint is not None else []
    config = next((p for name in [*names, "config.yaml"] if (p := run.folder / name).is_file()), None)
    if config is None:
        return command([*words, "--ckpt_path", str(checkpoint)])
    folder = run.folder / "checkpoints"
    beyond = any(_step(path) > saved for path in folder.glob("step=*.ckpt"))
    last = checkpoint.parent == folder and not beyond
    return command(["fit", "-c", str(config), "--ckpt_path", "last" if last else str(checkpoint), *changed])


def _step(path: Path) -> int:
    digits = path.stem.removeprefix("step=")
    return int(digits) if digits.isdecimal() else -1


def _within(place: Path, folder: Path) -> Path:
    return place.relative_to(folder) if place.is_relative_to(folder) else place


def _any_file(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*")) if folder.is_dir() else False
