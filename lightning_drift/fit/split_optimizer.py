"""An optimizer of float32 weights, over weights that are kept in two halves."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from bitsandbytes.optim.optimizer import Optimizer2State
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_drift.common.errors import UserError
from lightning_drift.fit.deferred_gradients import DeferredGradients
from lightning_drift.fit.fused_update import FusedUpdate, fused_update, norms_at_once
from lightning_drift.fit.memory import MemoryMode
from lightning_drift.fit.optimizer import make_optimizer
from lightning_drift.weights.split_weights import full_weight, set_weight_, split_parameters_


class SplitOptimizer(Optimizer):
    """Runs another optimizer on float32 weights that are there for one tensor at a time.

    For each weight kept in halves (`weights/split_weights`) a step joins the halves in a scratch tensor, lets
    the inner optimizer update it, and splits the result. Every number is the one that the inner optimizer
    makes on float32 weights; its state dict is the inner one's, so runs go from one to the other.

    Gradients of halves are float16 and still scaled. With a loss scaler the optimizer takes part in the
    protocol of PyTorch's fused optimizers: the scaler leaves unscaling to it and says whether a gradient was
    infinite; the step is then skipped.

    With ``mode.defer`` some gradients are not held but made for the norm, and again for the update
    (`fit/deferred_gradients`). With ``mode.paged`` the inner optimizer's states of the split weights lie in
    the computer's memory, and come to the device one by one.

    On an NVIDIA GPU the steps of bitsandbytes' Adam are taken for all tensors at once (`fit/fused_update`).

    Args:
        kind: The inner optimizer's class.
        modules: Trained modules by name; their large weights are split here.
        rates: Learning rates by the same names.
        arguments: Further arguments of the class.
        mode: What is kept and what is made again; ``mode.split`` is taken for granted.

    Raises:
        UserError: The class does not take the arguments, or a weight does not fit float16.
    """

    _step_supports_amp_scaling = True
    grad_scale: Tensor
    found_inf: Tensor

    def __init__(
        self,
        kind: type[Optimizer],
        modules: Mapping[str, nn.Module],
        rates: Mapping[str, float],
        arguments: Mapping[str, Any],
        mode: MemoryMode,
    ) -> None:
        self._paged = mode.paged
        self._deferred = DeferredGradients(math.inf if mode.defer is None else mode.defer)
        for module in modules.values():
            split_parameters_(module)
            if mode.defer is not None:
                self._deferred.adopt(module)
        # The inner optimizer's stand-ins: each weight's number of elements is in it only while it is updated.
        self._masters = {
            parameter: nn.Parameter(torch.empty(0, device=parameter.device))
            for module in modules.values()
            for parameter in module.parameters()
            if parameter.requires_grad and hasattr(parameter, "split_remainder")
        }
        groups = {
            name: [self._masters.get(p, p) for p in module.parameters() if p.requires_grad]
            for name, module in modules.items()
        }
        self.inner = make_optimizer(kind, groups, rates, arguments, scaled=True)
        own = {master: parameter for parameter, master in self._masters.items()}
        super().__init__(
            [
                {**group, "params": [own.get(p, p) for p in group["params"]]}
                for group in self.inner.param_groups
            ],
            dict(self.inner.defaults),
        )
        self.state = self.inner.state
        self._coefficient: Tensor | None = None
        self.fused = fused_update(self.inner, self._masters)
        """Takes the steps, where it can."""

    # -- gradients --------------------------------------------------------------------------------------

    def total_norm(self, scale: Tensor) -> Tensor:
        """Global norm of the gradients without their loss scale; not finite where one overflowed.

        The norm of each tensor is taken in float32, as that of an unscaled gradient, and then that of all.
        """
        inverse = _inverse(scale)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        norms = norms_at_once(parameters, inverse) if self.fused is not None else {}
        for parameter in parameters:
            if parameter not in norms and (gradient := self._gradient(parameter)) is not None:
                unscaled = gradient.to(torch.float32, copy=True).mul_(inverse)
                norms[parameter] = torch.linalg.vector_norm(unscaled)
                del unscaled, gradient
        self._show_overflow([norms[weight] for weight in self._deferred.weights()])
        total: Tensor = torch.linalg.vector_norm(torch.stack([norms[p] for p in parameters if p in norms]))
        return total

    def _gradient(self, parameter: Tensor) -> Tensor | None:
        return parameter.grad if parameter.grad is not None else self._deferred.gradient(parameter)

    def _show_overflow(self, norms: list[Tensor]) -> None:
        """Make a held gradient infinite if a deferred one is: the loss scaler sees the held ones alone."""
        held = next((p.grad for g in self.param_groups for p in g["params"] if p.grad is not None), None)
        if norms and held is not None:
            held.copy_(torch.where(torch.isfinite(torch.stack(norms)).all(), held, math.inf))

    def clip(self, norm: Tensor, limit: float) -> None:
        """Scale the next step's gradients as ``torch.nn.utils.clip_grad_norm_`` does to a global norm."""
        self._coefficient = torch.clamp(limit / (norm + 1e-6), max=1.0)

    # -- the step ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every weight; nothing where the loss scaler found a gradient that is not finite."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        factors = [_inverse(self.grad_scale)] if hasattr(self, "grad_scale") else []
        factors += [self._coefficient] if self._coefficient is not None else []
        self._coefficient = None
        if self.fused is not None:
            self._share_settings()
            self._step_at_once(self.fused, factors)
            return loss
        if hasattr(self, "found_inf") and self.found_inf.item():
            self._deferred.clear()
            return loss
        self._share_settings()
        groups = self.inner.param_groups
        for group, own in zip(groups, self.param_groups, strict=True):
            whole = [p for p in own["params"] if p not in self._masters and p.grad is not None]
            for parameter in whole:
                for factor in factors:
                    parameter.grad.mul_(factor)
            self.inner.param_groups = [{**group, "params": whole}]
            self.inner.step()
            for parameter in own["params"]:
                if parameter in self._masters:
                    self._update(group, parameter, factors)
        self.inner.param_groups = groups
        self._deferred.clear()
        return loss

    def _update(self, group: dict[str, Any], parameter: nn.Parameter, factors: list[Tensor]) -> None:
        if parameter.grad is None and parameter not in self._deferred.weights():
            return
        # One after the other: each takes a few tensors of the weight's size while it is made.
        master = self._masters[parameter]
        master.data = full_weight(parameter)
        gradient = self._gradient(parameter).float()  # type: ignore[union-attr]
        parameter.grad = None
        for factor in factors:
            gradient = gradient.mul_(factor)
        master.grad = gradient
        if self._paged:
            _move(self.inner.state[master], parameter.device)
        self.inner.param_groups = [{**group, "params": [master]}]
        self.inner.step()
        if self._paged:
            _move(self.inner.state[master], torch.device("cpu"))
        master.grad = None
        del gradient
        set_weight_(parameter, master.data)
        master.data = torch.empty(0, device=parameter.device)

    def _step_at_once(self, fused: FusedUpdate, factors: list[Tensor]) -> None:
        """A step in few launches: first what is on the device, then what is made or fetched for it."""
        found_inf = getattr(self, "found_inf", None)
        paged: Mapping[Any, Any] = self._masters if self._paged else {}
        held = {p: p.grad for g in self.param_groups for p in g["params"] if p.grad is not None}
        fused.update({p: gradient for p, gradient in held.items() if p not in paged}, factors, found_inf)
        for batch in _batches([*(p for p in held if p in paged), *self._deferred.weights()]):
            states = [self.inner.state[self._masters[p]] for p in batch] if paged else []
            for state in states:
                _move(state, batch[0].device)
            gradients = {p: gradient for p in batch if (gradient := self._gradient(p)) is not None}
            fused.update(gradients, factors, found_inf)
            for state in states:
                _move(state, torch.device("cpu"))
        self._deferred.clear()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Free all gradients, deferred ones too."""
        super().zero_grad(set_to_none)
        self._deferred.clear()

    def _share_settings(self) -> None:
        for group, own in zip(self.inner.param_groups, self.param_groups, strict=True):
            group.update({key: value for key, value in own.items() if key != "params"})

    def overflowed(self) -> bool:
        """Whether a weight has grown past what float16 holds; waits for the device."""
        return any(not torch.isfinite(parameter).all() for parameter in self._masters)

    # -- checkpoints ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's, as it would be over float32 weights."""
        self._share_settings()
        if self.fused is not None:
            self.fused.settle()
        if self._paged and torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()  # the last states may be on their way
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state that this or the inner optimizer has saved."""
        self.inner.load_state_dict(state_dict)
        self.state = self.inner.state
        if self.fused is not None:
            self.fused.forget()
        if self._paged:
            for master in self._masters.values():
                _move(self.inner.state[master], torch.device("cpu"))
        for group, own in zip(self.inner.param_groups, self.param_groups, strict=True):
            own.update({key: value for key, value in group.items() if key != "params"})


_TAKES_WEIGHTS = (ModelPruning, StochasticWeightAveraging, WeightAveraging)
"""Callbacks that average or prune what a module's parameters hold."""
# Each updates a tensor from that tensor's own gradient and state, whatever the others are.
_TENSOR_BY_TENSOR = (torch.optim.Adam, torch.optim.AdamW, Optimizer2State)


