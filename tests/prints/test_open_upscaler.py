"""Prints by open models: exact sizes, what a network makes, one picture like another, and the command."""

import re

import numpy as np
import pytest
import pyvips
import torch
import yaml
from helpers.open_networks import write
from helpers.paths import ROOT
from helpers.supir.running import PROFILE, opened, photo, pixels, predict
from PIL import Image, ImageCms

from lightning_drift import OpenUpscaler, UpscaleImages
from lightning_drift.cli import main
from lightning_drift.common.errors import UserError
from lightning_drift.images.decode import read_source
from lightning_drift.prints.fixed_scale import Passes, to_tensor
from lightning_drift.prints.open_networks import OpenNetwork
from lightning_drift.prints.paper import Sheet


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return {
        name: (folder / f"{name}.pth", write(folder / f"{name}.pth", name)) for name in ("Compact", "SPAN")
    }


def upscaler(networks, name="Compact", **options):
    return OpenUpscaler(str(networks[name][0]), **options)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_lanczos_is_pillows(photos, tmp_path):
    photo(photos / "clear.png", size=(40, 32), mode="RGBA", icc_profile=PROFILE)
    predict(OpenUpscaler(upscale=2.5), UpscaleImages(str(photos), batch_size=3), tmp_path / "prints")
    for name in ("a", "b"):
        made, source = pixels(tmp_path / "prints" / f"{name}.png"), opened(photos / f"{name}.png")
        size = made.shape[1::-1]
        assert np.abs(made - np.asarray(source.resize(size, Image.Resampling.LANCZOS), dtype=int)).max() <= 1
        for k, plane in enumerate(source.split()):  # exactly, where it does not round between its two steps
            exact = np.asarray(plane.convert("F").resize(size, Image.Resampling.LANCZOS))
            assert np.abs(exact.clip(0, 255) - made[..., k]).max() <= 0.5001
    made = opened(tmp_path / "prints" / "clear.png")
    assert (made.mode, made.size, made.info["icc_profile"]) == ("RGBA", (100, 80), PROFILE)
    alpha = opened(photos / "clear.png").getchannel("A").resize((100, 80), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(made.getchannel("A")), np.asarray(alpha))
    text = opened(tmp_path / "prints" / "a.png").text["parameters"]
    assert re.fullmatch(r"\nUpscaler: Lanczos, Upscale: 2.5, Input hash: [0-9a-f]{10}", text)


def test_a_print_is_what_the_network_makes_of_the_picture(networks, photos, tmp_path):
    predict(upscaler(networks), UpscaleImages(str(photos)), tmp_path / "prints")
    with torch.no_grad():
        made = networks["Compact"][1](to_tensor(read_source(photos / "a.png"))[None])[0].clamp(0, 1)
    expected = (made * 255).round().permute(1, 2, 0).numpy().astype(int)
    assert np.abs(pixels(tmp_path / "prints" / "a.png") - expected).max() <= 1
    text = opened(tmp_path / "prints" / "a.png").text["parameters"]
    assert re.fullmatch(
        r"\nUpscaler: Compact, Upscaler hash: [0-9a-f]{10}, Upscaler dtype: float32, Tile size: 512, "
        r"Tile overlap: 96, Upscale: 4, Input hash: [0-9a-f]{10}",
        text,
    )
    # A second run finds everything made, and one at another size makes everything beside it.
    again = predict(upscaler(networks), UpscaleImages(str(photos)), tmp_path / "prints")
    assert (len(again.written), len(again.skipped)) == (0, 2)
    other = predict(upscaler(networks, tile_size=0), UpscaleImages(str(photos)), tmp_path / "prints")
    assert len(other.written) == 2


@pytest.mark.parametrize(
    ("scale", "upscale", "count"),
    [
        (4, 4, 1),
        (4, 4.1, 2),
        (4, 16, 2),
        (2, 16, 4),
        (2, 3, 2),
        (2, 2, 1),
        (4, 1, 0),
        (4, 0.25, 0),
        (1, 9, 0),
    ],
)
def test_a_network_goes_over_a_picture_as_often_as_needed(scale, upscale, count):
    passes = Passes.of((40, 33), upscale, scale)
    assert passes.count == count
    assert passes.output == (round(40 * upscale), round(33 * upscale))
    if scale > 1 and count:
        assert passes.after(count)[0] >= passes.output[0] > passes.after(count - 1)[0]


@pytest.mark.parametrize("upscale", [0.3, 1.0, 2.7, 5.0])
def test_any_factor_gives_exactly_its_size_and_the_same_scene(networks, tmp_path, upscale):
    """The network, left as it is at random, would change the scene: here it enlarges by nearest neighbour."""
    photo(tmp_path / "a.png", size=(41, 33))
    module = upscaler(networks, "SPAN", upscale=upscale)
    module.setup("predict")
    module.network.descriptor._call_fn = lambda model, image: image.repeat_interleave(2, 2).repeat_interleave(
        2, 3
    )
    predict(module, UpscaleImages(str(tmp_path / "a.png")), tmp_path / "prints")
    made = opened(tmp_path / "prints" / "a.png")
    assert made.size == (round(41 * upscale), round(33 * upscale))
    back = np.asarray(made.resize((41, 33), Image.Resampling.BOX), dtype=float)
    if upscale >= 1:
        assert np.abs(back - pixels(tmp_path / "a.png")).mean() < 5


