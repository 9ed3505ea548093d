"""The pocket's own SUPIR, as shipped: its prints, its windows, and how its absence is told."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from helpers.paths import ROOT
from helpers.supir.running import opened, pixels, predict
from PIL import Image
from transformers import CLIPModel

from lightning_drift import SupirUpscaler, UpscaleImages
from lightning_drift.assets import POCKET_CLIP
from lightning_drift.common.errors import UserError
from lightning_drift.supir.restoration import Restorer
from lightning_drift.supir.sampling.noise import AddressedNoise
from training.pocket.scenes import HELD_OUT_SEED, Scenes
from training.pocket.world.render import render, sample_scene
from training.pocket_supir.degradation import enlarge, reduce
from training.pocket_supir.quality import measure

CONFIG = ROOT / "configs" / "supir_pocket.yaml"


def test_a_dream_becomes_a_print_of_exactly_four_times_its_size(tmp_path, capsys):
    dream = tmp_path / "dream.png"
    Image.fromarray(render(sample_scene(3, 4), 64)).save(dream)
    dream.with_suffix(".txt").write_text("a castle on green hills")
    module = SupirUpscaler(
        "pocket", "pocket", prompt="", negative_prompt="", min_size=256, edm_steps=8, s_stage1=1.0,
        memory="full",
    )  # fmt: skip
    (path,) = predict(module, UpscaleImages(str(dream)), tmp_path / "prints").written
    assert opened(path).size == (256, 256)
    assert opened(path).text["parameters"].startswith("a castle on green hills")
    assert "SupPixel" not in capsys.readouterr().err  # the pocket's own weights are free
    bicubic = np.asarray(Image.open(dream).resize((256, 256), Image.Resampling.BICUBIC), np.float32)
    assert np.abs(pixels(path) - bicubic).mean() < 20


def test_shipped_prints_are_nearer_to_the_truth_than_bicubic_and_without_control_dream_freely():
    truth = Scenes(HELD_OUT_SEED, 2, 256).images([0, 1])
    given = (reduce(truth) * 127.5 + 127.5).round() / 127.5 - 1
    bicubic = torch.stack([enlarge(picture) for picture in given])
    options = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["model"]["init_args"]
    module = SupirUpscaler(**options | {"edm_steps": 10, "memory": "full"})
    module.setup("predict")
    cpu, method = torch.device("cpu"), module.method()

    def printed(**change):
        changed = replace(method, sampling=replace(method.sampling, **change))
        noises = [AddressedNoise(1, k, cpu) for k in range(2)]
        return Restorer(module.checkpoints, changed, cpu).restore(bicubic, [("",)] * 2, noises)

    clip = CLIPModel.from_pretrained(str(POCKET_CLIP), torch_dtype=torch.float32).eval()
    ours, plain, free = (
        measure(pictures, truth, given, clip)
        for pictures in (printed(), bicubic, printed(control_scale=0.0, s_stage1=-1.0))
    )
    assert ours.clip_distance < plain.clip_distance
    assert ours.energy_error < plain.energy_error
    assert ours.fidelity > 32
    assert free.fidelity < 20


def test_windows_are_counted_in_the_latent_cells_of_the_base():
    module = SupirUpscaler("pocket", "pocket", tile_size=256, tile_overlap=128, upscale=8.0, min_size=64)
    assert module.method().tile == 32  # SDXL's, until a base is opened
    module.setup("predict")
    method = module.method()
    assert (method.cell, method.tile, method.stride) == (4, 64, 32)
    assert method.window_count(512, 512) == 9
    assert method.described()["Tile size"] == 256
    with pytest.raises(UserError, match="4 pixels a latent cell"):
        SupirUpscaler(
            "pocket", "pocket", reference_numerics=True, encoder_tile_size=512, decoder_tile_size=64
        ).setup("predict")


def test_a_pocket_that_is_not_trained_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr("lightning_drift.supir.network.find.POCKET_SUPIR", tmp_path)
    with pytest.raises(UserError, match="holds no trained SUPIR"):
        SupirUpscaler("pocket", "pocket").setup("predict")
