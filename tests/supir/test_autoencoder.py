"""The first stage, whole and in pieces."""

import pytest
import torch
from helpers.supir.golden import golden, relative, tiny_first_stage

from lightning_drift.supir.memory.reference_tiles import DECODER_PADDING, ENCODER_PADDING, Box, split
from lightning_drift.supir.network.autoencoder import FirstStage


def test_encode_and_decode(first_stage: FirstStage):
    data = golden("vae")
    first_stage.run_whole()
    assert relative(first_stage.moments(data["image"], denoise=True), data["denoise_moments"]) <= 1e-5
    assert relative(first_stage.moments(data["image"], denoise=False), data["encoder_moments"]) <= 1e-5
    z = first_stage.encode_degraded(data["image"])
    assert relative(z, data["z"]) <= 1e-5
    stage1 = first_stage.decode(z)
    assert relative(stage1, data["x_stage1"]) <= 1e-5
    assert relative(first_stage.encode(stage1, data["z_stage1.noise"]), data["z_stage1"]) <= 1e-5


def boxes(tensor):
    return [Box(*row) for row in tensor.tolist()]


def test_reference_tiles(first_stage: FirstStage):
    data = golden("vae_tiled")
    first_stage.run_in_reference_tiles(64, 16)
    reads, writes = split(96, 160, 64, ENCODER_PADDING)
    assert reads == boxes(data["enc_in_bboxes"])
    assert [Box(*(at // 8 for at in (b.x0, b.x1, b.y0, b.y1))) for b in writes] == boxes(
        data["enc_out_bboxes"]
    )
    encoded = first_stage.encode_degraded(data["image"].float())
    assert relative(encoded, data["encode_tiled"]) <= 1e-5

    reads, writes = split(12, 40, 16, DECODER_PADDING)
    assert reads == boxes(data["dec_in_bboxes"])
    assert [Box(*(at * 8 for at in (b.x0, b.x1, b.y0, b.y1))) for b in writes] == boxes(
        data["dec_out_bboxes"]
    )
    assert relative(first_stage.decode(data["latent"]), data["decode_tiled"]) <= 1e-5
    first_stage.run_whole()
    assert relative(first_stage.encode_degraded(data["image"].float()), data["encode_untiled"]) <= 1e-5
    assert (
        relative(first_stage.decode(data["latent"]), data["decode_untiled"].float()) <= 1e-3
    )  # stored as float16


def test_reference_tiles_of_a_small_picture_are_one(first_stage: FirstStage):
    image = golden("vae")["image"]
    first_stage.run_in_reference_tiles(512, 64)
    found = first_stage.encode_degraded(image)
    assert relative(found, golden("vae")["z"]) <= 1e-5


@pytest.mark.parametrize("tile", [7, 16, 1000])
@pytest.mark.parametrize("size", [(96, 160), (40, 24)])
def test_in_strips_nothing_changes_but_rounding(first_stage: FirstStage, tile: int, size: tuple[int, int]):
    image = golden("vae_tiled")["image"].float()[..., : size[0], : size[1]].repeat(2, 1, 1, 1)
    image[1] = image[1].flip(-1)
    first_stage.run_whole()
    moments, z = first_stage.moments(image, denoise=False), first_stage.encode_degraded(image)
    picture = first_stage.decode(z)
    first_stage.run_in_strips(tile, store=torch.device("cpu"))
    assert relative(first_stage.moments(image, denoise=False), moments) <= 1e-5
    assert relative(first_stage.encode_degraded(image), z) <= 1e-5
    found = first_stage.decode(z)
    assert relative(found, picture) <= 1e-5
    # The border too, where other tilings differ.
    assert relative(found[..., :3, :], picture[..., :3, :]) <= 1e-5


def test_in_strips_large_offsets_keep_their_variance():
    """Statistics are joined from pieces, including the spread of the pieces' means."""
    stage = tiny_first_stage()
    image = torch.linspace(-1, 1, 64).repeat(1, 3, 48, 1).transpose(2, 3).contiguous() + 3
    whole = stage.encode_degraded(image)
    stage.run_in_strips(8)
    assert relative(stage.encode_degraded(image), whole) <= 1e-5


def test_half_precision_runs_in_strips():
    stage = tiny_first_stage()
    image = golden("vae")["image"]
    exact = stage.decode(stage.encode_degraded(image))
    stage.bfloat16()
    stage.run_in_strips(16)
    latent = stage.encode_degraded(image)
    assert latent.dtype == torch.bfloat16
    out = stage.decode(latent)
    assert out.dtype == torch.float32
    stage.run_whole()
    whole = stage.decode(stage.encode_degraded(image))
    assert relative(out, exact) <= 1.5 * relative(whole, exact)
