"""The parser of ``fit``, ``validate`` and ``predict``, which reports in sentences."""

import difflib
import json
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from jsonargparse.typing import Path as ParsedPath
from lightning.pytorch.cli import LightningArgumentParser

from lightning_drift import (
    DreamBooth,
    Dreamer,
    InstanceImages,
    OpenUpscaler,
    Prompts,
    Proofs,
    SupirUpscaler,
    Sweep,
    SweepDreamer,
    UpscaleImages,
)
from lightning_drift.common.command_line import Text, TextOption, TextParser, mark_texts, text_options
from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_text, user_path
from lightning_drift.common.numbers import shown
from lightning_drift.common.prompt_lists import check_text
from lightning_drift.common.text import listed
from lightning_drift.common.yaml_files import parse_yaml, read_yaml
from lightning_drift.drift.clip_drift import ClipDrift
from lightning_drift.drift.threshold_file import read_thresholds
from lightning_drift.fit.checkpointing import StepCheckpoint
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.images.image_writer import ImageWriter

_SECTIONS = {
    "model": (DreamBooth, Dreamer, SweepDreamer, SupirUpscaler, OpenUpscaler),
    "data": (InstanceImages, Prompts, Proofs, Sweep, UpscaleImages),
    "step_checkpoint": (StepCheckpoint,),
    "seed_grid": (SeedGrid,),
    "clip_drift": (ClipDrift,),
    "image_writer": (ImageWriter,),
}
_OTHERS = {
    "ckpt_path": TextOption(none=True),
    "trainer.default_root_dir": TextOption(none=True),
    "trainer.logger.save_dir": TextOption(),
    "trainer.logger.name": TextOption(none=True),
}
# Values by name: texts of slots, of groups and of further products.
_NESTED = re.compile(
    r"data\.slots\..+|data\.prompts\..+|data\.also\..+\.prompts|seed_grid\.groups\..+\.prompts"
)

OF_THE_PLAN = ("dry_run", "card")
"""Options that ask what a command would do."""

THRESHOLDS = "clip_drift.thresholds"
"""May be the name of a file that holds them, on a command line and in a configuration."""

_FILES = {
    *_SECTIONS,
    "trainer",
    *(f"trainer.{name}" for name in ("logger", "callbacks", "plugins", "strategy", "profiler")),
}
"""What a file may hold that is named in its place."""

_NAMED_CLASSES = ("model", "data")
"""Sections that name a class, whose options depend on it."""


@cache
def _text_options() -> dict[str, TextOption]:
    found = dict(_OTHERS)
    for section, classes in _SECTIONS.items():
        for each in classes:
            for name, option in text_options(each).items():
                other = found.get(f"{section}.{name}", option)
                found[f"{section}.{name}"] = TextOption(
                    option.none and other.none, option.lists or other.lists, option.mappings or other.mappings
                )
    return found


def _with_thresholds(words: Sequence[str]) -> list[str]:
    """A command line with what a file of thresholds holds in its place."""
    found: list[str] = []
    for word in words:
        name, has_value, value = word.partition("=")
        if name == f"--{THRESHOLDS}" and has_value:
            found += [name, value]
        else:
            found.append(word)
    for place, word in enumerate(found[1:], 1):
        if found[place - 1] == f"--{THRESHOLDS}" and word[:1] not in ("{", "-"):
            found[place] = json.dumps(read_thresholds(user_path(word, THRESHOLDS)))
    return found


_PATHS = (
    "ckpt_path",
    "trainer.default_root_dir",
    "trainer.logger.init_args.save_dir",
    "step_checkpoint.dirpath",
    "image_writer.output_dir",
    "clip_drift.clip",
    "clip_drift.image_model",
    "clip_drift.cache_dir",
    *(f"model.init_args.{name}" for name in ("pipeline", "base", "supir", "sdxl", "upscaler")),
    *(
        f"data.init_args.{name}"
        for name in (
            "instance_dir",
            "held_out",
            "cache_dir",
            "images",
            "checkpoints",
            "base",
            "clip",
            "photos",
        )
    ),
)


