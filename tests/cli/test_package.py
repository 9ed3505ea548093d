"""The package from outside: cheap to import, whole when installed elsewhere."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.paths import ROOT

import lightning_drift


def test_importing_the_package_loads_no_framework() -> None:
    names = ("torch", "lightning", "diffusers")
    code = f"import sys, lightning_drift; sys.exit(any(name in sys.modules for name in {names}))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_corridor_that_waits_for_its_fits_holds_no_framework_but_torch() -> None:
    names = ("lightning", "diffusers", "transformers", "bitsandbytes")
    modules = "lightning_drift.corridor.command, lightning_drift.corridor.fit_queue"
    code = f"import sys, {modules}; sys.exit(any(name in sys.modules for name in {names}))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_every_public_name_can_be_loaded() -> None:
    assert {name for name in lightning_drift.__all__ if getattr(lightning_drift, name) is None} == set()
    assert set(dir(lightning_drift)) == set(lightning_drift.__all__)


def test_no_two_public_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in sorted((ROOT / "lightning_drift").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert len(homes) > 60
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_the_wheel_installed_elsewhere_runs_the_commands(tmp_path: Path) -> None:
    source, target, elsewhere = tmp_path / "source", tmp_path / "target", tmp_path / "elsewhere"
    shutil.copytree(
        ROOT / "lightning_drift", source / "lightning_drift", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, timeout=300)
    inside = {path.relative_to(source) for path in (source / "lightning_drift").rglob("*") if path.is_file()}
    assert {str(path) for path in inside if not (target / path).is_file()} == set()

    assert not [path for path in target.rglob("*.py") if "training" in path.relative_to(target).parts]

    elsewhere.mkdir()
    grid = ["--seed_grid.num_inference_steps=1", "--seed_grid.groups={dream: {prompts: a lake, seeds: 0-1}}"]
    checkpoint = "tb_logs/coffee/corridor/lr4e-5/checkpoints/last.ckpt"
    here = "import sys; from lightning_drift.cli import main; sys.exit(main({!r}) or main({!r}))"
    predict = ["predict", "--model.num_inference_steps=1", "--data.seeds=0", f"--model.pipeline={checkpoint}"]
    export = ["export", f"--ckpt_path={checkpoint}", "--to=out", "--format=delta", "--measure=false"]
    for words in (
        ["-m", "lightning_drift", "corridor", "--lr=4e-5", "--steps=1", *grid],  # which runs `fit`
        ["-c", here.format(predict, export)],
    ):
        result = subprocess.run(
            [sys.executable, *words],
            cwd=elsewhere,
            env=os.environ | {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, (words, result.stderr[-2000:])
    where = [sys.executable, "-c", "import lightning_drift; print(lightning_drift.__file__)"]
    found = subprocess.run(
        where, cwd=elsewhere, env=os.environ | {"PYTHONPATH": str(target)}, capture_output=True, text=True
    ).stdout
    assert found.startswith(str(target))
    corridor = elsewhere / "tb_logs" / "coffee" / "corridor"
    assert (corridor / "lr4e-5" / "grids" / "dream_step=00000.png").exists()
    assert (corridor / "corridor.html").exists()
    assert len(list((elsewhere / "dreams").glob("*.png"))) == 1
    assert len(list((elsewhere / "out").glob("*.delta.safetensors"))) == 1
