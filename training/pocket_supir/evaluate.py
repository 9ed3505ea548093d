"""Measure the pocket's SUPIR on unseen scenes: painted at print size, reduced fourfold, and printed again.

    python -m training.pocket_supir.evaluate --out tb_logs/pocket_supir
    python -m training.pocket_supir.evaluate --count 24 --effects
    python -m training.pocket_supir.evaluate --count 16 --weak-spots

The options are those of configs/supir_pocket.yaml; a scene's full caption is its prompt. Prints a table
against bicubic enlargement, and with ``--effects`` one of what the options do. Writes ``figures.json`` and
``sheet.png`` (one row per scene: nearest, bicubic, first stage, SUPIR, the true scene). ``--weak-spots``
prints another table alone, without captions, and writes ``weak_spots.json`` and ``weak_spots.png``: what is
wrong at plain pictures, outermost lines, mean colour, stars and snow (`weak_spots`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.command_line import command_parser, run_command, use_threads

EFFECTS: list[tuple[str, dict[str, Any]]] = [
    ("as the configuration has it", {}),
    ("s_cfg 1, at both ends", {"s_cfg": 1.0, "spt_linear_cfg": 1.0}),
    ("s_cfg 6", {"s_cfg": 6.0}),
    ("s_stage1 off", {"s_stage1": -1.0}),
    ("s_stage1 4", {"s_stage1": 4.0}),
    ("s_churn 0", {"s_churn": 0.0}),
    ("s_churn 12", {"s_churn": 12.0}),
    ("control_scale 1", {"control_scale": 1.0}),
    ("control_scale 0.6", {"control_scale": 0.6}),
    ("control_scale 0.3", {"control_scale": 0.3}),
    ("control_scale 0, s_stage1 off", {"control_scale": 0.0, "s_stage1": -1.0}),
]
"""Changes of one option at a time; all are made without a colour fix, which would hide them."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--supir", default="pocket", help="as model.supir")
    parser.add_argument("--sdxl", default="pocket", help="as model.sdxl")
    parser.add_argument("--out", type=Path, default=Path("tb_logs/pocket_supir"), help="folder for results")
    parser.add_argument("--count", type=int, default=24, help="number of unseen scenes")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them")
    parser.add_argument("--batch-size", type=int, default=8, help="prints made together")
    parser.add_argument("--steps", type=int, default=30, help="sampler steps")
    parser.add_argument("--effects", action="store_true", help="measure what the options do")
    parser.add_argument("--weak-spots", action="store_true", help="measure only what prints are bad at")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    use_threads(args.threads)
    import torch

    with torch.no_grad():
        evaluate(args)


def evaluate(args: argparse.Namespace) -> None:
    """Make the prints, print the tables and write the files that the command's help names."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import CLIPModel, CLIPTokenizer

    from lightning_drift.assets import POCKET_CLIP
    from training.pocket.clip import text_features
    from training.pocket.scenes import HELD_OUT_SEED, Scenes
    from training.pocket.tokenizer import tokenize
    from training.pocket.world.captions import full_caption
    from training.pocket_supir.degradation import RATIO, enlarge, reduce, to_pil
    from training.pocket_supir.models import PRINT
    from training.pocket_supir.printing import Printer
    from training.pocket_supir.quality import measure, whole_features
    from training.pocket_supir.weak_spots import measure_weak_spots

    args.out.mkdir(parents=True, exist_ok=True)
    clip: Any = CLIPModel.from_pretrained(str(POCKET_CLIP), torch_dtype=torch.float32)
    clip.eval()
    indices = list(range(args.first, args.first + args.count))
    scenes = Scenes(HELD_OUT_SEED, args.first + args.count, PRINT)
    captions = [full_caption(scenes.scene(index)) for index in indices]
    truth = scenes.images(indices)
    given = (reduce(truth) * 127.5 + 127.5).round() / 127.5 - 1
    bicubic = torch.stack([enlarge(picture) for picture in given])

    printer = Printer(args.supir, args.sdxl, args.steps, args.batch_size)
    if args.weak_spots:
        show_weak_spots(measure_weak_spots(printer, truth, args.count, args.out / "weak_spots.png"), args.out)
        return

    def restored(texts: Sequence[str], **change: Any) -> torch.Tensor:
        return printer.prints(bicubic, texts, indices, **change)

    start = time.perf_counter()
    prints = restored(captions)
    seconds = (time.perf_counter() - start) / args.count
    figures: dict[str, Any] = {"seconds_a_print_in_batches": round(seconds, 2), "against_bicubic": {}}
    rows = {
        "bicubic": bicubic,
        "first stage": (first := printer.first(bicubic)),
        "SUPIR": prints,
        "SUPIR without captions": restored([""] * args.count),
        "true scene through the autoencoder": printer.coded(truth),
    }
    print(f"{'':36s} fidelity  ssim   psnr   CLIP   energy (error)")
    for name, pictures in rows.items():
        q = measure(pictures, truth, given, clip)
        figures["against_bicubic"][name] = {key: round(value, 4) for key, value in asdict(q).items()}
        print(
            f"{name:36s} {q.fidelity:6.2f}  {q.structure:.3f}  {q.psnr:5.2f}  {q.clip_distance:.4f}  "
            f"{q.energy:.3f} ({q.energy_error:.3f})",
            flush=True,
        )

    nearest = torch.nn.functional.interpolate(given, scale_factor=RATIO)
    columns = [nearest, bicubic, first, prints, truth]
    lines = [
        np.concatenate([np.asarray(to_pil(column[k])) for column in columns], 1)
        for k in range(min(args.count, 12))
    ]
    Image.fromarray(np.concatenate(lines)).save(args.out / "sheet.png")

    if args.effects:
        tokenizer = CLIPTokenizer.from_pretrained(str(POCKET_CLIP))
        texts = text_features(clip, tokenize(tokenizer, captions))
        figures["effects"] = {}
        print(f"\n{'':36s} fidelity   CLIP   energy caption  spread")
        for name, change in EFFECTS:
            one, other = (restored(captions, sample=sample, colour="None", **change) for sample in range(2))
            q = measure(one, truth, given, clip)
            similarity = float((whole_features(clip, one.clamp(-1, 1)) * texts).sum(-1).mean())
            spread = float((one.clamp(-1, 1) - other.clamp(-1, 1)).abs().mean()) / 2
            effect = {
                "fidelity": q.fidelity,
                "clip_distance": q.clip_distance,
                "energy": q.energy,
                "caption_similarity": similarity,
                "spread": spread,
            }
            figures["effects"][name] = {key: round(value, 4) for key, value in effect.items()}
            print(
                f"{name:36s} {q.fidelity:6.2f}  {q.clip_distance:.4f}  {q.energy:.3f}   {similarity:.3f}  "
                f"{spread:.4f}",
                flush=True,
            )
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def show_weak_spots(figures: Mapping[str, Mapping[str, float]], out: Path) -> None:
    """Print the table of `weak_spots.measure_weak_spots` and write it to a folder."""
    names = list(next(iter(figures.values())))
    print(" " * 36 + "".join(f"{name.replace('_', ' '):>15s}" for name in names))
    for row, values in figures.items():
        print(f"{row:36s}" + "".join(f"{values[name]:15.2f}" for name in names))
    text = json.dumps(
        {row: {k: round(v, 3) for k, v in values.items()} for row, values in figures.items()}, indent=2
    )
    (out / "weak_spots.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
