"""Running the predict stage on tiny models and pictures."""

from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from PIL import Image, ImageCms

from lightning_drift import SupirUpscaler
from lightning_drift.images.image_writer import ImageWriter


def upscaler(models, **options):
    return SupirUpscaler(**models, **{"edm_steps": 2, "min_size": 64, "upscale": 2.0, **options})


def predict(module, data, output, writer=None, **trainer):
    writer = writer or ImageWriter(str(output), contact_sheet=False)
    Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[writer], **trainer,
    ).predict(module, datamodule=data, return_predictions=False)  # fmt: skip
    return writer


def photo(path: Path, size=(40, 33), mode="RGB", seed=0, **save):
    generator = np.random.default_rng(seed)
    small = generator.integers(
        0, 256, (5, 6, len(Image.new(mode, (1, 1)).getbands())), dtype=np.uint8
    ).squeeze()
    image = Image.fromarray(small, mode) if mode != "CMYK" else Image.fromarray(small, "CMYK")
    path.parent.mkdir(exist_ok=True)
    image.resize(size, Image.Resampling.BICUBIC).save(path, **save)
    return path


def opened(path):
    with Image.open(path) as image:
        image.load()
        return image


def pixels(path):
    return np.asarray(opened(path))


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
