"""Proof pages: written from prints that take no time, and read back."""

import base64
import io
import json
import re

import numpy as np
from PIL import Image

from helpers.supir.running import predict
from lightning_drift import OpenUpscaler, UpscaleImages
from lightning_drift.images.picture import Picture
from lightning_drift.images.png import write_png

WORDS = ["predict", "-c", "configs/supir.yaml", "--data.images", "photos"]


def data_of(page):
    found = re.search(
        r'<script type="application/json" id="proof">(.*?)</script>', page.read_text(), re.DOTALL
    )
    return json.loads(found[1])


def levels_of(address):
    image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    return np.asarray(image.convert("RGB"), int)


def lanczos(images, folder, words=WORDS, **options):
    data = UpscaleImages(images, page=True, **options)
    data.words = words
    return predict(OpenUpscaler(upscale=3.0), data, folder)


def cell(folder, name, request, control, scale, text="", side=32):
    """A file as `Proofs` writes them."""
    settings = f"Steps: 10, CFG scale: {scale:g}, Control scale: {control:g}, Seed: {request.seed}"
    settings += f", Detail: {side} pixels at 0.5 0.25, Input hash: {request.content}{text}"
    image = Image.new("RGB", (side, side), (200, 120, 90))
    place = folder / f"{name}_control{control:g}_cfg{scale:g}.png"
    write_png(place, Picture(None, place.stem, image, {"parameters": settings}))
    return place
