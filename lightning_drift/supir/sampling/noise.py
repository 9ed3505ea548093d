"""The noises of one picture, addressed so that it depends neither on its batch nor on its neighbours."""

import torch
from torch import Tensor

from lightning_drift.common.rng import generator


class AddressedNoise:
    """Unit normal noise that is a function of the seed, the sample's number and what it is for.

    Drawn on the CPU in float32, so that it is the same on any device.

    Args:
        seed: The picture's seed.
        sample: Which of the pictures of one image and seed.
        device: Where the noise is used.
        number: Which of the passes over one picture, from 0.
    """

    def __init__(self, seed: int, sample: int, device: torch.device, number: int = 0) -> None:
        self.seed, self.sample, self.device = seed, sample, device
        self._pass = ("pass", number) if number else ()

    def _draw(self, shape: torch.Size, *key: int | str) -> Tensor:
        source = generator(self.seed, "supir", self.sample, *self._pass, *key)
        return torch.randn(shape, generator=source).to(self.device)

    def posterior(self, like: Tensor) -> Tensor:
        """For a sample of the first stage's posterior [1, 4, h, w]."""
        return self._draw(like.shape, "posterior")

    def start(self, like: Tensor) -> Tensor:
        """Where sampling begins [1, 4, h, w]."""
        return self._draw(like.shape, "start")

    def step(self, i: int, like: Tensor) -> Tensor:
        """For a stochastic step [1, 4, h, w]."""
        return self._draw(like.shape, "step", i)


class ReferenceNoise:
    """Noise in the reference's order from one stream: posterior, start, then the steps.

    The posterior is drawn on the CPU, the rest on the latent's device in the latent's dtype; each draw covers
    all samples of the image, of which this one takes its row.

    Args:
        seed: The seed, as for ``torch.manual_seed``.
        sample: Which of the pictures of one image and seed.
        samples: How many there are.
        device: The latent's device.
    """

    def __init__(self, seed: int, sample: int, samples: int, device: torch.device) -> None:
        self.sample, self.samples = sample, samples
        self._host = torch.Generator().manual_seed(seed)
        self._stream = self._host
        if device.type == "cuda":
            self._stream = torch.Generator(device).manual_seed(seed)

    def _row(self, like: Tensor, source: torch.Generator, dtype: torch.dtype) -> Tensor:
        shape = (self.samples, *like.shape[1:])
        drawn = torch.randn(shape, generator=source, device=source.device, dtype=dtype)
        return drawn[self.sample : self.sample + 1].to(like.device)

    def posterior(self, like: Tensor) -> Tensor:
        """For a sample of the first stage's posterior [1, 4, h, w]."""
        return self._row(like, self._host, torch.float32)

    def start(self, like: Tensor) -> Tensor:
        """Where sampling begins [1, 4, h, w], in the latent's dtype."""
        return self._row(like, self._stream, like.dtype)

    def step(self, i: int, like: Tensor) -> Tensor:
        """For a stochastic step [1, 4, h, w]."""
        return self._row(like, self._stream, like.dtype)


Noise = AddressedNoise | ReferenceNoise
