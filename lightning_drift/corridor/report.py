"""The page: one HTML file that needs nothing else, and a contact sheet beside it."""

import json
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageOps

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError
from lightning_drift.corridor.choice import Choice, choose
from lightning_drift.corridor.curves import figures, labels, legend
from lightning_drift.corridor.overview import overview
from lightning_drift.corridor.read import CorridorCell, CorridorTable, RecordedRun, read
from lightning_drift.drift.verdict import PROVENANCE
from lightning_drift.images.decode import UndecodableError, decode
from lightning_drift.pages.thumbnails import PIXEL_ART, Thumbnails, data_uri
from lightning_drift.photos.folder import find_folder, find_pictures

MOST_PHOTOS = 24


def write_report(folder: Path, page: Path) -> None:
    """Write the page about the runs in a folder and the contact sheet beside it.

    Args:
        folder: A corridor's folder, a folder of several runs, or one run's.
        page: The HTML file; the sheet is the same name in ``.png``.

    Raises:
        UserError: There is no run in the folder.
        OSError: A file cannot be written.
    """
    table = read(folder)
    choice = choose(table)
    text = render(table, choice)
    with atomic_write(page) as file:
        file.write(text.encode())
    with atomic_write(page.with_suffix(".png")) as file:
        overview(table).save(file, format="PNG")


