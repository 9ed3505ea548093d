"""bitsandbytes' Adam for all tensors in a few launches, without a wait for the device."""

import importlib.util
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from bitsandbytes.optim.optimizer import Optimizer2State
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_drift.common.errors import notice
from lightning_drift.fit.nearest_code import NearestCode
from lightning_drift.weights.split_weights import full_weight, is_split, split_parameters_

_CHUNK = 16384  # numbers of a tensor that one program updates
_QUANTIZED = 256  # numbers that share a scale


class FusedUpdate:
    """Takes an optimizer's steps with the kernel of `fit/update_kernel`.

    bitsandbytes launches a kernel for each tensor and waits for the device after each. Here tensors of one
    kind (split or float32 weights, 8-bit or float32 states) are updated in one launch, which finds them by a
    table of addresses: weights, gradients and states lie where they always lay, so whoever moves, loads or
    replaces them need not know. Loss scale, clipping, step counts and whether the step is skipped are read
    from the device. The states are the optimizer's own, and so is what it saves; only its step counts lie on
    the device until `settle`.

    Args:
        optimizer: bitsandbytes' optimizer.
        stand_ins: For each split weight the parameter that stands for it in the optimizer.
        cuda: Use the hardware's instructions; false in Triton's interpreter.
    """

    def __init__(
        self, optimizer: Optimizer2State, stand_ins: Mapping[nn.Parameter, nn.Parameter], cuda: bool = True
    ) -> None:
        from lightning_drift.fit import update_kernel

        self._kernel = update_kernel.update
        self._optimizer = optimizer
        self._stand_ins = stand_ins
        self._cuda = cuda
        self._places = {
            parameter: (group, position)
            for group, settings in enumerate(optimizer.param_groups)
            for position, parameter in enumerate(settings["params"])
        }
        self._numbers = {parameter: number for number, parameter in enumerate(self._places)}
        self._steps: Tensor | None = None
        self._codes: list[Tensor | None] = []
        self._programs: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def update(
        self, gradients: Mapping[Any, Tensor], factors: Sequence[Tensor] = (), found_inf: Tensor | None = None
    ) -> None:
        """Take one step with the groups' settings of the moment.

        Args:
            gradients: Of each weight that is to be updated.
            factors: What they are multiplied with, one after the other; float32 [], at most two.
            found_inf: float32 [], above 0 where a gradient is not finite; then nothing changes.
        """
        if not gradients:
            return
        device = next(iter(gradients.values())).device
        one = torch.ones((), device=device)
        first, second = (*factors, one, one)[:2]
        found = torch.zeros((), device=device) if found_inf is None else found_inf
        kinds: dict[tuple[bool, bool], list[Any]] = defaultdict(list)
        for weight, gradient in gradients.items():
            key = self._stand_ins.get(weight, weight)
            state = self._state(key, weight)
            remainder = _beside(weight)
            gradient = gradient.to(weight.dtype).contiguous()
            kind = (remainder is not None, "absmax1" in state)
            tensors = (
                weight,
                remainder,
                gradient,
                *map(state.get, ("state1", "state2", "absmax1", "absmax2")),
            )
            settings = self._optimizer.param_groups[self._places[key][0]]
            kinds[kind].append((key, tensors, settings))
        for kind, rows in kinds.items():
            self._launch(kind, rows, first, second, found)

    def _launch(self, kind: Any, rows: list[Any], first: Tensor, second: Tensor, found: Tensor) -> None:
        halves, eight_bit = kind
        device = found.device
        table = [
            [*(0 if t is None else t.data_ptr() for t in tensors), tensors[0].numel(), self._numbers[key]]
            for key, tensors, _ in rows
        ]
        aligned = all(
            row[7] % _QUANTIZED == 0 and not any(address % 16 for address in row[:5]) for row in table
        )
        addresses = _send(table, torch.int64, device)
        settings = _send(
            [[s["lr"], *s["betas"][:2], s["eps"], s["weight_decay"]] for *_, s in rows], torch.float32, device
        )
        steps = self._counts(device)
        taken = (found.reshape(()) == 0).to(torch.int32)
        steps.index_add_(0, addresses[:, 8], taken.expand(len(rows)))
        programs = self._cut(tuple(row[7] for row in table), device)
        with torch.cuda.device_of(addresses):  # type: ignore[no-untyped-call]
            self._kernel[(len(programs),)](
                programs,
                addresses,
                settings,
                steps,
                first,
                second,
                found,
                *(self._codes if eight_bit else [None] * 6),
                HALVES=halves,
                EIGHT_BIT=eight_bit,
                ALIGNED=aligned,
                CUDA=self._cuda,
                CHUNK=_CHUNK,
                num_warps=4,
                enable_fp_fusion=False,  # the kernel says itself which products are fused
            )

    def _state(self, key: Any, weight: Tensor) -> dict[str, Any]:
        """The optimizer's state of a weight, on the weight's device."""
        state: dict[str, Any] = self._optimizer.state[key]
        if not state:
            group, position = self._places[key]
            if key is not weight:
                key.data = weight.data  # for its shape
            self._optimizer.init_state(self._optimizer.param_groups[group], key, group, position)
            if key is not weight:
                key.data = torch.empty(0, device=weight.device)
        for name, value in state.items():
            if isinstance(value, Tensor) and (value.device != weight.device or not value.is_contiguous()):
                state[name] = value.to(weight.device).contiguous()
        if not self._codes and "qmap1" in state:
            maps = [NearestCode.of(state[name]) for name in ("qmap1", "qmap2")]
            columns = ([m.codes for m in maps], [m.first for m in maps], [m.limits for m in maps])
            self._codes = [tensor.to(weight.device) for column in columns for tensor in column]
        return state

    def _counts(self, device: torch.device) -> Tensor:
        if self._steps is None:
            states = [self._optimizer.state.get(key, {}) for key in self._places]
            counts = [int(state.get("step", 0)) for state in states]
            self._steps = torch.tensor(counts, dtype=torch.int32, device=device)
        return self._steps

    def _cut(self, sizes: tuple[int, ...], device: torch.device) -> Tensor:
        """Which tensor each program works at, and where it begins; int32 [programs, 2]."""
        if sizes not in self._programs:
            begins = [torch.arange(0, size, _CHUNK, dtype=torch.int32) for size in sizes]
            pieces = [torch.stack([torch.full_like(b, n), b], 1) for n, b in enumerate(begins)]
            self._programs[sizes] = torch.cat(pieces).to(device)
        return self._programs[sizes]

    def settle(self) -> None:
        """Write the step counts into the optimizer's state, for it to be saved; waits for the device."""
        if self._steps is not None:
            for key, count in zip(self._places, self._steps.tolist(), strict=True):
                if self._optimizer.state.get(key):
                    self._optimizer.state[key]["step"] = count

    def forget(self) -> None:
        """Take up the step counts of a state that the optimizer has loaded."""
        self._steps = None


