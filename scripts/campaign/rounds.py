"""What every round has: its folder, its dice, what is known of the unbroken runs, and its result."""

import random
import re
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.campaign.calls import Calls
from scripts.campaign.compare import is_partial, partials, torn, whole_export
from scripts.campaign.jobs import CACHES, EARLIER, JOBS, Job
from scripts.campaign.processes import PATIENCE, HungError, Process, end_orphans, shared_counter, start
from scripts.campaign.watch import Watch


@dataclass(frozen=True, order=True)
class Unbroken:
    """An unbroken run of a job.

    Args:
        seconds: How long it took.
        files: How many files and folders appeared.
        calls: How many calls changed files.
    """

    seconds: float
    files: int
    calls: int


@dataclass(frozen=True)
class Place:
    """The campaign's folder.

    Args:
        root: The folder.
        imports: Seconds that a cold process takes to import.
        unbroken: What is known of each job's unbroken run.
    """

    root: Path
    imports: float
    unbroken: dict[str, Unbroken]

    @classmethod
    def read(cls, root: Path, imports: float, unbroken: Mapping[str, Mapping[str, Any]]) -> "Place":
        """The folder with what is known of the unbroken runs, as plain values."""
        return cls(root, imports, {name: Unbroken(**values) for name, values in unbroken.items()})

    @property
    def inputs(self) -> Path:
        """A finished fit and its dreams, which other commands begin with."""
        return self.root / "inputs"

    def reference(self, job: Job) -> Path:
        """The working folder of a job's unbroken run."""
        return self.root / "reference" / job.name


