"""SaveConfig: what a fit leaves behind so that it can be understood and resumed."""

import re
from pathlib import Path

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from lightning_drift.common.atomic import atomic_write
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.configuration import differences

# Set by the resume itself, not by a person.
_OF_THE_RESUME = re.compile(r"(.*\.)?(ckpt_path|dict_kwargs)")


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` and the photos as the model sees them into a new run's folder.

    A resumed run keeps its ``config.yaml`` and adds ``config.resume-<step>.yaml``, whose first lines say what
    changed.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: photos and base model are checked first."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration before training starts."""
        folder = trainer.log_dir
        if not trainer.is_global_zero or folder is None or trainer.logger is None:
            return
        path = Path(folder) / "config.yaml"
        text = self.parser.dump(self.config, skip_none=False)
        if path.exists():
            step = int(read_checkpoint(self.config.ckpt_path)["global_step"])
            changes = differences(
                yaml.safe_load(path.read_text(encoding="utf-8")), yaml.safe_load(text), _OF_THE_RESUME
            )
            header = f"# Resumed at step {step} from {self.config.ckpt_path}\n"
            options = [key.rpartition(".")[2] for key in changes]
            recipe: dict[str, tuple[object, object]] = getattr(pl_module, "resumed_changes", {})
            changes |= {key: change for key, change in recipe.items() if key not in options}
            lines = [f"# changed: {key}: {old} -> {new}\n" for key, (old, new) in changes.items()]
            text = header + "".join(lines) + text
            path = path.with_name(f"config.resume-{step:05d}.yaml")
        with atomic_write(path) as file:
            file.write(text.encode())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the contact sheet of the instance images."""
        write_sheet = getattr(trainer.datamodule, "write_contact_sheet", None)  # type: ignore[attr-defined]
        folder = trainer.log_dir  # asks all ranks
        if write_sheet is not None and trainer.is_global_zero and folder and trainer.logger is not None:
            write_sheet(Path(folder) / "instance_images.png")
