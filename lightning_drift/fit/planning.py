"""The plan of a fit: what its module, its Trainer and its callbacks will do, before it starts."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import free_bytes
from lightning_drift.common.out_of_memory import forget, give_back, is_out_of_memory
from lightning_drift.common.text import byte_size, reason
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.checkpoint_room import room_needed, saved_files
from lightning_drift.fit.checkpointing import MARGIN, StepCheckpoint
from lightning_drift.fit.memory import MEMORY_MODES
from lightning_drift.fit.runs import rate_text
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.forecast.base import Base, find_base
from lightning_drift.forecast.card import Card, affordable, needed
from lightning_drift.forecast.choice import MemoryChoice, choose_mode
from lightning_drift.forecast.plan import FitPlan
from lightning_drift.forecast.rehearsal import Phase, Rehearsal, Scene, rehearse
from lightning_drift.forecast.state import state_bytes
from lightning_drift.forecast.timing import QUICK, calculated, timed
from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.sampling import native_size

if TYPE_CHECKING:
    from lightning_drift.fit.dreambooth import DreamBooth

MODES = tuple(MEMORY_MODES)
_COPIES = 4
"""A grid's picture is written by itself, on its sheet, on the sheet over time and into the event file."""


def start(module: "DreamBooth", trainer: Any, model: StableDiffusion) -> None:
    """Choose how the weights are kept, where that is asked for, and say in two lines what a fit will take.

    Args:
        module: The module, before its weights are loaded.
        trainer: Its Trainer.
        model: The base, on the meta device.

    Raises:
        UserError: Nothing fits the device's memory, or the checkpoints do not fit the disk.
    """
    scene = scene_of(module, trainer, model, trainer.strategy.root_device.type, str(trainer.precision))
    begin = int(read_checkpoint(trainer.ckpt_path)["global_step"]) if trainer.ckpt_path else 0
    plan = plan_fit(module, trainer, Base(model), scene, begin)
    if trainer.strategy.root_device.type == "cuda":
        _forecast(module, trainer, model, scene, plan)
    else:
        _enlarge_batch(trainer, scene, plan)
        if module.memory == "auto":
            plan.memory, plan.reason = MODES[0], "the fit is not on a CUDA device"
    module.memory = plan.memory
    for line in plan.summary():
        notice(line)
    if plan.lacks_disk:
        raise UserError(
            f"this fit could not end: its checkpoints take up to {byte_size(plan.room or 0)} and "
            f"{byte_size(plan.free)} are free in {plan.folder}. Make room, set step_checkpoint.keep or fewer "
            "steps, or renew last.ckpt at the end only (last_every_n_steps 0)",
            "step_checkpoint",
        )


def _forecast(module: Any, trainer: Any, model: StableDiffusion, scene: Scene, plan: FitPlan) -> None:
    """Count the mode that was asked for, or as many as it takes to choose one."""
    card = Card.here(trainer.strategy.root_device)
    limit = affordable(card.free) if module.memory == "auto" else math.inf
    count = partial(rehearse_mode, module, trainer, model, scene, limit)
    try:
        if module.memory == "auto":
            choice = choose(scene, count, card)
            plan.memory, plan.reason, plan.rehearsals = choice.mode, choice.reason, choice.rehearsals
        else:
            plan.rehearsals = {module.memory: count(module.memory)}
        _enlarge_batch(trainer, scene, plan, count, card)
    except UserError:
        raise
    except Exception as error:  # an optimizer that looks at numbers
        plan.memory = MODES[0] if module.memory == "auto" else module.memory
        plan.reason = f"the memory of this fit cannot be forecast: {type(error).__name__}"


