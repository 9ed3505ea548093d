"""The dreaming stage: files, names, parameters, what is skipped and what is never overwritten."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fits import fit
from PIL import Image

from lightning_drift.common.errors import UserError
from lightning_drift.common.number_lists import integers
from lightning_drift.common.prompt_lists import read_prompts, slug
from lightning_drift.dreams.dreamer import Dreamer, Prompts
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.images.infotext import infotext


def parse_as_a1111(text: str) -> dict[str, str]:
    """How the web UI reads ``parameters``: pairs in the last line, prompt and negative before it."""
    *lines, last = text.strip().split("\n")
    pairs = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    if len(pairs) < 3:
        lines, pairs = [*lines, last], []
    fields = {"prompt": [], "negative": []}
    where = "prompt"
    for line in lines:
        if line.strip().startswith("Negative prompt:"):
            where, line = "negative", line.strip()[len("Negative prompt:") :].strip()
        fields[where].append(line)
    return {name: "\n".join(part) for name, part in fields.items()} | dict(pairs)


def render(trainer: Any, folder: Path, tiny_sd: str, *, seeds: str = "0-2", **options: Any) -> ImageWriter:
    prompts = options.pop("prompts", ["a tree, a moon", "a lake"])
    batch_size = options.pop("batch_size", 4)
    writer = ImageWriter(str(folder))
    dreamer = Dreamer(options.pop("pipeline", tiny_sd), num_inference_steps=2, **options)
    trainer(callbacks=[writer]).predict(
        dreamer, datamodule=Prompts(prompts, seeds, batch_size), return_predictions=False
    )
    return writer


def test_a_picture_for_each_prompt_and_seed_with_its_parameters(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    render(trainer, tmp_path, tiny_sd, negative_prompt="blur, haze: strong")
    names = {path.name for path in tmp_path.iterdir()}
    pictures = {f"{prompt}_seed{seed:04d}.png" for prompt in ("a-tree-a-moon", "a-lake") for seed in range(3)}
    assert names == pictures | {"contact_sheet.png"}
    with Image.open(tmp_path / "a-tree-a-moon_seed0002.png") as image:
        fields = parse_as_a1111(image.text["parameters"])
        assert image.size == (64, 64)
    assert fields["prompt"] == "a tree, a moon"
    assert fields["negative"] == "blur, haze: strong"
    assert {
        key: fields[key] for key in ("Steps", "Sampler", "CFG scale", "Seed", "Size", "Model", "RNG")
    } == {
        "Steps": "2",
        "Sampler": "DDIM",
        "CFG scale": "3",
        "Seed": "2",
        "Size": "64x64",
        "Model": "tiny_sd",
        "RNG": "CPU",
    }
    assert re.fullmatch(r"[0-9a-f]{10}", fields["Model hash"])


def test_what_is_there_is_skipped_and_what_is_damaged_is_made_again(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    first = render(trainer, tmp_path, tiny_sd)
    assert (len(first.written), len(first.skipped)) == (6, 0)
    whole = (tmp_path / "a-lake_seed0001.png").read_bytes()
    (tmp_path / "a-lake_seed0001.png").write_bytes(whole[:-200])  # as a copy interrupted would leave it
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*seed*.png")}
    second = render(trainer, tmp_path, tiny_sd, seeds="0-3")
    assert len(second.skipped) == 5
    assert {path.name for path in second.written} >= {"a-lake_seed0003.png", "a-tree-a-moon_seed0003.png"}
    assert len(second.written) == 3
    unchanged = [
        path for path in tmp_path.glob("*seed*.png") if path.stat().st_mtime_ns == stamps.get(path.name)
    ]
    assert len(unchanged) >= 5


def test_a_picture_made_otherwise_is_kept_beside_the_new_one(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    render(trainer, tmp_path, tiny_sd, seeds="0")
    before = (tmp_path / "a-lake_seed0000.png").read_bytes()
    other = render(trainer, tmp_path, tiny_sd, seeds="0", guidance_scale=7.5)
    assert (tmp_path / "a-lake_seed0000.png").read_bytes() == before
    assert all(re.search(r"_seed0000_[0-9a-f]{8}\.png$", path.name) for path in other.written)
    again = render(trainer, tmp_path, tiny_sd, seeds="0", guidance_scale=7.5)
    assert (len(again.written), len(again.skipped)) == (0, 2)


def test_prompts_with_one_file_name_do_not_overwrite_each_other(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    writer = render(trainer, tmp_path, tiny_sd, seeds="0", prompts=["a, b", "a b"])
    assert len(set(writer.written)) == 2
    again = render(trainer, tmp_path, tiny_sd, seeds="0", prompts=["a b", "a, b"])
    assert (len(again.written), len(again.skipped)) == (0, 2)


def test_the_batch_size_does_not_change_a_picture(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    for size in (1, 5):
        render(trainer, tmp_path / str(size), tiny_sd, batch_size=size)
    for path in (tmp_path / "1").glob("*seed*.png"):
        left, right = (np.asarray(Image.open(tmp_path / size / path.name), dtype=int) for size in "15")
        assert np.abs(left - right).max() <= 1


def test_two_devices_share_the_pictures_without_making_one_twice(tiny_sd: str, tmp_path: Path) -> None:
    """Two processes of the real command; an odd count, so that the shares differ."""
    import os
    import subprocess
    import sys

    command = [
        *(sys.executable, "-m", "lightning_drift", "predict", f"--model.pipeline={tiny_sd}"),
        *("--model.num_inference_steps=2", "--data.seeds=0-6", "--data.batch_size=2"),
        *(
            "--data.prompts=a lake",
            "--trainer.devices=2",
            "--trainer.strategy=ddp",
            "--trainer.accelerator=cpu",
        ),
        *("--image_writer.output_dir", str(tmp_path / "two")),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        *(f"a-lake_seed{seed:04d}.png" for seed in range(7)),
        "contact_sheet.png",
    }
    assert "7 pictures written" in result.stdout  # four by the first process, three by the other


def test_an_unfinished_fits_checkpoint_dreams(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    fit(tiny_sd, trainer, tmp_path / "checkpoints", 2)
    render(trainer, tmp_path / "base", tiny_sd, seeds="0")
    render(
        trainer, tmp_path / "tuned", tiny_sd, seeds="0", pipeline=str(tmp_path / "checkpoints" / "last.ckpt")
    )
    base, tuned = (Image.open(tmp_path / name / "a-lake_seed0000.png") for name in ("base", "tuned"))
    hashes = [parse_as_a1111(image.text["parameters"])["Model hash"] for image in (base, tuned)]
    assert hashes[0] != hashes[1]
    assert not np.array_equal(np.asarray(base), np.asarray(tuned))
    base.close()
    tuned.close()


def test_a_folder_that_cannot_be_made_is_named(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"image_writer.output_dir: cannot make the folder .*file/dreams"):
        render(trainer, tmp_path / "file" / "dreams", tiny_sd)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"guidance_scale": -1.0}, "model.guidance_scale: -1 is out of range"),
        ({"height": 101}, "model.height: 101 is not a multiple of"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(
    tiny_sd: str, trainer: Any, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        render(trainer, tmp_path, tiny_sd, **options)


def test_number_lists_read_what_people_write() -> None:
    assert integers("800,1200,1600", "steps") == [800, 1200, 1600]
    assert integers("0-3, 7,2", "seeds") == [0, 1, 2, 3, 7]
    assert integers(5, "seeds") == [5]
    assert integers([3, "4-5"], "seeds") == [3, 4, 5]
    for bad, sentence in [
        ("", "'' is not a whole number"),
        ("1.5", "'1.5' is not"),
        ("-3", "'-3' is not"),
        ("9-2", "runs backwards; write 2-9"),
        ("0-99999999", "more than 100,000"),
        (True, "True is not a list of whole numbers"),
    ]:
        with pytest.raises(UserError, match=f"seeds: .*{sentence}"):
            integers(bad, "seeds")


def test_prompts_keep_their_commas_and_come_from_files_too(tmp_path: Path) -> None:
    assert read_prompts("monumental, dramatic", "p") == ["monumental, dramatic"]
    assert read_prompts("", "p") == [""]
    assert read_prompts(["a", "b", "a"], "p") == ["a", "b"]
    file = tmp_path / "prompts.txt"
    file.write_text("# artists\nby Turner\n\nby Böcklin, dusk\nby Turner\n", encoding="utf-8")
    assert read_prompts(str(file), "p") == ["by Turner", "by Böcklin, dusk"]
    file.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_prompts(str(file), "p")
    file.write_text("# nothing\n")
    with pytest.raises(UserError, match="holds no prompt"):
        read_prompts(str(file), "p")


def test_file_names_are_safe_and_tell_long_prompts_apart() -> None:
    assert slug("Ünder the Sea / by Böcklin?!") == "ünder-the-sea-by-böcklin"
    assert slug("../../etc/passwd") == "etc-passwd"
    long = "a painting of " + "very " * 40
    assert slug(long + "old men") != slug(long + "young men")
    assert max(len(slug(long)), len(slug(""))) <= 80
    assert slug("") != slug("!!!")


def test_values_that_would_break_the_parameters_line_are_quoted() -> None:
    text = infotext("p", "", {"Steps": 1, "Sampler": "DDIM", "Model": 'my "model", v1: b'})
    assert parse_as_a1111(text)["Model"] == '"my \\"model\\", v1: b"'


@pytest.mark.parametrize(
    ("rows", "count", "told", "widest"),
    [
        ("", 110, "", 9000),
        ("a", 110, "shows 100 of 110 pictures", 9000),
        ("", 10_001, "10,000 of 10,001", 9500),
    ],
)
def test_a_contact_sheet_of_many_pictures_stays_of_a_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: str, count: int, told: str, widest: int
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    writer = ImageWriter(str(tmp_path))
    writer._write_sheet({(rows, f"photo {number}"): tmp_path / "a.png" for number in range(count)})
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert max(sheet.size) < widest
    said = capsys.readouterr().err
    assert told in said
    assert bool(told) == bool(said)
