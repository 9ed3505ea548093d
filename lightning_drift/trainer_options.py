"""The Trainer's options and the seed, checked before anything is loaded."""

import inspect
import os
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_drift.common.errors import UserError
from lightning_drift.common.meeting import agreed
from lightning_drift.common.numbers import MAX_SEED_EVERYTHING, real, shown, whole
from lightning_drift.common.ranks import Launched, launched

_MOST = 2**53
_WHOLE = {
    "num_nodes": (1, 100_000),
    "max_steps": (-1, _MOST),
    "min_steps": (0, _MOST),
    "max_epochs": (-1, _MOST),
    "min_epochs": (0, _MOST),
    "check_val_every_n_epoch": (1, _MOST),
    "num_sanity_val_steps": (-1, _MOST),
    "log_every_n_steps": (0, _MOST),
    "accumulate_grad_batches": (1, 1_000_000),
    "reload_dataloaders_every_n_epochs": (0, _MOST),
}
_REAL = {
    "limit_train_batches": (0, _MOST),
    "limit_val_batches": (0, _MOST),
    "limit_test_batches": (0, _MOST),
    "limit_predict_batches": (0, _MOST),
    "overfit_batches": (0, _MOST),
    "gradient_clip_val": (0, None),
}
_CLUSTER = {"MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "TORCHELASTIC_RUN_ID"}
"""Variables of the launchers that tell a process of its fellows on other computers."""


def check_trainer(options: Any) -> None:
    """Refuse numbers out of range, which the Trainer would take or fail at late.

    Args:
        options: The Trainer's options by name; those that are missing or None are the Trainer's own matter.

    Raises:
        UserError: A number is out of its option's range, there are fewer CPU cores than processes, or the fit
            would wait or go on for ever.
    """
    for name, (low, high) in _WHOLE.items():
        if (value := options.get(name)) is not None:
            whole(value, f"trainer.{name}", low, high)
    for name, (least, most) in _REAL.items():
        if (value := options.get(name)) is not None:
            real(value, f"trainer.{name}", least, most)
    trial = options.get("fast_dev_run")
    if trial is not None and not isinstance(trial, bool):
        whole(trial, "trainer.fast_dev_run", 0, _MOST)
    if (options.get("num_nodes") or 1) > 1 and not _CLUSTER & os.environ.keys():
        raise UserError(
            f"{options['num_nodes']} computers find each other by MASTER_ADDR, which is not set; start each "
            "with torchrun, or leave this at 1",
            "trainer.num_nodes",
        )
    batches = options.get("limit_train_batches")
    endless = not isinstance(batches, int) and not options.get("overfit_batches")
    if endless and options.get("max_steps") == -1 and (options.get("max_epochs") or 0) > 0:
        raise UserError(
            "the photos come round without an end, and no epoch is ever over; give trainer.max_steps",
            "trainer.max_epochs",
        )
    if (place := launched()) is not None:
        check_count(place, _devices(options.get("devices")), options.get("num_nodes") or 1)
    interval = options.get("val_check_interval")
    if isinstance(interval, int | float):
        real(interval, "trainer.val_check_interval", above=0)
    _check_processes(str(options.get("accelerator")), str(options.get("devices")))


def check_count(place: Launched, devices: int | None, nodes: int) -> None:
    """Refuse a Trainer that would count fewer or more processes than were started.

    Args:
        place: How this process was started.
        devices: The Trainer's devices on each computer; None where only the Trainer itself can tell.
        nodes: Its computers.

    Raises:
        UserError: They differ; the message tells what to give.
    """
    if devices is None or (devices, nodes) == (place.per_node, place.nodes):
        return
    what = "each would train by itself" if devices * nodes == 1 else "they would wait for ever"
    started = f"{place.by} has started {place.world_size} process{'es' * (place.world_size > 1)}"
    raise UserError(
        f"{started} on {_computers(place.nodes)}, and the Trainer counts {devices} on {_computers(nodes)}: "
        f"{what}; give --trainer.devices {place.per_node} --trainer.num_nodes {place.nodes}",
        "trainer.devices" if devices != place.per_node else "trainer.num_nodes",
    )


def _computers(count: int) -> str:
    return f"{count} computer{'s' * (count != 1)}"


def _devices(given: object) -> int | None:
    """How many devices an option names; None for all that there are."""
    if isinstance(given, list):
        return len(given)
    text = str(given)
    if re.fullmatch(r"[1-9][0-9]{0,8}", text):
        return int(text)
    if re.fullmatch(r"[0-9]+(,[0-9]*)+", text):  # their numbers
        return len([number for number in text.split(",") if number])
    return None


def _check_processes(accelerator: str, devices: str) -> None:
    """Refuse more processes on CPU cores than there are; each holds a whole model."""
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        most = max(2, os.cpu_count() or 1)
        if re.fullmatch(r"\d{1,9}", devices) and int(devices) > most:
            raise UserError(
                f"{devices} processes on {most} CPU cores would each hold the model; give at most {most}",
                "trainer.devices",
            )


def check_seed(seed: object) -> None:
    """Refuse what is no seed of a run.

    Raises:
        UserError: It is neither true, false nor a whole number below 2**32.
    """
    if not isinstance(seed, bool):
        whole(seed, "seed_everything", 0, MAX_SEED_EVERYTHING)


def chosen_seed(seed: bool | int | None) -> int:
    """The number that ``seed_everything`` stands for: true chooses one, once for all processes of a run.

    False leaves the generators of the libraries as they are. What this package draws follows from a seed all
    the same, which then is 0.

    Raises:
        UserError: The environment names what is no seed.
    """
    if seed is True:
        if "PL_GLOBAL_SEED" not in os.environ:
            os.environ["PL_GLOBAL_SEED"] = str(
                agreed("seed", lambda: secrets.randbelow(MAX_SEED_EVERYTHING + 1))
            )
        chosen = os.environ["PL_GLOBAL_SEED"]
        if not re.fullmatch(r"[0-9]{1,10}", chosen):
            raise UserError(
                f"{shown(chosen)} is not a seed; unset it, or give a whole number", "PL_GLOBAL_SEED"
            )
        return whole(int(chosen), "PL_GLOBAL_SEED", 0, MAX_SEED_EVERYTHING)
    return int(seed or 0)


def refuse_nulls(kind: object, values: Mapping[str, Any], section: str) -> None:
    """Refuse ``null`` for an option that has no such value; the parser lets it pass.

    Args:
        kind: The class whose options these are; anything else is left alone.
        values: Its options.
        section: What their names begin with, such as ``model``.

    Raises:
        UserError: A value is null where the class expects another.
    """
    if not isinstance(kind, type):
        return
    try:
        hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):  # a user's class, whose hints are for its reader only
        return
    parameters = inspect.signature(kind).parameters
    for name, value in values.items():
        if (
            value is not None
            or name not in parameters
            or name not in hints
            or parameters[name].default is None
        ):
            continue
        if hints[name] not in (Any, object, None) and type(None) not in get_args(hints[name]):
            raise UserError(
                "null is none of its values; give one, or leave it out for its default", f"{section}.{name}"
            )


def made(name: str, option: str, make: Callable[[], Any]) -> Any:
    """Make an object of a class that a configuration names, whose constructor may refuse its arguments.

    Raises:
        UserError: It does.
    """
    try:
        return make()
    except UserError:
        raise
    # Lightning's and users' constructors report bad arguments with any of these.
    except (
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        ImportError,
        RuntimeError,
        MisconfigurationException,
    ) as error:
        raise UserError(f"{name} refuses its options: {' '.join(str(error).split())}", option) from error
