"""Exports read back by our own loader and by stock diffusers, their metadata and words, and every refusal."""

import hashlib
import json
import os
import re
import shlex
import shutil
import struct
from collections import namedtuple
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from helpers.fits import PROMPT, fit_checkpoint, states
from helpers.paths import DATA
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextModel

from lightning_drift.common.errors import UserError
from lightning_drift.common.rng import generator
from lightning_drift.export.check import probe, probe_whole
from lightning_drift.export.command import export, main
from lightning_drift.export.delta_lora import delta_tensors
from lightning_drift.export.model_card import companions, modelspec
from lightning_drift.export.provenance import Provenance, one_line
from lightning_drift.export.single_file import is_plain_sd15, ldm_tensors, write_half
from lightning_drift.stable_diffusion.loading import StableDiffusion, load_stable_diffusion, open_pipeline
from lightning_drift.stable_diffusion.opened_pipeline import PARTS
from lightning_drift.stable_diffusion.sampling import Sampling, dream
from lightning_drift.stable_diffusion.sd15 import sd15_config, sd15_models
from lightning_drift.weights.clip_tokenizer import sd15_tokenizer

TINY = DATA / "tiny_sd"
TODAY = datetime.now(UTC).date().isoformat()


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def tiny():
    return load_stable_diffusion(str(TINY))


@pytest.fixture
def checkpoint(tmp_path):
    return fit_checkpoint(tmp_path / "tb_logs/ada/run0/checkpoints/step=01200.ckpt", "pocket")


def assert_is_rounded(written, source):
    a, b = states(written), states(source)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key].half().float())] == []


# -- round trips --


@pytest.mark.parametrize("pipeline", ["pocket", str(TINY)])
@pytest.mark.parametrize("form", ["safetensors", "diffusers"])
def test_an_export_reads_back_as_the_source_rounded_to_half(pipeline, form, tmp_path):
    source = load_stable_diffusion(pipeline)
    done = export(pipeline, str(tmp_path / "out"), form)
    written = load_stable_diffusion(str(done.path))
    assert_is_rounded(written, source)
    assert written.hash == done.hash
    assert written.tokenizer.get_vocab() == source.tokenizer.get_vocab()
    ids = [m.tokenizer(PROMPT, padding="max_length").input_ids for m in (written, source)]
    assert ids[0] == ids[1]
    assert written.text_encoder.config.hidden_act == source.text_encoder.config.hidden_act
    assert written.vae.config.scaling_factor == source.vae.config.scaling_factor
    assert {p.name for p in tmp_path.iterdir()} == {"out"}, "nothing half-written is left"


def test_a_fit_checkpoint_is_exported_with_its_recipe(checkpoint, tmp_path):
    done = export(str(checkpoint), str(tmp_path / "out"), author="Ada", description="A dream of Ada.")
    assert done.path == tmp_path / "out" / "ada-run0-step01200.safetensors"
    assert done.hash == hashlib.sha256(done.path.read_bytes()).hexdigest()
    assert (
        str(done)
        == f"wrote {done.path} ({done.path.stat().st_size / 2**20:.2f} MiB), model hash {done.hash[:10]}"
    )
    assert_is_rounded(load_stable_diffusion(str(done.path)), load_stable_diffusion(str(checkpoint)))

    written = load_stable_diffusion(str(done.path))
    assert written.step == 1200
    assert written.recipe == load_stable_diffusion(str(checkpoint)).recipe

    with safe_open(done.path, "pt") as file:
        spec = {
            k.removeprefix("modelspec."): v for k, v in file.metadata().items() if k.startswith("modelspec.")
        }
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118
    content = done.path.read_bytes()
    data = content[8 + struct.unpack("<Q", content[:8])[0] :]
    assert spec == {
        "sai_model_spec": "1.0.1",
        "architecture": "stable-diffusion-v1/other-shape",
        "implementation": "https://github.com/Stability-AI/generative-models",
        "title": "ada-run0-step01200",
        "resolution": "64x64",
        "description": "A dream of Ada.",
        "author": "Ada",
        "date": TODAY,
        "hash_sha256": f"0x{hashlib.sha256(data).hexdigest()}",
        "license": "Apache-2.0",
        "trigger_phrase": PROMPT,
        "prediction_type": "epsilon",
        "usage_hint": "DDIM, 50 steps, guidance scale 3",
    }


