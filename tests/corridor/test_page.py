"""The page as a browser sees it, from disk; without a browser, as text."""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.browser import Outline, browser, chromium, light_and_dark, overflow
from helpers.corridor_runs import PROMPTS, config, write_run
from helpers.odd_texts import ODD_TEXTS
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from lightning_drift.assets import PHOTOS
from lightning_drift.cli import main
from lightning_drift.common.errors import UserError
from lightning_drift.common.prompt_lists import slug
from lightning_drift.corridor.curves import curves
from lightning_drift.corridor.overview import overview
from lightning_drift.corridor.plan import make_plan, take_up
from lightning_drift.corridor.read import read
from lightning_drift.corridor.report import write_report
from lightning_drift.images.overlay import overlay
from lightning_drift.pages.thumbnails import BUDGET, Thumbnails
from lightning_drift.photos.held_out import chosen


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a corridor of two rates and two steps, with one cell without a verdict."""
    folder = tmp_path_factory.mktemp("corridor")
    calm = {8: ("under-drifted", None, 9.0), 16: ("dreaming", None, 41.0)}
    write_run(folder / "lr2e-6", 2e-6, (8, 16), calm)
    write_run(folder / "lr4e-6", 4e-6, (8, 16), {8: ("dreaming", "forgetting", 48.0)})
    write_report(folder, folder / "corridor.html")
    return folder / "corridor.html"


def data(page: Path) -> dict[str, object]:
    text = page.read_text()
    found = re.search(r'<script type="application/json" id="corridor">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    content: dict[str, object] = json.loads(found[1])
    return content


def test_the_page_needs_nothing_but_itself(page: Path) -> None:
    outline = Outline(page.read_text())
    for tag, attributes in outline.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, str(value)[:80])
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|import\(", page.read_text())
    assert "default-src 'none'" in page.read_text()


def test_all_pictures_are_there_once_and_have_words(page: Path) -> None:
    content = data(page)
    cells, pictures = content["cells"], content["pictures"]
    assert isinstance(cells, list)
    assert isinstance(pictures, list)
    used = [index for run in cells for cell in run for row in cell["pictures"] for index in row]
    assert len(used) == 2 * 3 * 4  # runs, steps with the base, prompts x seeds
    assert -1 not in used
    assert set(used) == set(range(len(pictures)))
    assert len(set(pictures)) == len(pictures)
    assert cells[0][0]["pictures"] == cells[1][0]["pictures"]  # the base is the same
    assert [prompt["text"] for prompt in content["prompts"]] == list(PROMPTS)  # type: ignore[attr-defined]
    for tag, attributes in Outline(page.read_text()).tags:
        assert tag != "img" or "alt" in attributes


def test_the_map_the_choice_and_the_recipe_are_there_without_scripts(page: Path) -> None:
    text = page.read_text()
    labels = [
        attributes["aria-label"]
        for tag, attributes in Outline(text).tags
        if tag == "button" and attributes.get("data-step") not in (None, "0")
    ]
    assert labels == [
        "lr 2e-6, 8 steps: under-drifted, 9 of 100",
        "lr 2e-6, 16 steps: dreaming, 41 of 100, the chosen checkpoint",
        "lr 4e-6, 8 steps: dreaming, borderline forgetting, 48 of 100",
        "lr 4e-6, 16 steps: not measured",
    ]
    export = f"lightning-drift export --ckpt_path {page.parent}/lr2e-6/checkpoints/step=00016.ckpt"
    assert f"{export} --to exports --title coffee-lr2e-6-step00016" in text
    assert "At learning rate 2e-6 and 16 steps the model dreams: 41 of 100." in text
    assert "<dt>instance prompt</dt><dd>a photo of sks cup</dd>" in text
    assert text.count('alt="photo 0') == 8  # the bundled photos
    assert "<h3>adherence</h3>" in text
    assert 'class="rate r0 interval"' in text
    assert "<b>" not in text.replace(json.dumps(PROMPTS[1])[1:-1].replace("</", "<\\/"), "")


def test_without_drift_values_the_page_still_shows_everything(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "lr2e-6_000", 2e-6, (8, 16))
    assert main(["corridor", "report", str(folder)]) == 0
    text = (folder / "corridor.html").read_text()
    assert "No verdict is available, so none is chosen" in text
    assert text.count('<span class="label plain">not measured</span>') == 2
    assert "<h3>tilt</h3>" in text  # what needs no CLIP was measured
    with Image.open(folder / "corridor.png") as sheet:
        assert sheet.width > 3 * 192
    assert main(["corridor", "report", str(folder), "--to", str(tmp_path / "other" / "page.html")]) == 0
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"page.html", "page.png"}


def test_a_corridor_of_which_nothing_ran_is_a_page_too(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 2e-6, (8,))
    shutil.rmtree(folder / "grids")
    write_report(folder, tmp_path / "page.html")
    assert read(folder).cells["run", 8].state == "not measured"


def test_a_planned_corridor_says_that_nothing_ran_and_opens_at_what_failed(tmp_path: Path) -> None:
    fit = config(1e-6, (8,))
    fit["trainer"]["logger"]["init_args"]["save_dir"] = str(tmp_path)
    plan = take_up(make_plan(fit, "1e-6,2e-6", "8,16", "corridor"))
    page = tmp_path / "page.html"
    write_report(plan.folder, page)
    text = page.read_text()
    assert '<p class="lead">No fit has run yet.</p>' in text
    assert '<p class="sentence">No fit has run yet.</p>' in text
    assert "Nothing has been measured yet." in text
    assert data(page)["start"] == [0, 0]
    (plan.folder / "lr2e-6.error.txt").write_text("the loss is not finite at step 3")
    write_report(plan.folder, page)
    assert (
        '<p class="lead">No fit has reached a milestone, and at least one has failed.</p>' in page.read_text()
    )
    assert data(page)["start"] == [1, 1]


def test_held_out_photos_have_dashed_curves_and_are_marked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "lr2e-6", 2e-6, (8, 16))
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["data"]["init_args"]["held_out"] = 2
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    with SummaryWriter(str(run)) as writer:
        for step in (0, 4, 8, 12, 16):
            writer.add_scalar("drift/loss_held_out", 1 - step / 40, step)
            if step % 8 == 0:
                writer.add_scalar("drift/loss_trained", 1 - step / 20, step)
    table = read(tmp_path, own=True)
    (curve,) = (curve for curve in curves(table, decides=False) if curve.has_beside)
    solid, dashed = curve.lines
    assert (solid.beside, dashed.beside) == (False, True)
    assert (solid.path.count("L"), dashed.path.count("L")) == (2, 4)
    assert "learning rate 2e-6, dashed, ends at 0.6" in curve.summary
    write_report(tmp_path, tmp_path / "corridor.html", own=True)
    text = (tmp_path / "corridor.html").read_text()
    outline = Outline(text)
    marked = [attributes for tag, attributes in outline.tags if attributes.get("class") == "held-out"]
    names = [path.name for path in sorted((PHOTOS / "coffee").iterdir())]
    held_out = [names[index] for index in chosen(names, 2, 0)]
    assert [attributes["alt"] for attributes in marked] == [f"photo {name}, held out" for name in held_out]
    assert f"never trained on ({', '.join(held_out)})" in text
    assert sum(str(a.get("class", "")).endswith("line beside") for _, a in outline.tags) == 1
    # A number that no fit can have had marks none.
    settings["data"]["init_args"]["held_out"] = 99
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    write_report(tmp_path, tmp_path / "corridor.html", own=True)
    assert 'class="held-out"' not in (tmp_path / "corridor.html").read_text()


def test_the_training_loss_is_averaged_over_the_same_steps_in_all_runs(tmp_path: Path) -> None:
    for name, last, every, shift in (("lr2e-6", 1600, 1, 0), ("lr4e-6", 800, 10, 1)):
        run = write_run(tmp_path / name, float(name[2:]), (8,))
        with SummaryWriter(str(run)) as writer:
            for step in range(every, last + 1, every):
                # In every 50 steps the mean is 2, and 3 in the second run, whatever single steps say.
                noise = 1.0 if (step // every) % 5 else -4.0
                writer.add_scalar("train/loss", 2 + shift + noise, step)
    table = read(tmp_path)
    (curve,) = (curve for curve in curves(table, decides=False) if curve.title == "training loss")
    assert curve.about.endswith("Each point is the mean of what was logged in 50 steps.")
    assert [line.path.count("L") + 1 for line in curve.lines] == [32, 16]
    heights = [{point.split(" ")[1] for point in line.path[1:].split("L")} for line in curve.lines]
    marks = {mark.text: str(mark.at) for mark in curve.rules}
    assert heights == [{marks["2"]}, {marks["3"]}]
    assert curve.summary.endswith("learning rate 2e-6 ends at 2; learning rate 4e-6 ends at 3")
    assert curve.lines[0].path.endswith(f"L{curve.RIGHT:.1f} {marks['2']}")


def test_few_losses_are_drawn_as_they_are_and_none_where_none_was_logged(tmp_path: Path) -> None:
    run = write_run(tmp_path / "lr2e-6", 2e-6, (8,))
    assert "training loss" not in [curve.title for curve in curves(read(tmp_path), decides=False)]
    with SummaryWriter(str(run)) as writer:
        for step in range(1, 9):
            writer.add_scalar("train/loss", step / 8, step)
    (curve,) = (curve for curve in curves(read(tmp_path), decides=False) if curve.title == "training loss")
    assert len(curve.lines[0].dots) == 8
    assert curve.about == "It says nothing about the zone."


def test_runs_of_one_rate_go_by_their_names(tmp_path: Path) -> None:
    for name, position in (("first", 41.0), ("second", 45.0)):
        write_run(tmp_path / name, 2e-6, (8,), {8: ("dreaming", None, position)})
    write_report(tmp_path, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert '<p class="eyebrow">Corridor, 2 fits × 1 milestone</p>' in text
    assert '<p class="lead">After 8 steps of second the model dreams: 45 of 100.</p>' in text
    assert "<title>first, step 8: 41</title>" in text
    assert "position over optimizer steps: first ends at 41; second ends at 45" in text


def test_a_run_without_pictures_of_the_base_shows_those_of_another(tmp_path: Path) -> None:
    for rate in (2e-6, 4e-6):
        write_run(tmp_path / f"lr{rate:g}", rate, (8,), side=64)
    table = read(tmp_path)
    whole = overview(table)
    shutil.rmtree(tmp_path / "lr4e-06" / "grids" / "step=00000")
    write_report(tmp_path, tmp_path / "page.html")
    cells: Any = data(tmp_path / "page.html")["cells"]
    assert cells[1][0]["pictures"] == cells[0][0]["pictures"]
    assert overview(read(tmp_path)).tobytes() == whole.tobytes()


@pytest.fixture(scope="module")
def odd_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all odd texts as prompts."""
    folder = write_run(tmp_path_factory.mktemp("odd") / "run", 2e-6, (8,), prompts=ODD_TEXTS)
    write_report(folder, folder / "corridor.html")
    return folder / "corridor.html"


