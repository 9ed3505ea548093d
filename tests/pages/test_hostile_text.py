"""Both pages with hostile text in every field, in a browser: shown as text, nothing missing, nothing run."""

import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.browser import browser, chromium
from helpers.corridor_runs import SEEDS, config, write_run
from PIL import Image

from lightning_drift.corridor.report import write_report
from lightning_drift.sweep.cells import Cell
from lightning_drift.sweep.index import Index
from lightning_drift.sweep.page import write_page
from lightning_drift.sweep.sheets import sheets
from lightning_drift.sweep.templates import Prompt

RAN = "document.title='ran'"
HOSTILE = (
    f"<!--<script>{RAN}</script>",
    "<!-- <script> never closed",
    f"</script><script>{RAN}</script>",
    f"</title></style><svg onload={RAN}><img src=x onerror={RAN}>",
    f'" onmouseover="{RAN}" x="',
    f"' autofocus onfocus={RAN} '",
    "]]> <![CDATA[ --> --!> </textarea></noscript></template>",
    "{{ 7 * 7 }} {% raw %} ${7 * 7} `${x}`",
    "&lt;b&gt; &amp;amp; &#60;",
    "\u202egnp.exe \u2066isolated \u200f\u061c",
    "zero\u200bwidth\u200d\ufeff\u2060 soft\u00adhyphen",
    "line\u2028separator\u2029paragraph",
    "**bold** __proto__ constructor",
    "javascript:document.title='ran'",
    "\\u003cscript> \\ \\\\ \\n",
    "\x01\x02\x1b[2J\x7f\x85 control",
    "\U0001f469\u200d\U0001f4bb\U0001f375 čaj 月",
    "long " * 2000,
    "w" * 10_000,
)


TEXTS = """
const texts = (query) => [...document.querySelectorAll(query)].map((each) => each.textContent);
const handlers = "[onerror], [onload], [onfocus], [onmouseover], [autofocus]";
"""


def opened(page: Path, tmp_path: Path, script: str) -> str:
    """The document after the page's scripts and ``script`` ran; what it found is the last element."""
    driven = page.with_name("driven.html")
    tell = (
        "const out = document.createElement('pre'); out.id = 'found';"
        f"out.textContent = JSON.stringify((() => {{ {TEXTS} {script} }})()); document.body.append(out);"
    )
    driven.write_text(page.read_text(encoding="utf-8").replace("</body>", f"<script>{tell}</script></body>"))
    return chromium(tmp_path, "--dump-dom", driven.as_uri()).stdout


def found(document: str) -> Any:
    match = re.search(r'<pre id="found">(.*?)</pre>', document, re.DOTALL)
    assert match is not None
    return json.loads(html.unescape(match[1]))


@browser
def test_the_corridors_page_shows_hostile_text_as_text(tmp_path: Path) -> None:
    folder = tmp_path / "subject"
    for place, text in enumerate(HOSTILE):
        name = re.sub(r"[/\0]", "-", text)[:60].strip()
        verdicts = {8: ("dreaming", None, 41.0)} if place else None
        prompts = ("a", "b") if place else HOSTILE
        run = write_run(folder / f"{place:02}{name}", 1e-6, (8,), verdicts, prompts=prompts)
        changed = config(1e-6, (8,), text, HOSTILE)
        changed["model"]["init_args"]["instance_prompt"] = text
        changed["model"]["init_args"] |= {"pipeline": text, "optimizer": text}
        changed["data"]["init_args"]["instance_dir"] = str(run / "photos")
        photo = run / "photos" / f"{name}.png"
        photo.parent.mkdir()
        Image.new("RGB", (32, 32), "red").save(photo)
        (run / "config.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
        if place % 2:
            (folder / f"{run.name}.error.txt").write_text(text, encoding="utf-8")
    page = folder / "corridor.html"
    write_report(folder, page)
    document = opened(
        page,
        tmp_path,
        """return {title: document.title, h1: texts("h1"), prompts: texts("#pictures h3"),
          rows: texts("table.map th[scope=row]"), options: texts("dd"), config: texts("section pre"),
          alt: [...document.querySelectorAll(".photos img")].map((each) => each.alt),
          scripts: document.scripts.length, images: document.querySelectorAll("#pictures img").length,
          handlers: document.querySelectorAll(handlers).length}""",
    )
    seen = found(document)
    first = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert seen["prompts"] == list(HOSTILE)
    assert seen["rows"] == first
    assert seen["scripts"] == 3  # its data, its script, and the one of this test
    assert seen["handlers"] == 0
    assert seen["title"] == f"{HOSTILE[0]}: the corridor"
    assert seen["h1"] == [HOSTILE[0]]
    assert HOSTILE[0] in seen["options"]
    assert seen["alt"] == [f"photo {HOSTILE[0].replace('/', '-')[:60].strip()}.png"]
    groups = yaml.safe_load(seen["config"][0])["seed_grid"]["groups"]
    assert [groups["dream"]["prompts"], *groups["language"]["prompts"]] == list(HOSTILE)
    assert seen["images"] == len(SEEDS) * len(HOSTILE)  # the base model's, which the first run has
    assert document.rstrip().endswith("</html>")


@browser
def test_the_sweeps_page_shows_hostile_text_as_text(tmp_path: Path) -> None:
    for text in range(2):
        Image.new("RGB", (64, 64), (90 * text, 9, 9)).save(tmp_path / f"{text}.png")
    cells = [Cell(text, Prompt(text, text, ((text, text),)), 0, 3.0, 50, text, 1.0) for text in HOSTILE]
    files = ["0.png"] * len(cells)
    index = Index.of(
        cells, files, ["1.png"] * len(cells), [{"tilt": 1 - place / 100} for place in range(len(cells))]
    )
    names = ("negative_prompt", "height", "width", "generator_device", "dtype", "base")
    facts = dict.fromkeys(names, HOSTILE[0])
    write_page(tmp_path / "sweep.html", index, {"0.png": "0.png"}, HOSTILE[1], facts)
    assert len(list(sheets(index, tmp_path, (None, None), 2))) <= 2
    document = opened(
        tmp_path / "sweep.html",
        tmp_path,
        """document.querySelectorAll(".open")[1].click();
        return {title: document.title, h1: texts("h1"), prompts: texts(".card .prompt"),
          facts: texts("#facts dd"), scripts: document.scripts.length, loupe: texts("#loupe-title"),
          make: texts("#make"), handlers: document.querySelectorAll(handlers).length}""",
    )
    seen = found(document)
    assert seen["prompts"] == list(HOSTILE)
    assert seen["title"] == f"{HOSTILE[1]}: the sweep"
    assert seen["h1"] == [HOSTILE[1]]
    assert seen["loupe"] == [HOSTILE[1]]
    assert HOSTILE[1] in seen["facts"]
    assert seen["scripts"] == 3
    assert seen["handlers"] == 0
    command = shlex.split(seen["make"][0])
    assert command[command.index("--model.base") + 1] == HOSTILE[0]


def test_no_markup_of_a_text_is_left_in_a_page(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 1e-6, (8,), prompts=HOSTILE)
    write_report(tmp_path, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<!--" not in text
    for markup in ("<svg onload", "<img src=x", f"<script>{RAN}"):
        assert markup not in text


@pytest.mark.parametrize("text", HOSTILE)
def test_sheets_take_any_label(text: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1e-6, (8,), prompts=(text,), subject=text)
    write_report(run, tmp_path / "page.html")
    with Image.open(tmp_path / "page.png") as sheet:
        assert sheet.width < 2000
