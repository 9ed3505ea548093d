"""An autoencoder in place of the base's own: every layout, and a sentence for one that does not belong."""

import json
import shutil

import pytest
import torch
from helpers.supir.models import CONFIGS, sdxl_weights, write_sdxl_file, write_sdxl_folder, write_supir
from safetensors.torch import load_file, save_file

from lightning_drift.common.errors import UserError
from lightning_drift.supir.network.find import vae_files
from lightning_drift.supir.network.sdxl import open_sdxl
from lightning_drift.supir.network.vae import open_vae, with_vae
from lightning_drift.supir.network.weights import open_checkpoints

PREFIX = "first_stage_model."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """In ``broken.safetensors`` the base's own autoencoder is none; the others hold the right one."""
    path = tmp_path_factory.mktemp("models")
    write_supir(path / "supir.safetensors")
    write_sdxl_file(path / "whole.safetensors")
    write_sdxl_folder(path / "sdxl")
    weights = {key: tensor.contiguous() for key, tensor in sdxl_weights().items()}
    ours = {key: tensor for key, tensor in weights.items() if key.startswith(PREFIX)}
    save_file(weights | {key: tensor * 0 for key, tensor in ours.items()}, path / "broken.safetensors")
    save_file({k: v for k, v in weights.items() if k not in ours}, path / "without.safetensors")
    save_file(ours, path / "prefixed.safetensors")
    plain = {key.removeprefix(PREFIX): tensor for key, tensor in ours.items()}
    save_file({**plain, "loss.logvar": torch.zeros(())}, path / "sdxl_vae.safetensors")
    torch.save({"state_dict": plain}, path / "vae.ckpt")
    inside = load_file(path / "sdxl" / "vae" / "diffusion_pytorch_model.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        inside = {
            key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): v for key, v in inside.items()
        }
    save_file(inside, path / "diffusers.safetensors")
    return path


@pytest.fixture(scope="module")
def base(folder):
    return open_sdxl(folder / "broken.safetensors", CONFIGS)


def opened(folder, vae, sdxl):
    return open_checkpoints(folder / "supir.safetensors", folder / sdxl, CONFIGS, vae=vae)


@pytest.mark.parametrize(
    "name",
    [
        *("sdxl_vae.safetensors", "prefixed.safetensors", "whole.safetensors", "vae.ckpt"),
        *("diffusers.safetensors", "sdxl", "sdxl/vae", "sdxl/vae/diffusion_pytorch_model.safetensors"),
    ],
)
def test_every_layout_gives_the_autoencoder(folder, base, first_stage, name):
    right = first_stage.vae.state_dict()
    found, _ = with_vae(base, open_vae(folder / name)).read_part("vae", right)
    for key, tensor in right.items():
        assert torch.equal(found.read(key).reshape(tensor.shape), tensor), key


def test_a_base_without_one_is_read_with_another_and_named(folder, first_stage):
    found = opened(folder, folder / "sdxl_vae.safetensors", "without.safetensors")
    state = found.first_stage(torch.float32).state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in first_stage.state_dict().items())
    assert len(found.hashes()["VAE hash"]) == 10
    with pytest.raises(UserError, match=r"model.sdxl: .* without an autoencoder.* or model\.vae"):
        opened(folder, None, "without.safetensors")


def refusal(base, vae):
    with pytest.raises(UserError) as caught:
        with_vae(base, open_vae(vae))
    assert str(vae) in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"scaling_factor": 0.18215},
            "of a Stable Diffusion 1.x or 2.x model, whose latents are others: it has",
        ),
        ({"scaling_factor": None}, "scaling_factor 0.18215 instead of 0.13025"),
        (
            {"scaling_factor": 0.5, "latents_mean": [1.0] * 4},
            "latents_mean [1.0, 1.0, 1.0, 1.0] instead of None",
        ),
        ({"shift_factor": 0.1}, "shift_factor 0.1 instead of None"),
        ({"latent_channels": 16}, "latent_channels 16 instead of 4"),
        ({"block_out_channels": "x"}, "is damaged: block_out_channels is 'x'"),
        ({"_class_name": "AsymmetricAutoencoderKL"}, "holds 'AsymmetricAutoencoderKL'"),
    ],
)
def test_a_config_of_another_kind_says_what_differs(folder, base, tmp_path, change, said):
    shutil.copytree(folder / "sdxl" / "vae", tmp_path / "vae")
    config = json.loads((tmp_path / "vae" / "config.json").read_text()) | change
    config = {key: value for key, value in config.items() if value is not None}
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config))
    assert said in refusal(base, tmp_path / "vae")


def test_files_of_other_models(folder, base, tmp_path):
    def file(metadata=None, **tensors):
        path = tmp_path / "other.safetensors"
        save_file({key: torch.zeros(2) for key in tensors}, path, metadata)
        return path

    assert "of a Stable Diffusion 1.x" in refusal(
        folder, file(**{f"{PREFIX}decoder.x": 1, "cond_stage_model.x": 1})
    )
    sd15 = file({"modelspec.architecture": "stable-diffusion-v1/vae"}, **{"decoder.x": 1, "encoder.x": 1})
    assert "of a Stable Diffusion 1.x" in refusal(base, sd15)
    assert "no autoencoder, or half of one" in refusal(base, file(**{"decoder.x": 1}))
    assert "no autoencoder" in refusal(base, folder / "supir.safetensors")
    said = refusal(base, tmp_path)
    assert "neither vae/config.json nor config.json. It holds other.safetensors" in said
    assert "no such file" in refusal(base, tmp_path / "none.safetensors")


def test_a_misshapen_weight_is_the_options_fault(folder, tmp_path):
    weights = load_file(folder / "sdxl_vae.safetensors") | {"post_quant_conv.bias": torch.zeros(16)}
    del weights["encoder.conv_in.weight"]
    save_file(weights, tmp_path / "wide.safetensors")
    with pytest.raises(
        UserError, match=r"^model.vae: .*missing encoder\.conv_in\.weight.*bias \[16\] instead"
    ):
        opened(folder, tmp_path / "wide.safetensors", "without.safetensors")


def test_of_a_repository_only_the_autoencoder_is_fetched():
    own = ["README.md", "config.json", "diffusion_pytorch_model.safetensors", "sdxl_vae.safetensors"]
    assert vae_files(own) == own[1:3]
    pipeline = ["model_index.json", "unet/config.json", "vae/config.json", "vae/model.safetensors"]
    pipeline[-1] = "vae/diffusion_pytorch_model.safetensors"
    assert vae_files(pipeline) == pipeline[2:]
