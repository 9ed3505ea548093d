"""The dream lab: sweeps over prompts, seeds, guidance, steps, checkpoints and drift, measured and ranked."""

from lightning_drift.lab.sweep import Sweep
from lightning_drift.lab.sweep_dreamer import SweepDreamer

__all__ = ["Sweep", "SweepDreamer"]
