"""The pocket's SUPIR: its trainings go on to the same bits, its files load with the real loader and print."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from helpers.paths import ROOT
from lightning.pytorch import Trainer
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from lightning_drift.assets import POCKET_CLIP
from lightning_drift.common.errors import UserError
from lightning_drift.common.rng import generator
from lightning_drift.dreams.image_writer import ImageWriter
from lightning_drift.supir import SupirUpscaler, UpscaleImages
from lightning_drift.supir.network.autoencoder import SCALING
from lightning_drift.supir.network.conditioning import token_ids
from lightning_drift.supir.network.weights import open_checkpoints
from lightning_drift.supir.restoration import Restorer
from lightning_drift.supir.sampling.noise import AddressedNoise
from lightning_drift.weights.files import open_weights
from lightning_drift.weights.int8_rows import packed
from training.pocket import scenes as scene_data
from training.pocket.run import Schedule, train
from training.pocket.scenes import HELD_OUT_SEED, Scenes
from training.pocket.world.render import render, sample_scene
from training.pocket_supir import autoencoder as supir_autoencoder
from training.pocket_supir import latent_pairs
from training.pocket_supir import models as supir_models
from training.pocket_supir import stages as supir_stages
from training.pocket_supir.assembly import write_models
from training.pocket_supir.degradation import blur, degrade, enlarge, jpeg, reduce
from training.pocket_supir.evaluate import main as evaluate_main
from training.pocket_supir.latent_pairs import LatentPairs
from training.pocket_supir.network import calibrate
from training.pocket_supir.quality import energy, measure, ssim
from training.pocket_supir.stages import (
    DEFAULTS,
    build_stage,
    first_stage,
    pocket_vae,
    trained_network,
)
from training.pocket_supir.text import condition, pocket_text_encoders
from training.pocket_supir.train import main as train_main

CONFIG = ROOT / "configs" / "supir_pocket.yaml"
STAGES = ["autoencoder", "denoise", "base", "control"]
SIDE = 64


def schedule(name, steps):
    _, _, rate, seed = DEFAULTS[name]
    return Schedule(steps=steps, batch_size=2, learning_rate=rate, warmup=2, seed=seed)


def stage_of(name, state, steps):
    return build_stage(name, state, schedule(name, steps), Scenes(0, 8, SIDE), side=32)


@pytest.fixture(scope="module", autouse=True)
def _few_held_out():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supir_autoencoder, "HELD_OUT", 2)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    for name in STAGES:
        train(stage_of(name, state, 2), state / name, precision="32-true")
    return state


def tensors(folder):
    state = torch.load(folder / "last.ckpt", weights_only=True)
    found = dict(state["state_dict"])
    for number, values in state["optimizer_states"][0]["state"].items():
        found |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in values.items()}
    return found


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_was_stopped_goes_on_to_the_same_bits(name, trained, tmp_path, monkeypatch):
    for other in STAGES[: STAGES.index(name)]:
        (tmp_path / other).mkdir()
        (tmp_path / other / "weights").symlink_to(trained / other / "weights")
    stage = stage_of(name, tmp_path, 2)
    step = type(stage).training_step

    def killed(self, batch, batch_idx):
        if self.global_step == 1:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(type(stage), "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train(stage, tmp_path / name, precision="32-true", minutes=0.0)  # saves after every step
    monkeypatch.setattr(type(stage), "training_step", step)
    train(stage_of(name, tmp_path, 2), tmp_path / name, precision="32-true")
    ours, theirs = tensors(tmp_path / name), tensors(trained / name)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key
    first = stage_of(name, tmp_path, 2).state_dict()
    moved = {key for key, value in first.items() if not torch.equal(value, ours[key])}
    assert any(key.startswith("model.") for key in moved)
    assert any(key.startswith("ema.") for key in moved)
    if name == "control":  # the base is frozen
        assert not any(key.startswith(("model.unet.", "ema.unet.")) for key in moved)


def test_the_decoder_goes_on_alone(trained, tmp_path):
    (tmp_path / "autoencoder").mkdir()
    (tmp_path / "autoencoder" / "weights").symlink_to(trained / "autoencoder" / "weights")
    before = supir_stages.scaled_vae(tmp_path).state_dict()
    train(stage_of("decoder", tmp_path, 1), tmp_path / "decoder", precision="32-true")
    after = supir_stages.scaled_vae(tmp_path).state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert any(key.startswith("decoder.") for key in moved)
    assert not any(key.startswith(("encoder.", "quant_conv.")) for key in moved)


def test_workers_make_the_same_latents(trained, tmp_path, monkeypatch):
    for module in (scene_data, latent_pairs):
        monkeypatch.setattr(module, "BLOCK", 16)
    arguments = (first_stage(trained), pocket_vae(), 2, 32)
    pairs = LatentPairs(Scenes(0, 8, SIDE, tmp_path), *arguments)
    pairs.prepare(workers=2)
    assert len(list(tmp_path.glob("squares*"))) == 1
    plain = LatentPairs(Scenes(0, 8, SIDE), *arguments)
    torch.testing.assert_close(pairs.images([3, 12]), plain.images([3, 12]), atol=2e-2, rtol=0)  # halves
    with pytest.raises(UserError, match="--cache"):
        plain.prepare(workers=2)


@pytest.mark.parametrize("name", ["base", "control"])
def test_a_stage_begins_with_given_weights_and_stops_by_the_clock(name, trained, tmp_path):
    for other in STAGES[: STAGES.index(name)]:
        (tmp_path / other).mkdir()
        (tmp_path / other / "weights").symlink_to(trained / other / "weights")
    scenes = Scenes(0, 8, SIDE)
    stage = build_stage(name, tmp_path, schedule(name, 1000), scenes, side=32, init=trained)
    given = load_file(trained / name / "weights" / "model.safetensors")
    state = stage.state_dict()
    for key, value in given.items():
        ours = key.replace("project.", "project_modules.", 1) if key.startswith("project.") else key
        assert torch.equal(state[f"model.{ours}"], value.float()), key
    train(stage, tmp_path / name, precision="32-true", stop_after=0.0)
    assert stage.global_step == 1
    assert (tmp_path / name / "last.ckpt").is_file()


def test_the_command_begins_with_the_weights_of_init(trained, tmp_path):
    weights = load_file(trained / "base" / "weights" / "model.safetensors")
    doubled = {key: 2 * value for key, value in weights.items()}
    (tmp_path / "init" / "base" / "weights").mkdir(parents=True)
    save_file(doubled, tmp_path / "init" / "base" / "weights" / "model.safetensors")
    few = "--scenes 2 --variants 1 --side 32 --batch-size 2 --steps 1 --precision 32-true --stage base"
    train_main([*few.split(), "--init", str(tmp_path / "init"), "--state", str(tmp_path)])
    after = load_file(tmp_path / "base" / "weights" / "model.safetensors")
    for key, value in doubled.items():
        torch.testing.assert_close(after[key], value, atol=1e-2, rtol=0, msg=key)


@pytest.fixture(scope="module")
def models(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    write_models(trained_network(trained), first_stage(trained), out, "int8")
    return out


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
        found = module.state_dict()
        for name, tensor in expected.items():
            assert (found[name] - tensor).norm() <= 0.012 * tensor.norm() + 1e-7, name
    stored = load_file(models / "supir.safetensors")
    share = sum(t.numel() for t in stored.values() if t.dtype == torch.int8) / sum(
        t.numel() for t in stored.values()
    )
    assert share > 0.97


def test_integers_with_scales_are_read_as_what_they_stand_for(tmp_path):
    weight = torch.randn(64, 48, generator=generator(0, "weight")) * torch.logspace(-3, 1, 64)[:, None]
    tensors, metadata = packed({"layer.weight": weight, "layer.bias": weight[0]})
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "layer.weight": torch.int8, "layer.weight.row_scale": torch.float16, "layer.bias": torch.float16,
    }  # fmt: skip
    save_file(tensors, tmp_path / "w.safetensors", metadata)
    opened = open_weights(tmp_path / "w.safetensors")
    assert dict(opened.shapes) == {"layer.weight": (64, 48), "layer.bias": (48,)}
    error = (opened.read("layer.weight").float() - weight).norm(dim=1) / weight.norm(dim=1)
    assert error.max() < 0.012
    # Without the metadata nothing is taken for a scale.
    save_file(tensors, tmp_path / "plain.safetensors")
    assert "layer.weight.row_scale" in open_weights(tmp_path / "plain.safetensors").shapes


@pytest.mark.parametrize("folder", [pytest.param(None, id="shipped"), pytest.param("models", id="untrained")])
def test_a_dream_becomes_a_print_of_exactly_four_times_its_size(folder, models, tmp_path, capsys):
    dream = tmp_path / "dream.png"
    Image.fromarray(render(sample_scene(3, 4), 64)).save(dream)
    dream.with_suffix(".txt").write_text("a castle on green hills")
    paths = ("pocket", "pocket") if folder is None else (models / "supir.safetensors", models / "sdxl")
    module = SupirUpscaler(
        *map(str, paths), prompt="", negative_prompt="", min_size=256, edm_steps=3 if folder else 8,
        s_stage1=1.0, memory="full",
    )  # fmt: skip
    writer = ImageWriter(str(tmp_path / "prints"), contact_sheet=False)
    Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[writer],
    ).predict(module, datamodule=UpscaleImages(str(dream)), return_predictions=False)  # fmt: skip
    with Image.open(writer.written[0]) as image:
        assert image.size == (256, 256)
        pixels = np.asarray(image, np.float32)
        assert image.text["parameters"].startswith("a castle on green hills")
    said = capsys.readouterr().err
    assert ("SupPixel" in said) == (folder is not None)  # the pocket's own weights are free
    if folder is None:
        bicubic = np.asarray(Image.open(dream).resize((256, 256), Image.Resampling.BICUBIC), np.float32)
        assert np.abs(pixels - bicubic).mean() < 20


@torch.no_grad()
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


def test_windows_are_counted_in_the_latent_cells_of_the_base(models):
    paths = str(models / "supir.safetensors"), str(models / "sdxl")
    module = SupirUpscaler(*paths, tile_size=256, tile_overlap=128, upscale=8.0, min_size=64)
    assert module.method().tile == 32  # SDXL's, until a base is opened
    module.setup("predict")
    method = module.method()
    assert (method.cell, method.tile, method.stride) == (4, 64, 32)
    assert method.window_count(512, 512) == 9
    assert method.described()["Tile size"] == 256
    with pytest.raises(UserError, match="4 pixels a latent cell"):
        SupirUpscaler(*paths, reference_numerics=True, encoder_tile_size=512, decoder_tile_size=64).setup(
            "predict"
        )


def test_a_pocket_that_is_not_trained_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr("lightning_drift.supir.network.find.POCKET_SUPIR", tmp_path)
    with pytest.raises(UserError, match="holds no trained SUPIR"):
        SupirUpscaler("pocket", "pocket").setup("predict")


def test_latents_have_unit_scale_and_pictures_stay(trained):
    vae = supir_models.new_vae(pocket_vae())
    x = Scenes(5, 2, SIDE).images([0, 1])
    with torch.no_grad():
        same = pocket_vae().encode(x).latent_dist.mean
        torch.testing.assert_close(vae.encode(x).latent_dist.mean, same, rtol=1e-4, atol=1e-4)
        before = vae.encode(x).latent_dist
        picture = vae.decode(before.mean).sample
        supir_models.to_unit_scale(vae, 3.0)
        after = vae.encode(x).latent_dist
        torch.testing.assert_close(SCALING * after.mean, before.mean / 3.0, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(SCALING * after.std, before.std / 3.0, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(vae.decode(after.mean).sample, picture, rtol=1e-4, atol=1e-4)


def test_prompts_in_a_row_are_prompts_alone():
    encoders = pocket_text_encoders()
    texts = ["a red tower on green hills", "", "night"]
    rows = condition(encoders, texts)
    for k, text in enumerate(texts):
        alone = encoders(token_ids(encoders.tokenizer, text, "")[0])
        torch.testing.assert_close(rows.context[k : k + 1], alone.context, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rows.vector[k : k + 1], alone.vector, rtol=1e-4, atol=1e-5)


def test_calibrated_adapters_begin_near_the_base():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = supir_models.new_network(supir_models.new_unet()).eval()
        inputs = (
            torch.randn(6, 4, 16, 16), torch.randint(0, 1000, (6,)), torch.randn(6, 32, 256),
            torch.randn(6, 224), torch.randn(6, 4, 16, 16),
        )  # fmt: skip
    with torch.no_grad():
        plain = network(*inputs, 0.0)
        far = (network(*inputs, 1.0) - plain).norm()
        calibrate(network, inputs)
        assert (network(*inputs, 1.0) - plain).norm() < 0.2 * far
        assert torch.equal(network(*inputs, 0.0), plain)


def test_degradation_is_a_function_of_its_generator_and_loses_detail():
    x = Scenes(2, 4, SIDE).images([0, 1, 2, 3])
    seen = degrade(x, generator(1, "d"), pocket_vae())
    assert seen.shape == x.shape
    assert torch.equal(seen, degrade(x, generator(1, "d"), pocket_vae()))
    assert not torch.equal(seen, degrade(x, generator(2, "d"), pocket_vae()))
    soft = blur(x, torch.tensor([0.0, 0.5, 1.0, 2.0]))
    torch.testing.assert_close(soft[0], x[0])
    steepness = energy(soft) / energy(x)
    assert steepness[0] > steepness[1] > steepness[3]
    plain = torch.stack([enlarge(picture) for picture in reduce(x)])
    assert (energy(plain) < energy(x)).all()
    assert (jpeg(x[0], 10) - x[0]).abs().mean() > (jpeg(x[0], 90) - x[0]).abs().mean() > 0


def test_pairs_are_addressed_by_scene_and_variant(trained):
    pairs = LatentPairs(Scenes(0, 4, SIDE), first_stage(trained), pocket_vae(), 2, 32)
    assert pairs.count == 8
    found = pairs.images([1, 5])
    assert found.shape == (2, 8, 8, 8)
    whole = LatentPairs(Scenes(0, 4, SIDE), first_stage(trained), pocket_vae(), 2, SIDE).images([1, 5])
    assert whole.shape == (2, 8, 16, 16)
    torch.testing.assert_close(whole[0, :4], whole[1, :4])  # the same scene
    assert not torch.equal(whole[0, 4:], whole[1, 4:])  # another degradation
    assert not torch.equal(found[0, :4], found[1, :4])  # another square of it
    torch.testing.assert_close(pairs.images([5])[0], found[1], rtol=0.05, atol=0.05)
    assert pairs.captions([1], 0) != [""]


def test_measures_tell_good_prints_from_bad():
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(str(POCKET_CLIP), torch_dtype=torch.float32).eval()
    truth = Scenes(4, 2, 128).images([0, 1])
    given = reduce(truth)
    soft = torch.stack([enlarge(picture) for picture in given])
    best, worse = measure(truth, truth, given, clip), measure(soft, truth, given, clip)
    assert best.clip_distance < 1e-5
    assert best.energy == pytest.approx(1)
    assert worse.clip_distance > 0.01
    assert worse.energy < 0.8
    assert worse.energy_error > 0.2
    assert 25 < worse.fidelity < best.fidelity
    assert float(ssim(given, given).mean()) == pytest.approx(1, abs=1e-4)
    assert float(ssim(given, given.flip(-1)).mean()) < 0.9


def test_the_scripts_run(trained, models, tmp_path, monkeypatch, capsys):
    command = f"x --stage assemble --state {trained} --out {tmp_path / 'out'} --storage float8"
    monkeypatch.setattr(sys, "argv", command.split())
    train_main()
    opened = open_checkpoints(tmp_path / "out" / "supir.safetensors", tmp_path / "out" / "sdxl")
    assert (
        opened.supir.read("model.control_model.middle_block.0.in_layers.2.weight").dtype
        == torch.float8_e4m3fn
    )
    paths = f"--supir {models / 'supir.safetensors'} --sdxl {models / 'sdxl'}"
    command = f"x {paths} --out {tmp_path / 'figures'} --count 1 --steps 2 --threads 1"
    monkeypatch.setattr(sys, "argv", command.split())
    with torch.no_grad():
        evaluate_main()
    torch.set_grad_enabled(True)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"figures.json", "sheet.png"}
    assert "bicubic" in capsys.readouterr().out
