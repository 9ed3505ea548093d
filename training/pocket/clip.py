"""The pocket's two CLIP models: one gives the pipeline's text encoder, the other measures pictures."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from lightning_drift.common.rng import generator
from training.pocket.run import Schedule, Stage
from training.pocket.scenes import HELD_OUT_SEED, PaintedScenes, Scenes
from training.pocket.tokenizer import CONTEXT, build_tokenizer, tokenize
from training.pocket.world.captions import article, full_caption
from training.pocket.world.scene import OBJECTS

MEAN, STD = 0.5, 0.28
HELD_OUT = 512
"""Number of scenes that a saved average is measured on, a multiple of 128."""


def new_clip(tokenizer: Any) -> Any:
    """An untrained CLIPModel: text 3 x 128, vision 4 x 144 on 8 x 8 patches; 1.6 million parameters."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 512,
        "projection_dim": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
        "hidden_act": "gelu",
    }
    vision = {
        "hidden_size": 144,
        "intermediate_size": 432,
        "projection_dim": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "image_size": 64,
        "patch_size": 8,
        "hidden_act": "gelu",
    }
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=128, logit_scale_init_value=2.66)
    )


def text_features(clip: Any, ids: Tensor) -> Tensor:
    """Unit vectors (n, 128) of token ids."""
    return functional.normalize(clip.text_projection(clip.text_model(ids).pooler_output).float(), dim=-1)


def image_features(clip: Any, images: Tensor) -> Tensor:
    """Unit vectors (n, 128) of pictures (n, 3, 64, 64) in -1..1."""
    pixels = (images * 0.5 + 0.5 - MEAN) / STD
    return functional.normalize(
        clip.visual_projection(clip.vision_model(pixels).pooler_output).float(), dim=-1
    )


