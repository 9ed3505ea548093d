"""Pages in a headless Chromium, and their tags without one."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)


browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path: the page is not driven")


def chromium(tmp_path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    assert BROWSER is not None
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=180)
    said = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said  # no error in the page's script, nothing blocked
    return result


class Outline(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def overflow(page: Path, tmp_path: Path, width: int) -> int:
    """How many pixels wide the page is in a window of ``width`` pixels."""
    frame, inner = page.with_name("frame.html"), page.with_name("inner.html")
    measure = "onload = () => parent.postMessage(document.documentElement.scrollWidth, '*')"
    inner.write_text(page.read_text().replace("</body>", f"<script>{measure}</script></body>"))
    frame.write_text(
        f"<iframe src='{inner.as_uri()}' style='border:0;width:{width}px;height:800px'></iframe>"
        "<script>onmessage = (e) => document.body.append('measured ' + e.data)</script>"
    )
    document = chromium(tmp_path, "--window-size=1600,900", "--dump-dom", frame.as_uri()).stdout
    found = re.search(r"measured (\d+)", document)
    assert found is not None
    return int(found[1])


def light_and_dark(page: Path, tmp_path: Path) -> list[Image.Image]:
    """The page as a reader with a dark and one with a light screen sees it, 1200x800 RGB."""
    shots = []
    for scheme in (0, 1):
        shot = tmp_path / f"{scheme}.png"
        options = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1200,800")
        chromium(tmp_path, *options, f"--screenshot={shot}", page.as_uri())
        with Image.open(shot) as image:
            shots.append(image.convert("RGB"))
    return shots