def test_a_papers_pixels_are_reached_in_as_few_passes_as_a_factor():
    """What is shown is a hair less than a third of its print; a second pass would take nine times as long."""
    sheet = Sheet((642, 1054), (0, 0), (642, 1054), (0.0, 108.83333333333334, 214, 460.16666666666663))
    passes = Passes.of((214, 569), 1.0, 3, sheet)
    assert (passes.count, passes.output) == (1, (642, 1054))


@pytest.mark.parametrize("network", [None, "SPAN"])
def test_a_print_has_its_papers_pixels_profile_and_bits(networks, photos, tmp_path, network):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (tmp_path / "paper.icc").write_bytes(profile)
    module = OpenUpscaler() if network is None else upscaler(networks, network)
    data = UpscaleImages(
        str(photos), print="10x6mm", dpi=254.0, border="1mm", profile=str(tmp_path / "paper.icc"), bits=16
    )
    predict(module, data, tmp_path / "prints")
    made = pyvips.Image.new_from_file(str(tmp_path / "prints" / "b.png"))
    assert (made.width, made.height, made.format) == (100, 60, "ushort")
    assert made.get("icc-profile-data") == profile
    values = made.numpy()
    assert (values[:10] == 65535).all()
    assert (values % 257).any()  # more than 8 bits
    text = opened(tmp_path / "prints" / "b.png").text["parameters"]
    assert ", Print: 10x6mm, DPI: 254, Border: 1 mm, Bits: 16, Profile: " in text
    again = predict(module, data, tmp_path / "prints")
    assert (len(again.written), len(again.skipped)) == (0, 2)


def test_sixteen_bits_of_a_source_go_through_the_network(networks, tmp_path):
    levels = np.linspace(20000, 21000, 40 * 24 * 3).reshape(24, 40, 3).astype(np.uint16)
    pyvips.Image.new_from_array(levels, interpretation="rgb16").write_to_file(str(tmp_path / "a.png"))
    predict(upscaler(networks), UpscaleImages(str(tmp_path / "a.png")), tmp_path / "prints")
    made = pyvips.Image.new_from_file(str(tmp_path / "prints" / "a.png")).numpy()
    original = torch.from_numpy(levels.astype(np.float32) / 65535).permute(2, 0, 1)[None]
    exact = networks["Compact"][1](original)[0].clamp(0, 1).permute(1, 2, 0).numpy() * 65535
    assert np.abs(made - exact).max() <= 2


@pytest.mark.parametrize(("dtype", "most"), [("float16", 4), ("bfloat16", 24)])
def test_every_precision_makes_nearly_the_same(networks, photos, tmp_path, dtype, most):
    for name in ("float32", dtype):
        predict(upscaler(networks, dtype=name), UpscaleImages(str(photos / "a.png")), tmp_path / name)
    exact, rounded = (pixels(tmp_path / name / "a.png").astype(int) for name in ("float32", dtype))
    assert 0 < np.abs(exact - rounded).max() <= most
    assert f"Upscaler dtype: {dtype}," in opened(tmp_path / dtype / "a.png").text["parameters"]


def test_a_precision_that_the_architecture_lacks_is_a_sentence(photos, tmp_path):
    write(tmp_path / "swin.pth", "SwinIR")
    module = OpenUpscaler(str(tmp_path / "swin.pth"), dtype="float16")
    with pytest.raises(
        UserError, match=r"model\.dtype: SwinIR does not work in float16; give auto or float32"
    ):
        predict(module, UpscaleImages(str(photos)), tmp_path / "prints")


