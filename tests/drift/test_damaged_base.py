"""What a cache or a checkpoint holds of the base is looked through: damage is a sentence, never a measure."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from lightning_drift.common.errors import UserError
from lightning_drift.drift import base as drift_base
from lightning_drift.drift import photo_base
from lightning_drift.drift.base import DriftBase
from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.photo_base import PhotoBase
from lightning_drift.drift.state import DriftState

SETTINGS = {"format": drift_base.FORMAT, "seed_grid.groups": [["a", 0, "dream"], ["a", 1, "dream"]]}


def kept() -> DriftBase:
    pictures = Features.of([Image.new("RGB", (16, 16), shade) for shade in ("red", "blue")])
    pictures.clip = torch.eye(2, 4)
    return DriftBase(SETTINGS, pictures, torch.ones(1, 4), torch.zeros(1, 4, 2, 2), {"guidance": 0.5})


def change(file: Path, plain: dict[str, str], tensors: dict[str, torch.Tensor | None]) -> None:
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata() | plain
        held = {name: opened.get_tensor(name) for name in opened.keys()} | tensors  # noqa: SIM118
    save_file({name: tensor for name, tensor in held.items() if tensor is not None}, file, metadata)


DAMAGE: dict[str, Callable[[Path], object]] = {
    **{
        f"{name}: {text}": lambda file, name=name, text=text: change(file, {name: text}, {})  # type: ignore[misc]
        for name in ("settings", "energies")
        for text in (
            "null",
            "[]",
            "3",
            '"a"',
            "{",
            "NaN",
            '{"guidance": null}',
            '{"format": 99}',
            "[" * 99999,
        )
    },
    "energies that are NaN": lambda file: change(file, {"energies": '{"guidance": NaN}'}, {}),
    "other settings": lambda file: change(file, {"settings": json.dumps(SETTINGS | {"more": 1})}, {}),
    "NaN": lambda file: change(file, {}, {"pictures.lab": torch.full((2, 3), torch.nan)}),
    "integers": lambda file: change(file, {}, {"pictures.lab": torch.ones(2, 3, dtype=torch.int64)}),
    "fewer pictures": lambda file: change(file, {}, {"pictures.lab": torch.ones(1, 3)}),
    "no thumbnails": lambda file: change(file, {}, {"pictures.thumbnail": None}),
    "texts of another width": lambda file: change(file, {}, {"texts": torch.ones(1, 5)}),
    "latents of another shape": lambda file: change(file, {}, {"latents": torch.ones(3)}),
    "something else": lambda file: change(file, {}, {"more": torch.ones(3)}),
    "no metadata": lambda file: save_file({"a": torch.ones(1)}, file),
    "random bytes": lambda file: file.write_bytes(b"\xff" * 99),
    "pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_cache_is_done_without(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept().save(tmp_path)
    assert DriftBase.load(tmp_path, SETTINGS) is not None
    (file,) = tmp_path.iterdir()
    DAMAGE[name](file)
    assert DriftBase.load(tmp_path, SETTINGS) is None
    assert f"{file} cannot be used" in capsys.readouterr().err or f"file {file}" in capsys.readouterr().err


def test_a_cache_folder_that_is_a_file_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert DriftBase.load(tmp_path / "file", SETTINGS) is None
    assert DriftBase.load(tmp_path / "gone", SETTINGS) is None


@pytest.mark.parametrize(
    "value", [None, [], 3, {}, {"settings": None}, {"settings": {"format": 1}, "tensors": []}]
)
def test_a_checkpoints_part_is_whole_or_a_sentence(value: Any) -> None:
    for part in (DriftBase, PhotoBase):
        with pytest.raises(UserError, match=r"version|damaged"):
            part.from_state(value)
    state = DriftState({"base": value, "photos": value, "photo_base": value, "text": value, "zones": value})
    for each in (state.base, state.photos, state.photo_base):
        with pytest.raises(UserError):
            each()
    assert state.pooled(["a"]) is None
    assert state.zones() == {}


def test_the_photos_errors_are_whole_or_a_sentence() -> None:
    good = PhotoBase(
        {"format": photo_base.FORMAT},
        torch.ones(2, 4, 1, 1),
        torch.ones(1, 7, dtype=torch.int64),
        torch.ones(2, 3),
    )
    assert PhotoBase.from_state(good.state()).errors.shape == (2, 3)
    for name, tensor in (
        ("errors", torch.ones(3, 3)),
        ("errors", torch.full((2, 3), torch.nan)),
        ("latents", torch.ones(2)),
        ("input_ids", torch.ones(1, 7)),
    ):
        state = good.state()
        state["tensors"][name] = tensor
        with pytest.raises(UserError, match="damaged"):
            PhotoBase.from_state(state)
