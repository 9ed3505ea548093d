"""Shares of prints: files and samples in several runs are those of one, and the last one loads no weights."""

import pytest
from helpers.supir.running import photo, predict, upscaler

from lightning_drift import UpscaleImages
from lightning_drift.cli import main
from lightning_drift.common.errors import UserError
from lightning_drift.images.image_writer import ImageWriter


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_shares_of_files_and_samples_make_the_files_of_one_run(models, photos, tmp_path, capsys, batch_size):
    data = {"images": str(photos), "num_samples": 2, "batch_size": batch_size, "seed": -1}
    (photos / "b.txt").write_text("a cup")
    predict(upscaler(models), UpscaleImages(**data), tmp_path / "one")
    expected = files_of(tmp_path / "one")
    made = []
    for share in ("2/2", "1/2"):
        capsys.readouterr()
        writer = predict(upscaler(models), UpscaleImages(**data, share=share), tmp_path / "many")
        said = capsys.readouterr().out
        assert f"Share {share} is done; once all are, the same command without data.share finds every" in said
        made.append([path.name for path in writer.written])
    assert sorted(made[0] + made[1]) == ["a.png", "a_2.png", "b.png", "b_2.png"]
    assert [len(names) for names in made] == ([2, 2] if batch_size == 1 else [1, 3])  # whole batches
    last = upscaler(models)
    writer = predict(last, UpscaleImages(**data), tmp_path / "many")
    assert not writer.written
    assert last._restorer is None
    assert files_of(tmp_path / "many") == expected


def test_the_contact_sheet_is_the_last_commands(models, photos, tmp_path, capsys):
    from lightning.pytorch import Trainer

    def prints(folder, share=None):
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
        trainer = Trainer(
            accelerator="cpu", **quiet, enable_model_summary=False, callbacks=[ImageWriter(str(folder))]
        )
        data = UpscaleImages(str(photos), share=share)
        trainer.predict(upscaler(models), datamodule=data, return_predictions=False)

    for number in (1, 2, 3):
        prints(tmp_path / "many", f"{number}/3")
        assert not (tmp_path / "many" / "contact_sheet.png").exists()
        told = capsys.readouterr()
        assert "data.share writes the contact sheet" in told.out
        assert ("is empty: there are fewer batches (2) than shares" in told.err) == (number == 2)
    prints(tmp_path / "many")
    assert (tmp_path / "many" / "contact_sheet.png").exists()


def test_a_share_tells_of_its_own_failures_alone(models, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"no picture")
    predict(upscaler(models), UpscaleImages(str(photos), share="1/2"), tmp_path / "prints")
    with pytest.raises(UserError, match="one image could not be upscaled, the others are done"):
        predict(upscaler(models), UpscaleImages(str(photos), share="2/2"), tmp_path / "prints")
    with pytest.raises(UserError, match="one image could not be upscaled, the others are done"):
        predict(upscaler(models), UpscaleImages(str(photos)), tmp_path / "prints")
    assert sorted(files_of(tmp_path / "prints")) == ["a.png", "b.png"]


def test_the_pockets_prints_in_two_shares_are_those_of_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["lightning-drift"])
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        photo(folder / f"{number}.png", size=(24, 16), seed=number)

    def prints(place, *more):
        from helpers.paths import ROOT

        few = ("--model.edm_steps=2", "--model.min_size=64", "--trainer.enable_progress_bar=false")
        (tmp_path / place).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / place)  # so that both pages have the same commands
        words = ("predict", "-c", str(ROOT / "configs" / "supir_pocket.yaml"), f"--data.images={folder}")
        assert main([*words, *few, *more]) == 0
        return capsys.readouterr().out

    prints("one")
    assert [
        prints("many", f"--data.share={share}").count("2 pictures written") for share in ("1/2", "2/2")
    ] == [
        1,
        1,
    ]
    assert "0 pictures written" in prints("many")
    assert files_of(tmp_path / "many" / "prints") == files_of(tmp_path / "one" / "prints")
    assert len(files_of(tmp_path / "one" / "prints")) == 4 + 4 + 1  # prints, their first stages, the page
