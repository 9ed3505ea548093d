"""Writing only what a fine-tune changed of its base: a delta or a LoRA.

A delta holds the float16 differences ``W - W0`` of UNet and text encoder. The differences of a short
fine-tune are small numbers, and float16 is fine near zero (steps of 6e-8): base and delta together give the
fine-tune back closer than a float16 copy of it would. A LoRA holds the differences cut down to a rank (see
``lora.py``).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_drift.export.lora import largest_rank, lora_bytes, lora_tensors
from lightning_drift.export.model_card import modelspec
from lightning_drift.export.provenance import Provenance
from lightning_drift.export.single_file import write_half
from lightning_drift.stable_diffusion.delta_lora import change_metadata, over_base
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED, OpenedPipeline
from lightning_drift.weights.files import open_weights


@dataclass(frozen=True)
class Change:
    """What a fine-tune changed of its base, and how a file is to hold it.

    Attributes:
        opened: The fine-tune.
        base: Its base.
        form: ``delta`` or ``lora``.
        rank: The most directions that a LoRA keeps of each layer; 1 or more.
    """

    opened: OpenedPipeline
    base: OpenedPipeline
    form: str
    rank: int


def change_bytes(change: Change) -> int:
    """The most bytes that the file takes."""
    if change.form == "lora":
        return lora_bytes(change.opened, change.rank)
    shapes = [shape for part in TRAINED for shape in change.opened.weights[part].shapes.values()]
    return sum(2 * torch.Size(shape).numel() for shape in shapes)


def write_change(target: Path, change: Change, facts: Provenance) -> OpenedPipeline:
    """Write a fine-tune's change as one file, and open it.

    Args:
        target: The file's name; it appears complete or not at all.
        change: The fine-tune, its base and the form.
        facts: What is told about it in the metadata.

    Returns:
        The base with the written file on it.

    Raises:
        OSError: The file cannot be written.
    """
    opened, base, form = change.opened, change.base, change.form
    metadata = {**modelspec(facts, form), **change_metadata(base, facts.base, form)}
    if form == "delta":
        tensors = delta_tensors(opened, base)
    else:
        tensors = lora_tensors(opened, base, change.rank)
        metadata |= _kohya_metadata(facts, largest_rank(opened, change.rank))
    write_half(target, tensors, metadata)
    return over_base(base, open_weights(target), target)


def delta_tensors(opened: OpenedPipeline, base: OpenedPipeline) -> dict[str, Tensor]:
    """The float16 differences of UNet and text encoder, as ``unet.<name>`` and ``text_encoder.<name>``.

    Weights that did not change, such as a frozen text encoder's, are left out.
    """
    tensors = {}
    for part in TRAINED:
        for name in opened.weights[part].shapes:
            tuned = opened.weights[part].read(name).float()
            difference = (tuned - base.weights[part].read(name).float().reshape(tuned.shape)).half()
            if difference.any():
                tensors[f"{part}.{name}"] = difference
    return tensors


def _kohya_metadata(facts: Provenance, rank: int) -> dict[str, str]:
    """What A1111 and kohya's own tools show and sort LoRAs by.

    Args:
        facts: What is told about the LoRA.
        rank: Of its largest layer, which is every layer's alpha too.
    """
    known = {"ss_base_model_version": "sd_v1"} if facts.is_sd15 else {}
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_sd_model_name": facts.base,
        "ss_output_name": facts.title,
        **known,
    }
