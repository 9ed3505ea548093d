"""Models as other tools write them: files, names and prediction, at SD v1.5's names and shapes."""

import json
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from helpers.paths import DATA
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.export.single_file import ldm_tensors, parts_metadata
from lightning_drift.stable_diffusion.diffusers_folder import pipeline_files, text_encoder_weights
from lightning_drift.stable_diffusion.loading import load_stable_diffusion, open_pipeline
from lightning_drift.stable_diffusion.opened_pipeline import OpenedPipeline
from lightning_drift.stable_diffusion.sd15 import sd15_models
from lightning_drift.stable_diffusion.single_file import read_single_file
from lightning_drift.weights import ldm_names
from lightning_drift.weights.files import Weights
from lightning_drift.weights.fill import compare

TINY = DATA / "tiny_sd"
PARTS = ("unet", "text_encoder", "vae")
Shapes = dict[str, tuple[int, ...]]


@lru_cache(maxsize=1)
def sd15_names() -> Shapes:
    """Names and shapes of SD v1.5 in one file."""
    models, shapes = sd15_models(), {}
    for part, names in (("unet", ldm_names.unet_names), ("vae", ldm_names.vae_names)):
        state = models[part].state_dict()
        shapes |= {ldm: state[name].shape for name, ldm in names(state, dict(models[part].config)).items()}
    state = models["text_encoder"].state_dict()
    shapes |= {ldm: state[name].shape for name, ldm in ldm_names.text_encoder_names(state).items()}
    return {name: tuple(shape) for name, shape in shapes.items()}


def opened(shapes: Shapes, path: Path, **metadata: str) -> OpenedPipeline:
    """A single file of these names and shapes, of meta tensors; every part is compared with SD v1.5's."""

    def stored(name: str) -> Tensor:
        return torch.empty(shapes[name], device="meta")

    pipeline = read_single_file(Weights(str(path), shapes, stored, (path,), metadata), path)
    for part in PARTS:
        compare(sd15_models()[part], pipeline.weights[part], part)
        for name, shape in pipeline.weights[part].shapes.items():
            assert pipeline.weights[part].stored(name).shape == shape
    return pipeline


def moved(old: str, new: str) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {name.replace(old, new): shape for name, shape in shapes.items()}


def with_more(*names: str) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {**shapes, **dict.fromkeys(names, (1, 77))}


def averaged_beside(shapes: Shapes) -> Shapes:
    return {**shapes, **averaged(shapes), "model_ema.decay": (), "model_ema.num_updates": ()}


def averaged(shapes: Shapes) -> Shapes:
    """The UNet's names as LDM's averaging flattens them."""
    unet = {name: shape for name, shape in shapes.items() if name.startswith(ldm_names.UNET_PREFIX)}
    return {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": shape for name, shape in unet.items()
    }


def averaged_only(shapes: Shapes) -> Shapes:
    rest = {name: shape for name, shape in shapes.items() if not name.startswith(ldm_names.UNET_PREFIX)}
    return {**rest, **averaged(shapes), "model_ema.decay": ()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict, ""),
        (moved("transformer.text_model.", "transformer."), ""),
        (with_more("cond_stage_model.transformer.text_model.embeddings.position_ids"), ""),
        (
            with_more("cond_stage_model.transformer.text_projection.weight", "cond_stage_model.logit_scale"),
            "",
        ),
        (with_more("betas", "alphas_cumprod", "v_pred"), ""),
        (averaged_beside, "its averaged weights (model_ema.*) are left aside, its plain ones used"),
        (averaged_only, "holds averaged weights of the UNet only (model_ema.*); they are used"),
    ],
)
def test_single_files_of_every_age(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Shapes], Shapes], said: str
) -> None:
    opened(change(sd15_names()), tmp_path / "m.safetensors")
    assert said in capsys.readouterr().err


