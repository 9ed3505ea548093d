"""Loading the parts of a pipeline from every place they may lie, and the sentence for every bad one."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from helpers.paths import DATA
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from lightning_drift.common.errors import UserError
from lightning_drift.export.single_file import described, ldm_tensors
from lightning_drift.stable_diffusion.loading import load_stable_diffusion, open_pipeline
from lightning_drift.stable_diffusion.single_file import read_single_file
from lightning_drift.weights.clip_tokenizer import sd15_tokenizer
from lightning_drift.weights.files import Weights

TINY = DATA / "tiny_sd"
PARTS = ("unet", "text_encoder", "vae")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def tiny():
    return load_stable_diffusion(str(TINY))


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny pipeline to damage."""
    return Path(shutil.copytree(TINY, tmp_path / "pipeline"))


def states(model):
    return {f"{part}.{k}": t for part in PARTS for k, t in getattr(model, part).state_dict().items()}


def assert_same(one, two):
    a, b = states(one), states(two)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def refusal(path, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        load_stable_diffusion(str(path), **kwargs)
    return str(caught.value)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# -- what loads --


@pytest.mark.parametrize("pipeline", ["pocket", str(TINY)])
def test_parts_are_float32_in_eval_mode_and_draw_nothing(pipeline):
    before = torch.get_rng_state()
    model = load_stable_diffusion(pipeline)
    assert torch.equal(torch.get_rng_state(), before)
    for part in PARTS:
        module = getattr(model, part)
        assert {p.dtype for p in module.parameters()} == {torch.float32}
        assert {t.device.type for t in (*module.parameters(), *module.buffers())} == {"cpu"}
        assert not any(m.training for m in module.modules())
    assert model.text_encoder.config._attn_implementation == "sdpa"
    assert {p.requires_grad for p in model.unet.parameters()} == {True}
    assert {p.requires_grad for p in model.vae.parameters()} == {False}


@pytest.mark.parametrize("pipeline", ["pocket", str(TINY)])
def test_parts_equal_those_of_the_stock_loaders(pipeline):
    model = load_stable_diffusion(pipeline)
    root = Path(open_pipeline(pipeline).weights["unet"].files[0]).parent.parent
    stock = {
        "unet": UNet2DConditionModel.from_pretrained(root / "unet", low_cpu_mem_usage=False),
        "vae": AutoencoderKL.from_pretrained(root / "vae", low_cpu_mem_usage=False),
        "text_encoder": CLIPTextModel.from_pretrained(root / "text_encoder", dtype=torch.float32),
    }
    for part, module in stock.items():
        mine = getattr(model, part)
        assert mine.state_dict().keys() == module.state_dict().keys()
        assert all(torch.equal(mine.state_dict()[k], t.float()) for k, t in module.state_dict().items())
    ids = model.tokenizer("a photo of sks person", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        condition = stock["text_encoder"].eval()(ids)[0]
        assert torch.equal(model.text_encoder(ids)[0], condition)
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        # Not bit-equal: the stock loader leaves weights unaligned in memory, and kernels round by alignment.
        predicted = stock["unet"].eval()(noise, 9, condition)[0]
        assert torch.allclose(model.unet(noise, 9, condition)[0], predicted, atol=1e-5)
        assert torch.allclose(model.vae.decode(noise)[0], stock["vae"].eval().decode(noise)[0], atol=1e-5)


def test_the_pocket_is_stored_in_half_and_loaded_in_single_precision():
    stored = open_pipeline("pocket").weights["unet"].read("conv_in.weight")
    assert stored.dtype == torch.float16
    assert torch.equal(load_stable_diffusion("pocket").unet.conv_in.weight, stored.float())


def test_sd15_tokenizer():
    tokenizer = sd15_tokenizer()
    assert tokenizer("a photo of sks person").input_ids == [49406, 320, 1125, 539, 48136, 2533, 49407]
    assert (len(tokenizer), tokenizer.pad_token, tokenizer.model_max_length) == (49408, "<|endoftext|>", 77)
    padded = tokenizer("", padding="max_length").input_ids
    assert padded == [49406] + [49407] * 76


def test_the_tokenizer_as_sd15_s_own_repository_holds_it(folder):
    """Vocabulary, merges and two maps, without tokenizer.json."""
    table = json.loads(sd15_tokenizer().backend_tokenizer.to_str())["model"]
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/vocab.json").write_text(json.dumps(sd15_tokenizer().get_vocab()))
    merges = "\n".join(" ".join(pair) for pair in table["merges"])
    (folder / "tokenizer/merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    marks = {
        "bos_token": "<|startoftext|>",
        **dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>"),
    }
    (folder / "tokenizer/special_tokens_map.json").write_text(json.dumps(marks))
    config = {**marks, "do_lower_case": True, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = open_pipeline(str(folder)).tokenizer
    for prompt in ("a photo of sks person", "", "Ünïcode 日本, x's 12345!!?"):
        mine = sd15_tokenizer()(prompt, padding="max_length").input_ids
        assert tokenizer(prompt, padding="max_length").input_ids == mine


def single_file(tiny, path, drop=(), metadata=None, **more):
    tensors = {k: t.contiguous() for k, t in ldm_tensors(tiny).items() if k not in drop}
    save_file({**tensors, **more}, path, metadata=described(tiny) if metadata is None else metadata)
    return path


def test_a_single_file_gives_the_same_bits(tiny, tmp_path):
    path = single_file(tiny, tmp_path / "tiny.safetensors")
    model = load_stable_diffusion(str(path))
    assert_same(model, tiny)
    assert model.source == str(path)
    assert model.tokenizer("sks dog").input_ids == tiny.tokenizer("sks dog").input_ids
    assert model.tokenizer.model_max_length == 77
    assert model.scheduler_config == tiny.scheduler_config
    assert model.hash == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_single_file_may_hold_linear_attention_and_lack_text_model(tiny, tmp_path):
    renamed = {
        key.replace("transformer.text_model.", "transformer."): tensor.squeeze()
        if ".attn_1." in key
        else tensor
        for key, tensor in ldm_tensors(tiny).items()
    }
    save_file(
        {k: t.contiguous() for k, t in renamed.items()}, tmp_path / "x.safetensors", metadata=described(tiny)
    )
    assert_same(load_stable_diffusion(str(tmp_path / "x.safetensors")), tiny)


def sd15_shapes() -> dict[str, tuple[int, ...]]:
    keys = json.loads(gzip.decompress((DATA / "sd15_ldm_manifest.json.gz").read_bytes()))["keys"]
    return {key: tuple(shape) for key, shape in keys.items()}


STRAY = {
    "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
    "cond_stage_model.logit_scale": (),
    "model_ema.diffusion_modeltime_embed0weight": (1280, 320),
    "alphas_cumprod": (1000,),
    "betas": (1000,),
}


def full_size(path: Path, **more) -> Path:
    """A checkpoint of SD v1.5's full layout that is small on disk: each tensor repeats one stored number."""
    shapes = {**sd15_shapes(), **STRAY}
    state = {key: torch.zeros(1).expand(shape) if shape else torch.zeros(()) for key, shape in shapes.items()}
    torch.save({"state_dict": {**state, **more}, "global_step": 840000}, path)
    return path


def test_a_full_size_ckpt_maps_onto_every_part(tmp_path, capsys):
    parts = open_pipeline(str(full_size(tmp_path / "v1-5.ckpt")))
    assert "averaged weights (model_ema.*) are left aside" in capsys.readouterr().err
    assert len(parts.weights["unet"].shapes) == 686
    assert parts.weights["unet"].shapes["conv_in.weight"] == (320, 4, 3, 3)
    assert parts.weights["text_encoder"].shapes["embeddings.token_embedding.weight"] == (49408, 768)
    assert parts.weights["vae"].shapes["encoder.mid_block.attentions.0.to_q.weight"] == (512, 512, 1, 1)
    assert parts.configs["vae"]["scaling_factor"] == 0.18215
    assert len(parts.tokenizer) == 49408
    assert parts.scheduler_config["prediction_type"] == "epsilon"


def test_a_checkpoint_of_old_lightning_names_its_callback_and_still_loads(tmp_path, monkeypatch):
    class ModelCheckpoint:
        pass

    ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"
    ModelCheckpoint.__qualname__ = "ModelCheckpoint"
    callbacks = pytest.importorskip("pytorch_lightning.callbacks.model_checkpoint")
    monkeypatch.setattr(callbacks, "ModelCheckpoint", ModelCheckpoint)
    path = tmp_path / "old.ckpt"
    state = {key: torch.zeros(1).expand(shape) for key, shape in sd15_shapes().items()}
    torch.save({"callbacks": {ModelCheckpoint: {"best_model_path": "x"}}, "state_dict": state}, path)
    assert len(open_pipeline(str(path)).weights["vae"].shapes) == 248


def test_modelspec_says_the_prediction_type():
    weights = Weights("x", sd15_shapes(), lambda _: torch.zeros(1), (), {"modelspec.prediction_type": "v"})
    assert read_single_file(weights, Path("x")).scheduler_config["prediction_type"] == "v_prediction"


def test_unknown_and_missing_keys_of_a_full_size_file_are_named(tmp_path):
    path = full_size(tmp_path / "x.ckpt", **{"model.diffusion_model.mystery.weight": torch.zeros(1)})
    assert "unexpected model.diffusion_model.mystery.weight" in refusal(path)
    shapes = sd15_shapes()
    del shapes["first_stage_model.quant_conv.bias"], shapes["model.diffusion_model.out.2.bias"]
    with pytest.raises(
        UserError, match=r"missing of the unet model\.diffusion_model\.out\.2\.bias; missing of the vae"
    ):
        read_single_file(Weights("x", shapes, lambda _: torch.zeros(1), (), {}), Path("x"))


def test_old_names_shards_and_torch_files_in_a_folder(tiny, folder):
    unet = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    names = sorted(unet)
    placed = {}
    for n, part in enumerate((names[::2], names[1::2]), 1):
        file = f"diffusion_pytorch_model-0000{n}-of-00002.safetensors"
        save_file({k: unet[k] for k in part}, folder / "unet" / file)
        placed |= dict.fromkeys(part, file)
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))

    vae = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        vae = {k.replace(f".attentions.0.{new}.", f".attentions.0.{name}."): t for k, t in vae.items()}
    torch.save(vae, folder / "vae/diffusion_pytorch_model.bin")

    text = load_file(folder / "text_encoder/model.safetensors")
    text = {f"text_model.{k}": t for k, t in text.items()}
    text["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(text, folder / "text_encoder/model.safetensors")
    assert_same(load_stable_diffusion(str(folder)), tiny)


def test_dropout_is_set_to_zero_with_a_notice(folder, capsys):
    edit(folder / "text_encoder/config.json", attention_dropout=0.1)
    edit(folder / "unet/config.json", dropout=0.2)
    model = load_stable_diffusion(str(folder))
    notices = capsys.readouterr().err
    assert "attention_dropout 0.1 of the text encoder is set to 0" in notices
    assert "dropout 0.2 of the UNet is set to 0" in notices
    assert model.text_encoder.encoder.layers[0].self_attn.dropout == 0
    assert {m.p for m in model.unet.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


def test_hash_of_a_folder_follows_its_formula(tiny):
    lines = [
        f"{file} {hashlib.sha256((TINY / file).read_bytes()).hexdigest()}\n"
        for file in (
            "text_encoder/model.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
        )
    ]
    assert tiny.hash == hashlib.sha256("".join(lines).encode()).hexdigest()


# -- our own checkpoints --


def fit_checkpoint(model, path, base, drop=(), **more) -> Path:
    state = {k: t + 0.5 for k, t in states(model).items() if not k.startswith("vae.") and k not in drop}
    torch.save({"state_dict": {**state, **more}, "recipe": {"base": base, "seed": 3}, "global_step": 7}, path)
    return path


def test_a_fit_checkpoint_takes_the_rest_from_its_base(tiny, tmp_path):
    path = fit_checkpoint(tiny, tmp_path / "step=00007.ckpt", str(TINY))
    model = load_stable_diffusion(str(path))
    before, after = states(tiny), states(model)
    for key in before:
        assert torch.equal(after[key], before[key] if key.startswith("vae.") else before[key] + 0.5), key
    assert (model.recipe, model.step, model.source) == ({"base": str(TINY), "seed": 3}, 7, str(path))
    assert model.hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.tokenizer.get_vocab() == tiny.tokenizer.get_vocab()


def test_a_fit_checkpoint_of_a_fit_checkpoint(tiny, tmp_path):
    first = fit_checkpoint(tiny, tmp_path / "a.ckpt", str(TINY))
    second = fit_checkpoint(tiny, tmp_path / "b.ckpt", str(first))
    assert torch.equal(load_stable_diffusion(str(second)).vae.quant_conv.weight, tiny.vae.quant_conv.weight)


def test_a_lost_base_is_named_and_can_be_overridden(tiny, tmp_path):
    path = fit_checkpoint(tiny, tmp_path / "a.ckpt", "/gone/pipeline")
    said = refusal(path)
    assert "was fine-tuned from /gone/pipeline" in said
    assert "name it with base" in said
    assert_same(load_stable_diffusion(str(path), base=str(TINY)), load_stable_diffusion(
        str(fit_checkpoint(tiny, tmp_path / "b.ckpt", str(TINY)))
    ))  # fmt: skip


def test_a_fit_checkpoint_is_read_strictly(tiny, tmp_path):
    path = fit_checkpoint(tiny, tmp_path / "a.ckpt", str(TINY), drop=("unet.conv_in.weight",))
    said = refusal(path)
    assert "the unet weights of" in said
    assert "missing conv_in.weight" in said
    path = fit_checkpoint(tiny, tmp_path / "a.ckpt", str(TINY), **{"eye.weight": torch.zeros(1)})
    assert "belong neither to the UNet nor to the text encoder: eye.weight" in refusal(path)
    path = fit_checkpoint(tiny, tmp_path / "a.ckpt", "pocket")
    assert "of another shape" in refusal(path)
    torch.save({"state_dict": {}, "recipe": {}}, path)
    assert "does not record its base pipeline" in refusal(path)


# -- the hub --

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_without_the_hub_the_sentence_names_id_cache_and_way_out(tmp_path, capsys):
    said = refusal("runwayml/stable-diffusion-v1-5")
    assert (
        f"runwayml/stable-diffusion-v1-5 was removed from the hub; taking {SD15}" in capsys.readouterr().err
    )
    assert said.startswith(f"{SD15} is not in the cache and the hub cannot be reached.")
    assert str(tmp_path / "hub") in said
    assert "Give a local diffusers folder or a single .safetensors file" in said


def test_a_cached_pipeline_loads_offline_and_its_blobs_name_its_hash(tiny, tmp_path):
    repo = tmp_path / "hub" / f"models--{SD15.replace('/', '--')}"
    commit = "a" * 40
    snapshot = repo / "snapshots" / commit
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "blobs").mkdir()
    for file in TINY.rglob("*.*"):
        link = snapshot / file.relative_to(TINY)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = repo / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        link.symlink_to(blob)
    model = load_stable_diffusion("runwayml/stable-diffusion-v1-5")
    assert_same(model, tiny)
    assert (model.source, model.revision) == (SD15, commit)
    assert model.hash == tiny.hash


def test_a_local_folder_comes_before_a_hub_id(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TINY, tmp_path / "someone" / "model")
    model = load_stable_diffusion("someone/model")
    assert_same(model, tiny)
    assert model.source == str(tmp_path / "someone" / "model")


# -- what is refused --


def test_nothing_of_that_name():
    assert refusal("nothing").startswith("no such model: nothing is neither a file nor a folder here")
    assert refusal("models/nothing.safetensors").startswith("no such model: models/nothing.safetensors")


@pytest.mark.parametrize(
    ("key", "shape", "said"),
    [
        ("conditioner.embedders.0.transformer.x", (1,), "is a Stable Diffusion XL model"),
        ("cond_stage_model.model.transformer.resblocks.0.x", (1,), "is a Stable Diffusion 2.x model"),
        ("model.diffusion_model.joint_blocks.0.x", (1,), "is a Stable Diffusion 3 model"),
        ("model.diffusion_model.double_blocks.0.x", (1,), "is a Flux model"),
        ("model.diffusion_model.input_blocks.0.0.weight", (2, 9, 1, 1), "is an inpainting model"),
        (
            "model.diffusion_model.input_blocks.0.0.weight",
            (2, 8, 1, 1),
            "whose UNet takes 8 channels instead of 4",
        ),
        ("lora_unet_down_blocks_0.lora_down.weight", (1,), "is a LoRA, not a model"),
        (
            "down_blocks.0.resnets.0.conv1.weight",
            (1,),
            "is one part of a pipeline; give the pipeline's folder",
        ),
        ("some.weight", (1,), "has no model.diffusion_model.* weights (it holds some.weight)"),
    ],
)
def test_other_kinds_of_single_file(tmp_path, key, shape, said):
    path = tmp_path / "x.safetensors"
    save_file({key: torch.zeros(shape)}, path)
    sentence = refusal(path)
    assert f"{path} " in sentence
    assert said in sentence


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("unet", {"in_channels": 9}, "is an inpainting model"),
        ("unet", {"cross_attention_dim": 1024}, "is a Stable Diffusion 2.x model"),
        ("unet", {"addition_embed_type": "text_time"}, "is a Stable Diffusion XL model"),
        ("unet", {"cross_attention_dim": 64}, "its UNet attends to 64 features, its text encoder gives 32"),
        ("unet", {"time_cond_proj_dim": 256}, "a UNet of another kind (time_cond_proj_dim 256)"),
        (
            "unet",
            {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]},
            "of another kind (AttnDownBlock2D)",
        ),
        ("unet", {"block_out_channels": [32, 64, 64]}, "describes no Stable Diffusion 1.x model"),
        ("vae", {"latent_channels": 16}, "autoencoder has 16 latent channels instead of 4"),
        ("text_encoder", {"vocab_size": 100}, "has 523 tokens, its text encoder only 100"),
    ],
)
def test_other_kinds_of_pipeline(folder, part, changes, said):
    edit(folder / part / "config.json", **changes)
    if part == "text_encoder":
        weights = load_file(folder / "text_encoder/model.safetensors")
        weights["embeddings.token_embedding.weight"] = weights["embeddings.token_embedding.weight"][
            :100
        ].clone()
        save_file(weights, folder / "text_encoder/model.safetensors")
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("StableDiffusionXLPipeline", "is a Stable Diffusion XL pipeline"),
        ("StableDiffusionInpaintPipeline", "is an inpainting pipeline"),
        ("StableDiffusion3Pipeline", "is a Stable Diffusion 3 pipeline"),
    ],
)
def test_other_kinds_of_pipeline_by_their_index(folder, kind, said):
    edit(folder / "model_index.json", _class_name=kind)
    assert said in refusal(folder)


