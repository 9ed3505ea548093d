"""The command as a person meets it: what runs, what is said, where things go."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.commands import OPTIONS
from helpers.paths import DATA, ROOT

from lightning_drift.assets import DEFAULTS
from lightning_drift.cli import main

CONFIGS = ROOT / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: Any) -> None:
    """A working directory of one's own, and a command line that is not pytest's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-drift"])
    monkeypatch.delenv("LIGHTNING_DRIFT_RUN", raising=False)


def say(capsys: Any, *words: str) -> tuple[int, str, str]:
    """Run the command in this process: exit status, standard output, standard error."""
    try:
        status = main(list(words))
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(scope="module")
def finished(tmp_path_factory: Any) -> Path:
    """A folder in which a short fit has run."""
    folder = tmp_path_factory.mktemp("finished")
    command = [
        sys.executable,
        "-m",
        "lightning_drift",
        "fit",
        f"--model.pipeline={DATA / 'tiny_sd'}",
        *OPTIONS,
    ]
    command += ["--trainer.max_steps=4", "--step_checkpoint.steps=2", "--seed_grid.steps=0,2"]
    one_thread = os.environ | {
        "OMP_NUM_THREADS": "1"
    }  # as in this process: other numbers of threads round otherwise
    result = subprocess.run(command, cwd=folder, env=one_thread, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    (folder / "said.txt").write_text(result.stdout)
    (folder / "warned.txt").write_text(result.stderr)
    return folder


RUN = Path("tb_logs/coffee/lr1e-4_000")


def test_a_fit_writes_only_into_its_run_folder(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {"tb_logs", "said.txt", "warned.txt"}
    assert {path.name for path in (finished / "tb_logs").iterdir()} == {
        "coffee",
        ".posteriors",
        ".drift",
        ".pictures",
    }
    files = {
        path.relative_to(finished / RUN).as_posix() for path in (finished / RUN).rglob("*") if path.is_file()
    }
    events = {name for name in files if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert files - events == {
        ".claim/free",  # what another computer would claim the run by
        "config.yaml",
        "hparams.yaml",
        "instance_images.png",
        "checkpoints/last.ckpt",
        "checkpoints/step=00002.ckpt",
        "grids/dream_step=00000.png",
        "grids/dream_step=00002.png",
        "grids/dream_drift.png",
        "grids/language_step=00000.png",
        "grids/language_step=00002.png",
        "grids/language_drift.png",
        "drift/step=00000.json",
        "drift/step=00002.json",
        *(
            f"grids/step={step:05d}/{prompt}_seed{seed:04d}.png"
            for step in (0, 2)
            for seed in (0, 1)
            for prompt in ("a-tree-a-moon", "a-desert", "a-forest")
        ),
    }


def test_a_fit_says_where_everything_is_and_warns_of_nothing(finished: Path) -> None:
    said, warned = (finished / "said.txt").read_text(), (finished / "warned.txt").read_text()
    assert f"The run is in {RUN}" in said
    assert "step 2: " in said  # the verdict
    assert "tensorboard --logdir tb_logs" in said
    assert f"lightning-drift predict --model.pipeline {RUN}/checkpoints/last.ckpt" in said
    bars = ("grid at step", "\x1b[A")
    lines = [line for line in warned.splitlines() if line.strip() and not any(bar in line for bar in bars)]
    plan, disk, *others = lines
    assert plan.startswith("lightning-drift: plan: steps 0 to 4, 2 grids of 6 pictures; memory full")
    assert disk.startswith("lightning-drift: disk: checkpoints take up to ")
    assert others == ["lightning-drift: encoding the photos once"]


def test_a_run_is_named_in_its_configuration(finished: Path) -> None:
    config = yaml.safe_load((finished / RUN / "config.yaml").read_text())
    logger = config["trainer"]["logger"]["init_args"]
    assert (logger["save_dir"], logger["name"], logger["version"]) == ("tb_logs", "coffee", RUN.name)
    assert "seed" not in config["model"]["init_args"]  # one seed for all: seed_everything


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> str:
    """The finished run, here, to be gone on with."""
    shutil.copytree(finished / "tb_logs", tmp_path / "tb_logs")
    return str(RUN / "config.yaml")


def test_a_finished_run_is_extended_and_says_what_changed(copied: str, capsys: Any) -> None:
    status, out, err = say(capsys, "fit", "-c", copied, "--ckpt_path", "last", "--trainer.max_steps", "6")
    assert status == 0, err
    assert f"going on at step 4 in {RUN}" in err
    assert "6/6" in out  # the bar counts on towards max_steps
    assert "4/6" in out
    assert "0/6" not in out
    record = (RUN / "config.resume-00004.yaml").read_text()
    changed = [line for line in record.splitlines() if line.startswith("# changed")]
    assert changed == ["# changed: trainer.max_steps: 4 -> 6"]
    assert [path.name for path in RUN.parent.iterdir()] == [RUN.name]


def test_a_finished_run_has_nothing_left_to_do(copied: str, capsys: Any) -> None:
    status, _, err = say(capsys, "fit", "-c", copied, "--ckpt_path", "last")
    assert status == 2
    assert "is at step 4 and trainer.max_steps is 4: there is nothing left to do" in err


def test_without_a_checkpoint_a_used_run_is_not_written_into(copied: str, capsys: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in RUN.rglob("*")}
    status, _, err = say(capsys, "fit", "-c", copied, "--trainer.max_steps=1", "--seed_grid.steps=")
    assert status == 0, err
    assert f"{RUN} holds a run; starting afresh in tb_logs/coffee/lr1e-4_001" in err
    assert {path: path.stat().st_mtime_ns for path in RUN.rglob("*")} == before
    assert (RUN.with_name("lr1e-4_001") / "checkpoints" / "last.ckpt").exists()


def test_last_with_nothing_saved_is_an_error_and_not_a_fresh_start(copied: str, capsys: Any) -> None:
    shutil.rmtree(RUN / "checkpoints")
    status, _, err = say(capsys, "fit", "-c", copied, "--ckpt_path", "last")
    assert status == 2
    assert f"ckpt_path: {RUN} holds no checkpoint to resume from" in err
    status, _, err = say(capsys, "fit", "--ckpt_path", "last")
    assert status == 2
    assert "no run is named; pass the run's own configuration" in err


def test_a_damaged_checkpoint_beside_a_good_one_is_passed_over(copied: str, capsys: Any) -> None:
    damaged = RUN / "checkpoints" / "step=00002.ckpt"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    words = ("fit", "-c", copied, "--ckpt_path", "last", "--trainer.max_steps=5", "--seed_grid.steps=")
    status, _, err = say(capsys, *words)
    assert status == 0, err
    assert f"{damaged} cannot be read and is passed over" in err
    assert f"going on at step 4 in {RUN}" in err
    (RUN / "checkpoints" / "last.ckpt").write_bytes(b"cut short")
    status, _, err = say(capsys, *words)
    assert status == 2
    assert f"ckpt_path: {RUN} holds no checkpoint that can be read; start afresh" in err


def test_validate_renders_a_checkpoint_under_its_own_step(copied: str, capsys: Any) -> None:
    events = {path: path.read_bytes() for path in RUN.glob("events*")}
    for checkpoint, step in (("last", 4), (str(RUN / "checkpoints" / "step=00002.ckpt"), 2)):
        status, out, err = say(capsys, "validate", "-c", copied, "--ckpt_path", checkpoint)
        assert status == 0, err
        assert f"The grids are in {RUN}/validate" in out
        assert (RUN / "validate" / f"step={step:05d}" / f"dream_step={step:05d}.png").exists()
    assert {path: path.read_bytes() for path in RUN.glob("events*")} == events
    # The milestone's own grid and its repetition show the same pictures, and give the same reading.
    assert (RUN / "drift" / "step=00002.json").read_bytes() == (
        RUN / "validate" / "step=00002" / "drift.json"
    ).read_bytes()
    assert (RUN / "grids" / "dream_step=00002.png").read_bytes() == (
        RUN / "validate" / "step=00002" / "dream_step=00002.png"
    ).read_bytes()


def test_predict_runs_a_checkpoint(copied: str, capsys: Any) -> None:
    words = ("--model.num_inference_steps=1", "--data.seeds=0-1", "--data.prompts=a, b")
    status, out, err = say(capsys, "predict", "--model.pipeline", f"{RUN}/checkpoints/last.ckpt", *words)
    assert status == 0, err
    assert "2 pictures written to dreams" in out
    assert {path.name for path in Path("dreams").iterdir()} == {
        "a-b_seed0000.png",
        "a-b_seed0001.png",
        "contact_sheet.png",
    }
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_the_embedded_default_runs_with_no_argument_but_fewer_steps(command: str, capsys: Any) -> None:
    few = {
        "fit": ["--trainer.max_steps=2", "--seed_grid.num_inference_steps=1"],
        "predict": ["--model.num_inference_steps=1"],
    }
    status, _, err = say(capsys, command, *few[command])
    assert status == 0, err
    made = {
        "fit": "tb_logs/coffee/lr4e-5_000/grids/dream_step=00000.png",
        "predict": "dreams/contact_sheet.png",
    }
    assert Path(made[command]).exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fit", "--model.learning_rat", "3"], "Option 'learning_rat' is not accepted"),
        (
            ["fit", "--model.learning_rate", "abc"],
            'Parser key "learning_rate"; Expected a float. Got value: abc',
        ),
        (["fit", "-c", "nofile.yaml"], "-c: cannot read the configuration nofile.yaml: No such file"),
        (["fit", "-c", "broken.yaml"], "broken.yaml"),
        (["fit", "--trainer.maximum", "3"], "trainer.maximum"),
        (["fit", "--model", "Foo"], "Foo"),
        (["fit", "--data.instance_dir", "nowhere"], "data.instance_dir: there is no folder nowhere"),
        (["fit", "--model.pipeline", "nowhere/"], "nowhere"),
        (["fit", "--model.pipeline", "someone/some-model"], "someone/some-model"),
        (["fit", "--ckpt_path", "no.ckpt"], "ckpt_path: there is no checkpoint no.ckpt"),
        (["fit", "--step_checkpoint.steps", "8x"], "step_checkpoint.steps: '8x' is not a whole number"),
        (["fit", "--clip_drift.stop_when", "burnt"], "clip_drift.stop_when: 'burnt' is not a zone"),
        (["fit", "--clip_drift.thresholds.spread", "3"], "clip_drift.thresholds.spread: 3"),
        (["predict", "--data.seeds", "9-1"], "data.seeds: the range 9-1 runs backwards"),
        (["predict", "--model.pipeline", "no.ckpt"], "no.ckpt"),
        (["export"], "ckpt_path"),
        (["train"], "'train' is not a command"),
    ],
)
def test_each_mistake_is_answered_with_a_sentence(words: list[str], sentence: str, capsys: Any) -> None:
    Path("broken.yaml").write_text("model: [unclosed\n")
    status, _, err = say(capsys, *words)
    assert status == 2
    assert "Traceback" not in err
    answer = err[err.index("error: ") :]
    assert sentence in answer
    assert len(answer) < 600
    assert not list(Path().glob("tb_logs/*/*"))  # a run that could not begin leaves no folder


def test_help_and_version_answer_before_anything_is_imported() -> None:
    code = "import sys; from lightning_drift.cli import main; main(['--help']); main(['--version']); "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'diffusers')))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for word in ("fit", "validate", "predict", "export", "lightning-drift 0."):
        assert word in result.stdout


