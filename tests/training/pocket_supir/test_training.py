"""The trainings of the pocket's SUPIR go on to the same bits, with workers and from other weights."""

import pytest
import torch
from helpers.supir.stages import SIDE, STAGES, stage_of
from helpers.trainings import link_weights, tensors, train_with_a_break
from safetensors.torch import load_file, save_file

from lightning_drift.common.errors import UserError
from training.pocket import scenes as scene_data
from training.pocket.run import train
from training.pocket.scenes import Scenes
from training.pocket_supir import latent_pairs
from training.pocket_supir.latent_pairs import LatentPairs
from training.pocket_supir.stages import first_stage, pocket_vae, scaled_vae
from training.pocket_supir.train import main as train_main


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_was_stopped_goes_on_to_the_same_bits(name, trained, tmp_path, monkeypatch):
    link_weights(trained, tmp_path, *STAGES[: STAGES.index(name)])
    ours = train_with_a_break(lambda: stage_of(name, tmp_path, 2), tmp_path / name, 1, monkeypatch)
    theirs = tensors(trained / name)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key
    first = stage_of(name, tmp_path, 2).state_dict()
    moved = {key for key, value in first.items() if not torch.equal(value, ours[key])}
    assert any(key.startswith("model.") for key in moved)
    assert any(key.startswith("ema.") for key in moved)
    if name == "control":  # the base is frozen
        assert not any(key.startswith(("model.unet.", "ema.unet.")) for key in moved)


def test_the_decoder_goes_on_alone(trained, tmp_path):
    link_weights(trained, tmp_path, "autoencoder")
    before = scaled_vae(tmp_path).state_dict()
    train(stage_of("decoder", tmp_path, 1), tmp_path / "decoder", precision="32-true")
    after = scaled_vae(tmp_path).state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert any(key.startswith("decoder.") for key in moved)
    assert not any(key.startswith(("encoder.", "quant_conv.")) for key in moved)


def test_workers_make_the_same_latents(trained, tmp_path, monkeypatch):
    for module in (scene_data, latent_pairs):
        monkeypatch.setattr(module, "BLOCK", 16)
    arguments = (first_stage(trained), pocket_vae(), 2, 32)
    pairs = LatentPairs(Scenes(0, 8, SIDE, tmp_path), *arguments)
    pairs.prepare(workers=2)
    assert len(list(tmp_path.glob("squares*"))) == 1
    plain = LatentPairs(Scenes(0, 8, SIDE), *arguments)
    torch.testing.assert_close(pairs.images([3, 12]), plain.images([3, 12]), atol=2e-2, rtol=0)  # halves
    with pytest.raises(UserError, match="--cache"):
        plain.prepare(workers=2)


@pytest.mark.parametrize("name", ["base", "control"])
def test_a_stage_begins_with_given_weights_and_stops_by_the_clock(name, trained, tmp_path):
    link_weights(trained, tmp_path, *STAGES[: STAGES.index(name)])
    stage = stage_of(name, tmp_path, 1000, init=trained)
    given = load_file(trained / name / "weights" / "model.safetensors")
    state = stage.state_dict()
    for key, value in given.items():
        ours = key.replace("project.", "project_modules.", 1) if key.startswith("project.") else key
        assert torch.equal(state[f"model.{ours}"], value.float()), key
    train(stage, tmp_path / name, precision="32-true", stop_after=0.0)
    assert stage.global_step == 1
    assert (tmp_path / name / "last.ckpt").is_file()


def test_the_command_begins_with_the_weights_of_init(trained, tmp_path):
    weights = load_file(trained / "base" / "weights" / "model.safetensors")
    doubled = {key: 2 * value for key, value in weights.items()}
    (tmp_path / "init" / "base" / "weights").mkdir(parents=True)
    save_file(doubled, tmp_path / "init" / "base" / "weights" / "model.safetensors")
    few = "--scenes 2 --variants 1 --side 32 --batch-size 2 --steps 1 --precision 32-true --stage base"
    train_main([*few.split(), "--init", str(tmp_path / "init"), "--state", str(tmp_path)])
    after = load_file(tmp_path / "base" / "weights" / "model.safetensors")
    for key, value in doubled.items():
        torch.testing.assert_close(after[key], value, atol=1e-2, rtol=0, msg=key)


def test_pairs_are_addressed_by_scene_and_variant(trained):
    pairs = LatentPairs(Scenes(0, 4, SIDE), first_stage(trained), pocket_vae(), 2, 32)
    assert pairs.count == 8
    squares = pairs.images([1, 5])
    assert squares.shape == (2, 8, 8, 8)
    whole = LatentPairs(Scenes(0, 4, SIDE), first_stage(trained), pocket_vae(), 2, SIDE).images([1, 5])
    assert whole.shape == (2, 8, 16, 16)
    torch.testing.assert_close(whole[0, :4], whole[1, :4])  # the same scene
    assert not torch.equal(whole[0, 4:], whole[1, 4:])  # another degradation
    assert not torch.equal(squares[0, :4], squares[1, :4])  # another square of it
    torch.testing.assert_close(pairs.images([5])[0], squares[1], rtol=0.05, atol=0.05)
    assert pairs.captions([1], 0) != [""]
