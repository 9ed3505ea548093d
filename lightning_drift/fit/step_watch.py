"""What the last optimizer step did: its loss, its gradient norm, and whether the run has diverged."""

from typing import Any

import torch
from torch import Tensor


class StepWatch:
    """Collects values on the device and waits for the device only when asked.

    Args:
        device: Where the values are.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.grad_norm: Tensor | None = None
        self._losses: list[Tensor] = []
        self._first_bad_step = torch.tensor(-1, device=device)

    def see_loss(self, loss: Tensor, step: int) -> None:
        """Take note of a micro-batch's loss [], which belongs to optimizer step ``step`` (from 1)."""
        self._losses.append(loss.detach())
        self._see(self._losses[-1], step)

    def see_grad_norm(self, norm: Tensor, step: int, can_be_skipped: bool) -> None:
        """Take note of the gradient norm [] before clipping.

        Args:
            norm: Global 2-norm.
            step: The optimizer step that it belongs to, from 1.
            can_be_skipped: A loss scaler skips steps whose gradients overflow, so that they do no harm.
        """
        self.grad_norm = norm
        if not can_be_skipped:
            self._see(norm, step)

    def _see(self, value: Tensor, step: int) -> None:
        bad = ~torch.isfinite(value) & (self._first_bad_step < 0)
        self._first_bad_step = torch.where(bad, step, self._first_bad_step)

    def take_loss(self) -> Tensor:
        """The mean loss of the micro-batches since the last call, []."""
        loss = torch.stack(self._losses).mean()
        self._losses.clear()
        return loss

    def first_bad_step(self, strategy: Any = None) -> int | None:
        """The first step with a loss or gradient that is not finite.

        Args:
            strategy: The Trainer's, where several processes see photos of their own: what one has seen, all
                are told, so that all end at the same place. Each of them must ask.
        """
        seen = self._first_bad_step
        step = int(seen if strategy is None else strategy.reduce(seen.clone(), reduce_op="max"))
        return None if step < 0 else step
