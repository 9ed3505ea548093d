"""The pictures of a corridor's seed grids: which prompts and seeds there are, and each picture's file."""

from pathlib import Path
from typing import NamedTuple

from lightning_drift.corridor.table import CorridorTable


class Place(NamedTuple):
    """Where a picture belongs: its run's name, optimizer steps (0 is the base model), prompt and seed."""

    run: str
    step: int
    prompt: str
    seed: int


def seeds_by_prompt(table: CorridorTable) -> dict[str, list[int]]:
    """The prompts of all runs, each with all its seeds."""
    joined: dict[str, list[int]] = {}
    for run in table.runs:
        for prompt, seeds in run.prompts.items():
            joined[prompt] = sorted({*joined.get(prompt, []), *seeds})
    return joined


def picture_files(table: CorridorTable) -> dict[Place, Path]:
    """The files that are there; a run without pictures of the base model gets those of another run."""
    files: dict[Place, Path] = {}
    base: dict[tuple[str, int], Path] = {}
    for run in table.runs:
        for step in (0, *table.steps):
            for prompt, seeds in run.prompts.items():
                for seed in seeds:
                    path = run.picture(step, prompt, seed)
                    if path is not None:
                        files[Place(run.name, step, prompt, seed)] = path
                        if step == 0:
                            base.setdefault((prompt, seed), path)
    for run in table.runs:
        for prompt, seeds in run.prompts.items():
            for seed in seeds:
                if (prompt, seed) in base:
                    files.setdefault(Place(run.name, 0, prompt, seed), base[prompt, seed])
    return files
