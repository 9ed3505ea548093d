"""How much of the computer's memory can be had, and the limits that a process is under."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")

# What a shell's `ulimit` holds down, and the line of a process's status that counts against it.
_LIMITS = (("RLIMIT_AS", "VmSize:", "ulimit -v"), ("RLIMIT_DATA", "VmData:", "ulimit -d"))


def free_host_bytes(meminfo: Path | None = None, names: Mapping[str, int] | None = None) -> int:
    """Host memory in bytes that can be had without swapping, as far as the system tells.

    Args:
        meminfo: Linux's table of its memory; None for `MEMINFO`, which other systems lack.
        names: What `os.sysconf` can be asked for; None for ``os.sysconf_names``. macOS does not tell its free
            pages: half of all pages are taken to be free.

    Returns:
        8 GiB where the system tells nothing, such as on Windows.
    """
    with suppress(OSError):
        for line in (meminfo or MEMINFO).read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    names = getattr(os, "sysconf_names", {}) if names is None else names
    for pages, share in (("SC_AVPHYS_PAGES", 1.0), ("SC_PHYS_PAGES", 0.5)):
        if pages in names and "SC_PAGE_SIZE" in names:
            return int(os.sysconf(names[pages]) * os.sysconf(names["SC_PAGE_SIZE"]) * share)
    return 8 * 2**30


def left_under_limit() -> tuple[int, str] | None:
    """Bytes that this process may still take under the narrowest of its own limits, and that limit's name.

    Returns:
        None where it is under no limit, or the system does not tell what it has taken.
    """
    try:
        import resource

        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except (ImportError, OSError):  # Windows; not Linux
        return None
    left = []
    for limit, counted, name in _LIMITS:
        most = resource.getrlimit(getattr(resource, limit))[0]
        taken = [int(line.split()[1]) * 1024 for line in lines if line.startswith(counted)]
        if most != resource.RLIM_INFINITY and taken:
            left.append((max(0, most - taken[0]), name))
    return min(left, default=None)