def without(*prefixes: str) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {name: shape for name, shape in shapes.items() if not name.startswith(prefixes)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("first_stage_model."), "is pruned: it holds no autoencoder (first_stage_model.*)"),
        (without("cond_stage_model."), "is pruned: it holds no text encoder"),
        (
            moved("cond_stage_model.transformer.", "cond_stage_model.model.transformer."),
            "Stable Diffusion 2.x",
        ),
        (with_more("scaled_fp8"), "quantised with scales of their own"),
        (with_more("model.diffusion_model.label_emb.0.0.weight"), "Stable Diffusion XL"),
        (without("model.diffusion_model.out."), "missing of the unet model.diffusion_model.out.0"),
        (lambda shapes: averaged_only(without("model.diffusion_model.out.")(shapes)), "missing of the unet"),
    ],
)
def test_what_single_files_are_not_is_said(
    tmp_path: Path, change: Callable[[Shapes], Shapes], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        opened(change(sd15_names()), tmp_path / "m.safetensors")
    assert said in caught.value.message


def test_unets_without_the_rest_are_told_apart_by_their_shapes(tmp_path: Path) -> None:
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    first = "model.diffusion_model.input_blocks.0.0.weight"
    for changes, said in (
        ({key: (320, 1024)}, "Stable Diffusion 2.x"),
        ({first: (320, 9, 3, 3)}, "inpainting model"),
        ({first: ()}, "is not a complete|whose UNet takes"),
    ):
        shapes = {**without("first_stage_model.", "cond_stage_model.")(sd15_names()), **changes}
        with pytest.raises(UserError, match=said if changes != {first: ()} else "m.safetensors"):
            opened(shapes, tmp_path / "m.safetensors")


# -- the text encoder of a folder --


@pytest.mark.parametrize("prefix", ["", "text_model."])
@pytest.mark.parametrize("more", [[], ["embeddings.position_ids"], ["vision_model.x", "logit_scale"]])
def test_text_encoders_of_every_age(prefix: str, more: list[str]) -> None:
    model = sd15_models()["text_encoder"]
    shapes = {f"{prefix}{name}": tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes |= {name if "vision" in name or "logit" in name else prefix + name: (1, 77) for name in more}
    compare(model, text_encoder_weights(Weights("x", shapes, torch.empty, (), {})), "text encoder")


def test_open_clips_names_are_refused_by_name() -> None:
    shapes = {"transformer.resblocks.0.attn.in_proj_weight": (3, 1), "positional_embedding": (77, 1)}
    with pytest.raises(UserError, match="open-clip's names"):
        text_encoder_weights(Weights("x", shapes, torch.empty, (), {}))


# -- folders without plain safetensors --


def torch_only(folder: Path, half: bool) -> None:
    for part in PARTS:
        (file,) = (folder / part).glob("*.safetensors")
        state = load_file(file)
        file.unlink()
        name = "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model"
        state = {key: tensor.half() for key, tensor in state.items()} if half else state
        torch.save(state, folder / part / f"{name}{'.fp16' if half else ''}.bin")


def fp16_only(folder: Path) -> None:
    for file in folder.rglob("*.safetensors"):
        save_file({key: tensor.half() for key, tensor in load_file(file).items()}, file)
        file.rename(file.with_suffix(".fp16.safetensors"))


def non_ema_and_sharded(folder: Path) -> None:
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    file.rename(folder / "unet/diffusion_pytorch_model.non_ema.safetensors")
    torch_only_vae = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    names = sorted(torch_only_vae)
    placed = {}
    for number, keys in enumerate((names[::2], names[1::2]), 1):
        shard = f"diffusion_pytorch_model-0000{number}-of-00002.bin"
        torch.save({key: torch_only_vae[key] for key in keys}, folder / "vae" / shard)
        placed |= dict.fromkeys(keys, shard)
    index = folder / "vae/diffusion_pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": placed}))


@pytest.mark.parametrize(
    ("change", "said", "exact"),
    [
        (lambda folder: torch_only(folder, half=False), "read from pytorch_model.bin", True),
        (lambda folder: torch_only(folder, half=True), "read from pytorch_model.fp16.bin", False),
        (fp16_only, "read from model.fp16.safetensors", False),
        (non_ema_and_sharded, "read from diffusion_pytorch_model.non_ema.safetensors", True),
    ],
)
def test_a_hub_folder_without_plain_safetensors(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    said: str,
    exact: bool,
) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    change(folder)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    more = ["safety_checker/model.safetensors", "unet/model.onnx", "v1-5-pruned.ckpt"]
    assert sorted(pipeline_files(files + more)) == sorted(files)  # the hub gives what the folder needs
    model, whole = load_stable_diffusion(str(folder)), load_stable_diffusion(str(TINY))
    assert said in capsys.readouterr().err
    for part in PARTS:
        expected = getattr(whole, part).state_dict()
        for name, tensor in getattr(model, part).state_dict().items():
            assert torch.equal(tensor, expected[name] if exact else expected[name].half().float()), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_a_pruned_single_file_in_any_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    model = load_stable_diffusion(str(TINY))
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in ldm_tensors(model).items()}
    save_file(tensors, tmp_path / "m.safetensors", metadata=parts_metadata(model))
    loaded = load_stable_diffusion(str(tmp_path / "m.safetensors"))
    assert torch.equal(loaded.unet.conv_in.weight, model.unet.conv_in.weight.to(dtype).float())