def test_v_prediction_survives_both_forms(tmp_path):
    folder = Path(shutil.copytree(TINY, tmp_path / "v"))
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))
    for form in ("safetensors", "diffusers"):
        done = export(str(folder), str(tmp_path / form), form)
        assert load_stable_diffusion(str(done.path)).scheduler_config["prediction_type"] == "v_prediction"


# -- stock diffusers --


def stock_image(pipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(
        PROMPT, num_inference_steps=4, guidance_scale=3.0, height=64, width=64, output_type="pt",
        generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    return result.images[0]


def test_a_folder_makes_the_same_picture_in_the_stock_pipeline(checkpoint, tmp_path):
    folder = export(str(checkpoint), str(tmp_path / "out"), "diffusers").path
    pipeline = StableDiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    assert (
        {p.unet.dtype for p in [pipeline]}
        == {pipeline.text_encoder.dtype}
        == {pipeline.vae.dtype}
        == {torch.float32}
    )
    scheduler = pipeline.scheduler
    assert type(scheduler).__name__ == "DDIMScheduler"
    assert {k: scheduler.config[k] for k in ("beta_start", "beta_end", "beta_schedule", "steps_offset")} == {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    assert not scheduler.config.clip_sample
    assert not scheduler.config.set_alpha_to_one
    theirs = stock_image(pipeline)
    [ours] = dream(
        load_stable_diffusion(str(folder)), [PROMPT], [7], Sampling(guidance_scale=3.0, num_inference_steps=4)
    )
    ours = torch.tensor(list(ours.convert("RGB").tobytes())).reshape(64, 64, 3).permute(2, 0, 1) / 255
    assert (theirs - ours).abs().max() < 1.5 / 255


@pytest.mark.filterwarnings("ignore:.torch_dtype. is deprecated")  # older diffusers know no other name
@pytest.mark.parametrize("pipeline", ["pocket", str(TINY)])
def test_a_folder_loads_in_half_precision_alike(pipeline, tmp_path):
    folder = export(pipeline, str(tmp_path / "out"), "diffusers").path
    half = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16, low_cpu_mem_usage=False)
    assert {half.unet.dtype, half.text_encoder.dtype, half.vae.dtype} == {torch.float16}
    stored = load_file(folder / "text_encoder" / "model.safetensors")
    assert all(key.startswith("text_model.") and t.dtype == torch.float16 for key, t in stored.items())
    text, info = CLIPTextModel.from_pretrained(folder / "text_encoder", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert text.dtype == torch.float32


@pytest.mark.parametrize("pipeline", ["pocket", str(TINY)])
def test_diffusers_own_converter_reads_the_single_file(pipeline, tmp_path):
    done = export(pipeline, str(tmp_path / "x.safetensors"))
    config = Path(open_pipeline(pipeline).weights["unet"].files[0]).parent.parent
    stock = StableDiffusionPipeline.from_single_file(
        done.path,
        config=str(config),
        local_files_only=True,
        torch_dtype=torch.float32,
        low_cpu_mem_usage=False,
    )
    mine = load_stable_diffusion(str(done.path))
    for part in PARTS:
        a, b = getattr(mine, part).state_dict(), getattr(stock, part).state_dict()
        assert a.keys() == b.keys()
        assert [key for key in a if not torch.equal(a[key], b[key])] == []


# -- SD v1.5's own shape --


def sd15_without_weights() -> StableDiffusion:
    return StableDiffusion(
        **sd15_models(), tokenizer=sd15_tokenizer(), scheduler_config=sd15_config("scheduler"), source="sd15"
    )


def test_sd15_needs_no_configs_of_its_own_but_the_pocket_does(tiny):
    model = sd15_without_weights()
    assert is_plain_sd15(model)
    assert not is_plain_sd15(tiny)
    model.scheduler_config["beta_end"] = 0.02
    assert not is_plain_sd15(model)


def facts(**changes) -> Provenance:
    known = {
        "title": "ada", "author": None, "description": None,
        "base": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "recipe": {"base": "somewhere", "instance_prompt": PROMPT, "learning_rate": 2e-6},
        "step": 1200, "prediction_type": "epsilon", "side": 512, "is_sd15": True, "date": "2026-01-02",
    }  # fmt: skip
    return Provenance(**{**known, **changes})


def test_words_beside_an_sd15_fine_tune():
    texts = companions(facts(author="Ada"), Path("ada.safetensors"), "safetensors")
    assert set(texts) == {"ada.README.md", "ada.NOTICE.txt", "LICENSE-OpenRAIL-M.txt"}
    front = texts["ada.README.md"].split("---")[1]
    assert "license: creativeml-openrail-m\n" in front
    assert "base_model: stable-diffusion-v1-5/stable-diffusion-v1-5\n" in front
    assert f'instance_prompt: "{PROMPT}"' in front
    assert "| learning_rate | `2e-06` |" in texts["ada.README.md"]
    assert 'from_single_file("ada.safetensors"' in texts["ada.README.md"]
    notice = texts["ada.NOTICE.txt"]
    assert (
        "modified from stable-diffusion-v1-5/stable-diffusion-v1-5 by full DreamBooth fine-tuning" in notice
    )
    assert "of 1200 steps on 2026-01-02." in notice
    assert "Copyright (c) 2022 Robin Rombach and Patrick Esser" in notice
    licence = texts["LICENSE-OpenRAIL-M.txt"]
    assert licence.startswith(
        "Copyright (c) 2022 Robin Rombach and Patrick Esser and contributors\n\nCreativeML Open RAIL-M\n"
    )
    assert "Attachment A" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    spec = modelspec(facts())
    assert spec["modelspec.architecture"] == "stable-diffusion-v1"
    assert spec["modelspec.resolution"] == "512x512"
    assert spec["modelspec.license"] == "CreativeML Open RAIL-M"
    assert json.loads(spec["lightning_drift.recipe"])["learning_rate"] == 2e-6
    assert modelspec(facts(prediction_type="v_prediction"))["modelspec.prediction_type"] == "v"


def test_words_of_other_bases():
    pocket = companions(facts(base="pocket", is_sd15=False), Path("out"), "diffusers")
    assert set(pocket) == {"README.md", "NOTICE"}
    assert "license: apache-2.0\n" in pocket["README.md"]
    assert "base_model" not in pocket["README.md"]
    other = companions(facts(base="mine", is_sd15=False), Path("out"), "diffusers")
    assert "license: other\nlicense_name: same-as-base-model\n" in other["README.md"]


def test_a_local_base_is_named_without_its_folders(tmp_path):
    home = tmp_path / "someone_private"
    shutil.copytree(TINY, home / "base")
    checkpoint = fit_checkpoint(home / "last.ckpt", str(home / "base"))
    for form in ("safetensors", "diffusers"):
        export(str(checkpoint), str(tmp_path / form), form)
        for file in (tmp_path / form).rglob("*"):
            assert file.is_dir() or b"someone_private" not in file.read_bytes(), file


# -- refusals --


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        export(*map(str, args), **kwargs)
    return str(caught.value)


def test_an_earlier_export_is_only_replaced_on_demand(tmp_path):
    export(TINY.as_posix(), str(tmp_path), title="a b/c")
    file = tmp_path / "a-b-c.safetensors"
    before = file.read_bytes()
    assert refusal("pocket", tmp_path, title="a b/c").startswith(
        f"{file} exists; choose another --to or --title"
    )
    assert file.read_bytes() == before
    export("pocket", str(tmp_path), title="a b/c", overwrite=True)
    assert file.read_bytes() != before

    folder = tmp_path / "folder"
    export(str(TINY), str(folder), "diffusers")
    assert refusal("pocket", folder, "diffusers").startswith(
        f"{folder} holds a pipeline; choose another --to"
    )
    export("pocket", str(folder), "diffusers", overwrite=True)
    assert len(load_stable_diffusion(str(folder)).tokenizer) == 961
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["folder"]

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "me.jpg").touch()
    assert "holds other files" in refusal("pocket", photos, "diffusers", overwrite=True)
    assert (photos / "me.jpg").exists()
    assert "is a file's name, but --format diffusers writes a folder" in refusal(
        "pocket", "x.safetensors", "diffusers"
    )
    assert "is a file; --format diffusers needs a folder" in refusal(
        "pocket", file.rename(tmp_path / "f"), "diffusers"
    )


def test_a_model_is_not_overwritten_by_its_own_export(tmp_path):
    file = export("pocket", str(tmp_path / "x.SafeTensors")).path
    assert file == tmp_path / "x.SafeTensors"
    assert file.is_file()
    assert "is the model to export itself" in refusal(file, file, overwrite=True)
    folder = export("pocket", str(tmp_path / "f"), "diffusers").path
    assert "is the model to export itself" in refusal(folder, folder, "diffusers", overwrite=True)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "has diverged: unet.conv_in.bias holds NaN or infinity"),
        (float("-inf"), "has diverged: unet.conv_in.bias holds NaN or infinity"),
        (-1e5, "does not fit half precision: unet.conv_in.bias reaches 1e+05, float16 ends at 65504"),
    ],
)
@pytest.mark.parametrize("form", ["safetensors", "diffusers"])
def test_what_half_precision_cannot_hold(tmp_path, value, said, form):
    def spoil(key, tensor):
        return torch.full_like(tensor, value) if key == "unet.conv_in.bias" else tensor

    checkpoint = fit_checkpoint(tmp_path / "bad.ckpt", str(TINY), spoil)
    assert said in refusal(checkpoint, tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**30, 2**30 - 2**20, 2**20))
    assert "1.00 MiB are free" in refusal("pocket", tmp_path / "out" / "deep")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    said = refusal("pocket", tmp_path / "file" / "out")
    place = tmp_path / "file"
    assert said == f"--to: cannot write to {place / 'out'}: {place} is a file and no folder"


