"""Proofs: parts of prints at several settings, their sheet, and the way from one to the print in full."""

import shlex

import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.proofs import data_of
from helpers.supir.running import opened, photo, pixels, predict, upscaler
from PIL import Image

from lightning_drift import OpenUpscaler, Proofs, SupirUpscaler, UpscaleImages
from lightning_drift.cli import main
from lightning_drift.common.errors import UserError
from lightning_drift.prints.detail import busiest


def test_where_most_detail_is():
    levels = np.full((300, 400, 3), 90, np.uint8)
    levels[200:260, 60:120] = np.random.default_rng(0).integers(0, 255, (60, 60, 3))
    levels[:, 380:] = np.arange(300, dtype=np.uint8)[:, None, None]
    image = Image.fromarray(levels)
    across, down = busiest(image, (0, 0, 400, 300))
    assert abs(across * 400 - 90) < 12
    assert abs(down * 300 - 230) < 12
    # What paper crops away does not count: of the right half the ramp is the busiest.
    assert busiest(image, (200, 0, 400, 300))[0] > 0.8
    assert busiest(Image.new("RGB", (1, 1)), (0, 0, 1, 1)) == (0.25, 0.25)


@pytest.mark.parametrize("passes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_cells_are_parts_of_the_print_at_other_settings(models, tmp_path, passes):
    """On paper; the cell with the print's own settings has its pixels."""
    photo(tmp_path / "a.png", size=(24, 24))
    paper = {"images": str(tmp_path / "a.png"), "print": "7x7mm"}
    module = upscaler(models, min_size=64, passes=passes, stage1=True)
    printed = predict(module, UpscaleImages(**paper), tmp_path / "prints").written[0]
    # Cells differ in their settings alone; a part that is larger than the print is all of it.
    cells = {"control_scale": [0.4, 0.9], "s_cfg": 3, "steps": None, "side": 4096, "at": "1,0"}
    data = Proofs(**paper, **cells, page=True)
    written = predict(module, data, tmp_path / "proofs").written
    assert [path.name for path in written] == ["a_control0.4_cfg3.png", "a_control0.9_cfg3.png"]
    first, second = (pixels(path).astype(int) for path in written)
    assert np.abs(second - pixels(printed)).max() <= 1
    assert np.abs(first - second).mean() > 0.2
    text = opened(written[0]).text["parameters"]
    for part in ("Steps: 2,", "CFG scale: 3,", "Control scale: 0.4,", "Detail: 4096 pixels at 1 0,"):
        assert part in text
    sheet = tmp_path / "proofs" / "a_proof.png"
    assert sorted(path.name for path in sheet.parent.iterdir()) == [
        *(path.name for path in written), sheet.name, "proof.html",
    ]  # fmt: skip
    assert opened(sheet).text["Software"] == "lightning-drift proof sheet"
    assert opened(sheet).height > 2 * 192  # small cells are enlarged
    (item,) = data_of(tmp_path / "proofs" / "proof.html")["items"]
    assert item["views"] == []
    assert item["sheet"]["rows"] == [0.4, 0.9]
    assert item["sheet"]["about"] == "4096 pixels a side, 100% from the left and 0% from the top, 2 steps"

    # What is missing is made again, with the same bits; a file of another's stays.
    kept = written[1].read_bytes()
    written[1].unlink()
    page = sheet.with_name("proof.html")
    page.write_text("mine")
    sheet.unlink()
    again = predict(module, data, tmp_path / "proofs")
    assert (again.written, again.skipped) == ([written[1]], [written[0]])
    assert written[1].read_bytes() == kept
    assert page.read_text() == "mine"
    assert sheet.is_file()
    sheet.write_bytes(b"mine")
    predict(module, data, tmp_path / "proofs")
    assert sheet.read_bytes() == b"mine"


def test_a_part_has_its_side_and_as_much_around_it_as_is_processed(tmp_path):
    photo(tmp_path / "a.png", size=(60, 40))
    module = SupirUpscaler(min_size=256, passes=2)
    for side, wanted in ((100, 100), (None, 256)):
        (request,) = Proofs(
            str(tmp_path / "a.png"), print="10x8cm", control_scale=1, s_cfg=1, side=side, at="1,0"
        ).requests
        request.look()
        frames, sheet = module.frames(request)
        assert sheet is None
        left, top, right, bottom = frames[-1].crop
        assert (right - left, bottom - top) == (wanted, wanted)
        assert (right, top) == (frames[-1].output[0], 0)
        assert [min(frame.work) for frame in frames] == [256, 256]


def test_all_cells_of_a_picture_are_of_its_busiest_part(photos):
    data = Proofs(str(photos), num_samples=2)
    assert len(data.requests) == 2 * 2 * 9
    for request in data.requests:
        request.look()
    places = [{str(cell.detail.at) for cell in cells} for _, cells in data.sheets]
    assert [len(place) for place in places] == [1] * 4
    assert places[0] == places[1] != places[2]
    assert [request.name for request, _ in data.sheets] == ["a", "a_2", "b", "b_2"]
    assert {cell.changes for _, cells in data.sheets for cell in cells} == {
        (("control_scale", control), ("s_cfg", scale), ("steps", 10))
        for control in (0.6, 0.9, 1)
        for scale in (1.5, 3, 6)
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"control_scale": "0.5,2"}, "data.control_scale: 2 is out of range; give one from 0 to 1"),
        ({"s_cfg": "high"}, "data.s_cfg: 'high' is not a list of numbers"),
        ({"s_cfg": []}, "data.s_cfg: the list of numbers is empty"),
        (
            {"control_scale": [k / 100 for k in range(50)], "s_cfg": list(range(9))},
            "gives 450 cells of a sheet",
        ),
        ({"steps": 1}, "data.steps: 1 is out of range; give one from 2 to 999"),
        ({"side": 16}, "data.side: 16 is out of range; give one from 32 to 8192"),
        ({"at": "middle"}, "data.at: 'middle' is not a place; write it as 0.5,0.3"),
        ({"at": [0.5, 1.5]}, "data.at: 1.5 is out of range; give one from 0 to 1"),
        ({"at": "0.5,nan"}, "data.at: nan is out of range"),
        ({"num_samples": 0}, "data.num_samples"),
    ],
)
def test_what_cannot_be_proved_is_a_sentence(photos, options, said):
    with pytest.raises(UserError) as caught:
        Proofs(str(photos), **options)
    assert said in str(caught.value)