# -- what it predicts --

V = "model:\n  target: ldm.X\n  params:\n    parameterization: {}\n"


@pytest.mark.parametrize(
    ("yaml", "metadata", "marker", "kind"),
    [
        ("", "", False, "epsilon"),
        (V.format('"v"'), "", False, "v_prediction"),
        (V.format("eps"), "", False, "epsilon"),
        ("# of something else\nprompts: [a, b]\n", "", False, "epsilon"),
        ("model: {params: {use_ema: false}}", "v", False, "v_prediction"),
        ("", "v", False, "v_prediction"),
        ("", "v_prediction", False, "v_prediction"),
        ("", "", True, "v_prediction"),
        (V.format("v"), "v", True, "v_prediction"),
    ],
)
def test_what_a_single_file_predicts_is_what_it_and_its_neighbour_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], yaml: str, metadata: str, marker: bool, kind: str
) -> None:
    if yaml:
        (tmp_path / "m.v1.yaml").write_text(yaml)
    shapes = with_more("v_pred")(sd15_names()) if marker else sd15_names()
    spec = {"modelspec.prediction_type": metadata} if metadata else {}
    assert opened(shapes, tmp_path / "m.v1.safetensors", **spec).scheduler_config["prediction_type"] == kind
    silent = bool(metadata or marker or "parameterization" in yaml)
    assert ("does not say what it predicts; taken for epsilon" in capsys.readouterr().err) != silent


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        (V.format("eps"), "is said to predict v_prediction by its metadata"),
        (V.format("x0"), "says parameterization: 'x0'; only eps and v are read"),
        (V.format("[v]"), "says parameterization: ['v']"),
        (V.format("v\n    timesteps: 0"), "num_train_timesteps is 0"),
        (V.format("v\n    linear_start: x"), "beta_start is 'x'"),
        ("model: [", "is not YAML"),
        ("!!python/object/apply:os.system [false]", "is not YAML"),
    ],
)
def test_a_neighbour_that_contradicts_or_is_damaged_is_a_sentence(
    tmp_path: Path, yaml: str, said: str
) -> None:
    (tmp_path / "m.yaml").write_text(yaml)
    with pytest.raises(UserError) as caught:
        opened(sd15_names(), tmp_path / "m.safetensors", **{"modelspec.prediction_type": "v"})
    assert said in caught.value.message
    assert "m.yaml" in caught.value.message


def test_the_betas_and_the_end_of_the_schedule_are_read(tmp_path: Path) -> None:
    (tmp_path / "m.yml").write_text(
        "model: {params: {linear_start: 0.001, linear_end: 0.02, timesteps: 1000}}"
    )
    schedule = opened(with_more("ztsnr", "v_pred")(sd15_names()), tmp_path / "m.ckpt").scheduler_config
    assert (schedule["beta_start"], schedule["beta_end"]) == (0.001, 0.02)
    assert schedule["rescale_betas_zero_snr"] is True


def test_a_fit_checkpoint_under_older_names_of_transformers(tmp_path: Path) -> None:
    state = {
        f"unet.{key}": tensor
        for key, tensor in load_file(TINY / "unet/diffusion_pytorch_model.safetensors").items()
    }
    text = load_file(TINY / "text_encoder/model.safetensors")
    state |= {f"text_encoder.text_model.{key}": tensor for key, tensor in text.items()}
    state["text_encoder.text_model.embeddings.position_ids"] = torch.arange(77.0)[None]
    torch.save({"state_dict": state, "recipe": {"base": str(TINY)}, "global_step": 1}, tmp_path / "m.ckpt")
    assert open_pipeline(str(tmp_path / "m.ckpt")).weights["text_encoder"].shapes.keys() == text.keys()
