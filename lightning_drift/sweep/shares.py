"""Which batches of a sweep a process makes: all of them, or those of its share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_drift.stable_diffusion.with_base import predictions
from lightning_drift.sweep.cells import SweepRequest

if TYPE_CHECKING:
    from lightning_drift.sweep.data import Sweep
    from lightning_drift.sweep.sweep_dreamer import SweepDreamer


def own_batches(data: Sweep, module: SweepDreamer) -> list[list[SweepRequest]]:
    """The batches of a sweep that fall into its ``share``, by the work that they take.

    A picture's bits follow from its cell at one size of batches, so batches are shared out whole. They are in
    the order of their models, so that a share loads few of them.

    Args:
        data: The sweep.
        module: What renders it; its sizes and maps decide the work.

    Raises:
        UserError: A model cannot be found, or an option does not fit it.
    """
    batches = data.grid.batches(data.batch_size)
    if data.share is None:
        return batches
    # Every batch is filled up to one size, so that its number of pictures does not count.
    return data.share.of(batches, [work(module, batch[0], module.drift_map) for batch in batches])


def work(module: SweepDreamer, request: SweepRequest, maps: bool) -> int:
    """What a picture takes, in units that compare pictures of one model: pixels times predictions.

    Args:
        module: What renders it.
        request: The picture.
        maps: Whether a map of where model and base differ is made beside it.
    """
    sampling = module.sampling_of(request)
    asked = predictions(
        request.sampling_drift, request.num_inference_steps, maps and request.model.base is not None
    )
    return (sampling.height or 0) * (sampling.width or 0) * (2 if request.guidance_scale > 1 else 1) * asked