def test_an_export_that_computes_otherwise_is_reported_and_left(tmp_path, monkeypatch):
    def swapped(model):
        """Two weights of the same shape under each other's name."""
        tensors = ldm_tensors(model)
        name = "model.diffusion_model.input_blocks.3.1.transformer_blocks.0.attn1.to_{}.weight"
        value, query = name.format("v"), name.format("q")
        return {**tensors, value: tensors[query], query: tensors[value]}

    monkeypatch.setattr("lightning_drift.export.whole_model.ldm_tensors", swapped)
    said = refusal("pocket", tmp_path / "x.safetensors")
    assert "was written, but does not compute as its source: the UNet's output differs by" in said
    assert (tmp_path / "x.safetensors").exists()


def distance(output, expected):
    return ((output - expected).norm() / expected.norm()).item()


def amplifying(key, tensor):
    """Random text-encoder layers, so steep that rounding to half precision changes the output by 4 %."""
    if key.startswith("text_encoder.encoder.layers.") and tensor.ndim == 2:
        return 16 * torch.randn(tensor.shape, generator=generator(0, key)) / tensor.shape[-1] ** 0.5
    return tensor


@pytest.mark.parametrize("form", ["safetensors", "diffusers", "delta"])
def test_a_network_that_amplifies_rounding_is_exported(form, tmp_path):
    checkpoint = fit_checkpoint(tmp_path / "steep.ckpt", str(TINY), amplifying)
    done = export(str(checkpoint), str(tmp_path / "out"), form)
    source = probe(load_stable_diffusion(str(checkpoint)))
    written = probe(load_stable_diffusion(str(done.path), base=str(TINY)))
    assert distance(written["text encoder"], source["text encoder"]) > 0.01