def expand_paths(config: Namespace) -> None:
    """Put home folders in place of ``~`` in every path, so that one text means one place everywhere.

    Raises:
        UserError: A path holds what none can, or is not UTF-8.
    """
    for key in _PATHS:
        value = config.get(key)
        if isinstance(value, list):
            config[key] = [_expanded(item, key) for item in value]
        elif isinstance(value, str):
            config[key] = _expanded(value, key)


def _expanded(value: Any, key: str) -> Any:
    if not isinstance(value, str):
        return value
    option = key.replace(".init_args.", ".")
    check_text(value, option)  # a run's records are UTF-8, and name its folders
    return Text(user_path(value, option)) if value.startswith("~") or "\0" in value else value


def find_text_option(name: str) -> TextOption | None:
    """What an option of ``fit``, ``validate`` or ``predict`` takes, if it is one for text."""
    name = name.replace(".init_args.", ".")
    if _NESTED.fullmatch(name):
        return TextOption(lists=True)
    return _text_options().get(name)


class SentenceParser(TextParser, LightningArgumentParser):
    """Reads texts as written, and reports a bad option in a sentence instead of the usage of two hundred."""

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """Parse a command line; the values of options for text are not read as YAML.

        Raises:
            UserError: An option is refused, or a file of thresholds.
        """
        words = None if args is None else mark_texts(_with_thresholds(args), find_text_option)
        return super().parse_args(words, *rest, **kwargs)

    def dump(self, cfg: Namespace, *args: Any, **kwargs: Any) -> str:
        """A configuration as text, without what only asks for a plan: other commands take it too."""
        kept = cfg.clone()
        for option in OF_THE_PLAN:
            kept.pop(option, None)
        text: str = super().dump(kept, *args, **kwargs)
        return text

    def check_value(self, name: str, value: str) -> None:
        """Look into the file too that a section's value names.

        Raises:
            UserError: It cannot be read, or is no YAML.
        """
        super().check_value(name, value)
        if name in _FILES and os.path.isfile(value):
            read_yaml(Path(value), "configuration", name)

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """Parse a configuration: UTF-8, whatever the system's locale, and a regular file.

        Raises:
            UserError: It is none.
        """
        text = read_text(user_path(path, "-c"), "configuration", "-c")
        with ParsedPath(path, mode="fr").relative_path_context():
            return self.parse_string(text, path, *args, **kwargs)

    def parse_string(
        self, content: str, path: str | os.PathLike[str] = "", *args: Any, **kwargs: Any
    ) -> Namespace:
        """Parse a configuration's text.

        Raises:
            UserError: A section holds no options, or one that there is not.
        """
        config = parse_yaml(content)
        section = config.get("clip_drift") if isinstance(config, dict) else None
        if isinstance(section, dict) and isinstance(file := section.get("thresholds"), str):
            section["thresholds"] = read_thresholds(user_path(file, THRESHOLDS))
            content = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        self._check_sections(config, os.fspath(path))
        parsed: Namespace = super().parse_string(content, os.path.basename(path), *args, **kwargs)
        return parsed

    def _check_sections(self, config: Any, path: str) -> None:
        """Jsonargparse passes over a section that is a list or a number."""
        place = f" in {path}" if path else ""
        names = {action.dest for action in self._actions}
        for section, content in config.items() if isinstance(config, dict) else ():
            inner = {name for name in names if name.startswith(f"{section}.")}
            if section in _NAMED_CLASSES:
                if isinstance(content, dict) and not isinstance(content.get("init_args", {}), dict):
                    raise UserError(f"init_args holds no options by name{place}", section)
            elif not inner:
                self._check_known(str(section), names, "", place)
            elif not isinstance(content, dict):
                raise UserError(f"{shown(content)} holds no options by name{place}", section)
            else:
                for name in content:
                    self._check_known(f"{section}.{name}", inner, section, place)

    def _check_known(self, name: str, names: set[str], section: str, place: str) -> None:
        if name not in names and not any(known.startswith(f"{name}.") for known in names):
            own = sorted({known.removeprefix(f"{section}.").partition(".")[0] for known in names})
            near = difflib.get_close_matches(name.removeprefix(f"{section}."), own, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {listed(own)}"
            raise UserError(f"there is no such option{place}{hint}", name)
