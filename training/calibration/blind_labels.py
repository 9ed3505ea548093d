"""Judge a corridor by eye before reading its verdicts, then compare.

    python -m training.calibration.blind_labels sheets tb_logs/{coffee,nautilus}/corridor --to blind
    (look at blind/*.png, write a zone beside each code in blind/labels.csv, keep that file)
    python -m training.calibration.blind_labels compare blind/labels.csv --cells blind/cells.csv

A sheet shows the photos and, for each code, the base model's pictures above the checkpoint's: the same
prompts and seeds, four seeds of the dream prompt and two of each language prompt. Codes are in random order
within each photo set and tell nothing of rate and steps; the base model itself is among them. ``cells.csv``
holds what each code is, and the measures that verdicts are made of, so that a change of thresholds can be
compared too. It is not to be read before the labels are written.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from lightning_drift.common.errors import UserError
from lightning_drift.common.prompt_lists import read_prompts
from lightning_drift.corridor.blind import measures_at, shuffled
from lightning_drift.corridor.read import read
from lightning_drift.corridor.recorded_run import RecordedRun
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.verdict import DECIDING, WITH_MODEL, ZONES, judge
from lightning_drift.images.contact_sheet import GROUND, INK
from training.command_line import command_parser, run_command

SIDE = 84  # of a picture on a sheet
PER_SHEET = 4


def sheets(corridors: list[Path], to: Path, seed: int = 0) -> None:
    """Make anonymous sheets of every cell.

    Args:
        corridors: Folders of corridors.
        to: Folder for the sheets, the key and an empty list of labels.
        seed: Of the order.
    """
    to.mkdir(parents=True, exist_ok=True)
    for old in to.glob("sheet_*.png"):
        old.unlink()
    by_subject = {}
    for folder in corridors:
        table = read(folder)
        cells = [(run, step) for run in table.runs for step in table.steps if step in run.milestones]
        by_subject[table.title] = [(table.runs[0], 0), *cells]
    key: list[dict[str, Any]] = []
    number = 0
    for subject, cells in by_subject.items():
        order = shuffled(cells, seed, subject)
        for start in range(0, len(order), PER_SHEET):
            strips = []
            for run, step in order[start : start + PER_SHEET]:
                number += 1
                code = f"c{number:03d}"
                strips.append((code, _strip(run, step)))
                key.append(
                    {"code": code, "subject": subject, "rate": run.label if step else "", "step": step}
                )
                key[-1] |= _measures(run, step)
            _sheet(_photos(by_subject[subject][0][0]), strips).save(to / f"sheet_{strips[0][0]}.png")
    _write(to / "cells.csv", key)
    _write(to / "labels.csv", [{"code": row["code"], "label": "", "note": ""} for row in key])
    print(f"{len(key)} cells on the sheets in {to}; their labels go into {to / 'labels.csv'}")


def compare(labels: Path, cells: Path) -> None:
    """Print each cell's label beside its verdict, and how many agree.

    Args:
        labels: Codes with labels; a second opinion may stand behind a slash (``dreaming/forgetting``).
        cells: What the codes are, with their measures.
    """
    opinions = {row["code"]: row["label"].strip().split("/") for row in _read(labels) if row["label"].strip()}
    if unknown := {zone for zones in opinions.values() for zone in zones} - set(ZONES):
        raise UserError(f"{labels}: {', '.join(sorted(unknown))} is no zone; write one of {', '.join(ZONES)}")
    counts: Counter[tuple[str, str]] = Counter()
    for row in sorted(_read(cells), key=lambda r: (r["subject"], float(r["rate"] or 0), int(r["step"]))):
        if row["code"] not in opinions:
            continue
        verdict = judge(_intervals(row))
        zones = opinions[row["code"]]
        touched = {verdict.zone, verdict.borderline} & set(zones)
        off = abs(ZONES.index(verdict.zone) - ZONES.index(zones[0]))
        mark = (
            "agree" if verdict.zone == zones[0] else "border" if touched else "differ" if off < 2 else "FAR"
        )
        for group in (row["subject"], "all"):
            counts[group, mark] += 1
        border = f" (near {verdict.borderline})" if verdict.borderline else ""
        position = "" if verdict.position is None else f" {verdict.position:.0f}"
        print(
            f"{row['code']}  {row['subject']:10} {row['rate'] or 'base':>7} x {row['step']:>4}  "
            f"label {'/'.join(zones):22} verdict {verdict.zone}{border}{position}  {mark}"
        )
    for group in dict.fromkeys(group for group, _ in counts):
        marks = {mark: counts[group, mark] for mark in ("agree", "border", "differ", "FAR")}
        print(f"{group}: " + ", ".join(f"{count} {mark}" for mark, count in marks.items()))


def _measures(run: RecordedRun, step: int) -> dict[str, str]:
    found = measures_at(run, step)
    measures = {name: ";".join(f"{part:.4g}" for part in astuple(each)) for name, each in found.items()}
    return dict.fromkeys((*DECIDING, *WITH_MODEL), "") | measures  # empty where a run did not take it


def _intervals(row: dict[str, str]) -> dict[str, Interval]:
    names = [*DECIDING, *(name for name in WITH_MODEL if row.get(name))]  # older files have no such column
    return {name: Interval(*map(float, row[name].split(";"))) for name in names}


def _picture(run: RecordedRun, step: int, prompt: str, seed: int) -> Image.Image:
    path = run.picture(step, prompt, seed)
    if path is None:
        raise UserError(f"{run.folder}: no picture of {prompt!r}, seed {seed}, at step {step}")
    with Image.open(path) as image:
        return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _strip(run: RecordedRun, step: int) -> Image.Image:
    """Base over checkpoint, twice: the first seeds, then the next ones."""
    groups = run.config["seed_grid"]["groups"]
    dream, *_ = read_prompts(groups["dream"]["prompts"], "prompts")
    words = read_prompts(groups["language"]["prompts"], "prompts")
    columns = [(dream, 0), (dream, 2), *((prompt, 0) for prompt in words)]
    image = Image.new("RGB", (len(columns) * (SIDE + 2), 4 * (SIDE + 2) + 4), GROUND)
    for column, (prompt, first) in enumerate(columns):
        for half in range(2):
            seeds = run.prompts[prompt]
            if first + half >= len(seeds):
                raise UserError(f"{run.folder}: {prompt!r} has {len(seeds)} seeds; sheets show {first + 2}")
            seed = seeds[first + half]
            for row, at in enumerate((0, step)):
                y = half * 2 * (SIDE + 2) + row * (SIDE + 2) + half * 4
                image.paste(_picture(run, at, prompt, seed), (column * (SIDE + 2), y))
    return image


def _photos(run: RecordedRun) -> Image.Image:
    with Image.open(run.folder / "instance_images.png") as image:
        sheet = image.convert("RGB")
    return sheet.resize((round(sheet.width * 300 / sheet.height), 300), Image.Resampling.LANCZOS)


def _sheet(photos: Image.Image, strips: list[tuple[str, Image.Image]]) -> Image.Image:
    font = ImageFont.load_default(16)
    width, height = strips[0][1].size
    left = 60
    sheet = Image.new("RGB", (left + width, photos.height + 8 + len(strips) * (height + 12)), GROUND)
    sheet.paste(photos, (left, 0))
    draw = ImageDraw.Draw(sheet)
    for index, (code, strip) in enumerate(strips):
        y = photos.height + 8 + index * (height + 12)
        draw.text((6, y + height // 2), code, INK, font)
        sheet.paste(strip, (left, y))
    return sheet


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("sheets", help="make anonymous sheets of corridors")
    command.add_argument("corridors", nargs="+", type=Path, help="folders of corridors")
    command.add_argument("--to", required=True, type=Path, help="folder for sheets, key and labels")
    command.add_argument("--seed", default=0, type=int, help="seed of the order")
    command = commands.add_parser("compare", help="compare labels with verdicts")
    command.add_argument("labels", type=Path, help="labels.csv, filled in")
    command.add_argument("--cells", required=True, type=Path, help="cells.csv, the key")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    if options.command == "sheets":
        sheets(options.corridors, options.to, options.seed)
    else:
        compare(options.labels, options.cells)


if __name__ == "__main__":
    run_command(main)
