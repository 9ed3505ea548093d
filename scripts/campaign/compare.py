"""A folder that was interrupted and gone on with, compared with the unbroken one: nothing may be lost."""

import csv
import html.parser
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from safetensors import SafetensorError, safe_open

from scripts.campaign.events import Story, damage

# A run made afresh has another number in its name; an export says the day.
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
# A card's day changes its hash; an export says what it replaced.
_REPLACED = re.compile(
    r"(?s)Files that it replaced:.*|\n[0-9a-f]{64}  \S*README\.md|The sha256 of the text.*"
)
_OF_RUN = re.compile(r"(.*\.)?(ckpt_path|dict_kwargs|version)")


def is_partial(path: Path, root: Path) -> bool:
    """Whether a file or a folder that it lies in is a partial one."""
    return any("partial" in part or part.endswith(".old") for part in path.relative_to(root).parts)


def files(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in the order of names."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def partials(folder: Path) -> list[str]:
    """Names of partial files and folders, and of what a replaced folder was called meanwhile."""
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if is_partial(path, folder)]


def torn(folder: Path) -> list[str]:
    """Files at their final name that are not whole; after a kill there may be none either.

    Logs, locks and Lightning's own ``hparams.yaml`` are no results; an event file may end in the middle of a
    record that a killed process was writing, and nowhere else.
    """
    found = []
    for path in files(folder):
        if is_partial(path, folder):
            continue
        try:
            if path.name.startswith("events.out"):
                if reason := damage(path, killed=True):
                    found.append(f"{path.relative_to(folder)}: {reason}")
            elif path.name != "hparams.yaml":
                content(path)
        except FileNotFoundError:
            continue  # a fit of a killed corridor goes on meanwhile
        except Exception as error:  # each format's reader has its own
            found.append(f"{path.relative_to(folder)} is torn: {type(error).__name__}: {str(error)[:200]}")
    return found


def content(path: Path) -> dict[str, Any]:
    """What a file holds, as values by name that can be compared.

    Raises:
        Exception: The file is not whole; each format's reader has errors of its own.
    """
    if path.suffix == ".ckpt":
        return flat(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = {key: _DAY.sub("DAY", value) for key, value in (opened.metadata() or {}).items()}
        return {**tensors, **{f"metadata/{key}": value for key, value in metadata.items()}}
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
            return {"size": image.size, "pixels": image.tobytes(), "text": dict(image.info)}
    if path.suffix == ".json":
        return flat(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".yaml":
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert isinstance(values, dict), "it holds no mapping"
        return {key: value for key, value in flat(values).items() if not _OF_RUN.fullmatch(key)}
    if path.suffix == ".csv":
        with open(path, encoding="utf-8", newline="") as file:
            return {str(number): row for number, row in enumerate(csv.reader(file))}
    if path.suffix == ".html":
        return page(path.read_text(encoding="utf-8"))
    if path.suffix in (".md", ".txt") or path.name == "NOTICE":
        text = _DAY.sub("DAY", path.read_text(encoding="utf-8"))
        return {"text": _REPLACED.sub("", text) if "NOTICE" in path.name else text}
    return {}


def page(text: str) -> dict[str, Any]:
    """A page's tags and the data embedded in it.

    Raises:
        ValueError: It does not end as a page does, or its data are no JSON.
    """
    if not text.rstrip().endswith("</html>"):
        raise ValueError("the page does not end in </html>")
    reader = _Page()
    reader.feed(text)
    data = [json.loads(script) for script in reader.data]
    return {"tags": reader.tags, "data": data}


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.data: list[str] = []
        self._in_data = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_data = tag == "script" and dict(attrs).get("type") == "application/json"
        if self._in_data:
            self.data.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data[-1] += data


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested structure as values by path; tensors stay tensors."""
    if isinstance(value, dict) and value:
        items = [(str(key), child) for key, child in value.items()]
    elif isinstance(value, list | tuple) and value:
        items = [(str(index), child) for index, child in enumerate(value)]
    else:
        return {prefix: value}
    return {
        key: leaf
        for name, child in items
        for key, leaf in flat(child, f"{prefix}.{name}" if prefix else name).items()
    }


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal, tensors bit by bit."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        raw = [tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in (left, right)]
        return torch.equal(*raw)
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and bool(left == right)


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Names of values that are missing, too many or different."""
    return [
        key for key in ours | theirs if not (key in ours and key in theirs and same(ours[key], theirs[key]))
    ]


def compare(reference: Path, folder: Path, ignore: str = r"(?!)") -> list[str]:
    """What a folder has lost against the reference: every file, value, picture and point.

    Args:
        reference: The folder of the unbroken run.
        folder: The folder to look at.
        ignore: A regular expression for names, below the folder, that are not compared.

    Returns:
        A line for each loss.
    """
    losses = torn(folder)
    stories: set[Path] = set()
    for path in files(reference):
        name = path.relative_to(reference)
        if re.fullmatch(ignore, str(name)):
            continue
        if path.name.startswith("events.out"):
            stories.add(name.parent)
        elif not (folder / name).is_file():
            losses.append(f"{name} is missing")
        elif path.name != "hparams.yaml" and not any(loss.startswith(str(name)) for loss in losses):
            wrong = differences(content(path), content(folder / name))
            if wrong:
                losses.append(f"{name} differs in {len(wrong)} values: {', '.join(wrong[:5])}")
    for name in sorted(stories):
        told = Story(folder / name)
        losses += [f"{name}: {loss}" for loss in Story(reference / name).lost_in(told)]
    return losses


def whole_export(path: Path) -> bool:
    """Whether an exported file or folder is there with all its parts."""
    try:
        if path.is_dir():
            parts = [path / "model_index.json", path / "unet" / "diffusion_pytorch_model.safetensors"]
            return all(part.is_file() for part in parts) and not torn(path)
        return bool(content(path))
    except (OSError, SafetensorError, ValueError):
        return False
