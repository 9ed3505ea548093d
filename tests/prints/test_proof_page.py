"""What lies on the proof page of prints, where its pictures are, and the commands that it gives."""

import base64
import os
import shlex

import numpy as np
import pytest
import yaml
from helpers.odd_texts import ODD_TEXTS
from helpers.paths import ROOT
from helpers.proofs import cell, data_of, lanczos, levels_of
from helpers.supir.running import opened, photo, pixels, predict, upscaler
from PIL import Image

from lightning_drift import OpenUpscaler, UpscaleImages
from lightning_drift.cli import main
from lightning_drift.common.errors import UserError
from lightning_drift.common.text import shell_word
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.prints import proof_pictures
from lightning_drift.prints.command_words import print_command, proof_command
from lightning_drift.prints.proof_sheets import proof_files


@pytest.mark.parametrize("passes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_views_lie_on_each_other_whatever_the_paper_crops(models, tmp_path, passes):
    """Bicubic as Pillow makes it of the part that is printed, the print without its border, stage 1."""
    photo(tmp_path / "in" / "a.png", size=(30, 20))
    data = UpscaleImages(str(tmp_path / "in"), print="12x10mm", border="1mm", page=True)
    module = upscaler(models, min_size=64, passes=passes, stage1=True)
    writer = predict(module, data, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.png", "a_stage1.png", "proof.html",
    ]  # fmt: skip
    found = data_of(tmp_path / "out" / "proof.html")
    (item,) = found["items"]
    assert item["commands"] == []  # nobody gave a command line
    assert dict(item["facts"])["On paper"] == "12x10mm at 300 dpi"
    shown = {view["name"]: levels_of(found["pictures"][view["picture"]]) for view in item["views"]}
    assert list(shown) == ["Source", "Bicubic", "Stage 1", "Print"]
    sheet = data.requests[0].paper.sheet(30, 20)
    left, top = sheet.place
    wide, high = sheet.picture
    assert item["size"] == [wide, high] == [118, 94]
    assert np.array_equal(shown["Print"], pixels(writer.written[0])[top : top + high, left : left + wide])
    source = opened(tmp_path / "in" / "a.png")
    bicubic = source.resize((wide, high), Image.Resampling.BICUBIC, box=sheet.box)
    assert np.array_equal(shown["Bicubic"], np.asarray(bicubic))
    # The source's part and the print show the same: enlarged alike, the middles agree.
    view = item["views"][0]
    part = Image.fromarray(shown["Source"].astype(np.uint8)).resize((wide, high), 3, box=tuple(view["part"]))
    inside = np.s_[6:-6, 6:-6]
    assert np.abs(np.asarray(part, int) - shown["Bicubic"])[inside].max() <= 1
    # Stage 1 is of the print's size, and neither the print nor the enlargement.
    assert np.array_equal(shown["Stage 1"], pixels(tmp_path / "out" / "a_stage1.png"))
    for name in ("Bicubic", "Print"):
        assert np.abs(shown["Stage 1"] - shown[name]).mean() > 1

    assert dict(item["facts"]).get("Passes", "1") == f"{passes}"  # the stage is the last one's

    # A run that goes on makes what is missing alone, and the same bits.
    kept = (tmp_path / "out" / "a_stage1.png").read_bytes()
    again = predict(module, data, tmp_path / "out")
    assert not again.written
    (tmp_path / "out" / "a_stage1.png").unlink()
    predict(module, data, tmp_path / "out")
    assert (tmp_path / "out" / "a_stage1.png").read_bytes() == kept


def test_too_many_pictures_lie_in_files_beside_the_page(tmp_path, monkeypatch):
    photo(tmp_path / "in" / "a b #1.png", size=(40, 30))
    photo(tmp_path / "in" / "c.png", size=(30, 40), seed=1)
    lanczos(str(tmp_path / "in"), tmp_path / "out")
    embedded = data_of(tmp_path / "out" / "proof.html")
    assert not (tmp_path / "out" / "proof_pictures").exists()
    monkeypatch.setattr(proof_pictures, "BUDGET", 12_000)  # the first print's fit
    lanczos(str(tmp_path / "in"), tmp_path / "out")
    page = tmp_path / "out" / "proof.html"
    assert "lie in the folder proof_pictures beside this page" in page.read_text()
    linked = data_of(page)
    assert linked["items"] == embedded["items"]
    assert all(address.startswith("proof_pictures/") for address in linked["pictures"])
    assert "a%20b%20%231_Source" in linked["pictures"][0]
    files = {path.name: path.read_bytes() for path in (tmp_path / "out" / "proof_pictures").iterdir()}
    assert sorted(files.values()) == sorted(
        base64.b64decode(address.partition(",")[2]) for address in embedded["pictures"]
    )
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "proof_pictures").iterdir()}
    lanczos(str(tmp_path / "in"), tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_only_a_page_of_ours_is_replaced_and_a_share_writes_none(tmp_path, capsys):
    photo(tmp_path / "a.png")
    lanczos(str(tmp_path / "a.png"), tmp_path / "out", share="1/1")
    assert not (tmp_path / "out" / "proof.html").exists()
    (tmp_path / "out" / "proof.html").write_text("<title>mine</title>")
    lanczos(str(tmp_path / "a.png"), tmp_path / "out")
    assert (tmp_path / "out" / "proof.html").read_text() == "<title>mine</title>"
    assert "proof.html is no page of lightning-drift's prints; it stays" in capsys.readouterr().err
    (tmp_path / "out" / "proof.html").unlink()
    lanczos(str(tmp_path / "a.png"), tmp_path / "out")
    os.utime(tmp_path / "out" / "proof.html", (1, 1))
    lanczos(str(tmp_path / "a.png"), tmp_path / "out")
    assert (tmp_path / "out" / "proof.html").stat().st_mtime > 1


def test_a_page_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    photo(tmp_path / "a.png")
    (tmp_path / "out" / "proof.html").mkdir(parents=True)
    lanczos(str(tmp_path / "a.png"), tmp_path / "out")  # a folder is somebody's
    (tmp_path / "out" / "proof.html").rmdir()
    (tmp_path / "out" / "proof_pictures").write_text("mine")
    monkeypatch.setattr(proof_pictures, "BUDGET", 0)
    with pytest.raises(UserError, match="the same command goes on"):
        lanczos(str(tmp_path / "a.png"), tmp_path / "out")
    assert (tmp_path / "out" / "proof_pictures").read_text() == "mine"


def test_prints_in_tiff_are_on_the_page(tmp_path):
    photo(tmp_path / "a.png", size=(40, 30))
    data = UpscaleImages(str(tmp_path / "a.png"), page=True, bits=16)
    writer = ImageWriter(str(tmp_path / "out"), "tiff", contact_sheet=False)
    predict(OpenUpscaler(upscale=3.0), data, tmp_path / "out", writer=writer)
    found = data_of(tmp_path / "out" / "proof.html")
    assert levels_of(found["pictures"][found["items"][0]["views"][-1]["picture"]]).shape == (90, 120, 3)


def test_hostile_names_and_proofs_are_shown_as_text_or_passed_over(tmp_path):
    for place, text in enumerate(ODD_TEXTS):
        name = text.replace("/", "|")
        photo(tmp_path / "in" / f"{name}.png", size=(8, 8), seed=place).with_suffix(".txt").write_text(text)
    requests = UpscaleImages(str(tmp_path / "in")).requests
    for request in requests:
        request.look()
    proofs = tmp_path / "out" / "proofs"
    proofs.mkdir(parents=True)
    first, second = requests[0], requests[1]
    cell(proofs, first.name, first, 0.6, 3, text=", X: </script><b>")
    cell(proofs, first.name, first, 0.7, 3, text=", X: </script><b>")
    (proofs / f"{first.name}_control0.8_cfg3.png").write_bytes(b"no picture")
    (proofs / f"{first.name}_control0.9_cfg3.png").symlink_to("/dev/zero")
    cell(proofs, second.name, first, 0.6, 3)  # of another picture
    cell(proofs, requests[2].name, requests[2], 7, 3)
    damaged = cell(proofs, requests[3].name, requests[3], 0.5, 3)
    damaged.write_bytes(damaged.read_bytes()[:-40])
    assert len(proof_files(proofs)) == 4
    lanczos(str(tmp_path / "in"), tmp_path / "out")
    page = tmp_path / "out" / "proof.html"
    text = page.read_text()
    assert "<b>" not in text
    assert "<!--" not in text
    items = data_of(page)["items"]
    assert [item["name"] for item in items] == [request.name for request in requests]
    assert [item["sheet"] and item["sheet"]["rows"] for item in items] == [[0.6, 0.7], *[None] * 6]
    for item in items:
        command = dict(item["commands"])["Make this print again"]
        assert command.endswith(shell_word(str(tmp_path / "in" / f"{item['name']}.png")))


# -- commands ----------------------------------------------------------------------------------------------


def test_commands_keep_what_was_asked_for_and_set_what_was_picked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("data: {class_path: lightning_drift.Proofs}\n")
    words = [
        *("predict", "-c", "configs/supir.yaml", "--data.images=photos", "--data.share", "1/2"),
        *("--model.s_cfg", "2", "--model.init_args.control_scale=0.5", "--data.print", "40x40cm"),
    ]
    picked = {"control_scale": 0.6, "s_cfg": 1.5}
    path = tmp_path / "a b.png"
    assert shlex.split(print_command(words, path, picked)) == [
        *("lightning-drift", "predict", "-c", "configs/supir.yaml", "--data.print", "40x40cm"),
        *("--data.images", str(path), "--model.control_scale", "0.6", "--model.s_cfg", "1.5"),
    ]
    proofs = shlex.split(proof_command(words, path, tmp_path / "out"))
    assert proofs[1:] == [
        *("predict", "-c", "configs/supir.yaml", "--model.s_cfg", "2", "--model.init_args.control_scale=0.5"),
        *("--data.print", "40x40cm", "-c", "configs/proof.yaml", "--data.images", str(path)),
        *("--image_writer.output_dir", str(tmp_path / "out" / "proofs")),
    ]
    # A cell of proofs is printed without what belongs to proofs, above their folder.
    of_proofs = [
        *("predict", "-cconfigs/supir.yaml", "--config=mine.yaml", "--data.images", "a.png", "--data.at=0,1"),
        *("--image_writer.output_dir", "out/proofs", "--data.steps", "4"),
    ]
    assert shlex.split(print_command(of_proofs, path, picked))[1:] == [
        *("predict", "-cconfigs/supir.yaml", "--image_writer.output_dir", "out", "--data.images", str(path)),
        *("--model.control_scale", "0.6", "--model.s_cfg", "1.5"),
    ]
    (tmp_path / "mine.yaml").write_text("data: {class_path: x.Proofs}\nmodel: {class_path: y.Z}\n")
    kept = shlex.split(print_command([*of_proofs[:3], "--data", "lightning_drift.Proofs"], path))
    assert kept[1:6] == [
        "predict",
        "-cconfigs/supir.yaml",
        "--config=mine.yaml",
        "--data",
        "lightning_drift.UpscaleImages",
    ]


def test_a_command_of_a_page_says_to_the_parser_what_was_picked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["lightning-drift"])
    monkeypatch.chdir(tmp_path)
    path = tmp_path / '["a\'b"].png'
    words = [
        "predict",
        "-c",
        str(ROOT / "configs" / "supir_pocket.yaml"),
        "--data.images=in",
        "--data.dpi=200",
    ]

    def parsed(command):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main([*shlex.split(command)[1:], "--print_config"])
        found = yaml.safe_load(capsys.readouterr().out)
        return found["model"]["init_args"], found["data"], found["image_writer"]

    proofs = proof_command(words, path, tmp_path / "prints")
    _, data, writer = parsed(proofs)
    assert data["class_path"] == "lightning_drift.Proofs"
    assert (data["init_args"]["images"], data["init_args"]["dpi"]) == (str(path), 200)
    assert writer["output_dir"] == str(tmp_path / "prints" / "proofs")
    model, data, writer = parsed(
        print_command(shlex.split(proofs)[1:], path, {"control_scale": 0.6, "s_cfg": 1.5})
    )
    assert (model["control_scale"], model["s_cfg"], model["edm_steps"]) == (0.6, 1.5, 30)
    assert data["class_path"] == "lightning_drift.UpscaleImages"
    assert (data["init_args"]["images"], data["init_args"]["dpi"]) == (str(path), 200)
    assert writer["output_dir"] == str(tmp_path / "prints")