def test_a_picture_depends_on_neither_batch_nor_tiles_nor_where_a_run_was_cut(networks, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        photo(folder / f"{number}.png", size=(100, 70), seed=number)

    def prints(place, batch_size=1, limit=1.0, **options):
        data = UpscaleImages(str(folder), batch_size=batch_size)
        predict(upscaler(networks, **options), data, tmp_path / place, limit_predict_batches=limit)
        return files_of(tmp_path / place)

    once = prints("once", tile_size=64, tile_overlap=32)
    assert len(prints("cut", tile_size=64, tile_overlap=32, limit=2)) == 2
    assert prints("cut", tile_size=64, tile_overlap=32) == once
    prints("together", batch_size=3, tile_size=64, tile_overlap=32)
    prints("whole")
    for name in once:
        tiled = pixels(tmp_path / "once" / name).astype(int)
        for other in ("together", "whole"):
            assert np.abs(pixels(tmp_path / other / name) - tiled).max() <= 1


def test_bad_pictures_are_skipped_with_a_sentence_and_summed_up(networks, photos, tmp_path):
    (photos / "broken.jpg").write_bytes((photos / "a.png").read_bytes()[:60])
    photo(photos / "line.png", size=(3000, 1000))
    with pytest.raises(UserError) as caught:
        predict(upscaler(networks, upscale=16), UpscaleImages(str(photos), batch_size=2), tmp_path / "prints")
    said = str(caught.value)
    assert said.startswith("2 images could not be upscaled, the others are done:")
    assert "broken.jpg is damaged" in said
    assert "3000x1000 pixels would be processed at 48000x16000, more than 89 megapixels; lower model." in said
    assert sorted(files_of(tmp_path / "prints")) == ["a.png", "b.png"]


def test_numbers_beyond_float16_are_a_sentence(tmp_path, photos):
    state = write(tmp_path / "x.pth", "Compact").state_dict()
    torch.save({**state, "body.0.weight": state["body.0.weight"] * 1e6}, tmp_path / "x.pth")
    module = OpenUpscaler(str(tmp_path / "x.pth"), dtype="float16")
    with pytest.raises(UserError, match=r"the network makes no numbers of it; try model\.dtype float32"):
        predict(module, UpscaleImages(str(photos / "a.png")), tmp_path / "prints")


def refuse_gpu():
    raise torch.cuda.OutOfMemoryError("out of memory")


def refuse_cpu():
    torch.empty(2**58)


@pytest.mark.parametrize("allocate", [refuse_gpu, refuse_cpu])
def test_what_does_not_fit_is_reported_and_the_rest_is_made(
    networks, photos, tmp_path, monkeypatch, allocate
):
    """The GPU's refusal is simulated for one picture, by its size; the CPU's is real."""
    inner = OpenNetwork.enlarge

    def refuse(self, tile):
        if tile.shape[-2] == 32 or len(tile) > 1:
            allocate()
        return inner(self, tile)

    monkeypatch.setattr(OpenNetwork, "enlarge", refuse)
    photo(photos / "c.png", seed=3)
    module = upscaler(networks, tile_size=128, tile_overlap=48)
    with pytest.raises(UserError) as caught:
        predict(module, UpscaleImages(str(photos), batch_size=3), tmp_path / "prints")
    assert "b.png does not fit into the device's memory" in str(caught.value)
    assert "; try model.tile_size 64 and model.tile_overlap 32" in str(caught.value)
    assert sorted(files_of(tmp_path / "prints")) == ["a.png", "c.png"]  # from a batch that was halved


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"upscale": 17}, "model.upscale: 17 is out of range; give one from 0.25 to 16"),
        ({"upscale": float("nan")}, "model.upscale: nan"),
        ({"tile_size": 100}, "model.tile_size: 100 is not 0 or a multiple of 16 of at least 64"),
        ({"tile_size": 2**20}, "model.tile_size: 1048576 is out of range; give one from 0 to 8192"),
        ({"tile_size": 128}, "model.tile_overlap: 96 is not a multiple of 16 of at most half of model.tile_"),
        ({"tile_overlap": 40}, "model.tile_overlap: 40"),
        ({"tile_overlap": -16}, "model.tile_overlap: -16"),
    ],
)
def test_bad_options(options, part):
    with pytest.raises(UserError) as caught:
        OpenUpscaler(**options)
    assert part in str(caught.value)


def test_samples_that_would_be_alike_are_refused(photos, tmp_path):
    with pytest.raises(UserError, match=r"^data\.num_samples: OpenUpscaler draws no noise"):
        predict(OpenUpscaler(), UpscaleImages(str(photos), num_samples=2), tmp_path / "prints")


# -- the command -------------------------------------------------------------------------------------------

CONFIG = ROOT / "configs" / "upscale_open.yaml"


def test_the_command_prints_a_folder_in_shares_without_weights(photos, tmp_path, capsys):
    settings = yaml.safe_load(CONFIG.read_text())["model"]["init_args"]
    assert OpenUpscaler(**settings).hparams == OpenUpscaler().hparams
    words = ["predict", "-c", str(CONFIG), f"--data.images={photos}", "--trainer.enable_progress_bar=false"]
    (photos / "bad.png").write_bytes(b"nothing")
    assert main([*words, f"--image_writer.output_dir={tmp_path / 'one'}"]) == 2
    assert "error: one image could not be upscaled, the others are done:" in capsys.readouterr().err
    (photos / "bad.png").unlink()
    for share in ("1/2", "2/2"):
        assert main([*words, f"--image_writer.output_dir={tmp_path / 'many'}", f"--data.share={share}"]) == 0
    made = files_of(tmp_path / "one")
    assert b": the prints</title>" in made.pop("proof.html")
    assert files_of(tmp_path / "many") == made
    assert opened(tmp_path / "one" / "a.png").size == (160, 132)


def test_the_command_refuses_a_missing_network_in_a_sentence(photos, capsys):
    words = ["predict", "-c", str(CONFIG), f"--data.images={photos}", "--trainer.enable_progress_bar=false"]
    assert main([*words, "--model.upscaler", "~/gone.pth"]) == 2
    assert "error: model.upscaler: no such file or folder: " in capsys.readouterr().err
