"""LoRAs on the SDXL base: exactly W + weight * alpha / r * up @ down, in every spelling, or a sentence."""

import hashlib
import json

import pytest
import torch
from helpers.supir import loras
from helpers.supir.models import CONFIGS, UNET, write_sdxl_file, write_supir
from safetensors.torch import save_file

from lightning_drift.common.errors import UserError
from lightning_drift.supir.network.lora import LoraFile, _spellings, split_weight, with_loras
from lightning_drift.supir.network.sdxl import SDXL_CONFIGS, open_sdxl
from lightning_drift.supir.network.weights import (
    Checkpoints,
    empty_network,
    empty_text_encoders,
    open_checkpoints,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    write_supir(path / "supir.safetensors")
    write_sdxl_file(path / "sdxl.safetensors", torch.float16)
    return path


@pytest.fixture(scope="module")
def base(folder):
    return open_sdxl(folder / "sdxl.safetensors", CONFIGS)


@pytest.fixture(scope="module")
def models(base):
    text = empty_text_encoders(base)
    return {"unet": empty_network(UNET).unet, "text_encoder": text.clip_l, "text_encoder_2": text.bigg}


def weights_of(base, models):
    """Every weight of the base's parts, by its place."""
    found = {}
    for part, model in models.items():
        weights, _ = base.read_part(part, model.state_dict())
        found |= {(part, name): weights.read(name) for name in model.state_dict()}
    return found


def saved(path, tensors, metadata=None):
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path


@pytest.mark.parametrize("style", loras.ENDS)
def test_every_weight_gains_exactly_its_product(base, models, tmp_path, style):
    tensors, gains = loras.write(style, loras.changed_layers(models), UNET)
    path = saved(tmp_path / "film.safetensors", tensors)
    plain, found = (
        weights_of(each, models) for each in (base, with_loras(base, models, [LoraFile(path, 0.8)]))
    )
    assert len(gains) > 200
    for place, weight in plain.items():
        if place in gains:
            torch.testing.assert_close(found[place], weight.float() + 0.8 * gains[place], rtol=0, atol=2e-7)
        else:
            assert torch.equal(found[place], weight), place


def test_a_half_file_is_rounded_once_never_written_to_and_its_control_encoder_stays(
    folder, base, models, tmp_path
):
    files = (folder / "supir.safetensors", folder / "sdxl.safetensors")
    tensors, gains = loras.write("kohya", loras.changed_layers(models), UNET)
    path = saved(tmp_path / "film.safetensors", tensors)
    before = hashlib.sha256(files[1].read_bytes()).digest()
    merged = open_checkpoints(*files, CONFIGS, loras=[LoraFile(path)])
    plain, network = Checkpoints(merged.supir, base), merged.network(torch.float16)
    state = network.state_dict()
    for name, weight in plain.network(torch.float16).state_dict().items():
        gain = gains.get(("unet", name.removeprefix("unet.")), torch.zeros(()))
        assert torch.equal(state[name], (weight.float() + gain).half()), name
    assert "LoRA" not in plain.hashes()
    assert merged.hashes()["LoRA"] == f"film:1 {hashlib.sha256(path.read_bytes()).hexdigest()[:10]}"
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.mul_(2)
    assert hashlib.sha256(files[1].read_bytes()).digest() == before


Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.1.resnets.0.conv1"


def weight_of(base, layer):
    return base.read_part("unet", [f"{layer}.weight"])[0].read(f"{layer}.weight").float()


def test_several_are_added_up_and_tucker_kernels_and_old_names_are_read(base, models, tmp_path):
    up, down, mid = torch.randn(64, 2, 1, 1), torch.randn(2, 32, 1, 1), torch.randn(2, 2, 3, 3)
    name = f"lora_unet_{CONV.replace('.', '_')}"
    tucker = {".lora_up.weight": up, ".lora_down.weight": down, ".lora_mid.weight": mid}
    locon = saved(tmp_path / "locon.safetensors", {name + end: tensor for end, tensor in tucker.items()})
    a, b = torch.randn(64, 2), torch.randn(2, 64)
    old = f"unet.{Q.removesuffix('.to_q')}.processor.to_q_lora"
    attention = saved(tmp_path / "old.safetensors", {f"{old}.up.weight": a, f"{old}.down.weight": b})
    found = with_loras(base, models, [LoraFile(locon, -0.5), LoraFile(attention), LoraFile(attention, 0.25)])
    kernel = torch.einsum("or,rskl,si->oikl", up[..., 0, 0], mid, down[..., 0, 0])
    torch.testing.assert_close(weight_of(found, CONV), weight_of(base, CONV) - 0.5 * kernel)
    torch.testing.assert_close(weight_of(found, Q), weight_of(base, Q) + 1.25 * a @ b)


@pytest.mark.parametrize(
    ("told", "scale"),
    [
        ({"unet.lora_alpha": 8}, 2.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}}, 0.5),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 4.0),
        ({"text_encoder.lora_alpha": 8}, 1.0),
    ],
)
def test_pefts_alpha_is_read_from_the_metadata(base, models, tmp_path, told, scale):
    up, down = torch.randn(64, 4), torch.randn(4, 64)
    tensors = {f"unet.{Q}.lora_A.weight": down, f"unet.{Q}.lora_B.weight": up}
    path = saved(tmp_path / "peft.safetensors", tensors, {"lora_adapter_metadata": json.dumps(told)})
    found = with_loras(base, models, [LoraFile(path)])
    torch.testing.assert_close(weight_of(found, Q), weight_of(base, Q) + scale * up @ down)


