"""Loading the real files' layouts, and a sentence for every file that is not one."""

import gzip
import json
import re
import resource
import sys
from pathlib import Path

import pytest
import torch
from helpers.supir.full_size import write_full_size
from helpers.supir.golden import FOLDER, golden, official_weights, relative
from helpers.supir.models import (
    CONFIGS,
    sdxl_weights,
    supir_weights,
    text_models,
    write_sdxl_file,
    write_sdxl_folder,
    write_supir,
)
from safetensors.torch import save_file

from lightning_drift.common.errors import UserError
from lightning_drift.supir.network.conditioning import reference_token_ids, size_embedding, token_ids
from lightning_drift.supir.network.layout import first_stage_names, network_names
from lightning_drift.supir.network.sdxl import SDXL_CONFIGS, open_sdxl
from lightning_drift.supir.network.weights import (
    Checkpoints,
    empty_first_stage,
    empty_network,
    empty_text_encoders,
    open_checkpoints,
)
from lightning_drift.weights.clip_tokenizer import sd15_tokenizer
from lightning_drift.weights.files import open_weights
from lightning_drift.weights.fill import fill


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    write_supir(path / "supir.safetensors")
    write_supir(path / "supir.ckpt")
    write_sdxl_file(path / "sdxl.safetensors")
    write_sdxl_folder(path / "sdxl")
    return path


def test_the_manifests_keys_are_ours_one_to_one_with_equal_shapes():
    """Full size, on the meta device: 2,962 tensors."""
    manifest = json.loads(gzip.decompress((FOLDER / "manifest_full.json.gz").read_bytes()))
    found = {}
    network, stage = empty_network(SDXL_CONFIGS["unet"]), empty_first_stage(SDXL_CONFIGS["vae"])
    for module, names in (
        (network, network_names(network.state_dict(), network.unet.config)),
        (stage, first_stage_names(stage.state_dict(), stage.vae.config)),
    ):
        for name, tensor in module.state_dict().items():
            assert names[name] not in found
            found[names[name]] = list(tensor.shape)
    assert len(found) == len(manifest["keys"]) == 2962
    assert found.keys() == manifest["keys"].keys()
    for key, shape in manifest["keys"].items():
        # The autoencoder's attention is a 1x1 convolution in the file and a linear layer in diffusers.
        assert found[key] == (shape[:2] if ".attn_1." in key and shape[2:] == [1, 1] else shape)
    own = {
        key for key in found if key.startswith(("model.control_model.", "first_stage_model.denoise_encoder."))
    }
    own |= {key for key in found if ".project_modules." in key}
    assert own == set(manifest["supir_keys"])


def test_the_full_text_encoders_have_sdxls_shapes():
    class Base:
        configs = SDXL_CONFIGS
        tokenizer = sd15_tokenizer()

    encoders = empty_text_encoders(Base)
    assert sum(p.numel() for p in encoders.clip_l.parameters()) == 123_060_480
    assert sum(p.numel() for p in encoders.bigg.parameters()) == 694_659_840
    assert size_embedding(256).shape == (1, 2816 - 1280)


