"""Writing a pipeline as a half-precision folder in diffusers' layout."""

import json
from pathlib import Path

import diffusers
from safetensors.torch import save_file

from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.sampling import ddim


def write_folder(folder: Path, model: StableDiffusion) -> None:
    """Write a pipeline's parts as float16 in diffusers' layout; the model's own weights become float16.

    The text encoder's weights carry the ``text_model.`` prefix, which transformers 4 expects and 5 accepts.
    Its config names float32, so that a plain load gives one precision for all parts.
    """
    for name, part in (("unet", model.unet), ("vae", model.vae)):
        part.half().save_pretrained(folder / name, max_shard_size="100GB")
    text = model.text_encoder.half()  # type: ignore[no-untyped-call]
    text.config.save_pretrained(folder / "text_encoder")
    path = folder / "text_encoder" / "config.json"
    config = {
        **json.loads(path.read_text(encoding="utf-8")),
        "architectures": ["CLIPTextModel"],
        "dtype": "float32",
    }
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    state = {f"text_model.{name}": tensor.contiguous() for name, tensor in text.state_dict().items()}
    save_file(state, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    ddim(model.scheduler_config).save_pretrained(folder / "scheduler")
    _write_tokenizer(folder / "tokenizer", model)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_tokenizer(folder: Path, model: StableDiffusion) -> None:
    """The tokenizer as transformers 5's one file, and as the two files that transformers 4 reads."""
    model.tokenizer.save_pretrained(folder)
    table = json.loads(model.tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = dict(sorted(model.tokenizer.get_vocab().items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    merges = "\n".join(pair if isinstance(pair, str) else " ".join(pair) for pair in table["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
