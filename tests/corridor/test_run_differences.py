"""What differs between the runs of a page."""

import html
from pathlib import Path

import yaml
from helpers.corridor_runs import write_run

from lightning_drift.corridor.read import read
from lightning_drift.corridor.report import write_report
from lightning_drift.corridor.run_differences import MOST_OPTIONS, RunDifferences, run_differences


def put(path: Path, option: str, value: object, to: Path | None = None) -> None:
    """Set an option of a configuration, or of a copy of it."""
    content = part = yaml.safe_load(path.read_text())
    *sections, last = option.split(".")
    for section in sections:
        part = part.setdefault(section, {})
    part[last] = value
    (to or path).write_text(yaml.safe_dump(content))


def differing(folder: Path) -> RunDifferences:
    found = run_differences(read(folder))
    assert found is not None
    return found


def texts(folder: Path) -> dict[str, list[str]]:
    return {name: [value.text for value in values] for name, values in differing(folder).options.items()}


def runs(folder: Path, count: int = 2) -> list[Path]:
    """Configurations of runs that differ in learning rate, steps, names and places."""
    paths = []
    for index in range(count):
        path = (
            write_run(folder / f"run{index}", (index + 1) * 1e-6, (8,) if index else (8, 16)) / "config.yaml"
        )
        put(path, "step_checkpoint.dirpath", f"/place/{index}")
        settings = {"save_dir": f"logs{index}", "name": "coffee", "version": f"run{index}"}
        put(path, "trainer.logger.init_args", settings)
        paths.append(path)
    return paths


def test_rates_steps_names_and_places_are_no_differences(tmp_path: Path) -> None:
    runs(tmp_path / "runs")
    assert run_differences(read(tmp_path / "runs")) is None
    write_report(tmp_path / "runs", tmp_path / "page.html")
    assert "What differs between the runs" not in (tmp_path / "page.html").read_text()
    write_run(tmp_path / "one" / "run", 1e-6, (8,))
    assert run_differences(read(tmp_path / "one")) is None


def test_options_have_their_names_and_are_shown_as_text(tmp_path: Path) -> None:
    _, second, third = runs(tmp_path / "runs", 3)
    put(second, "data.init_args.batch_size", 4)
    put(second, "model.init_args.instance_prompt", "<b>a & b</b>")
    put(third, "clip_drift.thresholds.tilt", 0.3)
    put(second, "clip_drift.thresholds.tilt", 0.2)
    assert texts(tmp_path / "runs") == {
        "clip_drift": ["null", "{thresholds: {tilt: 0.2}}", "{thresholds: {tilt: 0.3}}"],
        "data.batch_size": ["null", "4", "null"],
        "model.instance_prompt": ["a photo of sks cup", "<b>a & b</b>", "a photo of sks cup"],
    }
    usual = [value.usual for value in differing(tmp_path / "runs").options["data.batch_size"]]
    assert usual == [True, False, True]
    write_report(tmp_path / "runs", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert f"<td>{html.escape('<b>a & b</b>')}</td>" in page
    assert "<b>a &" not in page.split('<script type="application/json"')[0]


def test_names_with_dots_are_found(tmp_path: Path) -> None:
    first, second = runs(tmp_path)
    for path, guidance in ((first, 3.0), (second, 7.0)):
        groups = {"a.b": {"prompts": "x", "guidance": guidance}, "a": {"prompts": "x"}}
        put(path, "seed_grid.groups", groups)
    assert texts(tmp_path) == {"seed_grid.groups.a.b.guidance": ["3.0", "7.0"]}


def test_a_resume_with_another_value_and_a_soup(tmp_path: Path) -> None:
    _, second = runs(tmp_path)
    put(second, "data.init_args.batch_size", 2, second.with_name("config.resume-00008.yaml"))
    assert texts(tmp_path) == {"data.batch_size": ["null", "null → 2"]}
    soup = write_run(tmp_path / "run0_soup", 1e-6, (8,)) / "config.yaml"
    put(soup, "soup", [0, 1])
    assert texts(tmp_path) == {"data.batch_size": ["null", "null → 2"]}


def test_long_values_are_shown_where_they_differ_and_many_are_counted(tmp_path: Path) -> None:
    first, second = runs(tmp_path / "runs")
    for path, end in ((first, "moon"), (second, "sun")):
        prompts = ["a very long prompt " * 20 + end + " in the sky" * 20]
        put(path, "seed_grid.groups.language.prompts", prompts)
    shown = texts(tmp_path / "runs")["seed_grid.groups.language.prompts"]
    assert ["moon" in shown[0], "sun" in shown[1]] == [True, True]
    assert max(map(len, shown)) < 100
    many = {f"option{index:02d}": index for index in range(MOST_OPTIONS + 2)}
    for name, value in many.items():
        put(second, f"data.init_args.{name}", value)
    found = differing(tmp_path / "runs")
    assert (len(found.options), found.rest) == (MOST_OPTIONS, 3)
    write_report(tmp_path / "runs", tmp_path / "page.html")
    assert '<p class="faint">3 more options differ.</p>' in (tmp_path / "page.html").read_text()
