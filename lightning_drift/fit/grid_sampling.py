"""A seed grid's pictures: in even batches, each group with its own steps, the base's from disk."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from PIL import Image

from lightning_drift.common.halving import Batch
from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.picture_cache import PictureCache
from lightning_drift.stable_diffusion.prompt_states import EncodedPrompts
from lightning_drift.stable_diffusion.sampling import Sampling, dream_all, even
from lightning_drift.stable_diffusion.with_base import WithBase

Key = tuple[str, int]
"""Prompt and seed of a picture."""
Images = Mapping[Key, Image.Image]


class GridSampler:
    """Samples pictures of one grid again and again.

    Pictures of one number of steps are sampled together, in batches of one size. That size follows from the
    grid alone, so a picture has the same bits whichever others are already there.

    Args:
        pictures: How each picture of the grid is sampled, by prompt and seed.
        most: Pictures sampled together at most; what did not fit into the memory once is not tried again.
        option: The option that sets ``most``, for the notice; empty for none.

    Attributes:
        found: Whether all pictures of the last call were in the cache.
    """

    def __init__(
        self, pictures: Mapping[Key, Sampling], most: int, option: str = "seed_grid.batch_size"
    ) -> None:
        self.pictures = pictures
        self._option = option
        self._most = most
        self.found = False

    def together(self, sampling: Sampling) -> int:
        """How many pictures are sampled together in a certain way."""
        return even(sum(own == sampling for own in self.pictures.values()), self._most)

    def sample(
        self,
        model: StableDiffusion,
        keys: Sequence[Key],
        context: Callable[[], AbstractContextManager[Any]],
        made: Callable[[Images], object],
        cache: PictureCache | None = None,
        beside: WithBase | None = None,
    ) -> Images:
        """Sample pictures; see `dream`.

        Args:
            model: The model, in evaluation mode.
            keys: Which pictures of the grid.
            context: Makes the context of the networks' calls.
            made: Called with each batch, and with what was taken from the cache.
            cache: Where this model's pictures are kept between runs.
            beside: As for `dream`.
        """
        encode, images = EncodedPrompts(), dict[Key, Image.Image]()
        self.found = True
        for sampling in dict.fromkeys(self.pictures[key] for key in keys):
            own = [key for key in keys if self.pictures[key] == sampling]
            size = self.together(sampling)
            if cache is not None:
                stored = {key: cache.get(*key, sampling, size) for key in own}
                known = {key: image for key, image in stored.items() if image is not None}
                images |= known
                made(known)
            missing = [key for key in own if key not in images]
            self.found &= not missing
            batch = Batch(size, self._option, filled=True)
            waiting = iter(missing)

            def take(some: Sequence[Image.Image], waiting: Any = waiting) -> None:
                made({next(waiting): image for image in some})

            new = dream_all(model, missing, sampling, context, take, batch, encode, beside)
            images |= zip(missing, new, strict=True)
            if batch.size is not None and batch.size < size:  # the memory was full
                self._most = batch.size
            if cache is not None:
                for key, image in zip(missing, new, strict=True):
                    cache.put(image, *key, sampling, self.together(sampling))
        return {key: images[key] for key in keys}
