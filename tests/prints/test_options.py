"""Every option of the upscaler works, and a bad one is a sentence."""

import numpy as np
import pytest
from helpers.supir.running import opened, pixels, predict, upscaler

from lightning_drift import UpscaleImages
from lightning_drift.common.errors import UserError


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "dpmpp_2m_sde", "eta": 0.5, "edm_steps": 3},
        {"control_scale": 0.0, "color_fix": "None"},
        {"linear_control": True, "s_stage1": 2.0, "color_fix": "AdaIn", "color_reference": "input"},
        {"linear_cfg": False, "s_cfg": 1.0, "s_churn": 0.0},
        {"tile_size": 256, "tile_overlap": 128, "tile_batch": 2, "upscale": 8.0, "edm_steps": 2},
        {"memory": "sequential", "ae_dtype": "bfloat16", "diff_dtype": "bfloat16"},
        {"memory": "8bit", "size_condition": 2048},
        {"upscale": 0.5, "min_size": 128},
        {"reference_numerics": True, "encoder_tile_size": 64, "decoder_tile_size": 16, "min_size": 128},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_option_makes_a_picture_of_the_right_size(models, photos, tmp_path, options):
    module = upscaler(models, **options)
    predict(module, UpscaleImages(str(photos / "a.png")), tmp_path / "prints")
    scale = options.get("upscale", 2.0)
    image = opened(tmp_path / "prints" / "a.png")
    assert image.size == (round(40 * scale), round(33 * scale))
    assert np.asarray(image).std() > 1


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"upscale": 100}, "model.upscale: 100 is out of range; give one from 0.25 to 16"),
        ({"edm_steps": 1}, "model.edm_steps"),
        ({"edm_steps": 1000}, "model.edm_steps"),
        ({"s_cfg": -1.0}, "model.s_cfg"),
        ({"control_scale": 1.5}, "model.control_scale: 1.5 is out of range; give one from 0 to 1"),
        ({"s_churn": -1.0}, "model.s_churn"),
        ({"tile_size": 100}, "model.tile_size: 100 is not 0 or a multiple of 32"),
        ({"tile_size": 512, "tile_overlap": 512}, "model.tile_overlap: 512"),
        ({"encoder_tile_size": 512}, "give both or neither"),
        ({"encoder_tile_size": 512, "decoder_tile_size": 64}, "belongs to reference_numerics"),
        ({"compile": True, "memory": "stream"}, "model.compile: does not go with"),
        ({"min_size": 1}, "model.min_size"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_options(models, options, part):
    with pytest.raises(UserError) as caught:
        upscaler(models, **options)
    assert part in str(caught.value)


@pytest.mark.slow
def test_compiled_and_plain_agree(models, photos, tmp_path):
    for compiled in (False, True):
        predict(
            upscaler(models, compile=compiled), UpscaleImages(str(photos / "a.png")), tmp_path / str(compiled)
        )
    plain, fast = (pixels(tmp_path / str(flag) / "a.png").astype(int) for flag in (False, True))
    assert np.abs(plain - fast).max() <= 1
