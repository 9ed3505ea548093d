"""Pictures on their way through SUPIR's passes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lightning_drift.images.decode import Source
from lightning_drift.prints.images import UpscaleRequest
from lightning_drift.prints.paper import Sheet
from lightning_drift.prints.sizes import Frame, to_pixels, to_tensor
from lightning_drift.supir.restoration import Restorer
from lightning_drift.supir.sampling.noise import AddressedNoise, Noise, ReferenceNoise
from lightning_drift.supir.sampling.samplers import EdmSampling


@dataclass(frozen=True)
class PrintTask:
    """A request on its way: its picture, the passes over it, and its paper."""

    request: UpscaleRequest
    source: Source
    frames: list[Frame]
    sheet: Sheet | None

    @property
    def pixels(self) -> Image.Image | Tensor:
        """The source's colours as `to_tensor` takes them, with all the bits they have."""
        if self.source.deep is None:
            return self.source.image
        return torch.from_numpy(self.source.deep.astype("float32") / 32767.5 - 1).permute(2, 0, 1)

    def captions(self, number: int) -> tuple[str, ...]:
        """What is in the windows of a pass; captions of windows are those of the last."""
        last = number == len(self.frames) - 1
        return self.request.captions if last else (self.request.caption,)

    def noise(self, number: int, reference: bool, device: torch.device) -> Noise:
        """The noise of a pass."""
        request = self.request
        if reference:
            return ReferenceNoise(request.seed + number, request.sample, request.samples, device)
        return AddressedNoise(request.seed, request.sample, device, number)


def restored(
    restorer: Restorer,
    part: Sequence[PrintTask],
    sampling: EdmSampling,
    on_step: Callable[[], None],
    on_stage_one: Callable[[Tensor], None] | None = None,
) -> list[Tensor]:
    """The results of tasks whose passes have the same sizes.

    Args:
        restorer: What restores.
        part: The tasks.
        sampling: Sampler, steps and scales.
        on_step: Called after every sampler step of every pass.
        on_stage_one: Called with what the first stage of the last pass made [N, 3, H, W].

    Returns:
        For each task [3, h, w], not clamped, float32 on the device.
    """
    count = len(part[0].frames)
    seen: list[Image.Image | Tensor] = [task.pixels for task in part]
    results: list[Tensor] = []
    for number in range(count):
        frames = [task.frames[number] for task in part]
        images = torch.stack(
            [to_tensor(each, frame, frame.box) for each, frame in zip(seen, frames, strict=True)]
        )
        made = restorer.restore(
            images,
            [task.captions(number) for task in part],
            [task.noise(number, sampling.reference, restorer.device) for task in part],
            [(task.request.path, task.request.content, task.frames[0]) for task in part]
            if number == 0
            else None,
            on_step=on_step,
            styles=_styles(part, number, images, restorer.method.color_reference == "input"),
            sampling=sampling,
            on_stage_one=on_stage_one if number == count - 1 else None,
        )
        results = [to_pixels(result, frame) for result, frame in zip(made, frames, strict=True)]
        seen = [*results]
    return results


def _styles(part: Sequence[PrintTask], number: int, images: Tensor, from_source: bool) -> Tensor | None:
    """Where passes after the first take colours from, so that shifts do not add up.

    The source where `color_reference` is input, else what the pass before made, which is not degraded.
    """
    if number == 0 or not from_source:
        return images if number else None
    frames = [task.frames[number] for task in part]
    return torch.stack(
        [to_tensor(task.pixels, frame, frame.source) for task, frame in zip(part, frames, strict=True)]
    )
