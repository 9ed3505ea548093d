"""bitsandbytes' Adam on a CPU keeps the states of its GPU kernels, and its own state dict."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bitsandbytes
import numpy as np
import pytest
import torch
from bitsandbytes.functional import create_dynamic_map
from helpers import bitsandbytes_cuda
from helpers.bits import assert_same_bits
from helpers.fits import fit
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from lightning_drift.fit import cpu_update
from lightning_drift.fit.cpu_update import AdamOnCpu, on_cpu
from lightning_drift.fit.optimizer import make_optimizer
from lightning_drift.forecast.ledger import PIECE, update_scratch

SHAPES = [(64, 80), (65, 67), (67,), (3, 2), (40, 41, 5)]
EIGHT_BIT = [0, 1, 4]  # which of them are large enough for 8-bit states
# A block of zeros is divided by its largest number, as on the device.
quiet = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")


def weights(seed: int = 0) -> list[nn.Parameter]:
    source = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=source) * 0.05) for shape in SHAPES]


def give_gradients(parameters: list[nn.Parameter], seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        spread = torch.empty(parameter.shape).uniform_(-6, -3, generator=source)
        parameter.grad = torch.randn(parameter.shape, generator=source) * 10**spread
        parameter.grad.view(-1)[: min(300, parameter.numel() // 2)] = 0  # of large ones more than a block


def steps(optimizer: Any, numbers: range) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number in numbers:
        give_gradients(parameters, number)
        optimizer.step()


def bits(optimizer: Any) -> list[Tensor]:
    """Weights and states."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = [value for p in parameters for value in optimizer.state[p].values()]
    return [torch.as_tensor(each).detach().clone() for each in (*parameters, *states)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@quiet
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (bitsandbytes.optim.AdamW8bit, {}),
        (bitsandbytes.optim.AdamW8bit, {"lr": 1e-3, "weight_decay": 0.1}),
        (bitsandbytes.optim.Adam8bit, {"betas": (0.8, 0.99), "eps": 1e-6}),
        (bitsandbytes.optim.AdamW, {"weight_decay": 0.1}),  # float32 states throughout
        (bitsandbytes.optim.AdamW8bit, {"betas": (0.0, 0.9)}),
    ],
)
def test_its_states_are_those_of_the_published_formula(kind: Any, settings: dict[str, Any]) -> None:
    parameters = weights()
    optimizer = on_cpu(kind)(parameters, **{"lr": 1e-4, **settings})
    maps = [create_dynamic_map(signed=signed).numpy() for signed in (True, False)]
    current = [parameter.detach().numpy().copy() for parameter in parameters]
    expected: list[dict[str, Any]] = []
    for step in range(1, 5):
        steps(optimizer, range(step, step + 1))
        for number, parameter in enumerate(parameters):
            state, gradient = optimizer.state[parameter], parameter.grad.numpy()
            assert state["step"] == step
            eight_bit = "absmax1" in state
            assert eight_bit == (number in EIGHT_BIT and "8bit" in kind.__name__)
            if step == 1:
                names = ("state1", "state2", "absmax1", "absmax2")[: 4 if eight_bit else 2]
                expected.append({name: np.zeros_like(state[name].numpy()) for name in names})
            own, group = expected[number], optimizer.param_groups[0]
            if eight_bit:
                new = bitsandbytes_cuda.update_8bit(current[number], gradient, own, maps, step, group)
            else:
                new = bitsandbytes_cuda.update_32bit(current[number], gradient, own, step, group)
            for name, value in own.items():
                found = state[name].numpy()
                assert np.array_equal(found, value.reshape(found.shape)), (step, number, name)
            new = new.reshape(parameter.shape)
            # A step is rounded three times on its way, and the weight that it is added to twice.
            largest = np.abs(new - current[number]).max()
            gap = np.abs(parameter.detach().numpy() - new)
            assert (gap <= 2.0**-22 * np.abs(new) + 2.0**-21 * largest).all()
            current[number] = parameter.detach().numpy().copy()