@pytest.mark.parametrize(
    ("supir", "sdxl"), [("supir.safetensors", "sdxl"), ("supir.ckpt", "sdxl.safetensors")]
)
def test_every_layout_gives_the_same_network(folder, supir, sdxl, network, first_stage, capsys):
    opened = open_checkpoints(folder / supir, folder / sdxl, CONFIGS)
    assert "does not use" not in capsys.readouterr().err  # the stray mask_LQ is dropped by name
    state, stage = opened.network(torch.float32).state_dict(), opened.first_stage(torch.float32).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert all(torch.equal(stage[name], tensor) for name, tensor in first_stage.state_dict().items())
    text = opened.text_encoders(torch.float32)
    models = text_models()
    ids = [320, 1125, 539]
    tokens = [49406, *ids, 49407]
    padded = [torch.tensor([tokens + [pad] * (77 - len(tokens))]) for pad in (49407, 0)]
    small = models["text_encoder"](padded[0], output_hidden_states=True)
    large = models["text_encoder_2"](padded[1], output_hidden_states=True)
    found = text(ids)
    assert relative(found.context, torch.cat([small.hidden_states[-2], large.hidden_states[-2]], -1)) <= 1e-6
    assert relative(found.vector[:, :48], large.text_embeds) <= 1e-6
    assert relative(found.vector[:, 48:], golden("common_inputs")["vector_c"][:1, 48:]) <= 1e-6
    other = text(ids, size=2048)
    assert torch.equal(other.context, found.context)
    assert not torch.equal(other.vector[:, 48:], found.vector[:, 48:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_other_dtypes_on_disk_are_cast(folder, tmp_path, dtype):
    supir = write_supir(tmp_path / "supir.safetensors", dtype)
    opened = open_checkpoints(supir, folder / "sdxl.safetensors", CONFIGS)
    network = opened.network(torch.float16)
    assert {p.dtype for p in network.parameters()} == {torch.float16}
    key = "model.control_model.input_hint_block.0.weight"
    expected = official_weights()[key].to(dtype).to(torch.float16)
    assert torch.equal(network.control.hint.weight, expected)


def test_hashes_name_the_files(folder):
    one = open_checkpoints(folder / "supir.safetensors", folder / "sdxl.safetensors", CONFIGS).hashes()
    other = open_checkpoints(folder / "supir.ckpt", folder / "sdxl", CONFIGS).hashes()
    assert set(one) == {"SUPIR hash", "Model hash"}
    assert all(len(value) == 10 and one[key] != other[key] for key, value in one.items())


def refusal(supir, sdxl):
    with pytest.raises(UserError) as caught:
        open_checkpoints(supir, sdxl, CONFIGS)
    return str(caught.value)


def save(path, weights):
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, path)
    return path


def test_the_error_names_the_option_of_the_file_at_fault(folder, tmp_path):
    whole = {"model.supir": folder / "supir.ckpt", "model.sdxl": folder / "sdxl.safetensors"}
    weights = {"model.supir": supir_weights(), "model.sdxl": sdxl_weights()}
    for option, state in weights.items():
        del state[next(iter(state))]
        for bad in (tmp_path / "none.ckpt", save(tmp_path / f"{option}.safetensors", state)):
            with pytest.raises(UserError) as caught:
                open_checkpoints(*(whole | {option: bad}).values(), CONFIGS)
            assert caught.value.option == option
            assert str(bad) in caught.value.message


def test_swapped_files(folder):
    for pair in (("sdxl.safetensors", "supir.safetensors"), ("supir.safetensors", "supir.ckpt")):
        said = refusal(*(folder / name for name in pair))
        assert "were `supir` and `sdxl` swapped? " in said


def test_missing_files(folder, tmp_path):
    assert "no such file" in refusal(tmp_path / "none.ckpt", folder / "sdxl")
    assert "no such file" in refusal(folder / "supir.ckpt", tmp_path / "none.safetensors")
    assert "is a folder; give the file" in refusal(tmp_path, folder / "sdxl")


@pytest.mark.parametrize("name", ["supir.safetensors", "supir.ckpt"])
def test_truncated_files(folder, tmp_path, name):
    cut = tmp_path / name
    cut.write_bytes((folder / name).read_bytes()[:-100_000])
    assert "cut short or damaged" in refusal(cut, folder / "sdxl")


def test_a_missing_weight_is_named(folder, tmp_path):
    for key in (
        "model.control_model.middle_block.1.norm.weight",
        "first_stage_model.denoise_encoder.conv_in.bias",
    ):
        weights = supir_weights()
        del weights[key]
        said = refusal(save(tmp_path / "supir.safetensors", weights), folder / "sdxl")
        assert f"missing {key}" in said
    weights = sdxl_weights()
    del weights["conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_bias"]
    said = refusal(folder / "supir.ckpt", save(tmp_path / "sdxl.safetensors", weights))
    assert "second text encoder" in said
    assert "resblocks.1.attn.in_proj_bias" in said


def test_a_misshapen_weight_is_named(folder, tmp_path):
    weights = supir_weights() | {"model.control_model.input_hint_block.0.bias": torch.zeros(5)}
    said = refusal(save(tmp_path / "supir.safetensors", weights), folder / "sdxl")
    assert "model.control_model.input_hint_block.0.bias [5] instead of [32]" in said


def test_an_unknown_key_is_reported_and_accepted(folder, tmp_path, capsys):
    weights = supir_weights() | {"model.control_model.surprise": torch.zeros(2)}
    open_checkpoints(save(tmp_path / "supir.safetensors", weights), folder / "sdxl")
    assert "1 weights that SUPIR v0 does not use: model.control_model.surprise" in capsys.readouterr().err


def test_scaled_eight_bit_files_give_the_networks_of_their_numbers(tmp_path):
    """As ComfyUI publishes them, one in the older layout, one in the newer; all matrices that it scales."""
    pairs = {"supir": (supir_weights(), "scale_weight"), "sdxl": (sdxl_weights(), "weight_scale")}
    exact = {}
    for name, (weights, scale_name) in pairs.items():
        scaled = {"model.diffusion_model.scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
        exact[name] = dict(weights)
        for key, tensor in weights.items():
            scaled[key] = tensor
            if key.endswith(".weight") and tensor.ndim > 1:
                scale = tensor.abs().max() / 448
                scaled[key] = (tensor / scale).to(torch.float8_e4m3fn)
                scaled[key.removesuffix("weight") + scale_name] = scale
                exact[name][key] = scaled[key].float() * scale
        save(tmp_path / f"{name}.safetensors", scaled)
        save(tmp_path / f"{name}_exact.safetensors", exact[name])
    opened = open_checkpoints(tmp_path / "supir.safetensors", tmp_path / "sdxl.safetensors", CONFIGS)
    supir, sdxl = (tmp_path / f"{name}_exact.safetensors" for name in pairs)
    expected = Checkpoints(open_weights(supir), open_sdxl(sdxl, CONFIGS))
    for part in ("network", "first_stage", "text_encoders"):
        found, right = (getattr(each, part)(torch.float16).state_dict() for each in (opened, expected))
        assert all(torch.equal(found[name], tensor) for name, tensor in right.items())


OTHERS = {
    "a Stable Diffusion 1.x checkpoint": {"cond_stage_model.transformer.text_model.x": (1,)},
    "a Stable Diffusion 2.x checkpoint": {"cond_stage_model.model.ln_final.bias": (1,)},
    "an SDXL refiner": {"conditioner.embedders.0.model.ln_final.bias": (1,)},
    "a Stable Diffusion 3 or Flux checkpoint": {"model.diffusion_model.joint_blocks.0.x": (1,)},
    "takes 9 channels": {"model.diffusion_model.input_blocks.0.0.weight": (32, 9, 3, 3)},
    "without an autoencoder": {},
    "without both text encoders": {"first_stage_model.conv.bias": (1,)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_model_in_sdxls_place(folder, tmp_path, what):
    shapes = {"model.diffusion_model.out.2.bias": (4,), **OTHERS[what]}
    other = save(tmp_path / "other.safetensors", {key: torch.zeros(shape) for key, shape in shapes.items()})
    said = refusal(folder / "supir.ckpt", other)
    assert what in said
    assert "JuggernautXL" in said


def test_folders_that_are_not_sdxl(folder, tmp_path):
    assert "has no model_index.json. It holds supir.safetensors" not in refusal(
        folder / "supir.ckpt", tmp_path
    )
    assert "It holds" in refusal(folder / "supir.ckpt", folder)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    said = refusal(folder / "supir.ckpt", tmp_path)
    assert "StableDiffusionPipeline" in said
    assert "lacks unet, vae, text_encoder, text_encoder_2, tokenizer" in said


def test_a_file_that_is_neither(folder, tmp_path):
    save(tmp_path / "lora.safetensors", {"lora.weight": torch.zeros(2)})
    assert "not a SUPIR checkpoint" in refusal(tmp_path / "lora.safetensors", folder / "sdxl")
    assert "no UNet" in refusal(folder / "supir.ckpt", tmp_path / "lora.safetensors")


# -- prompts ---------------------------------------------------------------------------------------


def test_a_caption_joins_the_prompt_with_a_comma_and_never_crowds_it_out():
    tokenizer = sd15_tokenizer()

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    assert token_ids(tokenizer, "a house", "fine grain") == (ids("a house, fine grain"), False)
    assert token_ids(tokenizer, "", "fine grain") == (ids("fine grain"), False)
    assert token_ids(tokenizer, "a house", "") == (ids("a house"), False)
    found, cut = token_ids(tokenizer, "house " * 200, "fine grain")
    assert cut
    assert len(found) == 75
    assert found[-3:] == ids(", fine grain")
    assert found[:72] == ids("house " * 72)


def test_the_reference_joins_without_a_separator_and_cuts_the_end():
    tokenizer = sd15_tokenizer()
    found, cut = reference_token_ids(tokenizer, "a house.", "fine grain")
    assert found == tokenizer("a house.fine grain", add_special_tokens=False)["input_ids"]
    assert not cut
    found, cut = reference_token_ids(tokenizer, "house " * 200, "fine grain")
    assert cut
    assert found == tokenizer("house " * 75, add_special_tokens=False)["input_ids"]


# -- full size -------------------------------------------------------------------------------------


def test_full_size_files_are_mapped_not_read(tmp_path, capsys):
    """10 GB of float16 in the official layout become modules without a second copy, or even a first."""
    supir, sdxl = write_full_size(tmp_path, sparse=True)
    assert supir.stat().st_size == pytest.approx(2_664_858_360, rel=1e-4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened = open_checkpoints(supir, sdxl)
    network = opened.network(torch.float16)
    stage, text = opened.first_stage(torch.float16), opened.text_encoders(torch.float16)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert sum(p.numel() for p in network.parameters()) == 2_567_463_684 + 54_797_440 + 1_243_378_880
    assert sum(p.numel() for p in stage.parameters()) == 83_653_863 + 34_163_592
    assert sum(p.numel() for p in text.parameters()) == 123_060_480 + 694_659_840
    assert {p.device.type for part in (network, stage, text) for p in part.parameters()} == {"cpu"}
    assert grown < 500e6
    assert not capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the pages of mapped files, on Linux")
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_converted_files_own_memory_is_let_go(tmp_path, suffix):
    """128 MB of float16 become bfloat16, and no more of the file stays in memory than one weight."""
    path, weights = (
        tmp_path / f"file.{suffix}",
        {f"{i}.weight": torch.randn(2048, 4096).half() for i in range(8)},
    )
    save_file(weights, path) if suffix == "safetensors" else torch.save(weights, path)

    def mapped():
        """Bytes of the file's own mappings in memory; libraries come and go beside."""
        mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M)
        own = [mapping for mapping in mappings if str(path) in mapping.partition("\n")[0]]
        return sum(int(re.search(r"Rss:\s+(\d+) kB", mapping)[1]) * 1024 for mapping in own)

    with torch.device("meta"):
        module = torch.nn.ModuleList([torch.nn.Linear(4096, 2048, bias=False) for _ in weights])
    opened = open_weights(path)
    fill(module, opened, "layers", torch.bfloat16, mapped=True)
    assert mapped() < 32e6
    for name, tensor in weights.items():
        assert torch.equal(module.get_parameter(name), tensor.bfloat16())
        assert torch.equal(opened.read(name), tensor), "what is let go can be read again"


@pytest.mark.slow
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
def test_a_full_size_checkpoint_loads_and_runs_one_step_within_20_gb(tmp_path, stored):
    """Random weights in the official layout, 10 GB on disk, bfloat16 in memory, 512x512."""
    from lightning_drift.supir.restoration import Restorer
    from lightning_drift.supir.sampling.noise import AddressedNoise
    from lightning_drift.supir.sampling.samplers import EdmSampling
    from lightning_drift.supir.settings import Method

    supir, sdxl = write_full_size(tmp_path, dtype=stored)
    opened = open_checkpoints(supir, sdxl)
    method = Method(
        sampling=EdmSampling(steps=1, s_churn=0.0),
        prompt="sharp textures",
        negative_prompt="blurry",
        diff_dtype=torch.bfloat16,
        ae_dtype=torch.bfloat16,
        memory="sequential",
    )
    restorer = Restorer(opened, method, torch.device("cpu"))
    steps = []
    image = torch.rand(1, 3, 512, 512) * 2 - 1
    out = restorer.restore(
        image, [[""]], [AddressedNoise(0, 0, torch.device("cpu"))], on_step=lambda: steps.append(1)
    )
    assert out.shape == image.shape
    assert out.isfinite().all()
    assert len(steps) == 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"stored in {stored}: peak resident memory {peak / 1e9:.1f} GB")
    assert peak < 20e9