def _enlarge_batch(
    trainer: Any,
    scene: Scene,
    plan: FitPlan,
    count: Callable[[str], Rehearsal] | None = None,
    card: Card | None = None,
) -> None:
    """Give a grid whose batch size is "auto" the largest that fits the card, or a CPU's.

    Args:
        trainer: The Trainer.
        scene: What decides a step.
        plan: The plan, with its mode; the grid's forecast becomes that of the size.
        count: Counts a mode with the grid as it is.
        card: The card; None to take the largest size.
    """
    for grid in (callback for callback in trainer.callbacks if isinstance(callback, SeedGrid)):
        for size in grid.batch_sizes(scene.device):
            smaller = grid.sampling.batch_size
            grid.take_batch(size)
            if count is None or card is None:
                continue
            told = count(plan.memory)
            if needed(told.peak) > card.free:
                grid.take_batch(smaller)
                break
            plan.rehearsals[plan.memory] = told


def choose(scene: Scene, count: Callable[[str], Rehearsal], card: Card) -> MemoryChoice:
    """The mode of ``model.memory auto`` on a card.

    Raises:
        UserError: No mode fits.
    """
    if scene.world_size > 1:
        return MemoryChoice(MODES[0], f"the others are for one device, and there are {scene.world_size}")
    return choose_mode(MODES, count, card)


def rehearse_mode(
    module: Any, trainer: Any, model: StableDiffusion, scene: Scene, limit: float, mode: str
) -> Rehearsal:
    """Count a fit with its weights kept in a certain way; ``limit`` as for `rehearse`.

    Raises:
        UserError: The fit's other options exclude it.
    """
    asked, module.memory = module.memory, mode
    try:
        return rehearse(module, model, scene, _phases(trainer), limit)
    finally:
        module.memory = asked


def _phases(trainer: Any) -> list[Phase]:
    """What the callbacks compute between steps."""
    return [phase for callback in trainer.callbacks for phase in getattr(callback, "phases", list)()]


def scene_of(module: Any, trainer: Any, model: StableDiffusion, device: str, precision: str) -> Scene:
    """What decides a step's memory.

    Args:
        module: The module.
        trainer: Its Trainer.
        model: The base.
        device: The type of the device.
        precision: The Trainer's, or that of a Trainer on the device.
    """
    data: Any = getattr(trainer, "datamodule", None)
    return Scene(
        device="cuda" if device == "cuda" else "cpu",
        precision=precision,
        batch_size=getattr(data, "batch_size", 1),
        side=getattr(data, "resolution", None) or native_size(model),
        gradient_clip_val=trainer.gradient_clip_val,
        gradient_clip_algorithm=trainer.gradient_clip_algorithm,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        world_size=trainer.world_size,
        callbacks=tuple(trainer.callbacks),
    )


def plan_fit(module: "DreamBooth", trainer: Any, base: Base, scene: Scene, begin: int = 0) -> FitPlan:
    """What a fit will do, without what it takes of the device.

    Args:
        module: The module.
        trainer: Its Trainer.
        base: Its base.
        scene: What decides a step.
        begin: The step that it begins at.
    """
    callbacks: Sequence[Any] = trainer.callbacks
    saver = next((c for c in callbacks if isinstance(c, StepCheckpoint)), None)
    grid = next((c for c in callbacks if isinstance(c, SeedGrid)), None)
    end = trainer.max_steps if trainer.max_steps > 0 else None
    grids = [
        step
        for step in (grid.milestones.steps if grid is not None and grid.groups else [])
        if (step > begin or step == begin == 0) and (end is None or step <= end)
    ]
    pictures = grid.count if grid is not None else 0
    side = native_size(base.model)
    sides = (grid.sampling.height or side, grid.sampling.width or side) if grid is not None else (0, 0)
    trained = [base.model.unet, *([base.model.text_encoder] if module.train_text_encoder else [])]
    state = state_bytes(
        module.optimizer, module.optimizer_args, (p for part in trained for p in part.parameters())
    )
    size = sum(
        4 * p.numel() for part in (base.model.unet, base.model.text_encoder) for p in part.parameters()
    )
    checkpoint = None if state is None else size + state
    folder = saver.folder(trainer) if saver is not None else Path(trainer.default_root_dir)
    room = left = 0
    if saver is not None and checkpoint is not None:
        room, left = room_needed(
            saver.milestones.steps,
            saver.last_every_n_steps,
            saver.keep,
            begin,
            end,
            checkpoint,
            saved_files(folder),
        )
    return FitPlan(
        what=_what(module, trainer, base, scene, begin, end),
        begin=begin,
        end=end,
        grids=grids,
        pictures=pictures,
        folder=folder,
        checkpoint=checkpoint,
        room=None if checkpoint is None else room + MARGIN if room else 0,
        left=left,
        grid_bytes=len(grids) * pictures * _COPIES * 3 * sides[0] * sides[1],
        free=free_bytes(folder),
        memory=module.memory,
        stop=module.train_text_encoder_steps,
    )