def test_an_upscaler_without_these_settings_makes_no_proofs(photos, tmp_path):
    with pytest.raises(UserError, match=r"which lightning_drift\.SupirUpscaler alone has"):
        predict(OpenUpscaler(), Proofs(str(photos)), tmp_path / "out")


@pytest.mark.slow
def test_from_the_page_to_proofs_and_from_a_cell_to_the_print(tmp_path, monkeypatch, capsys):
    """Every command is the one that a page gives."""
    monkeypatch.setattr("sys.argv", ["lightning-drift"])
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "in" / "it's.png", size=(16, 16))
    words = ["predict", "-c", str(ROOT / "configs" / "supir_pocket.yaml"), "--data.images=in"]
    words += ["--model.edm_steps=2", "--model.min_size=64", "--trainer.enable_progress_bar=false"]
    assert main(words) == 0
    (item,) = data_of(tmp_path / "prints" / "proof.html")["items"]
    make = shlex.split(dict(item["commands"])["Make its proof sheet"])
    assert make[-2:] == ["--image_writer.output_dir", "prints/proofs"]
    assert str(ROOT / "configs" / "proof.yaml") in make
    assert main([*make[1:], "--data.control_scale=0.5", "--data.s_cfg=2,4", "--data.steps=2"]) == 0
    (proofs,) = data_of(tmp_path / "prints" / "proofs" / "proof.html")["items"]
    assert main(words) == 0
    (item,) = data_of(tmp_path / "prints" / "proof.html")["items"]
    assert item["sheet"]["cells"] == [
        {**cell, "picture": len(item["views"]) + cell["picture"], "command": picked["command"]}
        for cell, picked in zip(proofs["sheet"]["cells"], item["sheet"]["cells"], strict=True)
    ]
    # The same print by either page's command.
    for sheet, written in ((proofs["sheet"], "1 picture written"), (item["sheet"], "0 pictures written")):
        capsys.readouterr()
        assert main(shlex.split(sheet["cells"][1]["command"])[1:]) == 0
        assert written in capsys.readouterr().out
    (printed,) = (path for path in (tmp_path / "prints").glob("it's_*.png") if "stage1" not in path.name)
    assert "Steps: 2, Sampler: edm, CFG scale: 4, Control scale: 0.5," in opened(printed).text["parameters"]
