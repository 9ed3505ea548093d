import numpy as np
import pytest
import torch
from PIL import Image

from lightning_drift.common.errors import UserError
from lightning_drift.drift.measures.colour import srgb_to_lab
from lightning_drift.drift.measures.composition import layout_directions
from lightning_drift.drift.measures.copying import copy_limit, correlations
from lightning_drift.drift.measures.features import Features


def plain(*colour: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)


@pytest.mark.parametrize(
    ("srgb", "lab"),
    [
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((119, 119, 119), (50.03, 0.0, 0.0)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_of_known_colours(srgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    found = srgb_to_lab(torch.tensor(srgb) / 255)
    torch.testing.assert_close(found, torch.tensor(lab), atol=0.02, rtol=0)


def test_features_of_a_picture_in_halves() -> None:
    image = Image.new("RGB", (64, 64))
    image.paste((255, 255, 255), (0, 0, 64, 32))  # the upper half is white
    features = Features.of([image])
    assert len(features) == 1
    assert features.clip is None
    torch.testing.assert_close(features.layout[0, :4], torch.full((4, 8), 100.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(features.lab[0], torch.tensor([50.0, 0.0, 0.0]), atol=1e-3, rtol=0)
    assert features.thumbnail[0, :, 8:].max() == 0


def test_features_are_of_any_size_and_finite() -> None:
    images = [plain(0, 0, 0), plain(9, 9, 9, size=(17, 300)), plain(255, 0, 0, size=(5, 5)).convert("P")]
    features = Features.of(images)
    assert all(tensor.isfinite().all() for tensor in features.tensors().values())
    assert layout_directions(features.layout).isfinite().all()
    assert correlations(features.thumbnail, features.thumbnail).isfinite().all()
    with pytest.raises(ValueError, match="no pictures"):
        Features.of([])


def test_features_come_back_from_their_tensors() -> None:
    features = Features.of([plain(1, 2, 3), plain(200, 30, 4)])
    features.clip = torch.eye(2)
    loaded = Features.from_tensors(features.tensors())
    for name, tensor in features.tensors().items():
        assert torch.equal(loaded.tensors()[name], tensor)
    assert torch.equal(loaded[[1]].tensors()["lab"], features.lab[1:])


def test_foreign_tensors_are_no_features() -> None:
    features = Features.of([plain(1, 2, 3)])
    for wrong in (
        {"lab": torch.zeros(1, 4)},
        {"lab": torch.zeros(2, 3)},
        {"extra": torch.zeros(1)},
    ):
        with pytest.raises(UserError, match="not features"):
            Features.from_tensors(features.tensors() | wrong)


def test_the_limit_of_copies_is_above_what_the_base_does_by_chance() -> None:
    random = torch.Generator().manual_seed(0)
    photos = torch.rand((3, 3, 16, 16), generator=random)
    assert copy_limit(torch.rand((5, 3, 16, 16), generator=random), photos) == 0.85
    near = photos[:1] + 0.4 * torch.rand((1, 3, 16, 16), generator=random)
    by_chance = correlations(near, photos).max().item()
    assert 0.85 < copy_limit(near, photos) == by_chance < 0.98
    assert copy_limit(photos, photos) == 0.98
    assert copy_limit(photos[:1] * 0, torch.cat([photos, photos * 0.5])) == pytest.approx(0.9)


def test_flat_layouts_are_alike_and_unlike_the_rest() -> None:
    levels = torch.cat([torch.full((1, 8, 8), 20.0), torch.full((1, 8, 8), 90.0), torch.eye(8)[None] * 50])
    directions = layout_directions(levels)
    np.testing.assert_allclose(directions @ directions.T, [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-12)
