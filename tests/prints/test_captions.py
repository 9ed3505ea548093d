"""One file with the captions of a folder's pictures: formats, names, hostile files."""

import json

import pytest
from helpers.supir.running import photo

from lightning_drift import UpscaleImages
from lightning_drift.common.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.jpg", "c.png"):
        photo(tmp_path / name, size=(8, 8))
    (tmp_path / "a.txt").write_text("beside")
    (tmp_path / "b.tiles.txt").write_text("left\nright")
    return tmp_path


def captions(folder, name, text, images=None):
    (folder / name).write_text(text, encoding="utf-8")
    data = UpscaleImages(str(images or folder), captions=str(folder / name))
    return {request.path.name: request.captions for request in data.requests}


FILES = {
    "metadata.jsonl": '{"file_name": "a.png", "text": "a  cup,\\n of tea", "width": 3}\n\n'
    '{"file_name": "b", "text": "b"}\r\n',
    "metadata.csv": 'text,file_name,more\r\n"a cup,\nof tea",./a.png,1\r\nb,b.jpg,\r\n',
    "kohya.json": '{"/content/a": {"caption": "a cup, of tea", "tags": "x"}, "b.jpg": {"caption": "b"}}',
    "names.JSON": '{"a.png": "a cup, of tea", "b": "b"}',
}


@pytest.mark.parametrize("name", FILES)
def test_formats(folder, capsys, name):
    assert captions(folder, name, FILES[name]) == {
        "a.png": ("a cup, of tea",), "b.jpg": ("left", "right"), "c.png": ("",),
    }  # fmt: skip
    (folder / "b.tiles.txt").unlink()
    assert captions(folder, name, FILES[name])["b.jpg"] == ("b",)
    assert not capsys.readouterr().err


def test_a_path_comes_before_a_bare_name_and_captions_of_nothing_are_told(folder, capsys):
    (folder / "sub").mkdir()
    photo(folder / "sub" / "c.png", size=(8, 8))
    rows = [{"file_name": "sub/c.png", "text": "below"}, {"file_name": "c.png", "text": "here"}]
    rows += [
        {"file_name": "sub\\d.png", "text": "none"},
        {"file_name": str(folder / "a.png"), "text": "whole"},
    ]
    text = "\n".join(map(json.dumps, rows))
    found = captions(folder, "m.jsonl", text)
    assert (found["c.png"], found["a.png"]) == (("here",), ("whole",))
    assert "captions of 2 images that are not there: sub/c.png, sub\\d.png" in capsys.readouterr().err
    assert captions(folder, "m.jsonl", text, folder / "sub") == {"c.png": ("below",)}


def test_the_same_captions_with_and_without_the_file(folder):
    beside = {r.path.name: r.captions for r in UpscaleImages(str(folder)).requests}
    assert beside["a.png"] == ("beside",)
    off = {r.path.name: r.captions for r in UpscaleImages(str(folder), captions=False).requests}
    assert set(off.values()) == {("",)}


REFUSED = [
    ("m.txt", "a: b", "is not a file of captions; give one in .jsonl, .csv, .json"),
    ("m.jsonl", "", "holds no captions"),
    ("m.jsonl", '{"file_name": "a.png", "text": "x"}\n{"file_name"', "line 2 is not valid JSON"),
    (
        "m.jsonl",
        '{"file_name": "a.png", "caption": "x"}',
        "line 1 lacks text; it has the columns file_name, cap",
    ),
    ("m.jsonl", '["a.png", "x"]', "line 1 is no JSON object"),
    ("m.jsonl", '{"file_name": "a.png", "text": 3}', "line 1 has no text for 'a.png' but 3"),
    ("m.jsonl", '{"file_name": "", "text": "x"}', "line 1 names no image"),
    ("m.jsonl", '{"file_name": "a.png", "text": "\\ud800"}', "not UTF-8"),
    ("m.jsonl", '{"file_name": "a", "text": "x"}\n' * 2, "line 2 names 'a' again, as line 1 does"),
    (
        "m.jsonl",
        '{"file_name": "a", "text": "x"}\n{"file_name": "a.png", "text": "y"}',
        "has several captions of",
    ),
    ("m.csv", "a.png,x\nb.jpg,y", "line 2 lacks file_name and text; it has the columns a.png, x"),
    ("m.csv", "file_name,text\na.png,a cup, of tea", "line 2 has 3 cells instead of 2"),
    ("m.csv", 'file_name,text\na.png,"open', "is not CSV"),
    ("m.csv", "file_name,text\na.png," + "x" * 200_000, "is not CSV"),
    ("m.json", '{"a.png": "x",\n "a.png": "y"}', "entry 2 names 'a.png' again, as entry 1 does"),
    ("m.json", '{"a.png": "x",\n oops}', "line 2 is not valid JSON"),
    ("m.json", '{"a.png": {"tags": "x"}}', "entry 1, 'a.png', lacks caption; it has tags"),
    ("m.json", '["a.png"]', "holds no JSON object"),
    ("m.json", "[" * 100_000, "is not valid JSON"),
    ("m.json", "9" * 10_000, "is not valid JSON"),
]


@pytest.mark.parametrize(("name", "text", "said"), REFUSED)
def test_bad_files_are_sentences(folder, name, text, said):
    with pytest.raises(UserError, match=r"^data\.captions: ") as caught:
        captions(folder, name, text)
    assert said in caught.value.message


def test_one_name_of_two_pictures(folder):
    photo(folder / "a.jpg", size=(8, 8))
    with pytest.raises(UserError, match=r"names 'a', which is both .*a\.jpg and .*a\.png"):
        captions(folder, "m.json", '{"a": "x"}')


def test_a_file_that_is_missing_a_folder_or_huge(folder, monkeypatch):
    for name in ("none.csv", "", "\0"):
        with pytest.raises(UserError, match=r"^data\.captions: "):
            UpscaleImages(str(folder), captions=name)
    (folder / "f.json").mkdir()
    with pytest.raises(UserError, match="is a folder and no file"):
        UpscaleImages(str(folder), captions=str(folder / "f.json"))
    monkeypatch.setattr("lightning_drift.common.files.MAX_TEXT_BYTES", 10)
    with pytest.raises(UserError, match="holds more than"):
        captions(folder, "m.json", '{"a.png": "a long text"}')
