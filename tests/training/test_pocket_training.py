import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from helpers.paths import ROOT
from transformers import CLIPModel

from lightning_drift.common.errors import UserError
from training.pocket.autoencoder import measure_autoencoder
from training.pocket.clip import load_tokenizer, measure_retrieval, new_clip
from training.pocket.probes import PROBES, Checker, Probe, colour_mask
from training.pocket.run import Schedule, train
from training.pocket.scenes import Batches, Scenes, paint
from training.pocket.stages import assemble, build_stage
from training.pocket.tokenizer import CONTEXT, build_tokenizer, tokenize
from training.pocket.train import main as train_main
from training.pocket.unet import LatentScenes, new_unet
from training.pocket.world.render import render, sample_scene

STAGES = ("autoencoder", "text", "clip", "unet")
TINY = {"autoencoder": 4, "text": 8, "clip": 8, "unet": 4}


def schedule(name: str, steps: int) -> Schedule:
    return Schedule(steps, TINY[name], 1e-3, warmup=2, seed=1)


def run(name: str, state: Path, steps: int, monkeypatch: pytest.MonkeyPatch, **options: object) -> None:
    quick(monkeypatch)
    stage = build_stage(name, state, schedule(name, steps), Scenes(0, 64), **options)
    train(stage, state / name, precision="32-true")


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure saved weights on few scenes; the measures themselves are tested apart."""
    module = "training.pocket.autoencoder.measure_autoencoder"
    monkeypatch.setattr(module, lambda vae, count: measure_autoencoder(vae, 4))
    module = "training.pocket.clip.measure_retrieval"
    monkeypatch.setattr(module, lambda clip, tokenizer, groups: 0.0)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path / "last.ckpt", weights_only=True)
    assert state["global_step"] > 0
    found = dict(state["state_dict"])
    for number, values in state["optimizer_states"][0]["state"].items():
        found |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in values.items()}
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in STAGES:
            run(name, state, 3, monkeypatch)
    return state


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_was_stopped_goes_on_to_the_same_bits(name, trained, tmp_path, monkeypatch):
    for other in ("autoencoder", "text"):
        if name == "unet":
            (tmp_path / other).mkdir()
            (tmp_path / other / "weights").symlink_to(trained / other / "weights")
    quick(monkeypatch)
    stage = build_stage(name, tmp_path, schedule(name, 3), Scenes(0, 64))
    step = type(stage).training_step

    def killed(self, batch, batch_idx):
        if self.global_step == 2:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(type(stage), "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train(stage, tmp_path / name, precision="32-true", minutes=0.0)  # saves after every step
    monkeypatch.setattr(type(stage), "training_step", step)
    assert torch.load(tmp_path / name / "last.ckpt", weights_only=True)["global_step"] == 2
    run(name, tmp_path, 3, monkeypatch)
    ours, theirs = tensors(tmp_path / name), tensors(trained / name)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def test_training_changes_the_weights_and_the_average_follows(trained):
    for name in STAGES:
        found = tensors(trained / name)
        first = build_stage(name, trained, schedule(name, 3), Scenes(0, 64)).state_dict()
        key = next(
            k for k in found if (k.startswith("model.") and found[k].ndim == 4) or "q_proj.weight" in k
        )
        average = key.replace("model.", "ema.", 1)
        assert not torch.equal(found[key], first[key])
        assert not torch.equal(found[average], first[average])
        assert not torch.equal(found[average], found[key])


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


def test_only_the_decoder_moves_when_the_encoder_is_frozen(trained, tmp_path, monkeypatch):
    init = {"init": link(trained, tmp_path / "init", "autoencoder")}
    run("autoencoder", tmp_path / "state", 2, monkeypatch, freeze_encoder=True, **init)
    found = torch.load(tmp_path / "state" / "autoencoder" / "last.ckpt", weights_only=True)["state_dict"]
    stage = build_stage("autoencoder", tmp_path, schedule("autoencoder", 2), Scenes(0, 64), **init)
    moved = {key for key, value in stage.state_dict().items() if not torch.equal(found[key], value)}
    assert any("decoder.conv_in" in key for key in moved)
    assert not any("encoder." in key or ".quant_conv" in key for key in moved if "decoder." not in key)


def link(trained: Path, init: Path, name: str) -> Path:
    init.mkdir()
    (init / name).symlink_to(trained / name / "weights")
    return init


@pytest.mark.parametrize("name", ["text", "unet"])
def test_a_stage_begins_from_committed_weights(name, trained, tmp_path):
    stage = build_stage(
        name, trained, schedule(name, 2), Scenes(0, 64), init=link(trained, tmp_path / "i", name)
    )
    average = {k: v for k, v in tensors(trained / name).items() if k.startswith("ema.")}
    for key, value in stage.state_dict().items():
        if key.startswith("model."):
            torch.testing.assert_close(value, average[key.replace("model.", "ema.", 1)].half().float())


def test_a_missing_stage_is_said(tmp_path):
    with pytest.raises(UserError, match="stage 'autoencoder' has no weights"):
        build_stage("unet", tmp_path, schedule("unet", 1), Scenes(0, 64))
    with pytest.raises(UserError, match="no stage 'vae'"):
        build_stage("vae", tmp_path, schedule("unet", 1), Scenes(0, 64))


def test_the_schedule_rises_stays_and_falls():
    schedule = Schedule(1000, 1, 1.0, warmup=100, cooldown=0.4)
    assert schedule.factor(0) == pytest.approx(0.01)
    assert schedule.factor(99) == schedule.factor(600) == 1.0
    assert schedule.factor(800) == pytest.approx(0.51)
    assert schedule.factor(1000) == pytest.approx(0.02)
    assert Schedule(2000, 1, 1.0, warmup=100, cooldown=0.4).factor(1000) == 1.0


def test_batches_are_addressed_by_step(tmp_path):
    scenes = Scenes(0, 12)
    whole = Batches(scenes, 4, 1, 0, True)
    first = [whole.batch(step) for step in range(7)]
    iterator = iter(Batches(scenes, 4, 1, 5, True))
    for step in (5, 6):
        batch = next(iterator)
        assert batch["step"] == step
        assert batch["captions"] == first[step]["captions"]
        assert torch.equal(batch["images"], first[step]["images"])
    passes = [torch.cat([first[step]["images"] for step in range(k, k + 3)]) for k in (0, 3)]
    assert not torch.equal(passes[0], passes[1])  # the second pass is shuffled
    order = sorted(range(12), key=lambda i: passes[0][i].sum())
    again = sorted(range(12), key=lambda i: passes[1][i].sum())
    assert torch.equal(passes[0][order], passes[1][again])  # and holds the same scenes
    said = [{text for step in range(k, k + 3) for text in first[step]["captions"]} for k in (0, 3)]
    assert said[0] != said[1]


def test_workers_keep_the_order(tmp_path):
    scenes = Scenes(0, 12, 64, tmp_path)
    paint(scenes, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["world0-64px-00000.npy"]
    loader = iter(Batches(scenes, 4, 1, 2, True).loader(workers=2))
    direct = Batches(scenes, 4, 1, 2, True)
    for step in (2, 3, 4):
        batch = next(loader)
        assert batch["step"] == step
        assert batch["captions"] == direct.batch(step)["captions"]
        assert torch.equal(batch["images"], direct.batch(step)["images"])


def test_latents_are_kept_per_encoder(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("training.pocket.scenes.BLOCK", 64)
    monkeypatch.setattr("training.pocket.unet.BLOCK", 64)
    stage = build_stage("unet", trained, schedule("unet", 1), Scenes(0, 64, 64, tmp_path))
    stage.scenes.prepare()
    assert len(list(tmp_path.glob("latents*.npy"))) == 1
    plain = build_stage("unet", trained, schedule("unet", 1), Scenes(0, 64)).scenes
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


def test_painted_blocks_on_disk_are_the_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr("training.pocket.scenes.BLOCK", 4)
    scenes = Scenes(3, 8, 64, tmp_path)
    for index in (5, 0):
        np.testing.assert_array_equal(scenes.image(index), render(sample_scene(3, index)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "world3-64px-00000.npy",
        "world3-64px-00001.npy",
    ]
    monkeypatch.setattr("training.pocket.scenes.render", None)  # nothing is painted twice
    np.testing.assert_array_equal(Scenes(3, 8, 64, tmp_path).image(6), render(sample_scene(3, 6)))


def test_tokenizer_knows_the_world_and_encodes_anything():
    tokenizer = build_tokenizer()
    for word in ("monumental", "lighthouse", "turquoise", "skyline", "sks", "photo"):
        assert len(tokenizer.tokenize(word)) == 1
    ids = tokenize(tokenizer, ["", "a tower", "Ünïcode ¡ok! 日本 " * 20])
    assert ids.shape == (3, CONTEXT)
    assert int(ids.max()) < len(tokenizer)
    assert tokenizer.decode(ids[1], skip_special_tokens=True).strip() == "a tower"
    assert (ids[:, 0] == tokenizer.bos_token_id).all()


def test_measures_tell_good_from_bad(trained):
    class Perfect:
        """Passes pictures through unchanged."""

        def __init__(self, noise):
            self.noise = noise

        def parameters(self):
            yield torch.zeros(1)

        def encode(self, x):
            return type("E", (), {"latent_dist": type("D", (), {"mean": x})})

        def decode(self, z):
            return type("S", (), {"sample": z + self.noise})

    quality = measure_autoencoder(Perfect(0.02), 8)
    assert quality["colour_error"] < 0.02  # grey noise
    red = torch.tensor([-0.5, 0.0, 0.0]).view(3, 1, 1)
    assert measure_autoencoder(Perfect(red), 8)["colour_error"] > 0.2
    assert 39.5 < quality["psnr"] < 41.5  # 20 log10(2 / 0.02) = 40, a little more where clipping helps
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = build_tokenizer()
        assert measure_retrieval(new_clip(tokenizer).eval(), tokenizer, 1) < 0.1


def test_checks_accept_painted_scenes_and_refuse_others():

    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = build_tokenizer()
        checker = Checker(new_clip(tokenizer).eval(), tokenizer, count=160)
    probe = Probe("castle", "red", time="night", moods=("transcendent",))
    scene = replace(sample_scene(8, 1), object="castle", style="photo", weather="clear", size="huge")
    rates = []
    for colour, time, moods in (("red", "night", ("transcendent",)), ("green", "noon", ())):
        wanted = replace(scene, colour=colour, time=time, moods=moods)
        pictures = np.stack([render(replace(wanted, seed=k)) for k in range(8)]).astype(np.float32) / 255
        found = checker.check(pictures, probe)
        rates.append({name: np.mean(values) for name, values in found.items() if name != "object"})
    assert rates[0].keys() == {"time", "colour", "transcendent"}
    assert min(rates[0].values()) >= 0.6, rates
    assert max(rates[1].values()) <= 0.4, rates


def test_probe_prompts_are_words_of_the_world():
    prompts = [probe.prompt for probe in PROBES]
    assert len(set(prompts)) == 16
    assert prompts[0] == "monumental, dramatic, atmospheric, transcendent"
    assert prompts[1] == "a red tower on green hills at noon"
    tokenizer = build_tokenizer()
    for prompt in prompts:
        assert len(tokenizer.tokenize(prompt)) == len(prompt.replace(",", " ,").split())


def test_the_script_runs_a_stage(tmp_path, monkeypatch):
    quick(monkeypatch)
    command = "--stage text --batch-size 4 --steps 1 --scenes 16 --precision 32-true --threads 1 --state"
    monkeypatch.setattr(sys, "argv", ["train", *command.split(), str(tmp_path)])
    train_main()
    names = {path.name for path in (tmp_path / "text").iterdir()}
    assert names == {"last.ckpt", "log", "weights"}


COMMITTED = ROOT / "training" / "pocket" / "weights"


@pytest.mark.parametrize("name", [name for name in ("text", "clip") if (COMMITTED / name).is_dir()])
def test_committed_clip_reads_held_out_scenes(name):
    clip = CLIPModel.from_pretrained(str(COMMITTED / name), torch_dtype=torch.float32).eval()
    assert measure_retrieval(clip, load_tokenizer(COMMITTED / name), 2) >= 0.85


def test_committed_autoencoder_keeps_pictures_and_hues():
    folder = str(COMMITTED / "autoencoder")
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
    quality = measure_autoencoder(vae, 64)
    assert quality["psnr"] >= 29
    assert 0.9 <= quality["latent_std"] * vae.config.scaling_factor <= 1.1
    scene = replace(
        sample_scene(8, 1), object="castle", style="photo", weather="clear", time="noon", moods=()
    )
    for colour in ("red", "violet", "green", "blue"):
        picture = render(replace(scene, colour=colour, terrain="hills", size="huge"))
        x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            y = vae.decode(vae.encode(x).latent_dist.mean).sample
        before, after = (colour_mask((p.permute(0, 2, 3, 1).numpy() + 1) / 2, colour).mean() for p in (x, y))
        assert after > 0.6 * before > 0.02
