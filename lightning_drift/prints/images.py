"""UpscaleImages: which pictures to upscale, and the paper they are printed on."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import check_file, read_text, user_path
from lightning_drift.common.numbers import MAX_SEED, MOST_TOGETHER, whole
from lightning_drift.common.share import Share
from lightning_drift.images.decode import EXTENSIONS, UndecodableError, decode, read_file, upright_size
from lightning_drift.images.deep import is_deep
from lightning_drift.images.profiles import read_profile
from lightning_drift.prints.captions import read_caption_file
from lightning_drift.prints.detail import Detail, busiest
from lightning_drift.prints.paper import Paper
from lightning_drift.prints.sizes import Size

MOST_SAMPLES = 1000
"""Pictures of one image at most."""
TILE_CAPTIONS = ".tiles.txt"

Bits = Literal["auto", 8, 16]


@dataclass
class UpscaleRequest:
    """One picture to make: an image file and a sample of it.

    Args:
        path: The image file.
        name: Name of the result, without ending.
        seed: Seed of its noise.
        sample: Its number among `samples`, from 0.
        samples: Pictures made of this image.
        caption: What is in the picture; may be empty.
        tile_captions: A caption for each window, instead of `caption`; empty for none.
        content: First 10 hexadecimal digits of the file's SHA-256.
        size: The picture's width and height in pixels, upright; None until its file is read, and for a file
            that is no picture.
        deep: Whether the file has 16 bits a channel.
        paper: What it is printed on; None for a picture without a size on paper.
        profile: The paper's colour profile, as ICC bytes; None keeps the picture's.
        bits: Of a channel; ``auto`` for 16 where the source has them, else 8.
        detail: The part of the result to make; None for all of it.
        changes: Options of sampling that this picture has otherwise, by name.
    """

    path: Path
    name: str
    seed: int
    sample: int = 0
    samples: int = 1
    caption: str = ""
    tile_captions: tuple[str, ...] = ()
    content: str = ""
    size: Size | None = None
    deep: bool = False
    paper: Paper | None = None
    profile: bytes | None = None
    bits: Bits = "auto"
    detail: Detail | None = None
    changes: tuple[tuple[str, float], ...] = ()

    def look(self) -> None:
        """Read the file for its hash, the seed that follows from it, its size and its busiest part, once.

        What cannot be read is reported when the picture is made.
        """
        if self.content:
            return
        with suppress(UndecodableError):
            data = read_file(self.path)
            digest = hashlib.sha256(data)
            self.size, self.deep = upright_size(data), is_deep(data)
            if self.detail is not None and self.detail.at is None and self.size is not None:
                box = self.paper.sheet(*self.size).box if self.paper else (0, 0, *self.size)
                self.detail.at = busiest(decode(data).image, box)
            self.content = digest.hexdigest()[:10]
            if self.seed < 0:
                self.seed = int.from_bytes(digest.digest()[-2:], "big")

    @property
    def captions(self) -> tuple[str, ...]:
        """The caption of each window, or the one for all."""
        return self.tile_captions or (self.caption,)


class _Requests(Dataset[UpscaleRequest | None]):
    """Requests, with the hash of their file and the seed that follows from it added when they are reached.

    Args:
        requests: The requests.
        least: How many items there are at least; those beyond the requests are None.
    """

    def __init__(self, requests: Sequence[UpscaleRequest], least: int) -> None:
        self.requests: list[UpscaleRequest | None] = [*requests, *[None] * (least - len(requests))]

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: int) -> UpscaleRequest | None:
        request = self.requests[index]
        if request is not None:
            request.look()
        return request


class UpscaleImages(LightningDataModule):
    """The pictures to upscale.

    Beside ``photo.png`` a file ``photo.txt`` may hold its caption (or one file those of all), and
    ``photo.tiles.txt`` one caption per line for each window of tiled sampling, row by row. Further samples of
    an image are named ``photo_2``, ``photo_3``, ….

    Args:
        images: A folder of images, one image, or a list of both. Hidden files, subfolders and
            ``contact_sheet.png`` in a folder are left out.
        seed: Seed of the noise, the same for every image; -1 gives each image its own, 0 to 65535. That
            follows from the image's contents, so that a stopped run goes on with the same seeds.
        num_samples: Pictures to make of each image, which differ in their noise.
        captions: Use the captions found beside the images; or a file with the captions of all: ``.jsonl`` or
            ``.csv`` with the columns file_name and text, or ``.json`` of names and texts.
        print: Size of the print on paper, such as ``40x40cm``, ``16x20in`` or ``A4``. The scale follows from
            it in place of the model's, and the file has exactly these pixels; the paper is turned as each
            picture is. null: no paper, pictures are enlarged by the model's `upscale`.
        dpi: Pixels an inch of the print, 10 to 2400.
        border: White edge within the paper, such as ``2cm``.
        bleed: What the picture goes on beyond each edge of the paper, such as ``3mm``; the file is larger by
            it.
        crop: Fill the paper, with what is beyond it cut off evenly; false prints the whole picture, with
            white beside it.
        profile: An ICC file of RGB, such as a paper's, to which the print's colours are converted; null keeps
            the picture's own profile, or sRGB.
        bits: Bits of a channel, 8 or 16; auto gives 16 where the source has them.
        batch_size: Pictures of equal size to restore together. A picture does not depend on it beyond
            rounding.
        share: The part of the pictures that this process makes, such as ``3/16`` for the third of sixteen, on
            any machines that see one folder; null for all. Files and their samples are shared out in whole
            batches. The same command without it, once all shares are done, finds every picture and writes the
            contact sheet and the page, if those are wanted.
        page: Also write ``proof.html`` beside the prints: source, bicubic enlargement, stage 1 and print of
            each picture, any two of them under a slider and a magnifier.

    Attributes:
        requests: The pictures of the share.
        words: The command line that asked for them, after the program's name, which the page's commands begin
            with; None where there is none.
    """

    words: Sequence[str] | None = None

    def __init__(
        self,
        images: str | list[str],
        seed: int = 1234,
        num_samples: int = 1,
        captions: bool | str = True,
        print: str | None = None,
        dpi: float = 300.0,
        border: str = "0",
        bleed: str = "0",
        crop: bool = True,
        profile: str | None = None,
        bits: Bits = "auto",
        batch_size: int = 1,
        share: str | None = None,
        page: bool = False,
    ) -> None:
        super().__init__()
        whole(num_samples, "data.num_samples", 1, MOST_SAMPLES)
        whole(batch_size, "data.batch_size", 1, MOST_TOGETHER)
        self.paper = None if print is None else Paper.read(print, dpi, border, bleed, crop)
        if self.paper is None:
            _refuse_without_paper(border=border, bleed=bleed, profile=profile)
        icc = None if profile is None else read_profile(user_path(profile, "data.profile"), "data.profile")
        self.share = Share.read(share, "data.share")
        try:
            whole(seed, "data.seed", -1, MAX_SEED)
        except UserError as error:
            raise UserError(f"{error.message}; -1 gives each image its own", "data.seed") from error
        names_given = [images] if isinstance(images, str) else images
        if not names_given:
            raise UserError("the list is empty; give a folder of images, or images", "data.images")
        paths = [path for name in names_given for path in _find(user_path(name, "data.images"))]
        stems = Counter(path.stem for path in paths)
        names = [path.stem if stems[path.stem] == 1 else path.name for path in paths]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise UserError(
                f"several images are called {repeated[0]}; give their folders one at a time", "data.images"
            )
        places = [
            (path, name, k) for path, name in zip(paths, names, strict=True) for k in range(num_samples)
        ]
        self._count = len(places)
        if self.share is not None:
            batches = [places[k : k + batch_size] for k in range(0, len(places), batch_size)]
            places = [place for batch in self.share.of(batches, [*map(len, batches)]) for place in batch]
        listed: dict[Path, str] | None = None
        if isinstance(captions, str):
            listed = read_caption_file(user_path(captions, "data.captions"), paths)
        self.requests = [
            UpscaleRequest(
                path=path,
                name=name if sample == 0 else f"{name}_{sample + 1}",
                seed=seed,
                sample=sample,
                samples=num_samples,
                caption=_caption(path, bool(captions), listed),
                tile_captions=_read_tile_captions(path.with_suffix(TILE_CAPTIONS)) if captions else (),
                paper=self.paper,
                profile=icc,
                bits=bits,
            )
            for path, name, sample in places
        ]
        self.batch_size = batch_size
        self.page = page

    @property
    def follows(self) -> str:
        """What the command without ``share`` writes, in words."""
        return "the proof page" if self.page else ""

    def predict_dataloader(self) -> DataLoader[UpscaleRequest | None]:
        """Batches are lists of requests; Lightning shares them out over the devices, none twice."""
        if self.share is not None and not self.requests:
            self.share.tell_empty(-(-self._count // self.batch_size), "batches")
        # Lightning wants a batch for each device; without any it ends before the callbacks' last words.
        devices = self.trainer.world_size if self.trainer is not None else 1
        return DataLoader(_Requests(self.requests, devices), batch_size=self.batch_size, collate_fn=_filled)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Requests hold no tensors."""
        return batch


