"""``python -m lightning_drift``."""

from lightning_drift.cli import own_process

own_process()
