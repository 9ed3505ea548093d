"""An optimizer of float32 weights, over weights that are kept in two halves."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from bitsandbytes.optim.optimizer import Optimizer2State
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_drift.common.errors import UserError
from lightning_drift.fit.fused_update import fused_update
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

    On an NVIDIA GPU the steps of bitsandbytes' Adam are taken for all tensors at once (`fit/fused_update`).

    Args:
        kind: The inner optimizer's class.
        modules: Trained modules by name; their large weights are split here.
        rates: Learning rates by the same names.
        arguments: Further arguments of the class.

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
    ) -> None:
        for module in modules.values():
            split_parameters_(module)
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
        self.inner = make_optimizer(kind, groups, rates, arguments)
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
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms = [torch.linalg.vector_norm(gradient.float() * inverse) for gradient in gradients]
        total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return total

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
        self._share_settings()
        if self.fused is not None:
            gradients = {p: p.grad for g in self.param_groups for p in g["params"] if p.grad is not None}
            self.fused.update(gradients, factors, getattr(self, "found_inf", None))
            return loss
        if hasattr(self, "found_inf") and self.found_inf.item():
            return loss
        groups = self.inner.param_groups
        for group, own in zip(groups, self.param_groups, strict=True):
            whole = [p for p in own["params"] if p not in self._masters and p.grad is not None]
            for parameter in whole:
                for factor in factors:
                    parameter.grad.mul_(factor)
            self.inner.param_groups = [{**group, "params": whole}]
            self.inner.step()
            for parameter in own["params"]:
                if parameter in self._masters and parameter.grad is not None:
                    self._update(group, parameter, factors)
        self.inner.param_groups = groups
        return loss

    def _update(self, group: dict[str, Any], parameter: nn.Parameter, factors: list[Tensor]) -> None:
        master = self._masters[parameter]
        master.data = full_weight(parameter)
        gradient = parameter.grad.float()  # type: ignore[union-attr]
        for factor in factors:
            gradient = gradient.mul_(factor)
        master.grad = gradient
        self.inner.param_groups = [{**group, "params": [master]}]
        self.inner.step()
        set_weight_(parameter, master.data)
        master.data, master.grad = torch.empty(0, device=parameter.device), None

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
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state that this or the inner optimizer has saved."""
        self.inner.load_state_dict(state_dict)
        self.state = self.inner.state
        if self.fused is not None:
            self.fused.forget()
        for group, own in zip(self.inner.param_groups, self.param_groups, strict=True):
            own.update({key: value for key, value in group.items() if key != "params"})


# Each updates a tensor from that tensor's own gradient and state, whatever the others are.
_TENSOR_BY_TENSOR = (torch.optim.Adam, torch.optim.AdamW, Optimizer2State)


def check_split(kind: type[Optimizer], trainer: Any, loss_scaler: Any) -> None:
    """Refuse a run whose numbers would not be those of float32 weights.

    Raises:
        UserError: The optimizer is not known to update tensors one by one, the precision is not float16
            mixed, gradients of several batches are added up, clipping is by value, or there are several
            devices.
    """
    option = "model.memory"
    if not issubclass(kind, _TENSOR_BY_TENSOR):
        raise UserError(
            f"split updates one tensor at a time, which {kind.__name__} may not allow; take full, or Adam or "
            "AdamW of torch.optim or bitsandbytes.optim",
            option,
        )
    if loss_scaler is None:
        raise UserError(
            "split keeps the weights as float16 mixed precision computes with them; set trainer.precision "
            "16-mixed, on a GPU, or take full",
            option,
        )
    if trainer.accumulate_grad_batches != 1:
        raise UserError(
            "split has float16 gradients, whose sum over several batches is not that of float32; set "
            "trainer.accumulate_grad_batches 1, or take full",
            option,
        )
    if trainer.gradient_clip_val and trainer.gradient_clip_algorithm not in (None, "norm"):
        raise UserError("split clips by norm alone; set trainer.gradient_clip_algorithm norm", option)
    if trainer.world_size != 1:
        raise UserError(f"split is for one device, and there are {trainer.world_size}; take full", option)


def _inverse(scale: Tensor) -> Tensor:
    """One over the loss scale, as ``torch.amp.GradScaler`` takes it."""
    return scale.double().reciprocal().float()