@pytest.mark.parametrize("kind", [bitsandbytes.optim.AdamW8bit, bitsandbytes.optim.AdamW])
def test_neither_pieces_nor_threads_nor_the_order_change_a_bit(kind: Any, monkeypatch: Any) -> None:
    together = on_cpu(kind)(weights(), lr=1e-3)
    steps(together, range(3))
    one_by_one = [on_cpu(kind)([parameter], lr=1e-3) for parameter in weights()]
    cut = on_cpu(kind)(weights(), lr=1e-3)
    monkeypatch.setattr(cpu_update, "PIECE", 512)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        steps(cut, range(3))
    finally:
        torch.set_num_threads(threads)
    assert same(bits(cut), bits(together))
    for number in range(3):
        parameters = [optimizer.param_groups[0]["params"][0] for optimizer in one_by_one]
        give_gradients(parameters, number)
        for optimizer in one_by_one:
            optimizer.step()
    assert same([p.detach() for p in parameters], bits(together)[: len(SHAPES)])


def test_states_go_to_bitsandbytes_own_optimizer_and_back() -> None:
    kind = bitsandbytes.optim.AdamW8bit
    ours, theirs = on_cpu(kind)(weights(), lr=1e-4), kind(weights(), lr=1e-4)
    steps(ours, range(2))
    steps(theirs, range(2))
    saved, other = copy.deepcopy(ours.state_dict()), copy.deepcopy(theirs.state_dict())
    assert saved["param_groups"] == other["param_groups"]

    def layout(state: Any) -> Any:
        if isinstance(state, dict):
            return {name: layout(value) for name, value in state.items()}
        return (state.dtype, state.shape) if isinstance(state, Tensor) else type(state)

    assert layout(saved["state"]) == layout(other["state"])
    resumed = on_cpu(kind)(
        [nn.Parameter(p.detach().clone()) for p in ours.param_groups[0]["params"]], lr=1e-4
    )
    resumed.load_state_dict(saved)
    back = kind([nn.Parameter(p.detach().clone()) for p in ours.param_groups[0]["params"]], lr=1e-4)
    back.load_state_dict(saved)
    for optimizer in (ours, resumed, back):
        steps(optimizer, range(2, 4))
    assert same(bits(resumed), bits(ours))
    # Codes of bitsandbytes' CPU kernel are not the nearest ones, but near: in learning rates
    gaps = torch.cat([(one - two).flatten() for one, two in zip(*map(bits, (back, ours)), strict=True)][:5])
    assert 0 < gaps.abs().mean() / 1e-4 < 0.02


def test_weights_and_states_stay_where_they_are() -> None:
    parameters = weights()
    optimizer = on_cpu(bitsandbytes.optim.AdamW8bit)(parameters, lr=1e-3)
    steps(optimizer, range(1))

    def places() -> list[int]:
        states = [v for p in parameters for v in optimizer.state[p].values() if isinstance(v, Tensor)]
        return [tensor.data_ptr() for tensor in (*parameters, *states)]

    before, at = bits(optimizer), places()
    steps(optimizer, range(1, 2))
    assert places() == at
    after = bits(optimizer)
    assert not any(torch.equal(before[n], after[n]) for n in range(len(SHAPES)))
    # Others may be put in their place, of another layout too.
    parameters[0].data = after[0].t().contiguous().t()
    state = optimizer.state[parameters[0]]
    state["state1"] = state["state1"].t().contiguous().t()
    twin = on_cpu(bitsandbytes.optim.AdamW8bit)(
        [nn.Parameter(p.detach().clone()) for p in parameters], lr=1e-3
    )
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each in (optimizer, twin):
        steps(each, range(2, 3))
    assert same(bits(optimizer)[: len(SHAPES)], bits(twin)[: len(SHAPES)])
    assert torch.equal(parameters[0], twin.param_groups[0]["params"][0])


def test_a_weight_without_a_gradient_is_left_alone() -> None:
    parameters = weights()
    before = [p.detach().clone() for p in parameters]
    optimizer = on_cpu(bitsandbytes.optim.AdamW8bit)(parameters, lr=1e-3)
    give_gradients(parameters, 0)
    parameters[1].grad = None
    optimizer.step()
    assert [torch.equal(p, b) for p, b in zip(parameters, before, strict=True)] == [
        number == 1 for number in range(len(SHAPES))
    ]
    assert not optimizer.state[parameters[1]]