def test_an_incomplete_folder(folder):
    unet = folder / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(unet)
    conv = weights.pop("conv_in.weight")
    save_file({**weights, "extra.weight": conv}, unet)
    said = refusal(folder)
    assert "missing conv_in.weight; unexpected extra.weight" in said
    save_file({**weights, "conv_in.weight": conv[:, :3].clone()}, unet)
    assert "of another shape conv_in.weight [32, 3, 3, 3] instead of [32, 4, 3, 3]" in refusal(folder)
    save_file({**weights, "conv_in.weight": conv.int()}, unet)
    assert "hold conv_in.weight as torch.int32, not floating point" in refusal(folder)
    unet.unlink()
    assert "unet holds no weights: expected diffusion_pytorch_model.safetensors" in refusal(folder)
    (folder / "vae/config.json").write_text("{")
    assert "vae/config.json is not valid JSON" in refusal(folder)
    shutil.rmtree(folder / "vae")
    shutil.rmtree(folder / "tokenizer")
    assert "it lacks vae, tokenizer" in refusal(folder)
    (folder / "model_index.json").unlink()
    (folder / "model.safetensors").touch()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/last.ckpt").touch()
    hint = "It holds checkpoints/last.ckpt, model.safetensors: give one of these files"
    assert f"has no model_index.json. {hint}" in refusal(folder)


