"""Scenes as training batches: addressed by step, painted once and kept on disk if a folder is given."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.rng import generator
from training.pocket.world.captions import caption, full_caption
from training.pocket.world.render import Scene, render, sample_scene

BLOCK = 1024
#: The world of held-out scenes is another one than any that is trained on.
HELD_OUT_SEED = 1_000_003


class Scenes:
    """The first ``count`` scenes of a world, painted when first asked for.

    Args:
        seed: The world's seed.
        count: How many scenes there are.
        size: Side of the pictures in pixels.
        cache: Folder for painted blocks of 1,024 scenes (12 MiB each at 64 pixels); null keeps none on disk.
    """

    def __init__(self, seed: int, count: int, size: int = 64, cache: Path | None = None) -> None:
        self.seed, self.count, self.size, self.cache = seed, count, size, cache
        self._blocks: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def scene(self, index: int) -> Scene:
        """The description of scene ``index``."""
        return sample_scene(self.seed, index)

    def image(self, index: int) -> NDArray[np.uint8]:
        """The picture of scene ``index``, (size, size, 3)."""
        if self.cache is None:
            return render(self.scene(index), self.size)
        block, place = divmod(index, BLOCK)
        if block not in self._blocks:
            self._blocks[block] = self._load(block)
            if len(self._blocks) > 512:
                self._blocks.popitem(last=False)
        return np.asarray(self._blocks[block][place])

    def images(self, indices: list[int]) -> torch.Tensor:
        """Pictures (n, 3, size, size) in -1..1."""
        stack = np.stack([self.image(index) for index in indices])
        return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1

    def captions(self, indices: list[int], turn: int) -> list[str]:
        """One caption each; another ``turn`` says it in other words."""
        return [caption(self.scene(i), np.random.default_rng([self.seed, i, turn])) for i in indices]

    def block(self, number: int) -> None:
        """Make sure that a block lies in the cache."""
        self._load(number)

    def _load(self, block: int) -> NDArray[np.uint8]:
        assert self.cache is not None
        path = self.cache / f"world{self.seed}-{self.size}px-{block:05d}.npy"
        if not path.is_file():
            indices = range(block * BLOCK, (block + 1) * BLOCK)
            images = np.stack([render(self.scene(index), self.size) for index in indices])
            with atomic_write(path) as file:
                np.save(file, images)
        return np.asarray(np.load(path, mmap_mode="r"))


class PaintedScenes(Scenes):
    """Scenes that stay in memory once they are painted; for few."""

    def __init__(self, seed: int, count: int, size: int = 64) -> None:
        super().__init__(seed, count, size)
        self._pictures: dict[int, NDArray[np.uint8]] = {}

    def image(self, index: int) -> NDArray[np.uint8]:
        """The picture of scene ``index``, (size, size, 3)."""
        if index not in self._pictures:
            self._pictures[index] = super().image(index)
        return self._pictures[index]


class Batches(IterableDataset[dict[str, Any]]):
    """Endless batches of scenes; batch ``step`` is a pure function of the seed and the step.

    Every pass over the scenes has its own order and its own captions.

    Args:
        scenes: Where the scenes come from.
        batch_size: Scenes in a batch.
        seed: Seed of the order.
        start: The step to begin at.
        captions: Whether captions are wanted.
    """

    def __init__(self, scenes: Scenes, batch_size: int, seed: int, start: int, captions: bool) -> None:
        self.scenes, self.batch_size, self.seed, self.start, self.with_captions = (
            scenes,
            batch_size,
            seed,
            start,
            captions,
        )
        self._pass = -1
        self._order = torch.empty(0, dtype=torch.long)

    def batch(self, step: int) -> dict[str, Any]:
        """Batch ``step``: ``step``, ``images`` (n, 3, size, size) in -1..1, and what is said of them.

        ``captions`` are loose and ``full`` name everything; ``objects`` and ``colours`` are single words,
        empty where a scene has none.
        """
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        turn = positions[0] // self.scenes.count
        indices = [self._index(position) for position in positions]
        batch: dict[str, Any] = {"step": step, "images": self.scenes.images(indices)}
        if self.with_captions:
            batch["captions"] = self.scenes.captions(indices, turn)
            described = [self.scenes.scene(index) for index in indices]
            batch["full"] = [full_caption(scene) for scene in described]
            batch["objects"] = [scene.object or "" for scene in described]
            batch["colours"] = [scene.colour or "" for scene in described]
        return batch

    def _index(self, position: int) -> int:
        turn, place = divmod(position, self.scenes.count)
        if turn == 0:
            return place  # scenes are independent: the first pass, which paints them, needs no shuffle
        if turn != self._pass:
            self._order = torch.randperm(self.scenes.count, generator=generator(self.seed, "order", turn))
            self._pass = turn
        return int(self._order[place])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches from the start on; of several workers each takes its turn, so that the order stays."""
        worker = get_worker_info()
        stride = worker.num_workers if worker else 1
        step = self.start + (worker.id if worker else 0)
        while True:
            yield self.batch(step)
            step += stride

    def loader(self, workers: int = 0) -> DataLoader[dict[str, Any]]:
        """The same as a loader that leaves batches alone.

        Args:
            workers: Processes that prepare batches; the batches are the same for any number.
        """
        return DataLoader(self, batch_size=None, num_workers=workers)


def paint(scenes: Scenes, workers: int) -> None:
    """Paint all scenes into their cache, in several processes.

    Args:
        scenes: Scenes with a cache folder.
        workers: Number of processes.
    """
    blocks = range((scenes.count + BLOCK - 1) // BLOCK)
    with ProcessPoolExecutor(max(workers, 1)) as pool:
        for done, _ in enumerate(pool.map(scenes.block, blocks), start=1):
            print(f"painted {done} of {len(blocks)} blocks", flush=True)
