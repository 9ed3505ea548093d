"""Weights in 8-bit integers with a scale per row."""

import torch
from safetensors.torch import save_file

from lightning_drift.common.rng import generator
from lightning_drift.weights.files import open_weights
from lightning_drift.weights.int8_rows import packed


def test_integers_with_scales_are_read_as_what_they_stand_for(tmp_path):
    weight = torch.randn(64, 48, generator=generator(0, "weight")) * torch.logspace(-3, 1, 64)[:, None]
    tensors, metadata = packed({"layer.weight": weight, "layer.bias": weight[0]})
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "layer.weight": torch.int8, "layer.weight.row_scale": torch.float16, "layer.bias": torch.float16,
    }  # fmt: skip
    save_file(tensors, tmp_path / "w.safetensors", metadata)
    opened = open_weights(tmp_path / "w.safetensors")
    assert dict(opened.shapes) == {"layer.weight": (64, 48), "layer.bias": (48,)}
    error = (opened.read("layer.weight").float() - weight).norm(dim=1) / weight.norm(dim=1)
    assert error.max() < 0.012
    # Without the metadata nothing is taken for a scale.
    save_file(tensors, tmp_path / "plain.safetensors")
    assert "layer.weight.row_scale" in open_weights(tmp_path / "plain.safetensors").shapes
