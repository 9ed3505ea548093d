"""How much of a fine-tune's change a smaller file carries, block by block."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt

from torch import Tensor

from lightning_drift.fit.weight_change import block_of
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED, OpenedPipeline


@dataclass
class Squares:
    """Sums of squares over the weights of a block.

    Attributes:
        base: Of the base's weights W0.
        change: Of the change W - W0.
        loss: Of what the file loses of the change.
        carried_change: Of the change in the weights that the file can carry.
        carried_loss: Of the loss in these.
    """

    base: float = 0.0
    change: float = 0.0
    loss: float = 0.0
    carried_change: float = 0.0
    carried_loss: float = 0.0


@dataclass
class Reconstruction:
    """How near a file and the base come to a fine-tune, as relative errors (ratios of Frobenius norms).

    Attributes:
        blocks: Sums of squares by block, such as ``unet/mid_block``, and by part.
        uncarried: The squared change in weights that the file cannot carry, by kind, such as ``biases``.
    """

    blocks: dict[str, Squares] = field(default_factory=lambda: defaultdict(Squares))
    uncarried: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, name: str, base: Tensor, change: Tensor, loss: Tensor, kind: str | None = None) -> None:
        """Count one tensor.

        Args:
            name: Part and weight, such as ``unet.conv_in.weight``.
            base: W0, float32.
            change: W - W0.
            loss: What the file loses of the change.
            kind: What kind of weight it is, if the file cannot carry that kind.
        """
        base_square, change_square, loss_square = (
            tensor.double().square().sum().item() for tensor in (base, change, loss)
        )
        for key in (name.partition(".")[0], block_of(name)):
            block = self.blocks[key]
            block.base += base_square
            block.change += change_square
            block.loss += loss_square
            if kind is None:
                block.carried_change += change_square
                block.carried_loss += loss_square
        if kind is not None:
            self.uncarried[kind] += change_square

    def rows(self) -> list[tuple[str, float, float, float | None]]:
        """The errors of each block.

        Returns:
            The block; its change relative to the base; what is lost relative to the change; and the same for
            the weights that the file can carry, None where it can carry none. A ratio to nothing is 0.
        """
        return [
            (
                name,
                _ratio(block.change, block.base),
                _ratio(block.loss, block.change),
                _ratio(block.carried_loss, block.carried_change)
                if block.carried_change or not block.change
                else None,
            )
            for name, block in sorted(self.blocks.items())
        ]

    def table(self, markdown: bool = False) -> str:
        """The rows as text or as a Markdown table."""
        heads = ["block", "change", "lost of it"] + (["lost of its layers"] if self.uncarried else [])
        lines = [
            [block, f"{change:.3%}", f"{loss:.3%}", "-" if carried is None else f"{carried:.3%}"][
                : len(heads)
            ]
            for block, change, loss, carried in self.rows()
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
        if not self.uncarried:
            return ""
        whole = sum(self.blocks[part].change for part in TRAINED)
        kinds = ", ".join(
            f"{kind} {square / whole if whole else 0.0:.2%}" for kind, square in self.uncarried.items()
        )
        return (
            f"A LoRA carries linear and convolution layers only. Left behind of the squared change: {kinds}."
        )


def _ratio(square: float, whole: float) -> float:
    return sqrt(square / whole) if whole else 0.0


def reconstruct(
    opened: OpenedPipeline, base: OpenedPipeline, written: OpenedPipeline, kinds: Mapping[str, str]
) -> Reconstruction:
    """Compare a file that was written with the fine-tune it was made from, one tensor at a time.

    Args:
        opened: The fine-tune.
        base: Its base.
        written: The base with the written file on it.
        kinds: The weights that the file cannot carry, by part and name, and their kind, such as
            ``{"unet.conv_in.bias": "biases"}``.
    """
    result = Reconstruction()
    for part in TRAINED:
        for name in opened.weights[part].shapes:
            tuned, file = (pipeline.weights[part].read(name).float() for pipeline in (opened, written))
            start = base.weights[part].read(name).float().reshape(tuned.shape)
            key = f"{part}.{name}"
            result.add(key, start, tuned - start, tuned - file.reshape(tuned.shape), kinds.get(key))
    return result
