"""What an export returns: where it lies, and what to print of it."""

from dataclasses import dataclass
from pathlib import Path

from lightning_drift.common.text import byte_size


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
        path: The file or folder.
        size: Bytes of its weights.
        hash: The sha256 of its weights in hex; the first ten digits are A1111's model hash.
        report: What was measured, as text; empty if nothing was.
    """

    path: Path
    size: int
    hash: str
    report: str = ""

    def __str__(self) -> str:
        wrote = f"wrote {self.path} ({byte_size(self.size)}), model hash {self.hash[:10]}"
        return f"{self.report}\n\n{wrote}" if self.report else wrote
