"""An endless stream of training batches in which every sample is addressed by its position."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from lightning_drift.common.rng import generator
from lightning_drift.stable_diffusion.autoencoder import to_pixel_values


def image_at(position: int, count: int, seed: int) -> int:
    """Index of the image at a position: each epoch of ``count`` positions is a permutation of its own."""
    epoch, place = divmod(position, count)
    return int(torch.randperm(count, generator=generator(seed, "order", epoch))[place])


def random_crop(image: Tensor, side: int, seed: int, position: int) -> Tensor:
    """The ``side x side`` window, uniform over all places, that belongs to a position.

    Args:
        image: ``[H, W, C]``, neither side below ``side``.
        side: Pixels.
        seed: The run's seed.
        position: The sample's address.
    """
    draw = generator(seed, "crop", position)
    height, width = image.shape[:2]
    top = int(torch.randint(height - side + 1, (), generator=draw))
    left = int(torch.randint(width - side + 1, (), generator=draw))
    return image[top : top + side, left : left + side]


def middle_crop(image: Tensor, side: int) -> Tensor:
    """The ``side x side`` window in the middle.

    Args:
        image: ``[H, W, C]``, neither side below ``side``.
        side: Pixels.
    """
    height, width = image.shape[:2]
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


class PhotoStream(IterableDataset[dict[str, Any]]):
    """Batches ``first_batch, first_batch + 1, …`` of one rank, without end and without length.

    Sample ``i`` of batch ``m`` has the position ``(m * world_size + rank) * batch_size + i``; what is in it
    follows from the seed and the position alone. So a resumed run goes on where it stopped, and the number of
    workers changes nothing: worker ``j`` of ``w`` makes each ``w``-th batch from the ``j``-th, and a
    DataLoader asks them in turn.

    Args:
        content: Either images, a list of uint8 ``[H, W, 3]`` with neither side below ``resolution``, or their
            posteriors, a tuple ``(mean, std)`` of float32 ``[n, C, h, w]``.
        resolution: Side of the square, pixels.
        seed: The run's seed.
        batch_size: Samples per batch.
        first_batch: Number of the first batch, from 0.
        rank: This process, from 0.
        world_size: Number of processes.
    """

    def __init__(
        self,
        content: list[Tensor] | tuple[Tensor, Tensor],
        resolution: int,
        seed: int,
        batch_size: int,
        first_batch: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.content = content
        self.count = len(content[0] if isinstance(content, tuple) else content)
        self.resolution = resolution
        self.seed = seed
        self.batch_size = batch_size
        self.first_batch = first_batch
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield this worker's share of the batches."""
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        number = self.first_batch + first
        while True:
            yield self.batch(number)
            number += stride

    def batch(self, number: int) -> dict[str, Any]:
        """Batch ``number`` of this rank.

        Returns:
            ``position`` and ``index``, lists of ``B`` integers (a list stays on the CPU, where noise is
            drawn by position, while tensors go to the device), and either ``mean`` and ``std`` float32
            ``[B, C, h, w]`` or ``pixel_values`` float32 ``[B, 3, H, W]`` in -1 to 1.
        """
        start = (number * self.world_size + self.rank) * self.batch_size
        positions = range(start, start + self.batch_size)
        indices = [image_at(position, self.count, self.seed) for position in positions]
        batch: dict[str, Any] = {"position": list(positions), "index": indices}
        if isinstance(self.content, tuple):
            mean, std = self.content
            return batch | {"mean": mean[indices], "std": std[indices]}
        crops = [
            random_crop(self.content[index], self.resolution, self.seed, position)
            for index, position in zip(indices, positions, strict=True)
        ]
        return batch | {"pixel_values": to_pixel_values(torch.stack(crops))}
