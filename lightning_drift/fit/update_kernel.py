"""The Triton kernel of `fit/fused_update`; imported only where it runs, for not every machine has Triton.

The arithmetic is that of bitsandbytes' CUDA kernels as they are compiled (csrc/cuda/optimizers.cu, case ADAM
of kOptimizerStatic8bit2StateBlockwise and kOptimizer32bit2State). Which products are fused with a sum, and
where the hardware's approximate reciprocal, root, logarithm and power of two stand, was read from the machine
code of bitsandbytes 0.50.2 for compute capabilities 7.5, 8.0, 8.6, 8.9 and 9.0, which agree.
"""

import triton
import triton.language as tl

QUANTIZED = tl.constexpr(256)  # numbers that share a scale
ROWS = tl.constexpr(4)  # such blocks at a time


@triton.jit
def _reciprocal(x, CUDA: tl.constexpr):
    if CUDA:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 1.0 / x


@triton.jit
def _root(x, CUDA: tl.constexpr):
    if CUDA:
        return tl.inline_asm_elementwise(
            "sqrt.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.sqrt(x)


@triton.jit
def _power(base, exponent, CUDA: tl.constexpr):
    if CUDA:
        logarithm = tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [base], dtype=tl.float32, is_pure=True, pack=1
        )
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;",
            "=f,f",
            [exponent * logarithm],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        return tl.exp2(exponent * tl.log2(base))


@triton.jit
def _exponent(half):
    """The biased exponent of a float16 number given in float32, that of subnormal ones as the smallest's."""
    return tl.maximum((half.to(tl.int32, bitcast=True) >> 23) & 0xFF, 127 - 14)


@triton.jit
def _join(half, remainder):
    wide = half.to(tl.float32)
    unit = ((_exponent(wide) - 25) << 23).to(tl.float32, bitcast=True)
    return tl.fma(remainder.to(tl.float32), unit, wide)


@triton.jit
def _split(weight):
    half = weight.to(tl.float16)
    wide = half.to(tl.float32)
    units = ((2 * 127 + 25 - _exponent(wide)) << 23).to(tl.float32, bitcast=True)  # in one
    # Adding 1.5 * 2^23 rounds to a whole number, to nearest even.
    remainder = ((weight - wide) * units + 12582912.0) - 12582912.0
    return half, remainder.to(tl.int16)


@triton.jit
def _nearest(x, first, limits):
    key = (x.to(tl.int32, bitcast=True) >> 16) & 0xFFFF
    code = tl.load(first + key).to(tl.int32)
    return code + (x > tl.load(limits + code)).to(tl.int32)