def _refuse_without_paper(**options: str | None) -> None:
    for name, value in options.items():
        if value is not None and value != "0":
            raise UserError("belongs to a print; give its size with data.print", f"data.{name}")


def _filled(batch: list[UpscaleRequest | None]) -> list[UpscaleRequest]:
    return [request for request in batch if request is not None]


def _find(path: Path) -> list[Path]:
    """The images that a path names; those that cannot be read are among them, to be reported one by one."""
    try:
        is_folder = path.is_dir()
        if not is_folder:
            if not os.path.lexists(path):
                raise UserError(f"no such file or folder: {path}", "data.images")
            check_file(path, "image", "data.images")
            return [path]
        files = sorted(path.iterdir())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})", "data.images") from error
    images = [
        file
        for file in files
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".") and not file.is_dir()
    ]
    images = [file for file in images if file.stem != "contact_sheet"]
    if not images:
        raise UserError(f"the folder {path} holds no images ({', '.join(EXTENSIONS)})", "data.images")
    return images


def _caption(image: Path, wanted: bool, listed: Mapping[Path, str] | None) -> str:
    if listed is not None:
        return listed.get(image, "")
    return _read_caption(image.with_suffix(".txt")) if wanted else ""


def _read_caption(path: Path) -> str:
    if not os.path.lexists(path) or path.is_dir():
        return ""
    return " ".join(read_text(path, "caption", "data.captions").split())


def _read_tile_captions(path: Path) -> tuple[str, ...]:
    if not os.path.lexists(path) or path.is_dir():
        return ()
    lines = read_text(path, "tile captions", "data.captions").splitlines()
    return tuple(line.strip() for line in lines)