def test_names_of_published_files_are_those_of_sdxls_layers():
    unet = empty_network(SDXL_CONFIGS["unet"]).unet
    places = [("unet", name) for name in unet.state_dict()]
    places += [("text_encoder", "encoder.layers.11.mlp.fc1.weight")]
    places += [("text_encoder_2", "text_model.encoder.layers.31.self_attn.q_proj.weight")]
    spellings = _spellings(places, unet.config)
    for name in (
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj",
        "lora_unet_output_blocks_5_1_proj_out",
        "lora_unet_input_blocks_3_0_op",
        "lora_unet_output_blocks_2_2_conv",
        "lora_unet_input_blocks_1_0_in_layers_2",
        "lora_unet_output_blocks_8_0_skip_connection",
        "lora_unet_label_emb_0_2",
        "lora_unet_time_embed_0",
        "unet.up_blocks.0.attentions.2.transformer_blocks.9.attn2.to_out.0",
        "lora_te1_text_model_encoder_layers_11_mlp_fc1",
        "lora_te2_text_model_encoder_layers_31_self_attn_q_proj",
        "text_encoder_2.text_model.encoder.layers.31.self_attn.q_proj",
    ):
        assert name in spellings, name


K = f"lora_unet_{Q.replace('.', '_')}"
CROSS = f"lora_unet_{Q.replace('.', '_').replace('attn1_to_q', 'attn2_to_k')}"
PAIR = {f"{K}.lora_up.weight": torch.zeros(64, 2), f"{K}.lora_down.weight": torch.zeros(2, 64)}
UP, DOWN = torch.zeros(64, 2), torch.zeros(2, 768)
REFUSED = {
    "holds nothing": {},
    "is a LoHa": {f"{K}.hada_w1_a": UP},
    "is a LoKr": {f"{K}.lokr_w1": UP},
    "is a DoRA": {**PAIR, f"{K}.dora_scale": UP},
    "is an OFT": {f"{K}.oft_blocks": UP},
    "is a file of full differences": {f"{K}.diff": UP},
    "made for a Flux or Stable Diffusion 3 model": {"lora_unet_double_blocks_0_img_mod_lin.alpha": UP},
    "(transformer.x.lora_A.weight)": {"transformer.x.lora_A.weight": UP},
    "made for a Stable Diffusion 1.x or 2.x model": {
        **PAIR, "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": UP,
    },
    "(lora_unet_down_blocks_0_attentions_0_proj_in.alpha)": {
        "lora_unet_down_blocks_0_attentions_0_proj_in.alpha": UP,
    },
    "made for a Stable Diffusion 1.x model, and this base is another": {
        f"{CROSS}.lora_up.weight": UP, f"{CROSS}.lora_down.weight": DOWN,
    },
    "1 of its 3 tensors belong to no layer of it: surprise": {**PAIR, "surprise": UP},
    "lacks its up": {f"{K}.lora_down.weight": torch.zeros(2, 64)},
    "has up [64, 3] and down [2, 64]": {**PAIR, f"{K}.lora_up.weight": torch.zeros(64, 3)},
    "has up [64, 0] and down [0, 64]": {
        f"{K}.lora_up.weight": torch.zeros(64, 0), f"{K}.lora_down.weight": torch.zeros(0, 64),
    },
    "names one layer twice": {**PAIR, f"unet.{Q}.lora_A.weight": torch.zeros(2, 64)},
}  # fmt: skip


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_no_lora_of_this_base_is_named(base, models, tmp_path, said):
    path = saved(tmp_path / "odd.safetensors", REFUSED[said])
    with pytest.raises(UserError) as caught:
        with_loras(base, models, [LoraFile(path)])
    assert said in caught.value.message
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    "told", ["[]", "{", '{"unet.lora_alpha": "x"}', '{"unet.alpha_pattern": {"none": 1}}']
)
def test_damaged_metadata_are_a_sentence(base, models, tmp_path, told):
    path = saved(tmp_path / "odd.safetensors", PAIR, {"lora_adapter_metadata": told})
    with pytest.raises(UserError, match=r"odd\.safetensors"):
        with_loras(base, models, [LoraFile(path)])


def test_a_weight_stands_behind_the_last_colon():
    assert split_weight("a/film.safetensors", "") == ("a/film.safetensors", 1.0)
    assert split_weight("a/b/film.safetensors:-.5", "") == ("a/b/film.safetensors", -0.5)
    assert split_weight(r"C:\film.safetensors", "") == (r"C:\film.safetensors", 1.0)
    with pytest.raises(UserError, match=r"model.lora: 20 is out of range; give one from -10 to 10"):
        split_weight("film.safetensors:20", "model.lora")
