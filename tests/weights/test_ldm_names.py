"""Names and shapes of the single-file layout, against the published layout of SD v1.5 and on small models."""

import gzip
import json
import re

import pytest
import torch
from helpers.paths import DATA

from lightning_drift.export.single_file import ldm_tensors
from lightning_drift.stable_diffusion.loading import StableDiffusion, load_stable_diffusion
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, empty_models
from lightning_drift.stable_diffusion.sd15 import sd15_config
from lightning_drift.weights.ldm_names import (
    current_vae_name,
    text_encoder_name,
    to_ldm_shape,
    unet_name,
    unet_names,
    vae_names,
)


@pytest.fixture(scope="module")
def sd15():
    """SD v1.5 at full size, without weights."""
    return empty_models({part: sd15_config(part) for part in PARTS}, "sd15")


def as_model(models) -> StableDiffusion:
    return StableDiffusion(**models, tokenizer=None, scheduler_config={}, source="sd15")


def test_sd15_has_its_published_number_of_parameters(sd15):
    count = {
        part: sum(p.numel() for p in model.parameters() if p.requires_grad) for part, model in sd15.items()
    }
    assert count["unet"] == 859_520_964
    assert count["text_encoder"] == 123_060_480
    assert count["vae"] == 83_653_863


def test_sd15_has_the_published_keys_and_shapes(sd15):
    manifest = json.loads(gzip.decompress((DATA / "sd15_ldm_manifest.json.gz").read_bytes()))["keys"]
    assert {key: list(tensor.shape) for key, tensor in ldm_tensors(as_model(sd15)).items()} == manifest


@pytest.mark.parametrize("pipeline", ["pocket", str(DATA / "tiny_sd")])
def test_names_are_one_to_one_for_other_shapes(pipeline):
    model = load_stable_diffusion(pipeline)
    unet, vae = model.unet.state_dict(), model.vae.state_dict()
    for names in (unet_names(unet, model.unet.config), vae_names(vae, model.vae.config)):
        assert len(set(names.values())) == len(names)
        assert not any(
            re.search(r"(down|up)_blocks|mid_block\.|resnets|samplers", ldm) for ldm in names.values()
        )
    attention = [ldm for ldm in vae_names(vae, model.vae.config).values() if ".attn_1." in ldm]
    assert len(attention) == (0 if pipeline == "pocket" else 2 * 10)


def test_the_upsampler_follows_the_attention_if_there_is_one():
    config = {"layers_per_block": 1, "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]}
    name = "up_blocks.{}.upsamplers.0.conv.weight"
    assert unet_name(name.format(0), config) == "model.diffusion_model.output_blocks.1.1.conv.weight"
    assert unet_name(name.format(1), config) == "model.diffusion_model.output_blocks.3.2.conv.weight"


@pytest.mark.parametrize("name", ["text_model.embeddings.x.weight", "embeddings.x.weight"])
def test_text_encoder_names_carry_text_model_once(name):
    assert text_encoder_name(name) == "cond_stage_model.transformer.text_model.embeddings.x.weight"


def test_only_the_autoencoders_attention_is_stored_as_a_convolution():
    weight = torch.zeros(8, 8)
    assert to_ldm_shape("first_stage_model.encoder.mid.attn_1.q.weight", weight).shape == (8, 8, 1, 1)
    assert to_ldm_shape("first_stage_model.encoder.mid.attn_1.q.bias", weight[0]).shape == (8,)
    assert to_ldm_shape("model.diffusion_model.time_embed.0.weight", weight).shape == (8, 8)


def test_old_autoencoder_names_are_today_s():
    old = "decoder.mid_block.attentions.0.{}.weight"
    assert [current_vae_name(old.format(name)) for name in ("query", "key", "value", "proj_attn")] == [
        old.format(name) for name in ("to_q", "to_k", "to_v", "to_out.0")
    ]
    assert (
        current_vae_name("decoder.mid_block.resnets.0.conv1.weight")
        == "decoder.mid_block.resnets.0.conv1.weight"
    )
