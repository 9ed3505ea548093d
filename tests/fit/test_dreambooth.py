"""The training step against the reference script and plain formulas."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import DATA
from helpers.stand_ins import Latents
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from lightning_drift.common.errors import UserError
from lightning_drift.fit.checkpointing import StepCheckpoint
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.seed_grid import SeedGrid

GOLDEN = json.loads((DATA / "golden_fp32.json").read_text())["steps"]


class GoldenDraws(DreamBooth):
    """Draws the noise and the timesteps that the reference script drew."""

    tensors = load_file(DATA / "golden_fp32.safetensors")

    def draw(self, position: int, shape: Any) -> Any:
        zeros = torch.zeros(shape)
        return zeros, self.tensors[f"{position}.noise"][0], self.tensors[f"{position}.t"].reshape(())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.seen_losses.append(loss.item())
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        self.seen_norms.append(self.watch.grad_norm.item())


class GoldenLatents(Latents):
    """The latents of the reference run, as posteriors without spread."""

    def train_dataloader(self) -> Any:
        means = [GoldenDraws.tensors[f"{position}.latents"] / 0.18215 for position in range(24)]
        batches = [
            {"position": [position], "mean": mean, "std": torch.zeros_like(mean)}
            for position, mean in enumerate(means)
        ]
        return DataLoader(batches, batch_size=None)


@pytest.fixture
def golden(tiny_sd: str) -> GoldenDraws:
    module = GoldenDraws(tiny_sd, "a photo of sks dog", optimizer=torch.optim.AdamW)
    module.seen_losses, module.seen_norms = [], []
    return module


def test_the_reference_scripts_run_is_reproduced_step_by_step(golden: GoldenDraws, trainer: Any) -> None:
    trainer(max_steps=24).fit(golden, datamodule=GoldenLatents())
    expected = [step["loss"] for step in GOLDEN]
    assert len(golden.seen_losses) == 24
    torch.testing.assert_close(golden.seen_losses, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(golden.seen_norms, [s["grad_norm"] for s in GOLDEN], atol=1e-5, rtol=1e-6)


def test_the_unet_predicts_what_the_reference_predicted(golden: GoldenDraws) -> None:
    golden.configure_model()
    tensors = golden.tensors
    noisy = golden.scheduler.add_noise(tensors["0.latents"], tensors["0.noise"], tensors["0.t"])
    with torch.no_grad():
        prediction = golden.unet(noisy, tensors["0.t"], golden.condition())[0]
    torch.testing.assert_close(prediction, tensors["0.pred"], atol=2e-6, rtol=1e-5)


def module_of(tiny_sd: str, **options: Any) -> DreamBooth:
    module = DreamBooth(tiny_sd, "a photo of sks dog", **options)
    module.configure_model()
    return module


def sample(count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    latents, noise = (torch.randn((count, 4, 8, 8), generator=source) for _ in range(2))
    return latents, noise, torch.tensor([17, 801])[:count]


def test_v_prediction_aims_at_the_velocity(tiny_sd: str) -> None:
    module = module_of(tiny_sd)
    module.scheduler.register_to_config(prediction_type="v_prediction")
    latents, noise, timesteps = sample()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha = torch.cumprod(1 - betas, 0)[timesteps].reshape(-1, 1, 1, 1)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    prediction = module.unet(noisy, timesteps, module.condition().expand(2, -1, -1))[0]
    expected = ((prediction - velocity) ** 2).mean()
    torch.testing.assert_close(module.loss(latents, noise, timesteps), expected, rtol=1e-5, atol=1e-6)


def test_without_padding_the_text_encoder_sees_only_the_prompts_tokens(tiny_sd: str) -> None:
    padded, bare = module_of(tiny_sd), module_of(tiny_sd, pad_tokens="none")
    tokenizer = bare.stable_diffusion.tokenizer
    ids = tokenizer("a photo of sks dog").input_ids
    assert padded.input_ids.shape[1] == tokenizer.model_max_length > len(ids)
    assert bare.input_ids.tolist() == [ids]
    # The text encoder is causal, so the tokens that both see have the same states.
    torch.testing.assert_close(bare.condition(), padded.condition()[:, : len(ids)], rtol=1e-4, atol=1e-5)
    latents, noise, timesteps = sample()
    assert bare.loss(latents, noise, timesteps) != padded.loss(latents, noise, timesteps)


@pytest.mark.parametrize("limit", [None, 1.0])
def test_clipping_scales_all_gradients_by_their_global_norm(tiny_sd: str, limit: float | None) -> None:
    module = module_of(tiny_sd)
    optimizer = module.configure_optimizers()
    module.loss(*sample()).backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.grad.clone() for p in parameters if p.grad is not None]
    norm = torch.cat([g.flatten() for g in before]).double().norm().float()
    assert norm > 1
    module.configure_gradient_clipping(optimizer, limit, "norm")
    torch.testing.assert_close(module.watch.grad_norm, norm, rtol=1e-5, atol=0)
    scale = 1.0 if limit is None else limit / norm
    for old, parameter in zip(before, (p for p in parameters if p.grad is not None), strict=True):
        torch.testing.assert_close(parameter.grad, old * scale, rtol=1e-4, atol=1e-7)


class GradientWatch(DreamBooth):
    """Counts the gradients that are alive in a step's forward, in a grid and in a save."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alive: list[tuple[str, int]] = []

    def count(self, where: str) -> None:
        self.alive.append((where, sum(p.grad is not None for p in self.parameters())))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.count("forward")
        return super().training_step(batch, batch_idx)

    def on_grid(self, trainer: Any, module: Any, pictures: Any) -> None:
        self.count("grid")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.count("save")
        super().on_save_checkpoint(checkpoint)