def test_prompts_are_never_read_as_html(odd_page: Path, page: Path) -> None:
    text = odd_page.read_text()
    content = data(odd_page)
    assert [prompt["text"] for prompt in content["prompts"]] == list(ODD_TEXTS)  # type: ignore[attr-defined]
    assert "<!--" not in text
    kinds = [{tag for tag, _ in Outline(each.read_text()).tags} for each in (odd_page, page)]
    assert kinds[0] <= kinds[1]
    found = re.search(r"<pre[^>]*>(.*?)</pre>", text, re.DOTALL)
    assert found is not None
    groups = yaml.safe_load(html.unescape(found[1]))["seed_grid"]["groups"]
    assert [groups["dream"]["prompts"], *groups["language"]["prompts"]] == list(ODD_TEXTS)


def test_the_page_names_what_measured_and_where_the_thresholds_come_from(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 2e-6, (8,), {8: ("dreaming", None, 41.0)})
    plain = yaml.safe_load((run / "config.yaml").read_text())
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "calibrated on the pocket model; not yet checked on Stable Diffusion v1.5"),
        ({"tilt": 0.4}, "tilt 0.4 set by hand; the others calibrated on the pocket model"),
        ({"source": "7 labels of <b>"}, "calibrated on 7 labels of &lt;b&gt;."),
        ({"tilt": "x"}, "those of run are damaged in its record"),
    ]
    for thresholds, said in cases:
        drift = {"clip": "some/clip", "image_model": "some/dino", "thresholds": thresholds}
        (run / "config.yaml").write_text(yaml.safe_dump(plain | {"clip_drift": drift}))
        write_report(tmp_path, tmp_path / "page.html")
        text = (tmp_path / "page.html").read_text()
        assert f"Thresholds of the verdicts: {said}" in text
        assert "<dt>measured by</dt><dd>some/clip</dd>" in text
        assert "<dt>pictures compared by</dt><dd>some/dino</dd>" in text


