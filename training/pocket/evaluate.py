"""Measure a pocket pipeline and the CLIP that measures it against the project's bars, and draw its grids.

    python -m training.pocket.evaluate --pipeline ../state/pipeline --clip ../state/clip/weights

Prints a table and writes ``figures.json``, ``probes.png`` (one row per prompt, one column per seed) and
``autoencoder.png`` (held-out scenes above their reconstructions) to ``--out``. The same checks on painted
scenes of the same prompts are printed beside, for comparison.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.command_line import command_parser, run_command, use_threads


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--pipeline", type=Path, required=True, help="diffusers folder")
    parser.add_argument(
        "--clip", type=Path, help="CLIPModel folder with its tokenizer; without it no retrieval and no probes"
    )
    parser.add_argument("--out", type=Path, default=Path("tb_logs/pocket_quality"), help="folder for results")
    parser.add_argument("--seeds", type=int, default=8, help="seeds per probe prompt")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps")
    parser.add_argument("--guidance", type=float, default=3.0, help="guidance scale")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    use_threads(args.threads)
    import numpy as np
    import torch
    from diffusers import StableDiffusionPipeline
    from PIL import Image
    from transformers import CLIPTokenizer

    from training.pocket.autoencoder import measure_autoencoder
    from training.pocket.clip import load_clip, measure_retrieval
    from training.pocket.probes import PROBES, Checker, painted
    from training.pocket.scenes import HELD_OUT_SEED, Scenes

    args.out.mkdir(parents=True, exist_ok=True)
    pipeline = StableDiffusionPipeline.from_pretrained(str(args.pipeline), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    figures: dict[str, Any] = {}

    vae = pipeline.vae.eval()
    quality = measure_autoencoder(vae, Scenes(HELD_OUT_SEED, 256))
    figures["autoencoder_psnr_db"] = round(quality["psnr"], 2)
    figures["latent_std_times_scaling"] = round(quality["latent_std"] * vae.config.scaling_factor, 3)
    figures["autoencoder_colour_error"] = round(quality["colour_error"], 3)
    x = Scenes(HELD_OUT_SEED, 16).images(list(range(16)))
    with torch.no_grad():
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    pairs = torch.cat([torch.cat(list(x), 2), torch.cat(list(y), 2)], 1)
    strip = ((pairs.permute(1, 2, 0) + 1) * 127.5).byte().numpy()
    Image.fromarray(strip).resize((strip.shape[1] * 2, strip.shape[0] * 2), 0).save(
        args.out / "autoencoder.png"
    )

    def sample(prompt: str) -> Any:
        generators = [torch.Generator().manual_seed(seed) for seed in range(args.seeds)]
        return pipeline(
            [prompt] * args.seeds,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance,
            generator=generators,
            height=64,
            width=64,
            output_type="np",
        ).images

    start = time.perf_counter()
    pipeline(
        "a tower", num_inference_steps=50, guidance_scale=args.guidance, height=64, width=64, output_type="np"
    )
    figures["seconds_per_50_step_image"] = round(time.perf_counter() - start, 2)

    grids = {probe: sample(probe.prompt) for probe in PROBES}
    sheet = np.concatenate([np.concatenate(list(rows), 1) for rows in grids.values()], 0)
    sheet = (sheet * 255).round().astype(np.uint8)
    Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), 0).save(args.out / "probes.png")
    spread = [np.mean([np.abs(a - b).mean() for a in rows for b in rows]) for rows in grids.values()]
    figures["mean_pixel_difference_between_seeds"] = round(float(np.mean(spread)), 3)

    if args.clip:
        clip: Any = load_clip(args.clip)
        clip.eval()
        tokenizer = CLIPTokenizer.from_pretrained(str(args.clip))
        figures["clip_recall_at_1_of_128"] = round(
            measure_retrieval(clip, tokenizer, Scenes(HELD_OUT_SEED, 1024)), 3
        )
        checker = Checker(clip, tokenizer)
        shown: list[bool] = []
        of_painted: list[bool] = []
        table = {}
        for probe, pictures in grids.items():
            result, best = checker.check(pictures, probe), checker.check(painted(probe, 16, 30_000), probe)
            table[probe.prompt] = {
                name: [round(float(np.mean(values)), 2), round(float(np.mean(best[name])), 2)]
                for name, values in result.items()
            }
            shown += [value for values in result.values() for value in values]
            of_painted += [value for values in best.values() for value in values]
            cells = "  ".join(
                f"{name} {got:.2f} (of {top:.2f})" for name, (got, top) in table[probe.prompt].items()
            )
            print(f"{probe.prompt:62s} {cells}")
        figures["attributes_shown"] = round(float(np.mean(shown)), 3)
        figures["attributes_shown_by_painted_scenes"] = round(float(np.mean(of_painted)), 3)
        figures["probes"] = table
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for name, value in figures.items():
        if name != "probes":
            print(f"{name:40s} {value}")


if __name__ == "__main__":
    run_command(main)
