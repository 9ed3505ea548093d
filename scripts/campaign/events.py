"""Event files: whether they are whole, and the points that TensorBoard shows of them."""

import hashlib
import struct
from collections import Counter
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import (  # type: ignore[import-untyped]
    masked_crc32c,
)


def damage(path: Path, killed: bool = False) -> str:
    """Where an event file ends to be one; empty if it reads to its end.

    Args:
        path: The file.
        killed: Whether its writer may have been killed: then the last record may be cut off.
    """
    data, at = path.read_bytes(), 0
    while at < len(data):
        head = data[at : at + 12]
        if len(head) < 12:
            return "" if killed else f"the record at byte {at} is cut off"
        length, checksum = struct.unpack("<QI", head)
        if masked_crc32c(head[:8]) != checksum:
            return f"no record begins at byte {at} of {len(data)}"
        end = at + 12 + length
        if end + 4 > len(data):
            return "" if killed else "the last record is cut off"
        if masked_crc32c(data[at + 12 : end]) != struct.unpack("<I", data[end : end + 4])[0]:
            return f"the record at byte {at} of {len(data)} is damaged"
        at = end + 4
    return ""


class Story:
    """Every scalar, picture and text that TensorBoard shows of a run folder, after what resumes purged.

    Args:
        folder: The folder of one run's event files.
    """

    def __init__(self, folder: Path) -> None:
        events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
        events.Reload()
        tags = events.Tags()
        points = [
            *((tag, event.step, event.value) for tag in tags["scalars"] for event in events.Scalars(tag)),
            *(
                (tag, event.step, hashlib.sha256(event.encoded_image_string).hexdigest())
                for tag in tags["images"]
                for event in events.Images(tag)
            ),
            *(
                (tag, event.step, event.tensor_proto.SerializeToString())
                for tag in tags["tensors"]
                for event in events.Tensors(tag)
            ),
        ]
        self.points = {(tag, step): value for tag, step, value in points}
        # TensorBoard purges no tensors, which texts are: one that a resume tells again is there twice.
        purged = [(tag, step) for tag, step, _ in points if tag not in tags["tensors"]]
        self.twice = [key for key, count in Counter(purged).items() if count > 1]

    def lost_in(self, told: "Story") -> list[str]:
        """What another story tells otherwise than this one, in a line for each kind of loss."""
        missing = [key for key in self.points if key not in told.points]
        foreign = [key for key in told.points if key not in self.points]
        # As text, because NaN is not equal to itself.
        wrong = [
            key
            for key in self.points.keys() & told.points.keys()
            if repr(self.points[key]) != repr(told.points[key])
        ]
        kinds = {
            "points are missing": missing,
            "points are too many": foreign,
            "points have other values": wrong,
            "points are there twice": told.twice,
        }
        return [
            f"{len(keys)} {kind}: " + ", ".join(f"{tag} at {step}" for tag, step in keys[:4])
            for kind, keys in kinds.items()
            if keys
        ]
