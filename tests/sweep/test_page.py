"""The ranking page as a browser sees it, from disk: 5,000 pictures, sorted, filtered, pinned, compared."""

import html
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.browser import Outline, browser, chromium, light_and_dark, overflow
from helpers.odd_texts import ODD_TEXTS
from PIL import Image

from lightning_drift.cli import main
from lightning_drift.images.overlay import overlay
from lightning_drift.stable_diffusion.sampling_drift import read_sampling_drift
from lightning_drift.sweep.cells import Cell
from lightning_drift.sweep.index import Index
from lightning_drift.sweep.page import write_page
from lightning_drift.sweep.sheets import sheets
from lightning_drift.sweep.summary import tables
from lightning_drift.sweep.templates import Prompt

COUNT = 5000
ODD = "</script><b>'bold\" #1: [a]"
FACTS = {"negative_prompt": "", "height": None, "width": None, "generator_device": "cpu", "dtype": "auto"}


def write(folder: Path, count: int, checkpoint: str = "run/step=01200.ckpt") -> Path:
    """A page of so many cells over sixteen picture files."""
    (folder / "images").mkdir(parents=True)
    for number in range(16):
        pixels = np.full((64, 64, 3), (number * 16, 90, 200 - number * 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    for number in range(count):
        os.link(folder / f"{number % 15 + 1}.png", folder / "images" / f"{number} #.png")
    shutil.move(folder / "0.png", folder / "images" / "base #.png")
    cells, measures = [], []
    for number in range(count):
        prompt = Prompt(ODD if number == 7 else f"a tower {number % 500}", "odd" if number == 7 else "towers")
        cells.append(Cell("sweep", prompt, number // 500, 3.0, 50, checkpoint, (0.5, 1.0)[number % 2]))
        measures.append({"drift_from_base": number / count, "tilt": 1 - number / count})
    files = [f"images/{number} #.png" for number in range(count)]
    index = Index.of(cells, files, ["images/base #.png"] * count, measures)
    page = folder / "sweep.html"
    small = {name: name for name in (*files, "images/base #.png")}
    write_page(page, index, small, folder.name, FACTS | {"base": None})
    return page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("many"), COUNT)


def test_the_page_needs_nothing_but_the_pictures_beside_it(page: Path) -> None:
    text = page.read_text()
    for tag, attributes in Outline(text).tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), (tag, name, str(value)[:80])
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|import\(", text)
    assert "default-src 'none'" in text
    assert "<b>" not in text
    assert "\\u003c/script>\\u003cb>" in text
    assert len(text) < 1_500_000


@pytest.fixture(scope="module")
def odd_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all odd texts as prompts."""
    folder = tmp_path_factory.mktemp("odd")
    Image.new("RGB", (64, 64)).save(folder / "0.png")
    cells = [Cell("sweep", Prompt(text), 0, 3.0, 50, "pocket", 1.0) for text in ODD_TEXTS]
    files = ["0.png"] * len(cells)
    index = Index.of(cells, files, files, [{"tilt": 1 - place / 100} for place in range(len(cells))])
    write_page(folder / "sweep.html", index, {}, ODD_TEXTS[0], FACTS | {"base": None})
    return folder / "sweep.html"


def test_prompts_are_never_read_as_html(odd_page: Path, page: Path) -> None:
    text = odd_page.read_text()
    found = re.search(r'<script type="application/json" id="index">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    prompts = next(each for each in json.loads(found[1])["parameters"] if each["name"] == "prompt")
    assert prompts["values"] == list(ODD_TEXTS)
    assert "<!--" not in text
    kinds = [{tag for tag, _ in Outline(each.read_text()).tags} for each in (odd_page, page)]
    assert kinds[0] <= kinds[1]
    rows = [html.unescape(row) for row in re.findall(r'<th scope="row">(.*?)</th>', text)]
    assert rows == [" ".join(each.split()) for each in ODD_TEXTS]  # the table's own spacing
    assert f"<h1>{html.escape(ODD_TEXTS[0])}</h1>" in text


def test_means_and_sheets_follow_from_the_index(page: Path) -> None:
    cells = [
        Cell("sweep", Prompt("a tower"), seed, scale, steps, "x.ckpt", 1.0)
        for scale in (1.0, 10.0)
        for steps in (20, 50)
        for seed in (0, 1)
    ]
    measures = [{"tilt": cell.guidance_scale / 10 + cell.seed} for cell in cells]
    index = Index.of(cells, ["images/1 #.png"] * 8, [], measures)
    by_scale, by_steps, grid = tables(index)
    assert (by_scale.title, by_scale.head) == ("By guidance scale", ["guidance scale", "pictures", "tilt"])
    assert by_scale.lines == [["1", "4", "0.600"], ["10", "4", "1.500"]]
    assert by_steps.lines == [["20", "4", "1.050"], ["50", "4", "1.050"]]
    assert (grid.head[1:], grid.lines[1]) == (["20", "50"], ["10", "1.500", "1.500"])
    found = dict(sheets(index, page.parent, (None, None), 9))
    assert list(found) == [
        "sweep_guidance_scale-by-num_inference_steps_0",
        "sweep_guidance_scale-by-num_inference_steps_1",
    ]
    assert len(dict(sheets(index, page.parent, ("seed", "guidance_scale"), 1))) == 1


# -- in a browser -------------------------------------------------------------------------------------------


def dump(page: Path, tmp_path: Path, script: str = "") -> str:
    """The document after the page's own script and ``script`` ran, as Chromium writes it out."""
    driven = page.with_name("driven.html")
    driven.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    return chromium(tmp_path, "--dump-dom", driven.as_uri()).stdout


def cards(document: str) -> list[int]:
    return [int(row) for row in re.findall(r'<article class="card" data-row="(\d+)"', document)]


def counted(document: str) -> str:
    found = re.search(r'id="count"[^>]*>(.*?)</p>', document)
    assert found is not None
    return found[1]


SET = "const set = (e, v, k = 'input') => { e.value = v; e.dispatchEvent(new Event(k, { bubbles: true })); };"
SORT = "set(document.getElementById('sort'), 'tilt', 'change');"


@browser
def test_of_5000_pictures_few_are_made_at_once_and_any_order_is_there(page: Path, tmp_path: Path) -> None:
    document = dump(page, tmp_path)
    assert counted(document) == "5,000 of 5,000 pictures"
    shown = cards(document)
    assert shown[:3] == [COUNT - 1, COUNT - 2, COUNT - 3]  # the largest drift first
    assert 20 <= len(shown) <= 400
    assert document.count('loading="lazy"') == len(shown)
    assert 'src="images/' in document
    up = "document.getElementById('direction').click();"
    assert cards(dump(page, tmp_path, SET + SORT))[:2] == [0, 1]
    assert cards(dump(page, tmp_path, SET + SORT + up))[:2] == [COUNT - 1, COUNT - 2]


@browser
def test_prompts_are_shown_as_they_are(odd_page: Path, tmp_path: Path) -> None:
    document = dump(odd_page, tmp_path)
    shown = re.findall(r'<p class="prompt">(.*?)</p>', document)
    assert [html.unescape(prompt) for prompt in shown] == list(ODD_TEXTS)
    assert document.rstrip().endswith("</html>")


@browser
def test_parameters_measures_and_words_filter(page: Path, tmp_path: Path) -> None:
    tick = "document.querySelector('[data-parameter=drift][value=\"0\"]').click();"
    words = "set(document.getElementById('words'), 'TOWER 17');"
    ends = "[['from', '0.5'], ['to', '0.6']].forEach(([side, v]) => "
    ends += "set(document.querySelector(`[data-measure=drift_from_base][data-side=${side}]`), v));"
    assert counted(dump(page, tmp_path, SET + tick)) == "2,500 of 5,000 pictures"
    assert counted(dump(page, tmp_path, SET + ends)) == "501 of 5,000 pictures"
    document = dump(page, tmp_path, SET + tick + words + ends)
    assert len(cards(document)) == 5 == int(counted(document).split()[0])
    assert all(row % 2 == 0 and 2500 <= row <= 3000 and "17" in str(row % 500) for row in cards(document))
    nothing = "set(document.getElementById('words'), 'nowhere');"
    assert 'id="none">' in dump(page, tmp_path, SET + nothing)
    again = nothing + "document.querySelector('[type=reset]').click();"
    assert counted(dump(page, tmp_path, SET + again)) == "5,000 of 5,000 pictures"


@browser
def test_pins_stay_and_a_picture_is_compared_with_its_base(page: Path, tmp_path: Path) -> None:
    pin = "document.querySelectorAll('.pin')[2].click();"
    only = "document.getElementById('pinned').click();"
    assert cards(dump(page, tmp_path, pin + only)) == [COUNT - 3]
    assert cards(dump(page, tmp_path, only)) == [COUNT - 3]  # the browser kept it
    paired = dump(page, tmp_path, "document.getElementById('base').click();")
    assert paired.count('class="px beside"') == len(cards(paired)) >= 20
    look = "document.querySelectorAll('.open')[1].click();"
    key = "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));"
    document = dump(page, tmp_path, look)
    assert re.search(r"<dialog[^>]* open", document)
    assert 'id="loupe-base" class="px" alt="a tower 498, base model" src="images/base%20%23.png"' in document
    assert '<h2 id="loupe-title">a tower 498</h2>' in document
    assert '<h2 id="loupe-title">a tower 497</h2>' in dump(
        page, tmp_path, look + key.replace("document.", "document.body.", 1)
    )


@browser
def test_maps_are_laid_over_cards_and_loupe(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    overlay(Image.linear_gradient("L").resize((64, 64))).save(tmp_path / "0_map.png")
    schedule = read_sampling_drift("0/1@0.4", "x")
    cells = [Cell("sweep", Prompt("a tower"), 0, 3.0, 50, "run/a.ckpt", 1.0, a) for a in (0.0, schedule)]
    index = Index.of(cells, ["0.png"] * 2, [], [{}] * 2, [None, "0_map.png"])
    index.save(tmp_path / "index.csv")
    assert [row.get("map_file") for row in Index.load(tmp_path / "index.csv").rows] == [None, "0_map.png"]
    page = tmp_path / "sweep.html"
    write_page(page, index, {}, "maps", FACTS | {"base": None})
    assert 'class="map"' not in re.sub(r'<img id="loupe-map"[^>]*>', "", dump(page, tmp_path))
    on = "document.getElementById('map').click();"
    document = dump(page, tmp_path, on)
    assert document.count('<img src="0_map.png" alt="" loading="lazy" class="map">') == 1
    look = "document.querySelectorAll('.open')[1].click();"
    key = "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'm', bubbles: true}));"
    document = dump(page, tmp_path, look + key)
    assert re.search(r'<img id="loupe-map" class="map" alt="" src="0_map.png">', document)
    (make, _) = commands(document)
    assert make[make.index("--model.sampling_drift") + 1] == "0/1@0.4"
    assert make[make.index("--model.drift_map") + 1] == "true"


@browser
def test_without_measures_parameters_order_the_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    cells = [Cell("sweep", Prompt("a tower"), seed, 3.0, 50, "pocket", 1.0) for seed in (1, 0)]
    for count, shown in ((2, [1, 0]), (1, [0])):
        index = Index.of(cells[:count], ["0.png"] * count, [], [{}] * count)
        write_page(tmp_path / "sweep.html", index, {}, "bare", FACTS | {"base": None})
        document = dump(tmp_path / "sweep.html", tmp_path)
        assert cards(document) == shown
        options = re.findall(r'<option value="(\w+)">', document)
        assert options == (["seed"] if count == 2 else [])
        assert ('<label id="sorted" hidden="">' in document) is (count == 1)
        assert "Nothing was measured, so there is nothing to average." in document
        assert "about-title" not in document


def commands(document: str) -> list[list[str]]:
    found = [re.search(rf'<code id="{name}"[^>]*>(.*?)</code>', document) for name in ("make", "print")]
    return [shlex.split(html.unescape(match[1])) for match in found if match]


@browser
def test_the_command_makes_the_picture_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-drift"])
    monkeypatch.chdir(tmp_path)
    page = write(tmp_path / "sweep", 8, "pocket")
    document = dump(page, tmp_path, "document.querySelectorAll('.open')[0].click();")
    make, printed = commands(document)
    assert make[:2] == ["lightning-drift", "predict"]
    assert json.loads(make[make.index("--data.prompts") + 1]) == [ODD]
    assert printed == [
        *(["lightning-drift", "predict", "-c", "configs/supir.yaml", "--data.images"]),
        f"{page.parent}/images/7 #.png",
    ]
    make[make.index("--model.num_inference_steps") + 1] = "1"
    quiet = ["--trainer.enable_progress_bar=false", "--image_writer.output_dir=again"]
    assert main([*make[1:], *quiet]) == 0
    (picture,) = (tmp_path / "again").glob("*.png")
    with Image.open(picture) as image:
        assert image.text["parameters"].startswith(ODD + "\n")


@browser
@pytest.mark.parametrize("width", [375, 1440])
def test_nothing_is_wider_than_the_screen(page: Path, tmp_path: Path, width: int) -> None:
    assert overflow(page, tmp_path, width) <= width


@browser
def test_pictures_are_shown_light_or_dark(page: Path, tmp_path: Path) -> None:
    grounds = []
    for image in light_and_dark(page, tmp_path):
        colours = {colour for _, colour in image.getcolors(2**24) or []}
        grounds.append(sum(image.getpixel((2, 2))))  # type: ignore[arg-type]
        # The files are loaded from disk: their colours are there, up to the screen's profile.
        near = [max(map(abs, (r - 80, g - 90, b - 160))) for r, g, b in colours]
        assert min(near) < 25
    assert grounds[0] < 120 < 600 < grounds[1]
