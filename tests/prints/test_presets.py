"""The shipped configurations, and the command line that they are for."""

import pytest
import yaml
from helpers.paths import ROOT
from huggingface_hub import constants
from PIL import Image

from lightning_drift import SupirUpscaler, UpscaleImages
from lightning_drift.cli import main
from lightning_drift.common.errors import UserError
from lightning_drift.supir.network.find import find_sdxl, sdxl_files

CONFIGS = ROOT / "configs"
NAMES = ["supir", "supir_quality", "supir_fidelity", "supir_lightning"]


def config(name):
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_a_config_names_options_that_exist(name, photos):
    settings = config(name)
    assert settings["model"]["class_path"] == "lightning_drift.SupirUpscaler"
    assert settings["data"]["class_path"] == "lightning_drift.UpscaleImages"
    SupirUpscaler(**settings["model"]["init_args"])
    UpscaleImages(**settings["data"]["init_args"] | {"images": str(photos)})
    # The packaged default of predict has a batch size too, which must not leak in.
    assert settings["data"]["init_args"]["batch_size"] == 1
    first = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    assert first[1].startswith(f"#   lightning-drift predict -c configs/{name}.yaml --data.images ")
    assert any("non-commercial" in line for line in first[:6])


def test_the_essays_settings():
    options = config("supir")["model"]["init_args"]
    essay = {
        "edm_steps": 30,
        "s_cfg": 3.0,
        "s_stage1": -1.0,
        "control_scale": 0.9,
        "color_fix": "Wavelet",
        "prompt": "sharp textures, fine grain, rich color depth",
        "negative_prompt": "blurry, low quality, jpeg artifacts",
        "linear_cfg": True,
        "spt_linear_cfg": 1.0,
        "s_churn": 5.0,
        "s_noise": 1.01,
        "min_size": 1024,
        "upscale": 4.0,
    }
    assert {key: options[key] for key in essay} == essay
    defaults = SupirUpscaler()
    assert defaults.sampling == SupirUpscaler(**options).sampling


@pytest.mark.parametrize(
    ("name", "steps", "end", "start"),
    [("quality", 50, 7.5, 4.0), ("fidelity", 50, 4.0, 1.0), ("lightning", 8, 1.5, 1.5)],
)
def test_presets_are_the_published_ones(name, steps, end, start):
    sampling = SupirUpscaler(**config(f"supir_{name}")["model"]["init_args"]).sampling
    assert (sampling.steps, sampling.s_cfg, sampling.spt_linear_cfg) == (steps, end, start)
    assert (sampling.s_churn, sampling.s_stage1, sampling.control_scale) == (5, -1, 1)
    assert sampling.sampler == ("dpmpp_2m_sde" if name == "lightning" else "edm")


def arguments(models, photos, tmp_path):
    return [
        "predict",
        "-c",
        str(CONFIGS / "supir.yaml"),
        "--trainer.accelerator",
        "cpu",
        "--data.images",
        str(photos),
        "--model.supir",
        models["supir"],
        "--model.sdxl",
        models["sdxl"],
        "--model.min_size",
        "64",
        "--model.edm_steps",
        "2",
        "--model.upscale",
        "2",
        "--image_writer.output_dir",
        str(tmp_path / "prints"),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command_prints_a_folder_and_fails_for_the_bad_ones_at_the_end(models, photos, tmp_path, capsys):
    (photos / "bad.png").write_bytes(b"nothing")
    assert main(arguments(models, photos, tmp_path)) == 2
    said = capsys.readouterr().err
    assert said.startswith("lightning-drift: SUPIR's weights are licensed")
    assert "error: one image could not be upscaled, the others are done:" in said
    assert "bad.png is not an image" in said
    with Image.open(tmp_path / "prints" / "a.png") as image:
        assert image.size == (80, 66)
    (photos / "bad.png").unlink()
    assert main(arguments(models, photos, tmp_path)) == 0


# -- the hub ----------------------------------------------------------------------------------------------


def test_of_a_repository_only_the_sdxl_parts_are_fetched_in_one_precision():
    files = [
        "README.md",
        "juggernaut.safetensors",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder_2/config.json",
        "text_encoder_2/model.safetensors",
        "text_encoder_2/openvino_model.bin",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    ]
    assert sorted(sdxl_files(files)) == sorted(
        [
            "model_index.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/config.json",
            "text_encoder/model.fp16.safetensors",
            "text_encoder_2/config.json",
            "text_encoder_2/model.safetensors",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
        ]
    )


@pytest.mark.parametrize("name", ["RunDiffusion/Juggernaut-XL-v9", "owner/repository/SUPIR-v0Q.ckpt"])
def test_a_hub_id_without_a_hub_is_a_sentence(name, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=f"model.sdxl: {name} is not in the cache and the hub cannot be reached"
    ):
        find_sdxl(name)


@pytest.mark.parametrize("name", ["missing.ckpt", "./a/b", "one", "a/b/c"])
def test_what_can_be_no_hub_id_is_a_missing_file(name):
    with pytest.raises(UserError, match="no such file or folder"):
        find_sdxl(name)
