"""The update of all tensors at once makes the bits of bitsandbytes' CUDA kernels, in Triton's interpreter."""

import copy
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import bitsandbytes
import numpy as np
import pytest
import torch
from bitsandbytes.functional import create_dynamic_map
from helpers import bitsandbytes_cuda
from helpers.bits import tensors
from torch import Tensor, nn

from lightning_drift.fit import split_optimizer
from lightning_drift.fit.fused_update import (
    FusedUpdate,
    fused_update,
    makes_bitsandbytes_bits,
    norms_at_once,
    why_not,
)
from lightning_drift.fit.memory import MEMORY_MODES, MemoryMode
from lightning_drift.fit.nearest_code import NearestCode
from lightning_drift.fit.split_optimizer import SplitOptimizer
from lightning_drift.weights.split_weights import EXACT_FROM, full_weight, is_split, split_parameters_

needs_triton = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1" or not importlib.util.find_spec("triton"),
    reason="Triton is not installed, or the tests of the kernel run on the GPU",
)
# A block of zeros is divided by its largest number, as on the device.
quiet = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")

EVEN, ODD = (64, 80), (65, 67)


class Weights(nn.Module):
    """A split weight, a float32 one that is large enough for 8-bit states, and a small one."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.layer = nn.Linear(shape[1], shape[0])
        self.embedding = nn.Embedding(shape[0], shape[1])


class Fused:
    """Weights under the fused update, and how they began."""

    def __init__(
        self, shape: tuple[int, int], optimizer: Any = bitsandbytes.optim.AdamW8bit, **settings: Any
    ):
        torch.manual_seed(0)
        self.module = Weights(shape)
        self.module.layer.weight.data[0, :2] = torch.tensor([3e-6, 0.0])  # smaller than halves hold exactly
        self.begun = [parameter.detach().clone() for parameter in self.parameters()]
        split_parameters_(self.module)
        self.stand_ins = {p: nn.Parameter(torch.empty(0)) for p in self.parameters() if is_split(p)}
        assert len(self.stand_ins) == 1
        self.keys = [self.stand_ins.get(p, p) for p in self.parameters()]
        self.inner = optimizer(self.keys, **{"lr": 2e-6, **settings})
        self.update = FusedUpdate(self.inner, self.stand_ins, cuda=False)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.module.parameters())

    def gradients(self, seed: int, scale: float = 1.0) -> dict[Tensor, Tensor]:
        source = torch.Generator().manual_seed(seed)
        made = {}
        for p in self.parameters():
            spread = torch.empty(p.shape).uniform_(-6, -3, generator=source)
            numbers = torch.randn(p.shape, generator=source) * 10**spread * scale
            numbers.view(-1)[:300] = 0  # more than a block
            made[p] = numbers.to(p.dtype)
        return made

    def step(
        self, gradients: dict[Tensor, Tensor], scale: float = 1.0, coefficient: float = 1.0, found: float = 0
    ) -> None:
        factors = [torch.tensor(1 / scale), torch.tensor(coefficient)]
        self.update.update(gradients, factors, torch.tensor(found))

    def everything(self) -> list[Tensor]:
        held = [tensor for p in self.parameters() for tensor in (p.detach(), full_weight(p))]
        for key in self.keys:
            held += [value for value in self.inner.state[key].values() if isinstance(value, Tensor)]
        return [tensor.clone() for tensor in held]


def states(fused: Fused) -> Iterable[dict[str, Any]]:
    return (fused.inner.state[key] for key in fused.keys)


@pytest.mark.parametrize("signed", [True, False])
def test_the_nearest_code_is_that_of_bitsandbytes_search(signed: bool) -> None:
    codes = create_dynamic_map(signed=signed)
    look_up = NearestCode.of(codes)
    middles = (codes[1:] + codes[:-1]) * 0.5
    near = [middles, codes]
    for _ in range(3):
        near += [torch.nextafter(near[-2], torch.tensor(2.0)), torch.nextafter(near[-1], torch.tensor(-2.0))]
    spread = 10 ** torch.empty(20000).uniform_(-9, 0, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([0.0, -0.0, 1.0, -1.0, 1.0000001, torch.nan, -torch.nan])
    numbers = torch.cat([*near, spread, -spread, ends])
    keys = (numbers.view(torch.int32).long() >> 16) & 0xFFFF
    first = look_up.first[keys].long()
    found = first + (numbers > look_up.limits[first])
    expected = bitsandbytes_cuda.nearest(codes.numpy(), numbers.numpy(), signed)
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize(("signed", "share"), [(True, 0.22), (False, 0.28)])
def test_bitsandbytes_does_not_take_the_nearest_code_on_a_cpu(signed: bool, share: float) -> None:
    """Why bitsandbytes' own step is not taken on a CPU (`fit/cpu_update`)."""
    source = torch.Generator().manual_seed(0)
    numbers = 10 ** torch.empty(400 * 256).uniform_(-6, 0, generator=source)
    if signed:
        numbers *= torch.randn(numbers.shape, generator=source).sign()
    codes = create_dynamic_map(signed=signed)
    found, scales = torch.ops.bitsandbytes.quantize_blockwise(numbers, codes, 256)
    scaled = (numbers.view(-1, 256) / scales[:, None]).view(-1)
    nearest = torch.from_numpy(bitsandbytes_cuda.nearest(codes.numpy(), scaled.numpy(), signed))
    other = found != nearest
    assert other.float().mean() == pytest.approx(share, abs=0.02)
    off, least = ((codes[code.int()] - scaled).abs()[other] for code in (found, nearest))
    assert (off > least).all()


