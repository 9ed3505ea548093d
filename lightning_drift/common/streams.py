"""Standard output and error whose reader may go: ``fit | head -1``, a closed terminal, a full disk."""

import errno
import io
import os
import select
import sys

_GONE = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET)  # the reader, the terminal


class LastingStream(io.RawIOBase):
    """Writes to a descriptor, and goes on without it when nobody reads there any more.

    Args:
        descriptor: 1 or 2.
        name: What Python calls the stream.

    Attributes:
        lost: Why bytes are missing though somebody wants them (a full disk); None as long as none is.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.name = name
        self.lost: OSError | None = None

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether a person looks at it now."""
        return os.isatty(self._descriptor)

    def write(self, data: object) -> int:
        """Write what can be written; all of it is taken, for all the caller has to know."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        left = view
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another program has set the terminal they share not to wait
                select.select([], [self._descriptor], [])
            except OSError as error:
                if error.errno in _GONE:
                    _point_nowhere(self._descriptor)
                else:
                    self.lost = error
                break
        return len(view)


def last() -> list[LastingStream]:
    """Make this process's standard output and error last.

    What cannot be encoded is written as an escape. A descriptor that is closed points nowhere from now on, so
    that no file is opened in its place and written into by mistake.

    Returns:
        The two streams, to be asked what they lost.
    """
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(spare, True)
    os.close(spare)
    streams = []
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        former = getattr(sys, name)
        if former is not None and former is not getattr(sys, f"__{name}__"):
            continue  # somebody listens in this process
        if former is not None:
            former.flush()
        raw = LastingStream(descriptor, f"<{name}>")
        encoding = "utf-8" if former is None else former.encoding
        text = io.TextIOWrapper(
            raw if former is not None and former.write_through else io.BufferedWriter(raw),
            encoding=encoding,
            errors="backslashreplace",
            line_buffering=descriptor == 2 or raw.isatty(),
        )
        setattr(sys, name, text)
        streams.append(raw)
    return streams


def _point_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
