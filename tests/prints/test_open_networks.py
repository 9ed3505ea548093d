"""Files of upscaling networks: their real layouts are read, and what is none is a sentence."""

import pytest
import torch
from helpers.open_networks import NETWORKS, build, newer_names, write
from safetensors.torch import save_file

from lightning_drift.common.errors import UserError
from lightning_drift.prints.open_networks import open_network

PICTURES = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_pictures_are_the_networks_own(name, tmp_path):
    original = write(tmp_path / "network.pth", name)
    network = open_network(str(tmp_path / "network.pth"))
    expected = torch.cat([original(picture[None]) for picture in PICTURES]).clamp(0, 1)
    assert expected.std() > 1e-3
    assert network.scale == expected.shape[-1] // PICTURES.shape[-1] == NETWORKS[name].get("upscale", 4)
    torch.testing.assert_close(network.enlarge(PICTURES), expected, rtol=0, atol=2e-5)


def test_an_esrgan_is_one_network_under_its_old_and_new_names(tmp_path):
    old = build("ESRGAN").state_dict()
    new = newer_names(old)
    assert "body.1.rdb3.conv5.weight" in new
    save_file(new, tmp_path / "new.safetensors")
    torch.save({f"module.{key}": value.half() for key, value in new.items()}, tmp_path / "module.pt")
    torch.save(old, tmp_path / "old.pth")
    plain, *others = [
        open_network(str(tmp_path / name)).enlarge(PICTURES)
        for name in ("old.pth", "new.safetensors", "module.pt")
    ]
    assert torch.equal(others[0], plain)
    torch.testing.assert_close(others[1], plain, rtol=0, atol=1e-3)  # its weights are rounded


def test_a_network_that_unshuffles_first_takes_any_size(tmp_path):
    write(tmp_path / "x2.pth", "ESRGAN", in_nc=12, out_nc=3, shuffle_factor=2)
    network = open_network(str(tmp_path / "x2.pth"))
    assert network.scale == 2
    assert network.enlarge(PICTURES[..., :23, :1]).shape == (2, 3, 46, 2)


def state_of(name="Compact", **options):
    return build(name, **options).state_dict()


def with_weight(key, value):
    return {**state_of(), key: value}


HOSTILE = {
    "is no network that spandrel knows; it knows upscalers whose code": lambda: {"a": torch.ones(2)},
    "holds no named weights; is it a network that upscales?": lambda: {"params": {"note": 1}},
    "holds no named weights": lambda: {1: torch.ones(2)},
    "holds Python objects besides weights": lambda: {"params": print},
    "(RealESRGAN Compact) restores pictures at their size and is no upscaler": lambda: state_of(upscale=1),
    "takes 1 channels and makes 1; give an upscaler of RGB": lambda: state_of(num_in_ch=1, num_out_ch=1),
    "enlarges 17 times; give an upscaler of 2 to 16 times": lambda: state_of(upscale=17),
    "body.0.weight holds NaN": lambda: with_weight("body.0.weight", torch.full((8, 3, 3, 3), torch.nan)),
    "is damaged, or a variant of a network that": lambda: with_weight("body.0.weight", torch.ones(8, 3, 3)),
    "it holds a weight called body.999999999.bias": lambda: with_weight("body.999999999.bias", torch.ones(8)),
    "more memory than the file's": lambda: with_weight("body.0.weight", torch.ones(2**13, 3, 1, 1)),
}


@pytest.mark.parametrize(
    ("part", "content"), HOSTILE.items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_no_upscaler_is_a_sentence(part, content, tmp_path):
    torch.save(content(), tmp_path / "x.pth")
    with pytest.raises(UserError) as caught:
        open_network(str(tmp_path / "x.pth"))
    assert str(caught.value).startswith(f"model.upscaler: {tmp_path / 'x.pth'} ")
    assert part in str(caught.value)


def test_an_index_that_leads_astray_is_a_sentence_before_a_gpu_sees_it(tmp_path):
    state = state_of("SwinIR")
    state["layers.0.residual_group.blocks.0.attn.relative_position_index"][0, 0] = 10**6
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth \(SwinIR\) does not work \(.*index.*\); fetch it again"):
        open_network(str(tmp_path / "x.pth"))


def test_a_network_that_draws_noise_is_refused(tmp_path):
    layout = {"dim": 8, "up_dim_mults": (1,) * 5, "down_dim_mults": (1,) * 3, "attn_depths": (1,) * 5}
    style = {"dim_in": 16, "dim_out": 64, "depth": 2}
    attention = {"self_attn_dim_head": 8, "mid_attn_depth": 1, "num_conv_kernels": 2}
    sizes = {"image_size": 64, "input_image_size": 16}
    write(tmp_path / "x.pth", "AuraSR", style_network=style, **layout, **attention, **sizes)
    with pytest.raises(
        UserError, match=r"\(AuraSR\) draws noise for a picture, which could not be made again"
    ):
        open_network(str(tmp_path / "x.pth"))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_files_that_are_something_else(tmp_path):
    torch.jit.trace(build("Compact"), PICTURES).save(tmp_path / "traced.pt")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>")
    write(tmp_path / "cut.pth", "Compact")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:3000])
    for name, part in (
        (
            "traced.pt",
            "is a TorchScript program, which is code and not opened; give the network's weights as",
        ),
        ("page.pth", "is a web page, not the weights"),
        ("cut.pth", "may be cut short or damaged; fetch it again"),
        ("", "is a folder and no file"),
        ("gone", "no such file: .*gone. Give lanczos, a network's .pth, .pt or .safetensors file, or owner/"),
        ("gone.pth", "no such file or folder: .*gone.pth"),
    ):
        with pytest.raises(UserError, match=f"^model.upscaler: .*{part}"):
            open_network(str(tmp_path / name))


def test_loading_leaves_the_stream_of_random_numbers_as_it_is(tmp_path):
    write(tmp_path / "x.pth", "SwinIR")
    before = torch.random.get_rng_state()
    open_network(str(tmp_path / "x.pth"))
    assert torch.equal(torch.random.get_rng_state(), before)
