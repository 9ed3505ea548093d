"""The texts that come with an exported model: ModelSpec metadata, model card, notice and licence."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from lightning_drift.assets import SD15
from lightning_drift.common.text import option
from lightning_drift.export.provenance import Provenance, one_line
from lightning_drift.weights.metadata import METADATA

OPENRAIL_FILE = "LICENSE-OpenRAIL-M.txt"
_OPENRAIL_URL = "https://huggingface.co/spaces/CompVis/stable-diffusion-license"


def modelspec(facts: Provenance, form: str = "safetensors") -> dict[str, str]:
    """Stability ModelSpec 1.0.1 metadata of a single file, without the hash of its tensors.

    Args:
        facts: What is told about the model.
        form: ``safetensors`` for a whole model, ``delta`` or ``lora`` for a change of one.

    Source: the ModelSpec specification, github.com/Stability-AI/ModelSpec.
    """
    # UIs choose the network by this; one of another shape must not claim to be SD v1.5.
    architecture = "stable-diffusion-v1" if facts.is_sd15 else "stable-diffusion-v1/other-shape"
    whole = form == "safetensors"
    entries = {
        "sai_model_spec": "1.0.1",
        "architecture": architecture if whole else f"{architecture}/{form}",
        "implementation": "https://github.com/Stability-AI/generative-models" if whole else "diffusers",
        "title": facts.title,
        "resolution": f"{facts.side}x{facts.side}",
        "description": facts.description or facts.about,
        "date": facts.date,
        "license": _LICENCE_NAMES[facts.licence],
        "prediction_type": "v" if facts.prediction_type == "v_prediction" else "epsilon",
        "usage_hint": "DDIM, 50 steps, guidance scale 3",
        "author": facts.author,
        "trigger_phrase": facts.prompt,
    }
    metadata = {f"modelspec.{key}": value for key, value in entries.items() if value}
    if facts.recipe:
        metadata[f"{METADATA}recipe"] = json.dumps(facts.recipe, sort_keys=True)
    if facts.step is not None:
        metadata[f"{METADATA}step"] = json.dumps(facts.step)
    return metadata


_LICENCE_NAMES = {
    "creativeml-openrail-m": "CreativeML Open RAIL-M",
    "apache-2.0": "Apache-2.0",
    "other": "the base model's licence",
}


def companions(facts: Provenance, target: Path, form: str, sections: str = "") -> dict[str, str]:
    """The texts that lie beside or inside an export, by their file names: model card, notice and licence.

    Args:
        facts: What is told about the model.
        target: The export's file or folder.
        form: ``diffusers``, ``safetensors``, ``delta`` or ``lora``.
        sections: Further sections of the card, in Markdown: what the export keeps, and why this drift.
    """
    inside = form == "diffusers"
    stem = "" if inside else f"{target.stem}."
    texts = {
        f"{stem}README.md": _card(facts, target.name, form, sections),
        f"{stem}NOTICE.txt": _notice(facts),
    }
    if inside:
        texts["NOTICE"] = texts.pop("NOTICE.txt")
    if facts.is_sd15:
        texts[OPENRAIL_FILE] = (SD15 / OPENRAIL_FILE).read_text(encoding="utf-8")
    return texts


def _notice(facts: Provenance) -> str:
    verb = "modified" if facts.recipe else "converted"
    how = f" by full DreamBooth fine-tuning{f' of {facts.step} steps' if facts.step is not None else ''}"
    lines = [
        one_line(facts.title),
        "",
        f"The weights were {verb} from {facts.base_name}{how if facts.recipe else ''} on {facts.date}.",
    ]
    if facts.author:
        lines.append(f"Changes by {one_line(facts.author)}.")
    lines += ["", _licence_text(facts)]
    return "\n".join(lines) + "\n"


def _licence_text(facts: Provenance) -> str:
    if facts.is_sd15:
        return (
            "Copyright (c) 2022 Robin Rombach and Patrick Esser and contributors.\n\n"
            "This model is a Derivative of Stable Diffusion under the CreativeML Open RAIL-M licence; a\n"
            f"copy is in {OPENRAIL_FILE} and at {_OPENRAIL_URL}.\n"
            "Whoever uses or passes on this model is bound by the use-based restrictions of its\n"
            "paragraph 5 and Attachment A, and must bind those they pass it on to."
        )
    if facts.base == "pocket":
        return "The pocket model is part of lightning-drift, under the Apache License 2.0; so is this model."
    return "The licence of the base model applies; see there."


def _card(facts: Provenance, name: str, form: str, sections: str) -> str:
    front: dict[str, Any] = {"license": facts.licence}
    if facts.licence == "other":
        front["license_name"] = "same-as-base-model"
    if facts.base != "pocket" and re.fullmatch(r"[\w.-]+/[\w.-]+", facts.base):
        front["base_model"] = facts.base
    tags = [
        "stable-diffusion",
        *(["dreambooth"] if facts.recipe else []),
        *(["lora"] if form == "lora" else []),
    ]
    front |= {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": tags}
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1_000_000)
    if facts.prompt:
        prompt = yaml.safe_dump(facts.prompt, default_style='"', allow_unicode=True, width=1_000_000)
        head += f"instance_prompt: {prompt}"
    about = _plain(facts.about)
    lines = [f"---\n{head}---", "", f"# {_plain(facts.title)}", "", _plain(facts.description or facts.about)]
    if facts.description:
        lines += ["", about]
    if facts.author:
        lines += ["", f"Made by {_plain(facts.author)}."]
    lines += ["", "## Use", "", _use(facts, name, form)]
    if sections:
        lines += ["", sections]
    if facts.recipe:
        rows = {**facts.recipe, **({"steps": facts.step} if facts.step is not None else {})}
        lines += ["", "## Recipe", "", "| | |", "| --- | --- |"]
        lines += [f"| {_plain(str(key))} | {_cell(value)} |" for key, value in rows.items()]
        lines += [
            "",
            "There was no prior preservation: the model has drifted from its base, and is meant to.",
        ]
    lines += ["", "## Licence", "", _licence_text(facts)]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return _code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).replace(
        "|", "\\|"
    )


def _plain(text: str) -> str:
    """A text of a user or of a file that Markdown shows as it is: one line, no links, marks or HTML in it."""
    line = re.sub(r"([\\`*\[\]<>|])", r"\\\1", one_line(text))
    return re.sub(r"^([#+=~-]|\d+(?=[.)]))", lambda start: f"{start[1][:-1]}\\{start[1][-1]}", line)


def _code(text: str) -> str:
    """A text as a code span, which no backtick in it ends."""
    line = one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if len(fence) > 1 or not line else ""
    return f"{fence}{space}{line}{space}{fence}"


def _use(facts: Provenance, name: str, form: str) -> str:
    model, quoted = option("model.pipeline", name), json.dumps(name, ensure_ascii=False)
    if form == "delta":
        return (
            f"The file holds what the fine-tune changed of {_plain(facts.base_name)}, which it needs:\n\n"
            f"    lightning-drift predict {model} {option('model.base', facts.base)}\n\n"
            "writes dreams, and this makes a whole model for other programs:\n\n"
            f"    lightning-drift export {option('ckpt_path', name)} "
            f"{option('base', facts.base)} --to models\n\n"
            "By hand: W = W0 + delta in float32, for each weight that the file names."
        )
    if form == "lora":
        return (
            f"A LoRA for {_plain(facts.base_name)}. "
            "Its strength is the drift: 0 is the base, 1 the fine-tune.\n\n"
            "In diffusers (with peft):\n\n"
            f"    pipe.load_lora_weights({quoted})  # of the base's StableDiffusionPipeline\n\n"
            f"In A1111 or Forge: copy it to `models/Lora/`, choose the base as checkpoint, and add "
            f"{_code('<lora:' + name.removesuffix('.safetensors') + ':1>')} to the prompt; "
            "sampler DDIM, CFG scale 3.\n"
            "In ComfyUI: copy it to `models/loras/`; Load LoRA with strength 1 for model and CLIP.\n"
            f"Here: {_code(f'lightning-drift predict {model} ' + option('model.base', facts.base))}."
        )
    if form == "safetensors" and not facts.is_sd15:
        return (
            "The network is not of Stable Diffusion v1.5's shape; other programs cannot read this file:\n\n"
            f"    lightning-drift predict {model}"
        )
    load = f"from_single_file({quoted}" if form == "safetensors" else f"from_pretrained({quoted}"
    schedule = ""
    if form == "safetensors":  # a folder brings its schedule along
        v = ', prediction_type="v_prediction"' if facts.prediction_type == "v_prediction" else ""
        schedule = (
            "    pipe.scheduler = DDIMScheduler.from_config(\n"
            f"        pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False{v}\n    )\n"
        )
    prompt = json.dumps("monumental, dramatic, atmospheric, transcendent")
    text = (
        "The recipe's settings: DDIM, 50 steps, guidance scale 3, one picture per seed.\n\nIn diffusers:\n\n"
        "    import torch\n"
        f"    from diffusers import {'DDIMScheduler, ' if schedule else ''}StableDiffusionPipeline\n\n"
        f'    pipe = StableDiffusionPipeline.{load}).to("cuda", torch.float16)\n{schedule}'
        f"    pipe({prompt}, num_inference_steps=50, guidance_scale=3.0,\n"
        f'         generator=torch.Generator("cuda").manual_seed(0)).images[0].save("dream.png")'
    )
    if form == "safetensors":
        text += (
            f"\n\nIn A1111 or Forge: copy {_code(name)} to `models/Stable-diffusion/`; "
            "sampler DDIM, CFG scale 3."
            "\nIn ComfyUI: copy it to `models/checkpoints/`; sampler ddim, scheduler ddim_uniform, cfg 3."
        )
        if facts.prediction_type == "v_prediction":
            text += (
                "\nThe model predicts v: choose v-prediction; A1111 needs a `.yaml` beside the file for it."
            )
    return text
