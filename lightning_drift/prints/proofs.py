"""Proofs: a part of each print at several settings of its sampling, before the whole is made."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning_drift.common.errors import UserError
from lightning_drift.common.number_lists import decimals
from lightning_drift.common.numbers import real, whole
from lightning_drift.prints.detail import Detail
from lightning_drift.prints.images import UpscaleImages, UpscaleRequest
from lightning_drift.prints.proof_sheets import MOST_CELLS
from lightning_drift.supir.options import RANGES

LEAST_SIDE = 32
MOST_SIDE = 8192


class Proofs(UpscaleImages):
    """A part of each picture, made at every `control_scale` with every `s_cfg`, from the same noise.

    Its size and place are those of the print that the other options ask for, paper and passes included; of
    earlier passes only what lies around it is made. Captions are those of whole pictures. A labelled sheet of
    each picture lies beside its parts at the end, and ``proof.html`` has the command that prints one in full.

    Args:
        images: A folder of images, one image, or a list of both.
        control_scale: How closely the picture's own structure is followed: numbers from 0 to 1. The
            recipe's is 0.9; SUPIR's own presets take 1; at 0.6 the model is plainly freer.
        s_cfg: Guidance scales at the end of sampling, 0 to 30: the recipe's 3, half of it and twice.
        steps: Sampler steps, 2 to 999; null for the model's. Few show where a setting leads.
        side: Side of the part in pixels of the print, 32 to 8192; null for the model's `min_size`, which is
            the least that it processes.
        at: Where the part's centre is, ``x,y`` from ``0,0`` (left, top) to ``1,1``; null for where the
            picture has most detail.
        options: Those of `UpscaleImages`.
    """

    def __init__(
        self,
        images: str | list[str],
        control_scale: float | str | list[float] = "0.6,0.9,1",
        s_cfg: float | str | list[float] = "1.5,3,6",
        steps: int | None = 10,
        side: int | None = None,
        at: str | list[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(images, **options)
        self.control_scale = _scales(control_scale, "control_scale")
        self.s_cfg = _scales(s_cfg, "s_cfg")
        if (count := len(self.control_scale) * len(self.s_cfg)) > MOST_CELLS:
            raise UserError(
                f"gives {count:,} cells of a sheet, more than {MOST_CELLS}; shorten the lists",
                "data.control_scale",
            )
        if steps is not None:
            whole(steps, "data.steps", int(RANGES["edm_steps"][0]), int(RANGES["edm_steps"][1]))
        if side is not None:
            whole(side, "data.side", LEAST_SIDE, MOST_SIDE)
        place = _place(at)
        self.prints = self.requests
        self.requests = [
            cell
            for request in self.prints
            for cell in self._cells(replace(request, tile_captions=()), Detail(side, place), steps)
        ]

    def _cells(self, request: UpscaleRequest, detail: Detail, steps: int | None) -> list[UpscaleRequest]:
        more = () if steps is None else (("steps", steps),)
        return [
            replace(
                request,
                name=f"{request.name}_control{control:g}_cfg{scale:g}",
                detail=detail,
                changes=(("control_scale", control), ("s_cfg", scale), *more),
            )
            for control in self.control_scale
            for scale in self.s_cfg
        ]

    @property
    def sheets(self) -> list[tuple[UpscaleRequest, list[UpscaleRequest]]]:
        """Each print with the cells of its sheet, row by row."""
        count = len(self.control_scale) * len(self.s_cfg)
        return [
            (request, self.requests[k * count : (k + 1) * count]) for k, request in enumerate(self.prints)
        ]

    @property
    def follows(self) -> str:
        """What the command without ``share`` writes, in words."""
        return "the sheets and the proof page" if self.page else "the sheets"

    def setup(self, stage: str) -> None:
        """Refuse a module without these settings, before anything is loaded.

        Raises:
            UserError: The module samples nothing.
        """
        if self.trainer is not None and not hasattr(self.trainer.lightning_module, "sampling"):
            raise UserError(
                "Proofs vary control_scale and s_cfg, which lightning_drift.SupirUpscaler alone has", "data"
            )


def _scales(given: float | str | Sequence[float], name: str) -> list[float]:
    numbers = decimals(given, f"data.{name}")
    for number in numbers:
        real(number, f"data.{name}", *RANGES[name])
    return numbers


def _place(at: str | Sequence[float] | None) -> tuple[float, float] | None:
    if at is None:
        return None
    try:
        across, down = at.split(",") if isinstance(at, str) else at
        place = float(across), float(down)
    except (TypeError, ValueError):
        raise UserError(f"{at!r} is not a place; write it as 0.5,0.3", "data.at") from None
    for number in place:
        real(number, "data.at", 0, 1)
    return place