@pytest.mark.parametrize("option", [{"skip_zeros": True}, {"max_unorm": 0.5}])
def test_what_it_is_not_written_for_takes_bitsandbytes_own_step(option: dict[str, Any]) -> None:
    arguments = SimpleNamespace(
        **{"optim_bits": 8, "min_8bit_size": 4096, "max_unorm": 0.0, "skip_zeros": False, **option}
    )
    kind = bitsandbytes.optim.AdamW8bit
    optimizers = [each(weights(), lr=1e-3, args=arguments) for each in (on_cpu(kind), kind, on_cpu(kind))]
    assert isinstance(optimizers[0], AdamOnCpu)
    optimizers[2].args = SimpleNamespace(**{**vars(arguments), "max_unorm": 0.0, "skip_zeros": False})
    for optimizer in optimizers:
        steps(optimizer, range(2))
    ours, theirs, without = map(bits, optimizers)
    assert same(ours, theirs)
    assert not same(ours[: len(SHAPES)], without[: len(SHAPES)])


def test_only_adam_and_only_on_a_cpu() -> None:
    parameters = {"unet": weights()}
    for name in ("Adam", "Adam8bit", "Adam32bit", "AdamW", "AdamW8bit", "AdamW32bit"):
        kind = getattr(bitsandbytes.optim, name)
        made = make_optimizer(kind, parameters, {"unet": 1e-4}, {})
        assert isinstance(made, AdamOnCpu)
        assert isinstance(made, kind)
        assert type(made).__name__ == name
        elsewhere = {"unet": [nn.Parameter(p.detach().to("meta")) for p in parameters["unet"]]}
        assert type(make_optimizer(kind, elsewhere, {"unet": 1e-4}, {})) is kind
    for kind in (bitsandbytes.optim.PagedAdamW8bit, bitsandbytes.optim.Lion8bit, torch.optim.SGD):
        assert type(make_optimizer(kind, parameters, {"unet": 1e-4}, {})) is kind


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam])
def test_torchs_adam_is_fused_unless_told_otherwise(kind: Any) -> None:
    def fused(scaled: bool = False, device: str = "cpu", **arguments: Any) -> Any:
        parameters = {"unet": [nn.Parameter(p.detach().to(device)) for p in weights()]}
        return make_optimizer(kind, parameters, {"unet": 1e-4}, arguments, scaled).param_groups[0]["fused"]

    assert fused()
    assert fused(weight_decay=0.1)
    assert not fused(foreach=False)
    assert not fused(fused=False)
    # It would take the loss scale off by itself, after the gradients were clipped.
    assert not fused(scaled=True)
    assert not fused(device="meta")


def test_a_fit_that_began_unfused_goes_on_fused(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    kind = torch.optim.AdamW
    unbroken = fit(tiny_sd, trainer, tmp_path / "unbroken", 4, optimizer=kind)
    before = fit(tiny_sd, trainer, tmp_path / "before", 2, optimizer=kind)
    for group in before["optimizer_states"][0]["param_groups"]:
        group["fused"] = None  # as it was saved before there was a choice
    torch.save(before, tmp_path / "before.ckpt")
    onward = fit(tiny_sd, trainer, tmp_path / "onward", 4, tmp_path / "before.ckpt", optimizer=kind)
    assert {group["fused"] for group in onward["optimizer_states"][0]["param_groups"]} == {True}
    assert_same_bits(onward, unbroken)


@pytest.mark.parametrize("size", [5000, PIECE, 20 * PIECE + 77])
def test_its_scratch_is_bounded_and_known_to_the_forecast(size: int) -> None:
    parameter = nn.Parameter(torch.ones(size))
    parameter.grad = torch.ones(size)
    optimizer = on_cpu(bitsandbytes.optim.AdamW8bit)([parameter], lr=1e-3)
    optimizer.step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        optimizer.step()
    live = most = 0
    events = (e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]")
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    assert 0.95 < most / update_scratch(size) < 1.1
    assert most < 4e6
