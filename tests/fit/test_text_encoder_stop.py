"""The text encoder stops at a step: it is trained as ever until then, and stands still afterwards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from helpers.bits import assert_same_bits, tensors
from helpers.commands import scalars
from helpers.fits import fit
from helpers.replays import run_again
from helpers.stand_ins import Latents
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.common.text import duration
from lightning_drift.corridor.recipe import options
from lightning_drift.corridor.recorded_run import RecordedRun
from lightning_drift.corridor.table import CorridorTable
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.checkpointing import AtomicCheckpointIO, StepCheckpoint
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.memory import MEMORY_MODES
from lightning_drift.fit.trainable_model import check_trainer
from lightning_drift.forecast.plan import FitPlan, Times
from lightning_drift.forecast.rehearsal import Scene, rehearse
from lightning_drift.stable_diffusion.loading import empty_opened, open_pipeline

STEPS, STOP = 9, 5


class Watched(DreamBooth):
    """Keeps each step's loss, its gradient norm and how many weights of the text encoder have a gradient."""

    def on_train_start(self) -> None:
        super().on_train_start()
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.graded: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        super().configure_gradient_clipping(optimizer, *args, **kwargs)
        self.graded.append(sum(p.grad is not None for p in self.text_encoder.parameters()))
        self.norms.append(self.watch.grad_norm.item())


class Replayed(Watched):
    """Runs a step again where a graph would be replayed: into the same gradients, from the same inputs."""

    captures = 0

    def on_train_start(self) -> None:
        super().on_train_start()
        self._graph = self.step_graph(self.record)

    def record(self, step: Callable[[], None], free: Callable[[], None]) -> Callable[[], None]:
        type(self).captures += 1
        return run_again(self, self._graph, step, free)


def run(
    tiny_sd: str, trainer: Any, folder: Path, kind: type[Watched] = Watched, half: bool = False, **model: Any
) -> tuple[Watched, dict[int, dict[str, Any]]]:
    """A fit, and its checkpoints at the stop and at the end."""
    saver = StepCheckpoint(f"{STOP},{STEPS}", last_every_n_steps=0, dirpath=str(folder))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)  # the first steps overflow and are skipped
    plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler)] if half else []
    module = kind(tiny_sd, learning_rate=1e-3, **{"optimizer": bitsandbytes.optim.AdamW8bit} | model)
    trainer(max_steps=STEPS, callbacks=[saver], plugins=[*plugins, AtomicCheckpointIO()]).fit(
        module, datamodule=Latents()
    )
    return module, {step: read_checkpoint(folder / f"step={step:05d}.ckpt") for step in (STOP, STEPS)}


def part(checkpoint: dict[str, Any], name: str) -> dict[str, Tensor]:
    return {k: v for k, v in checkpoint["state_dict"].items() if k.startswith(f"{name}.")}


def states(checkpoint: dict[str, Any], group: int) -> dict[int, Any]:
    """The optimizer's state of a part: 0 is the UNet, 1 the text encoder."""
    saved = checkpoint["optimizer_states"][0]
    return {index: saved["state"].get(index) for index in saved["param_groups"][group]["params"]}


def moved(checkpoints: dict[int, dict[str, Any]], name: str) -> bool:
    one, other = (part(checkpoints[step], name) for step in (STOP, STEPS))
    return any(not torch.equal(tensor, other[key]) for key, tensor in one.items())


@pytest.mark.parametrize("optimizer", [bitsandbytes.optim.AdamW8bit, torch.optim.AdamW])
def test_it_is_trained_as_ever_until_its_stop_and_stands_still_afterwards(
    tiny_sd: str, trainer: Any, tmp_path: Path, optimizer: Any
) -> None:
    decay = {"optimizer": optimizer, "optimizer_args": {"weight_decay": 0.1}}
    never, all_steps = run(tiny_sd, trainer, tmp_path / "a", **decay)
    stopped, checkpoints = run(tiny_sd, trainer, tmp_path / "b", train_text_encoder_steps=STOP, **decay)
    for key, value in all_steps[STOP]["state_dict"].items():
        assert torch.equal(checkpoints[STOP]["state_dict"][key], value), key
    assert stopped.losses[: STOP + 1] == never.losses[: STOP + 1]  # the last is of the weights at the stop
    assert stopped.losses[STOP + 1 :] != never.losses[STOP + 1 :]
    assert moved(all_steps, "text_encoder")
    assert not moved(checkpoints, "text_encoder")
    assert moved(checkpoints, "unet")
    rests, rested = (tensors(states(checkpoints[step], 1)) for step in (STOP, STEPS))
    assert rests.keys() == rested.keys()
    assert all(torch.equal(tensor, rested[key]) for key, tensor in rests.items())
    # Nothing of it is computed, and the norm is that of the rest.
    assert [count > 0 for count in stopped.graded] == [True] * STOP + [False] * (STEPS - STOP)
    assert stopped.norms[:STOP] == never.norms[:STOP]
    assert stopped.norms[STOP] < never.norms[STOP]
    assert checkpoints[STEPS]["recipe"]["train_text_encoder_steps"] == STOP


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("memory", [*MEMORY_MODES])
def test_every_memory_mode_stops_it(
    tiny_sd: str, trainer: Any, tmp_path: Path, kept: dict[str, Any], memory: str
) -> None:
    options = {"memory": memory, "train_text_encoder_steps": STOP}
    module, checkpoints = run(tiny_sd, trainer, tmp_path, half=True, **options)
    assert moved(checkpoints, "unet")
    assert not moved(checkpoints, "text_encoder")
    kept.setdefault("full", module)
    assert module.losses == kept["full"].losses
    assert str(module.norms) == str(kept["full"].norms)  # as text: a skipped step's norm is NaN
    state, full = module.state_dict(), kept["full"].state_dict()
    assert max((state[name] - full[name]).abs().max().item() for name in state) < 1e-9


