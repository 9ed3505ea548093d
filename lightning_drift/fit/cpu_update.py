"""bitsandbytes' Adam on a CPU: the numbers of its GPU kernels, in pieces that stay in the CPU's cache."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import bitsandbytes
import numpy as np
import torch
from bitsandbytes.optim.optimizer import Optimizer2State
from torch import Tensor
from torch.optim import Optimizer

from lightning_drift.fit.nearest_code import state_code
from lightning_drift.forecast.ledger import PIECE

_QUANTIZED = 256  # numbers that share a scale
_ONE = np.float32(1)
_HALF, _LOWER = torch.tensor(16, dtype=torch.int32), torch.tensor(0xFFFF, dtype=torch.int32)


class AdamOnCpu(Optimizer2State):  # type: ignore[misc]
    """Takes the steps of bitsandbytes' Adam and AdamW on a CPU, by the formula of its CUDA kernels.

    bitsandbytes' own CPU kernel is slow, and does not round 8-bit states to the nearest code as its CUDA
    kernel does. Here the nearest codes are found by look-ups (`fit/nearest_code`).

    Weights, gradients and states are copied into scratch memory of a fixed size and back, many small tensors
    together and large ones in pieces. They lie where they always lay, and the state is bitsandbytes' own.
    Which tensors are updated together, and in how many threads, changes no bit.

    With ``max_unorm``, ``skip_zeros`` or paged states, and where a weight is not float32, its tensor
    takes bitsandbytes' own step.
    """

    initialized: bool

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.initialized:  # as bitsandbytes' own step begins
            self.check_overrides()
            self.initialized = True
        alike: dict[_Settings, list[_Part]] = defaultdict(list)
        for number, group in enumerate(self.param_groups):
            for position, weight in enumerate(group["params"]):
                if weight.grad is None:
                    continue
                weight.data = weight.data.contiguous()
                state = self.state[weight]
                if not state:
                    self.init_state(group, weight, number, position)
                config = self.get_config(number, position, group)
                if self._covers(weight, config):
                    state["step"] += 1
                    alike[_settings(config, state)].append(_part(weight, state))
                else:
                    self.update_step(group, weight, number, position)
        # PyTorch starts no threads for so few numbers; one thread alone loses less to calls with more.
        largest = PIECE if torch.get_num_threads() > 1 else 4 * PIECE
        _update([(settings, piece) for settings, parts in alike.items() for piece in _pieces(parts, largest)])
        return loss

    def _covers(self, weight: Tensor, config: dict[str, Any]) -> bool:
        options = self.is_paged or config["max_unorm"] or config["skip_zeros"]
        return not options and weight.dtype == torch.float32  # and so is its gradient


_KINDS = [getattr(bitsandbytes.optim, f"Adam{w}{bits}") for w in ("", "W") for bits in ("", "8bit", "32bit")]
_ON_CPU: dict[Any, Any] = {kind: type(kind.__name__, (AdamOnCpu, kind), {}) for kind in _KINDS}


def on_cpu(kind: type[Optimizer]) -> type[Optimizer]:
    """The class that takes an optimizer's steps on a CPU: with `AdamOnCpu`, or the optimizer as it is."""
    found: type[Optimizer] = _ON_CPU.get(kind, kind)
    return found


class _Settings(NamedTuple):
    """What decides an update beside a tensor's numbers; the step is counted from 1."""

    eight_bit: bool
    step: int
    beta1: float
    beta2: float
    epsilon: float
    rate: float
    decay: float


def _settings(config: dict[str, Any], state: dict[str, Any]) -> _Settings:
    beta1, beta2 = config["betas"][:2]
    numbers = [float(n) for n in (beta1, beta2, config["eps"], config["lr"], config["weight_decay"])]
    return _Settings("absmax1" in state, state["step"], *numbers)


