"""Weight files as hostile, damaged and misnamed as they come: tensors, or one sentence, in bounded memory."""

import json
import os
import pickle
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lightning_drift.common.errors import UserError
from lightning_drift.weights.files import Weights, open_weights
from lightning_drift.weights.int8_rows import EIGHT_BIT, packed
from lightning_drift.weights.torch_file import load_torch_file
from lightning_drift.weights.variants import weight_file, weight_files

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}


def read_all(path: Path) -> None:
    weights = open_weights(path)
    for name in weights.shapes:
        weights.read(name)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_all(path)
    assert str(path.parent) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


def assert_state(path: Path) -> Weights:
    weights = open_weights(path)
    assert weights.shapes == {"a.weight": (2, 3), "b": (4,)}
    assert all(torch.equal(weights.read(name), tensor) for name, tensor in STATE.items())
    return weights


def safetensors(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


# -- content decides, not the name --


@pytest.mark.parametrize("name", ["m.ckpt", "M.SAFETENSORS", "m.sft", "m.bin", "m", "m.v1.5", "m.index"])
def test_safetensors_and_torch_files_are_known_by_their_content(tmp_path: Path, name: str) -> None:
    save_file(STATE, tmp_path / name)
    assert_state(tmp_path / name)
    torch.save({"state_dict": STATE, "epoch": 3}, tmp_path / name)
    assert_state(tmp_path / name)
    torch.save({"state_dict": STATE}, tmp_path / name, _use_new_zipfile_serialization=False)
    assert_state(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty (zero bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
        (b"<!DOCTYPE html><html>", "is a web page, not the weights"),
        (b"GGUF\x03\0\0\0", "is a GGUF file"),
        (b"\x1f\x8b\x08\0\0", "is packed (gzip)"),
        (b"x", "is damaged or holds Python objects besides weights"),
        (b"\x80\x02}q\0", "not a readable torch file"),
        (b"PK\x03\x04rest", "not a readable torch file"),
        (b"\x80\x02" + b"(" * 100_000 + b"." * 9, "is not a readable torch file"),
        (b"{}", "is not an index of weight files"),
        (b"[]", "holds no JSON object"),
    ],
)
def test_what_is_no_weight_file_is_called_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "m.ckpt"
    path.write_bytes(content)
    assert said in refusal(path)


def test_pipes_folders_and_files_that_may_not_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "is a pipe, a device or a socket" in refusal(tmp_path / "pipe.safetensors")
    assert "is a folder" in refusal(tmp_path / "." / "..")
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    assert "no such file" in refusal(tmp_path / "gone.safetensors")


# -- safetensors --


@pytest.mark.parametrize("value", [5, None, ["a"], {"a": 1}, 0.5, True])
def test_metadata_that_are_no_texts_are_no_damage(tmp_path: Path, value: object) -> None:
    save_file(STATE, tmp_path / "whole.safetensors", metadata={"kept": "yes"})
    data = (tmp_path / "whole.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    for metadata in ({**header["__metadata__"], "ss_epoch": value}, value):
        weights = assert_state(
            safetensors(tmp_path / "m.safetensors", {**header, "__metadata__": metadata}, data[8 + size :])
        )
        if isinstance(metadata, dict) and "kept" in metadata:
            assert weights.metadata["kept"] == "yes"


@pytest.mark.parametrize("metadata", [{}, {"n": 5}])  # a number among them takes another way of reading
@pytest.mark.parametrize(
    "tensors",
    [
        {"a": entry("F99")},
        {"a": entry(shape=(-1,))},
        {"a": entry(shape=(2**60, 2**60))},
        {"a": entry(shape="x")},
        {"a": entry(shape=None)},
        {"a": entry(offsets=(0, 2**40))},
        {"a": entry(offsets=(4, 0))},
        {"a": entry(offsets=None)},
        {"a": entry(offsets=(0, 4, 8))},
        {"a": entry(), "b": entry()},
        {"a": {}},
        {"a": 5},
        {"a": None},
    ],
)
def test_a_damaged_safetensors_header_is_a_sentence(
    tmp_path: Path, tensors: dict[str, object], metadata: dict[str, object]
) -> None:
    refusal(safetensors(tmp_path / "m.safetensors", {"__metadata__": metadata, **tensors}, b"\0" * 4))


@pytest.mark.parametrize(
    ("text", "length"),
    [
        (b"{" * 50_000, None),
        (b'{"a":' * 50_000, None),
        (b"{}", 2**39),
        (b"{}", 2**63),
        (b'{"a": 1' + b"0" * 5000 + b"}", None),
        (b'{"\xff\xfe": 1}', None),
        (b"[]", None),
    ],
)
def test_a_header_that_is_no_header_is_a_sentence(tmp_path: Path, text: bytes, length: int | None) -> None:
    assert "safetensors" in refusal(safetensors(tmp_path / "m.safetensors", text, length=length))


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "m.safetensors", b"{", length=3 * 2**30)
    os.truncate(path, 4 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "its header takes 3.00 GiB" in refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


# -- torch files --


def test_numpy_numbers_beside_the_weights_are_read_as_numbers(tmp_path: Path) -> None:
    numbers = {
        "best_model_score": np.float64(0.25),
        "epoch": np.int64(3),
        "half": np.float16(2),
        "big_endian": np.dtype(">i4").type(5),
        "flag": np.bool_(True),
    }
    torch.save({"state_dict": STATE, **numbers}, tmp_path / "old.ckpt")
    loaded = load_torch_file(tmp_path / "old.ckpt")
    assert {key: loaded[key] for key in numbers} == {key: value.item() for key, value in numbers.items()}
    assert type(loaded["epoch"]) is int
    # As numpy 1 names it, in the format before archives, where the name stands as it is.
    torch.save({"state_dict": STATE, **numbers}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    old = (
        (tmp_path / "old.ckpt")
        .read_bytes()
        .replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    )
    assert b"cnumpy.core.multiarray\n" in old
    (tmp_path / "old.ckpt").write_bytes(old)
    assert load_torch_file(tmp_path / "old.ckpt")["epoch"] == 3
    assert_state(tmp_path / "old.ckpt")


@pytest.mark.parametrize("value", [np.array([1.0]), np.str_("x"), np.datetime64("2020-01-01"), Path("x")])
def test_other_objects_beside_the_weights_are_refused(tmp_path: Path, value: object) -> None:
    torch.save({"state_dict": STATE, "value": value}, tmp_path / "m.ckpt")
    assert "holds Python objects besides weights" in refusal(tmp_path / "m.ckpt")


class Scalar:
    """Pickles as the call of numpy's `scalar` with whatever it is given."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[object, ...]:
        return np._core.multiarray.scalar, self.arguments


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (1, 2),
        (np.dtype("O"), "x"),
        (np.dtype("f8"), b"1"),
        (np.dtype("f8"), 5),
        (np.dtype("V8"), b"12345678"),
    ],
)
def test_a_numpy_number_that_is_none_is_refused(tmp_path: Path, arguments: tuple[object, ...]) -> None:
    torch.save({"state_dict": STATE, "value": Scalar(*arguments)}, tmp_path / "m.ckpt")
    refusal(tmp_path / "m.ckpt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_damaged_anywhere_is_read_or_is_a_sentence(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "m.ckpt"
    torch.save({"state_dict": STATE}, path, _use_new_zipfile_serialization=zipped)
    whole, source = path.read_bytes(), torch.Generator().manual_seed(0)
    said = 0
    for trial in range(300):
        damaged = bytearray(whole)
        place, byte = (
            torch.randint(len(whole), (), generator=source),
            torch.randint(256, (), generator=source),
        )
        damaged[int(place)] = int(byte)
        path.write_bytes(damaged[: int(place)] if trial % 3 == 0 else damaged)
        try:
            read_all(path)
        except UserError:
            said += 1
    assert said > 100


def test_an_archive_that_grows_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 2**26)
    assert "is a packed archive" in refusal(tmp_path / "bomb.ckpt")


def test_tensors_without_plain_numbers_are_refused(tmp_path: Path) -> None:
    for odd in (torch.eye(3).to_sparse(), torch.zeros(2, device="meta")):
        torch.save({**STATE, "odd": odd}, tmp_path / "m.ckpt")
        assert "tensors that are no plain weights: odd" in refusal(tmp_path / "m.ckpt")
    torch.save({5: torch.zeros(1), "state_dict": 5, **STATE}, tmp_path / "m.ckpt")
    assert_state(tmp_path / "m.ckpt")


def test_a_pickle_that_declares_too_much_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.ckpt").write_bytes(b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x")
    refusal(tmp_path / "m.ckpt")
    (tmp_path / "m.ckpt").write_bytes(pickle.dumps({"a": [1, 2]}, protocol=2))
    refusal(tmp_path / "m.ckpt")


# -- shards --


@pytest.mark.parametrize(
    "index",
    [
        [],
        5,
        {},
        {"weight_map": []},
        {"weight_map": {}},
        {"weight_map": {"a": 5}},
        {"weight_map": {"a": None}},
        {"weight_map": {"a": ""}},
        {"weight_map": {"a": "."}},
        {"weight_map": {"a": ".."}},
        {"weight_map": {"a": "../other/shard.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": "nowhere.safetensors"}},
        {"weight_map": {"a": "m.safetensors.index.json"}},
        {"weight_map": {"a": "other.index.json"}},
        {"weight_map": {"a": "pipe"}},
        {"weight_map": {"lacking": "shard.safetensors"}},
    ],
)
def test_a_damaged_index_of_shards_is_a_sentence(tmp_path: Path, index: object) -> None:
    folder, other = tmp_path / "model", tmp_path / "other"
    for place in (folder, other):
        place.mkdir()
        save_file(STATE, place / "shard.safetensors")
    path = folder / "m.safetensors.index.json"
    path.write_text(json.dumps(index))
    (folder / "other.index.json").write_text(json.dumps({"weight_map": {"a": path.name}}))
    os.mkfifo(folder / "pipe")
    refusal(path)


def test_the_index_of_torch_shards_is_read(tmp_path: Path) -> None:
    for name, key in (("one.bin", "a.weight"), ("two.bin", "b")):
        torch.save({key: STATE[key]}, tmp_path / name)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a.weight": "one.bin", "b": "two.bin"}}))
    assert_state(index)


# -- which of several --


@pytest.mark.parametrize(
    ("names", "file", "fetched"),
    [
        (["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"], 0, [0]),
        (["pytorch_model.bin", "model.fp16.safetensors"], 1, [1]),
        (["diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.fp16.safetensors"], 1, [1]),
        (["diffusion_pytorch_model.non_ema.bin", "openvino_model.bin", "config.json"], 0, [0]),
        (
            [
                "diffusion_pytorch_model.safetensors.index.fp16.json",
                "diffusion_pytorch_model-00001-of-00001.fp16.safetensors",
                "diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
                "diffusion_pytorch_model-00001-of-00001.bin",
            ],
            0,
            [0, 1, 2],
        ),
        (["flax_model.msgpack", "model.onnx"], None, []),
    ],
)
def test_which_weights_of_a_folder_are_taken(names: list[str], file: int | None, fetched: list[int]) -> None:
    assert weight_file(names) == (None if file is None else names[file])
    assert weight_files(names) == [names[place] for place in fetched]


# -- NaN --


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_none_is_found(tmp_path: Path, dtype: torch.dtype, number: float) -> None:
    tensor = torch.zeros(5000)
    tensor[4321] = number
    save_file({"fine": torch.zeros(3).to(dtype), "odd": tensor.to(dtype)}, tmp_path / "m.safetensors")
    weights = open_weights(tmp_path / "m.safetensors")
    weights.read("fine")
    with pytest.raises(UserError, match=r"m\.safetensors has diverged: odd holds NaN or infinity"):
        weights.read("odd")


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 60000.0])
def test_the_scales_of_eight_bits_are_looked_at(tmp_path: Path, scale: float) -> None:
    tensors, metadata = packed({"w": torch.randn((64, 64), generator=torch.Generator().manual_seed(0))})
    assert metadata.items() >= EIGHT_BIT.items()
    tensors["w.row_scale"][3] = scale
    save_file(tensors, tmp_path / "m.safetensors", metadata)
    assert "holds NaN or infinity" in refusal(tmp_path / "m.safetensors")