def test_many_large_pictures_stay_within_the_budget(tmp_path: Path) -> None:
    paths = []
    for index in range(40):
        path = tmp_path / f"{index}.png"
        Image.effect_noise((512, 512), 60).convert("RGB").save(path)  # nothing compresses worse
        paths.append(path)
    many = Thumbnails(paths * 9)
    assert many.count == 40
    assert many.side == 512
    crowd = Thumbnails(paths)
    crowd_side = crowd._fitting_side(paths * 20)
    assert crowd_side < 512
    sizes = [len(crowd.uris[crowd.add(path)]) * 3 / 4 for path in paths]
    assert sum(sizes) < BUDGET


# -- in a browser -------------------------------------------------------------------------------------------


def dump(page: Path, tmp_path: Path, script: str = "", fragment: str = "") -> str:
    """The document after the page's own script and ``script`` ran, as Chromium writes it out."""
    driven = tmp_path / "driven.html"
    driven.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    result = chromium(tmp_path, "--dump-dom", f"{driven.as_uri()}{fragment}")
    return result.stdout


def place(document: str) -> str:
    found = re.search(r'<p class="where">(.*?)</p>', document)
    assert found is not None
    return found[1]


def pressed(key: str, times: int = 1, on: str = "document.querySelector('table.map button')") -> str:
    event = f"new KeyboardEvent('keydown', {{key: '{key}', bubbles: true, cancelable: true}})"
    return f"for (let i = 0; i < {times}; i++) {on}.dispatchEvent({event});"


