"""The commands that are ended: their options, what goes on with them, and what they leave."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.campaign.compare import compare, partials

CONFIGS = Path(__file__).parents[2] / "configs"
RUN = "tb_logs/coffee/lr4e-5_000"
LAST_STEP = 6
CACHES = "tb_logs/."
"""What the names of caches begin with. What is there is not written again: what was killed while another run
wrote the same stays. It is counted, and no loss."""

_GRID = [
    "--seed_grid.num_inference_steps=3",
    "--seed_grid.groups={dream: {prompts: 'a tree, a moon', seeds: 0-1}, "
    "language: {prompts: [a desert, a forest], seeds: 0}}",
    "--clip_drift.text_every_n_steps=2",
    "--model.log_every_n_steps=1",
    "--step_checkpoint.last_every_n_steps=2",
]
FIT = [
    "fit",
    f"--trainer.max_steps={LAST_STEP}",
    "--step_checkpoint.steps=2,4",
    f"--seed_grid.steps=0,2,4,{LAST_STEP}",
    "--model.weight_change_every_n_steps=2",
    *_GRID,
]
CORRIDOR = ["corridor", "--lr=4e-5,8e-5", "--steps=2,4", "--devices=cpu,cpu", *_GRID]
SHORT = ["--model.num_inference_steps=3"]


@dataclass(frozen=True)
class Job:
    """A command of the campaign.

    Args:
        name: What the tables call it.
        argv: Its arguments; ``{inputs}`` is the folder of a finished fit and its dreams.
        place: What it makes, below the working folder.
        ignore: A regular expression for names that are not compared.
        prepare: Fills the working folder, from the reference's parent and the inputs.
        weight: Its share of the rounds.
    """

    name: str
    argv: tuple[str, ...]
    place: str
    ignore: str = r"(?!)"
    prepare: Callable[[Path, Path], None] | None = None
    weight: int = 1

    @property
    def command(self) -> str:
        """The command's first word."""
        return self.argv[0]

    def first(self, inputs: Path) -> list[str]:
        """The arguments of the unbroken run."""
        return [word.replace("{inputs}", str(inputs)) for word in self.argv]

    def next(self, inputs: Path, folder: Path) -> list[str]:
        """What goes on: a resume where a fit has a checkpoint, else the same command again."""
        run = newest_run(folder) if self.command == "fit" else None
        if run is not None and (run / "config.yaml").is_file() and any(run.glob("checkpoints/*.ckpt")):
            return ["fit", "-c", str((run / "config.yaml").relative_to(folder)), "--ckpt_path", "last"]
        return self.first(inputs)

    def losses(self, reference: Path, folder: Path) -> list[str]:
        """What the working folder lacks of the reference's results.

        Args:
            reference: The unbroken run's working folder.
            folder: The working folder; its last command has ended well, so nothing partial may lie in it.
        """
        left = [f"{name} was left behind" for name in partials(folder) if not name.startswith(CACHES)]
        if self.command == "fit":
            run = newest_run(folder)
            if run is None:
                return ["there is no run", *left]
            # A run without a checkpoint is never gone on with: it stays as it was left.
            others = [f"{path.relative_to(folder)}/" for path in run.parent.iterdir() if path != run]
            left = [line for line in left if not line.startswith(tuple(others))]
            return compare(reference / RUN, run, self.ignore) + left
        if not (folder / self.place).exists():
            return [f"{self.place} is missing", *left]
        return compare(reference / self.place, folder / self.place, self.ignore) + left


def newest_run(folder: Path) -> Path | None:
    """The run that a fit made last: its name ends in the highest number."""
    runs = sorted(path for path in (folder / "tb_logs" / "coffee").glob("*") if path.is_dir())
    return runs[-1] if runs else None


def _earlier_folder(folder: Path, reference: Path) -> None:
    shutil.copytree(reference / "export-diffusers-earlier" / "folder", folder / "folder")


def _earlier_file(folder: Path, reference: Path) -> None:
    shutil.copytree(reference / "export-safetensors-earlier" / "out", folder / "out")


_CHECKPOINT = "{inputs}/" + RUN + "/checkpoints/step=00004.ckpt"
_EXPORT = ("export", "--ckpt_path", _CHECKPOINT, "--to")
_EARLIER = ("export", "--ckpt_path", "{inputs}/" + RUN + "/checkpoints/step=00002.ckpt", "--title", "export")

JOBS = [
    Job("fit", tuple(FIT), RUN, weight=6),
    # The fits' logs tell times and progress, their locks are empty.
    Job(
        "corridor",
        tuple(CORRIDOR),
        "tb_logs/coffee/corridor",
        ignore=r".*\.(log|lock)|.*config\.resume.*",
        weight=3,
    ),
    Job(
        "predict",
        (
            "predict",
            "--model.pipeline",
            _CHECKPOINT,
            *SHORT,
            "--data.prompts=a tree, a moon",
            "--data.seeds=0-2",
        ),
        "dreams",
        weight=1,
    ),
    Job(
        "sweep",
        (
            *("predict", "-c", str(CONFIGS / "sweep.yaml"), "--data.checkpoints", _CHECKPOINT),
            *("--data.prompts=a tree, a moon", "--data.seeds=0-1", "--data.drift=0.5,1"),
            "--data.num_inference_steps=3",
        ),
        "sweep",
        weight=3,
    ),
    Job(
        "prints",
        (
            *("predict", "-c", str(CONFIGS / "supir_pocket.yaml"), "--data.images", "{inputs}/dreams"),
            *("--model.edm_steps=2", "--model.min_size=128", "--model.upscale=2"),
        ),
        "prints",
        weight=3,
    ),
    Job(
        "export-diffusers",
        (*_EXPORT, "folder", "--format", "diffusers", "--title", "export"),
        "folder",
        weight=1,
    ),
    Job("export-safetensors", (*_EXPORT, "out", "--title", "export"), "out", weight=1),
    Job("export-delta", (*_EXPORT, "out", "--format", "delta", "--measure", "false"), "out", weight=1),
    Job(
        "export-over-folder",
        (*_EXPORT, "folder", "--format", "diffusers", "--title", "export", "--overwrite"),
        "folder",
        prepare=_earlier_folder,
        weight=1,
    ),
    Job(
        "export-over-file",
        (*_EXPORT, "out", "--title", "export", "--overwrite"),
        "out",
        prepare=_earlier_file,
        weight=1,
    ),
]
EARLIER = {
    "export-diffusers-earlier": (*_EARLIER, "--to", "folder", "--format", "diffusers"),
    "export-safetensors-earlier": (*_EARLIER, "--to", "out"),
}
