"""The recipe of a corridor's fits: the options that matter, and the photos."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from lightning_drift.assets import PHOTOS
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import user_path
from lightning_drift.corridor.table import CorridorTable
from lightning_drift.drift.verdict import Thresholds, provenance
from lightning_drift.images.decode import UndecodableError, decode
from lightning_drift.pages.thumbnails import data_uri
from lightning_drift.photos.folder import find_folder, find_pictures
from lightning_drift.photos.held_out import chosen

MOST_PHOTOS = 24
"""Photos that a page shows."""
_PHOTO_SIDE, _SHEET_SIDE = 320, 1200


@dataclass(frozen=True)
class Photos:
    """The photos of a fit as a page shows them.

    Attributes:
        squares: Data URIs of the first photos, cropped, by file name.
        count: How many photos there are.
        held_out: Names of those that were never trained on.
        sheet: The data URI of the sheet that the fit made of all photos, where they themselves are gone.
    """

    squares: Mapping[str, str]
    count: int
    sheet: str | None = None
    held_out: Collection[str] = ()


def options(table: CorridorTable) -> dict[str, str]:
    """The fits' options by name, as text; those without a value are left out."""
    config = table.runs[0].config
    model, data = _arguments(config, "model"), _arguments(config, "data")
    trainer, grid = config.get("trainer") or {}, config.get("seed_grid") or {}
    drift = config.get("clip_drift") or {}
    rates = dict.fromkeys(run.label for run in table.runs)
    seeds = dict.fromkeys(str(run.seed) for run in table.runs if run.seed is not None)
    rows = {
        "base model": model.get("pipeline"),
        "instance prompt": model.get("instance_prompt"),
        "learning rates": f"{', '.join(rates)}, constant",
        "steps": ", ".join(map(str, table.steps)),
        "text encoder": _text_encoder(model),
        "optimizer": str(model.get("optimizer") or "").rpartition(".")[2],
        "held-out photos": data.get("held_out") or "none",
        "batch": _batch(data, trainer),
        "resolution": data.get("resolution") or "the model's own",
        "precision": trainer.get("precision"),
        "gradient clipping": trainer.get("gradient_clip_val") or "none",
        "latents": model.get("latents"),
        "padding": model.get("pad_tokens"),
        "prior preservation": "none",
        "seeds" if len(seeds) > 1 else "seed": ", ".join(seeds),
        "guidance": grid.get("guidance_scale"),
        "DDIM steps": grid.get("num_inference_steps"),
        "measured by": drift.get("clip"),
        "pictures compared by": drift.get("image_model"),
    }
    return {name: str(value) for name, value in rows.items() if value not in (None, "")}


def provenance_of(table: CorridorTable) -> str:
    """Where the thresholds of the verdicts come from, as the runs recorded them."""
    found: dict[str, None] = {}
    for run in table.runs:
        recorded = (run.config.get("clip_drift") or {}).get("thresholds")
        try:
            thresholds = Thresholds(**recorded) if isinstance(recorded, dict) else Thresholds()
            found[provenance(thresholds)] = None
        except (UserError, TypeError):
            found[f"those of {run.name} are damaged in its record"] = None
    return "; ".join(found)


def instance_prompt(table: CorridorTable) -> str:
    """What the photos were trained as."""
    return str(_arguments(table.runs[0].config, "model").get("instance_prompt") or "")


def photos(table: CorridorTable) -> Photos | None:
    """The photos where the fits found them, or else the sheet that a fit made of them.

    A corridor that is not one's own names any folder: of its photos only those are shown that lie inside the
    corridor's folder, or come with the package.
    """
    config = table.runs[0].config
    data = _arguments(config, "data")
    folder, held_out = data.get("instance_dir"), []
    try:
        paths = find_pictures(_shown_folder(table, str(folder))) if folder else []
        held_out = _held_out([path.name for path in paths], data, config.get("seed_everything"))
        paths = [path for path in paths if table.holds(path) or path.is_relative_to(PHOTOS)]
        squares = {
            path.name: data_uri(
                ImageOps.fit(decode(path).image, (_PHOTO_SIDE, _PHOTO_SIDE), Image.Resampling.LANCZOS),
                _PHOTO_SIDE,
            )
            for path in paths[:MOST_PHOTOS]
        }
    except (UserError, UndecodableError):
        squares = {}
    if squares:
        return Photos(squares, len(paths), held_out=held_out)
    for run in table.runs:
        sheet = run.folder / "instance_images.png"
        if sheet.is_file() and table.holds(sheet):
            try:
                return Photos({}, 0, data_uri(decode(sheet).image, _SHEET_SIDE))
            except UndecodableError as error:
                notice(f"{sheet} {error}; the page is without it")
    return None


def _shown_folder(table: CorridorTable, name: str) -> Path:
    """The folder of the photos: a bundled set, one's own, or one inside a corridor of somebody else.

    Raises:
        UserError: There is none that may be shown.
    """
    if table.own or name in {path.name for path in PHOTOS.iterdir()}:
        return find_folder(name)
    folder = user_path(name)
    if not table.holds(folder):
        raise UserError(f"{folder} lies outside {table.folder}")
    return folder


def _held_out(names: Sequence[str], data: Mapping[str, Any], seed: Any) -> list[str]:
    """Which photos of a folder a fit held out, by its configuration; none where it says nothing usable."""
    number = data.get("held_out")
    if not isinstance(number, int) or not isinstance(seed, int) or not 0 < number < len(names):
        return []
    return [names[index] for index in chosen(names, number, seed)]


def _arguments(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    return (config.get(part) or {}).get("init_args") or {}


def _text_encoder(model: Mapping[str, Any]) -> str:
    if not model.get("train_text_encoder"):
        return "frozen"
    steps = model.get("train_text_encoder_steps")
    return "trained" if steps is None else f"trained for {steps} steps"


def _batch(data: Mapping[str, Any], trainer: Mapping[str, Any]) -> str:
    size, accumulate = data.get("batch_size", 1), trainer.get("accumulate_grad_batches") or 1
    return f"{size}" if accumulate == 1 else f"{size} × {accumulate} accumulated"
