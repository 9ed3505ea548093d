"""Memory that has run out: whose, how much was asked for, what was being done, and what to take instead."""

import errno
import gc
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from lightning_drift.common.errors import UserError
from lightning_drift.common.host_memory import free_host_bytes, left_under_limit
from lightning_drift.common.text import byte_size

GPU, HOST, SHARED = "the GPU's memory", "the computer's memory", "the shared memory (/dev/shm)"

# Most libraries have no class for it. Left out is what says so of other faults too, such as
# CUBLAS_STATUS_NOT_INITIALIZED and "unable to find an engine".
_TEXTS = (
    (HOST, r"DefaultCPUAllocator: (?:can't allocate|not enough) memory"),  # PyTorch; the second on Windows
    (HOST, r"unable to mmap .*(?:Cannot allocate memory|\(12\))"),  # PyTorch, a mapped file
    (HOST, r"std::bad_alloc|bad allocation"),  # C++; the second on Windows
    (HOST, r"could not (?:create|execute) a primitive$|could not create a memory"),  # oneDNN
    (HOST, r"out of memory error when reading image file"),  # Pillow
    (HOST, r"CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    (SHARED, r"out of shared memory|unable to allocate shared memory"),  # PyTorch's DataLoader
    (GPU, r"(?:CUDA|HIP|XPU|MPS backend) out of memory"),
    (GPU, r"(?:CUDA|HIP|NCCL|Triton) [Ee]rror.*: out of memory|[Cc]uda failure.*'out of memory'"),
    (GPU, r"(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE|HIPBLAS|HIPSPARSE)_STATUS_ALLOC_FAILED"),
    (GPU, r"CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED|CUFFT_ALLOC_FAILED|StatusAllocFailed"),
    (GPU, r"Invalid buffer size: [\d.]+ [KMGT]i?B"),  # MPS, of a buffer larger than all
    (GPU, r"Error out of memory at line \d+ in file"),  # bitsandbytes, which then ends the process
)

_SIZE = r"([\d.]+) ?(bytes|[KMGTPE]i?B)"
_ASKED = re.compile(rf"(?i)(?:tried to (?:allocate|mmap)|unable to (?:allocate|mmap)|buffer size:) {_SIZE}")
_CAPACITY = re.compile(rf"(GPU \d+) has a total capacity of {_SIZE} of which {_SIZE} is free")
_OWN = re.compile(rf"this process has {_SIZE} memory in use")
_MPS = re.compile(rf"MPS allocated: {_SIZE}, other allocations: {_SIZE}, max allowed: {_SIZE}")


@dataclass(frozen=True)
class Remedy:
    """What needs less memory.

    Attributes:
        sentence: What to do, without a full stop.
        options: The options that do it without changing what is computed, by name; they go into the command
            that goes on.
    """

    sentence: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """The options as words of a command line."""
        return [f"--{name}={value}" for name, value in self.options.items()]


@dataclass(frozen=True)
class Exhausted:
    """A memory that had no room, in bytes; None for what is not known.

    Attributes:
        memory: Whose: `GPU`, `HOST` or `SHARED`.
        asked: What was asked for.
        free: What was free then.
        total: What there is in all.
        where: The device, or the limit that the free memory is counted under.
        others: What other programs hold of a GPU's memory.
    """

    memory: str
    asked: int | None = None
    free: int | None = None
    total: int | None = None
    where: str = ""
    others: int = 0


@dataclass
class _Told:
    """What an exception that passed a `during` was told."""

    what: str
    exhausted: Exhausted
    remedy: Remedy | None


def exhausted(error: BaseException) -> Exhausted | None:
    """The memory that an exception, or what it came from, says is full; None if it tells of something else.

    What was free is looked up now: ask before the failed attempt's tensors are let go of.
    """
    for seen in _chain(error):
        if (memory := _memory(seen)) is not None:
            return _measured(memory, str(seen))
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or what it came from, says that memory is full."""
    return any(_memory(seen) is not None for seen in _chain(error))


def refuse_full(error: BaseException, name: str) -> None:
    """Where whatever a reader raises is laid to a file: a full memory is told as that.

    Args:
        error: What the reader has raised.
        name: What was read.

    Raises:
        UserError: The exception says that memory is full, be it for a large file or for one that lies about
            its size.
    """
    if (found := exhausted(error)) is not None:
        asked = "more" if found.asked is None else f"{byte_size(found.asked)} more"
        free = "" if found.free is None else f" than the {byte_size(found.free)} that are free"
        raise UserError(f"{name} needs {asked} of {found.memory}{free}") from error


@contextmanager
def during(what: str, remedy: Callable[[Exhausted], Remedy | None] | None = None) -> Iterator[None]:
    """Have an exception that says that memory is full know what was being done.

    The innermost one says what was done, and of those that know a remedy the innermost says that.

    Args:
        what: What is done, as the subject of a sentence: "training step 341", "encoding the photos".
        remedy: Gives what needs less of the memory that is full; asked when it is wanted.
    """
    try:
        yield
    except Exception as error:
        tell(error, what, remedy)
        raise


def tell(error: Exception, what: str, remedy: Callable[[Exhausted], Remedy | None] | None = None) -> None:
    """Have an exception know what was being done; see `during`."""
    told = _told(error)
    if told is None and (found := exhausted(error)) is not None:
        told = _Told(what, found, None)
        error.__dict__["_lightning_drift"] = told
    if told is not None and told.remedy is None and remedy is not None:
        told.remedy = remedy(told.exhausted)


def sentence(error: BaseException) -> str:
    """What ran out, at what, and what to do, without a full stop; empty if it is not memory."""
    told = _told(error)
    found = told.exhausted if told is not None else exhausted(error)
    if found is None:
        return ""
    said = f"{found.memory} is full"
    if told is not None:
        said += f". {_figures(told.what, found)}"
        remedy = told.remedy.sentence if told.remedy is not None else "close what else uses it"
    else:  # what is free now, when all is let go of, says nothing
        said += f". {byte_size(found.asked)} more were asked for" if found.asked is not None else ""
        remedy = "close what else uses it, or lower a batch size or the resolution"
    return f"{said}. {_capital('set data.num_workers 0' if found.memory == SHARED else remedy)}"


def remedy_words(error: BaseException) -> list[str]:
    """The options of the remedy that an exception was told, as words of a command line."""
    told = _told(error)
    return told.remedy.words if told is not None and told.remedy is not None else []


def forget(error: BaseException) -> None:
    """Let go of what a failed attempt held: its frames, which live as long as the exception."""
    for seen in _chain(error):
        traceback.clear_frames(seen.__traceback__)


def give_back() -> None:
    """Collect what nobody holds any more, and give a GPU's cached blocks back; after the ``except``."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    elif torch is not None and torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _told(error: BaseException) -> _Told | None:
    return next((told for seen in _chain(error) if (told := seen.__dict__.get("_lightning_drift"))), None)


def _memory(error: BaseException) -> str | None:
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return GPU
    if isinstance(error, MemoryError):  # NumPy's ArrayMemoryError and most of Pillow's are of this class
        return HOST
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return HOST
    if isinstance(error, RuntimeError | OSError) or type(error).__name__ == "SafetensorError":
        text = str(error)
        if "(os error 12)" in text:  # Rust's, of which safetensors keeps no more than the text
            return HOST
        return next((memory for memory, pattern in _TEXTS if re.search(pattern, text, re.MULTILINE)), None)
    return None


def _measured(memory: str, text: str) -> Exhausted:
    asked = _bytes(*found.groups()) if (found := _ASKED.search(text)) else None
    if memory == HOST:
        free, limit = free_host_bytes(), left_under_limit()
        if limit is not None and limit[0] < free:
            return Exhausted(memory, asked, limit[0], where=f"under this process's limit ({limit[1]})")
        return Exhausted(memory, asked, free)
    if memory == SHARED:
        return Exhausted(memory, asked)
    if found := _MPS.search(text):
        sizes = found.groups()
        own, others, most = (_bytes(*sizes[i : i + 2]) for i in (0, 2, 4))
        return Exhausted(memory, asked, max(0, most - own - others), most)
    if found := _CAPACITY.search(text):
        total, free = _bytes(*found.groups()[1:3]), _bytes(*found.groups()[3:5])
        held = _bytes(*own_use.groups()) if (own_use := _OWN.search(text)) else total
        others = total - free - held
        return Exhausted(memory, asked, free, total, f"on {found[1]}", others if others > total / 20 else 0)
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        with suppress(RuntimeError):  # an error that lasts: the device does not answer any more
            free, total = torch.cuda.mem_get_info()
            return Exhausted(memory, asked, free, total, f"on GPU {torch.cuda.current_device()}")
    return Exhausted(memory, asked)


def _figures(what: str, found: Exhausted) -> str:
    """How much was asked for and how much was free, as a sentence about what was being done."""
    asked = f"asked for {byte_size(found.asked)} more" if found.asked is not None else "needed more"
    if found.free is None:
        return f"{_capital(what)} {asked} than there was"
    of = f" of {byte_size(found.total)}" if found.total is not None else ""
    free = f"{byte_size(found.free)}{of}"
    if (
        found.memory == HOST and found.free >= (found.asked or 0) > 0
    ):  # libraries give back what they can first
        return f"{_capital(what)} {asked}; now that it has given up, {free} are free {found.where}".rstrip()
    others = f"; other programs hold {byte_size(found.others)} of it" if found.others else ""
    return f"{_capital(what)} {asked}, and {free} were free {found.where}".rstrip() + others


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _bytes(number: str, unit: str) -> int:
    """Bytes of a size as libraries write it; PyTorch's KB are KiB.

    >>> _bytes("1.5", "KiB"), _bytes("2", "bytes")
    (1536, 2)
    """
    power = 0 if unit == "bytes" else "KMGTPE".index(unit[0].upper()) + 1
    return int(float(number) * 1024**power)
