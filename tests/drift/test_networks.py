"""Networks in the layouts of OpenCLIP, SigLIP and DINOv2 give transformers' own vectors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.networks import pictures, siglip_tokenizer
from safetensors import safe_open
from torch import Tensor
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Model,
    Dinov2WithRegistersModel,
    SiglipImageProcessorPil,
    SiglipModel,
)

from lightning_drift.common.errors import UserError
from lightning_drift.drift.measures.frozen_clip import FrozenClip, FrozenEye, rehearse_clip
from lightning_drift.weights.siglip_tokenizer import SiglipTokenizer

TEXTS = ["a red tower on green hills at night, a sea, a red tower", "sea", ""]


def unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_openclip_and_its_activation(tmp_path: Path, activation: str) -> None:
    folder = networks.clip(tmp_path, activation)
    ours, model = FrozenClip.load(str(folder)), CLIPModel.from_pretrained(folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(pictures(), return_tensors="pt").pixel_values
    ids = CLIPTokenizer.from_pretrained(str(folder))(
        TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt"
    )
    with torch.no_grad():
        images = model.get_image_features(pixels).pooler_output
        texts = model.get_text_features(**ids).pooler_output
    torch.testing.assert_close(ours.embed_images(pictures()), unit(images))
    torch.testing.assert_close(ours.embed_texts(TEXTS), unit(texts))


def test_siglip(tmp_path: Path) -> None:
    folder = networks.siglip(tmp_path, "GemmaTokenizer")  # as SigLIP 2: commas are words
    ours, model = FrozenClip.load(str(folder)), SiglipModel.from_pretrained(folder).eval()
    pixels = SiglipImageProcessorPil.from_pretrained(folder)(pictures(), return_tensors="pt").pixel_values
    ids = siglip_tokenizer(folder)(
        TEXTS, padding="max_length", truncation=True, max_length=9, return_tensors="pt"
    ).input_ids
    assert ids[0, -1] == 1  # the cut prompt ends in the end token
    assert ids[1].tolist() == [9, 1, *[2] * 7]
    with torch.no_grad():
        images = model.get_image_features(pixels).pooler_output
        texts = model.get_text_features(input_ids=ids).pooler_output
    assert ours.preprocessing.shape == (32, 32)
    torch.testing.assert_close(ours.embed_images(pictures()), unit(images))
    torch.testing.assert_close(ours.embed_texts(TEXTS), unit(texts))
    assert ours.embed_texts([]).shape == (0, 16)


def test_siglips_own_words_are_lower_case_and_without_punctuation(tmp_path: Path) -> None:
    own = SiglipTokenizer(networks.siglip(tmp_path / "one"))
    gemma = SiglipTokenizer(networks.siglip(tmp_path / "two", "GemmaTokenizer"))
    assert own.ids(["A red, tower!  On"], 9).tolist() == [[3, 4, 5, 6, 1, 2, 2, 2, 2]]
    assert gemma.ids(["A red, tower"], 9).tolist() == [[3, 4, 12, 5, 1, 2, 2, 2, 2]]
    assert len(own) == 13


@pytest.mark.parametrize("registers", [0, 3])
def test_dinov2(tmp_path: Path, registers: int) -> None:
    folder = networks.dino(tmp_path, registers)
    with safe_open(folder / "model.safetensors", framework="pt") as file:  # the names of the published files
        assert "encoder.layer.0.attention.attention.query.weight" in file.keys()  # noqa: SIM118
    kind: Any = Dinov2WithRegistersModel if registers else Dinov2Model
    ours, model = FrozenEye.load(str(folder)), kind.from_pretrained(folder).eval()
    pixels = BitImageProcessorPil.from_pretrained(folder)(pictures(), return_tensors="pt").pixel_values
    assert pixels.shape[-2:] == (28, 28)
    with torch.no_grad():
        expected = unit(model(pixels).pooler_output)
    found = ours.embed_images(pictures())
    torch.testing.assert_close(found, expected)
    assert (found[0] - found[1]).norm() > 1e-3  # they differ by picture
    assert ours.embed_images([]).shape == (0, 12)


def test_a_forecast_computes_no_vector(tmp_path: Path) -> None:
    for make, judge in ((networks.siglip, FrozenClip), (networks.dino, FrozenEye)):
        rehearse_clip(str(make(tmp_path / judge.__name__)), {}, 4, judge)


def test_what_does_not_measure_is_said_in_a_sentence(tmp_path: Path) -> None:
    siglip, dino = networks.siglip(tmp_path / "siglip"), networks.dino(tmp_path / "dino")
    with pytest.raises(UserError, match="is dinov2, not a CLIP or SigLIP; give one such as openai/clip"):
        FrozenClip.load(str(dino))
    with pytest.raises(UserError, match="is siglip, not a DINOv2; give one such as facebook/dinov2-base"):
        FrozenEye.load(str(siglip))
    with pytest.raises(UserError, match="is clip, not a DINOv2"):
        FrozenEye.load("pocket")
    config = json.loads((dino / "preprocessor_config.json").read_text())
    odd = config | {"crop_size": {"height": 30, "width": 30}}
    (dino / "preprocessor_config.json").write_text(json.dumps(odd))
    with pytest.raises(UserError, match=r"pictures are of \(30, 30\) pixels, its network's of 42 times 42"):
        FrozenEye.load(str(dino))
    (siglip / "tokenizer.json").rename(siglip / "elsewhere.json")
    with pytest.raises(UserError, match=r"holds no tokenizer\.json, and spiece.model alone cannot be read"):
        FrozenClip.load(str(siglip))
    (siglip / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is no tokenizer that can be read"):
        FrozenClip.load(str(siglip))
    gaps = (siglip / "elsewhere.json").read_text().replace('"night": 11', '"night": 1100')
    (siglip / "tokenizer.json").write_text(gaps)
    with pytest.raises(UserError, match="its tokenizer has 1101 tokens, its text encoder only 100"):
        FrozenClip.load(str(siglip))
    (siglip / "elsewhere.json").rename(siglip / "tokenizer.json")
    about = json.loads((siglip / "tokenizer_config.json").read_text()) | {"pad_token": "<none>"}
    (siglip / "tokenizer_config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"does not know its pad_token, '<none>'"):
        FrozenClip.load(str(siglip))
    config = json.loads((siglip / "config.json").read_text())
    (siglip / "config.json").write_text(json.dumps(config | {"model_type": "siglip2"}))
    with pytest.raises(UserError, match="pictures of any shape"):
        FrozenClip.load(str(siglip))
