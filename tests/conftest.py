import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests run: several run side by side
# Without an NVIDIA GPU kernels run in Triton's interpreter, which Triton must know before it is imported.
os.environ["TRITON_INTERPRET"] = str(int(not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg")))))

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import DATA
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from lightning_drift.fit.checkpointing import AtomicCheckpointIO

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
torch.set_num_threads(1)


@pytest.fixture
def tiny_sd() -> str:
    """A random Stable Diffusion pipeline: 64 px, 8x8 latents, about a million weights."""
    return str(DATA / "tiny_sd")


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """A Trainer with the settings of a fit, on the CPU and silent."""

    def make(**settings: Any) -> Trainer:
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": -1,
            "gradient_clip_val": 1.0,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "logger": False,
            "enable_checkpointing": any(isinstance(c, Checkpoint) for c in settings.get("callbacks", [])),
            "default_root_dir": tmp_path,
            "plugins": [AtomicCheckpointIO()],
        }
        return Trainer(**(defaults | settings))

    return make
