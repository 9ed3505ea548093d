"""What is remembered of an operation is what PyTorch says again; views and numbers are never remembered."""

import torch

from lightning_drift.forecast.ledger import Ledger
from lightning_drift.forecast.remembered import Remembered

ATEN = torch.ops.aten


def described(out):
    return [(tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in out]


def test_a_second_call_gives_what_the_first_gave_in_memory_of_its_own():
    remembered = Remembered()
    x = torch.empty(2, 8, 4, 4, device="meta", dtype=torch.float16).to(memory_format=torch.channels_last)
    calls = [
        (ATEN.add.Tensor, (x, x), {}),
        (ATEN.add.Tensor, (x, torch.empty(1, 8, 1, 1, device="meta")), {}),
        (ATEN.native_group_norm.default, (x, None, None, 2, 8, 16, 4, 1e-5), {}),
        (ATEN._to_copy.default, (x,), {"dtype": torch.float32}),
        (ATEN._to_copy.default, (x,), {"dtype": torch.float64}),
        (ATEN.cat.default, ([x, x], 1), {}),
        (ATEN.sum.dim_IntList, (x, [1], True), {}),
        (ATEN.sum.dim_IntList, (x, [1], False), {}),
    ]
    for func, args, kwargs in calls:
        plain = func(*args, **kwargs)
        outs = [remembered(func, args, kwargs) for _ in range(3)]
        wanted = described(plain if isinstance(plain, tuple) else (plain,))
        tensors = [out if isinstance(out, tuple) else (out,) for out in outs]
        assert all(described(out) == wanted for out in tensors), func
        storages = {tensor.untyped_storage()._cdata for out in tensors for tensor in out}
        assert len(storages) == 3 * len(wanted)


def test_an_operation_in_place_gives_its_tensor_and_a_view_shares_memory():
    remembered = Remembered()
    for _ in range(3):
        x = torch.empty(4, 4, device="meta")
        assert remembered(ATEN.mul_.Tensor, (x, 2.0), {}) is x
        view = remembered(ATEN.view.default, (x, [16]), {})
        hidden = remembered(ATEN._unsafe_view.default, (x, [2, 8]), {})
        for other in (view, hidden):
            assert other.untyped_storage()._cdata == x.untyped_storage()._cdata
        grown = remembered(ATEN.resize_.default, (torch.empty(2, device="meta"), [6]), {})
        assert grown.shape == (6,)


def test_numbers_are_computed_each_time():
    remembered = Remembered()
    for value in (1.0, 2.0):
        assert remembered(ATEN.mul.Tensor, (torch.tensor(value), 3.0), {}) == 3 * value


def test_the_ledger_counts_what_is_remembered():
    ledger = Ledger()
    with ledger:
        x = torch.empty(1024, device="meta")
        kept = [x + 1 for _ in range(4)]
        del kept
    assert sum(ledger.peak().values()) == 5 * 4096
    assert len(ledger.work) == 4
