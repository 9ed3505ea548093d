"""Untrained networks begin as in SUPIR's training, latents fit SDXL's scale, prompts do not mix."""

import torch
from helpers.supir.stages import SIDE

from lightning_drift.supir.network.autoencoder import SCALING
from lightning_drift.supir.network.conditioning import token_ids
from training.pocket.scenes import Scenes
from training.pocket_supir import models
from training.pocket_supir.network import calibrate
from training.pocket_supir.stages import pocket_vae
from training.pocket_supir.text import condition, pocket_text_encoders


def test_latents_have_unit_scale_and_pictures_stay():
    vae = models.new_vae(pocket_vae())
    x = Scenes(5, 2, SIDE).images([0, 1])
    with torch.no_grad():
        same = pocket_vae().encode(x).latent_dist.mean
        torch.testing.assert_close(vae.encode(x).latent_dist.mean, same, rtol=1e-4, atol=1e-4)
        before = vae.encode(x).latent_dist
        picture = vae.decode(before.mean).sample
        models.to_unit_scale(vae, 3.0)
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
        network = models.new_network(models.new_unet()).eval()
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
