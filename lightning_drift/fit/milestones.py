"""When a callback acts: once after each new optimizer step, at the steps it was given."""

from lightning.pytorch import Trainer

from lightning_drift.common.errors import notice
from lightning_drift.common.number_lists import integers


class Milestones:
    """Counts optimizer steps for a callback, on the boundaries of gradient accumulation only.

    After a resume the step of the checkpoint counts as done, so nothing is saved or rendered again.

    Args:
        steps: Optimizer steps, such as ``800,1200,1600``; empty for none.
        option: The option's name, for messages.
    """

    def __init__(self, steps: str | int | list[int], option: str) -> None:
        self.steps = integers(steps, option, empty=True)
        self.option = option
        self._done = -1

    def announce(self, trainer: Trainer) -> None:
        """Say early which steps will never be reached."""
        beyond = [step for step in self.steps if step > trainer.max_steps > 0]
        if beyond:
            named = ", ".join(map(str, beyond))
            notice(f"{self.option}: {named} will not be reached with trainer.max_steps {trainer.max_steps}")

    def begin(self, trainer: Trainer) -> None:
        """Take the step that training starts from as done."""
        self._done = trainer.global_step

    def new_step(self, trainer: Trainer, batch_idx: int) -> int | None:
        """The optimizer step that this batch has just completed; None if it completed none."""
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches or step <= self._done:
            return None
        self._done = step
        return step