@pytest.mark.parametrize(
    ("weight", "part"),
    [
        ("model.diffusion_model.out.2.weight", "UNet"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "text encoder"),
        ("first_stage_model.encoder.conv_out.weight", "VAE"),
        ("first_stage_model.decoder.conv_out.weight", "VAE"),
    ],
)
def test_a_weight_that_is_off_by_more_than_rounding_is_reported(weight, part, tmp_path, monkeypatch):
    def off(model):
        tensors = ldm_tensors(model)
        return {**tensors, weight: tensors[weight] * 1.002}

    monkeypatch.setattr("lightning_drift.export.whole_model.ldm_tensors", off)
    assert f"the {part}'s output differs by 0." in refusal("pocket", tmp_path / "x.safetensors")


def test_a_delta_that_is_off_is_reported(tmp_path, monkeypatch):
    def off(opened, base):
        tensors = delta_tensors(opened, base)
        return {**tensors, "unet.conv_out.weight": tensors["unet.conv_out.weight"] * 1.1}

    checkpoint = fit_checkpoint(tmp_path / "a.ckpt", str(TINY))
    monkeypatch.setattr("lightning_drift.export.delta_lora.delta_tensors", off)
    assert "the UNet's output differs by 0." in refusal(checkpoint, tmp_path / "x.safetensors", "delta")


