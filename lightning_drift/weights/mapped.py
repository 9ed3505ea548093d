"""Letting go of the memory of a mapped file once a weight has been copied out of it.

A converted weight (float16 on disk, bfloat16 in use) would else be in memory twice until its file is closed,
and so would the whole model.
"""

import ctypes
import mmap
import sys

from torch import Tensor

MADV_PAGEOUT = 21
"""Linux's advice that loses nothing: mapped pages are read from their file again when they are touched."""


def let_go(tensor: Tensor) -> None:
    """Advise the system that a mapped tensor's pages need not stay in memory; does nothing but on Linux.

    Args:
        tensor: A tensor on the CPU. Pages that it shares with its neighbours stay.
    """
    if not sys.platform.startswith("linux"):
        return
    page, begin = mmap.PAGESIZE, tensor.data_ptr()
    first, last = -(-begin // page) * page, (begin + tensor.nbytes) // page * page
    if tensor.is_contiguous() and last > first:
        advise = ctypes.CDLL(None).madvise
        advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), ctypes.c_int(MADV_PAGEOUT))
