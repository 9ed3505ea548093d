"""A trained autoencoder goes on with plain pictures; the assembled models come apart again."""

import torch
from helpers.supir.stages import SIDE, schedule
from helpers.trainings import link_weights, tensors, train_with_a_break

from training.pocket.run import train
from training.pocket_supir import mending
from training.pocket_supir.hard_scenes import HardScenes, plain
from training.pocket_supir.stages import build_stage, first_stage, scaled_vae, trained_network
from training.pocket_supir.unpacking import unpack


def mend(state, steps, **options):
    return build_stage("mend", state, schedule("mend", steps, **options), HardScenes(0, 8, SIDE))


def test_mending_goes_on_to_the_same_bits_and_is_what_later_stages_read(trained, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for state in (whole, broken):
        state.mkdir()
        link_weights(trained, state, "autoencoder", "denoise")
    train(mend(whole, 2), whole / "mend", precision="32-true")
    ours = train_with_a_break(lambda: mend(broken, 2), broken / "mend", 1, monkeypatch)
    theirs = tensors(whole / "mend")
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key
    after, before = first_stage(whole).vae.state_dict(), scaled_vae(trained).state_dict()
    assert all(not torch.equal(after[key], before[key]) for key in before if key.endswith("conv_in.weight"))


def test_mending_brings_plain_pictures_nearer_and_holds_the_latents_of_scenes(trained, tmp_path):
    link_weights(trained, tmp_path, "autoencoder")
    train(mend(tmp_path, 25, batch_size=8), tmp_path / "mend", precision="32-true")
    before, after = scaled_vae(trained), scaled_vae(tmp_path)
    pictures = torch.stack([torch.from_numpy(plain(9, k, SIDE)) for k in range(16)])
    pictures = pictures.permute(0, 3, 1, 2) / 127.5 - 1
    scenes = HardScenes(5, 8, SIDE).images([0, 2, 4, 6])
    with torch.no_grad():
        old, new = ((vae.decode(vae.encode(pictures).latent_dist.mean)[0] - pictures).pow(2).mean()
                    for vae in (before, after))  # fmt: skip
        known, moved = (vae.encode(scenes).latent_dist.mean for vae in (before, after))
    assert new < 0.8 * old
    assert (moved - known).pow(2).mean() < 0.05 * known.var()


def test_the_border_weighs_more():
    weights = mending.border_weights(8)
    assert weights[0].tolist() == weights[:, -1].tolist() == [5] * 8
    assert weights[3].tolist() == [5, 3, 1, 1, 1, 1, 3, 5]


def test_assembled_models_come_apart_into_the_weights_of_their_stages(trained, models, tmp_path):
    unpack(str(models / "supir.safetensors"), str(models / "sdxl"), tmp_path)
    for build in (first_stage, trained_network):
        ours, theirs = build(tmp_path).state_dict(), build(trained).state_dict()
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert (ours[name] - tensor).norm() <= 0.012 * tensor.norm() + 1e-6, name
