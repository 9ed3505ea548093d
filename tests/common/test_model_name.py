"""The short name of a model: in pictures' parameters, and as the title of an export."""

from pathlib import Path
from shutil import copytree

import pytest
from helpers.paths import DATA

from lightning_drift.common.model_name import model_name
from lightning_drift.dreams.dreamer import Dreamer, DreamRequest
from lightning_drift.export.target import default_title
from lightning_drift.prints.images import UpscaleRequest
from lightning_drift.prints.supir_upscaler import SupirUpscaler
from lightning_drift.stable_diffusion.loading import open_pipeline
from lightning_drift.sweep.models import find_models


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("pocket", "pocket"),
        ("Lykon/dreamshaper-v1.5", "dreamshaper-v1.5"),
        ("out/ada-drift0.8", "ada-drift0.8"),
        ("out/ada-drift0.8/", "ada-drift0.8"),
        ("out/ada-drift0.8.safetensors", "ada-drift0.8"),
        ("models/4x-UltraSharp.pth", "4x-UltraSharp"),
        ("ada.delta.safetensors", "ada.delta"),
        ("run/checkpoints/step=01200.ckpt", "step=01200"),
        ("v1.5.pt", "v1.5"),
        ("v1.5.bin", "v1.5"),
        ("sd/model.safetensors.index.json", "model"),
    ],
)
def test_only_the_suffix_of_a_weight_file_is_dropped(name: str, short: str) -> None:
    assert model_name(name) == short


def test_a_folder_with_a_dot_is_named_whole_in_pictures_and_exports(tmp_path: Path) -> None:
    folder = copytree(DATA / "tiny_sd", tmp_path / "ada-drift0.8")
    dreamer = Dreamer(str(folder))
    assert ", Model: ada-drift0.8," in dreamer.describe(DreamRequest("a tree", 0))[1]["parameters"]
    assert find_models([str(folder)], None)[str(folder)].stem == "ada-drift0.8"
    assert default_title(open_pipeline(str(folder))) == "ada-drift0.8"
    upscaler = SupirUpscaler(supir="someone/SUPIR-v0.9", sdxl="someone/sdxl-v1.0")
    text = upscaler.describe(UpscaleRequest(tmp_path / "a.png", "a", 0))[1]["parameters"]
    assert ", Model: sdxl-v1.0, SUPIR: SUPIR-v0.9" in text
