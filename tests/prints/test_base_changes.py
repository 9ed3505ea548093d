"""A print with an autoencoder and LoRAs of one's own: what its text tells, and what is made again."""

import numpy as np
import pytest
import torch
from helpers.supir.models import UNET
from helpers.supir.running import opened, pixels, predict, upscaler
from safetensors.torch import save_file

from lightning_drift import UpscaleImages
from lightning_drift.common.errors import UserError
from lightning_drift.supir.network.layout import unet_name
from lightning_drift.weights.ldm_names import UNET_PREFIX

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.weight"


@pytest.fixture
def lora(tmp_path):
    generator = torch.Generator().manual_seed(0)
    layer = unet_name(LAYER, UNET).removeprefix(UNET_PREFIX).removesuffix(".weight")
    name = f"lora_unet_{layer.replace('.', '_')}"
    factors = {
        f"{name}.lora_up.weight": torch.randn(64, 4, generator=generator),
        f"{name}.lora_down.weight": torch.randn(4, 64, generator=generator),
    }
    save_file(factors, tmp_path / "film.safetensors")
    return str(tmp_path / "film.safetensors")


def parameters(path):
    return opened(path).text["parameters"]


@pytest.mark.slow
def test_a_print_tells_of_them_and_is_made_again_when_they_change(models, photos, lora, tmp_path):
    captions = photos / "metadata.jsonl"
    captions.write_text('{"file_name": "a.png", "text": "a cup"}\n')
    data = {"images": str(photos / "a.png"), "captions": str(captions)}
    made = []
    for weight in ("", "", ":0.5"):
        loras = [lora + weight, f"{lora}:-0.25"]
        module = upscaler(models, vae=models["sdxl"], color_fix="Lab", lora=loras)
        made.append(predict(module, UpscaleImages(**data), tmp_path / f"prints{weight}").written)
    assert [len(written) for written in made] == [1, 0, 1]
    first, other = (parameters(written[0]) for written in (made[0], made[2]))
    assert first.startswith("a cup, sharp textures")
    for part in ("VAE: sdxl, ", "VAE hash: ", "Color fix: Lab (stage1)", 'LoRA: "film:1 ', ", film:-0.25 "):
        assert part in first, part
    assert 'LoRA: "film:0.5 ' in other
    assert not np.array_equal(*(pixels(written[0]) for written in (made[0], made[2])))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lora": "film.safetensors:11"}, "model.lora: 11 is out of range; give one from -10 to 10"),
        (
            {"lora": ["none.safetensors"]},
            "model.lora: no such file: none.safetensors. Give a local path, or a hub",
        ),
        ({"lora": "owner/repository"}, "model.lora: no such file: owner/repository. Give"),
        ({"lora": "."}, "model.lora: . is a folder; give the file of a LoRA"),
        ({"lora": ""}, "model.lora: the path is empty"),
        (
            {"lora": "odd.safetensors:2"},
            "model.lora: odd.safetensors is no LoRA of this base: 1 of its 1 tensors",
        ),
        ({"vae": "none.safetensors"}, "model.vae: no such file or folder: none.safetensors"),
        ({"vae": "."}, "model.vae: . holds no autoencoder"),
    ],
    ids=str,
)
def test_bad_ones_are_sentences(models, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    save_file({"surprise": torch.zeros(2)}, "odd.safetensors")
    with pytest.raises(UserError) as caught:
        upscaler(models, **options).setup("predict")
    assert said in str(caught.value)
