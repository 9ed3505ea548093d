"""What a command line and its configurations give: the corridor's own options, and those of its fits."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_drift.assets import DEFAULTS
from lightning_drift.common import ends
from lightning_drift.common.errors import UserError
from lightning_drift.common.files import user_path
from lightning_drift.common.numbers import shown
from lightning_drift.common.yaml_files import read_yaml

# Decided by the corridor, fit by fit.
_TAKEN = {
    "model.learning_rate": "--lr",
    "model.init_args.learning_rate": "--lr",
    "trainer.max_steps": "--steps",
    "step_checkpoint.steps": "--steps",
    "seed_grid.steps": "--steps",
    "clip_drift.steps": "--steps",
    "ckpt_path": None,
}


def own_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell the corridor's own options from those of the fits.

    Raises:
        UserError: An option is the corridor's to set.
    """
    own: list[str] = []
    fit: list[str] = []
    words = iter(argv)
    for word in words:
        option, has_value, _ = word.partition("=")
        if option == "--dry_run":
            own.append(word)
            continue
        if option in (
            "--lr",
            "--steps",
            "--seeds",
            "--devices",
            "--name",
            "--search",
            "--card",
            "--launcher",
        ) or (option.startswith("--launcher.")):
            own += [word] if has_value else [word, *([value] if (value := next(words, None)) else [])]
            continue
        if option.removeprefix("--") in _TAKEN and option.startswith("--"):
            instead = _TAKEN[option.removeprefix("--")]
            hint = f"use {instead}" if instead else "it resumes by itself"
            raise UserError(f"the corridor sets this for each fit; {hint}", option)
        fit.append(word)
    return own, fit


def read_configs(words: list[str], scratch: Path) -> tuple[list[str], dict[str, Any]]:
    """Take the ``corridor`` sections out of the configurations and put the recipes they name ahead of them.

    Without any configuration the packaged corridor of the pocket model is used.

    Returns:
        The fits' options and the sections, joined.

    Raises:
        UserError: A file is missing, or a section is not one.
    """
    places = [i for i, word in enumerate(words) if word.partition("=")[0] in ("-c", "--config")]
    if not places:
        words, places = ["-c", str(DEFAULTS / "corridor.yaml"), *words], [0]
    fit: list[str] = []
    recipe: dict[str, Any] = {}
    skip = False
    for i, word in enumerate(words):
        if skip:
            skip = False
            continue
        if i not in places:
            fit.append(word)
            continue
        _, has_value, value = word.partition("=")
        if not has_value:
            value, skip = (words[i + 1] if i + 1 < len(words) else ""), True
        path = user_path(value, "-c")
        config = read_yaml(path, "configuration", "-c")
        if not isinstance(config, dict) or "corridor" not in config:
            fit += ["-c", value]  # fit says what is wrong with it
            continue
        section = config.pop("corridor")
        options = {"lr", "steps", "seeds", "devices", "name", "search", "launcher", "recipe"}
        if not isinstance(section, dict) or set(section) - options:
            raise UserError(f"{path}: corridor: give a section of {', '.join(sorted(options))}")
        recipe |= section
        if "recipe" in section:
            named = section["recipe"]
            if not isinstance(named, str):
                raise UserError(f"{shown(named)} in {path} is no file's name", "corridor.recipe")
            fit += ["-c", str(path.parent / user_path(named, "corridor.recipe"))]
        rest = scratch / f"{i}.yaml"
        rest.write_text(yaml.safe_dump(config), encoding="utf-8")
        fit += ["-c", str(rest)] if config else []
    return fit, recipe


def fit_config(words: list[str]) -> dict[str, Any]:
    """What ``fit`` makes of its options, checked before anything runs.

    Raises:
        UserError: It refuses them.
    """
    command = [sys.executable, "-m", "lightning_drift", "fit", *words, "--print_config"]
    result = subprocess.run(command, capture_output=True, text=True)
    if stopped := ends.signal_of(result.returncode):
        raise UserError(f"whoever read the options of the fits was stopped by {stopped}; start it again")
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        sentences = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raise UserError(sentences[-1] if sentences else lines[-1] if lines else "fit refuses its options")
    return dict(yaml.safe_load(result.stdout))
