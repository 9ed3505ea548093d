"""Letting go of the memory of a mapped file once a weight has been read from it.

A converted weight (float16 on disk, bfloat16 in use) would else be in memory twice until its file is closed,
and so would the whole model; one that was only looked at would be in memory before it is used.
"""

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

MADV_DONTNEED = 4
"""Linux's advice that drops mapped pages from the process and leaves them in the system's cache. Nothing is
lost of a file's mapping that nobody has written to; of any other memory everything is."""
MADV_PAGEOUT = 21
"""Linux's advice that loses nothing: mapped pages are read from their file again when they are touched."""


def let_go(tensor: Tensor) -> None:
    """Advise the system that a mapped tensor's pages will not be needed; does nothing but on Linux.

    Args:
        tensor: A tensor on the CPU. Pages that it shares with its neighbours stay.
    """
    _advise(tensor, MADV_PAGEOUT)


def let_rest(tensor: Tensor, mappings: Sequence[tuple[int, int]]) -> None:
    """Give back the memory of a mapped tensor that was read and will be needed later.

    Args:
        tensor: A tensor on the CPU that nobody has written to.
        mappings: From `mappings_of`; a tensor outside of them is left as it is.
    """
    begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    if any(first <= begin and end <= last for first, last in mappings):
        _advise(tensor, MADV_DONTNEED)


def mappings_of(files: Iterable[Path]) -> list[tuple[int, int]]:
    """First and last address of where files are mapped into this process; none but on Linux."""
    if not sys.platform.startswith("linux"):
        return []
    identities = {(status.st_dev, status.st_ino) for status in (os.stat(file) for file in files)}
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, _, _, device, inode = line.split()[:5]
        major, minor = (int(number, 16) for number in device.split(":"))
        if (os.makedev(major, minor), int(inode)) in identities:
            first, last = (int(address, 16) for address in addresses.split("-"))
            found.append((first, last))
    return found


def _advise(tensor: Tensor, advice: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    page, begin = mmap.PAGESIZE, tensor.data_ptr()
    first, last = -(-begin // page) * page, (begin + tensor.nbytes) // page * page
    if tensor.is_contiguous() and last > first:
        madvise = ctypes.CDLL(None).madvise
        madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), ctypes.c_int(advice))
