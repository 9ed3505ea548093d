"""LightningCLI as this project sets it up: packaged defaults, run folders, resume rules."""

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, _InstantiatorFn
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

# Short class names on the command line resolve to what has been imported.
from lightning_drift import (
    DreamBooth,
    Dreamer,
    InstanceImages,
    OpenUpscaler,
    Prompts,
    Proofs,
    SupirUpscaler,
    Sweep,
    SweepDreamer,
    UpscaleImages,
)
from lightning_drift.assets import DEFAULTS
from lightning_drift.common import ends
from lightning_drift.common.command_line import plain
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import check_writable, user_path
from lightning_drift.common.meeting import agreed, cause_of
from lightning_drift.common.names import file_name
from lightning_drift.common.out_of_memory import forget, remedy_words
from lightning_drift.common.ranks import launched
from lightning_drift.common.resources import shortage
from lightning_drift.common.slurm import pass_over_requeued, slurm_environment
from lightning_drift.common.text import command, printable
from lightning_drift.common.yaml_files import read_yaml_section
from lightning_drift.drift.clip_drift import ClipDrift
from lightning_drift.drift.state import DriftState
from lightning_drift.drift.stopping import check_not_ended
from lightning_drift.fit.checkpointing import AtomicCheckpointIO, StepCheckpoint
from lightning_drift.fit.configuration import TENSORBOARD, class_at, same_class, with_prompts
from lightning_drift.fit.learning_rate import check_rate
from lightning_drift.fit.outcome import finished, stopped
from lightning_drift.fit.ownership import KeepsRun
from lightning_drift.fit.planning import dry_run
from lightning_drift.fit.progress import StepProgressBar
from lightning_drift.fit.resume import check_weights
from lightning_drift.fit.runs import (
    Run,
    RunFolder,
    claim_run,
    find_checkpoint,
    rate_name,
    run_beside,
    run_name,
    run_of,
)
from lightning_drift.fit.save_config import SaveConfig
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.forecast.card import check_card
from lightning_drift.forecast.plan import FitPlan
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.launchers.options import Engine, read_launcher
from lightning_drift.launchers.shares import describe_shares, run_shares
from lightning_drift.parser import SentenceParser, expand_paths
from lightning_drift.trainer_options import (
    check_count,
    check_seed,
    check_trainer,
    chosen_seed,
    made,
    refuse_nulls,
)
from lightning_drift.user_classes import check_method, failed_class

__all__ = [
    "DreamBooth",
    "Dreamer",
    "DriftCLI",
    "InstanceImages",
    "OpenUpscaler",
    "Prompts",
    "Proofs",
    "SupirUpscaler",
    "Sweep",
    "SweepDreamer",
    "UpscaleImages",
]


_CALLBACKS = {
    "image_writer": ImageWriter,
    "step_checkpoint": StepCheckpoint,
    "seed_grid": SeedGrid,
    "clip_drift": ClipDrift,
}


class _Instantiator(_InstantiatorFn):
    """Lightning's way to make model and data, from plain strings."""

    def __call__(self, class_type: Any, *args: Any, applied_instantiation_links: Any, **kwargs: Any) -> Any:
        make = partial(super().__call__, class_type, applied_instantiation_links=applied_instantiation_links)
        return made(class_type.__name__, self.key, partial(make, *plain([*args]), **plain(kwargs)))


_LOGGER = "trainer.logger.init_args"


def _instantiate(class_type: type, *args: Any, **kwargs: Any) -> Any:
    return made(class_type.__name__, "", partial(class_type, *plain([*args]), **plain(kwargs)))