def test_limits_that_lie_too_near_are_refused() -> None:
    with pytest.raises(ValueError, match="too near"):
        NearestCode.of(torch.linspace(0.5, 0.5001, 256))


@needs_triton
@quiet
@pytest.mark.parametrize(
    ("shape", "settings", "scale", "coefficient"),
    [
        (EVEN, {}, 1.0, 1.0),
        (ODD, {"weight_decay": 0.1, "lr": 1e-3}, 65536.0, 0.37),
        (EVEN, {"optimizer": bitsandbytes.optim.Adam8bit, "betas": (0.8, 0.99), "eps": 1e-6}, 1024.0, 0.5),
        (ODD, {"optimizer": bitsandbytes.optim.AdamW}, 1.0, 0.5),  # float32 states throughout
    ],
)
def test_every_bit_is_that_of_the_published_formula(
    shape: tuple[int, int], settings: dict[str, Any], scale: float, coefficient: float
) -> None:
    fused = Fused(shape, **settings)
    weights = [weight.numpy() for weight in fused.begun]
    maps = [create_dynamic_map(signed=signed).numpy() for signed in (True, False)]
    expected: list[dict[str, Any]] = []
    for step in range(1, 4):
        gradients = fused.gradients(step, scale)
        fused.step(gradients, scale, coefficient)
        group = fused.inner.param_groups[0]
        for number, (state, scaled) in enumerate(zip(states(fused), gradients.values(), strict=True)):
            gradient = scaled.float().numpy() * np.float32(1 / scale) * np.float32(coefficient)
            eight_bit = "absmax1" in state
            if step == 1:
                kept = ("state1", "state2", "absmax1", "absmax2") if eight_bit else ("state1", "state2")
                expected.append({name: np.zeros_like(state[name].numpy()) for name in kept})
            weight, own = weights[number], expected[number]
            if eight_bit:
                new = bitsandbytes_cuda.update_8bit(weight, gradient, own, maps, step, group)
            else:
                new = bitsandbytes_cuda.update_32bit(weight, gradient, own, step, group)
            weights[number] = new.reshape(weight.shape)
            for name, value in own.items():
                found = state[name].numpy()
                assert np.array_equal(found, value.reshape(found.shape)), (step, number, name)
    assert {state["state1"].dtype for state in states(fused)} <= {torch.uint8, torch.float32}
    for parameter, weight in zip(fused.parameters(), weights, strict=True):
        gap = (full_weight(parameter) - torch.from_numpy(weight)).abs()
        # A half and its remainder round what is below 2**-16 once a step.
        exact = torch.from_numpy(np.abs(weight)) >= (EXACT_FROM if is_split(parameter) else 0)
        assert not gap[exact].any()
        assert gap.max() <= 3 * 2.0**-40


@needs_triton
@quiet
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_no_step() -> None:
    fused = Fused(ODD)
    fused.step(fused.gradients(1))
    before = fused.everything()
    gradients = fused.gradients(2)
    next(iter(gradients.values()))[0, 0] = torch.inf
    fused.step(gradients, found=1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, fused.everything(), strict=True))
    fused.update.settle()
    assert [state["step"] for state in states(fused)] == [1, 1, 1]
    fused.step(fused.gradients(3))
    assert not torch.equal(before[0], fused.everything()[0])
    fused.update.settle()
    assert [state["step"] for state in states(fused)] == [2, 2, 2]