def check_split(mode: str, kind: type[Optimizer], trainer: Any, loss_scaler: Any) -> None:
    """Refuse a run whose numbers would not be those of float32 weights.

    Args:
        mode: The memory mode's name, for the message.
        kind: The optimizer's class.
        trainer: Lightning's Trainer.
        loss_scaler: The loss scaler of float16 training, or None.

    Raises:
        UserError: The optimizer is not known to update tensors one by one, the precision is not float16
            mixed, gradients of several batches are added up, clipping is by value, a callback averages or
            prunes weights, or there are several devices.
    """
    option = "model.memory"
    if not issubclass(kind, _TENSOR_BY_TENSOR):
        raise UserError(
            f"{mode} updates one tensor at a time, which {kind.__name__} may not allow; take full, or Adam "
            "or AdamW of torch.optim or bitsandbytes.optim",
            option,
        )
    if loss_scaler is None:
        raise UserError(
            f"{mode} keeps the weights as float16 mixed precision computes with them; set trainer.precision "
            "16-mixed, on a GPU, or take full",
            option,
        )
    if trainer.accumulate_grad_batches != 1:
        raise UserError(
            f"{mode} has float16 gradients, whose sum over several batches is not that of float32; set "
            "trainer.accumulate_grad_batches 1, or take full",
            option,
        )
    for callback in trainer.callbacks:
        name = type(callback).__name__
        if isinstance(callback, GradientAccumulationScheduler):
            raise UserError(
                f"{mode} has float16 gradients, and {name} adds up those of several batches; take full",
                option,
            )
        if isinstance(callback, _TAKES_WEIGHTS):
            raise UserError(
                f"{mode} keeps each weight in two halves, of which {name} would see one; take full", option
            )
    if trainer.gradient_clip_val and trainer.gradient_clip_algorithm not in (None, "norm"):
        raise UserError(f"{mode} clips by norm alone; set trainer.gradient_clip_algorithm norm", option)
    if trainer.world_size != 1:
        raise UserError(f"{mode} is for one device, and there are {trainer.world_size}; take full", option)


def _batches(weights: list[Any], numbers: int = 2**26) -> Iterator[list[Any]]:
    """Weights in their order, so many at a time that their float16 gradients take 128 MiB; at least one."""
    batch: list[Any] = []
    for weight in weights:
        if batch and sum(w.numel() for w in batch) + weight.numel() > numbers:
            yield batch
            batch = []
        batch.append(weight)
    if batch:
        yield batch


def _move(state: dict[str, Any], device: torch.device) -> None:
    """Move one weight's optimizer state; in the computer's memory it is pinned, so that copies run ahead."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.device != device and value.dim():
            if value.is_meta:
                state[key] = torch.empty_like(value, device="cpu")
            elif device.type == "cpu":
                host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
                state[key] = host.copy_(value, non_blocking=True)
            else:
                state[key] = value.to(device, non_blocking=True)


def _inverse(scale: Tensor) -> Tensor:
    """One over the loss scale, as ``torch.amp.GradScaler`` takes it."""
    return scale.double().reciprocal().float()
