"""Classes that a configuration brings along: what a command can run, and which of them failed."""

from pathlib import Path
from types import TracebackType

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from torch.optim import Optimizer

from lightning_drift import DreamBooth, InstanceImages
from lightning_drift.common.errors import UserError
from lightning_drift.common.text import reason
from lightning_drift.fit.configuration import class_at

_OPTIONS = {
    Callback: "trainer.callbacks",
    Logger: "trainer.logger",
    Profiler: "trainer.profiler",
    Optimizer: "model.optimizer",
}
_KINDS = tuple(_OPTIONS)


def check_method(command: str, class_path: str, data: str) -> None:
    """Refuse a module that a command cannot run, before anything is made.

    Args:
        command: ``fit``, ``validate`` or ``predict``.
        class_path: What ``model`` names.
        data: What ``data`` names.

    Raises:
        UserError: A DreamBooth alone learns photos and is validated; ``predict`` runs what makes pictures.
    """
    kind = class_at(class_path)
    if not isinstance(kind, type):
        return  # whoever makes it says so
    if command == "predict":
        if issubclass(kind, LightningModule) and kind.predict_step is LightningModule.predict_step:
            raise UserError(
                f"{kind.__name__} makes no pictures; give lightning_drift.Dreamer, "
                "lightning_drift.SweepDreamer, lightning_drift.SupirUpscaler or lightning_drift.OpenUpscaler",
                "model",
            )
    elif not issubclass(kind, DreamBooth) and (command != "fit" or class_at(data) is InstanceImages):
        raise UserError(
            f"{kind.__name__} cannot be fine-tuned; give lightning_drift.DreamBooth, or a class of yours "
            "that extends it",
            "model",
        )


def failed_class(error: BaseException) -> UserError | None:
    """What to say of an exception that a callback, a logger, a profiler or an optimizer let out.

    Args:
        error: What ended the command.

    Returns:
        A sentence with the place in the code; None if the exception is of something else.
    """
    culprit: object | None = None
    trace: TracebackType | None = error.__traceback__
    place = ""
    while trace is not None:
        frame = trace.tb_frame.f_locals
        for candidate in (frame.get("callback"), frame.get("self")):
            own = type(candidate).__module__.startswith("lightning_drift.")
            if isinstance(candidate, _KINDS) and not own:
                culprit = candidate
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    option = next((name for kind, name in _OPTIONS.items() if isinstance(culprit, kind)), None)
    if option is None:
        return None
    name = type(culprit).__name__
    return UserError(f"{name} failed: {reason(error)} ({type(error).__name__} in {place})", option)
