"""Tiny upscaling networks with random weights, built by spandrel, in real files' layouts."""

import re
import warnings
from importlib import import_module
from pathlib import Path

import torch

from lightning_drift.prints.spandrel_library import spandrel

NETWORKS = {
    "Compact": {"num_feat": 8, "num_conv": 4, "upscale": 4},
    "SPAN": {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8, "upscale": 2},
    "ESRGAN": {"num_filters": 8, "num_blocks": 2, "scale": 4},
    "SwinIR": {
        "img_size": 16, "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 8, "mlp_ratio": 2.0,
        "upscale": 2, "upsampler": "nearest+conv",
    },
    "DAT": {
        "img_size": 16, "embed_dim": 32, "split_size": [4, 8], "depth": [1], "num_heads": [2],
        "expansion_factor": 2.0, "upscale": 2,
    },
}  # fmt: skip


def build(name: str, **options: object) -> torch.nn.Module:
    """A network of an architecture; its weights follow from its name."""
    spandrel()
    kind = getattr(import_module(f"spandrel.architectures.{name}"), name)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(len(name))
        network: torch.nn.Module = kind(**{**NETWORKS.get(name, {}), **options})
        for parameter in network.parameters():  # some architectures begin at zero, so that nothing would show
            if parameter.ndim > 1 and parameter.std() < 1e-3:
                torch.nn.init.normal_(parameter, std=0.05)
    return network.eval().requires_grad_(False)


def write(path: Path, name: str, **options: object) -> torch.nn.Module:
    """A network, saved as trainers of Real-ESRGAN save theirs: two sets of weights, one of them averaged."""
    network = build(name, **options)
    averaged = network.state_dict()
    raw = {key: value + 1 if value.is_floating_point() else value for key, value in averaged.items()}
    torch.save({"params": raw, "params_ema": averaged}, path)
    return network


def newer_names(old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of an ESRGAN of two blocks and scale 4 under Real-ESRGAN's names."""
    ends = {"0": "conv_first", "1.sub.2": "conv_body", "3": "conv_up1", "6": "conv_up2", "8": "conv_hr"}
    ends["10"] = "conv_last"
    named = {}
    for key, value in old.items():
        stem, kind = key.removeprefix("model.").rsplit(".", 1)
        block = re.fullmatch(r"1\.sub\.(\d)\.RDB(\d)\.conv(\d)\.0", stem)
        named[f"{'body.{}.rdb{}.conv{}'.format(*block.groups()) if block else ends[stem]}.{kind}"] = value
    return named
