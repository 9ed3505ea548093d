"""The fit command as a process of its own, and what it leaves in its run folder."""

import os
import subprocess
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

STEPS = 24


OPTIONS = [
    "--model.optimizer=bitsandbytes.optim.AdamW8bit",
    "--model.learning_rate=1e-4",
    "--model.log_every_n_steps=1",
    "--model.weight_change_every_n_steps=6",
    f"--trainer.max_steps={STEPS}",
    "--step_checkpoint.steps=8,16",
    "--step_checkpoint.last_every_n_steps=1",
    f"--seed_grid.steps=0,7,16,{STEPS}",
    "--seed_grid.num_inference_steps=2",
    "--seed_grid.groups={dream: {prompts: 'a tree, a moon', seeds: 0-1}, "
    "language: {prompts: [a desert, a forest], seeds: 0-1}}",
    "--clip_drift.text_every_n_steps=5",
]


started: list[subprocess.Popen[bytes]] = []


def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lightning_drift", "fit", *options]
    with open(folder / "log.txt", "ab") as log:
        started.append(
            subprocess.Popen(
                command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log
            )
        )
    return started[-1]


def finish(process: subprocess.Popen[bytes], folder: Path) -> None:
    assert process.wait(timeout=300) == 0, (folder / "log.txt").read_text()[-3000:]


def run_folder(folder: Path) -> Path:
    (found,) = (folder / "tb_logs" / "coffee").iterdir()
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
