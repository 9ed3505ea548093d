"""Memory that has run out: recognised whatever it is called, told in a sentence, let go of."""

import gc
import re
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers.bounded import bounded
from PIL import Image
from safetensors import SafetensorError

from lightning_drift.common.errors import UserError
from lightning_drift.common.halving import Batch
from lightning_drift.common.out_of_memory import (
    GPU,
    HOST,
    SHARED,
    Remedy,
    during,
    exhausted,
    is_out_of_memory,
    refuse_full,
    remedy_words,
    sentence,
)

GIB = 2**30
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which 310.44 "
    "MiB is free. Process 4242 has 6.00 GiB memory in use. Including non-PyTorch memory, this process has "
    "17.33 GiB memory in use. Of the allocated memory 16.80 GiB is allocated by PyTorch, and 92.51 MiB is "
    "reserved by PyTorch but unallocated."
)


def raised(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.empty(2**58),
        lambda: np.empty(2**58, dtype=np.uint8),
        lambda: bytearray(2**60),
    ],
    ids=["torch", "numpy", "python"],
)
def test_what_the_libraries_here_really_raise_is_recognised(ask: Callable[[], object]) -> None:
    found = exhausted(raised(ask))
    assert found is not None
    assert found.memory == HOST
    assert found.asked is None or found.asked >= 2**58
    assert found.free


def test_a_picture_that_has_no_room_is_recognised() -> None:
    def paint() -> None:
        with bounded(memory=2**28):
            Image.new("RGB", (2**14, 2**14))

    assert is_out_of_memory(raised(paint))


OTHERS: list[tuple[Exception, str, int | None]] = [
    (torch.OutOfMemoryError(CUDA), GPU, 2 * GIB),
    (torch.OutOfMemoryError("HIP out of memory. Tried to allocate 512.00 MiB."), GPU, GIB // 2),
    (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"), GPU, None),
    (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        GPU,
        None,
    ),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), GPU, None),
    (
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        GPU,
        None,
    ),
    (RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling"), GPU, None),
    (RuntimeError("NCCL error: Cuda failure 2 'out of memory'"), GPU, None),
    (
        RuntimeError(
            "MPS backend out of memory (MPS allocated: 9.57 GiB, other allocations: 17.35 GiB, max allowed: "
            "27.20 GiB). Tried to allocate 292.50 MiB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO"
        ),
        GPU,
        int(292.5 * 2**20),
    ),
    (RuntimeError("Invalid buffer size: 24.00 GB"), GPU, 24 * GIB),
    (RuntimeError("Error out of memory at line 430 in file /src/csrc/ops.cu"), GPU, None),
    (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you tried to "
            "allocate 1073741824 bytes."
        ),
        HOST,
        GIB,
    ),
    (RuntimeError("std::bad_alloc"), HOST, None),
    (RuntimeError("could not create a primitive"), HOST, None),
    (
        RuntimeError("unable to mmap 1073741824 bytes from file <x.ckpt>: Cannot allocate memory (12)"),
        HOST,
        GIB,
    ),
    (OSError(12, "Cannot allocate memory"), HOST, None),
    (OSError("out of memory error when reading image file"), HOST, None),
    (SafetensorError("Error while deserializing header: Cannot allocate memory (os error 12)"), HOST, None),
    (
        RuntimeError(
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
            "workers are out of shared memory. Please try to raise your shared memory limit."
        ),
        SHARED,
        None,
    ),
]


@pytest.mark.parametrize(("error", "memory", "asked"), OTHERS, ids=lambda value: str(value)[:40])
def test_what_libraries_elsewhere_raise_is_recognised(
    error: Exception, memory: str, asked: int | None
) -> None:
    found = exhausted(error)
    assert found is not None
    assert (found.memory, found.asked) == (memory, asked)
    assert is_out_of_memory(raised(lambda: _wrap(error)))


def _wrap(error: Exception) -> None:
    try:
        raise error
    except Exception as cause:
        raise ValueError("a fault of its own, as some libraries make of it") from cause


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("could not create a primitive descriptor for the matmul primitive"),
        RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 101376"),
        ValueError("CUDA out of memory"),  # a text of somebody's
        UserError("there is no prompt list out_of_memory.txt"),
        OSError(28, "No space left on device"),
    ],
    ids=str,
)
def test_what_sounds_alike_is_not(error: Exception) -> None:
    assert exhausted(error) is None
    assert sentence(error) == ""


def test_the_sentence_says_what_was_done_and_what_a_gpu_had() -> None:
    remedy = Remedy("set model.memory split, which computes the same in less", {"model.memory": "split"})

    def step() -> None:
        with during("the fit", lambda _: Remedy("buy more")), during("training step 341", lambda _: remedy):
            raise torch.OutOfMemoryError(CUDA)

    error = raised(step)
    assert sentence(error) == (
        "the GPU's memory is full. Training step 341 asked for 2.00 GiB more, and 310.44 MiB of 23.64 GiB "
        "were free on GPU 0; other programs hold 6.01 GiB of it. Set model.memory split, which computes the "
        "same in less"
    )
    assert remedy_words(error) == ["--model.memory=split"]