def test_a_broken_tokenizer(folder):
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    assert "tokenizer holds no readable CLIP tokenizer" in refusal(folder)


def test_damaged_files(tiny, tmp_path):
    whole = single_file(tiny, tmp_path / "x.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    for size in (len(whole) // 2, 100):
        cut.write_bytes(whole[:size])
        assert f"{cut} is not a readable safetensors file: it may be cut short" in refusal(cut)
    cut.write_bytes(b"")
    assert refusal(cut) == f"{cut} is empty (zero bytes); fetch it again"
    cut.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "is a git-lfs pointer" in refusal(cut)
    single_file(tiny, cut, metadata={"lightning_drift.parts": "{"})
    assert "the lightning_drift.parts entry in the metadata" in refusal(cut)

    ckpt = fit_checkpoint(tiny, tmp_path / "x.ckpt", str(TINY))
    ckpt.write_bytes(ckpt.read_bytes()[: ckpt.stat().st_size // 2])
    assert f"{ckpt} is not a readable torch file" in refusal(ckpt)
    ckpt.write_text("no checkpoint at all")
    assert f"{ckpt} is " in refusal(ckpt)
    torch.save([1, 2], ckpt)
    assert "holds a list, not named weights" in refusal(ckpt)
    torch.save({"state_dict": {}}, ckpt)
    assert "holds no named weights" in refusal(ckpt)


class Trap:
    """Would run a command if unpickled."""

    def __reduce__(self):
        import os

        return os.system, ("false",)


def test_a_pickle_that_runs_code_is_not_opened(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "trap": Trap()}, path)
    said = refusal(path)
    assert "holds Python objects besides weights" in said
    assert "system" in said
    assert "Use a .safetensors version" in said
