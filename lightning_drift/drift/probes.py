"""Which of the seed grid's pictures the drift is measured on, and which photos it is measured against."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lightning_drift.drift.metric import Role

Groups = Mapping[str, tuple[list[str], list[int]]]


@dataclass(frozen=True)
class Probes:
    """The pictures that are measured.

    Attributes:
        keys: Their (prompt, seed), each prompt with two seeds or more.
        roles: Role of each prompt.
        remarks: What is amiss with the groups, in sentences.
    """

    keys: list[tuple[str, int]]
    roles: dict[str, Role]
    remarks: list[str]

    @property
    def language(self) -> list[str]:
        """The language prompts."""
        return [prompt for prompt, role in self.roles.items() if role == "language"]

    @property
    def no_language(self) -> str:
        """Why these prompts cannot show whether language is lost; empty where they can."""
        if len(self.language) >= 2:
            return ""
        count = ("no prompt", "one prompt")[len(self.language)]
        return (
            f"there is {count} to tell by whether words still matter; give the seed grid a group of eight "
            "short prompts without the identifier and name it in clip_drift.language"
        )


def find_probes(groups: Groups, dream: str | None, language: str | None, instance_prompt: str) -> Probes:
    """The probe pictures among a seed grid's groups.

    Args:
        groups: Prompts and seeds of each group.
        dream: The group of the artwork's prompts; None for none.
        language: The group of the language prompts; None for none. A prompt in both is a language prompt.
        instance_prompt: The prompt of the photos, which is no probe: it asks for the photos.
    """
    pictures: dict[str, list[int]] = {}
    roles: dict[str, Role] = {}
    remarks = []
    options: list[tuple[Role, str | None]] = [("language", language), ("dream", dream)]
    for role, name in options:
        if name is None:
            continue
        if name not in groups:
            names = ", ".join(groups) or "none"
            remarks.append(
                f"clip_drift.{role}: seed_grid.groups holds no group {name!r} (there is {names}), so its "
                "prompts are not measured; name one that is there, or null"
            )
            continue
        prompts, seeds = groups[name]
        if len(seeds) < 2:
            remarks.append(
                f"clip_drift.{role}: the group {name!r} has one seed and cannot be measured; give "
                f"seed_grid.groups.{name}.seeds two or more, four to judge by"
            )
            continue
        for prompt in prompts:
            if prompt == instance_prompt:
                remarks.append(
                    f"clip_drift.{role}: {prompt!r} is the instance prompt, which asks for the photos, and "
                    "is not measured; keep it in a group of its own"
                )
            elif prompt not in roles:
                roles[prompt], pictures[prompt] = role, seeds
    keys = [(prompt, seed) for prompt, seeds in pictures.items() for seed in seeds]
    return Probes(keys, roles, remarks)


def instance_photos(data: Any) -> list[Image.Image]:
    """The training photos as squares of the model's size, cropped in the middle; none where data offers none.

    Args:
        data: A datamodule with ``squares()``, such as `InstanceImages`; its stream is left alone.

    Raises:
        UserError: The photos cannot be used.
    """
    return data.squares() if hasattr(data, "squares") else []


def held_out_photos(data: Any) -> list[Image.Image]:
    """The photos that are never trained on, likewise.

    Args:
        data: A datamodule with ``held_out_squares()``, such as `InstanceImages`.

    Raises:
        UserError: The photos cannot be used.
    """
    return data.held_out_squares() if hasattr(data, "held_out_squares") else []
