"""Torn reads: two processes write one name again and again, a reader looks at it all the while."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from lightning_drift.common.atomic import atomic_write
from lightning_drift.fit.checkpointing import AtomicCheckpointIO
from lightning_drift.images.picture import Picture
from lightning_drift.images.png import write_png
from scripts.campaign.processes import default_signals, end_orphans
from scripts.campaign.rounds import Result

SIZE = 1 << 16


def write_bytes(path: Path, writer: int, turn: int) -> None:
    """64 KiB of one byte."""
    with atomic_write(path) as file:
        for _ in range(16):
            file.write(bytes([16 * writer + turn % 16]) * (SIZE // 16))


def read_bytes(path: Path) -> bool:
    """Whether all are there and the same."""
    data = path.read_bytes()
    return len(data) == SIZE and data == data[:1] * SIZE


def write_checkpoint(path: Path, writer: int, turn: int) -> None:
    """A checkpoint whose every value names its writer and turn."""
    value = torch.full((4096,), float(1000 * writer + turn))
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"a": value}, "global_step": turn}, path)


def read_tensors(path: Path) -> bool:
    """Whether its values are of one writer and turn."""
    checkpoint = torch.load(path, weights_only=True)
    value = checkpoint["state_dict"]["a"]
    return bool((value == value[0]).all()) and int(value[0]) % 1000 == checkpoint["global_step"]


def write_picture(path: Path, writer: int, turn: int) -> None:
    """A picture of one colour."""
    write_png(path, Picture(None, path.stem, Image.new("RGB", (64, 64), (100 * writer, turn % 256, 7))))


def read_picture(path: Path) -> bool:
    """Whether it is whole and of one colour."""
    with Image.open(path) as image:
        return len(image.getcolors(2) or []) == 1


Write = Callable[[Path, int, int], None]
WRITERS: dict[str, tuple[Write, Callable[[Path], bool]]] = {
    "bytes": (write_bytes, read_bytes),
    "checkpoint.ckpt": (write_checkpoint, read_tensors),
    "picture.png": (write_picture, read_picture),
}


def torn_reads(folder: Path, reads: int) -> list[Result]:
    """Read so many times over all kinds of files, and count what was torn or failed."""
    results = []
    for number, (name, (write, read)) in enumerate(WRITERS.items()):
        result = Result("torn", number, name, True)
        place = folder / "torn" / str(number)
        place.mkdir(parents=True)
        path = place / name
        write(path, 0, 0)
        writers = [_writer(write, path, index) for index in range(2)]
        count = reads // len(WRITERS) + (number < reads % len(WRITERS))
        bad: list[str] = []
        for _ in range(count):
            try:
                if not read(path):
                    bad.append("two writers' values in one file")
            except Exception as error:  # whatever a reader says of a torn file
                bad.append(f"{type(error).__name__}: {error}")
        for pid in writers:
            failed, status = os.waitpid(pid, os.WNOHANG)
            if failed:
                result.losses.append(f"a writer ended by itself: {os.waitstatus_to_exitcode(status)}")
            else:
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
        end_orphans()
        result.commands.append(f"{count} reads beside two writers")
        result.fell.append(f"{len(bad)} torn")
        if bad:
            result.losses.append(f"{len(bad)} of {count} reads were torn, such as {bad[0][:200]}")
        results.append(result)
    return results


def _writer(write: Write, path: Path, index: int) -> int:
    """A process that writes until SIGTERM, and ends after a whole turn."""
    pid = os.fork()
    if pid:
        return pid
    status = 0
    try:
        default_signals()
        over: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: over.append(number))
        turn = 0
        while not over:
            turn = turn % 900 + 1
            write(path, index, turn)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    finally:
        os._exit(status)