@needs_triton
@quiet
def test_bitsandbytes_own_update_of_a_cpu_differs_in_codes_alone() -> None:
    """Its CPU kernel does not take the nearest code, so that states, and later weights, are other ones."""
    fused = Fused(EVEN, weight_decay=0.01)
    twins = [nn.Parameter(weight.clone()) for weight in fused.begun]
    theirs = bitsandbytes.optim.AdamW8bit(twins, lr=2e-6)
    gradients = fused.gradients(1)
    fused.step(gradients)
    for twin, gradient in zip(twins, gradients.values(), strict=True):
        twin.grad = gradient.float()
    theirs.step()
    for parameter, twin in zip(fused.parameters(), twins, strict=True):
        # Both begin with states of zero, so that codes decide nothing yet.
        assert torch.allclose(full_weight(parameter), twin, rtol=2**-23, atol=1e-11)
    ours, other = fused.inner.state[fused.keys[0]], theirs.state[twins[0]]
    for state, scale, codes in (("state1", "absmax1", "qmap1"), ("state2", "absmax2", "qmap2")):
        assert torch.allclose(ours[scale], other[scale], rtol=2e-5, atol=0)  # 1 - 0.999 is one in float32
        differ = ours[state] != other[state]
        assert differ.any()
        exact = gradients[fused.parameters()[0]].float() * 0.1
        if state == "state2":
            exact = exact**2 * 0.1
        wide = ours[scale].repeat_interleave(256).view(differ.shape)
        ours_off, their_off = (
            (kind[codes][kind[state].int()] * wide - exact).abs()[differ].sum() for kind in (ours, other)
        )
        assert ours_off < their_off


Run = tuple[dict[str, Any], dict[str, Any]]
SPLIT = MEMORY_MODES["split"]


@pytest.fixture
def run(monkeypatch: Any) -> Any:
    """Steps of a loss scaler as Lightning takes them, of which the third overflows; what is saved of them."""

    def steps(
        numbers: range,
        fused: bool = True,
        mode: MemoryMode = SPLIT,
        kind: Any = None,
        resume: Run | None = None,
    ) -> Run:
        def update(optimizer: Any, stand_ins: Any) -> FusedUpdate | None:
            return FusedUpdate(optimizer, stand_ins, cuda=False) if fused else None

        monkeypatch.setattr(split_optimizer, "fused_update", update)
        torch.manual_seed(0)
        module = Weights(ODD)
        kind = kind or bitsandbytes.optim.AdamW8bit
        optimizer = SplitOptimizer(kind, {"unet": module}, {"unet": 1e-4}, {}, mode)
        scaler = torch.amp.GradScaler("cpu", init_scale=512.0 if resume else 1024.0)
        if resume:
            module.load_state_dict(resume[0])
            optimizer.load_state_dict(resume[1])
        for number in numbers:
            words = torch.randint(ODD[0], (32,), generator=torch.Generator().manual_seed(number))
            with torch.autocast("cpu", torch.float16):
                loss = module.layer(module.embedding(words)).float().square().mean()
            scaler.scale(loss).backward()
            if number == 2:
                module.embedding.weight.grad[0, 0] = torch.inf
            optimizer.clip(optimizer.total_norm(scaler._get_scale_async()), 0.05)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return copy.deepcopy((module.state_dict(), optimizer.state_dict()))

    return steps


def gap(one: Run, other: Run) -> float:
    """Between two runs' weights: the mean, in learning rates."""
    gaps = torch.cat([(one[0][name] - other[0][name]).flatten() for name in one[0]])
    return gaps.abs().mean().item() / 1e-4


def different(one: Run, other: Run) -> list[str]:
    """The tensors of two runs that differ in a bit."""
    ours, theirs = (tensors({"weights": weights, **optimizer}) for weights, optimizer in (one, other))
    assert ours.keys() == theirs.keys()
    assert len(ours) >= 9
    return [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])]


@needs_triton
@quiet
@pytest.mark.parametrize("kind", [bitsandbytes.optim.AdamW8bit, bitsandbytes.optim.AdamW])
def test_a_split_optimizer_takes_its_steps_with_it_and_goes_on_without(kind: Any, run: Any) -> None:
    whole, plain = run(range(5), kind=kind), run(range(5), kind=kind, fused=False)
    for one in (whole, plain):
        assert [state["step"] for state in one[1]["state"].values()] == [4, 4, 4]
    # A CPU's steps (`fit/cpu_update`) round in another order.
    near = 1e-4
    assert gap(whole, plain) < near
    begun = run(range(3), kind=kind)
    assert gap(begun, whole) > 0.2
    assert different(run(range(3, 5), kind=kind, resume=begun), whole) == []
    assert gap(run(range(3, 5), kind=kind, fused=False, resume=begun), whole) < near


def test_norms_at_once_are_the_norms_of_unscaled_gradients() -> None:
    module = Weights(ODD)
    split_parameters_(module)
    parameters = list(module.parameters())[::-1]
    for parameter in parameters[1:]:
        parameter.grad = torch.randn_like(parameter) * 100
    norms = norms_at_once(parameters, torch.tensor(2.0**-10))
    assert list(norms) == parameters[1:]
    for parameter, norm in norms.items():
        assert parameter.grad is not None
        assert torch.allclose(norm, (parameter.grad.float() * 2.0**-10).norm(), rtol=1e-6)


