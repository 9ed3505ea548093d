"""The instance images: a folder of photographs, checked, squared, and streamed by position."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from PIL import Image, ImageColor
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import user_path
from lightning_drift.common.numbers import MAX_SEED, MOST_TOGETHER, shown, whole
from lightning_drift.common.rng import generator
from lightning_drift.common.text import listed
from lightning_drift.images.contact_sheet import contact_sheet
from lightning_drift.images.png import save_png
from lightning_drift.photos.folder import find_folder, find_pictures
from lightning_drift.photos.held_out import OPTION as HELD_OUT
from lightning_drift.photos.held_out import chosen, refuse_same
from lightning_drift.photos.near_duplicates import alike
from lightning_drift.photos.posteriors import cached_posteriors
from lightning_drift.photos.reading import Photo, PhotoReader
from lightning_drift.photos.stream import PhotoStream, image_at, middle_crop, random_crop

MOST_PIXELS, MOST_WORKERS = 8192, 128
"""Upper bounds of a square's side, and of the processes that prepare batches."""


class InstanceImages(LightningDataModule):
    """The photographs of one subject that DreamBooth learns, as an endless stream of training samples.

    Every file is decoded as a person sees it (orientation, colour profile, transparency), its short side
    resized to the resolution and the rest cropped. All files that cannot be used are named in one error,
    before any model is loaded. Captions, class images and flips are not supported: the recipe has one prompt,
    no prior preservation, and shows each photo as it is.

    Args:
        instance_dir: Folder of photographs (png, jpg, webp, bmp, avif, tiff, heic), about eight; or the name
            of a bundled set (a folder of your own that is called so: ./name).
        resolution: Side of the square the model sees, pixels, a multiple of 8; null takes the base model's
            own.
        crop: Where the square is cut from a photo that is not square: its middle, or elsewhere at each step.
        background: Colour under transparent parts, as a name or #rrggbb.
        batch_size: Photos per step and device.
        num_workers: Processes that prepare batches; the stream is the same for any number.
        allow_small: Enlarge photos whose short side is below the resolution; otherwise they are refused.
        cache_dir: Folder where encoded photos are kept between runs; null keeps them in memory only.
        held_out: Photos that are never trained on, so that their loss shows where memorising begins: how many
            of the folder's, chosen by the seed and their names, or a folder of others; 0 for none.
        seed: Seed of the order, of random crops and of which photos are held out.
    """

    def __init__(
        self,
        instance_dir: str = "coffee",
        resolution: int | None = None,
        crop: Literal["center", "random"] = "center",
        background: str = "white",
        batch_size: int = 1,
        num_workers: int = 0,
        allow_small: bool = False,
        cache_dir: str | None = "tb_logs/.posteriors",
        held_out: int | str = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if resolution is not None and (resolution < 8 or resolution % 8):
            raise UserError(f"{shown(resolution)} is not a size; give a multiple of 8", "data.resolution")
        if batch_size < 1:
            raise UserError(
                f"{shown(batch_size)} is not a number of photos; give 1 or more", "data.batch_size"
            )
        if num_workers < 0:
            raise UserError(
                f"{shown(num_workers)} is not a number of processes; give 0 or more", "data.num_workers"
            )
        if resolution is not None:
            whole(resolution, "data.resolution", 8, MOST_PIXELS)
        whole(batch_size, "data.batch_size", 1, MOST_TOGETHER)
        whole(num_workers, "data.num_workers", 0, MOST_WORKERS)
        whole(seed, "data.seed", -MAX_SEED - 1, MAX_SEED)
        try:
            red, green, blue = ImageColor.getrgb(background)[:3]
        except ValueError as error:
            raise UserError(
                f"{background!r} is not a colour; write a name such as white, or #rrggbb", "data.background"
            ) from error
        if not isinstance(held_out, str):
            whole(held_out, HELD_OUT, 0)
        self.ground = red, green, blue
        self.instance_dir = instance_dir
        self.resolution = resolution
        self.crop = crop
        self.background = background
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.allow_small = allow_small
        self.cache_dir = cache_dir
        self.held_out = held_out
        self.seed = seed
        self._reader = PhotoReader(resolution, crop, self.ground, allow_small)
        self._photos: list[Photo] = []
        self._held_out: list[Photo] = []
        self._posteriors: tuple[Tensor, Tensor] | None = None

    def setup(self, stage: str) -> None:
        """Read and check every photograph, before the base model is loaded; ``validate`` needs none of them.

        Raises:
            UserError: The folder or some of its files cannot be used; every such file is named with its
                reason.
        """
        if self._photos or stage != "fit":
            return
        folder = find_folder(self.instance_dir)
        paths = find_pictures(folder)
        held_out: list[int] = []
        if isinstance(self.held_out, str):
            others = find_pictures(find_folder(self.held_out, HELD_OUT), HELD_OUT)
        else:
            others = []
            held_out = chosen([path.name for path in paths], self.held_out, self.seed)
        photos = self._reader.read(paths)
        self._held_out = [photos[index] for index in held_out] or (
            self._reader.read(others) if others else []
        )
        self._photos = [photo for index, photo in enumerate(photos) if index not in held_out]
        refuse_same(self._photos, self._held_out)
        self._remark_on_the_set(folder)

    def _remark_on_the_set(self, folder: Path) -> None:
        names = [photo.path.name for photo in self._photos]
        exact, near = alike([photo.pixels for photo in self._photos], [photo.look for photo in self._photos])
        for group in exact:
            notice(
                f"{listed([names[index] for index in group])} are the same picture: it counts more than once"
            )
        for group in near:
            notice(f"{listed([names[i] for i in group])} look nearly the same: what they share weighs more")
        if not 4 <= len(names) <= 16:
            noun = "photo" if len(names) == 1 else "photos"
            rest = " to train on" if self._held_out and not isinstance(self.held_out, str) else ""
            notice(
                f"{folder} holds {len(names)} {noun}{rest}; the recipe's steps and learning rate suit about "
                "eight"
            )

    @property
    def count(self) -> int:
        """The number of photographs that are trained on."""
        self.setup("fit")
        return len(self._photos)

    @property
    def held_out_count(self) -> int:
        """The number of photographs that are never trained on."""
        self.setup("fit")
        return len(self._held_out)

    @property
    def side(self) -> int:
        """Side of the square the model sees, pixels: the option, or else the base model's own."""
        if self.resolution is not None:
            return self.resolution
        if self.trainer is None:
            raise UserError("it is not set, and there is no model to take it from", "data.resolution")
        module: Any = self.trainer.lightning_module
        return int(module.resolution)

    def images(self) -> list[Tensor]:
        """The photographs at the model's size, uint8 ``[H, W, 3]``; squares unless ``crop`` is random.

        Raises:
            UserError: Photos are smaller than the base model's resolution; all are named.
        """
        self.setup("fit")
        return self._reader.sized(self._photos, self.side)

    def squares(self) -> list[Image.Image]:
        """The photographs as squares of the model's size, cropped in the middle whatever ``crop`` is."""
        return self._squares(self.images())

    def held_out_squares(self) -> list[Image.Image]:
        """The same of the photographs that are never trained on; empty where there are none."""
        self.setup("fit")
        return self._squares(self._reader.sized(self._held_out, self.side))

    def _squares(self, images: list[Tensor]) -> list[Image.Image]:
        return [Image.fromarray(middle_crop(image, self.side).numpy()) for image in images]

    @property
    def data_hash(self) -> str:
        """32 hexadecimal digits that follow from the files' contents, in order, and how they are cut."""
        self.setup("fit")
        digest = hashlib.blake2b(f"{self.side} {self.crop} {self.ground}".encode(), digest_size=16)
        for photo in self._photos:
            digest.update(photo.file_hash)
        return digest.hexdigest()

    def encode(self, vae: Any, device: torch.device) -> None:
        """Encode each photograph once; batches then hold ``mean`` and ``std`` in place of pixels.

        Args:
            vae: A diffusers ``AutoencoderKL``; left as it was.
            device: Where to compute.

        Raises:
            UserError: Crops change from step to step, so that there is nothing to encode once.
        """
        images, side = self.images(), self.side
        uneven = [
            photo.path.name
            for photo, image in zip(self._photos, images, strict=True)
            if image.shape[:2] != (side, side)
        ]
        if uneven:
            raise UserError(
                "cached latents need fixed crops, but data.crop is random and photos are not square"
                f" ({listed(uneven)}): set data.crop: center, or latents: reencode"
            )
        cache_dir = None if self.cache_dir is None else user_path(self.cache_dir, "data.cache_dir")
        self._posteriors = cached_posteriors(vae, images, torch.device(device), cache_dir)

    def stream(self, first_batch: int, rank: int, world_size: int) -> PhotoStream:
        """The training batches of one rank from number ``first_batch`` on."""
        content = self._posteriors or self.images()
        return PhotoStream(content, self.side, self.seed, self.batch_size, first_batch, rank, world_size)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches from the position after the last optimizer step, without end."""
        trainer = self.trainer
        assert trainer is not None
        first = trainer.global_step * trainer.accumulate_grad_batches
        stream = self.stream(first, trainer.global_rank, trainer.world_size)
        unused = generator(self.seed, "loader")  # without one, a DataLoader draws from the global generator
        return DataLoader(
            stream,
            batch_size=None,
            num_workers=self.num_workers,
            generator=unused,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> list[list[int]]:
        """One loader of one item for ``validate``, which only renders grids again; none during a fit."""
        assert self.trainer is not None
        return [[0]] if self.trainer.state.fn == "validate" else []

    def write_contact_sheet(self, path: str | Path) -> None:
        """Write one picture of all photographs as the model sees them; random crops as in the first epoch."""
        images = self.images()
        count, side = len(images), self.side
        place = {image_at(position, count, self.seed): position for position in range(count)}
        crops = [random_crop(image, side, self.seed, place[index]) for index, image in enumerate(images)]
        sheet = contact_sheet(
            [Image.fromarray(crop.numpy()) for crop in crops],
            captions=[photo.path.name for photo in self._photos],
            cell=None if count <= 36 else 256,
        )
        save_png(Path(path), sheet)
