"""The recipe: what decides a run's weights. Every checkpoint and export holds it; a resume compares it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_drift.common.errors import UserError

if TYPE_CHECKING:
    from lightning_drift.fit.dreambooth import DreamBooth


def recipe_of(module: "DreamBooth", trainer: Any) -> dict[str, Any]:
    """The recipe of a run, in plain values.

    Args:
        module: The module, with its base loaded.
        trainer: Its Trainer; None while there is none.
    """
    assert module.stable_diffusion is not None
    data: Any = getattr(trainer, "datamodule", None)
    return {
        "base": module.stable_diffusion.source,
        "base_revision": module.stable_diffusion.revision,
        "instance_prompt": module.instance_prompt,
        "learning_rate": module.learning_rate,
        "train_text_encoder": module.train_text_encoder,
        "train_text_encoder_steps": module.train_text_encoder_steps,
        "text_encoder_learning_rate": module.text_encoder_learning_rate,
        "optimizer": f"{module.optimizer.__module__}.{module.optimizer.__qualname__}",
        "optimizer_args": dict(module.optimizer_args),
        "pad_tokens": module.pad_tokens,
        "latents": module.latents_mode,
        "prediction_type": module.scheduler.config.prediction_type,
        "resolution": getattr(data, "side", None) or module.resolution,
        "seed": module.seed,
        "clip_grad_norm": getattr(trainer, "gradient_clip_val", None),
        "memory": module.memory,
        "torch_compile": module.torch_compile,
        "precision": str(getattr(trainer, "precision", "32-true")),
        "accumulate": int(getattr(trainer, "accumulate_grad_batches", 1)),
        "batch_size": getattr(data, "batch_size", None),
        "world_size": int(getattr(trainer, "world_size", 1)),
        "data_hash": getattr(data, "data_hash", None),
        "instance_count": getattr(data, "count", None),
    }


def check_checkpoint(checkpoint: Mapping[str, Any], state: Mapping[str, Tensor], pipeline: str) -> None:
    """Refuse a checkpoint that does not fit a model, before anything of it is loaded.

    Args:
        checkpoint: The checkpoint's content.
        state: The model's own state dict.
        pipeline: The model's name, for the message.

    Raises:
        UserError: It is no checkpoint of this trainer, or keys or shapes differ; the message names them.
    """
    if not isinstance(checkpoint.get("recipe"), Mapping):
        raise UserError(
            "the checkpoint holds no recipe: it was not made by this trainer and cannot be resumed"
        )
    stored = checkpoint["state_dict"]
    faults = [f"missing {key}" for key in state if key not in stored]
    faults += [f"unexpected {key}" for key in stored if key not in state]
    faults += [f"shape of {key}" for key in state if key in stored and stored[key].shape != state[key].shape]
    if faults:
        first = ", ".join(faults[:3]) + (f" and {len(faults) - 3} more" if len(faults) > 3 else "")
        base = checkpoint["recipe"].get("base")
        raise UserError(f"the checkpoint does not fit {pipeline} ({first}); it was made from {base}")


def recipe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two recipes differ in: for each key that both know, what it was and what it is."""
    return {key: (old[key], new[key]) for key in old if key in new and new[key] != old[key]}
