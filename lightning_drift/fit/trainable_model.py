"""A base as it is trained: what it may be trained with, its weights, its schedule, the prompt's tokens."""

from typing import TYPE_CHECKING, Any, Literal

from diffusers import DDPMScheduler
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import whole
from lightning_drift.common.prompt_lengths import tell_cut
from lightning_drift.fit.memory import MEMORY_MODES
from lightning_drift.fit.recompute import recompute_activations
from lightning_drift.stable_diffusion.loading import StableDiffusion

if TYPE_CHECKING:
    from lightning_drift.fit.dreambooth import DreamBooth


def check_text_encoder_steps(steps: int | None, trained: bool) -> None:
    """Refuse a stop of the text encoder that is none.

    Args:
        steps: How many steps it is to be trained; None for all.
        trained: Whether it is trained at all.

    Raises:
        UserError: It is below 1, or the text encoder is not trained.
    """
    option = "model.train_text_encoder_steps"
    if steps is None:
        return
    whole(steps, option, 1)
    if not trained:
        raise UserError(
            f"the text encoder is frozen (model.train_text_encoder false) and cannot stop at step {steps}; "
            "give null, or train it",
            option,
        )


def check_trainer(module: "DreamBooth", trainer: Any, stage: str) -> None:
    """Refuse what a module's float32 weights cannot be trained with, before they are loaded.

    Args:
        module: The module.
        trainer: Its Trainer.
        stage: Lightning's name of what is run, such as ``fit``.

    Raises:
        UserError: The data hold no photos, the Trainer would turn the weights to another precision, or
            several devices would exchange the gradients of a text encoder that stops.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if stage == "fit" and module.latents_mode == "cached" and not hasattr(data, "encode"):
        raise UserError("DreamBooth learns photos; give it lightning_drift.InstanceImages", "data")
    if stage == "fit" and module.train_text_encoder_steps is not None and trainer.world_size > 1:
        raise UserError(
            f"there are {trainer.world_size} devices, which exchange the gradients of all weights at every "
            "step; the text encoder can stop on one device alone",
            "model.train_text_encoder_steps",
        )
    precision = str(trainer.precision)
    if precision == "64-true":
        raise UserError(
            "64-true trains weights twice as long as float32, which the models do not compute with; give "
            "32-true",
            "trainer.precision",
        )
    if precision in ("16-true", "bf16-true"):
        raise UserError(
            f"{precision} trains half-precision weights, and small steps are lost in them; give "
            f"{precision.removesuffix('true')}mixed or 32-true",
            "trainer.precision",
        )


def make_trainable(module: "DreamBooth", model: StableDiffusion) -> None:
    """Turn on gradients, and what saves memory, for the parts that a module trains.

    Args:
        module: The module, whose UNet and text encoder are the model's.
        model: The base.

    Raises:
        UserError: A part that is to be trained has no trainable parameter.
    """
    model.vae.requires_grad_(False)
    module.unet.requires_grad_(True)
    module.text_encoder.requires_grad_(module.train_text_encoder)
    for name, part in module.trained().items():
        if not any(parameter.numel() for parameter in part.parameters() if parameter.requires_grad):
            raise UserError(
                f"the {name} of {module.pipeline} holds no trainable parameter; this base cannot be trained"
            )
    if module.gradient_checkpointing:
        module.unet.enable_gradient_checkpointing()
        if module.train_text_encoder:
            old = "gradient_checkpointing_enable"  # its name before transformers renamed it
            enable = getattr(module.text_encoder, "activation_checkpointing_enable", None)
            (enable or getattr(module.text_encoder, old))()
    elif MEMORY_MODES[module.memory].recompute:
        recompute_activations(module.unet)


def training_schedule(model: StableDiffusion, name: str) -> DDPMScheduler:
    """The noise schedule that a model is trained with.

    Args:
        model: The base.
        name: What the user calls it, for the message.

    Raises:
        UserError: It predicts neither noise nor velocity.
    """
    schedule: DDPMScheduler = DDPMScheduler.from_config(model.scheduler_config)
    kind = schedule.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(f"{name} predicts {kind!r}; only epsilon and v_prediction models can be trained")
    return schedule


def prompt_ids(tokenizer: Any, prompt: str, pad_tokens: Literal["maximum", "none"]) -> Tensor:
    """Token ids of the instance prompt, [1, tokens]; a prompt that is longer than the model sees is told."""
    longest = tokenizer.model_max_length
    tell_cut(tokenizer, [prompt])
    padding = "max_length" if pad_tokens == "maximum" else "do_not_pad"
    tokens = tokenizer(prompt, padding=padding, max_length=longest, truncation=True, return_tensors="pt")
    ids: Tensor = tokens.input_ids
    return ids
