"""What a checkpoint must hold for a fit to go on from it as if it had never stopped."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown
from lightning_drift.common.out_of_memory import refuse_full
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.weights.finite import refuse_not_finite

# Entries of an optimizer's state that have their parameter's shape: torch's and bitsandbytes' names.
_OF_ITS_SHAPE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "state1", "state2")
_OPTIMIZER_STEPS = (
    ("epoch_loop.automatic_optimization.optim_progress", "optimizer", "step", "total", "completed"),
    ("epoch_loop.manual_optimization.optim_step_progress", "total", "completed"),
)


def check_weights(path: Path) -> dict[str, Any]:
    """Open a checkpoint, after reading all of it once: its weights are those that were saved, and numbers.

    Raises:
        UserError: It is damaged, no checkpoint of this trainer, or holds NaN or infinity.
    """
    checkpoint = read_checkpoint(path)
    # The mapped file is read without its check sums.
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # what a damaged archive raises is of many classes
        refuse_full(error, str(path))
        raise _damaged(path, type(error).__name__) from error
    if damaged is not None:
        raise _damaged(path, f"the check sum of {damaged} differs")
    if not isinstance(checkpoint.get("pytorch-lightning_version"), str):
        raise _lacks(path, "the version of its trainer")
    if not isinstance(checkpoint.get("recipe"), Mapping):
        raise _lacks(path, "its fit's recipe")
    if not isinstance(checkpoint.get("callbacks", {}), Mapping):
        raise _lacks(path, "the states of the callbacks")
    refuse_not_finite(checkpoint["state_dict"], str(path))
    return checkpoint


def check_resumable(path: Path) -> dict[str, Any]:
    """Open a checkpoint that a fit can go on from.

    Raises:
        UserError: `check_weights` refuses it, or it lacks the optimizer's state or the trainer's progress, or
            that tells another step.
    """
    checkpoint = check_weights(path)
    if checkpoint["recipe"].get("soup"):
        raise UserError(
            f"{path} is the mean of several fits and cannot be trained further; resume one of them"
        )
    step = checkpoint["global_step"]
    loops = _at(checkpoint, "loops", "fit_loop")
    if isinstance(loops, Mapping) and not all(isinstance(each, Mapping) for each in loops.values()):
        raise _lacks(path, "the trainer's progress (loops)")
    counted = [_at(checkpoint, "loops", "fit_loop", *keys) for keys in _OPTIMIZER_STEPS]
    if not any(isinstance(count, int) for count in counted):
        raise _lacks(path, "the trainer's progress (loops)")
    if step not in counted:
        other = shown(max(count for count in counted if isinstance(count, int)))
        raise UserError(f"{path} tells step {step}, and its loops tell {other}; resume from an earlier one")
    if not isinstance(checkpoint.get("lr_schedulers"), list):
        raise _lacks(path, "the states of the learning rate's schedules")
    states = checkpoint.get("optimizer_states")
    if not isinstance(states, list) or len(states) != 1 or not _is_optimizer_state(states[0]):
        raise _lacks(path, "the optimizer's state")
    entries, groups = states[0]["state"], states[0]["param_groups"]
    # A loss scaler can have skipped every step so far, and plain SGD keeps nothing.
    scaled = checkpoint["recipe"].get("precision") == "16-mixed"
    stateless = all(group.get("momentum") == 0 and "betas" not in group for group in groups)
    if step > 0 and not entries and not scaled and not stateless:
        raise _lacks(path, "the optimizer's state")
    refuse_not_finite(dict(_tensors(entries)), str(path))
    for name, value in _tensors(entries):
        key = name.partition(" ")[0]
        odd_step, odd_square = key == "step" and value.numel() != 1, False
        if key == "exp_avg_sq" and not value.is_complex():
            odd_square = bool((value < 0).any())
        if value.is_complex() or odd_step or odd_square:
            raise UserError(f"{path} is damaged: {name} cannot be so; resume from an earlier one")
    return checkpoint


def check_optimizer_state(
    checkpoint: Mapping[str, Any],
    recipe: Mapping[str, Any],
    trained: Mapping[str, nn.Module],
) -> None:
    """Refuse to go on with an optimizer or with parts that a checkpoint's optimizer state is not of.

    Args:
        checkpoint: The checkpoint's content.
        recipe: The present fit's recipe.
        trained: The trained modules by name, in the order of the optimizer's groups.

    Raises:
        UserError: They do not fit; the option to change is named.
    """
    old = checkpoint["recipe"]
    begin = "or begin a new run from its weights with --model.pipeline"
    for key in ("optimizer", "train_text_encoder"):
        if key in old and old[key] != recipe[key]:
            raise UserError(
                f"the checkpoint's optimizer state is of {shown(old[key])}, and this is {recipe[key]}; go on "
                f"with what it was, {begin}",
                f"model.{key}",
            )
    states = checkpoint.get("optimizer_states")
    if not isinstance(states, list) or len(states) != 1 or not _is_optimizer_state(states[0]):
        raise UserError("the checkpoint holds no optimizer state to go on with; resume from another one")
    entries, groups = states[0]["state"], states[0]["param_groups"]
    names = [
        [(f"{part}.{name}", p.shape) for name, p in module.named_parameters() if p.requires_grad]
        for part, module in trained.items()
    ]
    if [len(group["params"]) for group in groups] != [len(group) for group in names]:
        raise UserError(
            f"the checkpoint's optimizer state is of another model; resume the model it is of, {begin}"
        )
    shapes = {
        index: of
        for group, part in zip(groups, names, strict=True)
        for index, of in zip(group["params"], part, strict=True)
    }
    kinds = {tuple(key for key in _OF_ITS_SHAPE if key in entry) for entry in entries.values()}
    unfit = [name for index, (name, shape) in shapes.items() if not _fits(entries.get(index), shape)]
    if entries and (len(kinds) > 1 or unfit or not set(entries) <= set(shapes)):
        first = unfit[0] if unfit else "its entries differ"
        raise UserError(
            f"the checkpoint's optimizer state does not fit the model ({first}); resume from an earlier one"
        )
    if entries and recipe["optimizer_args"].get("amsgrad") and "max_exp_avg_sq" not in next(iter(kinds)):
        raise UserError(
            f"amsgrad needs a state that the checkpoint does not hold; go on without it, {begin}",
            "model.optimizer_args",
        )


def _fits(entry: Any, shape: torch.Size) -> bool:
    return isinstance(entry, Mapping) and all(
        isinstance(entry[key], Tensor) and entry[key].shape == shape and not entry[key].is_complex()
        for key in _OF_ITS_SHAPE
        if entry.get(key) is not None
    )


def _is_optimizer_state(state: Any) -> bool:
    return (
        isinstance(state, Mapping)
        and isinstance(state.get("state"), Mapping)
        and all(isinstance(entry, Mapping) for entry in state["state"].values())
        and isinstance(state.get("param_groups"), list)
        and all(
            isinstance(group, Mapping) and isinstance(group.get("params"), list)
            for group in state["param_groups"]
        )
    )


def _at(value: Any, *keys: str) -> Any:
    """What lies in nested mappings at these keys; None if nothing does."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if isinstance(value, bool) else value


def _tensors(entries: Mapping[Any, Mapping[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    for index, entry in entries.items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                yield f"{key} of the optimizer's parameter {index}", value


def _lacks(path: Path, what: str) -> UserError:
    return UserError(f"{path} does not hold {what}: it was not saved so by a fit; resume from an earlier one")


def _damaged(path: Path, how: str) -> UserError:
    return UserError(f"{path} is damaged ({how}); resume from an earlier one")