class _Part(NamedTuple):
    """A tensor, or some of its blocks: all [size], but the scales, of which there is one for each block."""

    weight: Tensor
    gradient: Tensor
    state1: Tensor
    state2: Tensor
    absmax1: Tensor | None
    absmax2: Tensor | None
    size: int
    room: int
    """Numbers that it takes in a piece: whole blocks of 8-bit states."""

    def cut(self, begin: int, end: int) -> "_Part":
        """Some of its numbers; from the beginning of a block."""
        w, g, state1, state2 = (tensor[begin:end] for tensor in self[:4])
        blocks = slice(begin // _QUANTIZED, -(-end // _QUANTIZED))
        absmax1, absmax2 = (scale if scale is None else scale[blocks] for scale in self[4:6])
        room = end - begin if absmax1 is None else _whole(end - begin)
        return _Part(w, g, state1, state2, absmax1, absmax2, end - begin, room)


def _part(weight: Tensor, state: dict[str, Any]) -> _Part:
    for name, value in state.items():  # bitsandbytes counts blocks in the order of contiguous tensors
        if isinstance(value, Tensor) and not value.is_contiguous():
            state[name] = value.contiguous()
    assert weight.grad is not None
    w, g, state1, state2 = (
        t.view(-1) for t in (weight.detach(), weight.grad.contiguous(), state["state1"], state["state2"])
    )
    absmax1, absmax2, size = state.get("absmax1"), state.get("absmax2"), w.numel()
    return _Part(w, g, state1, state2, absmax1, absmax2, size, size if absmax1 is None else _whole(size))


def _pieces(parts: Sequence[_Part], largest: int) -> Iterator[list[_Part]]:
    """Cut and gather tensors into pieces of so many numbers, the last of fewer; 8-bit ones between blocks."""
    piece: list[_Part] = []
    room = largest
    for part in parts:
        end = 0
        while end < part.size:
            begin, end = end, min(end + room, part.size)
            piece.append(part if end - begin == part.size else part.cut(begin, end))
            room -= piece[-1].room
            if not room:
                yield piece
                piece, room = [], largest
    if piece:
        yield piece


def _update(pieces: Sequence[tuple[_Settings, list[_Part]]]) -> None:
    """Update all pieces, shared out over as many threads as PyTorch may use."""
    threads = min(torch.get_num_threads(), len(pieces))

    def share(first: int) -> None:
        scratch: _Scratch | None = None
        for settings, piece in pieces[first::threads]:
            # Whole blocks: operations round the numbers that do not fill a vector register in another way.
            size = _whole(sum(part.room for part in piece))
            if scratch is None or scratch.size != size:
                scratch = None  # before another one is made
                scratch = _Scratch(size)
            scratch.update(settings, piece)

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(share, range(threads)))
    elif threads:
        share(0)