class ClipStage(Stage):
    """Contrastive training (Radford et al. 2021) with full, with loose and with object captions.

    Terrain, hour and weather tell full captions apart, so that retrieval alone teaches hardly any shape.
    Three captions in ten therefore name nothing but the object, some with its colour; these are true of
    several pictures of a batch, and the cross entropy's target is spread over all of them (UniCL, Yang et al.
    2022).

    Pictures are shifted by up to four pixels, lightly blurred or roughened and change in brightness, so that
    what a decoder does to them matters little. With ``jitter`` they change in saturation, in
    the balance of their channels and in contrast as well, so that the model must look at shapes more than at
    the palette.

    Args:
        model: The CLIPModel.
        tokenizer: Its tokenizer.
        schedule: How long and how fast.
        scenes: The scenes to train on.
        jitter: Whether colours are augmented, as for the CLIP that measures.
    """

    def __init__(self, model: Any, tokenizer: Any, schedule: Schedule, scenes: Scenes, jitter: bool) -> None:
        super().__init__(model, schedule, scenes, captions=True)
        # On the CPU torch's fused attention goes back through heads this small at half the plain one's speed.
        model.set_attn_implementation("eager")
        self.tokenizer = tokenizer
        self.jitter = jitter

    def augment(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Change what should not matter; pictures (n, 3, s, s) in -1..1."""
        n, device = len(images), images.device

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return (low + (high - low) * torch.rand((n, *shape), generator=random)).to(device)

        dx, dy = (int(v) for v in torch.randint(-4, 5, (2,), generator=random))
        padded = functional.pad(images, (4, 4, 4, 4), mode="replicate")
        x = padded[..., 4 + dy : 4 + dy + images.shape[-2], 4 + dx : 4 + dx + images.shape[-1]]
        soft = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        x = x + (soft - x) * uniform(0.0, 1.0, 1, 1, 1) * (uniform(0, 1, 1, 1, 1) < 0.4)
        x = x * uniform(0.9, 1.1, 1, 1, 1) + uniform(-0.08, 0.08, 1, 1, 1)
        if self.jitter:
            grey = x.mean(1, keepdim=True)
            x = grey + (x - grey) * uniform(0.55, 1.35, 1, 1, 1)
            middle = x.mean((1, 2, 3), keepdim=True)
            x = middle + (x - middle) * uniform(0.7, 1.25, 1, 1, 1)
            x = x * uniform(0.82, 1.18, 3, 1, 1) + uniform(-0.10, 0.10, 3, 1, 1)
        rough = torch.randn(x.shape, generator=random).to(device)
        return x + rough * uniform(0.0, 0.10, 1, 1, 1)

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The contrastive loss; ``accuracy`` of full captions and ``object_accuracy`` within the batch."""
        random = generator(self.schedule.seed, "clip", batch["step"])
        draw = torch.rand((2, len(batch["captions"])), generator=random)
        full = draw[0] < 0.40
        texts, true = self.say(batch, full, draw[0] > 0.70, draw[1] < 0.35)
        ids = tokenize(self.tokenizer, texts).to(self.device)
        images = image_features(self.model, self.augment(batch["images"], random))
        scale = self.model.logit_scale.exp().clamp(max=60)
        logits = scale * text_features(self.model, ids) @ images.T
        true = true.to(self.device)
        to_image = functional.cross_entropy(logits, true / true.sum(1, keepdim=True), label_smoothing=0.05)
        to_text = functional.cross_entropy(logits.T, (true / true.sum(0)).T, label_smoothing=0.05)
        loss = (to_image + to_text) / 2
        hits = true.gather(1, logits.detach().argmax(1, keepdim=True))[:, 0]
        whole, objects = full.to(self.device), true.sum(1) > 1
        return loss, {"accuracy": hits[whole].mean(), "object_accuracy": hits[objects].mean()}

    @staticmethod
    def say(batch: dict[str, Any], full: Tensor, thing: Tensor, coloured: Tensor) -> tuple[list[str], Tensor]:
        """One caption per picture, and which pictures of the batch each is true of.

        Args:
            batch: A batch of scenes with captions.
            full: Where (n,) the full caption is said.
            thing: Where (n,) only the object is named, if there is one.
            coloured: Where (n,) its colour is named with it, if it has one.

        Returns:
            Texts, and their truth (n, n) as 0 and 1; text first, picture second.
        """
        objects, colours = batch["objects"], batch["colours"]
        texts, true = [], torch.eye(len(objects))
        for k, (name, colour) in enumerate(zip(objects, colours, strict=True)):
            if thing[k] and name:
                named = bool(coloured[k]) and bool(colour)
                texts.append(article(f"{colour} {name}" if named else name))
                same = [
                    o == name and (c == colour or not named) for o, c in zip(objects, colours, strict=True)
                ]
                true[k] = torch.tensor(same).float()
            else:
                texts.append(batch["full"][k] if full[k] else batch["captions"][k])
        return texts, true

    @cached_property
    def held_out(self) -> Scenes:
        """The scenes that a saved average is measured on."""
        return PaintedScenes(HELD_OUT_SEED, HELD_OUT)

    def save(self, folder: Path) -> None:
        """Write the average as a CLIPModel folder with tokenizer and image processor."""
        recall = measure_retrieval(self.ema, self.tokenizer, self.held_out)
        objects = measure_objects(self.ema, self.tokenizer, self.held_out)
        self.note({"held_out/recall_at_1_of_128": recall, "held_out/objects_named": objects})
        print(
            f"step {self.global_step}  held out: R@1 of 128 {recall:.3f}  objects named {objects:.3f}",
            flush=True,
        )
        copy.deepcopy(self.ema).half().save_pretrained(folder)
        name_float32(folder / "config.json")
        self.tokenizer.save_pretrained(folder)
        CLIPImageProcessorPil(
            size={"shortest_edge": 64},
            crop_size={"height": 64, "width": 64},
            image_mean=[MEAN] * 3,
            image_std=[STD] * 3,
        ).save_pretrained(folder)


def name_float32(path: Path) -> None:
    """Let the configuration beside fp16 weights name float32, so that a plain load computes in it."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"dtype": "float16"', '"dtype": "float32"'), encoding="utf-8")


@torch.no_grad()
def measure_retrieval(clip: Any, tokenizer: Any, scenes: Scenes) -> float:
    """Text-to-image R@1 among 128 held-out scenes by full captions, averaged over disjoint groups.

    Args:
        clip: A CLIPModel in evaluation mode.
        tokenizer: Its tokenizer.
        scenes: Held-out scenes, 128 or a multiple of it.

    Returns:
        The fraction of captions whose own picture is the most similar of the group, 0..1.
    """
    device = next(clip.parameters()).device
    hits = []
    for first in range(0, scenes.count, 128):
        indices = list(range(first, first + 128))
        ids = tokenize(tokenizer, [full_caption(scenes.scene(index)) for index in indices]).to(device)
        similarity = text_features(clip, ids) @ image_features(clip, scenes.images(indices).to(device)).T
        hits.append((similarity.argmax(1).cpu().numpy() == np.arange(128)).mean())
    return float(np.mean(hits))


@torch.no_grad()
def measure_objects(clip: Any, tokenizer: Any, scenes: Scenes) -> float:
    """How often the most similar of ``a tower``, ``a castle`` ... names the object of a held-out scene.

    Args:
        clip: A CLIPModel in evaluation mode.
        tokenizer: Its tokenizer.
        scenes: Held-out scenes; those with an object are taken.

    Returns:
        The fraction named right, 0..1; by chance 0.1.
    """
    indices = [index for index in range(scenes.count) if scenes.scene(index).object]
    device = next(clip.parameters()).device
    texts = text_features(clip, tokenize(tokenizer, [article(name) for name in OBJECTS]).to(device))
    named = (image_features(clip, scenes.images(indices).to(device)) @ texts.T).argmax(1).tolist()
    return float(
        np.mean([OBJECTS[k] == scenes.scene(index).object for k, index in zip(named, indices, strict=True)])
    )


TEXT_TOWER = "text_model.safetensors"
"""The text tower of a saved CLIPModel, where it lies apart from the rest."""


def load_clip(folder: Path) -> Any:
    """A CLIPModel that a stage saved, fp32, in evaluation mode.

    Of the committed one the text tower is the pipeline's text encoder, and lies there alone.
    """
    if not (folder / TEXT_TOWER).exists():
        return CLIPModel.from_pretrained(str(folder), torch_dtype=torch.float32)
    model: Any = CLIPModel(CLIPConfig.from_pretrained(str(folder)))
    weights = load_file(folder / "model.safetensors")
    weights |= {f"text_model.{name}": tensor for name, tensor in load_file(folder / TEXT_TOWER).items()}
    model.load_state_dict(weights)
    return model.float().eval()


def load_tokenizer(folder: Path | None) -> Any:
    """The tokenizer of a trained stage, or a new one (always the same)."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder)) if folder else build_tokenizer()
