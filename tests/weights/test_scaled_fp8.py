"""Weights in 8-bit floats with scales, in both of ComfyUI's layouts, and the formats that are refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from lightning_drift.common.errors import UserError
from lightning_drift.weights.files import open_weights
from lightning_drift.weights.fill import fill

ROWS, COLUMNS = 6, 4


def quantised(weight, dtype=torch.float8_e4m3fn, rows=False):
    """The nearest numbers in 8 bits, and their scale."""
    largest = (
        weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True) if rows else weight.abs().amax()
    )
    scale = largest / torch.finfo(dtype).max
    return (weight / scale).to(dtype), scale


def comfy_quant(**settings):
    return torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8)


@pytest.fixture
def weight():
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)) * 1e-3


def layouts(weight):
    """For each layout the tensors beside the bias, the metadata, and the weight that they stand for."""
    numbers, scale = quantised(weight)
    by_row, scales = quantised(weight, torch.float8_e5m2, rows=True)
    mark = torch.zeros(2, dtype=torch.float8_e4m3fn)
    told = {"_quantization_metadata": json.dumps({"layers": {"a.b": {"format": "float8_e4m3fn"}}})}
    tag = comfy_quant(format="float8_e4m3fn", full_precision_matrix_mult=True)
    old = {"weight": numbers, "scale_weight": scale[None], "scale_input": torch.ones(())}
    old_rows = {"weight": by_row, "scale_weight": scales}
    new = {"weight": numbers, "weight_scale": scale, "input_scale": torch.ones(()), "comfy_quant": tag}
    tag = comfy_quant(format="float8_e5m2")
    new_rows = {"weight": by_row, "weight_scale": scales[:, 0], "comfy_quant": tag}
    as_bytes = {"weight": numbers.view(torch.uint8), "weight_scale": scale}
    exact, exact_rows = numbers.float() * scale, by_row.float() * scales
    return {
        "old": (named(old) | {"a.scaled_fp8": mark}, {}, exact),
        "old by row": (named(old_rows) | {"scaled_fp8": mark[:0]}, {}, exact_rows),
        "new": (named(new), {}, exact),
        "new by row": (named(new_rows), {}, exact_rows),
        "new in the metadata, as bytes": (named(as_bytes), told, exact),
    }


def named(tensors):
    return {f"a.b.{name}": tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "layout", ["old", "old by row", "new", "new by row", "new in the metadata, as bytes"]
)
def test_a_scaled_weight_is_its_numbers_times_their_scale_rounded_once(tmp_path, weight, layout):
    tensors, metadata, exact = layouts(weight)[layout]
    save_file({**tensors, "a.b.bias": torch.ones(ROWS)}, tmp_path / "w.safetensors", metadata)
    before = (tmp_path / "w.safetensors").read_bytes()
    opened = open_weights(tmp_path / "w.safetensors")
    assert opened.shapes == {"a.b.weight": (ROWS, COLUMNS), "a.b.bias": (ROWS,)}
    assert torch.equal(opened.read("a.b.weight"), exact)
    assert (exact - weight).abs().max() < 0.2 * weight.abs().max()
    with torch.device("meta"):
        layer = torch.nn.Linear(COLUMNS, ROWS)
    fill(layer, opened.under("a.b."), "layer", torch.bfloat16, mapped=True)
    assert torch.equal(layer.weight, exact.bfloat16())
    assert torch.equal(opened.read("a.b.weight"), exact), "what is let go can be read again"
    assert (tmp_path / "w.safetensors").read_bytes() == before


def test_kernels_have_a_scale_for_each_output(tmp_path):
    kernel = torch.randn(ROWS, COLUMNS, 3, 3)
    numbers, scale = quantised(kernel, rows=True)
    save_file({"c.weight": numbers, "c.weight_scale": scale}, tmp_path / "w.safetensors")
    assert torch.equal(open_weights(tmp_path / "w.safetensors").read("c.weight"), numbers.float() * scale)


NUMBERS = torch.ones(ROWS, COLUMNS).to(torch.float8_e4m3fn)
REFUSED = {
    "in the format nvfp4": {"a.comfy_quant": comfy_quant(format="nvfp4"), "a.weight_scale_2": torch.ones(())},
    "in the format mxfp8": {"a.comfy_quant": comfy_quant(format="mxfp8")},
    "in the format float8_e4m3fn with convrot": {
        "a.comfy_quant": comfy_quant(format="float8_e4m3fn", convrot=True)
    },
    "holds scales (a.weight_scale_2)": {"a.weight_scale_2": torch.ones(())},
    "scaled weights in int8": {"a.weight": NUMBERS.to(torch.int8), "a.weight_scale": torch.ones(())},
    "scaled weights in uint8": {"a.weight": NUMBERS.to(torch.uint8), "a.scale_weight": torch.ones(())},
    "scales [1, 4] in float32": {"a.weight_scale": torch.ones(1, COLUMNS)},
    "scales [6, 2] in float32": {"a.weight_scale": torch.ones(ROWS, 2)},
    "scales [] in uint8": {"a.weight_scale": torch.ones((), dtype=torch.uint8)},
    "of b.weight, which it lacks": {"b.scale_weight": torch.ones(())},
    "a.comfy_quant is not valid JSON": {"a.comfy_quant": torch.full((9000,), 91, dtype=torch.uint8)[:4000]},
    "a.comfy_quant is no text": {"a.comfy_quant": torch.zeros(5000, dtype=torch.uint8)},
    "the format of a is": {"a.comfy_quant": comfy_quant(format=3)},
}  # fmt: skip


@pytest.mark.parametrize("said", REFUSED)
def test_other_formats_and_misfits_are_named(tmp_path, said):
    save_file({"a.weight": NUMBERS, **REFUSED[said]}, tmp_path / "w.safetensors")
    with pytest.raises(UserError) as caught:
        open_weights(tmp_path / "w.safetensors")
    assert said in str(caught.value)
    assert str(tmp_path / "w.safetensors") in str(caught.value)


@pytest.mark.parametrize("told", ["[1]", '{"layers": 3}', '{"layers": {"a": 3}}', "{" * 5000])
def test_damaged_metadata_are_a_sentence(tmp_path, told):
    save_file({"a.weight": NUMBERS}, tmp_path / "w.safetensors", {"_quantization_metadata": told})
    with pytest.raises(UserError, match="is damaged"):
        open_weights(tmp_path / "w.safetensors")


def test_a_scale_that_is_no_number_is_found(tmp_path):
    save_file({"a.weight": NUMBERS, "a.scale_weight": torch.full((), torch.nan)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"a\.weight holds NaN"):
        open_weights(tmp_path / "w.safetensors").read("a.weight")
