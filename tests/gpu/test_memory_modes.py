"""What only an NVIDIA GPU can show of the memory modes. None of this has been run on one yet."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import script

from lightning_drift.fit.fused_update import norms_at_once
from lightning_drift.fit.memory import MEMORY_MODES

pytestmark = pytest.mark.gpu
SCRIPT = ROOT / "scripts" / "benchmark_card.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    return script("scripts/benchmark_card.py")


@pytest.fixture(scope="module")
def measured(benchmark: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A mode's peaks in GiB at SD v1.5's shapes, each measured once in a process of its own."""
    folder: Path = tmp_path_factory.mktemp("models") / "sd15-random"
    benchmark.write_random_sd15(folder)
    told: dict[str, Any] = {}

    def of(mode: str) -> dict[str, Any]:
        if mode not in told:
            command = [sys.executable, str(SCRIPT), "--part", mode, "--workdir", str(folder), "--cards", "8"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            told[mode] = json.loads(done.stdout.strip().splitlines()[-1])
        return told[mode]

    return of


def test_the_update_in_one_launch_makes_bitsandbytes_bits(benchmark: Any) -> None:
    told = benchmark.compare_updates(torch.device("cuda"))
    assert told == {"weights": 1.0, "states": 1.0, "distance": 0.0}


def test_norms_at_once_are_the_norms() -> None:
    source = torch.Generator("cuda").manual_seed(0)
    weights = [
        torch.nn.Parameter(torch.zeros(n, device="cuda", dtype=torch.half)) for n in (7, 70000, 3000000)
    ]
    for weight in weights:
        weight.grad = (torch.randn(weight.shape, generator=source, device="cuda") * 1000).half()
    norms = norms_at_once(weights, torch.tensor(2.0**-16, device="cuda"))
    for weight, norm in norms.items():
        assert norm.dtype == torch.float32
        assert torch.allclose(norm, (weight.grad.float() * 2.0**-16).norm(), rtol=1e-5)


def test_each_mode_takes_less_than_the_one_before_it(measured: Any) -> None:
    peaks = [measured(mode)["step"] for mode in MEMORY_MODES]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)


@pytest.mark.parametrize("mode", MEMORY_MODES)
def test_the_peaks_are_within_a_tenth_of_the_plan(measured: Any, mode: str) -> None:
    told = measured(mode)
    for phase, forecast in told["forecast"].items():
        assert told[phase] == pytest.approx(forecast, rel=0.1), phase


def test_the_last_mode_goes_on_with_8_gb_through_clipped_steps_and_a_grid(measured: Any) -> None:
    mode = list(MEMORY_MODES)[-1]
    assert measured(mode)["fits"] == {"8": True}, measured(mode)["error"]