@browser
def test_the_page_opens_at_the_chosen_cell_and_keys_scrub(page: Path, tmp_path: Path) -> None:
    document = dump(page, tmp_path)
    assert place(document) == "lr 2e-6 × 16"
    assert '<span class="chip dreaming">dreaming</span>' in document
    assert 'aria-label="position 41 of 100"' in document
    # 2 prompts x 2 seeds, base and checkpoint side by side, each told in words
    alts = re.findall(r'<img[^>]*alt="([^"]*seed[^"]*)"', document)
    assert sum(alt.endswith("base model") for alt in alts) == 4
    assert sum(alt.endswith("lr 2e-6 × 16") for alt in alts) == 4

    assert place(dump(page, tmp_path, pressed("ArrowLeft"))) == "lr 2e-6 × 8"
    assert place(dump(page, tmp_path, pressed("ArrowLeft", 5))) == "base model"
    document = dump(page, tmp_path, pressed("ArrowDown") + pressed("ArrowLeft"))
    assert place(document) == "lr 4e-6 × 8"
    assert "borderline forgetting" in document
    # Up and down scroll the page where no cell or picture has the focus.
    assert place(dump(page, tmp_path, pressed("ArrowDown", on="document.body"))) == "lr 2e-6 × 16"


@browser
def test_prompts_are_shown_as_they_are(odd_page: Path, tmp_path: Path) -> None:
    document = dump(odd_page, tmp_path)
    titles = re.findall(r"<h3>(.*?)</h3><div class=\"strips\">", document)
    assert [html.unescape(title) for title in titles] == list(ODD_TEXTS)
    assert document.rstrip().endswith("</html>")
    assert place(document) == "lr 2e-6 × 8"


