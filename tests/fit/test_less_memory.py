"""What a fit that has run out of memory is told to take."""

from types import SimpleNamespace
from typing import Any

import bitsandbytes
import numpy as np
import pytest
import torch
from helpers.full_memory import full_above
from helpers.grids import GridHistory
from helpers.stand_ins import Latents

from lightning_drift.common.out_of_memory import GPU, HOST, Exhausted, Remedy
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.less_memory import less_for_a_grid, less_for_a_step
from lightning_drift.fit.memory import MEMORY_MODES
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.stable_diffusion.sampling import Sampling

ON_GPU, ON_HOST = Exhausted(GPU), Exhausted(HOST)


def fit(device: str = "cuda", precision: str = "16-mixed", batch: int = 1, **options: Any) -> Any:
    trainer = SimpleNamespace(
        accumulate_grad_batches=options.pop("accumulate", 1),
        gradient_clip_val=1.0,
        gradient_clip_algorithm=None,
        world_size=1,
        callbacks=[],
        precision=precision,
        state=SimpleNamespace(fn=options.pop("command", "fit")),
        datamodule=SimpleNamespace(batch_size=batch, side=512),
    )
    return SimpleNamespace(
        memory=options.pop("memory", "full"),
        optimizer=options.pop("optimizer", bitsandbytes.optim.AdamW8bit),
        loss_scaler=object() if precision == "16-mixed" and device == "cuda" else None,
        device=torch.device(device),
        resolution=512,
        trainer=trainer,
    )


def test_a_step_on_a_gpu_is_led_through_the_memory_modes() -> None:
    mode, told = "full", []
    while (
        remedy := less_for_a_step(fit(memory=mode), ON_GPU)
    ) is not None and "model.memory" in remedy.options:
        mode = remedy.options["model.memory"]
        assert remedy.words == [f"--model.memory={mode}"]
        told.append(mode)
    assert ["full", *told] == list(MEMORY_MODES)
    assert remedy == Remedy("lower data.resolution, which is 512")


SAME = "the same photos in every step"


@pytest.mark.parametrize(
    ("module", "full", "sentence"),
    [
        (fit("cpu", "32-true"), ON_HOST, "lower data.resolution, which is 512"),
        (
            fit("cpu", "32-true", batch=4),
            ON_HOST,
            f"set data.batch_size 2 and trainer.accumulate_grad_batches 2: {SAME}",
        ),
        (
            fit(batch=3, accumulate=2),  # accumulated float16 gradients are no sum of float32 ones
            ON_GPU,
            f"set data.batch_size 1 and trainer.accumulate_grad_batches 6: {SAME}",
        ),
        (fit(batch=4, memory="paged"), ON_GPU, "set data.batch_size 2"),
        (fit(precision="32-true"), ON_GPU, "set trainer.precision 16-mixed, and then model.memory split"),
        (fit(optimizer=torch.optim.SGD), ON_GPU, "lower data.resolution, which is 512"),
        (
            fit(memory="paged"),
            ON_HOST,
            "set model.memory recompute, which takes more of the GPU's and less of this",
        ),
    ],
)
def test_where_no_mode_is_allowed_something_else_is_named(
    module: Any, full: Exhausted, sentence: str
) -> None:
    remedy = less_for_a_step(module, full)
    assert remedy is not None
    assert remedy.sentence == sentence


def test_the_state_of_a_plain_adam_is_named_where_its_update_does_not_fit() -> None:
    plain = fit(precision="bf16-mixed", optimizer=torch.optim.AdamW)
    remedy = less_for_a_step(plain, ON_GPU, updating=True)
    assert remedy is not None
    assert "model.optimizer bitsandbytes.optim.AdamW8bit" in remedy.sentence
    assert hasattr(bitsandbytes.optim, "AdamW8bit")
    assert less_for_a_step(fit(), ON_HOST) is None  # of the computer's memory a fit on a GPU takes little


def test_a_grid_beside_the_training_takes_a_mode_and_else_smaller_pictures() -> None:
    sampling = Sampling(width=640)
    assert less_for_a_grid(fit(), ON_GPU, sampling).options == {"model.memory": "split"}
    smaller = Remedy("lower seed_grid.width and seed_grid.height, which are 640x512")
    assert less_for_a_grid(fit(command="validate"), ON_GPU, sampling) == smaller
    assert less_for_a_grid(fit("cpu", "32-true"), ON_HOST, sampling) == smaller


def test_a_grid_that_does_not_fit_is_halved_once_for_the_whole_run(
    tiny_sd: str, trainer: Any, capsys: Any
) -> None:
    groups = {"dream": {"prompts": "a tree", "seeds": "0-7"}}

    def run(most: int) -> tuple[dict[int, Any], list[int]]:
        grid, history = SeedGrid("0,1", groups, num_inference_steps=1, batch_size=8), GridHistory()
        grid.listeners.append(history)
        with full_above(most) as given:
            module = DreamBooth(tiny_sd, learning_rate=1e-3)
            trainer(max_steps=1, callbacks=[grid]).fit(module, datamodule=Latents())
        return history.images, [count for count in given if count > 1]

    whole, _ = run(64)
    assert "was full" not in capsys.readouterr().err
    halved, given = run(5)  # guidance gives the UNet two of each
    assert given == [16, 8, *[4] * 8]
    said = [line for line in capsys.readouterr().err.splitlines() if "was full" in line]
    assert said == [
        "lightning-drift: the computer's memory was full with 8 pictures at a time; from here on there are 2 "
        "(seed_grid.batch_size 2 saves the attempt)"
    ]
    for step in (0, 1):
        for key, picture in whole[step].items():
            difference = np.asarray(picture, dtype=int) - np.asarray(halved[step][key])
            assert abs(difference).max() <= 1


def test_a_dial_that_does_not_fit_costs_its_row_only(
    tiny_sd: str, trainer: Any, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("lightning_drift.fit.drift_rows.dial_row", lambda *_: torch.empty(2**58))
    groups = {"dream": {"prompts": "a tree", "seeds": "0"}}
    grid = SeedGrid("1", groups, num_inference_steps=1, drift_dial="0.5")
    run = trainer(max_steps=2, callbacks=[grid])
    run.fit(DreamBooth(tiny_sd), datamodule=Latents())
    assert run.global_step == 2
    said = capsys.readouterr().err
    assert (
        "cannot make the dial's row at step 1: the computer's memory is full. 1073741824.00 GiB more" in said
    )


def test_a_base_that_does_not_fit_beside_the_model_costs_maps_and_row_only(
    tiny_sd: str, trainer: Any, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(
        "lightning_drift.stable_diffusion.with_base.torch.lerp", lambda *_: torch.empty(2**58)
    )
    monkeypatch.setattr("lightning_drift.stable_diffusion.with_base.drift_map", lambda *_: torch.empty(2**58))
    groups = {"dream": {"prompts": "a tree", "seeds": "0"}}
    grid = SeedGrid("1", groups, num_inference_steps=1, sampling_drift="0.5", drift_map=True)
    history = GridHistory()
    grid.listeners.append(history)
    run = trainer(max_steps=2, callbacks=[grid])
    run.fit(DreamBooth(tiny_sd), datamodule=Latents())
    assert run.global_step == 2
    assert list(history.images[1]) == [("a tree", 0)]
    said = capsys.readouterr().err
    assert "cannot make maps: the computer's memory is full" in said
    assert "cannot make the sampling's row at step 1: the computer's memory is full" in said
