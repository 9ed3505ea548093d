"""The benchmark runs on random weights and counts the specification's arithmetic."""

import sys

import pytest
from helpers.scripts import script

from lightning_drift.supir.network.sdxl import SDXL_CONFIGS


@pytest.fixture(scope="module")
def benchmark():
    return script("scripts/benchmark_supir.py")


def test_it_measures_every_stage(benchmark, monkeypatch, capsys):
    arguments = ["--random-init", "--model", "tiny", "--size", "64", "--steps", "2", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["benchmark_supir.py", *arguments, "--memory", "sequential"])
    benchmark.main()
    said = capsys.readouterr().out
    for title in (
        "prompts",
        "autoencoder",
        "stage one",
        "network",
        "sampling, 2 steps",
        "a step",
        "decode",
        "floor",
    ):
        assert title in said
    assert "memory: sequential" in said


def test_the_floor_is_the_specifications(benchmark):
    """Counted for the guided pair at full size on the meta device: 20.3 TFLOP a step at 1024x1024."""
    flops = benchmark.count_flops(dict(SDXL_CONFIGS), 1024, 30)
    assert flops["step"] == pytest.approx(20.3e12, rel=2e-3)
    assert flops["sampling"] == 30 * flops["step"]


def test_the_pockets_own_files_are_measured(benchmark, monkeypatch, capsys):
    arguments = ["--supir", "pocket", "--sdxl", "pocket", "--size", "64", "--steps", "1", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["benchmark_supir.py", *arguments, "--memory", "full"])
    benchmark.main()
    assert "memory: full" in capsys.readouterr().out