def test_probe_sees_each_part(tiny):
    before = probe_whole(tiny)
    again = probe_whole(load_stable_diffusion(str(TINY)))
    assert all(torch.equal(before[part], again[part]) for part in before)
    assert before["text encoder"].shape == (1, 77, 32)
    assert before["UNet"].shape == (1, 4, 4, 4)
    assert before["VAE"].shape == (1, 3, 32, 32)


def test_write_half_is_the_safetensors_format(tmp_path):
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1 / 3), "c": torch.zeros(0)}
    write_half(tmp_path / "x.safetensors", tensors, {"note": "ein Gruß"})
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[k], t.half()) for k, t in tensors.items())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata()["note"] == "ein Gruß"


# -- the command --


def test_the_command(tmp_path, capsys):
    assert main(["--ckpt_path", "pocket", "--to", str(tmp_path), "--title", "Pocket"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"wrote {tmp_path / 'Pocket.safetensors'} (12.")
    with pytest.raises(UserError, match="exists"):
        main(["--ckpt_path", "pocket", "--to", str(tmp_path), "--title", "Pocket"])
    main(["--ckpt_path", "pocket", "--to", str(tmp_path), "--title", "Pocket", "--overwrite"])


def test_help_describes_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for option in (
        "--ckpt_path",
        "--to",
        "--format",
        "--title",
        "--author",
        "--description",
        "--base",
        "--overwrite",
    ):
        assert option in text
    assert "for A1111, Forge and ComfyUI" in " ".join(text.split())


@pytest.mark.parametrize("form", ["safetensors", "diffusers"])
def test_an_interrupted_export_leaves_the_earlier_one(form, tmp_path, monkeypatch):
    target = tmp_path / ("x.safetensors" if form == "safetensors" else "x")
    before = export(str(TINY), str(target), form).hash

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    def some_then_interrupt(tensors):
        yield b"\0" * 2 * next(tensors).numel()
        interrupt()

    with monkeypatch.context() as patch:
        patch.setattr("lightning_drift.export.single_file._float16_chunks", some_then_interrupt)
        patch.setattr("lightning_drift.export.diffusers_folder.save_file", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export("pocket", str(target), form, overwrite=True)
    assert load_stable_diffusion(str(target)).hash == before
    assert not [p for p in tmp_path.iterdir() if p.suffix in {".partial", ".old"}]


@pytest.mark.parametrize("form", ["safetensors", "diffusers"])
@pytest.mark.parametrize("where", ["write_half", "write_folder", "load_stable_diffusion", "companions"])
def test_an_interrupt_at_any_point_leaves_nothing_behind(form, where, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    if (form, where) in {("diffusers", "write_half"), ("safetensors", "write_folder")}:
        where = "round_to_half_"
    monkeypatch.setattr(f"lightning_drift.export.whole_model.{where}", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(str(TINY), str(tmp_path / "deep" / "out"), form)
    assert not list(tmp_path.iterdir())


# -- what is the user's --


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_neighbours_of_an_export_stay(tmp_path):
    for name in ("o.old", "o.partial", "o.tmp", "o.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    for overwrite in (False, True):
        export(str(TINY), str(tmp_path / "o"), "diffusers", overwrite=overwrite)
        assert before.items() <= contents(tmp_path).items()
        assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    "name", ["notes.txt", ".git/HEAD", "unet/sketch.png", "empty/", "README.md", "NOTICE"]
)
def test_a_folder_with_files_of_the_user_is_not_replaced(name, tmp_path):
    folder = export(str(TINY), str(tmp_path / "o"), "diffusers").path
    file = folder / name
    if name.endswith("/"):
        file.mkdir()
    else:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    before = contents(folder)
    said = refusal("pocket", folder, "diffusers", overwrite=True)
    assert name.rstrip("/") in said
    assert "move it away or choose another --to" in said
    assert contents(folder) == before
    assert file.exists()


def test_a_pipeline_that_no_export_made_is_not_replaced(tmp_path):
    folder = Path(shutil.copytree(TINY, tmp_path / "m"))
    before = contents(folder)
    assert "no export wrote model_index.json" in refusal("pocket", folder, "diffusers", overwrite=True)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["x.safetensors", "x.README.md", "x.NOTICE.txt"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_file_of_the_user_is_not_written_over(name, earlier, tmp_path):
    target = tmp_path / "x.safetensors"
    if earlier:
        export(str(TINY), str(target))
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    assert "exists; choose another --to or --title" in refusal("pocket", target)
    assert f"no export wrote x.{name[2:5]}" in refusal("pocket", target, overwrite=True).replace(
        "x.NOTICE.txt, x.README.md, x.safe", "x.saf" if name == "x.safetensors" else f"x.{name[2:5]}"
    )
    assert contents(tmp_path) == before


# -- a foreign checkpoint's words --

HOSTILE = "a/b\nlicense: mit\nextra_gated_prompt: evil\n---\n# Free\n<script>x</script> `$(touch owned)`"


@pytest.mark.parametrize("form", ["safetensors", "diffusers", "delta", "lora"])
def test_the_words_of_a_foreign_recipe_stay_words(form, tmp_path):
    recipe = {
        "base": HOSTILE,
        "instance_prompt": f'sks"\n{HOSTILE}',
        f"k|\n\n# key {HOSTILE}": f"v|\n# {HOSTILE}",
    }
    told = facts(base=one_line(HOSTILE), recipe=recipe, is_sd15=False, title=HOSTILE, author=HOSTILE)
    texts = companions(told, Path("x"), form)
    (card,) = (text for name, text in texts.items() if "README" in name)
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    known = {"license", "license_name", "library_name", "pipeline_tag", "tags", "instance_prompt"}
    assert set(yaml.safe_load(front)) == known
    assert yaml.safe_load(front)["license"] == "other"
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert [line for line in headings if not line.startswith("# a/b license")] == [
        "## Use",
        "## Recipe",
        "## Licence",
    ]
    outside = re.sub(r"(?m)^    .*$", "", re.sub(r"(`+)[^`](?:.*?[^`])?\1(?!`)", "", body))
    assert not re.search(r"(?<!\\)<script", outside)
    for line in body.splitlines():
        if line.startswith("    lightning-drift"):
            assert HOSTILE.split()[-1] not in shlex.split(line)
            assert len(shlex.split(line)) <= 8
    (notice,) = (text for name, text in texts.items() if "NOTICE" in name)
    assert not [line for line in notice.splitlines() if line.startswith(("license:", "#"))]


@pytest.mark.parametrize("entry", ["drift", "base", "tensor"])
def test_a_recipe_of_the_wrong_types_is_refused(entry, tmp_path):
    checkpoint = fit_checkpoint(tmp_path / "a.ckpt", str(TINY))
    content = torch.load(checkpoint, weights_only=True)
    content["recipe"][entry] = {"drift": "0.5", "base": 5, "tensor": torch.ones(1)}[entry]
    torch.save(content, checkpoint)
    said = refusal(checkpoint, tmp_path / "o", base=str(TINY))
    assert re.search(r"a\.ckpt is damaged", said)
    assert "recipe" in said
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": ""}, "--to: the path is empty"),
        ({"to": "/dev/null"}, "--to: /dev/null is no folder"),
        ({"to": "a.ckpt"}, "--to: a.ckpt is the name of a .ckpt file"),
        ({"to": "a.PT", "format": "lora"}, "--to: a.PT is the name of a .pt file"),
        ({"to": "a.SAFETENSORS", "format": "diffusers"}, "--to: a.SAFETENSORS is a file's name"),
        ({"to": "a\nb"}, "--to: 'a\\nb' holds a control character"),
        ({"to": "x" * 300}, "… is longer than a file's name can be"),
        ({"title": "a\nb"}, "--title: 'a\\nb' holds a line break"),
        ({"author": "x" * 10_000}, "has 10,000 characters; give at most 200"),
        ({"drift": float("nan")}, "--drift: nan is out of range"),
        ({"drift": float("inf")}, "--drift: inf is out of range"),
        ({"format": "lora", "rank": 0}, "--rank: 0 keeps nothing; give 1 or more"),
        ({"ckpt_path": " "}, "--ckpt_path: the path is empty"),
        ({"base": "\0"}, "--base: '\\x00' holds a NUL"),
    ],
)
def test_values_that_cannot_be_meant(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        export(**({"ckpt_path": "pocket", "to": "o"} | options))
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_sd15_at_full_size(tmp_path):
    """A random model of SD v1.5's size as a half-precision ckpt, through both forms (9 GiB, minutes)."""
    generator = torch.Generator().manual_seed(0)
    checkpoint = tmp_path / "random.ckpt"
    tensors = ldm_tensors(sd15_without_weights())
    torch.save(
        {k: 0.02 * torch.randn(t.shape, generator=generator).half() for k, t in tensors.items()}, checkpoint
    )
    file = export(str(checkpoint), str(tmp_path / "x.safetensors")).path
    with safe_open(file, "pt") as opened:
        assert "lightning_drift.parts" not in opened.metadata()
        assert opened.metadata()["modelspec.architecture"] == "stable-diffusion-v1"
    folder = export(str(file), str(tmp_path / "folder"), "diffusers").path
    assert (folder / "LICENSE-OpenRAIL-M.txt").exists()
    again = export(str(folder), str(tmp_path / "again.safetensors")).path
    with safe_open(file, "pt") as first, safe_open(again, "pt") as second:
        assert all(torch.equal(first.get_tensor(k), second.get_tensor(k)) for k in tensors)


@pytest.mark.parametrize("earlier", [False, True])
def test_an_export_that_was_killed_among_its_renames_is_made_again(earlier, tmp_path, monkeypatch):
    target, replace = tmp_path / "model.safetensors", os.replace
    options = {"ckpt_path": str(TINY), "to": str(target), "format": "safetensors", "overwrite": earlier}
    for renames in range(3):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        if earlier:
            export(**options, author="somebody else")
        left = renames

        def stop(source, place, *args, **kwargs):
            nonlocal left
            if Path(place).parent == tmp_path:
                if not left:
                    raise KeyboardInterrupt
                left -= 1
            return replace(source, place, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stop)
            with pytest.raises(KeyboardInterrupt):
                export(**options)
        assert target.exists() == earlier
        export(**options)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "model.NOTICE.txt",
            "model.README.md",
            "model.safetensors",
        ]
        assert "somebody else" not in (tmp_path / "model.README.md").read_text()
        (tmp_path / "model.README.md").write_text("my own words")
        with pytest.raises(UserError, match=r"exists|no export wrote model\.README\.md"):
            export(**options)
