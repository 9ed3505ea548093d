"""Exports that hold only the change: a delta or a LoRA, measured against what they were made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_drift.common.errors import notice
from lightning_drift.export.delta_file import delta_bytes, delta_tensors
from lightning_drift.export.lora import layer_names, lora_bytes, lora_tensors
from lightning_drift.export.model_card import Provenance, modelspec
from lightning_drift.export.reconstruction import Reconstruction, reconstruct
from lightning_drift.export.single_file import write_half
from lightning_drift.stable_diffusion.delta_lora import change_metadata, over_base
from lightning_drift.stable_diffusion.opened_pipeline import OpenedPipeline
from lightning_drift.weights.files import open_weights

if TYPE_CHECKING:
    from lightning_drift.drift.checkpoint_evaluator import CheckpointEvaluator

SMALL = ("delta", "lora")


@dataclass(frozen=True)
class SmallFile:
    """A delta or a LoRA that was written: what it gives back with its base, and how near that is."""

    written: OpenedPipeline
    measured: Reconstruction


def small_bytes(parts: OpenedPipeline, form: str, rank: int) -> int:
    """The most bytes that the file takes."""
    return delta_bytes(parts) if form == "delta" else lora_bytes(parts, rank)


def write_small(
    target: Path, parts: OpenedPipeline, base: OpenedPipeline, facts: Provenance, form: str, rank: int
) -> SmallFile:
    """Write a fine-tune's change as one file, read it back and measure what it lost.

    Args:
        target: The file's name; it appears complete or not at all.
        parts: The fine-tune.
        base: Its base.
        facts: What is told about it in the metadata.
        form: ``delta`` or ``lora``.
        rank: Of a LoRA.

    Raises:
        OSError: The file cannot be written.
    """
    tensors = delta_tensors(parts, base) if form == "delta" else lora_tensors(parts, base, rank)
    metadata = {**modelspec(facts, form), **change_metadata(base, facts.base, form)}
    if form == "lora":
        metadata |= _kohya(facts, rank)
    write_half(target, tensors, metadata)
    del tensors
    written = over_base(base, open_weights(target), target)
    kinds = layer_names(parts)[1] if form == "lora" else {}
    return SmallFile(written, reconstruct(parts, base, written, kinds))


def _kohya(facts: Provenance, rank: int) -> dict[str, str]:
    """What A1111 and kohya's own tools show and sort LoRAs by."""
    known = {"ss_base_model_version": "sd_v1"} if facts.is_sd15 else {}
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_sd_model_name": facts.base,
        "ss_output_name": facts.title,
        **known,
    }


def report(
    small: SmallFile,
    source: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    markdown: bool = False,
) -> str:
    """What the file keeps of the fine-tune: a table by block and a sentence or two.

    Args:
        small: The file.
        source: The outputs of the fine-tune's networks on fixed input, by part.
        base: The base's, on the same.
        found: Those of the base with the file on it.
        markdown: For the model card.
    """
    outputs = " and ".join(
        f"the {part}'s output is {_apart(found[part], source[part]):.3%} from the fine-tune's "
        f"(the base's is {_apart(base[part], source[part]):.2%} from it)"
        for part in source
    )
    legend = (
        "Change is ||W - W0|| / ||W0|| against the base W0; lost of it is ||W - W'|| / ||W - W0||, where W' "
        "is the base with this file on it."
    )
    texts = [legend, small.measured.table(markdown), small.measured.left_behind()]
    texts.append(f"On a fixed input {outputs}.")
    return "\n\n".join(filter(None, texts))


def drift_changes(bench: "CheckpointEvaluator", parts: OpenedPipeline, written: OpenedPipeline) -> str:
    """How the drift measures of the file differ from the fine-tune's: a Markdown table and what it is of.

    Args:
        bench: Renders and measures the fit's probe pictures.
        parts: The fine-tune.
        written: The base with the file on it.
    """
    notice("rendering the fit's probe pictures to measure what the file changes in them")
    whole = bench.measure(parts.weights, "the fine-tune")
    file = bench.measure(written.weights, "with the file")
    lines = ["| measure | fine-tune | with this file | change |", "| --- | --- | --- | --- |"]
    for name, interval in whole.items():
        before, after = interval.value, file[name].value
        lines.append(f"| {name.replace('_', ' ')} | {before:.3f} | {after:.3f} | {after - before:+.3f} |")
    seeds, prompts = len(bench.keys), len(bench.roles)
    return (
        f"Drift measures against the base, by {bench.clip.name}, on {seeds} of the fit's probe pictures "
        f"({prompts} prompts):\n\n" + "\n".join(lines)
    )


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
