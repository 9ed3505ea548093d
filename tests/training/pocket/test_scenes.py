"""Scenes as batches, in memory, on disk and from several processes."""

import numpy as np
import torch

from training.pocket.scenes import Batches, Scenes, paint
from training.pocket.world.render import render, sample_scene


def test_batches_are_addressed_by_step(tmp_path):
    scenes = Scenes(0, 12)
    whole = Batches(scenes, 4, 1, 0, True)
    first = [whole.batch(step) for step in range(7)]
    iterator = iter(Batches(scenes, 4, 1, 5, True))
    for step in (5, 6):
        batch = next(iterator)
        assert batch["step"] == step
        assert batch["captions"] == first[step]["captions"]
        assert torch.equal(batch["images"], first[step]["images"])
    passes = [torch.cat([first[step]["images"] for step in range(k, k + 3)]) for k in (0, 3)]
    assert not torch.equal(passes[0], passes[1])  # the second pass is shuffled
    order = sorted(range(12), key=lambda i: passes[0][i].sum())
    again = sorted(range(12), key=lambda i: passes[1][i].sum())
    assert torch.equal(passes[0][order], passes[1][again])  # and holds the same scenes
    texts = [{text for step in range(k, k + 3) for text in first[step]["captions"]} for k in (0, 3)]
    assert texts[0] != texts[1]


def test_workers_keep_the_order(tmp_path):
    scenes = Scenes(0, 12, 64, tmp_path)
    paint(scenes, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["world0-64px-00000.npy"]
    loader = iter(Batches(scenes, 4, 1, 2, True).loader(workers=2))
    direct = Batches(scenes, 4, 1, 2, True)
    for step in (2, 3, 4):
        batch = next(loader)
        assert batch["step"] == step
        assert batch["captions"] == direct.batch(step)["captions"]
        assert torch.equal(batch["images"], direct.batch(step)["images"])


def test_painted_blocks_on_disk_are_the_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr("training.pocket.scenes.BLOCK", 4)
    scenes = Scenes(3, 8, 64, tmp_path)
    for index in (5, 0):
        np.testing.assert_array_equal(scenes.image(index), render(sample_scene(3, index)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "world3-64px-00000.npy",
        "world3-64px-00001.npy",
    ]
    monkeypatch.setattr("training.pocket.scenes.render", None)  # nothing is painted twice
    np.testing.assert_array_equal(Scenes(3, 8, 64, tmp_path).image(6), render(sample_scene(3, 6)))
