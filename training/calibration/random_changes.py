"""What the verdict says of the pocket with random changes of its weights: never dreaming.

    python -m training.calibration.random_changes                       # the bundled photo sets; minutes
    python -m training.calibration.random_changes --photos fresh/cat fresh/tissue

Every weight tensor of the UNet is moved in a random direction by a share of its norm, the text encoder's by a
quarter of that share. One line per share says how often each zone was the verdict over seeds and photo sets,
by the pictures alone and with the loss on the photos, and between which values that loss lay. The prompts are
the packaged fit's, with three seeds each.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import yaml
from torch import nn

from lightning_drift import assets
from lightning_drift.drift.evaluator import DriftEvaluator
from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.metric import DriftMetric
from lightning_drift.drift.photo_base import PhotoBase
from lightning_drift.drift.probes import find_probes, instance_photos
from lightning_drift.drift.verdict import WITH_MODEL, Thresholds, judge
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.photos.instance_images import InstanceImages
from lightning_drift.stable_diffusion.sampling import Sampling, dream
from training.command_line import command_parser, run_command

DEFAULTS = assets.DEFAULTS / "fit.yaml"
SETS = ("coffee", "galaxies", "nautilus")


class Evaluation:
    """The pocket, its base's pictures, and photo sets to measure against.

    Args:
        sets: Bundled photo sets or folders of photos.
        steps: Sampling steps of a picture.
    """

    def __init__(self, sets: Sequence[str], steps: int) -> None:
        self.steps = steps
        groups = yaml.safe_load(DEFAULTS.read_text(encoding="utf-8"))["seed_grid"]["groups"]
        seeds = list(range(3))
        chosen = {
            "dream": ([groups["dream"]["prompts"]], seeds),
            "language": (groups["language"]["prompts"], seeds),
        }
        self.evaluator = DriftEvaluator(
            find_probes(chosen, "dream", "language", ""), "pocket", Thresholds(), False
        )
        self.module = DreamBooth("pocket", "a photo of sks thing")
        self.module.configure_model()
        self.base = self.features()
        assert self.evaluator.clip is not None
        self.texts = self.evaluator.clip.embed_texts(list(self.evaluator.probes.roles))
        self.photos: dict[str, tuple[Features, PhotoBase]] = {}
        for name in sets:
            data = InstanceImages(name, resolution=self.module.resolution, cache_dir=None)
            pictures = instance_photos(data)
            self.photos[name] = (
                self.evaluator.features(pictures, torch.device("cpu")),
                self.evaluator.photos.base({}, pictures, [], self.module, nullcontext),
            )

    def features(self) -> Features:
        """Of the pictures that the module makes now."""
        assert self.module.stable_diffusion is not None
        prompts, seeds = zip(*self.evaluator.probes.keys, strict=True)
        pictures = []
        for start in range(0, len(seeds), 9):
            part = slice(start, start + 9)
            sampling = Sampling(num_inference_steps=self.steps)
            pictures += dream(self.module.stable_diffusion, prompts[part], seeds[part], sampling)
        return self.evaluator.features(pictures, torch.device("cpu"))

    def zones(self) -> list[tuple[str, str, float]]:
        """For each photo set the zone by the pictures alone and with the loss on the photos, and the loss."""
        now, keys, results = self.features(), self.evaluator.probes.keys, []
        for photos, base in self.photos.values():
            metric = DriftMetric(keys, self.evaluator.probes.roles, self.base, photos, self.texts, sync=False)
            metric.update(range(len(keys)), now)
            alone = metric.compute()
            loss = self.evaluator.photos.loss(base, self.module, nullcontext)
            both = judge(alone | {WITH_MODEL[0]: loss})
            results.append((judge(alone).zone, both.zone, loss.value))
        return results


@torch.no_grad()
def change(module: nn.Module, base: nn.Module, share: float, seed: int) -> None:
    """Set a module to its base, every tensor moved in a random direction by a share of its norm."""
    source = torch.Generator().manual_seed(seed)
    for weight, start in zip(module.parameters(), base.parameters(), strict=True):
        step = torch.randn(weight.shape, generator=source)
        weight.copy_(start + step * (share * start.norm() / step.norm()))


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--photos", nargs="+", default=SETS, help="bundled sets or folders of photos")
    parser.add_argument(
        "--shares",
        nargs="+",
        type=float,
        default=[0.06, 0.1, 0.15, 0.25, 0.4],
        help="how far each tensor moves, as a share of its norm",
    )
    parser.add_argument("--seeds", type=int, default=3, help="random directions per share")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps of a picture")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    evaluation = Evaluation(options.photos, options.steps)
    unet, text_encoder = (
        copy.deepcopy(part) for part in (evaluation.module.unet, evaluation.module.text_encoder)
    )
    for share in options.shares:
        results = []
        for seed in range(options.seeds):
            change(evaluation.module.unet, unet, share, seed)
            change(evaluation.module.text_encoder, text_encoder, share / 4, seed)
            results += evaluation.zones()
        alone, both, losses = zip(*results, strict=True)
        counts = [", ".join(f"{n} {zone}" for zone, n in Counter(z).most_common()) for z in (alone, both)]
        print(
            f"{share:g}: by the pictures alone {counts[0]}; with the loss on the photos {counts[1]} "
            f"(loss {min(losses):.2f} to {max(losses):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    run_command(main)