@pytest.mark.parametrize("broken", [STOP - 1, STOP + 2])
def test_a_resumed_fit_stops_it_as_the_unbroken_one_does(
    tiny_sd: str, trainer: Any, tmp_path: Path, kept: dict[str, Any], broken: int
) -> None:
    options = {"accumulate": 2, "model": {"train_text_encoder_steps": STOP}, "save": f"{STOP}"}

    def one(folder: str, steps: int, resume: Path | None = None) -> dict[str, Any]:
        return fit(tiny_sd, trainer, tmp_path / folder, steps, resume, **options)

    whole = kept.get("whole") or one("whole", STEPS)
    kept["whole"] = whole
    one("broken", broken)
    assert_same_bits(whole, one("broken", STEPS, tmp_path / "broken/last.ckpt"))


def test_a_graph_of_the_step_is_captured_again_without_it(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    eager, _ = run(tiny_sd, trainer, tmp_path / "a", train_text_encoder_steps=STOP)
    graphed, checkpoints = run(tiny_sd, trainer, tmp_path / "b", Replayed, train_text_encoder_steps=STOP)
    assert (Replayed.captures, graphed._graph.refused) == (2, False)
    assert (graphed.losses, graphed.norms) == (eager.losses, eager.norms)
    assert not moved(checkpoints, "text_encoder")
    for key, value in eager.state_dict().items():
        assert torch.equal(graphed.state_dict()[key], value), key


def test_a_module_that_is_fitted_again_trains_it_again(tiny_sd: str, trainer: Any) -> None:
    module = Watched(tiny_sd, learning_rate=1e-3, train_text_encoder_steps=1)
    for _ in range(2):
        trainer(max_steps=2).fit(module, datamodule=Latents())
        assert [count > 0 for count in module.graded] == [True, False]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"train_text_encoder_steps": 0}, "0 is out of range; give 1 or more"),
        ({"train_text_encoder_steps": -3}, "-3 is out of range; give 1 or more"),
        ({"train_text_encoder_steps": True}, "True is not a whole number"),
        (
            {"train_text_encoder_steps": 400, "train_text_encoder": False},
            r"the text encoder is frozen \(model.train_text_encoder false\) and cannot stop at step 400",
        ),
    ],
)
def test_a_stop_that_is_none_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=rf"model\.train_text_encoder_steps: {sentence}"):
        DreamBooth(**options)


def test_several_devices_are_refused(tiny_sd: str) -> None:
    class Two:
        world_size, precision, datamodule = 2, "32-true", Latents()

    with pytest.raises(UserError, match=r"model\.train_text_encoder_steps: there are 2 devices"):
        check_trainer(DreamBooth(tiny_sd, train_text_encoder_steps=3), Two(), "fit")


@pytest.mark.parametrize(
    ("begin", "end", "stop", "steps"),
    [(0, 9, 5, (9, 4)), (7, 9, 5, (2, 2)), (0, 9, 12, (9, 0)), (0, 9, None, (9, 0)), (9, 9, 5, (0, 0))],
)
def test_a_plan_counts_the_steps_after_the_stop(
    begin: int, end: int, stop: int | None, steps: tuple[int, int]
) -> None:
    plan = FitPlan([], begin, end, [0], 1, Path(), 1, 1, 1, 1, 2, stop=stop)
    assert plan.steps == steps
    plan.times = Times(3600.0, None, "asked", late=60.0)
    seconds = (steps[0] - steps[1]) * 3600 + steps[1] * 60
    assert f"steps about {duration(seconds)}" in plan.describe()


def test_a_rehearsal_tells_what_a_step_after_the_stop_computes(tiny_sd: str) -> None:
    model, scene = empty_opened(open_pipeline(tiny_sd)), Scene(side=64)
    frozen, stopped = (
        rehearse(DreamBooth("", **options), model, scene)
        for options in ({"train_text_encoder": False}, {"train_text_encoder_steps": STOP})
    )
    step, late = stopped.arithmetic("step"), stopped.arithmetic("late step")
    assert late < step
    # Without the gradient of the text encoder, whose states are known from then on, but with its group.
    assert late == pytest.approx(frozen.arithmetic("step"), rel=0.02)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"train_text_encoder": False}, "frozen"),
        ({"train_text_encoder": True}, "trained"),
        ({"train_text_encoder": True, "train_text_encoder_steps": 400}, "trained for 400 steps"),
    ],
)
def test_a_corridors_page_tells_it(model: dict[str, Any], told: str) -> None:
    run = RecordedRun("run", Path("run"), 2e-6, {"model": {"init_args": model}})
    assert options(CorridorTable(Path(), "coffee", [run], [400], {}))["text encoder"] == told


def test_its_learning_rate_is_logged_as_0_from_the_stop_on(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(str(tmp_path), name=None, version="run")
    module = DreamBooth(tiny_sd, train_text_encoder_steps=2, learning_rate=1e-3, log_every_n_steps=1)
    trainer(max_steps=4, logger=logger).fit(module, datamodule=Latents())
    points = scalars(tmp_path / "run")["train/text_encoder_learning_rate"]
    assert [rate for _, rate in points] == pytest.approx([1e-3, 1e-3, 0, 0])
