"""Models whose configs, tokenizers, records and weights are wrong: one sentence that names the file."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import DATA
from safetensors.torch import load_file, save_file

from lightning_drift.assets import POCKET_CLIP, POCKET_SUPIR
from lightning_drift.cli import main
from lightning_drift.common.errors import UserError
from lightning_drift.drift.measures.frozen_clip import FrozenClip
from lightning_drift.export.single_file import ldm_tensors, parts_metadata
from lightning_drift.stable_diffusion.interpolation import base_of, interpolated
from lightning_drift.stable_diffusion.loading import load_opened, load_stable_diffusion, open_pipeline
from lightning_drift.supir.network.weights import open_checkpoints

TINY = DATA / "tiny_sd"
WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
}


def linked(source: Path, folder: Path) -> Path:
    """A copy whose files are links, to be replaced one by one."""
    for path in source.rglob("*"):
        if path.is_file():
            link = folder / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return linked(TINY, tmp_path / "model")


def replaced(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def edited(path: Path, **changes: Any) -> None:
    replaced(path, json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(path: Path, load: Callable[[str], Any] = load_stable_diffusion) -> str:
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 900
    return caught.value.message


def with_nan(path: Path, key: str) -> None:
    tensors = load_file(path)
    tensors[key].flatten()[0] = float("nan")
    path.unlink()
    save_file(tensors, path)


# -- configs --

HUGE = 10**9


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("unet/config.json", {"block_out_channels": [HUGE] * 3}),
        ("unet/config.json", {"block_out_channels": [0, 0, 0]}),
        ("unet/config.json", {"block_out_channels": []}),
        ("unet/config.json", {"block_out_channels": "x"}),
        ("unet/config.json", {"layers_per_block": HUGE}),
        ("unet/config.json", {"layers_per_block": 900_000}),
        ("unet/config.json", {"transformer_layers_per_block": 900_000}),
        ("unet/config.json", {"down_block_types": [{"a": 1}]}),
        ("unet/config.json", {"down_block_types": None}),
        ("unet/config.json", {"up_block_types": 5}),
        ("unet/config.json", {"down_block_types": ["Nonsense"]}),
        ("unet/config.json", {"act_fn": "nonsense"}),
        ("unet/config.json", {"in_channels": [4]}),
        ("unet/config.json", {"sample_size": HUGE}),
        ("unet/config.json", {"sample_size": [8, 8]}),
        ("unet/config.json", {"sample_size": None}),
        ("unet/config.json", {"attention_head_dim": 0}),
        ("unet/config.json", {"norm_num_groups": 0}),
        ("unet/config.json", {"norm_eps": "x"}),
        ("unet/config.json", {"flip_sin_to_cos": None, "freq_shift": "x"}),
        ("unet/config.json", {"mid_block_type": {"a": 1}}),
        ("unet/config.json", {"cross_attention_dim": float("nan")}),
        ("vae/config.json", {"down_block_types": [{"a": 1}]}),
        ("vae/config.json", {"scaling_factor": 0}),
        ("vae/config.json", {"scaling_factor": "x"}),
        ("vae/config.json", {"scaling_factor": float("inf")}),
        ("vae/config.json", {"latent_channels": None}),
        ("text_encoder/config.json", {"hidden_act": None}),
        ("text_encoder/config.json", {"hidden_act": "nonsense"}),
        ("text_encoder/config.json", {"num_hidden_layers": HUGE}),
        ("text_encoder/config.json", {"num_hidden_layers": [4, 4]}),
        ("text_encoder/config.json", {"num_attention_heads": 7}),
        ("text_encoder/config.json", {"max_position_embeddings": HUGE}),
        ("text_encoder/config.json", {"vocab_size": -1}),
        ("text_encoder/config.json", {"eos_token_id": {"a": 1}}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": HUGE}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "x"}),
        ("scheduler/scheduler_config.json", {"beta_schedule": "nonsense"}),
        ("scheduler/scheduler_config.json", {"beta_schedule": ["linear"]}),
        ("scheduler/scheduler_config.json", {"beta_start": None}),
        ("scheduler/scheduler_config.json", {"beta_end": float("nan")}),
        ("scheduler/scheduler_config.json", {"beta_end": -1}),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}),
        ("scheduler/scheduler_config.json", {"trained_betas": "x"}),
        ("scheduler/scheduler_config.json", {"prediction_type": 5}),
        ("scheduler/scheduler_config.json", {"prediction_type": "nonsense"}),
        ("scheduler/scheduler_config.json", {"timestep_spacing": "nonsense"}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "x"}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 0}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": [77]}),
        ("tokenizer/tokenizer_config.json", {"bos_token": 5}),
    ],
)
def test_a_wrong_value_of_a_config_is_a_sentence_before_anything_is_built(
    folder: Path, file: str, changes: dict[str, Any]
) -> None:
    edited(folder / file, **changes)
    said = refusal(folder)
    assert str(folder) in said


@pytest.mark.parametrize("text", ["", "[]", "5", "null", "{", '"x"', '{"a":' * 50_000, "\udcff", "9" * 5000])
@pytest.mark.parametrize(
    "file",
    ["model_index.json", "vae/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"],
)
def test_a_damaged_json_file_is_named(folder: Path, file: str, text: str) -> None:
    (folder / file).unlink()
    (folder / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert file in refusal(folder)


@pytest.mark.parametrize(
    "file", ["tokenizer/tokenizer.json", "tokenizer/vocab.json", "unet/config.json", WEIGHTS["vae"]]
)
def test_a_pipe_in_a_files_place_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)
    said = refusal(folder)
    assert file in said
    assert "is a pipe, a device or a socket" in said


@pytest.mark.parametrize(
    "model", [None, [], {"type": "BPE"}, {"type": "BPE", "vocab": {"a": -1}, "merges": [5]}]
)
def test_a_damaged_tokenizer_is_a_sentence(folder: Path, model: Any) -> None:
    edited(folder / "tokenizer/tokenizer.json", model=model)
    assert "tokenizer holds no readable CLIP tokenizer" in refusal(folder)


def test_a_wrong_model_ends_the_command_with_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-drift"])
    monkeypatch.chdir(folder.parent)
    edited(folder / "vae/config.json", act_fn="nonsense")
    assert main(["predict", f"--model.pipeline={folder}", "--data.seeds=0"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert "vae/config.json describes no Stable Diffusion 1.x model" in said


def test_names_that_are_no_paths() -> None:
    for name in ("x" * 5000, "a\0b", "~nobody/x", "", "/dev/zero"):
        refusal(Path(name) if name else Path(), lambda _, name=name: load_stable_diffusion(name))


# -- NaN wherever weights enter --


@pytest.mark.parametrize(
    ("part", "key"),
    [("unet", "conv_in.bias"), ("text_encoder", "final_layer_norm.weight"), ("vae", "quant_conv.weight")],
)
def test_nan_in_a_folder_and_in_a_file(folder: Path, tmp_path: Path, part: str, key: str) -> None:
    with_nan(folder / WEIGHTS[part], key)
    assert f"has diverged: {part}.{key} holds NaN or infinity" in refusal(folder)
    model = load_stable_diffusion(str(TINY))
    getattr(model, part).state_dict()[key].flatten()[0] = float("inf")
    tensors = {name: tensor.contiguous() for name, tensor in ldm_tensors(model).items()}
    file = tmp_path / "m.safetensors"
    save_file(tensors, file, metadata=parts_metadata(model))
    assert refusal(file).startswith(f"{file} has diverged: {part}.{key} holds NaN or infinity")


def checkpoint(path: Path, recipe: Any, step: Any = 3, nan: str = "") -> Path:
    state = {
        f"{part}.{key}": tensor
        for part in ("unet", "text_encoder")
        for key, tensor in load_file(TINY / WEIGHTS[part]).items()
    }
    if nan:
        state[nan] = torch.full_like(state[nan], float("nan"))
    torch.save({"state_dict": state, "recipe": recipe, "global_step": step}, path)
    return path


def test_nan_in_a_checkpoint_and_in_its_base_at_any_drift(folder: Path, tmp_path: Path) -> None:
    broken = checkpoint(tmp_path / "nan.ckpt", {"base": str(TINY)}, nan="text_encoder.final_layer_norm.bias")
    assert "nan.ckpt has diverged: text_encoder.final_layer_norm.bias" in refusal(broken)
    with_nan(folder / WEIGHTS["unet"], "conv_out.bias")
    whole = open_pipeline(str(checkpoint(tmp_path / "fine.ckpt", {"base": str(folder)})))
    load_opened(whole)  # the base gives its autoencoder only
    with pytest.raises(UserError, match=r"model/unet/.*has diverged: unet\.conv_out\.bias holds NaN"):
        load_opened(interpolated(whole, base_of(whole), 0.5))


@pytest.mark.parametrize("form", ["delta", "lora"])
def test_nan_in_a_delta_and_a_lora_and_in_the_base_of_one(folder: Path, tmp_path: Path, form: str) -> None:
    tuned = checkpoint(tmp_path / "fine.ckpt", {"base": str(folder)})
    words = ["export", f"--ckpt_path={tuned}", f"--to={tmp_path / 'out'}", f"--format={form}", "--rank=2"]
    assert main(words if form == "lora" else words[:-1]) == 0
    (file,) = (tmp_path / "out").rglob("*.safetensors")
    tensors = load_file(file)
    key = next((name for name in tensors if "conv_in" in name), "")
    if key:  # a fine-tune without a change leaves a delta empty
        with_nan_and_metadata(file, key)
        assert "has diverged" in refusal(file, lambda name: load_stable_diffusion(name, base=str(folder)))
    with_nan(folder / WEIGHTS["unet"], "conv_in.bias")
    shutil.rmtree(tmp_path / "out")
    assert main(words if form == "lora" else words[:-1]) == 2


def with_nan_and_metadata(path: Path, key: str) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors[key].flatten()[0] = float("nan")
    save_file(tensors, path, metadata=metadata)


def test_nan_in_the_clip_that_measures(tmp_path: Path) -> None:
    clip = linked(POCKET_CLIP, tmp_path / "clip")
    with_nan(clip / "model.safetensors", "visual_projection.weight")
    assert "has diverged: CLIP visual_projection.weight holds NaN" in refusal(clip, FrozenClip.load)


@pytest.mark.parametrize(
    ("file", "key", "part"),
    [
        ("supir.safetensors", "first_stage_model.denoise_encoder.conv_in.bias", "first_stage"),
        ("supir.safetensors", None, "network"),
        ("sdxl/unet/diffusion_pytorch_model.safetensors", "conv_in.bias", "network"),
        ("sdxl/vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.bias", "first_stage"),
        ("sdxl/text_encoder/model.safetensors", "final_layer_norm.bias", "text_encoders"),
        ("sdxl/text_encoder_2/model.safetensors", "final_layer_norm.weight", "text_encoders"),
    ],
)
def test_nan_in_supirs_models_in_eight_bits_too(
    tmp_path: Path, file: str, key: str | None, part: str
) -> None:
    models = linked(POCKET_SUPIR, tmp_path / "supir")
    names = load_file(models / file)
    if key is None:  # a scale of 8-bit rows
        key = next(name for name in names if name.endswith(".row_scale") and "control" in name)
    key = next(name for name in names if name.endswith(key))
    source = models / file
    link = source.resolve()
    source.unlink()
    shutil.copy(link, source)
    with_nan_and_metadata(source, key)

    def load(_: str) -> None:
        opened = open_checkpoints(models / "supir.safetensors", models / "sdxl")
        getattr(opened, part)(torch.float16)

    said = refusal(models, load)
    assert "has diverged" in said
    assert key.removesuffix(".row_scale").rsplit(".", 1)[-1] in said


# -- records --


@pytest.mark.parametrize(
    ("recipe", "step"),
    [
        ("x", 3),
        ([1], 3),
        ({"base": 5}, 3),
        ({"base": ["x"]}, 3),
        ({"base": str(TINY), "base_revision": 5}, 3),
        ({"base": str(TINY), "drift": "x"}, 3),
        ({"base": str(TINY), "drift": float("nan")}, 3),
        ({"base": str(TINY)}, "abc"),
        ({"base": str(TINY)}, -1),
        ({"base": str(TINY)}, 0.5),
        ({"base": ""}, 3),
        ({"base": "x" * 5000}, 3),
    ],
)
def test_a_damaged_record_of_a_fine_tune_is_a_sentence(tmp_path: Path, recipe: Any, step: Any) -> None:
    assert "m.ckpt" in refusal(checkpoint(tmp_path / "m.ckpt", recipe, step))


def test_a_fine_tune_that_is_its_own_base(tmp_path: Path) -> None:
    one, two = tmp_path / "one.ckpt", tmp_path / "two.ckpt"
    assert "is recorded as the base of itself" in refusal(checkpoint(one, {"base": str(one)}))
    checkpoint(one, {"base": str(two)})
    assert "is recorded as the base of itself" in refusal(checkpoint(two, {"base": str(one)}))


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"projection_dim": 0}),
        ("config.json", {"text_config": 5}),
        ("config.json", {"vision_config": {"hidden_size": HUGE}}),
        ("preprocessor_config.json", {"size": None}),
        ("preprocessor_config.json", {"crop_size": HUGE}),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5]}),
        ("preprocessor_config.json", {"image_std": [0, 0, 0]}),
        ("preprocessor_config.json", {"resample": 99}),
        ("preprocessor_config.json", {"do_center_crop": False}),
        ("tokenizer_config.json", {"model_max_length": "x"}),
    ],
)
def test_a_damaged_clip_is_a_sentence_that_names_the_option(
    tmp_path: Path, file: str, changes: dict[str, Any]
) -> None:
    clip = linked(POCKET_CLIP, tmp_path / "clip")
    edited(clip / file, **changes)
    with pytest.raises(UserError) as caught:
        FrozenClip.load(str(clip), option="clip_drift.clip")
    assert caught.value.option == "clip_drift.clip"


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("unet/config.json", {"block_out_channels": None}),
        ("unet/config.json", {"layers_per_block": 900_000}),
        ("unet/config.json", {"attention_head_dim": "x"}),
        ("unet/config.json", {"addition_time_embed_dim": 17}),
        ("vae/config.json", {"down_block_types": [5]}),
        ("text_encoder/config.json", {"hidden_act": "nonsense"}),
        ("text_encoder_2/config.json", {"num_attention_heads": 7}),
        ("text_encoder_2/config.json", {"vocab_size": 10}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": None, "pad_token": None}),
    ],
)
def test_a_damaged_base_of_supir_is_a_sentence_that_names_the_option(
    tmp_path: Path, file: str, changes: dict[str, Any]
) -> None:
    base = linked(POCKET_SUPIR / "sdxl", tmp_path / "sdxl")
    edited(base / file, **changes)
    with pytest.raises(UserError) as caught:
        open_checkpoints(POCKET_SUPIR / "supir.safetensors", base)
    assert caught.value.option == "model.sdxl"
