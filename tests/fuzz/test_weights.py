"""Files of weights from anywhere: opened, or refused in a sentence; nothing in them runs."""

import json
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bounded import bounded, value_or_sentence
from helpers.hostile import changed, json_text, texts, values, with_a_wrong_value
from helpers.paths import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from lightning_drift.common.errors import UserError
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.stable_diffusion.diffusers_folder import read_folder
from lightning_drift.stable_diffusion.loading import open_pipeline
from lightning_drift.weights.configs import read_config
from lightning_drift.weights.files import open_weights
from lightning_drift.weights.metadata import METADATA, metadata_entry

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}
SAFETENSORS = save(TENSORS, metadata={"format": "pt", f"{METADATA}step": "3"})
HEADER: dict[str, Any] = json.loads(SAFETENSORS[8 : 8 + struct.unpack("<Q", SAFETENSORS[:8])[0]])


def torch_file(value: Any, **options: Any) -> bytes:
    file = BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


CHECKPOINT = torch_file({"state_dict": TENSORS, "global_step": 3, "callbacks": {"x": [1, 2.5, "y", None]}})
OLD_FORMAT = torch_file({"state_dict": TENSORS}, _use_new_zipfile_serialization=False)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def read_all(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file, in its shape."""
    weights = open_weights(path)
    tensors = {name: weights.read(name) for name in weights.shapes}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == dict(weights.shapes)
    return tensors


@given(changed(SAFETENSORS))
def test_changed_bytes_of_safetensors(folder: Path, data: bytes) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    value_or_sentence(lambda: read_all(path))


@given(with_a_wrong_value(HEADER))
def test_headers_of_safetensors(folder: Path, header: Any) -> None:
    path, text = folder / "model.safetensors", json_text(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    value_or_sentence(lambda: read_all(path))


@pytest.mark.parametrize("original", [CHECKPOINT, OLD_FORMAT], ids=["zip", "old"])
def test_changed_bytes_of_torch_files(original: bytes, folder: Path) -> None:
    path = folder / "model.ckpt"

    @given(changed(original))
    def look(data: bytes) -> None:
        path.write_bytes(data)
        value_or_sentence(lambda: read_all(path))
        value_or_sentence(lambda: read_checkpoint(path))

    look()


@given(st.text(max_size=40).map(lambda text: b"\x80\x02" + text.encode("utf-8", "surrogatepass") + b"."))
def test_pickles(folder: Path, data: bytes) -> None:
    path = folder / "model.pt"
    path.write_bytes(data)
    value_or_sentence(lambda: read_all(path))


@given(
    with_a_wrong_value(
        {"metadata": {}, "weight_map": {"a.weight": "one.safetensors", "b": "one.safetensors"}}
    )
)
def test_shard_indexes(folder: Path, index: Any) -> None:
    (folder / "one.safetensors").write_bytes(SAFETENSORS)
    path = folder / "model.safetensors.index.json"
    path.write_text(json_text(index))
    value_or_sentence(lambda: read_all(path))


@given(st.one_of(texts, values.map(json_text)))
def test_entries_of_metadata(text: str) -> None:
    value_or_sentence(lambda: metadata_entry({f"{METADATA}recipe": text}, "recipe", "a file"))


@given(st.one_of(texts, values.map(json_text)))
def test_configs(folder: Path, text: str) -> None:
    path = folder / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    found = value_or_sentence(lambda: read_config(path))
    assert found is None or type(found) is dict


PIPELINE = {
    str(path.relative_to(DATA / "tiny_sd")): json.loads(path.read_text())
    for path in sorted((DATA / "tiny_sd").glob("**/*.json"))
    if path.name in ("model_index.json", "config.json", "scheduler_config.json", "tokenizer_config.json")
}


@pytest.mark.parametrize("name", PIPELINE)
def test_files_of_a_pipelines_folder(name: str, folder: Path) -> None:
    copy = folder / "pipeline"
    for path in (DATA / "tiny_sd").glob("**/*"):
        target = copy / path.relative_to(DATA / "tiny_sd")
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    (copy / name).unlink()

    @settings(max_examples=settings().max_examples // 4)
    @given(with_a_wrong_value(PIPELINE[name]))
    def look(content: Any) -> None:
        (copy / name).write_text(json_text(content))
        value_or_sentence(lambda: read_folder(copy))

    try:
        look()
    finally:
        (copy / name).unlink(missing_ok=True)


RECIPE = {
    "base": str(DATA / "tiny_sd"),
    "instance_prompt": "a photo",
    "learning_rate": 2e-6,
    "precision": "32-true",
}


@settings(max_examples=settings().max_examples // 4)
@given(
    with_a_wrong_value(
        {"recipe": RECIPE, "global_step": 3, "callbacks": {"ClipDrift": {"zones": {"2": "dreaming"}}}}
    )
)
def test_what_a_checkpoint_says_of_itself(folder: Path, said: Any) -> None:
    path = folder / "step.ckpt"
    said = said if isinstance(said, dict) else {"recipe": said}
    path.write_bytes(torch_file({**said, "state_dict": {"unet.a": torch.ones(2)}}))
    value_or_sentence(lambda: read_checkpoint(path))
    value_or_sentence(lambda: open_pipeline(str(path)))


@pytest.mark.parametrize("read", [open_weights, read_checkpoint])
def test_a_packed_archive_is_not_unpacked(read: Any, folder: Path) -> None:
    """A small file whose description unpacks to more than may be taken."""
    path = folder / "model.ckpt"
    with (
        zipfile.ZipFile(BytesIO(CHECKPOINT)) as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            data = plain.read(name)
            # None, pushed and popped 150 million times
            packed.writestr(
                name, data[:2] + b"N0" * (150 * 2**20) + data[2:] if name.endswith(".pkl") else data
            )
    with pytest.raises(UserError, match="archive"), bounded(memory=2**27):
        read(path)