def _what(
    module: "DreamBooth", trainer: Any, base: Base, scene: Scene, begin: int, end: int | None
) -> list[tuple[str, str]]:
    """What will run, in words."""
    data: Any = getattr(trainer, "datamodule", None)
    model = base.model
    weights = sum(p.numel() for p in model.unet.parameters())
    parts = "UNet"
    if module.train_text_encoder:
        weights += sum(p.numel() for p in model.text_encoder.parameters())
        parts = "UNet and text encoder"
    kind = module.optimizer
    clipped = f"clipped to {scene.gradient_clip_val:g}" if scene.gradient_clip_val else "not clipped"
    stop = module.train_text_encoder_steps
    until = f"; the text encoder to step {stop:,}" if stop is not None else ""
    rate = f"learning rate {rate_text(module.learning_rate)}"
    if module.train_text_encoder and module.text_encoder_learning_rate:
        rate += f" ({rate_text(module.text_encoder_learning_rate)} for the text encoder)"
    steps = f"{begin:,} to {end:,}" if end is not None else f"{begin:,} and on, without end"
    assumed = ", taken to have the shapes of SD v1.5" if base.to_fetch else ""
    photos = f"{getattr(data, 'count', 0)} in {getattr(data, 'instance_dir', '')}, {scene.side}x{scene.side}"
    what = [
        ("base", f"{module.pipeline}{assumed}"),
        ("photos", f"{photos}, {scene.batch_size} per step; prompt: {module.instance_prompt}"),
        ("steps", f"{steps}, {rate}"),
        ("trains", f"{parts}, {weights:,} weights, {scene.precision}{until}"),
        ("optimizer", f"{kind.__module__.partition('.')[0]} {kind.__name__}, gradients {clipped}"),
    ]
    callbacks: Sequence[Any] = trainer.callbacks
    for callback in callbacks:
        if isinstance(callback, SeedGrid) and callback.pictures and callback.milestones.steps:
            listed = ", ".join(map(str, callback.milestones.steps))
            sampling, counts = callback.sampling, Counter(callback.pictures.values())
            each = f"{sampling.num_inference_steps} steps"
            if set(counts) != {sampling}:
                each = ", ".join(f"{n} of {own.num_inference_steps} steps" for own, n in counts.items())
            rows = f"{callback.rows}{' with maps' if callback.drift_map else ''}"
            what.append(
                (
                    "grids",
                    f"{len(callback.pictures)} pictures{rows} at {listed}; {each}, guidance "
                    f"{sampling.guidance_scale:g}, {callback.together} together",
                )
            )
        elif isinstance(callback, StepCheckpoint):
            listed = ", ".join(map(str, callback.milestones.steps)) or "none"
            every = callback.last_every_n_steps
            often = f"every {every} steps" if every else "at the end"
            keep = f", {callback.keep} kept" if callback.keep else ""
            what.append(("checkpoints", f"{listed}{keep}; last.ckpt {often}"))
    return what


