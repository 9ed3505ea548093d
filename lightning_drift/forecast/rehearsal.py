"""A training step, and what lies between steps, run on a model without weights and counted."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward

from lightning_drift.common.modules import eval_mode
from lightning_drift.forecast.autocast import CudaAutocast
from lightning_drift.forecast.ledger import Ledger, total
from lightning_drift.forecast.state import tensors_in
from lightning_drift.stable_diffusion.autoencoder import vae_factor
from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.opened_pipeline import PARTS

PRECISIONS = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16, "32-true": None, "32": None}
"""What can be rehearsed, and what autocast computes in."""


@dataclass(frozen=True)
class Scene:
    """What decides a step's memory beside the module.

    Attributes:
        device: "cuda" or "cpu": whose attention, and whose way of updating many tensors at once.
        precision: The Trainer's; one of `PRECISIONS`.
        batch_size: Photos per step.
        side: Pixels of a photo.
        gradient_clip_val: The Trainer's.
        gradient_clip_algorithm: The Trainer's.
        accumulate_grad_batches: The Trainer's.
        world_size: Processes.
        callbacks: The Trainer's.
    """

    device: str = "cuda"
    precision: str = "16-mixed"
    batch_size: int = 1
    side: int = 512
    gradient_clip_val: float | None = 1.0
    gradient_clip_algorithm: str | None = None
    accumulate_grad_batches: int = 1
    world_size: int = 1
    callbacks: tuple[Any, ...] = ()

    def forward_context(self) -> AbstractContextManager[Any]:
        """Autocast as `CudaAutocast` replays it."""
        dtype = PRECISIONS[self.precision]
        return nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)

    def trainer(self, device: torch.device) -> Any:
        """What a module asks of its Trainer."""
        scale = (
            torch.empty((), device=device) if device.type == "meta" else torch.tensor(65536.0, device=device)
        )
        scaler = SimpleNamespace(_get_scale_async=lambda: scale) if self.precision == "16-mixed" else None
        return SimpleNamespace(
            global_step=0,
            precision=self.precision,
            gradient_clip_val=self.gradient_clip_val,
            gradient_clip_algorithm=self.gradient_clip_algorithm,
            accumulate_grad_batches=self.accumulate_grad_batches,
            world_size=self.world_size,
            callbacks=self.callbacks,
            datamodule=None,
            strategy=SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler)),
        )


@dataclass(frozen=True)
class Phase:
    """Something that computes on the model's device between steps.

    Attributes:
        name: What it is, such as "grids".
        run: Does once what takes most memory, on a model that may be without weights; it is given the model
            and what makes the context of the networks' calls.
        moves: Whether it is done on the CPU where the device has no room for it.
        times: How often that is done at one milestone.
        every: Steps from one time to the next, where it is done between milestones; 0 where at them.
    """

    name: str
    run: Callable[[StableDiffusion, Callable[[], AbstractContextManager[Any]]], None]
    moves: bool = False
    times: float = 1
    every: int = 0


@dataclass
class Rehearsal:
    """What was counted.

    Attributes:
        peaks: For each phase ("step", "photos", "grid", ...) the bytes by part, when most was alive. A step
            in which the text encoder has stopped ("late step") has work alone: it takes less than others.
        movable: The phases that are done on the CPU where the device has no room.
        work: For each phase arithmetic in FLOP and bytes moved, operation by operation.
        times: How often each phase's work is done at one milestone.
        every: Steps from one time to the next, of phases that lie between milestones.
    """

    peaks: dict[str, dict[str, int]] = field(default_factory=dict)
    movable: set[str] = field(default_factory=set)
    work: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    every: dict[str, int] = field(default_factory=dict)

    def arithmetic(self, *phases: str) -> float:
        """FLOP of phases at one milestone, or of one step."""
        return sum(
            flop * self.times.get(phase, 1) for phase in phases for flop, _ in self.work.get(phase, ())
        )

    def phase(self) -> str:
        """The phase that takes most, of those that must be on the device."""
        return max(self.peaks.keys() - self.movable, key=lambda phase: total(self.peaks[phase]))

    @property
    def peak(self) -> int:
        """Bytes of that phase."""
        return total(self.peaks[self.phase()])


def rehearse(
    module: Any,
    model: StableDiffusion,
    scene: Scene,
    beside: Iterable[Phase] = (),
    limit: float = math.inf,
) -> Rehearsal:
    """Count a fit: a step after the first, the encoding of the photos, and what lies between steps.

    Args:
        module: A `DreamBooth`; not changed.
        model: Its base, on the device whose tensors are counted: meta, or a real one.
        scene: What decides memory beside the module.
        beside: What computes between steps.
        limit: Bytes; where a step takes more, the rest is not counted.

    Raises:
        Exception: Whatever an optimizer raises that looks at numbers, which a tensor without any has not.
    """
    device = model.unet.device
    # What a fit changes is changed in a copy.
    model = replace(model, **{part: deepcopy(getattr(model, part)) for part in PARTS})
    twin, optimizer = trained_over(module, model, scene)
    ledger, told = Ledger(device.type, cpu=scene.device == "cpu"), Rehearsal()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with ledger:
        for tensor in (*twin.parameters(), *twin.buffers()):
            ledger.see(tensor, "weights")
        for parameter in parameters:
            for tensor in tensors_in(vars(parameter)):
                ledger.see(tensor, "remainders")
            parameter.register_post_accumulate_grad_hook(partial(_see_gradient, ledger))
        told.peaks["photos"] = _encode_photos(twin, ledger, scene)
        begin, begun = ledger.mark(), len(ledger.work)
        replay = CudaAutocast(scene.device)

        def between() -> None:
            replay.forget()
            ledger.name_rest("activations")

        training_step(twin, optimizer, scene, scene.forward_context, replay, between)
        # The first update makes it, and all others find it there.
        for tensor in tensors_in(optimizer.state):
            ledger.see_lasting(tensor, "optimizer state")
        told.peaks["step"] = ledger.peak(begin)
        told.work["step"] = ledger.work[begun:]
        if module.train_text_encoder_steps is not None and told.peak <= limit:
            begun, twin._trainer.global_step = len(ledger.work), module.train_text_encoder_steps
            training_step(twin, optimizer, scene, scene.forward_context, replay, between)
            told.work["late step"] = ledger.work[begun:]
        for phase in beside if told.peak <= limit else ():
            begin, begun = ledger.mark(), len(ledger.work)
            with torch.no_grad(), eval_mode(twin.unet, twin.text_encoder), CudaAutocast(scene.device):
                # The autoencoder is on the device for that long only.
                phase.run(replace(model, vae=deepcopy(model.vae)), scene.forward_context)
            told.work[phase.name], told.times[phase.name] = ledger.work[begun:], phase.times
            if phase.every:  # a part of what is done at milestones, so never the peak
                told.every[phase.name] = phase.every
                continue
            told.peaks[phase.name] = ledger.peak(begin)
            told.movable |= {phase.name} if phase.moves else set()
    return told


def _encode_photos(twin: Any, ledger: Ledger, scene: Scene) -> dict[str, int]:
    vae = twin.stable_diffusion.vae
    if twin.latents_mode == "cached":
        begin = ledger.mark()
        with torch.no_grad(), CudaAutocast(scene.device):
            deepcopy(vae).encode(torch.empty((1, 3, scene.side, scene.side), device=vae.device))
        return ledger.peak(begin)
    for tensor in vae.parameters():
        ledger.see(tensor, "other")
    return ledger.peak(ledger.mark())


def _see_gradient(ledger: Ledger, parameter: Tensor) -> None:
    if parameter.grad is not None:  # one may be deferred
        ledger.see(parameter.grad, "gradients")


def trained_over(module: Any, model: StableDiffusion, scene: Scene) -> tuple[Any, Any]:
    """A module over another model, ready for `training_step`, and its optimizer."""
    trainer = scene.trainer(model.unet.device)
    twin = module.over(model, trainer)
    for part in twin.trained().values():
        part.train()
    optimizer = twin.configure_optimizers()
    trainer.optimizers = [optimizer]
    # PyTorch updates all tensors at once on CUDA, one by one elsewhere, unless the optimizer was told.
    for group in optimizer.param_groups:
        if scene.device == "cuda" and group.get("foreach", 0) is None and not group.get("fused"):
            group["foreach"] = True
    return twin, optimizer


def _batch(twin: Any, scene: Scene) -> dict[str, Any]:
    """What the photos' stream gives, without photos."""
    model, device, count = twin.stable_diffusion, twin.unet.device, scene.batch_size
    batch: dict[str, Any] = {"position": list(range(count))}
    if twin.latents_mode == "cached":
        side = scene.side // vae_factor(model)
        shape = (count, model.vae.config.latent_channels, side, side)
        return batch | {name: torch.zeros(shape, device=device) for name in ("mean", "std")}
    return batch | {"pixel_values": torch.zeros((count, 3, scene.side, scene.side), device=device)}


def training_step(
    twin: Any,
    optimizer: Any,
    scene: Scene,
    forward_context: Callable[[], AbstractContextManager[Any]],
    during: AbstractContextManager[Any] | None = None,
    between: Callable[[], object] = bool,
) -> None:
    """A training step in the Trainer's order.

    Args:
        twin: A `DreamBooth` over a model, as `DreamBooth.over` gives it.
        optimizer: Its own.
        scene: What decides the step beside it.
        forward_context: Makes the context of the forward.
        during: The context of forward and backward.
        between: Called between forward and backward.
    """
    batch = _batch(twin, scene)

    def closure() -> Tensor:
        with during or nullcontext():
            with forward_context():
                loss: Tensor = twin.training_step(batch, 0)
            between()
            # To the engine itself: `backward` turns a replay of autocast off, and checkpoints compute in it.
            _engine_run_backward(
                (loss,),
                (torch.ones_like(loss),),
                False,
                False,
                (),
                allow_unreachable=True,
                accumulate_grad=True,
            )
        twin.configure_gradient_clipping(optimizer, scene.gradient_clip_val, scene.gradient_clip_algorithm)
        return loss

    twin.optimizer_step(0, 0, optimizer, closure)
