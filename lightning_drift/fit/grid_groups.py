"""The groups of a seed grid: which prompts with which seeds, and how each is sampled."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lightning_drift.common.errors import UserError
from lightning_drift.common.names import file_name
from lightning_drift.common.number_lists import integers
from lightning_drift.common.prompt_lists import read_prompts, slug
from lightning_drift.stable_diffusion.sampling import Sampling

MOST_PICTURES = 10_000
"""Pictures of one milestone at most."""

_OPTION = "seed_grid.groups"
_KEYS = {"prompts", "seeds", "num_inference_steps"}


@dataclass(frozen=True)
class GridGroup:
    """A group of a seed grid.

    Attributes:
        prompts: Its prompts, the rows of its sheet.
        seeds: Its seeds, the columns.
        sampling: How its pictures are sampled: as the grid's, but for steps of its own.
    """

    prompts: list[str]
    seeds: list[int]
    sampling: Sampling

    @property
    def keys(self) -> list[tuple[str, int]]:
        """Prompt and seed of each picture, row by row."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]


def read_groups(groups: Mapping[str, Any] | None, sampling: Sampling) -> dict[str, GridGroup]:
    """Check groups as a configuration gives them.

    Args:
        groups: For each name ``prompts`` (one prompt, a ``.txt`` file or a list), ``seeds`` (such as ``0-7``)
            and ``num_inference_steps``, the grid's own by default.
        sampling: The grid's.

    Raises:
        UserError: A name, list or number is none, there are too many pictures, two prompts would share a
            file, or one prompt is in two groups of different steps.
    """
    read = {name: _group(name, group, sampling) for name, group in (groups or {}).items()}
    count = sum(len(group.keys) for group in read.values())
    if count > MOST_PICTURES:
        raise UserError(
            f"the groups hold {count:,} pictures, more than {MOST_PICTURES:,}; give fewer prompts or seeds",
            _OPTION,
        )
    by_name: dict[str, str] = {}
    steps: dict[str, int] = {}
    for group in read.values():
        for prompt in group.prompts:
            if by_name.setdefault(slug(prompt), prompt) != prompt:
                raise UserError(
                    f"{by_name[slug(prompt)]!r} and {prompt!r} differ only in punctuation or case, and their "
                    "grids would share a name; keep one of them",
                    _OPTION,
                )
            own = group.sampling.num_inference_steps
            if steps.setdefault(prompt, own) != own:
                raise UserError(
                    f"{prompt!r} is in two groups, once with {steps[prompt]} steps and once with {own}, and "
                    "its pictures would share a name; give both the same num_inference_steps",
                    _OPTION,
                )
    return read


def _group(name: str, group: Any, sampling: Sampling) -> GridGroup:
    file_name(name, _OPTION)  # a grid's file is called so
    option = f"{_OPTION}.{name}"
    if not isinstance(group, dict) or set(group) - _KEYS or "prompts" not in group:
        raise UserError(
            "give prompts and seeds, and num_inference_steps if they are the group's own, for example "
            "{prompts: 'a tree', seeds: 0-7, num_inference_steps: 20}",
            option,
        )
    prompts = read_prompts(group["prompts"], f"{option}.prompts")
    seeds = integers(group.get("seeds", "0-7"), f"{option}.seeds")
    if (steps := group.get("num_inference_steps")) is not None:
        try:
            sampling = replace(sampling, num_inference_steps=steps)
        except UserError as error:
            raise error.of(f"{option}.{error.option}") from error
    return GridGroup(prompts, seeds, sampling)


def pictures_of(groups: Mapping[str, GridGroup]) -> dict[tuple[str, int], Sampling]:
    """How each picture of all groups is sampled, by prompt and seed, each once, in the groups' order."""
    return {key: group.sampling for group in groups.values() for key in group.keys}


def seeds_by_prompt(groups: Mapping[str, GridGroup]) -> dict[str, list[int]]:
    """The seeds of each prompt in all groups, each once, in the groups' order."""
    rows: dict[str, list[int]] = {}
    for prompt, seed in pictures_of(groups):
        rows.setdefault(prompt, []).append(seed)
    return rows