def dry_run(
    module: "DreamBooth", trainer: Any, precision: str, size: float | None = None, begin: int = 0
) -> FitPlan:
    """The whole plan of a fit, without its weights and without the hub.

    Args:
        module: The module, as it was made.
        trainer: Its Trainer, with its data.
        precision: The precision that was asked for; a Trainer without a GPU has another in its place.
        size: GiB of a card to compare with; None for the device of the Trainer.
        begin: The step that the fit begins at.

    Raises:
        UserError: The base or the photos cannot be used, or a number is out of range.
    """
    device = trainer.strategy.root_device
    card = Card.of(size) if size is not None else Card.here(device) if device.type == "cuda" else None
    trainer.datamodule.setup("fit")
    for callback in trainer.callbacks:
        callback.setup(trainer, module, "fit")
    base = find_base(module.pipeline, module.base)
    on_card = card is not None or "16" in precision
    scene = scene_of(module, trainer, base.model, "cuda" if on_card else "cpu", precision)
    plan = plan_fit(module, trainer, base, scene, begin)
    plan.card = card
    count = partial(rehearse_mode, module, trainer, base.model, scene, math.inf)
    for mode in MODES:
        try:
            plan.rehearsals[mode] = count(mode)
        except UserError as error:
            plan.refused[mode] = error.message
        except Exception as error:  # an optimizer that looks at numbers, or a precision that autocast has not
            plan.refused[mode] = f"it cannot be counted ({type(error).__name__}: {reason(error)})"
    if module.memory == "auto":
        _choose(plan, scene, card)
    if scene.device == "cpu" or (card is not None and plan.memory in plan.rehearsals):
        _enlarge_batch(trainer, scene, plan, None if scene.device == "cpu" else count, card)
        plan.what = _what(module, trainer, base, scene, plan.begin, plan.end)
    _take_times(module, trainer, base, scene, plan, size)
    _find_downloads(trainer, base, plan)
    return plan


def _choose(plan: FitPlan, scene: Scene, card: Card | None) -> None:
    """What auto takes, from what was counted already."""

    def count(mode: str) -> Rehearsal:
        if mode in plan.refused:
            raise UserError(plan.refused[mode])
        return plan.rehearsals[mode]

    if scene.device == "cpu":
        plan.memory, plan.reason = MODES[0], "the fit is not on a CUDA device"
    elif card is None:
        plan.reason = "no GPU is here to choose for; --card 8 compares with one of 8 GiB"
    else:
        try:
            choice = choose(scene, count, card)
            plan.memory, plan.reason = choice.mode, choice.reason
        except UserError as error:
            plan.reason = error.message


def _take_times(
    module: Any, trainer: Any, base: Base, scene: Scene, plan: FitPlan, size: float | None
) -> None:
    """Time a few steps where that is quick; else calculate them where the card's name tells its speed."""
    device = trainer.strategy.root_device
    grid = next((c for c in trainer.callbacks if isinstance(c, SeedGrid) and c.phases()), None)
    told = plan.rehearsals.get(plan.memory) or next(iter(plan.rehearsals.values()), None)
    if told is None:
        plan.untimed = "the step could not be counted"
        return
    arithmetic = sum(flop for flop, _ in told.work["step"])
    if size is not None:
        plan.untimed = "the card is not here"
    elif device.type == "cuda" and plan.card is not None:
        try:
            module.memory, asked = (plan.memory if plan.memory in MODES else MODES[0]), module.memory
            plan.times = timed(module, base.model, scene, grid, device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            forget(error)
            plan.times = calculated(told, grid, plan.card)
            plan.untimed = f"{plan.card.name} has no room for a step now, and how fast it is is not known"
        finally:
            module.memory = asked
            give_back()
    elif scene.device == "cuda":
        plan.untimed = "there is no GPU here to time it on"
    elif arithmetic > QUICK:
        plan.untimed = f"a step of {arithmetic / 1e12:.1f} TFLOP takes too long on this CPU to be timed"
    else:
        plan.times = timed(module, base.model, scene, grid, device)


def _find_downloads(trainer: Any, base: Base, plan: FitPlan) -> None:
    if base.to_fetch:
        parts = (base.model.unet, base.model.text_encoder, base.model.vae)
        plan.fetched[base.to_fetch] = sum(4 * p.numel() for part in parts for p in part.parameters())
    for callback in trainer.callbacks:
        plan.fetched |= getattr(callback, "to_fetch", dict)()
