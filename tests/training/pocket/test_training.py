"""The pocket's trainings go on to the same bits, and their stages become a pipeline."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers.trainings import link_weights, tensors, train_with_a_break
from transformers import CLIPModel

from lightning_drift.common.errors import UserError
from training.pocket.run import Schedule, Stage, train
from training.pocket.scenes import Scenes
from training.pocket.stages import assemble, build_stage
from training.pocket.tokenizer import tokenize
from training.pocket.train import main as train_main
from training.pocket.unet import LatentScenes, new_unet

STAGES = ("autoencoder", "text", "clip", "unet")
BATCH = {"autoencoder": 4, "text": 8, "clip": 8, "unet": 4}


def schedule(name: str, steps: int) -> Schedule:
    return Schedule(steps, BATCH[name], 1e-3, warmup=2, seed=1)


def stage_of(name: str, state: Path, steps: int, **options: object) -> Stage:
    return build_stage(name, state, schedule(name, steps), Scenes(0, 64), **options)


@pytest.fixture(scope="module", autouse=True)
def _few_held_out():
    """Measure saved weights on few scenes; the measures themselves are tested apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.pocket.autoencoder.HELD_OUT", 4)
        patch.setattr("training.pocket.clip.HELD_OUT", 128)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    for name in STAGES:
        train(stage_of(name, state, 3), state / name, precision="32-true")
    return state


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_was_stopped_goes_on_to_the_same_bits(name, trained, tmp_path, monkeypatch):
    if name == "unet":
        link_weights(trained, tmp_path, "autoencoder", "text")
    ours = train_with_a_break(lambda: stage_of(name, tmp_path, 3), tmp_path / name, 2, monkeypatch)
    theirs = tensors(trained / name)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def test_training_changes_the_weights_and_the_average_follows(trained):
    for name in STAGES:
        after = tensors(trained / name)
        first = stage_of(name, trained, 3).state_dict()
        key = next(
            k for k in after if (k.startswith("model.") and after[k].ndim == 4) or "q_proj.weight" in k
        )
        average = key.replace("model.", "ema.", 1)
        assert not torch.equal(after[key], first[key])
        assert not torch.equal(after[average], first[average])
        assert not torch.equal(after[average], after[key])


def test_the_pipeline_loads_with_the_stock_class(trained, tmp_path):
    out = tmp_path / "pipeline"
    assemble(trained, out)
    pipeline = StableDiffusionPipeline.from_pretrained(str(out), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    assert json.loads((out / "text_encoder" / "config.json").read_text())["dtype"] == "float32"
    config = pipeline.scheduler.config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert not config.clip_sample
    assert not config.set_alpha_to_one
    generator = torch.Generator().manual_seed(0)
    image = pipeline(
        "a tower", num_inference_steps=2, height=64, width=64, generator=generator, output_type="np"
    )
    assert image.images.shape == (1, 64, 64, 3)
    assert np.isfinite(image.images).all()
    clip = CLIPModel.from_pretrained(str(trained / "text" / "weights"), torch_dtype=torch.float32).eval()
    ids = tokenize(pipeline.tokenizer, ["a red tower"])
    with torch.no_grad():
        assert torch.equal(pipeline.text_encoder(ids)[0], clip.text_model(ids)[0])
    size = sum(file.stat().st_size for file in out.rglob("*.safetensors"))
    assert size < 15 * 2**20


def test_a_new_size_of_unet_stays_within_its_bar():
    assert sum(p.numel() for p in new_unet().parameters()) <= 5.2e6


def test_only_the_decoder_moves_when_the_encoder_is_frozen(trained, tmp_path):
    init = link(trained, tmp_path / "init", "autoencoder")
    stage = stage_of("autoencoder", tmp_path, 2, freeze_encoder=True, init=init)
    train(stage, tmp_path / "autoencoder", precision="32-true")
    after = tensors(tmp_path / "autoencoder")
    before = stage_of("autoencoder", tmp_path, 2, init=init).state_dict()
    moved = {key for key, value in before.items() if not torch.equal(after[key], value)}
    assert any("decoder.conv_in" in key for key in moved)
    assert not any("encoder." in key or ".quant_conv" in key for key in moved if "decoder." not in key)


def link(trained: Path, init: Path, name: str) -> Path:
    init.mkdir()
    (init / name).symlink_to(trained / name / "weights")
    return init


@pytest.mark.parametrize("name", ["text", "unet"])
def test_a_stage_begins_from_committed_weights(name, trained, tmp_path):
    stage = stage_of(name, trained, 2, init=link(trained, tmp_path / "i", name))
    average = {k: v for k, v in tensors(trained / name).items() if k.startswith("ema.")}
    for key, value in stage.state_dict().items():
        if key.startswith("model."):
            torch.testing.assert_close(value, average[key.replace("model.", "ema.", 1)].half().float())


def test_a_missing_stage_is_said(tmp_path):
    with pytest.raises(UserError, match="stage 'autoencoder' has no weights"):
        stage_of("unet", tmp_path, 1)
    with pytest.raises(UserError, match="no stage 'vae'"):
        build_stage("vae", tmp_path, schedule("unet", 1), Scenes(0, 64))


def test_the_schedule_rises_stays_and_falls():
    schedule = Schedule(1000, 1, 1.0, warmup=100, cooldown=0.4)
    assert schedule.factor(0) == pytest.approx(0.01)
    assert schedule.factor(99) == schedule.factor(600) == 1.0
    assert schedule.factor(800) == pytest.approx(0.51)
    assert schedule.factor(1000) == pytest.approx(0.02)
    assert Schedule(2000, 1, 1.0, warmup=100, cooldown=0.4).factor(1000) == 1.0


def test_latents_are_kept_per_encoder(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("training.pocket.scenes.BLOCK", 64)
    monkeypatch.setattr("training.pocket.unet.BLOCK", 64)
    stage = build_stage("unet", trained, schedule("unet", 1), Scenes(0, 64, 64, tmp_path))
    stage.scenes.prepare()
    assert len(list(tmp_path.glob("latents*.npy"))) == 1
    plain = stage_of("unet", trained, 1).scenes
    torch.testing.assert_close(stage.scenes.images([3, 9]), plain.images([3, 9]), rtol=0.01, atol=0.02)
    again = LatentScenes(Scenes(0, 64), stage.scenes.vae)
    assert again.key == plain.key
    with torch.no_grad():
        plain.vae.decoder.conv_in.weight.add_(1.0)
        assert LatentScenes(plain.scenes, plain.vae).key == again.key
        plain.vae.encoder.conv_in.weight.add_(1.0)
        assert LatentScenes(plain.scenes, plain.vae).key != again.key
    with pytest.raises(UserError, match="--cache"):
        plain.prepare()


def test_the_command_runs_a_stage(tmp_path):
    command = "--stage text --batch-size 4 --steps 1 --scenes 16 --precision 32-true --threads 1 --state"
    train_main([*command.split(), str(tmp_path)])
    names = {path.name for path in (tmp_path / "text").iterdir()}
    assert names == {"last.ckpt", "log", "weights"}
