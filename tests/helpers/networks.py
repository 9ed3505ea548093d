"""Small random networks in the folder layouts in which the large ones are published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from lightning_drift.assets import POCKET_CLIP

SIZES = [(64, 64), (32, 32), (20, 20), (50, 31), (31, 77), (200, 33)]
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    ]


def saved(folder: Path, make: Callable[[], Any]) -> Path:
    """A network with random weights, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
        for parameter in model.parameters():  # DINOv2's own beginning is too flat to tell pictures apart
            torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
    return folder


def clip(folder: Path, activation: str = "quick_gelu") -> Path:
    """A CLIP of 30 px with a context of 12 tokens, and towers of different width as in OpenCLIP's."""
    words = {"vocab_size": 961, "bos_token_id": 959, "eos_token_id": 960, "pad_token_id": 960}
    config = CLIPConfig(
        text_config=TOWER | words | {"max_position_embeddings": 12, "hidden_act": activation},
        vision_config=TOWER
        | {"hidden_size": 20, "image_size": 30, "patch_size": 10, "hidden_act": activation},
        projection_dim=8,
    )
    saved(folder, lambda: CLIPModel(config))
    size = {"size": {"shortest_edge": 30}, "crop_size": {"height": 30, "width": 30}}
    CLIPImageProcessorPil(**size).save_pretrained(folder)
    CLIPTokenizer.from_pretrained(str(POCKET_CLIP)).save_pretrained(folder)
    return folder


def siglip(folder: Path, tokenizer_class: str = "SiglipTokenizer") -> Path:
    """A SigLIP of 32 px with a context of 9 tokens and a vocabulary of a few words."""
    words = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1}
    config = SiglipConfig(
        text_config=TOWER | words | {"max_position_embeddings": 9},
        vision_config=TOWER | {"image_size": 32, "patch_size": 8},
    )
    saved(folder, lambda: SiglipModel(config))
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    siglip_tokenizer(folder).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": tokenizer_class}))
    return folder


def siglip_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer that closes a text with </s> and pads it on the right."""
    words = ["<unk>", "</s>", "<pad>", "a", "red", "tower", "on", "green", "hills", "sea", "at", "night", ","]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=9,
        padding_side="right",
    )


def dino(folder: Path, registers: int = 0) -> Path:
    """A DINOv2 made for 42 px whose preprocessing gives 28 px; the published ones have 518 and 224."""
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 42}
    if registers:
        config = Dinov2WithRegistersConfig(**sizes, patch_size=14, num_register_tokens=registers)
        saved(folder, lambda: Dinov2WithRegistersModel(config))
    else:
        saved(folder, lambda: Dinov2Model(Dinov2Config(**sizes, patch_size=14)))
    BitImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 28, "width": 28},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder
