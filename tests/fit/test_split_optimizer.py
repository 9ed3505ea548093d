"""A fit whose weights are kept in two halves makes the numbers of one with float32 weights."""

from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from helpers.stand_ins import Latents
from lightning.pytorch.callbacks import EMAWeightAveraging, GradientAccumulationScheduler
from lightning.pytorch.plugins import MixedPrecision

from lightning_drift.common.errors import UserError
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.checkpointing import AtomicCheckpointIO, StepCheckpoint
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.memory import MEMORY_MODES
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.fit.split_optimizer import SplitOptimizer

STEPS = 20


class Watched(DreamBooth):
    """Keeps each step's loss and gradient norm."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.deferred = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        super().configure_gradient_clipping(optimizer, *args, **kwargs)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.deferred = max(self.deferred, sum(parameter.grad is None for parameter in parameters))
        self.norms.append(self.watch.grad_norm.item())


class WithoutRemainder(Watched):
    """The control: float16 weights, updated without what float16 cannot hold."""

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        for parameter in self.parameters():
            if hasattr(parameter, "split_remainder"):
                parameter.split_remainder.zero_()


def half_precision() -> list[Any]:
    # So large a scale that the first steps overflow and are skipped.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    return [MixedPrecision("16-mixed", "cpu", scaler=scaler), AtomicCheckpointIO()]


def run(tiny_sd: str, trainer: Any, memory: str, kind: type[Watched] = Watched, **options: Any) -> Watched:
    folder, resume = options.pop("folder", None), options.pop("resume", None)
    callbacks = options.pop("callbacks", [])
    if folder:
        callbacks = [*callbacks, StepCheckpoint("", last_every_n_steps=1, dirpath=str(folder))]
    module = kind(
        tiny_sd,
        learning_rate=4e-5,
        optimizer=options.pop("optimizer", bitsandbytes.optim.AdamW8bit),
        memory=memory,
    )
    settings = {"max_steps": STEPS, "plugins": half_precision(), "callbacks": callbacks} | options
    trainer(**settings).fit(module, datamodule=Latents(), ckpt_path=resume)
    return module


@pytest.fixture(scope="module")
def distance() -> Any:
    def between(one: DreamBooth, other: DreamBooth) -> float:
        state, others = one.state_dict(), other.state_dict()
        assert state.keys() == others.keys()
        return max((state[name] - others[name]).abs().max().item() for name in state)

    return between


SMALLER = [name for name in MEMORY_MODES if name != "full"]


@pytest.fixture(scope="module")
def kept() -> dict[Any, Watched]:
    """Finished fits with float32 weights, by optimizer."""
    return {}


@pytest.mark.parametrize("memory", SMALLER)
@pytest.mark.parametrize("optimizer", [bitsandbytes.optim.AdamW8bit, torch.optim.AdamW])
def test_every_mode_trains_as_float32_weights_do(
    tiny_sd: str, trainer: Any, distance: Any, kept: dict[Any, Watched], optimizer: Any, memory: str
) -> None:
    if optimizer not in kept:
        kept[optimizer] = run(tiny_sd, trainer, "full", optimizer=optimizer)
    full = kept[optimizer]
    smaller = run(tiny_sd, trainer, memory, optimizer=optimizer)
    finite = [norm for norm in full.norms if norm < float("inf")]
    assert 0 < len(finite) < STEPS, "some steps are skipped, some are not"
    assert max(finite) > 1, "clipping acts"
    assert smaller.losses == full.losses
    assert [norm for norm in smaller.norms if norm < float("inf")] == finite
    assert smaller.loss_scaler.get_scale() == full.loss_scaler.get_scale()
    assert distance(full, smaller) < 1e-9
    assert (smaller.deferred > 0) == (MEMORY_MODES[memory].defer is not None)


def test_float16_weights_alone_do_not(
    tiny_sd: str, trainer: Any, distance: Any, kept: dict[Any, Watched]
) -> None:
    kind = bitsandbytes.optim.AdamW8bit
    full = kept.get(kind) or run(tiny_sd, trainer, "full", optimizer=kind)
    control = run(tiny_sd, trainer, "split", WithoutRemainder, optimizer=kind)
    assert control.losses != full.losses
    assert distance(full, control) > 1e-5


def test_runs_go_from_one_memory_to_the_other(
    tiny_sd: str, trainer: Any, tmp_path: Path, distance: Any
) -> None:
    unbroken = run(tiny_sd, trainer, "full")
    losses, resume = [], None
    modes = [*MEMORY_MODES, "full"]
    for number, memory in enumerate(modes, 1):
        part = run(
            tiny_sd,
            trainer,
            memory,
            folder=tmp_path,
            resume=resume,
            max_steps=STEPS * number // len(modes),
        )
        losses += part.losses
        resume = tmp_path / "last.ckpt"
        saved = read_checkpoint(resume)
        assert saved["recipe"]["memory"] == memory
        assert {tensor.dtype for tensor in saved["state_dict"].values()} == {torch.float32}
    assert losses == unbroken.losses
    assert distance(unbroken, part) < 1e-9


def test_grids_and_the_dial_leave_split_weights_as_they_are(
    tiny_sd: str, trainer: Any, distance: Any
) -> None:
    plain = run(tiny_sd, trainer, "split", max_steps=4)
    groups = {"a": {"prompts": "a tree", "seeds": "0"}}
    grid = SeedGrid("2,4", groups, num_inference_steps=2, drift_dial="0,0.5,1")
    watched = run(tiny_sd, trainer, "split", max_steps=4, callbacks=[grid])
    assert watched.losses == plain.losses
    assert distance(plain, watched) == 0
    changes = plain.weight_changes()
    full = run(tiny_sd, trainer, "full", max_steps=4)
    assert changes == pytest.approx(full.weight_changes(), rel=1e-5)
    assert changes["unet"] > 0


def test_a_weight_that_grows_past_float16_ends_the_fit_in_a_sentence(tiny_sd: str, trainer: Any) -> None:
    class Growing(Watched):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            if len(self.losses) == STEPS - 4:
                parameter = next(p for p in self.unet.parameters() if hasattr(p, "split_remainder"))
                parameter.data.view(-1)[:64] = 65504  # of which some are moved up
                optimizer.param_groups[0]["lr"] = 1e4

        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            self.check_finite()

    with pytest.raises(UserError, match=r"model\.memory: a weight has grown past 65504"):
        run(tiny_sd, trainer, "split", Growing)


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"plugins": [AtomicCheckpointIO()]}, "split keeps the weights as float16 mixed precision"),
        ({"accumulate_grad_batches": 2}, "split has float16 gradients"),
        ({"gradient_clip_algorithm": "value"}, "split clips by norm alone"),
        (
            {"callbacks": [GradientAccumulationScheduler({0: 2})]},
            "split has float16 gradients, and GradientAccumulationScheduler adds up",
        ),
        (
            {"callbacks": [EMAWeightAveraging()]},
            "split keeps each weight in two halves, of which EMAWeightAveraging would see one",
        ),
        ({"optimizer": torch.optim.SGD}, "split updates one tensor at a time, which SGD may not allow"),
    ],
)
def test_what_would_make_other_numbers_is_refused(
    tiny_sd: str, trainer: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=f"model.memory: {sentence}"):
        run(tiny_sd, trainer, "split", **options)


def test_a_step_updates_every_weight(tiny_sd: str, trainer: Any) -> None:
    before = {
        name: tensor.clone()
        for name, tensor in run(tiny_sd, trainer, "full", max_steps=1).state_dict().items()
    }
    module = run(tiny_sd, trainer, "split", max_steps=8)
    assert isinstance(module.optimizers(use_pl_optimizer=False), SplitOptimizer)
    after = module.state_dict()
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert not [name for name in still if "weight" in name and "embed" not in name]


@pytest.mark.parametrize("memory", ["full", "split"])
def test_an_optimizer_that_unscales_by_itself_would_clip_scaled_gradients(
    tiny_sd: str, trainer: Any, memory: str
) -> None:
    module = DreamBooth(tiny_sd, optimizer=torch.optim.AdamW, optimizer_args={"fused": True}, memory=memory)
    with pytest.raises(UserError, match="fused takes the loss scale off the gradients after") as told:
        trainer(max_steps=1, plugins=half_precision()).fit(module, datamodule=Latents())
    assert told.value.option == "model.optimizer_args"
