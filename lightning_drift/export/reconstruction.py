"""How much of a fine-tune's change a smaller file carries, block by block."""

from collections import defaultdict
from dataclasses import dataclass, field
from math import sqrt

from torch import Tensor

from lightning_drift.fit.weight_change import block_of
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED, OpenedPipeline


@dataclass
class Reconstruction:
    """Sums of squares over weights, from which relative errors (Frobenius norms) follow.

    Attributes:
        squares: By block, such as ``unet/mid_block``: of the base, of the change W - W0, of what the file
            loses of the change, and the last two again over the weights that the file can carry at all.
    """

    squares: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0] * 5))
    _left: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, name: str, base: Tensor, change: Tensor, error: Tensor, kind: str | None = None) -> None:
        """Count one tensor.

        Args:
            name: Part and weight, such as ``unet.conv_in.weight``.
            base: W0, float32.
            change: W - W0.
            error: What is lost of it.
            kind: What weight it is, if the file cannot carry such.
        """
        w, c, e = (tensor.double().square().sum().item() for tensor in (base, change, error))
        carried = (0.0, 0.0) if kind else (c, e)
        for key in (name.partition(".")[0], block_of(name)):
            self.squares[key] = [a + b for a, b in zip(self.squares[key], (w, c, e, *carried), strict=True)]
        if kind:
            self._left[kind] += c

    @property
    def left(self) -> dict[str, float]:
        """The share of the squared change in weights that the file cannot carry, by kind, 0 to 1."""
        whole = sum(self.squares[part][1] for part in TRAINED)
        return {kind: square / whole if whole else 0.0 for kind, square in self._left.items()}

    def rows(self) -> list[tuple[str, float, float, float | None]]:
        """By block: the change relative to the base, what is lost of it, and what of the part it can carry.

        All are ratios of norms; what is lost is relative to the change, 0 where there is none. The last is
        None for a block of which nothing can be carried.
        """

        def ratio(part: float, whole: float) -> float:
            return sqrt(part / whole) if whole else 0.0

        return [
            (block, ratio(c, w), ratio(e, c), ratio(kept_e, kept_c) if kept_c or not c else None)
            for block, (w, c, e, kept_c, kept_e) in sorted(self.squares.items())
        ]

    def table(self, markdown: bool = False) -> str:
        """The rows as text or as a Markdown table."""
        heads = ["block", "change", "lost of it"] + (["lost of its layers"] if self._left else [])
        lines = [
            [block, f"{change:.3%}", f"{lost:.3%}", "-" if carried is None else f"{carried:.3%}"][
                : len(heads)
            ]
            for block, change, lost, carried in self.rows()
        ]
        if markdown:
            return "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *lines])
        widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(row)
            )
            for row in (list(zip(line, widths, strict=True)) for line in [heads, *lines])
        )

    def left_behind(self) -> str:
        """A sentence on what the file cannot carry; empty if it carries all kinds of weights."""
        if not self._left:
            return ""
        kinds = ", ".join(f"{kind} {share:.2%}" for kind, share in self.left.items())
        return (
            f"A LoRA carries linear and convolution layers only. Left behind of the squared change: {kinds}."
        )


def reconstruct(
    parts: OpenedPipeline, base: OpenedPipeline, written: OpenedPipeline, kinds: dict[str, str]
) -> Reconstruction:
    """Compare a file that was written with the fine-tune it was made from, one tensor at a time.

    Args:
        parts: The fine-tune.
        base: Its base.
        written: The base with the written file on it.
        kinds: What kind of weight the file cannot carry, by part and name, such as
            ``{"unet.conv_in.bias": "biases"}``.
    """
    result = Reconstruction()
    for part in TRAINED:
        for name in parts.weights[part].shapes:
            tuned, got = (p.weights[part].read(name).float() for p in (parts, written))
            w0 = base.weights[part].read(name).float().reshape(tuned.shape)
            key = f"{part}.{name}"
            result.add(key, w0, tuned - w0, tuned - got.reshape(tuned.shape), kinds.get(key))
    return result
