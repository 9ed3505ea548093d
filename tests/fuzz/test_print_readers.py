"""What people give for prints: captions in one file, LoRAs, scaled weights; a value or a sentence."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.bounded import value_or_sentence
from helpers.hostile import json_text, texts, values, with_a_wrong_value
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lightning_drift.prints.captions import read_caption_file
from lightning_drift.supir.network.lora import LoraFile, split_weight, with_loras
from lightning_drift.supir.network.sdxl import SdxlBase
from lightning_drift.weights.clip_tokenizer import sd15_tokenizer
from lightning_drift.weights.files import Weights, open_weights

IMAGES = [Path("a.png"), Path("b.jpg"), Path("sub/a.png")]
ROW = {"file_name": "a.png", "text": "a cup"}
NAMES = st.sampled_from(["a.png", "a", "./b.jpg", "sub/a", "..\\sub\\a.png", "/", ".", "", "\0", "b" * 300])


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


rows = st.one_of(with_a_wrong_value(ROW), NAMES.map(lambda name: {**ROW, "file_name": name}))
cells = st.one_of(NAMES, st.sampled_from(["file_name", "text", '"', "x,y"]))
caption_files = st.one_of(
    texts,
    values.map(json_text),
    st.lists(rows.map(json_text), max_size=4).map("\n".join),
    st.dictionaries(NAMES, st.one_of(values, st.just({"caption": "a cup"})), max_size=4).map(json_text),
    st.lists(st.lists(cells, max_size=3).map(",".join), max_size=4).map(
        lambda lines: "\n".join(["file_name,text", *lines])
    ),
)


@given(caption_files, st.sampled_from([".jsonl", ".csv", ".json", ".txt"]))
@example("[" * 100_000, ".jsonl")
def test_captions(folder: Path, text: str, suffix: str) -> None:
    path = folder / f"captions{suffix}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    found = value_or_sentence(lambda: read_caption_file(path, [folder / image for image in IMAGES]))
    if found is not None:
        assert all(image.relative_to(folder) in IMAGES for image in found)
        assert all(caption == " ".join(caption.split()) for caption in found.values())


@given(st.one_of(texts, st.from_regex(r"\A[a-c/.]{0,6}:[-+0-9.e_]{0,8}\Z")))
def test_the_weight_of_a_lora(text: str) -> None:
    found = value_or_sentence(lambda: split_weight(text, "model.lora"))
    if found is not None:
        name, weight = found
        assert text.startswith(name)
        assert -10 <= weight <= 10


def own_weights(state: dict[str, torch.Tensor]) -> Weights:
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return Weights("base", shapes, state.__getitem__, (), {})


MODEL = torch.nn.ModuleDict({"conv_in": torch.nn.Conv2d(2, 4, 3), "proj": torch.nn.Linear(3, 5)})
BASE = SdxlBase(
    origin="base",
    configs={"unet": {"layers_per_block": 1}},
    read_part=lambda _, names: (own_weights(MODEL.state_dict()), {}),
    files={},
    tokenizer=sd15_tokenizer(),
)
LAYERS = st.sampled_from(["unet.proj", "lora_unet_proj", "lora_unet_conv_in", "unet.conv_in", "x", ""])
ENDS = st.sampled_from([
    ".lora_A.weight", ".lora_B.weight", ".lora_up.weight", ".lora_down.weight", ".lora_mid.weight", ".alpha",
    ".processor.to_q_lora.up.weight", ".hada_w1_a", "",
])  # fmt: skip
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
TOLD = {"unet.lora_alpha": 4, "unet.alpha_pattern": {"proj": 2}, "unet.use_rslora": True}


@given(
    st.dictionaries(st.tuples(LAYERS, ENDS).map("".join).filter(bool), SHAPES, max_size=5),
    st.one_of(texts, with_a_wrong_value(TOLD).map(json_text)),
)
@example({"unet.proj.lora_A.weight": (2, 3), "unet.proj.lora_B.weight": (5, 2)}, json.dumps(TOLD))
def test_loras(folder: Path, shapes: dict[str, tuple[int, ...]], told: str) -> None:
    path = folder / "lora.safetensors"
    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    save_file(tensors, path, {"lora_adapter_metadata": told.encode("utf-8", "replace").decode()})
    changed = value_or_sentence(lambda: with_loras(BASE, {"unet": MODEL}, [LoraFile(path)]))
    if changed is not None:
        weights, _ = changed.read_part("unet", MODEL.state_dict())
        for name, tensor in MODEL.state_dict().items():
            found = value_or_sentence(lambda name=name: weights.read(name))
            assert found is None or found.shape == tensor.shape


@given(
    st.one_of(texts, values.map(json_text), with_a_wrong_value({"format": "float8_e4m3fn"}).map(json_text)),
    st.one_of(texts, with_a_wrong_value({"layers": {"a": {"format": "float8_e5m2"}}}).map(json_text)),
    SHAPES,
)
def test_formats_and_scales(folder: Path, tag: str, told: str, shape: tuple[int, ...]) -> None:
    path = folder / "scaled.safetensors"
    tensors = {
        "a.weight": torch.ones(4, 3).to(torch.float8_e4m3fn),
        "a.weight_scale": torch.ones(shape),
        "a.comfy_quant": torch.tensor(list(tag.encode("utf-8", "surrogatepass")), dtype=torch.uint8),
    }
    save_file(tensors, path, {"_quantization_metadata": told.encode("utf-8", "replace").decode()})
    found = value_or_sentence(lambda: open_weights(path).read("a.weight"))
    assert found is None or (found.shape == (4, 3) and bool((found == 1).all()))
