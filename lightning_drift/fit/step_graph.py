"""Forward and backward of a training step as one CUDA graph: a few thousand kernels, one launch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_drift.common.errors import notice
from lightning_drift.common.modules import without_autocast
from lightning_drift.common.out_of_memory import forget
from lightning_drift.common.text import reason
from lightning_drift.fit.memory import MEMORY_MODES

Replay = Callable[[], object]
Record = Callable[[Callable[[], None], Callable[[], None]], Replay]
_WARM_UP = 2  # steps before a capture, in which libraries choose kernels and make their workspaces


class StepGraph:
    """Makes a step's loss and gradients by replaying a graph that was captured once.

    At batch 1 a large GPU waits for the launches of a step's kernels; a graph launches all of them at once.
    The kernels and their order are those of the eager step, and what differs from step to step (latents,
    noise, timesteps, the loss scale, the weights) lies where it lay when the graph was captured. Before a
    graph is taken, it is replayed once and compared with an eager step: its loss must have the same bits,
    and the norm of each gradient must be within 1e-3 of the eager one's, which leaves room for kernels whose
    sums have no fixed order. Where that fails, or a capture does, one line says so and steps stay eager.

    A graph keeps the memory of a step; `release` gives it back, and the next step captures it again.

    Args:
        loss: Gives the loss [] of the inputs.
        scaled: Multiplies a loss with the loss scale of the moment, which lies on the device.
        parameters: All that may get gradients; those that require one when a graph is captured do.
        record: Runs a step and gives what runs it again; see `capture`, which it is on a GPU.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        scaled: Callable[[Tensor], Tensor],
        parameters: Sequence[nn.Parameter],
        record: Record | None = None,
    ) -> None:
        self._loss_of, self._scaled = loss, scaled
        self._all, self._parameters = parameters, [*parameters]
        self._record = record or capture
        self._inputs: list[Tensor] = []
        self._loss = torch.empty(0)
        self._gradients: list[Tensor | None] = []
        self._places: list[int] = []
        self._replay: Replay | None = None
        self.refused = False
        """Whether steps stay eager."""
        self.has_gradients = False
        """Whether the parameters hold the gradients of this step."""

    def __call__(self, *inputs: Tensor) -> Tensor | None:
        """The loss [] of a step, whose gradients the parameters then hold; None if it is to be taken eagerly.

        Args:
            inputs: What the loss is of; their shapes are always the same, or the step is eager.
        """
        self.has_gradients = False
        if self.refused:
            return None
        if self._replay is not None and self._places != self._where():
            self.release()  # the weights have moved
        if self._replay is None and not self._prepare(inputs):
            return None
        if [given.shape for given in inputs] != [own.shape for own in self._inputs]:
            return None
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        return self._again()

    def _again(self) -> Tensor:
        assert self._replay is not None
        self._replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        self.has_gradients = True
        return self._loss.clone()

    def release(self) -> None:
        """Give the graph's memory back; the next step captures it again."""
        self._replay, self._inputs, self._gradients = None, [], []
        self._loss = torch.empty(0)

    def _where(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self._parameters]

    # -- the capture ------------------------------------------------------------------------------------

    def _prepare(self, inputs: Sequence[Tensor]) -> bool:
        """Capture a step and compare it with an eager one."""
        self._parameters = [parameter for parameter in self._all if parameter.requires_grad]
        self._inputs = [given.clone() for given in inputs]
        self._free()
        try:
            self._step()
            loss, norms = self._loss.clone(), self._norms()
            self._free()
            self._replay = self._record(self._step, self._free)
            self._gradients = [parameter.grad for parameter in self._parameters]
            self._places = self._where()
            same = torch.equal(self._again(), loss) and torch.allclose(
                self._norms(), norms, rtol=1e-3, equal_nan=True
            )
            why = "" if same else "it does not make the numbers of the eager step"
        except (
            Exception
        ) as error:  # of a capture, whatever a library does; the eager step tells of a full memory
            why = f"{type(error).__name__}: {reason(error)}"
            forget(error)
        self._free()
        if why:
            self.release()
            self.refused = True
            notice(f"training steps are not replayed as a CUDA graph: {why[:300]}")
        return not why

    def _step(self) -> None:
        loss = self._loss_of(*self._inputs)
        scaled = self._scaled(loss)
        with without_autocast(loss.device):
            scaled.backward()  # type: ignore[no-untyped-call]
        self._loss = loss.detach()

    def _norms(self) -> Tensor:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        return torch.stack(torch._foreach_norm(gradients, 2.0, dtype=torch.float32))

    def _free(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
        self.has_gradients = False


def capture(step: Callable[[], None], free: Callable[[], None]) -> Replay:
    """Capture a step as a CUDA graph, in the way of PyTorch's notes on CUDA semantics.

    Args:
        step: Makes gradients where there are none.
        free: Frees them.

    Returns:
        What replays it: everything that it made is made again where it lay.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            step()
            free()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def why_eager(module: Any, trainer: Any) -> str:
    """Why a fit's steps cannot be a graph, as a sentence without a full stop; empty if they can.

    Args:
        module: A `DreamBooth`.
        trainer: Its Trainer.
    """
    mode = MEMORY_MODES[module.memory]
    if mode.defer is not None or mode.recompute:
        return f"model.memory {module.memory} makes parts of a step again, each step anew"
    if module.gradient_checkpointing:
        return "model.gradient_checkpointing makes blocks again, each step anew"
    if trainer.accumulate_grad_batches != 1:
        return "trainer.accumulate_grad_batches adds up gradients that a graph would replace"
    if trainer.world_size != 1:
        return f"there are {trainer.world_size} devices, which exchange gradients within the step"
    if torch.is_anomaly_enabled():
        return "trainer.detect_anomaly looks into every operation"
    return ""
