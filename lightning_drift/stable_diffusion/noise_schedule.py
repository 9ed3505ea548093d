"""The noise schedule of a pipeline, checked where it is read, and what single files say of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.numbers import shown
from lightning_drift.common.yaml_files import read_yaml
from lightning_drift.weights.configs import describing

MAX_TIMESTEPS = 100_000
"""Training timesteps at most; Stable Diffusion 1.x has 1000."""

_CHOICES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}
_PREDICTS = {
    **dict.fromkeys(("v", "v_prediction", "v-prediction", "v_pred"), "v_prediction"),
    **dict.fromkeys(("eps", "epsilon"), "epsilon"),
}
MARKERS = ("v_pred", "ztsnr")
"""Keys that trainers put beside the weights: the model predicts v; its last step is pure noise."""


def check_schedule(config: Any, name: str) -> dict[str, Any]:
    """The config of a scheduler, if both samplers and the training can work with it.

    Args:
        config: As in ``scheduler_config.json``.
        name: What messages call it, such as its file.

    Raises:
        UserError: It is damaged or describes an unknown schedule.
    """
    if not isinstance(config, dict):
        raise UserError(f"{name} is not a config: it holds {shown(config)}")

    def refuse(key: str, due: str) -> UserError:
        return UserError(f"{name} is damaged: {key} is {shown(config[key])}, not {due}")

    for key, choices in _CHOICES.items():
        if key in config and not (isinstance(config[key], str) and config[key] in choices):
            raise refuse(key, " or ".join(choices))
    steps = config.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 1 <= steps <= MAX_TIMESTEPS:
        raise refuse("num_train_timesteps", f"a number from 1 to {MAX_TIMESTEPS}")
    for key in ("beta_start", "beta_end"):
        if key in config and not _is_beta(config[key]):
            raise refuse(key, "a number between 0 and 1")
    betas = config.get("trained_betas")
    if betas is not None and not (
        isinstance(betas, list) and len(betas) == steps and all(map(_is_beta, betas))
    ):
        raise refuse("trained_betas", f"{steps} numbers between 0 and 1")
    with describing(name, "noise schedule"):
        for kind in (DDIMScheduler, DDPMScheduler):
            if not torch.isfinite(kind.from_config(config).alphas_cumprod).all():
                raise ValueError("it is not finite")
    return config


def _is_beta(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1


def stated_schedule(
    config: Mapping[str, Any], shapes: Mapping[str, Any], metadata: Mapping[str, str], path: Path
) -> dict[str, Any]:
    """SD v1.5's noise schedule with what a single file and its neighbours say of it.

    What the model predicts is said by ``modelspec.prediction_type`` among the metadata, by a key ``v_pred``
    beside the weights, or, as A1111 and Forge have it, by ``parameterization`` in a ``.yaml`` of the file's
    name beside it, which may also give the betas. A notice tells when nothing says it.

    Args:
        config: SD v1.5's schedule.
        shapes: The file's tensors, by name.
        metadata: The file's metadata.
        path: The file.

    Raises:
        UserError: They contradict each other, or the ``.yaml`` is damaged or describes another training.
    """
    schedule = dict(config)
    said: dict[str, str] = {}
    spec = metadata.get("modelspec.prediction_type")
    if spec in _PREDICTS:
        said["its metadata (modelspec.prediction_type)"] = _PREDICTS[spec]
    if "v_pred" in shapes:
        said["its key v_pred"] = "v_prediction"
    if "ztsnr" in shapes:
        schedule["rescale_betas_zero_snr"] = True
    for file, params in _neighbours(path):
        if (value := params.get("parameterization")) is not None:
            if not isinstance(value, str) or value not in _PREDICTS:
                raise UserError(f"{file} says parameterization: {shown(value)}; only eps and v are read")
            said[str(file)] = _PREDICTS[value]
        for theirs, ours in (
            ("linear_start", "beta_start"),
            ("linear_end", "beta_end"),
            ("timesteps", "num_train_timesteps"),
        ):
            if params.get(theirs) is not None:
                schedule[ours] = params[theirs]
        check_schedule(schedule, str(file))
    if len(set(said.values())) > 1:
        words = " and ".join(f"{kind} by {place}" for place, kind in said.items())
        raise UserError(f"{path} is said to predict {words}; correct the one that is wrong")
    if said:
        schedule["prediction_type"] = next(iter(said.values()))
    else:
        notice(
            f"{path.name} does not say what it predicts; taken for epsilon, as SD v1.5 does. If it is v, say "
            f"so in {path.stem}.yaml beside it: model: {{params: {{parameterization: v}}}}"
        )
    return schedule


def _neighbours(path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The configurations of LDM's form beside a file, and their parameters."""
    for suffix in (".yaml", ".yml"):
        file = path.with_name(path.stem + suffix)
        if file.is_file():
            model = _mapping(read_yaml(file, "model's configuration")).get("model")
            yield file, _mapping(_mapping(model).get("params"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