def test_what_has_no_remedy_of_its_own_takes_the_one_around_it() -> None:
    def grid() -> None:
        with during("the grid", lambda _: Remedy("lower its size")), during("loading the CLIP"):
            torch.empty(2**58)

    said = sentence(raised(grid))
    assert re.fullmatch(
        r"the computer's memory is full\. Loading the CLIP asked for 1073741824\.00 GiB more, and "
        r"[\d.]+ [KMG]iB were free.*\. Lower its size",
        said,
    )


def test_another_error_passes_as_it_is() -> None:
    def fault() -> None:
        with during("the grid", lambda _: Remedy("lower its size")):
            raise RuntimeError("a fault")

    assert sentence(raised(fault)) == ""


def test_a_reader_lays_a_full_memory_to_no_file() -> None:
    refuse_full(ValueError("damaged"), "a.ckpt")
    full = raised(lambda: torch.empty(2**58))
    with pytest.raises(
        UserError, match=r"^a.ckpt needs 1073741824.00 GiB more of the computer's memory than"
    ):
        refuse_full(full, "a.ckpt")


# -- halving ------------------------------------------------------------------------------------------------


def doubled(most: int, seen: list[int]) -> Callable[[Sequence[int]], list[int]]:
    def work(part: Sequence[int]) -> list[int]:
        seen.append(len(part))
        if len(part) > most:
            torch.empty(2**58)
        return [2 * item for item in part]

    return work


def test_a_batch_is_halved_until_it_fits_and_stays_so(capsys: Any) -> None:
    batch, seen, done = Batch(16, "data.batch_size"), list[int](), list[int]()
    for _ in range(2):
        assert batch.map(range(11), doubled(5, seen), done.append) == [2 * item for item in range(11)]
    assert seen == [11, 6, 3, 3, 3, 2, 3, 3, 3, 2]
    assert sum(done) == 22
    said = capsys.readouterr().err
    assert said == (
        "lightning-drift: the computer's memory was full with 11 pictures at a time; from here on there are "
        "3 (data.batch_size 3 saves the attempt)\n"
    )


def test_one_that_does_not_fit_is_the_error_and_other_errors_halve_nothing() -> None:
    batch = Batch(4)
    assert is_out_of_memory(raised(lambda: batch.map(range(4), doubled(0, []))))
    assert batch.size == 1

    def fault(part: Sequence[int]) -> list[int]:
        raise ValueError(str(len(part)))

    assert str(raised(lambda: Batch(4).map(range(4), fault))) == "4"


def test_a_filled_batch_is_halved_however_few_are_left() -> None:
    batch = Batch(8, filled=True)

    def work(part: Sequence[int]) -> list[int]:
        assert batch.size is not None
        if batch.size > 2:
            torch.empty(2**58)
        return list(part)

    assert batch.map([7], work) == [7]
    assert batch.size == 2


def test_the_next_attempt_begins_without_what_the_failed_one_held() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work(part: Sequence[int]) -> list[int]:
        assert all(reference() is None for reference in held)
        tensor = torch.zeros(8)
        held.append(weakref.ref(tensor))
        if len(part) > 1:
            _deeper(tensor)
        return list(part)

    gc.disable()
    try:
        assert Batch(8).map(range(8), work) == list(range(8))
    finally:
        gc.enable()
    assert len(held) == 11


def _deeper(tensor: torch.Tensor) -> None:
    cycle: list[Any] = [tensor]
    cycle.append(cycle)
    torch.empty(2**58)


# -- limits -------------------------------------------------------------------------------------------------


_LIMITED = """
import re, resource
from pathlib import Path
from lightning_drift.common.out_of_memory import during, sentence

(taken,) = re.findall(r"VmSize:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
resource.setrlimit(resource.RLIMIT_AS, (int(taken) * 1024 + 64 * 2**20,) * 2)
try:
    with during("the encoding of large photos"):
        bytearray(128 * 2**20)
except MemoryError as error:
    print(sentence(error))
"""


def test_what_is_free_is_what_a_limit_leaves() -> None:
    said = subprocess.run([sys.executable, "-c", _LIMITED], capture_output=True, text=True, timeout=120)
    found = re.fullmatch(
        r"the computer's memory is full\. The encoding of large photos needed more, and (\d+)\.\d\d MiB were "
        r"free under this process's limit \(ulimit -v\)\. Close what else uses it\n",
        said.stdout,
    )
    assert found, said
    assert 32 < int(found[1]) <= 64