@browser
def test_an_address_leads_to_a_cell_and_the_loupe_compares(page: Path, tmp_path: Path) -> None:
    document = dump(page, tmp_path, fragment="#lr4e-6/16")
    assert place(document) == "lr 4e-6 × 16"
    assert "Not measured" in document
    look = "document.querySelectorAll('.now button')[1].click();"
    document = dump(page, tmp_path, look + pressed("ArrowLeft", on="document.body"))
    assert re.search(r"<dialog[^>]* open", document)
    assert re.search(r'id="loupe-now"[^>]*alt="[^"]*seed 3, lr 2e-6 × 8"', document)
    assert re.search(r'id="loupe-beside"[^>]*alt="[^"]*seed 3, base model"', document)
    hold = pressed("b", on="document.body")
    assert 'class="small-pictures showing-base"' in dump(page, tmp_path, hold)


def test_without_maps_there_is_nothing_to_lay_over(page: Path) -> None:
    text = page.read_text()
    assert 'id="maps"' not in text
    cells = data(page)["cells"]
    assert all(cell["maps"] is None for run in cells for cell in run)  # type: ignore[attr-defined]


@browser
def test_maps_are_laid_over_the_pictures_of_their_cell(tmp_path: Path) -> None:
    run = write_run(tmp_path / "lr2e-6", 2e-6, (8, 16), {16: ("dreaming", None, 41.0)})
    first = f"{slug(PROMPTS[0])}_seed0003"
    opacity = Image.linear_gradient("L").resize((16, 16))
    overlay(opacity).save(run / "grids" / "step=00016" / f"{first}_map.png")
    (run / "grids" / "step=00008" / f"{first}_map.png").write_bytes(b"damaged")
    write_report(tmp_path, tmp_path / "corridor.html")
    page = tmp_path / "corridor.html"
    shown = '<img src="data:image/webp;base64,[^"]*" alt="" class="map">'
    assert not re.search(shown, dump(page, tmp_path))
    on = pressed("m", on="document.body")
    document = dump(page, tmp_path, on)
    assert len(re.findall(shown, document)) == 1
    assert 'id="maps" aria-pressed="true"' in document
    assert not re.search(shown, dump(page, tmp_path, on + on))
    # The damaged one is passed over, and the base has none.
    assert not re.search(shown, dump(page, tmp_path, on + pressed("ArrowLeft")))
    assert not re.search(shown, dump(page, tmp_path, on + pressed("b", on="document.body")))
    look = "document.querySelectorAll('.now button')[1].click();"
    document = dump(page, tmp_path, look + on)
    assert re.search(r'<img id="loupe-now-map" class="map" alt="" src="data:', document)
    assert re.search(r'id="loupe-now-map"[^>]*hidden', dump(page, tmp_path, look + on + pressed("ArrowLeft")))


@browser
@pytest.mark.parametrize("width", [375, 1440])
def test_nothing_is_wider_than_the_screen(page: Path, tmp_path: Path, width: int) -> None:
    assert overflow(page, tmp_path, width) <= width


@browser
def test_the_page_is_light_or_dark_as_the_reader_has_it(page: Path, tmp_path: Path) -> None:
    grounds = []
    for image in light_and_dark(page, tmp_path):
        assert image.size == (1200, 800)
        assert len(image.getcolors(2**24) or []) > 50  # something is on it
        grounds.append(sum(image.getpixel((2, 2))))  # type: ignore[arg-type]
    assert grounds[0] < 120 < 600 < grounds[1]


def test_a_report_writes_over_nothing_but_an_earlier_report(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 2e-6, (8,))
    page, sheet = tmp_path / "notes.html", tmp_path / "notes.png"
    for path in (page, sheet):
        path.write_text("mine")
        with pytest.raises(UserError, match=path.name):
            write_report(tmp_path, page)
        assert path.read_text() == "mine"
        path.unlink()
    for _ in range(2):
        write_report(tmp_path, page)
