"""Files of upscaling networks from anywhere: one that works, or a sentence, in bounded time and memory."""

import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bounded import value_or_sentence
from helpers.hostile import changed, texts, values
from helpers.open_networks import NETWORKS, build
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_drift.prints.open_networks import open_network

FEWER = settings(max_examples=(settings.default.max_examples if settings.default else 120) // 8)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 8, 64, 1000]), max_size=4)


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "network.pth"


def file_of(state: Any) -> bytes:
    file = BytesIO()
    torch.save(state, file)
    return file.getvalue()


def test_changed_bytes(path: Path) -> None:
    @FEWER
    @given(changed(file_of({"params_ema": build("Compact").state_dict()})))
    def look(data: bytes) -> None:
        path.write_bytes(data)
        value_or_sentence(lambda: open_network(str(path)))

    look()


@pytest.mark.parametrize(
    "name",
    ["Compact", *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name != "Compact")],
)
def test_weights_of_other_shapes_and_names(name: str, path: Path) -> None:
    state = build(name).state_dict()
    keys = st.sampled_from(sorted(state))
    renamed = st.builds(lambda key, number: key.replace("0", str(number)), keys, st.integers(0, 10**12))

    @FEWER
    @given(
        st.dictionaries(keys | renamed, SHAPES, min_size=1, max_size=3),
        st.dictionaries(texts, values, max_size=2),
    )
    def look(shapes: dict[str, list[int]], others: dict[str, Any]) -> None:
        kept = {key: shape for key, shape in shapes.items() if torch.Size(shape).numel() < 10**6}
        torch.save({**state, **{key: torch.ones(shape) for key, shape in kept.items()}, **others}, path)
        value_or_sentence(lambda: open_network(str(path)))

    look()
