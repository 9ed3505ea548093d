"""The drift at a glance: the same picture at every milestone, side by side."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from PIL import Image

from lightning_drift.common.prompt_lists import slug
from lightning_drift.images.contact_sheet import contact_sheet
from lightning_drift.images.decode import UndecodableError, decode
from lightning_drift.images.png import save_png
from lightning_drift.stable_diffusion.sampling import DRIFT_MAP


class PictureWriter:
    """Keeps a milestone's pictures one by one while the next ones are sampled.

    Args:
        folder: The run's grids; a picture becomes ``step=00800/<prompt>_seed0000.png`` in it, and its map,
            where it has one, ``..._map.png`` beside it.
        step: The milestone.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder / f"step={step:05d}"
        self._writer = ThreadPoolExecutor(1, "seed grid")
        self._writing: list[Future[None]] = []

    def write(self, images: Mapping[tuple[str, int], Image.Image]) -> None:
        """Begin to write pictures, by prompt and seed."""
        for (prompt, seed), image in images.items():
            path = _path(self._folder, prompt, seed)
            self._writing.append(self._writer.submit(save_png, path, image))
            if drift_map := image.info.get(DRIFT_MAP):
                beside = path.with_name(f"{path.stem}_map.png")
                self._writing.append(self._writer.submit(save_png, beside, drift_map))

    def finish(self) -> None:
        """Wait until all are written.

        Raises:
            OSError: One cannot be.
        """
        for written in self._writing:
            written.result()

    def __enter__(self) -> "PictureWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(cancel_futures=True)


def save_pictures(folder: Path, step: int, images: Mapping[tuple[str, int], Image.Image]) -> None:
    """Write a milestone's pictures as `PictureWriter` does, and wait for it.

    Raises:
        OSError: A file cannot be written.
    """
    with PictureWriter(folder, step) as writer:
        writer.write(images)
        writer.finish()


def save_drift_sheet(path: Path, prompts: Sequence[str], seeds: Sequence[int]) -> None:
    """Write one sheet over all milestones on disk: columns are steps, from the base model on.

    Rows are the prompts with their first seed; for a single prompt they are its seeds. Milestones from before
    a resume are on disk and so on the sheet.

    Args:
        path: The sheet; the milestones' folders lie beside it.
        prompts: The group's prompts.
        seeds: The group's seeds.

    Raises:
        OSError: The sheet cannot be written.
    """
    pairs = [(prompts[0], seed) for seed in seeds] if len(prompts) == 1 else [(p, seeds[0]) for p in prompts]
    labels = [f"seed {seed}" if len(prompts) == 1 else prompt or "(empty prompt)" for prompt, seed in pairs]
    folders = sorted(
        entry for entry in path.parent.glob("step=*") if re.fullmatch(r"step=[0-9]{5,10}", entry.name)
    )
    shown = [entry for entry in folders if all(_path(entry, *pair).exists() for pair in pairs)]
    images = []
    for pair in pairs:
        for entry in shown:
            image = Image.new("RGB", (8, 8))  # a picture that was damaged since
            with suppress(UndecodableError):
                image = decode(_path(entry, *pair)).image
            images.append(image)
    steps = [str(int(entry.name.removeprefix("step="))) for entry in shown]
    title = prompts[0] if len(prompts) == 1 else None
    save_png(path, contact_sheet(images, rows=labels, columns=steps, title=title))


def _path(folder: Path, prompt: str, seed: int) -> Path:
    return folder / f"{slug(prompt)}_seed{seed:04d}.png"