def _beside(weight: Tensor) -> Tensor | None:
    """A weight's remainder, on its device; both are made contiguous, as bitsandbytes makes weights."""
    if not weight.is_contiguous():
        weight.data = weight.data.contiguous()
    if not is_split(weight):
        return None
    remainder: Tensor = weight.split_remainder.to(weight.device).contiguous()  # type: ignore[attr-defined]
    weight.split_remainder = remainder  # type: ignore[attr-defined]
    return remainder


def _send(rows: list[list[Any]], dtype: torch.dtype, device: torch.device) -> Tensor:
    table = torch.tensor(rows, dtype=dtype)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def norms_at_once(parameters: Iterable[Tensor], inverse_scale: Tensor) -> dict[Tensor, Tensor]:
    """The float32 norm of each parameter's gradient without its loss scale, in few launches.

    It is how ``torch.nn.utils.clip_grad_norm_`` takes the norms of float32 gradients on a GPU. Loss scales
    are powers of two, so that it does not matter whether gradients or norms are unscaled.
    """
    kinds: dict[torch.dtype, list[Any]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            kinds[parameter.grad.dtype].append(parameter)
    norms: dict[Tensor, Tensor] = {}
    for same in kinds.values():
        found = torch._foreach_norm([p.grad for p in same], 2.0, dtype=torch.float32)
        norms |= zip(same, torch._foreach_mul(found, inverse_scale), strict=True)
    return norms


def fused_update(optimizer: Optimizer, stand_ins: Mapping[nn.Parameter, nn.Parameter]) -> FusedUpdate | None:
    """The fused update of an optimizer on an NVIDIA GPU; None where its own steps are to be taken.

    Where it cannot be had on a GPU, one line says why. It is taken only if it makes the bits of bitsandbytes'
    own kernels in a trial on this device.
    """
    device = next(iter(stand_ins), torch.empty(0)).device
    if device.type != "cuda":
        return None
    reason = why_not(optimizer)
    if not reason:
        try:
            if makes_bitsandbytes_bits(optimizer, device):
                return FusedUpdate(optimizer, stand_ins)
            reason = "on this GPU its numbers are not those of bitsandbytes"
        except Exception as error:  # of a compiler: a missing C compiler, an old GPU or driver
            reason = f"the kernel does not compile or run: {type(error).__name__}: {error}"
    notice(f"weights are updated one by one, not in one launch: {' '.join(reason.split())[:300]}")
    return None


def why_not(optimizer: Optimizer) -> str:
    """Why an optimizer's steps cannot be fused on a GPU; empty if they can."""
    if not isinstance(optimizer, Optimizer2State) or optimizer.optimizer_name != "adam":
        return f"that is for bitsandbytes' Adam and AdamW, and this is {type(optimizer).__name__}"
    if optimizer.is_paged:
        return f"{type(optimizer).__name__} pages its states itself"
    if optimizer.args.max_unorm or optimizer.args.skip_zeros:
        return "it knows neither max_unorm nor skip_zeros"
    if torch.version.hip:
        return "it is for NVIDIA's GPUs"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    return ""


def makes_bitsandbytes_bits(optimizer: Any, device: torch.device) -> bool:
    """Whether two steps on a few small tensors of each kind make bitsandbytes' bits on a device."""
    source = torch.Generator().manual_seed(0)
    settings = {key: optimizer.defaults[key] for key in ("lr", "betas", "eps", "weight_decay")}
    same = True
    for width in (64, 67):
        # Large enough to be split; made on meta, so that the global generator is not moved.
        layer = nn.Linear(80, width, bias=False, device="meta").to_empty(device="cpu")
        layer.weight.data.uniform_(0.01, 0.1, generator=source)  # which halves hold exactly
        extra = [nn.Parameter(torch.randn(size, generator=source).to(device)) for size in (80 * width, width)]
        layer.to(device)
        theirs = [nn.Parameter(p.detach().clone()) for p in (layer.weight, *extra)]
        split_parameters_(layer)
        stand_in = nn.Parameter(torch.empty(0, device=device))
        mine, other = (
            Optimizer2State(
                "adam", params, args=optimizer.args, optim_bits=optimizer.args.optim_bits, **settings
            )
            for params in ([stand_in, *extra], theirs)
        )
        fused = FusedUpdate(
            mine, dict(zip(layer.parameters(), [stand_in], strict=True)), cuda=device.type == "cuda"
        )
        for _ in range(2):
            gradients = {}
            for weight, twin in zip((layer.weight, *extra), theirs, strict=True):
                noise = torch.randn(twin.shape, generator=source).to(device, weight.dtype)
                noise.view(-1)[:300] = 0  # a block without any gradient too
                gradients[weight], twin.grad = noise, noise.float() * 0.5
            fused.update(gradients, [torch.full((), 0.5, device=device)])
            other.step()
        same &= all(
            torch.equal(full_weight(weight), twin)
            for weight, twin in zip((layer.weight, *extra), theirs, strict=True)
        )
        for key, twin in zip((stand_in, *extra), theirs, strict=True):
            state, states = mine.state[key], other.state[twin]
            same &= all(
                torch.equal(value, states[name]) for name, value in state.items() if isinstance(value, Tensor)
            )
    return same
