"""bitsandbytes' CUDA update of Adam, restated in NumPy from its published formula (csrc/cuda/optimizers.cu).

It is case ADAM of kOptimizerStatic8bit2StateBlockwise and kOptimizer32bit2State, in float32; products are
fused with sums where the compiled code fuses them. Reciprocals, roots and powers are exact to rounding, where
the hardware approximates them.
"""

from typing import Any

import numpy as np

ONE = np.float32(1)
QUANTIZED = 256


def nearest(codes: np.ndarray, x: np.ndarray, signed: bool) -> np.ndarray:
    """``quantize_2D``, step by step: a search for the pivot, then the nearer of it and its neighbour."""
    pivot = np.full(x.shape, 127)
    lower_pivot, upper_pivot = np.zeros_like(pivot), np.full_like(pivot, 255)
    lower, upper = np.full(x.shape, -ONE if signed else 0 * ONE), np.full(x.shape, ONE)
    value = codes[pivot]
    for half in (64, 32, 16, 8, 4, 2, 1):
        above = x > value
        lower_pivot, lower = np.where(above, pivot, lower_pivot), np.where(above, value, lower)
        upper_pivot, upper = np.where(above, upper_pivot, pivot), np.where(above, upper, value)
        pivot = np.where(above, pivot + half, pivot - half)
        value = codes[pivot]
    half = np.float32(0.5)
    up = np.where(x > (upper + value) * half, upper_pivot, pivot)
    down = np.where(x < (lower + value) * half, lower_pivot, pivot)
    return np.where(x > value, up, down).astype(np.uint8)


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """``a * b + c`` of float32 numbers, rounded once."""
    product = np.multiply(a, b, dtype=np.float64)  # exact
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    # To odd, so that what float64 has cut off still decides a tie.
    towards = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    even = total.view(np.int64) % 2 == 0
    rounded: np.ndarray = np.where((error != 0) & even, towards, total).astype(np.float32)
    return rounded


def _settings(step: int, settings: dict[str, Any]) -> tuple[np.float32, ...]:
    rate, epsilon, decay = (np.float32(settings[name]) for name in ("lr", "eps", "weight_decay"))
    beta1, beta2 = (np.float32(beta) for beta in settings["betas"])
    powers = [np.exp2(np.float32(step) * np.log2(beta)) for beta in (beta1, beta2)]
    correction1, correction2 = ONE - powers[0], np.sqrt(ONE - powers[1])
    step_size = correction2 * rate * -(ONE / correction1)
    return beta1, beta2, step_size, correction2, epsilon, fused(-rate, decay, ONE)[()]


def update_8bit(
    weight: np.ndarray,
    gradient: np.ndarray,
    state: dict[str, np.ndarray],
    maps: list[np.ndarray],
    step: int,
    settings: dict[str, Any],
) -> np.ndarray:
    """The updated weights, flat; the states (state1, state2, absmax1, absmax2) are updated in place."""
    size = weight.size
    beta1, beta2, step_size, correction, epsilon, decay = _settings(step, settings)
    g, code1, code2 = (
        _blocks(numbers.reshape(-1), filler)
        for numbers, filler in ((gradient, 0), (state["state1"], 128), (state["state2"], 0))
    )
    s1 = fused(g, ONE - beta1, maps[0][code1] * state["absmax1"][:, None] * beta1)
    s2 = fused(g, (ONE - beta2) * g, maps[1][code2] * state["absmax2"][:, None] * beta2)
    state["absmax1"], state["absmax2"] = np.abs(s1).max(1), np.abs(s2).max(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        code1 = nearest(maps[0], s1 * (ONE / state["absmax1"])[:, None], True)
        code2 = nearest(maps[1], s2 * (ONE / state["absmax2"])[:, None], False)
    other_sign = np.signbit(maps[0][code1]) != np.signbit(s1)
    code1 = np.where(other_sign, np.where(s1 > 0, code1 + 1, code1 - 1), code1).astype(np.uint8)
    state["state1"], state["state2"] = (code.reshape(-1)[:size] for code in (code1, code2))
    move = (s1 * (ONE / fused(correction, epsilon, np.sqrt(s2)))).reshape(-1)[:size]
    updated: np.ndarray = fused(step_size, move, weight.reshape(-1)) * decay
    return updated


def update_32bit(
    weight: np.ndarray,
    gradient: np.ndarray,
    state: dict[str, np.ndarray],
    step: int,
    settings: dict[str, Any],
) -> np.ndarray:
    """The updated weights; the states (state1, state2) are updated in place."""
    beta1, beta2, step_size, correction, epsilon, decay = _settings(step, settings)
    state["state1"] = fused(state["state1"], beta1, gradient * (ONE - beta1))
    state["state2"] = fused(state["state2"], beta2, (ONE - beta2) * (gradient * gradient))
    move = state["state1"] * (ONE / fused(correction, epsilon, np.sqrt(state["state2"])))
    updated: np.ndarray = fused(step_size, move, weight) * decay
    return updated


def _blocks(numbers: np.ndarray, filler: int) -> np.ndarray:
    return np.pad(numbers, (0, -numbers.size % QUANTIZED), constant_values=filler).reshape(-1, QUANTIZED)