def render(table: CorridorTable, choice: Choice) -> str:
    """The page as text, with every picture inside it."""
    pictures = _all_pictures(table)
    thumbnails = Thumbnails(path for path in pictures.values() if path is not None)
    prompts = _prompts(table)
    names = labels(table)
    steps = [0, *table.steps]

    def indices(run: RecordedRun, step: int) -> list[list[int]]:
        found = [[pictures.get((run.name, step, p, s)) for s in seeds] for p, seeds in prompts.items()]
        return [[thumbnails.add(path) if path else -1 for path in row] for row in found]

    cells = [
        [_facts(_cell(table, run, step)) | {"pictures": indices(run, step)} for step in steps]
        for run in table.runs
    ]
    data = {
        "runs": [{"name": run.name, "label": name} for run, name in zip(table.runs, names, strict=True)],
        "steps": steps,
        "prompts": [{"text": prompt, "seeds": seeds} for prompt, seeds in prompts.items()],
        "cells": cells,
        "pictures": thumbnails.uris,
        "start": _start(table, choice),
    }
    config = table.runs[0].config
    small = any(_longest(path) <= PIXEL_ART for path in list(filter(None, pictures.values()))[:1])
    parts = {
        "title": escape(table.title),
        "eyebrow": escape(_eyebrow(table)),
        "lead": escape(_lead(table, choice, names)),
        "map": _map(table, choice, names, cells, thumbnails.uris),
        "choice": _choice(choice),
        "curves": _curves(table),
        "photos": _photos(table),
        "recipe": _recipe(table, config),
        "footer": _footer(table, prompts),
        "body_class": "small-pictures" if small else "",
        # "</script>" in a prompt must not end the data
        "data": json.dumps(data, ensure_ascii=False).replace("</", "<\\/"),
        "css": _asset("page.css"),
        "script": _asset("page.js"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html"))


def _asset(name: str) -> str:
    return (files("lightning_drift.corridor") / name).read_text(encoding="utf-8").strip()


def _prompts(table: CorridorTable) -> dict[str, list[int]]:
    """All prompts and seeds of all runs."""
    joined: dict[str, list[int]] = {}
    for run in table.runs:
        for prompt, seeds in run.prompts.items():
            joined[prompt] = sorted({*joined.get(prompt, []), *seeds})
    return joined


def _all_pictures(table: CorridorTable) -> dict[tuple[str, int, str, int], Path | None]:
    """Every picture by run, step, prompt and seed; the base model's serve runs that lack their own."""
    found = {
        (run.name, step, prompt, seed): run.picture(step, prompt, seed)
        for run in table.runs
        for step in (0, *table.steps)
        for prompt, seeds in run.prompts.items()
        for seed in seeds
    }
    for (name, step, prompt, seed), path in list(found.items()):
        if step == 0 and path is None:
            others = (found.get((run.name, 0, prompt, seed)) for run in table.runs)
            found[name, 0, prompt, seed] = next((other for other in others if other), None)
    return found


def _longest(path: Path) -> int:
    with Image.open(path) as image:
        return max(image.size)


def _cell(table: CorridorTable, run: RecordedRun, step: int) -> CorridorCell:
    return table.cells[run.name, step] if step else CorridorCell(run.name, 0, "base", verdict=_BASE)


_BASE = "The untouched model, from the same seeds. Everything else on this page is compared with it."


def _facts(cell: CorridorCell) -> dict[str, Any]:
    said = cell.verdict
    if cell.zone:  # the first sentence repeats what is shown above it
        said = re.sub(r"^\*\*[^*]+\*\*( \(borderline [^)]*\))?(, \d+ of 100)?\.\s*", "", said)
    facts = {"state": cell.state, "zone": cell.zone, "borderline": cell.borderline, "position": cell.position}
    return facts | {"said": said}


def _start(table: CorridorTable, choice: Choice) -> list[int]:
    """The cell that the page opens with: the chosen one, or else the farthest that has pictures."""
    cell = choice.cell or next(
        (c for c in reversed(table.cells.values()) if c.state in ("measured", "not measured")), None
    )
    if cell is None:
        return [0, 0]
    return [[run.name for run in table.runs].index(cell.run), table.steps.index(cell.step) + 1]


def _eyebrow(table: CorridorTable) -> str:
    rates, steps = len(table.runs), len(table.steps)
    return f"Corridor, {rates} learning rate{'s' * (rates != 1)} × {steps} milestone{'s' * (steps != 1)}"


def _lead(table: CorridorTable, choice: Choice, names: list[str]) -> str:
    states = [cell.state for cell in table.cells.values()]
    missing = []
    if count := states.count("failed"):
        missing.append(f"{count} failed")
    if count := states.count("not run"):
        missing.append(f"{count} {'has' if count == 1 else 'have'} not run yet")
    rest = f" Of {len(states)} cells, {' and '.join(missing)}." if missing else ""
    if choice.cell is None:
        return choice.sentence + rest
    label = names[[run.name for run in table.runs].index(choice.cell.run)]
    border = f", on the border of {choice.cell.borderline}" if choice.cell.borderline else ""
    where = f"{re.sub('^lr ', 'learning rate ', label)} and {choice.cell.step} steps"
    return f"At {where} the model dreams{border}: {choice.cell.position:.0f} of 100.{rest}"


# -- the map ------------------------------------------------------------------------------------------------


def _map(
    table: CorridorTable, choice: Choice, names: list[str], cells: list[list[dict[str, Any]]], uris: list[str]
) -> str:
    head = "".join(f'<th scope="col">{step}</th>' for step in table.steps)
    rows = []
    for r, (_run, name) in enumerate(zip(table.runs, names, strict=True)):
        columns = [f'<th scope="row">{escape(name.removeprefix("lr "))}</th>']
        if r == 0:
            label = '<span class="label plain">base</span>'
            inner = _print(cells[r][0], uris) + label
            columns.append(
                f'<td class="base" rowspan="{len(names)}"><button type="button" data-step="0" '
                f'aria-pressed="false" aria-label="base model">{inner}</button></td>'
            )
        for s, step in enumerate(table.steps, start=1):
            columns.append(
                f"<td>{_tile(cells[r][s], r, s, name, step, _is(choice, table, r, step), uris)}</td>"
            )
        rows.append(f"<tr>{''.join(columns)}</tr>")
    return (
        f'<div class="scroll"><table class="map" style="--columns: {len(table.steps) + 1}">'
        '<caption class="skip">Verdicts by learning rate and steps</caption>'
        '<thead><tr><th class="corner"><span class="skip">learning rate</span></th><th scope="col">0</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _is(choice: Choice, table: CorridorTable, run: int, step: int) -> bool:
    cell = choice.cell
    return cell is not None and (cell.run, cell.step) == (table.runs[run].name, step)


def _tile(cell: dict[str, Any], r: int, s: int, name: str, step: int, chosen: bool, uris: list[str]) -> str:
    zone, border, position = cell["zone"], cell["borderline"], cell["position"]
    classes = [zone or "no-zone"] + ([f"border to-{border}"] if border else [])
    told = f"{name}, {step} steps: {zone or cell['state']}"
    if zone:
        notes = [] if position is None else [f"{position:.0f}"]
        notes += [f"near {border}"] if border else []
        below = f"<small>{', '.join(notes)}</small>" if notes else ""
        label = f'<span class="label">{zone}{below}</span>'
        told += (f", borderline {border}" if border else "") + (
            f", {position:.0f} of 100" if position is not None else ""
        )
    else:
        label = f'<span class="label plain">{cell["state"]}</span>'
    star = '<span class="star">chosen</span>' if chosen else ""
    told += ", the chosen checkpoint" if chosen else ""
    return (
        f'<button type="button" class="{" ".join(classes)}" data-run="{r}" data-step="{s}" '
        f'aria-pressed="false" aria-label="{escape(told, quote=True)}">'
        f"{_print(cell, uris)}{label}{star}</button>"
    )


def _print(cell: dict[str, Any], uris: list[str]) -> str:
    """A cell's first picture."""
    first = next((index for row in cell["pictures"] for index in row if index >= 0), None)
    if first is None:
        return '<span class="print empty"></span>'
    return f'<span class="print px"><img src="{uris[first]}" alt=""></span>'


# -- below the pictures -------------------------------------------------------------------------------------


def _choice(choice: Choice) -> str:
    html = f'<p class="sentence">{escape(choice.sentence)}</p>'
    for name, command in (("export", choice.export), ("dream", choice.dream)):
        if command:
            html += (
                f'<div class="command"><code id="{name}" tabindex="0">{escape(command)}</code><button'
                f' type="button" data-copy="{name}" aria-label="Copy the {name} command">Copy</button></div>'
            )
    return html


def _curves(table: CorridorTable) -> str:
    deciding, explaining = figures(table, decides=True), figures(table, decides=False)
    html = legend(table)
    if deciding:
        html += f'<div class="curves">{deciding}</div>'
    else:
        html += '<p class="faint">No drift measures were logged.</p>'
    if explaining:
        html += f"<details{'' if deciding else ' open'}>"
        html += "<summary>Measures that explain and do not decide</summary>"
        html += f'<div class="curves">{explaining}</div></details>'
    return html


def _photos(table: CorridorTable) -> str:
    """The photos as squares; where they are gone, the sheet that the fit made of them."""
    config = table.runs[0].config
    settings = (config.get("data") or {}).get("init_args") or {}
    images, count = [], 0
    try:
        paths = find_pictures(find_folder(str(settings.get("instance_dir", ""))))
        count = len(paths)
        for path in paths[:MOST_PHOTOS]:
            picture = ImageOps.fit(decode(path).image, (320, 320), Image.Resampling.LANCZOS)
            images.append(f'<img src="{data_uri(picture, 320)}" alt="photo {escape(path.name, quote=True)}">')
    except (UserError, UndecodableError):
        images = []
    if images:
        rest = f" The first {MOST_PHOTOS} are shown." if count > MOST_PHOTOS else ""
        prompt = ((config.get("model") or {}).get("init_args") or {}).get("instance_prompt", "")
        return (
            f'<div class="photos">{"".join(images)}</div>'
            f"<p>{count} photos, trained as “{escape(str(prompt))}”.{rest}</p>"
        )
    for run in table.runs:
        sheet = run.folder / "instance_images.png"
        if sheet.is_file():
            with Image.open(sheet) as image:
                return f'<div class="photos sheet"><img src="{data_uri(image, 1200)}" alt="all photos"></div>'
    return '<p class="faint">The photos are no longer where the fit found them.</p>'


def _recipe(table: CorridorTable, config: Mapping[str, Any]) -> str:
    model, data = ((config.get(key) or {}).get("init_args") or {} for key in ("model", "data"))
    trainer, grid = config.get("trainer") or {}, config.get("seed_grid") or {}
    rows = {
        "base model": model.get("pipeline"),
        "instance prompt": model.get("instance_prompt"),
        "learning rates": ", ".join(dict.fromkeys(run.label for run in table.runs)) + ", constant",
        "steps": ", ".join(map(str, table.steps)),
        "text encoder": "trained" if model.get("train_text_encoder") else "frozen",
        "optimizer": str(model.get("optimizer", "")).rpartition(".")[2],
        "batch": _batch(data, trainer),
        "resolution": data.get("resolution") or "the model's own",
        "precision": trainer.get("precision"),
        "gradient clipping": trainer.get("gradient_clip_val") or "none",
        "latents": model.get("latents"),
        "padding": model.get("pad_tokens"),
        "prior preservation": "none",
        "seed": config.get("seed_everything"),
        "guidance": grid.get("guidance_scale"),
        "DDIM steps": grid.get("num_inference_steps"),
    }
    items = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(str(value))}</dd></div>"
        for key, value in rows.items()
        if value not in (None, "")
    )
    text = escape(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
    return (
        f'<dl class="recipe">{items}</dl><details><summary>The whole configuration of '
        f'{escape(table.runs[0].name)}</summary><pre tabindex="0">{text}</pre></details>'
    )


def _batch(data: Mapping[str, Any], trainer: Mapping[str, Any]) -> str:
    size, accumulate = data.get("batch_size", 1), trainer.get("accumulate_grad_batches") or 1
    return f"{size}" if accumulate == 1 else f"{size} × {accumulate} accumulated"


def _footer(table: CorridorTable, prompts: Mapping[str, list[int]]) -> str:
    count = sum(map(len, prompts.values()))
    text = (
        f"<p>Every cell shows the same {count} pictures: {len(prompts)} prompts, each from the same seeds as "
        "the base model's beside it.</p>"
    )
    if any(cell.zone for cell in table.cells.values()):
        text += f"<p>Thresholds of the verdicts: {escape(PROVENANCE)}.</p>"
    return text + f"<p>Read from {escape(table.folder.as_posix())}.</p>"
