"""The assembled models load with the real loader, print, and are measured."""

import json

import pytest
import torch
from helpers.supir.running import opened, predict
from PIL import Image
from safetensors.torch import load_file

from lightning_drift import SupirUpscaler, UpscaleImages
from lightning_drift.supir.network.weights import open_checkpoints
from training.pocket.world.render import render, sample_scene
from training.pocket_supir import weak_spots
from training.pocket_supir.evaluate import main as evaluate_main
from training.pocket_supir.stages import first_stage, trained_network
from training.pocket_supir.text import pocket_text_encoders
from training.pocket_supir.train import main as train_main
from training.pocket_supir.unpacking import unpack


def test_eight_bits_keep_weights_through_the_real_loader(trained, models):
    opened = open_checkpoints(models / "supir.safetensors", models / "sdxl")
    for module, source in (
        (opened.network(torch.float32), trained_network(trained)),
        (opened.first_stage(torch.float32), first_stage(trained)),
        (opened.text_encoders(torch.float32), pocket_text_encoders()),
    ):
        expected = {
            name: tensor for name, tensor in source.state_dict().items() if tensor.is_floating_point()
        }
        weights = module.state_dict()
        for name, tensor in expected.items():
            assert (weights[name] - tensor).norm() <= 0.012 * tensor.norm() + 1e-7, name
    stored = load_file(models / "supir.safetensors")
    share = sum(t.numel() for t in stored.values() if t.dtype == torch.int8) / sum(
        t.numel() for t in stored.values()
    )
    assert share > 0.97


def test_the_assembled_models_come_apart_into_the_weights_of_their_stages(trained, models, tmp_path):
    unpack(str(models / "supir.safetensors"), str(models / "sdxl"), tmp_path)
    for build in (first_stage, trained_network):
        ours, theirs = build(tmp_path).state_dict(), build(trained).state_dict()
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert (ours[name] - tensor).norm() <= 0.012 * tensor.norm() + 1e-6, name


def test_the_assembled_models_print(models, tmp_path, capsys):
    dream = tmp_path / "dream.png"
    Image.fromarray(render(sample_scene(3, 4), 64)).save(dream)
    dream.with_suffix(".txt").write_text("a castle on green hills")
    module = SupirUpscaler(
        str(models / "supir.safetensors"), str(models / "sdxl"), prompt="", negative_prompt="", min_size=256,
        edm_steps=3, s_stage1=1.0, memory="full",
    )  # fmt: skip
    (path,) = predict(module, UpscaleImages(str(dream)), tmp_path / "prints").written
    assert opened(path).size == (256, 256)
    assert opened(path).text["parameters"].startswith("a castle on green hills")
    assert "SupPixel" in capsys.readouterr().err  # these weights might be SUPIR's own


def test_the_commands_run(trained, models, tmp_path, capsys):
    train_main(f"--stage assemble --state {trained} --out {tmp_path / 'out'} --storage float8".split())
    opened = open_checkpoints(tmp_path / "out" / "supir.safetensors", tmp_path / "out" / "sdxl")
    assert (
        opened.supir.read("model.control_model.middle_block.0.in_layers.2.weight").dtype
        == torch.float8_e4m3fn
    )
    paths = f"--supir {models / 'supir.safetensors'} --sdxl {models / 'sdxl'}"
    evaluate_main(f"{paths} --out {tmp_path / 'figures'} --count 1 --steps 2 --threads 1".split())
    assert torch.is_grad_enabled()
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"figures.json", "sheet.png"}
    assert "bicubic" in capsys.readouterr().out


@pytest.mark.slow
def test_weak_spots_are_measured_by_the_command(models, tmp_path, monkeypatch):
    monkeypatch.setattr(weak_spots, "PLAIN", ((64, 64, 64), (200, 40, 40)))
    paths = f"--supir {models / 'supir.safetensors'} --sdxl {models / 'sdxl'}"
    evaluate_main(f"{paths} --out {tmp_path / 'spots'} --count 1 --steps 2 --weak-spots --threads 1".split())
    figures = json.loads((tmp_path / "spots" / "weak_spots.json").read_text())
    assert figures["bicubic"]["plain_worst"] < 1 < figures["first stage"]["plain_worst"]
    assert figures["print, wavelet on input"]["shift_most"] < figures["print, no colour fix"]["shift_most"]