@needs_triton
@quiet
def test_deferred_gradients_and_paged_states_make_the_same_bits(run: Any) -> None:
    held = run(range(4))
    for paged in (False, True):
        mode = MemoryMode(split=True, defer=0, paged=paged)
        assert different(run(range(4), mode=mode), held) == []


@needs_triton
@quiet
@pytest.mark.parametrize("kind", [bitsandbytes.optim.AdamW8bit, bitsandbytes.optim.Adam])
def test_a_trial_tells_a_device_whose_numbers_are_others(kind: Any, monkeypatch: Any) -> None:
    optimizer = kind([nn.Parameter(torch.zeros(1))], lr=1e-4, weight_decay=0.01)
    # The CPU's update is neither nearest nor fused.
    assert not makes_bitsandbytes_bits(optimizer, torch.device("cpu"))

    def of_the_formula(eight_bit: bool) -> Any:
        def update(_: str, gradient: Tensor, weight: Tensor, *rest: Any, **__: Any) -> None:
            if eight_bit:
                state1, state2, beta1, beta2, _, _, eps, step, lr, map1, map2, scale1, scale2, decay = rest
                tensors = {"state1": state1, "state2": state2, "absmax1": scale1, "absmax2": scale2}
            else:
                state1, beta1, eps, step, lr, state2, beta2, _, _, decay, *_ = rest
                tensors = {"state1": state1, "state2": state2}
            state = {name: tensor.numpy() for name, tensor in tensors.items()}
            settings = {"lr": lr, "eps": eps, "weight_decay": decay, "betas": (beta1, beta2)}
            arrays = weight.detach().numpy(), gradient.numpy(), state
            if eight_bit:
                maps = [map1.numpy(), map2.numpy()]
                new = bitsandbytes_cuda.update_8bit(*arrays, maps, step, settings)
            else:
                new = bitsandbytes_cuda.update_32bit(*arrays, step, settings)
            weight.copy_(torch.from_numpy(new).view_as(weight))
            for name, tensor in tensors.items():
                tensor.copy_(torch.from_numpy(state[name]).view_as(tensor))

        return update

    monkeypatch.setattr("bitsandbytes.functional.optimizer_update_8bit_blockwise", of_the_formula(True))
    monkeypatch.setattr("bitsandbytes.functional.optimizer_update_32bit", of_the_formula(False))
    assert makes_bitsandbytes_bits(optimizer, torch.device("cpu"))


def test_only_what_it_is_written_for_is_fused(monkeypatch: Any, capsys: Any) -> None:
    weight = nn.Parameter(torch.zeros(1))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    for kind in ("AdamW8bit", "Adam8bit", "AdamW", "Adam"):
        assert why_not(getattr(bitsandbytes.optim, kind)([weight])) == ""
    for kind in ("PagedAdamW8bit", "AdEMAMix8bit", "Lion8bit"):
        assert kind in why_not(getattr(bitsandbytes.optim, kind)([weight]))
    assert "AdamW" in why_not(torch.optim.AdamW([weight]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert why_not(bitsandbytes.optim.AdamW8bit([weight])) == "Triton is not installed"
    assert fused_update(bitsandbytes.optim.AdamW8bit([weight]), {weight: weight}) is None
    assert capsys.readouterr().err == ""  # of a CPU's update there is nothing to say


CAPABILITIES = (75, 86, 120)
COMPILE = """
import sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lightning_drift.fit.update_kernel import update
types = "*i32 *i64 *fp32 *i32 *fp32 *fp32 *fp32 *fp32 *fp32 *u8 *u8 *fp32 *fp32".split()
for capability in map(int, sys.argv[1:]):
    for halves, eight_bit in ((True, True), (False, False)):
        constants = dict(HALVES=halves, EIGHT_BIT=eight_bit, ALIGNED=True, CUDA=True, CHUNK=16384)
        if not eight_bit:
            constants |= dict.fromkeys(update.arg_names[7:13])
        signature = dict(zip(update.arg_names, types)) | dict.fromkeys(constants, "constexpr")
        source = ASTSource(update, signature, constants)
        options = dict(num_warps=4, enable_fp_fusion=False)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        text = made.asm["ptx"]
        assert made.asm["cubin"] and "ld.global.v4" in text or "ld.global.v2" in text, "no wide loads"
        assert "div." not in text and "rcp.approx.ftz.f32" in text and "sqrt.approx.ftz.f32" in text
        assert "ex2.approx.ftz.f32" in text and "lg2.approx.ftz.f32" in text
        print(capability, halves, eight_bit)
"""


@needs_triton
def test_it_compiles_for_every_nvidia_gpu(tmp_path: Any) -> None:
    """To machine code, with the instructions of bitsandbytes' own kernels; that needs no GPU."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, *map(str, CAPABILITIES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 * len(CAPABILITIES)