def _whole(size: int) -> int:
    return -(-size // _QUANTIZED) * _QUANTIZED


def _gather(piece: list[_Part], name: str, out: Tensor, filler: int = 0) -> None:
    """Put one tensor of each part behind the other; room between and after them is filled."""
    tensors: list[Tensor] = []
    rest = len(out)
    for part in piece:
        tensors.append(getattr(part, name))
        if part.size < part.room:
            tensors.append(torch.full((part.room - part.size,), filler, dtype=out.dtype))
        rest -= part.room
    if rest:
        tensors.append(torch.full((rest,), filler, dtype=out.dtype))
    torch.cat(tensors, out=out)


def _scatter(piece: list[_Part], name: str, numbers: Tensor) -> None:
    """Copy numbers back to where `_gather` has found them."""
    begin = 0
    for part in piece:
        getattr(part, name).copy_(numbers[begin : begin + part.size])
        begin += part.room


class _Scratch:
    """Memory in which a piece is updated.

    Args:
        size: Numbers of the piece.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._weight, self._gradient, self._other, *self._states = torch.empty((5, size)).unbind()
        keys = torch.empty(size, dtype=torch.int32)
        self._codes = [_Codes(n, state, keys, self._other) for n, state in enumerate(self._states, 1)]

    def update(self, settings: _Settings, piece: list[_Part]) -> None:
        """Take one step of Adam.

        The formula is bitsandbytes' (csrc/cuda/optimizers.cu, case ADAM of
        kOptimizerStatic8bit2StateBlockwise and kOptimizer32bit2State), operation by operation for the
        states; a weight's change is rounded in another order.
        """
        beta1, beta2, epsilon, rate, decay = map(np.float32, settings[2:])
        with np.errstate(divide="ignore"):  # a beta of 0
            powers = [np.exp2(np.float32(settings.step) * np.log2(beta)) for beta in (beta1, beta2)]
        correction1, correction2 = (_ONE - power for power in powers)
        root = np.sqrt(correction2)
        weight, gradient, other = self._weight, self._gradient, self._other
        _gather(piece, "weight", weight)
        _gather(piece, "gradient", gradient)
        first, second = self._states
        rest1, rest2 = float(_ONE - beta1), float(_ONE - beta2)
        if settings.eight_bit:
            for codes, state, beta in zip(self._codes, self._states, (beta1, beta2), strict=True):
                codes.decode(piece)
                state.mul_(float(beta))
            first.add_(gradient, alpha=rest1)
            second.addcmul_(gradient, gradient, value=rest2)
        else:
            _gather(piece, "state1", first)
            _gather(piece, "state2", second)
            torch.add(torch.mul(gradient, rest1, out=other), first, alpha=float(beta1), out=first)
            torch.mul(gradient, gradient, out=other).mul_(rest2)
            torch.add(other, second, alpha=float(beta2), out=second)
        torch.sqrt(second, out=other).add_(float(root * epsilon))
        weight.addcdiv_(first, other, value=float(root * rate * -(_ONE / correction1)))
        # The product of two float32 numbers is exact in float64: it is rounded with the difference.
        weight.mul_(float(np.float32(1 - float(rate) * float(decay))))
        _scatter(piece, "weight", weight)
        for codes, state in zip(self._codes, self._states, strict=True):
            if settings.eight_bit:
                codes.encode(piece)
            else:
                _scatter(piece, codes.name, state)


class _Codes:
    """A state as 8-bit codes and scales.

    Args:
        number: 1 for the mean of the gradients, 2 for that of their squares.
        numbers: The state, [size]; whole blocks.
        keys: int32 [size], to work in.
        other: float32 [size], to work in.
    """

    def __init__(self, number: int, numbers: Tensor, keys: Tensor, other: Tensor) -> None:
        size = len(numbers)
        self.name, self._scale_name, self._look_up = f"state{number}", f"absmax{number}", state_code(number)
        self._signed = number == 1
        self._numbers, self._bits = numbers, numbers.view(torch.int32)
        self._keys, self._other = keys, other
        self._blocks, self._other_blocks = (each.view(-1, _QUANTIZED) for each in (numbers, other))
        self._codes, self._above = torch.empty((2, size), dtype=torch.uint8).unbind()
        self._scales = torch.empty(size // _QUANTIZED)
        self._column = self._scales[:, None]

    def decode(self, piece: list[_Part]) -> None:
        """Read the state's numbers."""
        _gather(piece, self.name, self._codes, filler=128 if self._signed else 0)
        torch.cat([getattr(part, self._scale_name) for part in piece], out=self._scales)
        torch.index_select(self._look_up.codes, 0, self._keys.copy_(self._codes), out=self._numbers)
        self._blocks.mul_(self._column)

    def encode(self, piece: list[_Part]) -> None:
        """Write the state; its numbers are gone then."""
        sizes = torch.abs(self._blocks, out=self._other_blocks) if self._signed else self._blocks
        torch.amax(sizes, 1, out=self._scales)
        begin = 0
        for scales in (getattr(part, self._scale_name) for part in piece):
            scales.copy_(self._scales[begin : begin + len(scales)])
            begin += len(scales)
        self._scales.reciprocal_()
        self._blocks.mul_(self._column)  # of a block of zeros nothing but NaN is left
        torch.bitwise_right_shift(self._bits, _HALF, out=self._keys).bitwise_and_(_LOWER)
        torch.index_select(self._look_up.first, 0, self._keys, out=self._codes)
        torch.index_select(self._look_up.limits, 0, self._keys, out=self._other)
        torch.gt(self._numbers, self._other, out=self._above.view(torch.bool))
        self._codes.add_(self._above)
        _scatter(piece, self.name, self._codes)
