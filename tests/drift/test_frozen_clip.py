import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from lightning_drift.assets import POCKET_CLIP
from lightning_drift.common.errors import UserError
from lightning_drift.drift.measures.frozen_clip import FrozenClip
from lightning_drift.drift.measures.preprocessing import Preprocessing

SIZES = [(64, 64), (32, 32), (20, 20), (50, 31), (31, 77), (200, 33)]


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random CLIP of 30 px with a context of 12 tokens, as transformers saves it."""
    config = CLIPConfig(
        text_config={
            "vocab_size": 961,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 12,
            "bos_token_id": 959,
            "eos_token_id": 960,
            "pad_token_id": 960,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 30,
            "patch_size": 10,
        },
        projection_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).eval().save_pretrained(tmp_path)
    CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}).save_pretrained(
        tmp_path
    )
    CLIPTokenizer.from_pretrained(str(POCKET_CLIP)).save_pretrained(tmp_path)
    return tmp_path


def test_embeddings_are_those_of_transformers(folder: Path) -> None:
    clip = FrozenClip.load(str(folder))
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPImageProcessorPil.from_pretrained(folder)
    tokenizer = CLIPTokenizer.from_pretrained(str(folder))
    pixels = processor(pictures(), return_tensors="pt").pixel_values
    long = "a red tower on green hills under a cloudy sky at dawn, monumental and very dramatic"
    ids = tokenizer([long, "sea"], padding=True, truncation=True, max_length=12, return_tensors="pt")
    with torch.no_grad():
        images = model.get_image_features(pixels).pooler_output
        texts = model.get_text_features(**ids).pooler_output
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(clip.embed_images(pictures()), unit(images, dim=-1))
    torch.testing.assert_close(clip.embed_images(pictures(), batch_size=1), unit(images, dim=-1))
    torch.testing.assert_close(clip.embed_texts([long, "sea"]), unit(texts, dim=-1))
    assert ids.input_ids[0, -1] == 960  # the cut prompt ends in the end token
    assert clip.embed_texts([]).shape == (0, 8)
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 30, "crop_size": 30},
        {"size": {"shortest_edge": 41}, "crop_size": {"height": 30, "width": 24}},
        {"do_resize": False},
        {"do_center_crop": False},
        {"do_normalize": False},
        {"resample": 2, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
    ],
)
def test_preprocessing_follows_its_config(folder: Path, changes: dict[str, object]) -> None:
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    ours, theirs = Preprocessing.read(file), CLIPImageProcessorPil.from_pretrained(folder)
    for image in pictures():
        expected = theirs(image, return_tensors="np").pixel_values[0]
        np.testing.assert_allclose(ours(image), expected, rtol=0, atol=1e-6)


def test_neither_the_global_generator_nor_autocast_matters(folder: Path) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    clip = FrozenClip.load(str(folder))
    plain = clip.embed_images(pictures())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = clip.embed_images(pictures())
    assert torch.equal(plain, within)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_hash_tells_weights_and_preprocessing_apart(folder: Path) -> None:
    first = FrozenClip.load(str(folder)).hash
    assert FrozenClip.load(str(folder)).hash == first
    file = folder / "preprocessor_config.json"
    file.write_text(file.read_text().replace('"resample": 3', '"resample": 2'))
    second = FrozenClip.load(str(folder)).hash
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"logit_scale": torch.tensor(1.0)}, folder / "model.safetensors")
    assert len({first, second, FrozenClip.load(str(folder)).hash}) == 3


def test_old_torch_files_load_without_code(folder: Path) -> None:
    expected = FrozenClip.load(str(folder)).embed_images(pictures())
    weights = load_file(folder / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(FrozenClip.load(str(folder)).embed_images(pictures()), expected)


def test_what_is_no_clip_is_said_in_a_sentence(folder: Path) -> None:
    with pytest.raises(UserError, match="clip: there is no folder /no/such"):
        FrozenClip.load("/no/such")
    with pytest.raises(UserError, match="nobody/no-such-clip is not in the cache and the hub cannot"):
        FrozenClip.load("nobody/no-such-clip")
    weights = load_file(folder / "model.safetensors")
    broken = weights | {"visual_projection.weight": torch.full((8, 16), torch.nan)}
    save_file(broken, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"^data\.clip: .* NaN"):
        FrozenClip.load(str(folder), option="data.clip").embed_images(pictures())
    del broken["visual_projection.weight"]
    save_file(broken, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"missing visual_projection\.weight") as caught:
        FrozenClip.load(str(folder), option="data.clip")
    assert caught.value.option == "data.clip"
    os.unlink(folder / "model.safetensors")
    with pytest.raises(UserError, match="holds no weights"):
        FrozenClip.load(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(UserError, match="is bert, not a CLIP or SigLIP; give one such as openai/clip-vit"):
        FrozenClip.load(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="not complete"):
        FrozenClip.load(str(folder))


def test_the_pocket_eye_comes_with_the_package() -> None:
    clip = FrozenClip.load("pocket")
    assert clip.name == "pocket"
    vectors = clip.embed_texts(["the sea at night", "a red tower on green hills"])
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2))
    assert vectors[0] @ vectors[1] < 0.9
