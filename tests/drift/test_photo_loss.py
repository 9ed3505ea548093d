"""The loss on the photos: closed forms, and the loss that the fit minimises."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from helpers.full_memory import full_above
from PIL import Image
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.common.rng import generator
from lightning_drift.drift.measures.noise_levels import NOISE_LEVELS
from lightning_drift.drift.measures.photo_loss import FORWARDS, photo_errors, photo_loss, shown
from lightning_drift.drift.photo_base import PhotoBase, photos_hash
from lightning_drift.drift.state import DriftState
from lightning_drift.fit.dreambooth import DreamBooth

LATENTS = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[1, 2, 3]])
STEPS = [round(level * 1000) for level in NOISE_LEVELS]


class Predicts:
    """A UNet that predicts what it is told to, whatever it sees."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, factor: float = 0.0) -> None:
        self.factor = factor
        self.seen: list[Tensor] = []

    def __call__(self, noisy: Tensor, timesteps: Tensor, states: Tensor, return_dict: bool) -> tuple[Tensor]:
        assert len(noisy) == len(timesteps) == len(states)
        self.seen.append(timesteps)
        return (noisy * self.factor,)


def errors(unet: Any, prediction_type: str = "epsilon", latents: Tensor = LATENTS) -> Tensor:
    def text_encoder(ids: Tensor) -> tuple[Tensor]:
        return (torch.zeros(*ids.shape, 5),)

    text_encoder.device = torch.device("cpu")  # type: ignore[attr-defined]
    model: Any = SimpleNamespace(unet=unet, text_encoder=text_encoder)
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    return photo_errors(model, scheduler, latents, IDS)


def noise(photo: int, level: int) -> Tensor:
    return torch.randn(4, 8, 8, generator=generator(0, "photo loss", photo, level))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_unet_that_predicts_nothing_errs_by_its_target(kind: str) -> None:
    """|epsilon|^2, or |sqrt(a) epsilon - sqrt(1 - a) x|^2 for the velocity."""
    unet = Predicts()
    found = errors(unet, kind)
    assert found.shape == (3, len(NOISE_LEVELS))
    assert all(seen.tolist() == STEPS for seen in unet.seen)
    alphas = DDPMScheduler().alphas_cumprod
    for photo in range(3):
        for level, step in enumerate(STEPS):
            target = noise(photo, level)
            if kind == "v_prediction":
                target = alphas[step].sqrt() * target - (1 - alphas[step]).sqrt() * LATENTS[photo]
            assert found[photo, level] == pytest.approx(float(target.square().mean()), rel=1e-5)


def test_it_is_the_loss_that_the_fit_minimises(tiny_sd: str) -> None:
    module = DreamBooth(tiny_sd, instance_prompt="a photo of sks cup")
    module.configure_model()
    assert module.stable_diffusion is not None
    module.eval()
    before = torch.random.get_rng_state()
    found = photo_errors(module.stable_diffusion, module.scheduler, LATENTS, module.input_ids)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(
        found, photo_errors(module.stable_diffusion, module.scheduler, LATENTS, module.input_ids)
    )
    for level, step in enumerate(STEPS):
        loss = module.loss(LATENTS[1:2], noise(1, level)[None], torch.tensor([step]))
        assert found[1, level] == pytest.approx(loss.item(), rel=1e-4)


def test_levels_that_do_not_fit_together_are_measured_apart(tiny_sd: str, capsys: Any) -> None:
    module = DreamBooth(tiny_sd)
    module.configure_model()
    model = module.stable_diffusion
    assert model is not None
    module.eval()
    together = photo_errors(model, module.scheduler, LATENTS, module.input_ids)
    with full_above(3) as given:
        apart = photo_errors(model, module.scheduler, LATENTS, module.input_ids)
    assert given == [4, 2, 2, 2, 2, 2, 2]
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=0)
    assert capsys.readouterr().err.count("from here on there are 2") == 1


@pytest.mark.parametrize("photos", [1, 4, 8, 10, 11, 100])
def test_it_takes_at_most_forty_forwards_spread_over_the_photos(photos: int) -> None:
    unet = Predicts()
    chosen = shown(photos)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(photos, 10)
    assert chosen[-1] >= 0.9 * photos - 1
    errors(unet, latents=LATENTS[:1].expand(len(chosen), -1, -1, -1))
    assert sum(len(seen) for seen in unet.seen) <= FORWARDS


def test_the_ratio_is_a_geometric_mean_in_which_levels_weigh_the_same() -> None:
    base = torch.tensor([[0.5, 0.01], [0.3, 0.02]])
    assert vars(photo_loss(base, base)) == {"value": 1.0, "low": 1.0, "high": 1.0}
    same = photo_loss(base, base * 0.7)
    assert [same.low, same.value, same.high] == pytest.approx([0.7] * 3)
    assert photo_loss(base, base * torch.tensor([4.0, 0.25])).value == pytest.approx(1)
    apart = photo_loss(base, base * torch.tensor([[4.0], [0.25]]))
    assert 0 < apart.low < 0.9 < apart.value < 1.1 < apart.high
    assert photo_loss(base, base.flip(0)).value == pytest.approx(1)
    assert photo_loss(base[:1], base[:1] * 0.5).value == pytest.approx(0.5)  # one photo
    assert photo_loss(torch.zeros(2, 2), torch.zeros(2, 2)).value == 1
    assert math.isnan(photo_loss(base, base * torch.nan).value)


def test_the_base_of_a_checkpoint_is_taken_where_it_fits() -> None:
    settings = {"format": 1, "model.pipeline": "a", "trainer.precision": "32-true", "data.instance_dir": "x"}
    base = PhotoBase(settings, LATENTS, IDS, torch.rand(3, 4).double())
    state = DriftState({"photo_base": base.state()})
    match, _ = state.matching_photo_base(settings | {"trainer.precision": "16-mixed"})  # rounding
    assert match is not None
    assert all(torch.equal(getattr(match, n), getattr(base, n)) for n in ("latents", "input_ids", "errors"))
    assert state.matching_photo_base({"model.pipeline": "a"})[0] is not None  # photos are not at hand
    assert state.matching_photo_base(settings | {"model.pipeline": "b"}) == (
        None,
        "the checkpoint's was taken with another model.pipeline",
    )
    assert DriftState().matching_photo_base(settings) == (None, "the checkpoint holds none")
    old = DriftState({"photo_base": base.state() | {"settings": {"format": 0}}})
    assert "another version" in old.matching_photo_base(settings)[1]
    with pytest.raises(UserError, match="another version"):
        PhotoBase.from_state({"settings": {}})


def test_photos_are_told_apart_by_pixels_and_order() -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    assert photos_hash([red, blue]) == photos_hash([red.copy(), blue.copy()])
    assert len({photos_hash(p) for p in ([red, blue], [blue, red], [red], [red, red])}) == 4