def keys(config: Any, prefix: str = "") -> set[str]:
    """Dotted names of all leaves; what lies below prompts and groups is the user's own."""
    if not isinstance(config, dict) or prefix in ("seed_grid.groups.", "seed_grid.groups"):
        return {prefix.rstrip(".")}
    return set().union(*(keys(value, f"{prefix}{key}.") for key, value in config.items()))


def test_the_recipe_states_every_key_that_the_packaged_default_sets() -> None:
    recipe, default = (
        yaml.safe_load(path.read_text()) for path in (CONFIGS / "dreambooth_sd15.yaml", DEFAULTS / "fit.yaml")
    )
    assert keys(default) <= keys(recipe)
    assert "pocket" not in (CONFIGS / "dreambooth_sd15.yaml").read_text()
    dream, predict = (
        yaml.safe_load(path.read_text()) for path in (CONFIGS / "dream.yaml", DEFAULTS / "predict.yaml")
    )
    assert keys(predict) - {"seed_everything"} <= keys(dream)


def test_the_recipe_is_the_recipe(capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", str(CONFIGS / "dreambooth_sd15.yaml"), "--print_config"])
    assert not stop.value.code
    config = yaml.safe_load(capsys.readouterr().out)
    model, trainer, data = config["model"]["init_args"], config["trainer"], config["data"]["init_args"]
    assert model["pipeline"] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert model["instance_prompt"] == "a photo of sks person"
    assert (model["learning_rate"], model["train_text_encoder"]) == (2e-6, True)
    assert model["optimizer"] == "bitsandbytes.optim.AdamW8bit"
    assert (model["pad_tokens"], model["latents"], model["gradient_checkpointing"]) == (
        "maximum",
        "cached",
        False,
    )
    assert (trainer["max_steps"], trainer["precision"], trainer["gradient_clip_val"]) == (
        1600,
        "16-mixed",
        1.0,
    )
    assert (data["resolution"], data["batch_size"]) == (512, 1)
    assert config["step_checkpoint"]["steps"] == "800,1200,1600"
    assert config["seed_grid"]["steps"] == "0,800,1200,1600"
    assert config["seed_grid"]["guidance_scale"] == 3.0
    assert config["clip_drift"]["clip"] == "openai/clip-vit-large-patch14"
    assert config["clip_drift"]["thresholds"]["language_keep"] == 0.75
    assert (
        config["seed_grid"]["groups"]["dream"]["prompts"] == "monumental, dramatic, atmospheric, transcendent"
    )


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_parses_and_opens_with_its_command(path: Path, capsys: Any) -> None:
    text = path.read_text()
    (command,) = [line.split()[2] for line in text.splitlines() if line.startswith("#   lightning-drift ")][
        :1
    ]
    words = (
        [command, "-c", str(CONFIGS / "dreambooth_sd15.yaml")]
        if "-c configs/dreambooth" in text
        else [command]
    )
    with pytest.raises(SystemExit) as stop:
        main([*words, "-c", str(path), "--print_config"])
    assert not stop.value.code
    parsed, written = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(text)
    assert keys(written) <= keys(parsed)


def test_corridor_configurations_change_only_what_they_name(capsys: Any) -> None:
    rates = {}
    for name in ("corridor_2e-6", "corridor_4e-6"):
        with pytest.raises(SystemExit):
            main(
                [
                    "fit",
                    "-c",
                    str(CONFIGS / "dreambooth_sd15.yaml"),
                    "-c",
                    str(CONFIGS / f"{name}.yaml"),
                    "--print_config",
                ]
            )
        rates[name] = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["learning_rate"]
    assert rates == {"corridor_2e-6": 2e-6, "corridor_4e-6": 4e-6}


def test_an_interrupt_leaves_no_traceback(tmp_path: Path) -> None:
    import signal
    import time

    command = [
        sys.executable,
        "-m",
        "lightning_drift",
        "fit",
        f"--model.pipeline={DATA / 'tiny_sd'}",
        *OPTIONS,
    ]
    command += ["--trainer.max_steps=100000", "--seed_grid.steps="]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests started in the background of a shell ignore interrupts and would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / RUN / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode not in (0, 2)
    assert "Traceback" not in said
    assert "--ckpt_path last" in said


def test_changed_photos_are_recorded_when_a_run_goes_on(copied: str, capsys: Any) -> None:
    words = ("--data.instance_dir", "galaxies", "--trainer.max_steps", "5", "--seed_grid.steps=")
    status, _, err = say(capsys, "fit", "-c", copied, "--ckpt_path", "last", *words)
    assert status == 0, err
    assert "resuming with another data_hash" in err
    record = (RUN / "config.resume-00004.yaml").read_text()
    assert "# changed: data.init_args.instance_dir: coffee -> galaxies" in record
    assert "# changed: data_hash: " in record


def test_a_run_named_by_a_number_is_in_the_folder_that_lightning_gives_it(capsys: Any) -> None:
    name, few = "--trainer.logger.init_args.version", ["--seed_grid.steps=", "--clip_drift.steps="]
    for number in ("0", "3"):
        status, out, err = say(capsys, "fit", name, number, "--trainer.max_steps=1", *few)
        assert status == 0, err
        assert f"The run is in tb_logs/coffee/version_{number}" in out
    config = "tb_logs/coffee/version_3/config.yaml"
    status, _, err = say(capsys, "fit", "-c", config, "--ckpt_path", "last", "--trainer.max_steps=2")
    assert status == 0, err
    assert "going on at step 1 in tb_logs/coffee/version_3" in err
    groups = "--seed_grid.groups={dream: {prompts: a, seeds: 0-1}, language: {prompts: [b, c], seeds: 0-1}}"
    words = ("-c", config, name, "0", "--ckpt_path", "last", "--seed_grid.num_inference_steps=1", groups)
    status, out, err = say(capsys, "validate", *words)
    assert status == 0, err
    assert "The grids are in tb_logs/coffee/version_0/validate" in out
    assert {path.name for path in Path("tb_logs/coffee").iterdir()} == {"version_0", "version_3"}


def test_a_run_goes_on_with_the_prompts_that_it_began_with_and_is_shown_with_them(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    Path("mine.txt").write_text("# two\na red moon\na tower\n")
    words = ("--clip_drift.steps=", "--seed_grid.steps=0,1,2", "--seed_grid.num_inference_steps=1")
    groups = "--seed_grid.groups={dream: {prompts: mine.txt, seeds: 0-1}}"
    tiny = f"--model.pipeline={DATA / 'tiny_sd'}"
    status, _, err = say(capsys, "fit", tiny, groups, *words, "--trainer.max_steps=1")
    assert status == 0, err
    (run,) = Path("tb_logs/coffee").iterdir()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["seed_grid"]["groups"]["dream"] == {"prompts": ["a red moon", "a tower"], "seeds": "0-1"}

    Path("mine.txt").write_text("something else\n")
    resume = ("fit", "-c", str(run / "config.yaml"), "--ckpt_path", "last", "--trainer.max_steps=2")
    status, _, err = say(capsys, *resume)
    assert status == 0, err
    assert len(list((run / "grids" / "step=00002").glob("a-red-moon_seed000?.png"))) == 2
    record = (run / "config.resume-00001.yaml").read_text()
    assert "# changed: trainer.max_steps: 1 -> 2" in record
    assert record.count("# changed") == 1

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, _, err = say(capsys, "corridor", "report", str(tmp_path / run), "--to", "page.html")
    assert status == 0, err
    page = Path("page.html").read_text()
    assert '"a red moon"' in page
    assert "something else" not in page


def test_validate_needs_no_photos(copied: str, capsys: Any) -> None:
    words = ("--data.instance_dir", "gone", "--ckpt_path", "last")
    status, _, err = say(capsys, "validate", "-c", copied, *words)
    assert status == 0, err
    assert (RUN / "validate" / "step=00004" / "dream_step=00004.png").exists()


def test_a_users_own_module_may_plan_itself(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    Path("mine_that_plans.py").write_text(
        "from lightning_drift import Dreamer\n"
        "class Planned(Dreamer):\n"
        "    def predict_plan(self, trainer, data, dry_run):\n"
        "        return f'{len(data.requests)} pictures on {trainer.world_size} device'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("predict", "--model", "mine_that_plans.Planned", "--data.seeds=0-2")
    status, out, err = say(capsys, *words, "--dry_run")
    assert (status, out) == (0, "3 pictures on 1 device\n"), err
    assert not Path("dreams").exists()


def test_a_users_own_classes_need_no_seed(capsys: Any) -> None:
    boring = "lightning.pytorch.demos.boring_classes"
    words = ("--model", f"{boring}.BoringModel", "--data", f"{boring}.BoringDataModule")
    few = ("--trainer.max_steps=1", "--seed_grid.groups=null", "--step_checkpoint.steps=")
    status, _, err = say(capsys, "fit", *words, *few, "--trainer.limit_val_batches=0")
    assert status == 0, err
