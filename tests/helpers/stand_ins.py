"""What stands in for photos where a test is about the training step alone."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset


class LatentStream(IterableDataset[dict[str, Any]]):
    """Eight random posteriors, streamed by position like the photos."""

    def __init__(self, shape: tuple[int, ...], batch_size: int, first: int) -> None:
        source = torch.Generator().manual_seed(7)
        self.mean = torch.randn((8, *shape), generator=source)
        self.batch_size, self.first = batch_size, first

    def __iter__(self) -> Any:
        start = self.first
        while True:
            positions = list(range(start * self.batch_size, (start + 1) * self.batch_size))
            mean = self.mean[[position % 8 for position in positions]]
            yield {"position": positions, "mean": mean, "std": torch.full_like(mean, 0.1)}
            start += 1


class Latents(LightningDataModule):
    """Stands in for the photos where a test is about the training step alone."""

    batch_size = 1
    data_hash = "latents"
    count = 8

    def __init__(self, shape: tuple[int, ...] = (4, 8, 8), batch_size: int = 1) -> None:
        super().__init__()
        self.shape, self.batch_size = shape, batch_size

    def encode(self, vae: Any, device: torch.device) -> None:
        pass

    def train_dataloader(self) -> Any:
        first = self.trainer.global_step * self.trainer.accumulate_grad_batches
        stream = LatentStream(self.shape, self.batch_size, first)
        return DataLoader(stream, batch_size=None, generator=torch.Generator())

    def val_dataloader(self) -> Any:
        return []