class HearsEnds(Callback):
    """Keeps the command's own answer to signals, and hands them on to the processes of other devices.

    The Trainer answers SIGTERM with a call to all processes, whatever they are just doing, and with status 0.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The Trainer has just taken the signals."""
        ends.listen_again()

    on_sanity_check_start = on_validation_start = on_predict_start = on_train_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Before this process lets go of the others: they would take it for a fault."""
        if isinstance(exception, ends.Ended) and (launcher := trainer.strategy.launcher):
            launcher.kill(exception.number)


class DriftCLI(LightningCLI):
    """Parses the command line, prepares the run folder and runs ``fit``, ``validate`` or ``predict``.

    Args:
        argv: Arguments after the program's name, the command first; None for those of the process.
        launcher: What was given of a launcher for the shares of ``predict``, its name among it.
    """

    def __init__(self, argv: list[str] | None = None, launcher: Mapping[str, Any] | None = None) -> None:
        self.words = sys.argv[1:] if argv is None else argv
        given = dict(launcher or {})
        self._shares = given.pop("shares", None)
        self._engine = read_launcher(None, given)
        self._launcher_words = [
            f"--launcher{'' if name == 'name' else f'.{name}'}={value}"
            for name, value in (launcher or {}).items()
        ]
        asked = self.words[0]
        defaults = DEFAULTS / ("predict.yaml" if asked == "predict" else "fit.yaml")
        self.claimed: RunFolder | None = None
        self.planned: FitPlan | None = None  # all of a fit's dry run
        try:
            super().__init__(
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                parser_class=SentenceParser,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                save_config_callback=SaveConfig,
                parser_kwargs={asked: {"default_config_files": [str(defaults)]}},
                args=argv,
            )
        finally:
            if self.claimed is not None:
                trainer = getattr(self, "trainer", None)
                self.claimed.leave(trainer is not None and trainer.global_step > self.claimed.run.step)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning asks the object
        """The command that was asked for: making the parsers of all takes a third of a second."""
        commands = {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "validate": {"model", "dataloaders", "datamodule", "weights_only", "verbose"},
            "predict": {
                "model",
                "dataloaders",
                "datamodule",
                "weights_only",
                "return_predictions",
                "ckpt_path",
            },
        }
        return {self.words[0]: commands[self.words[0]]}

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        self._preparing = subcommand
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our callbacks have keys of their own, so that a user's list of callbacks adds to them."""
        if self._preparing == "predict":
            parser.add_lightning_class_args(ImageWriter, "image_writer")
            parser.add_argument(
                "--dry_run",
                action="store_true",
                help="Print the plan of a sweep or of prints and make nothing.",
            )
        else:
            parser.add_lightning_class_args(StepCheckpoint, "step_checkpoint")
            parser.add_lightning_class_args(SeedGrid, "seed_grid")
            parser.add_lightning_class_args(ClipDrift, "clip_drift")
            if self._preparing == "fit":
                parser.add_argument(
                    "--dry_run",
                    action="store_true",
                    help="Print the plan of the fit, and load and write nothing.",
                )
                parser.add_argument(
                    "--card",
                    type=float | None,
                    help="GiB of a graphics card to plan for, such as 8; by default the one that is here.",
                )
            for section in ("model", "data"):
                parser.link_arguments("seed_everything", f"{section}.init_args.seed", compute_fn=chosen_seed)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, and refuse what no command could run with.

        Raises:
            UserError: An option is refused; it is named.
        """
        self.config = parser.parse_args(sys.argv[1:] if args is None else args)
        config = self.config[self.config.subcommand]
        check_seed(config.seed_everything)
        check_trainer(config.trainer)
        check_card(config.get("card"), bool(config.get("dry_run")))
        rate = config.model.get("init_args", {}).get("learning_rate")
        if isinstance(rate, float) and not math.isfinite(rate):  # it names the run
            check_rate(rate, "model.learning_rate")
        expand_paths(config)

    def _add_instantiators(self) -> None:
        self.parser.add_instantiator(_Instantiator(self, "model"), LightningModule)
        self.parser.add_instantiator(_Instantiator(self, "data"), LightningDataModule)
        self.parser.add_instantiator(_instantiate, object)

    def _parse_ckpt_path(self) -> None:
        """Lightning would let a checkpoint override the command line; ours never does."""

    # -- run folders ------------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Resolve ``--ckpt_path`` and the run folder before anything is loaded."""
        ends.begin()
        config = self.config[self.subcommand]
        self._refuse_nulls(config)
        check_method(str(self.subcommand), str(config.model.class_path), str(config.data.class_path))
        if self.subcommand == "fit":
            self._prepare_fit(config)
        elif self.subcommand == "validate":
            self._prepare_validate(config)
        else:
            config.trainer.logger = False

    def _refuse_nulls(self, config: Any) -> None:
        for section in ("model", "data"):
            chosen = config.get(section)
            if chosen is not None:
                refuse_nulls(class_at(str(chosen.class_path)), chosen.get("init_args") or {}, section)
        for section, kind in _CALLBACKS.items():
            if config.get(section) is not None:
                refuse_nulls(kind, config[section], section)

    def _prepare_fit(self, config: Any) -> None:
        logger = config.trainer.logger
        # The run records the prompts themselves, not the files they were in.
        config.seed_grid.groups = with_prompts(config.seed_grid.groups)
        if not same_class(getattr(logger, "class_path", ""), TENSORBOARD):
            check_writable(Path(config.trainer.default_root_dir or "."), "trainer.default_root_dir")
            if config.ckpt_path == "last":
                raise UserError(
                    "'last' needs the TensorBoard logger's run folder; name the checkpoint file", "ckpt_path"
                )
            return
        settings = logger.init_args
        _find_run(settings, config.config)
        model, data = config.model.get("init_args", {}), config.data.get("init_args", {})
        stem = rate_name(model.get("learning_rate", 0.0))
        subject = Path(str(data.get("instance_dir", "run"))).resolve().name
        others = config.step_checkpoint.dirpath and user_path(
            config.step_checkpoint.dirpath, "step_checkpoint.dirpath"
        )
        if others:
            check_writable(others, "step_checkpoint.dirpath")
        root = user_path(settings.save_dir, f"{_LOGGER}.save_dir")
        _check_names(settings)
        version = run_name(settings.version)

        def claim() -> dict[str, Any]:
            with ends.held():  # what is claimed is let go of
                self.claimed = claim_run(
                    root, settings.name, version, config.ckpt_path, (subject, stem), others or None
                )
            return self.claimed.run.plain()

        told = Run.from_plain(agreed("run", claim))
        if self.claimed is None:  # the first process holds it for this one
            self.claimed = RunFolder(told, None, False)
        run = self.claimed.run
        settings.save_dir = str(root)
        settings.name, settings.version = run.subject, run.name
        if run.checkpoint is not None:
            config.ckpt_path = str(run.checkpoint)
            limit = config.trainer.max_steps
            if 0 < limit <= run.step:
                raise UserError(
                    f"{run.checkpoint} is at step {run.step} and trainer.max_steps is {limit}: there is "
                    "nothing left to do. Raise --trainer.max_steps to go on"
                )
            zones = DriftState.from_checkpoint(run.checkpoint).zones()
            check_not_ended(config.clip_drift.stop_when, zones)
            # Points logged after the checkpoint are drawn again.
            logger["dict_kwargs"] = {"purge_step": run.step + 1}
            notice(f"going on at step {run.step} in {run.folder}")

    def _prepare_validate(self, config: Any) -> None:
        settings = getattr(config.trainer.logger, "init_args", None)
        folder = None
        if settings is not None:
            _find_run(settings, config.config)
        if settings is not None and settings.name and settings.version is not None:
            _check_names(settings)
            root = user_path(settings.save_dir, f"{_LOGGER}.save_dir")
            folder = root / settings.name / str(run_name(settings.version))
        if config.ckpt_path == "last" and folder is None:
            raise UserError(
                "'last' is the last checkpoint of a run; pass the run's own config.yaml with -c", "ckpt_path"
            )
        if config.ckpt_path:
            others = config.step_checkpoint.dirpath and user_path(
                config.step_checkpoint.dirpath, "step_checkpoint.dirpath"
            )
            config.ckpt_path = str(
                find_checkpoint(config.ckpt_path, folder or Path(), others or None, check_weights)
            )
            folder = run_of(Path(config.ckpt_path)) or folder
        config.trainer.logger = False  # a run's event files hold only what the fit saw
        config.trainer.default_root_dir = str(folder or Path("tb_logs"))

    def instantiate_classes(self) -> None:
        """Make the model, the data and the Trainer.

        Raises:
            UserError: An option's value is refused; the parser wraps it in a report on types.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UserError):
                cause = cause.__cause__
            raise cause or error from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with our checkpoint writer and progress bar."""
        config = self._get(self.config_init, "trainer", default={})
        for name, value in config.items():
            config[name] = plain(value)
        plugins = config.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins = [*plugins, AtomicCheckpointIO(self.claimed.check if self.claimed else None)]
        own = not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
        if own and (environment := slurm_environment()) is not None:
            plugins = [*plugins, environment]
        kwargs["plugins"] = plugins
        callbacks = config.get("callbacks") or []
        config["callbacks"] = [*(callbacks if isinstance(callbacks, list) else [callbacks]), HearsEnds()]
        if self.claimed is not None:
            config["callbacks"].append(KeepsRun(self.claimed.check))
        if config.get("enable_progress_bar") is not False:
            config["callbacks"].append(StepProgressBar())
        with warnings.catch_warnings():
            if self.subcommand == "fit" and self.config.fit.dry_run:  # which plans what was asked for
                warnings.filterwarnings("ignore", message=".*AMP with fp16 is not supported on CPU.*")
            trainer: Trainer = made("the Trainer", "trainer", partial(super().instantiate_trainer, **kwargs))
        if (place := launched()) is not None:  # what "auto" has come to
            check_count(place, trainer.num_devices, trainer.num_nodes)
        if own:
            pass_over_requeued(trainer)
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise UserError(
                "it runs copies of this process, which leave no checkpoint behind; give ddp",
                "trainer.strategy",
            )
        return trainer

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Pictures are on disk when their batch is done; the Trainer would keep all of them in memory."""
        given: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        return {**given, "return_predictions": False} if subcommand == "predict" else given

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; a module that can plan itself is asked first, and its plan is all of a dry run.

        Such a module has ``predict_plan(trainer, data, dry_run) -> str | None``, which the first process
        calls.
        """
        if subcommand == "fit" and self.config.fit.dry_run:
            self.planned = self.plan()
            return
        if subcommand == "predict":
            dry, plan = self.config.predict.dry_run, getattr(self.model, "predict_plan", None)
            if isinstance(self.datamodule, UpscaleImages):
                self.datamodule.words = self.words
            if self._engine is not None and not dry:
                self._run_shares(self._engine)
            if plan is not None and self.trainer.is_global_zero:
                if (words := plan(self.trainer, self.datamodule, dry)) is not None:
                    print(words, flush=True)
            elif plan is None and dry:
                raise UserError(
                    "--dry_run prints the plan of a sweep or of prints; run one with -c configs/sweep.yaml "
                    "or -c configs/supir.yaml"
                )
            if dry:
                if self._engine is not None:
                    print(
                        describe_shares(self._engine, self._place(), self._shares, self._on_cpu), flush=True
                    )
                return
        try:
            super()._run_subcommand(subcommand)
        except ModuleNotFoundError as error:  # a callback's or a profiler's package that is not installed
            raise UserError(" ".join(str(error).split())) from error
        except ends.Ended as end:
            caused = cause_of(end)  # a launcher ends all processes where one has failed
            if caused is not end:
                notice(f"stopped {self._reached(subcommand)}")
                raise caused from None
            end.reached = self._reached(subcommand)
            raise
        except Exception as error:
            caused = cause_of(error)
            if isinstance(caused, ends.Ended):
                caused.reached = self._reached(subcommand)
                raise caused from error
            if caused is not error:
                notice(f"stopped {self._reached(subcommand)}")
                raise caused from error
            # Not one for a training that failed by itself: it would fail there again.
            if lacking := shortage(error, self._place()):
                forget(error)  # what it holds may be all the memory there is
                notice(f"stopped {self._reached(subcommand, remedy_words(error))}")
                if not isinstance(error, UserError):
                    raise UserError(lacking) from error
            if not isinstance(error, UserError) and (failed := failed_class(error)):
                notice(f"stopped {self._reached(subcommand)}")
                raise failed from error
            raise

    def _run_shares(self, engine: Engine) -> None:
        """Make all pictures elsewhere; what then follows here finds them.

        Raises:
            UserError: The data has no shares, or one of them failed.
        """
        if not hasattr(self.datamodule, "share"):
            raise UserError("a launcher runs shares of sweeps and of prints; these are others", "launcher")
        if self.datamodule.share is not None:
            raise UserError("the launcher sets it; leave one of the two out", "data.share")
        try:
            run_shares(engine, self.words, self._place(), self._shares, self._on_cpu)
        except ends.Ended as end:
            end.reached = f"with the shares stopped; go on with: {self._again()}"
            raise

    @property
    def _on_cpu(self) -> bool:
        """Whether the shares are to use no GPU; what this machine has says nothing of theirs."""
        return str(self.config.predict.trainer.accelerator) == "cpu"

    def plan(self) -> FitPlan:
        """What the fit would do and take.

        Raises:
            UserError: It cannot run as it is set up.
        """
        if not isinstance(self.model, DreamBooth):
            raise UserError("--dry_run plans a fit of DreamBooth", "model")
        config = self.config.fit
        self.trainer.datamodule = self.datamodule  # type: ignore[attr-defined]
        self.model.trainer = self.trainer
        begin = self.run.step if self.run is not None else 0
        return dry_run(
            self.model, self.trainer, str(config.trainer.precision or "32-true"), config.card, begin
        )

    @property
    def run(self) -> Run | None:
        """The run that a fit writes; None without a run folder."""
        return self.claimed.run if self.claimed is not None else None

    def _place(self) -> Path:
        """Where the command writes."""
        writers = [c for c in self.trainer.callbacks if isinstance(c, ImageWriter)]  # type: ignore[attr-defined]
        if writers:
            return writers[0].output_dir
        return self.run.folder if self.run is not None else Path(self.trainer.default_root_dir)

    # -- what was done ----------------------------------------------------------------------------------

    def _reached(self, subcommand: str, changed: Sequence[str] = ()) -> str:
        """What a command has done that is ended before its time, and how to go on, with changed options."""
        again = self._again(changed)
        if subcommand == "fit":
            return stopped(self.trainer, self.run, self.words, changed)
        writers = [c for c in self.trainer.callbacks if isinstance(c, ImageWriter)]  # type: ignore[attr-defined]
        if subcommand == "predict" and writers:
            return f"with {_pictures(writers[0])}; go on with: {again}"
        return f"before all was rendered; start it again with: {again}"

    def _again(self, changed: Sequence[str] = ()) -> str:
        """The command that goes on, with changed options."""
        return command([*self.words, *self._launcher_words, *changed])

    def after_fit(self) -> None:
        """Say where everything is."""
        lines = finished(self.trainer, self.run)  # asks all ranks
        if self.trainer.is_global_zero:
            print("\n" + "\n".join(lines), flush=True)

    def after_validate(self) -> None:
        """Say where the grids are."""
        folder = Path(self.trainer.default_root_dir) / "validate"
        if self.trainer.is_global_zero:
            print(printable(f"The grids are in {folder}") if folder.is_dir() else "No grid was rendered")

    def after_predict(self) -> None:
        """Say where the pictures are."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ImageWriter) and self.trainer.is_global_zero:
                print(printable(_pictures(callback)))


def _pictures(writer: ImageWriter) -> str:
    count = len(writer.written)
    skipped = f", {len(writer.skipped)} were there already" if writer.skipped else ""
    return f"{count} picture{'s' * (count != 1)} written to {writer.output_dir}{skipped}"


def _find_run(settings: Any, configs: Sequence[Any] | None) -> None:
    """Let a logger's settings lead to the run whose own configuration was given, wherever that lies now.

    Names given beside it on the command line, which differ from what it records, lead elsewhere and hold.
    """
    paths = [Path(str(path.absolute)) for path in configs or []]
    folder = run_beside(paths)
    if folder is None:
        return
    recorded = (
        read_yaml_section(folder / "config.yaml", "run's configuration")
        if (folder / "config.yaml").is_file()
        else {}
    )
    logger = (
        (recorded.get("trainer") or {}).get("logger") if isinstance(recorded.get("trainer"), dict) else None
    )
    own = logger.get("init_args") if isinstance(logger, dict) else None
    if not isinstance(own, dict) or any(
        settings.get(key) != own.get(key) for key in ("save_dir", "name", "version")
    ):
        return
    if (
        user_path(settings.save_dir).joinpath(settings.name, str(run_name(settings.version))).resolve()
        == folder
    ):
        return
    parts = (*Path(str(settings.name)).parts, *Path(str(run_name(settings.version))).parts)
    if folder.parts[-len(parts) :] == parts:  # the names are the same, so the place above them is another
        settings.save_dir = str(Path(*folder.parts[: -len(parts)]))
    else:
        settings.save_dir, settings.name, settings.version = (
            str(folder.parent.parent),
            folder.parent.name,
            folder.name,
        )


def _check_names(settings: Any) -> None:
    """Refuse names of a subject or a run that would lead out of the log folder, or a folder below the run's.

    Raises:
        UserError: A part of one is not a folder's name, or the run's files would not lie in its folder.
    """
    if settings.get("sub_dir"):
        raise UserError(
            "a run's files lie in its own folder, where a resume finds them; leave it out",
            f"{_LOGGER}.sub_dir",
        )
    for key in ("name", "version"):
        if isinstance(value := settings[key], str):
            for part in [value] if value.startswith("/") else value.split("/"):
                file_name(part, f"{_LOGGER}.{key}")
