"""The networks that a fit measures with, before they are loaded: what they take, and which are missing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning_drift.common.files import user_path
from lightning_drift.drift.default_clip import DINO_B_CONFIG, VIT_L, VIT_L_CONFIG, VIT_L_WEIGHTS
from lightning_drift.drift.measures.frozen_clip import TOGETHER, FrozenClip, FrozenEye, rehearse_clip
from lightning_drift.drift.measures.network_files import is_here, refuse_missing
from lightning_drift.forecast.rehearsal import Phase


@dataclass(frozen=True)
class _Judge:
    """A network by the option that names it.

    Attributes:
        option: The option.
        name: Its value.
        called: What a plan calls it.
        kind: Its class.
        unknown: The config to take for one that is not here yet.
    """

    option: str
    name: str
    called: str
    kind: type[FrozenEye]
    unknown: dict[str, Any]

    @property
    def is_local(self) -> bool:
        """Whether it is a folder: one of the hub may be out of reach, a folder is there or named wrongly."""
        return not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", self.name) or user_path(self.name).exists()


class Judges:
    """The CLIP and the network of pictures, as far as they are asked for.

    Args:
        clip: ``clip_drift.clip``.
        image_model: ``clip_drift.image_model``.
    """

    def __init__(self, clip: str | None, image_model: str | None) -> None:
        self._all: list[_Judge] = []
        if clip is not None:
            self._all.append(_Judge("clip_drift.clip", clip, "CLIP", FrozenClip, VIT_L_CONFIG))
        if image_model is not None:
            option = "clip_drift.image_model"
            self._all.append(_Judge(option, image_model, "image model", FrozenEye, DINO_B_CONFIG))

    def phases(self, pictures: int) -> list[Phase]:
        """What they take of the memory, for a rehearsal.

        Args:
            pictures: How many are embedded at a milestone.
        """
        return [
            Phase(judge.called, partial(_embed, judge), moves=True, times=pictures / TOGETHER)
            for judge in self._all
        ]

    def to_fetch(self) -> dict[str, int | None]:
        """Those that are to be downloaded, with their bytes where they are known; reaches no hub."""
        missing = [judge.name for judge in self._all if not is_here(judge.name)]
        return {name: 4 * VIT_L_WEIGHTS if name == VIT_L else None for name in missing}

    def refuse_missing(self) -> None:
        """Refuse a folder that is not there.

        Raises:
            UserError: It is not.
        """
        for judge in self._all:
            if judge.is_local:
                refuse_missing(judge.name, judge.option)

    def is_local(self, option: str) -> bool:
        """Whether an option names a folder."""
        return any(judge.is_local for judge in self._all if judge.option == option)


def _embed(judge: _Judge, *_: Any) -> None:
    rehearse_clip(judge.name, judge.unknown, TOGETHER, judge.kind)
