"""How far the denoiser moved, and what the instance prompt asks of noise: closed forms."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from helpers.full_memory import full_above
from torch import Tensor

from lightning_drift.common.rng import generator
from lightning_drift.drift.measures.departure import SEEDS, departure, first_steps, prompt_force
from lightning_drift.fit.dreambooth import DreamBooth

SHAPE = (4, 8, 8)


def test_departure_is_the_mean_squared_distance_in_units_of_the_base() -> None:
    base, now = (torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    assert departure(base, base) == 0.0
    expected = float(((now - base) ** 2).sum() / (base**2).sum())
    assert departure(base, now) == pytest.approx(expected)
    assert departure(2 * base, 2 * now) == pytest.approx(expected)
    assert departure(base, 1.1 * base) == pytest.approx(0.01)
    assert departure(torch.zeros(2), torch.zeros(2)) == 0.0


def test_the_force_of_a_prompt_is_what_it_adds_to_the_empty_one(tiny_sd: str) -> None:
    module = DreamBooth(tiny_sd, instance_prompt="a photo of sks cup")
    module.configure_model()
    model: Any = module.stable_diffusion
    before = torch.random.get_rng_state()
    found = first_steps(model, module.scheduler, module.input_ids, SHAPE)
    assert torch.equal(before, torch.random.get_rng_state())
    assert found.shape == (SEEDS,)
    with torch.no_grad():
        empty = model.tokenizer("", padding="max_length", return_tensors="pt").input_ids
        for seed in range(SEEDS):
            noise = torch.randn(SHAPE, generator=generator(0, "first step", seed))[None]
            one, other = (
                model.unet(noise, torch.tensor([999]), model.text_encoder(ids)[0]).sample
                for ids in (module.input_ids, empty)
            )
            assert float(found[seed]) == pytest.approx(float(((one - other) ** 2).mean()), rel=1e-3)
    assert prompt_force(found, found) == 1.0
    assert float(first_steps(model, module.scheduler, empty, SHAPE).max()) == pytest.approx(0, abs=1e-9)
    with full_above(2):
        apart = first_steps(model, module.scheduler, module.input_ids, SHAPE)
    torch.testing.assert_close(apart, found, rtol=1e-3, atol=0)


def test_a_prompt_that_is_not_padded_is_asked_by_itself() -> None:
    def unet(noisy: Tensor, timesteps: Tensor, states: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (noisy * 0 + states.shape[1],)

    def text_encoder(ids: Tensor) -> tuple[Tensor]:
        return (torch.zeros(*ids.shape, 5),)

    def tokenizer(prompts: list[str], **_: Any) -> Any:
        return SimpleNamespace(input_ids=torch.ones(len(prompts), 7, dtype=torch.long))

    tokenizer.model_max_length = 7  # type: ignore[attr-defined]
    for part in (unet, text_encoder):
        part.device, part.dtype = torch.device("cpu"), torch.float32  # type: ignore[attr-defined]
    model: Any = SimpleNamespace(unet=unet, text_encoder=text_encoder, tokenizer=tokenizer)
    found = first_steps(model, DDPMScheduler(), torch.ones(1, 3, dtype=torch.long), SHAPE)
    assert found.tolist() == [16.0] * SEEDS  # (3 tokens - 7 tokens) squared


def test_the_ratio_is_a_geometric_mean() -> None:
    base = torch.tensor([1.0, 4.0, 0.5, 2.0])
    assert prompt_force(base, 3 * base) == pytest.approx(3)
    assert prompt_force(base, base * torch.tensor([4.0, 0.25, 1.0, 1.0])) == pytest.approx(1)
    assert prompt_force(torch.zeros(2), torch.zeros(2)) == 1.0