@dataclass
class Result:
    """What a round showed.

    Args:
        kind: ``kill``, ``term``, ``pair`` or ``torn``.
        number: The round's number among those of its kind.
        job: The job.
        warm: Whether its processes were forked from the warm parent.
        commands: What was run, in order, with the status.
        fell: Where it was ended, each time.
        losses: What was lost or wrong; empty if all is well.
        left: Partial files left in the caches.
        seconds: How long the round took.
    """

    kind: str
    number: int
    job: str
    warm: bool
    commands: list[str] = field(default_factory=list)
    fell: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def values(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


class Round:
    """A round at work in a folder of its own.

    Args:
        place: The campaign's folder.
        result: Gets what it shows.
        job: The job.
        dice: Its source of chance.
    """

    def __init__(self, place: Place, result: Result, job: Job, dice: random.Random) -> None:
        self.place, self.result, self.job, self.dice = place, result, job, dice
        self.base = place.root / "rounds" / f"{result.kind}-{result.number:05d}"
        shutil.rmtree(self.base, ignore_errors=True)
        self.folder = self.base / "work"
        self.folder.mkdir(parents=True)
        if job.prepare is not None:
            job.prepare(self.folder, place.root / "reference")
        self._logs = 0

    def start(self, argv: Sequence[str], **options: Any) -> Process:
        """Start a command with a log of its own, beside the working folder."""
        self._logs += 1
        warm = options.pop("warm", self.result.warm)
        return start(argv, self.folder, self.base / f"{self._logs}.log", warm, **options)

    def ended(self, process: Process, argv: Sequence[str]) -> int:
        """Note how a command ended; a traceback or a hang is a loss.

        Raises:
            HungError: It did not end.
        """
        try:
            status = process.wait()
        except HungError:
            self.result.losses.append(f"{shlex.join(argv)} hangs: it has not ended after {PATIENCE:.0f} s")
            self.result.commands.append(f"{shlex.join(argv)} -> hangs")
            raise
        self.result.commands.append(f"{shlex.join(argv)} -> {status}")
        text = process.output()
        if "Traceback (most recent call last)" in text:
            self.result.losses.append(
                f"traceback of {shlex.join(argv)}: {text.strip().splitlines()[-1][:300]}"
            )
        return status

    def go_on(self) -> None:
        """Run what goes on until it ends well, and compare what is there with the unbroken run."""
        for _ in range(3):
            argv = self.job.next(self.place.inputs, self.folder)
            process = self.start(argv)
            status = self.ended(process, argv)
            text = process.output()
            if status == 2 and self.job.command == "export" and "--overwrite" not in argv:
                if not whole_export(self.folder / self.job.place) and self.job.place == "folder":
                    self.result.losses.append("a pipeline that is not whole is in the way")
                argv = [*argv, "--overwrite"]
                process = self.start(argv)
                status = self.ended(process, argv)
            elif status == 2 and "nothing left to do" in text:
                break  # it was ended after its last save; what follows says whether all of it is there
            elif status == 2 and self.job.command == "fit" and "--ckpt_path" in argv:
                self.result.losses.append(f"cannot resume: {text.strip().splitlines()[-1][:300]}")
                return
            if status == 0:
                break
            self.result.losses.append(f"ends with {status}: {text.strip().splitlines()[-1][:300]}")
        end_orphans()
        self.compare()

    def compare(self) -> None:
        """Compare the working folder with the unbroken run's."""
        self.result.losses += self.job.losses(self.place.reference(self.job), self.folder)
        self.result.left += [name for name in partials(self.folder) if name.startswith(CACHES)]

    def check_torn(self) -> None:
        """No file at a final name may be torn, however a process ended; an earlier export is still there."""
        self.result.losses += torn(self.folder)
        if self.job.prepare is None:
            return
        # A replaced folder may stand beside its place for a moment.
        places = (
            self.folder.iterdir()
            if self.job.place == "folder"
            else (self.folder / "out").glob("*.safetensors")
        )
        if not any(map(whole_export, places)):
            self.result.losses.append("the earlier export is lost, and the new one is not there")

    def where(self) -> str:
        """Where the working folder stands: in which partial file, or after which file."""
        present = [path for path in self.folder.rglob("*") if path.is_file()]
        unfinished = [path for path in present if is_partial(path, self.folder)]
        if unfinished:
            newest = max(unfinished, key=lambda path: path.stat().st_mtime_ns)
            return f"in {plain(newest.relative_to(self.folder))}"
        if not present:
            return "before the first file"
        newest = max(present, key=lambda path: path.stat().st_mtime_ns)
        return f"after {plain(newest.relative_to(self.folder))}"

    def end(self, keep: bool = False) -> None:
        """End what still runs; delete the folder of a round in which all was well."""
        end_orphans()
        if not self.result.losses and not keep:
            shutil.rmtree(self.base, ignore_errors=True)


def plain(path: Path) -> str:
    """A path without what differs from round to round, and without the run's folder."""
    name = re.sub(r"tb_logs/coffee/(corridor/)?lr[^/]*/", "", str(path))
    return re.sub(r"(?<![a-z])[0-9a-f]{8,}|\d+", "#", name)


def make_references(root: Path, jobs: Sequence[Job], imports: float) -> Place:
    """Run what everything is compared with: the inputs, each job unbroken, and once more for its duration.

    Raises:
        RuntimeError: A command fails, or two unbroken runs differ.
    """
    place = Place(root, imports, {})

    def run(argv: Sequence[str], folder: Path) -> Unbroken:
        folder.mkdir(parents=True, exist_ok=True)
        calls = Calls(shared_counter(), folder)
        with Watch(folder) as watch:
            process = start(argv, folder, root / f"{folder.name}.log", calls=calls)
            files = 0
            while process.poll() is None:
                files += len(watch.new(0.05))
            files += len(watch.new(0))
        if process.status:
            raise RuntimeError(f"an unbroken run fails: {shlex.join(argv)}\n{process.output()}")
        return Unbroken(time.monotonic() - process.began, files, calls.count)

    fit = next(job for job in JOBS if job.name == "fit")
    run(fit.first(place.inputs), place.inputs)
    dream = ["--model.pipeline=pocket", "--model.num_inference_steps=3", "--data.prompts=a tree, a moon"]
    if any("{inputs}/dreams" in job.argv for job in jobs):
        run(["predict", *dream, "--data.seeds=0-1", "--image_writer.contact_sheet=false"], place.inputs)
    for name, argv in EARLIER.items() if any(job.prepare for job in jobs) else ():
        run([word.replace("{inputs}", str(place.inputs)) for word in argv], root / "reference" / name)
    for job in jobs:
        for folder in (place.reference(job), root / "again" / job.name):
            folder.mkdir(parents=True)
            if job.prepare is not None:
                job.prepare(folder, root / "reference")
            known = run(job.first(place.inputs), folder)
            # Of two on a busy machine the faster one is nearer to what it takes.
            place.unbroken[job.name] = min(known, place.unbroken.get(job.name, known))
        if losses := job.losses(place.reference(job), root / "again" / job.name):
            raise RuntimeError(f"two unbroken runs of {job.name} differ:\n" + "\n".join(losses))
    shutil.rmtree(root / "again", ignore_errors=True)
    return place