@triton.jit
def update(
    programs,
    addresses,
    settings,
    steps,
    factor1,
    factor2,
    found_inf,
    codes1,
    codes2,
    first1,
    first2,
    limits1,
    limits2,
    HALVES: tl.constexpr,
    EIGHT_BIT: tl.constexpr,
    ALIGNED: tl.constexpr,
    CUDA: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Unscale, clip, Adam with decoupled weight decay, and split, for a chunk of one tensor.

    Args:
        programs: int32 [programs, 2]: which tensor, and its first number.
        addresses: int64 [tensors, 9]: weight, remainder, gradient, both states, both states' scales; how many
            numbers; the place in ``steps``.
        settings: float32 [tensors, 5]: learning rate, beta1, beta2, epsilon, weight decay.
        steps: int32: how many steps each tensor has taken, this one included.
        factor1: float32 []: what gradients are multiplied with: one over the loss scale.
        factor2: float32 []: what they are multiplied with next: the coefficient of clipping.
        found_inf: float32 []: above 0 where a gradient is not finite; then nothing changes.
        codes1: float32 [256]: what the codes of the first state stand for.
        codes2: The second state's.
        first1: uint8 [65536] (`NearestCode.first`), of the first state.
        first2: The second state's.
        limits1: float32 [256] (`NearestCode.limits`), of the first state.
        limits2: The second state's.
        HALVES: Weights are float16 and a remainder, their gradients float16; else both are float32.
        EIGHT_BIT: States are 8-bit codes with a scale for each 256, else float32.
        ALIGNED: All sizes are multiples of 256 numbers, and all addresses of 16 bytes.
        CUDA: Use the instructions of NVIDIA's hardware; else, in Triton's interpreter, what they approximate.
        CHUNK: How many numbers one program updates.
    """
    program = tl.program_id(0)
    if tl.load(found_inf) == 0.0:
        tensor = tl.load(programs + 2 * program)
        begin = tl.load(programs + 2 * program + 1)
        row = addresses + 9 * tensor
        weights = tl.load(row).to(tl.pointer_type(tl.float16 if HALVES else tl.float32))
        remainders = tl.load(row + 1).to(tl.pointer_type(tl.int16))
        gradients = tl.load(row + 2).to(tl.pointer_type(tl.float16 if HALVES else tl.float32))
        states1 = tl.load(row + 3).to(tl.pointer_type(tl.uint8 if EIGHT_BIT else tl.float32))
        states2 = tl.load(row + 4).to(tl.pointer_type(tl.uint8 if EIGHT_BIT else tl.float32))
        scales1 = tl.load(row + 5).to(tl.pointer_type(tl.float32))
        scales2 = tl.load(row + 6).to(tl.pointer_type(tl.float32))
        size = tl.load(row + 7).to(tl.int32)
        step = tl.load(steps + tl.load(row + 8)).to(tl.float32)
        if ALIGNED:
            weights = tl.multiple_of(weights, 16)
            remainders = tl.multiple_of(remainders, 16)
            gradients = tl.multiple_of(gradients, 16)
            states1 = tl.multiple_of(states1, 16)
            states2 = tl.multiple_of(states2, 16)
            size = tl.multiple_of(size, 256)
            begin = tl.multiple_of(begin, 256)
        rate = tl.load(settings + 5 * tensor)
        beta1 = tl.load(settings + 5 * tensor + 1)
        beta2 = tl.load(settings + 5 * tensor + 2)
        epsilon = tl.load(settings + 5 * tensor + 3)
        decay = tl.fma(-rate, tl.load(settings + 5 * tensor + 4), 1.0)
        correction1 = 1.0 - _power(beta1, step, CUDA)
        correction2 = _root(1.0 - _power(beta2, step, CUDA), CUDA)
        step_size = correction2 * rate * -_reciprocal(correction1, CUDA)
        inverse = tl.load(factor1)
        clip = tl.load(factor2)
        rows = tl.arange(0, ROWS)[:, None] * QUANTIZED
        columns = tl.arange(0, QUANTIZED)[None, :]
        for offset in range(0, tl.minimum(CHUNK, size - begin), ROWS * QUANTIZED):
            at = begin + offset + rows + columns
            inside = at < size
            g = tl.load(gradients + at, mask=inside, other=0.0).to(tl.float32) * inverse * clip
            if EIGHT_BIT:
                blocks = (begin + offset + rows) // QUANTIZED
                filled = begin + offset + rows < size
                s1 = tl.load(states1 + at, mask=inside, other=128).to(tl.int32)
                s2 = tl.load(states2 + at, mask=inside, other=0).to(tl.int32)
                s1 = tl.load(codes1 + s1) * tl.load(scales1 + blocks, mask=filled, other=0.0)
                s2 = tl.load(codes2 + s2) * tl.load(scales2 + blocks, mask=filled, other=0.0)
                s1 = tl.fma(g, 1.0 - beta1, s1 * beta1)
                s2 = tl.fma(g, (1.0 - beta2) * g, s2 * beta2)
            else:
                s1 = tl.load(states1 + at, mask=inside, other=0.0)
                s2 = tl.load(states2 + at, mask=inside, other=0.0)
                s1 = tl.fma(s1, beta1, g * (1.0 - beta1))
                s2 = tl.fma(s2, beta2, (1.0 - beta2) * (g * g))
            if HALVES:
                half = tl.load(weights + at, mask=inside, other=0.0)
                weight = _join(half, tl.load(remainders + at, mask=inside, other=0))
            else:
                weight = tl.load(weights + at, mask=inside, other=0.0)
            size_of_step = s1 * _reciprocal(tl.fma(correction2, epsilon, _root(s2, CUDA)), CUDA)
            weight = tl.fma(step_size, size_of_step, weight) * decay
            if HALVES:
                half, remainder = _split(weight)
                tl.store(weights + at, half, mask=inside)
                tl.store(remainders + at, remainder, mask=inside)
            else:
                tl.store(weights + at, weight, mask=inside)
            if EIGHT_BIT:
                scale1 = tl.max(tl.abs(s1), axis=1)[:, None]
                scale2 = tl.max(tl.abs(s2), axis=1)[:, None]
                code1 = _nearest(s1 * _reciprocal(scale1, CUDA), first1, limits1)
                code2 = _nearest(s2 * _reciprocal(scale2, CUDA), first2, limits2)
                # The first state keeps its sign: a negative one is no zero, which is code 127.
                negative = s1.to(tl.int32, bitcast=True) < 0
                code1 += tl.where((code1 < 127) == negative, 0, tl.where(s1 > 0.0, 1, -1))
                tl.store(states1 + at, code1.to(tl.uint8), mask=inside)
                tl.store(states2 + at, code2.to(tl.uint8), mask=inside)
                tl.store(scales1 + blocks, scale1, mask=filled)
                tl.store(scales2 + blocks, scale2, mask=filled)
            else:
                tl.store(states1 + at, s1, mask=inside)
                tl.store(states2 + at, s2, mask=inside)
