"""TensorBoard's event files, read record by record: what is damaged in one ends that file and nothing else.

A file is a sequence of records: the length of the data (8 bytes), a check sum of that (4), the data, and a
check sum of the data (4). TensorBoard's own reader believes the length, and reads whatever is named like an
event file, pipes included.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import check_file
from lightning_drift.common.numbers import shown

PATTERN = "events.out.tfevents.*"
MAX_STEP = 10**10
"""Steps above it are no steps of a fit."""

_LARGEST_SCALARS = 2**16  # bytes; longer records hold pictures, which lie in grids/ as well
_LARGEST_RECORD = 2**30


class Events:
    """Scalars and texts of a run.

    Args:
        remarks: Takes what is damaged, in sentences.

    Attributes:
        scalars: Value by step, for each tag; of a point that was logged again, the newer value.
        texts: Text by step, for each tag.
    """

    def __init__(self, remarks: list[str]) -> None:
        self.remarks = remarks
        self.scalars: dict[str, dict[int, float]] = {}
        self.texts: dict[str, dict[int, str]] = {}

    def read(self, path: Path) -> None:
        """Add what a file holds, up to its end or its first damaged record; a remark tells of damage."""
        # Torch-free, but slow to import: only where there is something to read.
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

        try:
            check_file(path, "event file")
            with open(path, "rb") as file:
                for record in _records(file):
                    event = Event.FromString(record)
                    if not 0 <= event.step <= MAX_STEP:
                        raise _DamagedError(f"a step is {shown(event.step)}")
                    if event.session_log.status == SessionLog.START:
                        self._forget(event.step)
                    for value in event.summary.value:
                        self._add(event.step, value)
        except UserError as error:
            self.remarks.append(f"{error}; it is passed over")
        except OSError as error:
            reason = error.strerror or str(error)
            self.remarks.append(f"cannot read the event file {path}: {reason}; it is passed over")
        except (_DamagedError, DecodeError) as error:
            reason = str(error) if isinstance(error, _DamagedError) else "a record is no event"
            self.remarks.append(
                f"the event file {path} is damaged ({reason}); what comes before that is read"
            )

    def _forget(self, step: int) -> None:
        """A fit that begins again at a step logs all later ones again."""
        for scalars in self.scalars.values():
            for later in [each for each in scalars if each >= step]:
                del scalars[later]
        for texts in self.texts.values():
            for later in [each for each in texts if each >= step]:
                del texts[later]

    def _add(self, step: int, value: Any) -> None:
        kind = value.WhichOneof("value")
        if kind == "simple_value":
            self.scalars.setdefault(value.tag, {})[step] = float(value.simple_value)
        elif kind == "tensor" and len(value.tensor.string_val) == 1:
            text = value.tensor.string_val[0].decode("utf-8", "replace")
            self.texts.setdefault(value.tag, {})[step] = text.strip()


class _DamagedError(Exception):
    """A record that is none."""


def _records(file: BinaryIO) -> Iterator[bytes]:
    """The data of each record that can hold scalars or texts.

    Raises:
        _DamagedError: A record is cut, or its check sum or its length is wrong.
    """
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c  # type: ignore[import-untyped]

    size = os.fstat(file.fileno()).st_size
    while head := file.read(12):
        length = int.from_bytes(head[:8], "little")
        if len(head) < 12:
            raise _DamagedError("its last record is cut short")
        if masked_crc32c(head[:8]) != int.from_bytes(head[8:], "little"):
            raise _DamagedError(f"no record begins at byte {file.tell() - 12}")
        if length > _LARGEST_RECORD or file.tell() + length + 4 > size:
            raise _DamagedError("its last record is cut short")
        if length > _LARGEST_SCALARS:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        data, sum_ = file.read(length), file.read(4)
        if masked_crc32c(data) != int.from_bytes(sum_, "little"):
            raise _DamagedError(f"the record at byte {file.tell() - length - 16} has another check sum")
        yield data
