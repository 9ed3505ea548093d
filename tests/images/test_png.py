"""Pictures as PNG files with the texts that were meant for them."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from lightning_drift.images.decode import read_file
from lightning_drift.images.picture import Picture
from lightning_drift.images.png import save_png, stored_parameters, write_png
from lightning_drift.images.png_chunks import text_of


def test_an_image_that_two_threads_write_has_the_text_of_each_file_alone(tmp_path: Path) -> None:
    image = Image.effect_noise((256, 256), 90).convert("RGB")  # slow enough to compress
    named = Picture(None, "", image, {"parameters": "a cat"})
    writing: list[Future[None]] = []
    with ThreadPoolExecutor(2) as threads:
        for number in range(40):
            plain, told = tmp_path / f"{number}_plain.png", tmp_path / f"{number}_told.png"
            writing += [threads.submit(save_png, plain, image), threads.submit(write_png, told, named)]
    for written in writing:
        written.result()
    for number in range(40):
        assert stored_parameters(tmp_path / f"{number}_told.png") == "a cat"
        assert text_of(read_file(tmp_path / f"{number}_plain.png"), "parameters") is None
