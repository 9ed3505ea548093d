"""What measures the pocket tells good from bad, and the committed weights are good."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from helpers.paths import ROOT

from training.pocket.autoencoder import measure_autoencoder
from training.pocket.clip import load_clip, load_tokenizer, measure_retrieval, new_clip
from training.pocket.probes import PROBES, Checker, Probe, colour_mask
from training.pocket.scenes import HELD_OUT_SEED, Scenes
from training.pocket.tokenizer import CONTEXT, build_tokenizer, tokenize
from training.pocket.world.render import render, sample_scene

COMMITTED = ROOT / "training" / "pocket" / "weights"


def test_tokenizer_knows_the_world_and_encodes_anything():
    tokenizer = build_tokenizer()
    for word in ("monumental", "lighthouse", "turquoise", "skyline", "sks", "photo"):
        assert len(tokenizer.tokenize(word)) == 1
    ids = tokenize(tokenizer, ["", "a tower", "Ünïcode ¡ok! 日本 " * 20])
    assert ids.shape == (3, CONTEXT)
    assert int(ids.max()) < len(tokenizer)
    assert tokenizer.decode(ids[1], skip_special_tokens=True).strip() == "a tower"
    assert (ids[:, 0] == tokenizer.bos_token_id).all()


def test_measures_tell_good_from_bad():
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

    scenes = Scenes(HELD_OUT_SEED, 8)
    quality = measure_autoencoder(Perfect(0.02), scenes)
    assert quality["colour_error"] < 0.02  # grey noise
    red = torch.tensor([-0.5, 0.0, 0.0]).view(3, 1, 1)
    assert measure_autoencoder(Perfect(red), scenes)["colour_error"] > 0.2
    assert 39.5 < quality["psnr"] < 41.5  # 20 log10(2 / 0.02) = 40, a little more where clipping helps
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = build_tokenizer()
        assert measure_retrieval(new_clip(tokenizer).eval(), tokenizer, Scenes(HELD_OUT_SEED, 128)) < 0.1


def test_checks_accept_painted_scenes_and_refuse_others():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = build_tokenizer()
        checker = Checker(new_clip(tokenizer).eval(), tokenizer, count=160)
    probe = Probe("castle", "red", time="night", moods=("transcendent",))
    scene = replace(sample_scene(8, 1), object="castle", style="photo", weather="clear", size="huge")
    rates = []
    for colour, time, moods in (("red", "night", ("transcendent",)), ("green", "noon", ())):
        asked = replace(scene, colour=colour, time=time, moods=moods)
        pictures = np.stack([render(replace(asked, seed=k)) for k in range(8)]).astype(np.float32) / 255
        checks = checker.check(pictures, probe)
        rates.append({name: np.mean(values) for name, values in checks.items() if name != "object"})
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


@pytest.mark.parametrize("name", ["text", "clip"])
def test_committed_clip_reads_held_out_scenes(name):
    clip = load_clip(COMMITTED / name)
    assert measure_retrieval(clip, load_tokenizer(COMMITTED / name), Scenes(HELD_OUT_SEED, 256)) >= 0.85


def test_committed_autoencoder_keeps_pictures_and_hues():
    folder = str(COMMITTED / "autoencoder")
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
    quality = measure_autoencoder(vae, Scenes(HELD_OUT_SEED, 64))
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