def test_gradients_live_only_from_a_backward_to_its_update(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    module = GradientWatch(tiny_sd, "a photo of sks dog", optimizer=torch.optim.AdamW)
    grid = SeedGrid("2", {"a": {"prompts": "a tree", "seeds": "0"}}, num_inference_steps=1)
    grid.listeners.append(module)
    callbacks = [grid, StepCheckpoint("", last_every_n_steps=1, dirpath=str(tmp_path))]
    trainer(max_steps=2, accumulate_grad_batches=2, callbacks=callbacks).fit(module, datamodule=Latents())
    parameters = sum(p.requires_grad for p in module.parameters())
    assert parameters > 100
    within = ("forward", parameters)  # the second of two passes, whose gradients are added up
    step = [("forward", 0), within]
    assert module.alive == [*step, ("save", 0), *step, ("grid", 0), ("save", 0)]


def test_each_sample_of_a_batch_has_its_own_timestep_and_noise(tiny_sd: str) -> None:
    module = module_of(tiny_sd)
    first, second, again = (module.draw(position, (4, 8, 8)) for position in (0, 1, 0))
    assert not torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    steps = torch.stack([module.draw(position, (1, 1, 1))[2] for position in range(2000)])
    assert steps.min() < 10
    assert steps.max() > 990
    assert abs(steps.float().mean() - 499.5) < 30  # uniform: standard error 6.5
    other_seed = module_of(tiny_sd, seed=1).draw(0, (4, 8, 8))
    assert not torch.equal(first[1], other_seed[1])


def test_a_frozen_text_encoder_does_not_move_and_a_trained_one_does(tiny_sd: str, trainer: Any) -> None:
    moved = {}
    for train in (True, False):
        module = DreamBooth(tiny_sd, train_text_encoder=train, learning_rate=1e-3)
        module.configure_model()
        before = module.text_encoder.state_dict()
        before = {key: value.clone() for key, value in before.items()}
        trainer(max_steps=2).fit(module, datamodule=Latents())
        after = module.text_encoder.state_dict()
        moved[train] = any(not torch.equal(before[key], after[key]) for key in before)
    assert moved == {True: True, False: False}


def test_the_text_encoders_own_learning_rate_reaches_only_the_text_encoder(tiny_sd: str) -> None:
    module = module_of(tiny_sd, learning_rate=1e-4, text_encoder_learning_rate=5e-6)
    unet, text = module.configure_optimizers().param_groups
    assert (unet["lr"], text["lr"]) == (1e-4, 5e-6)
    assert sum(p.numel() for p in text["params"]) == sum(p.numel() for p in module.text_encoder.parameters())


def test_gradient_checkpointing_gives_the_same_gradients(tiny_sd: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        module = module_of(tiny_sd, gradient_checkpointing=checkpointing)
        module.unet.train()
        module.text_encoder.train()
        module.loss(*sample()).backward()
        gradients.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 250
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run_with_step_rate_and_checkpoint(
    tiny_sd: str, trainer: Any
) -> None:
    class Diverges(DreamBooth):
        def loss(self, *args: Any) -> torch.Tensor:
            return super().loss(*args) * (float("nan") if self.global_step == 3 else 1.0)

    module = Diverges(tiny_sd, log_every_n_steps=5)
    with pytest.raises(
        UserError, match=r"not finite \(NaN or inf\) at step 4, learning rate 2e-06; no checkpoint"
    ):
        trainer(max_steps=9).fit(module, datamodule=Latents())


def test_a_gradient_that_is_not_finite_is_not_saved(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    class Overflows(DreamBooth):
        def configure_gradient_clipping(self, *args: Any, **options: Any) -> None:
            if self.global_step == 2:  # in the third step, with a finite loss
                next(self.unet.parameters()).grad.fill_(float("inf"))
            super().configure_gradient_clipping(*args, **options)

    checkpoint = StepCheckpoint("2,3", dirpath=str(tmp_path))
    sentence = r"not finite \(NaN or inf\) at step 3, .* the last good checkpoint is .*step=00002\.ckpt"
    with pytest.raises(UserError, match=sentence):
        trainer(max_steps=9, callbacks=[checkpoint]).fit(Overflows(tiny_sd), datamodule=Latents())
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step=00002.ckpt"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"learning_rate": 0.0}, "model.learning_rate: 0.0 is out of range"),
        ({"text_encoder_learning_rate": -1.0}, "model.text_encoder_learning_rate: -1.0 is out of range"),
        ({"log_every_n_steps": 0}, "model.log_every_n_steps: 0"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        DreamBooth(**options)


def test_an_optimizer_argument_that_does_not_exist_is_named(tiny_sd: str) -> None:
    with pytest.raises(UserError, match=r"model.optimizer_args: AdamW refuses them: .*momentum"):
        module_of(tiny_sd, optimizer_args={"momentum": 0.9}).configure_optimizers()


def test_a_half_precision_base_is_trained_in_float32(tmp_path: Path) -> None:
    module = DreamBooth("pocket")  # stored as float16
    module.configure_model()
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in module.parameters())
    assert not any(p.requires_grad for p in module.stable_diffusion.vae.parameters())
    assert not any(key.startswith("vae") for key in module.state_dict())
