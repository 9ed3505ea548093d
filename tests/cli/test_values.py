"""What people give the commands: texts as written, numbers within bounds, configurations with options."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from lightning_drift.cli import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-drift"])
    for name in ("LIGHTNING_DRIFT_RUN", "PL_GLOBAL_SEED"):
        monkeypatch.delenv(name, raising=False)


def say(capsys: Any, *words: str) -> tuple[int, str, str]:
    """Run the command in this process: exit status, standard output, standard error."""
    try:
        status = main(list(words))
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def refused(capsys: Any, *words: str) -> str:
    """What the command says when it refuses: one sentence, before a run folder is made."""
    status, _, err = say(capsys, *words)
    assert status == 2, err
    answer = err[err.index("error: ") :]
    assert answer.count("\n") == 1
    assert len(answer) < 600
    assert not list(Path().glob("tb_logs/*/*"))
    return answer


def parameters(path: Path) -> str:
    with Image.open(path) as image:
        return str(image.info["parameters"])


# -- texts --

ODD = [
    "poster: a red house",
    "# 1 dream",
    "null",
    "~",
    "&amp",
    "[bad]",
    "- dash",
    "-x",
    "{red|blue}",
    "010",
    "yes",
]


def parsed(capsys: Any, *words: str) -> Any:
    status, out, err = say(capsys, *words, "--print_config")
    assert status == 0, err
    return yaml.safe_load(out)


@pytest.mark.parametrize("text", ODD)
def test_text_on_the_command_line_arrives_as_written(text: str, capsys: Any) -> None:
    words = [f"--data.prompts={text}", "--model.negative_prompt", text, f"--image_writer.output_dir={text}"]
    config = parsed(capsys, "predict", *words)
    assert config["data"]["init_args"]["prompts"] == text
    assert config["model"]["init_args"]["negative_prompt"] == text
    output = config["image_writer"]["output_dir"]
    assert output == text
    grid = f"--seed_grid.groups.mine.prompts={text}"
    config = parsed(capsys, "fit", "--model.instance_prompt", text, grid)
    assert config["model"]["init_args"]["instance_prompt"] == text
    assert config["seed_grid"]["groups"]["mine"]["prompts"] == text


def test_lists_and_nothing_can_still_be_given(capsys: Any) -> None:
    config = parsed(capsys, "predict", '--data.prompts=["a: b", "null"]', "--model.base", "null")
    assert config["data"]["init_args"]["prompts"] == ["a: b", "null"]
    assert config["model"]["init_args"]["base"] is None


def test_odd_prompts_of_a_configuration_are_drawn_and_recorded(capsys: Any) -> None:
    options = {"data": {"init_args": {"prompts": ODD[:7], "seeds": 0}}, "image_writer": {"output_dir": "o"}}
    Path("c.yaml").write_text(yaml.safe_dump(options))
    status, _, err = say(capsys, "predict", "-c", "c.yaml", "--model.num_inference_steps=1")
    assert status == 0, err
    drawn = [parameters(path) for path in Path("o").glob("*_seed0000.png")]
    assert {text.partition("\nSteps")[0] for text in drawn} == set(ODD[:7])


def test_a_runs_record_and_checkpoint_hold_odd_texts_as_plain_ones(capsys: Any) -> None:
    groups = {"dream": {"prompts": ODD, "seeds": 0}}
    Path("c.yaml").write_text(yaml.safe_dump({"seed_grid": {"groups": groups}}))
    few = ("--trainer.max_steps=1", "--seed_grid.steps=", "--clip_drift.steps=", "--step_checkpoint.steps=")
    status, _, err = say(capsys, "fit", "-c", "c.yaml", "--model.instance_prompt", "[sks]: # a cup", *few)
    assert status == 0, err
    (run,) = Path("tb_logs/coffee").iterdir()
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert config["seed_grid"]["groups"] == groups
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["recipe"]["instance_prompt"] == "[sks]: # a cup"
    again = parsed(capsys, "fit", "-c", str(run / "config.yaml"))
    assert again["seed_grid"]["groups"] == groups


def test_bytes_that_are_no_text_are_refused(capsys: Any) -> None:
    answer = refused(capsys, "fit", "--data.instance_dir=caf\udce9")
    assert r"data.instance_dir: 'caf\udce9' holds bytes that are not UTF-8 text" in answer
    for option in ("--data.prompts", "--model.negative_prompt", "--image_writer.output_dir"):
        answer = refused(capsys, "predict", f"{option}=caf\udce9")
        assert "holds bytes that are not UTF-8 text" in answer


# -- numbers --

FIT = {
    "--seed_everything=-1": "seed_everything: -1 is out of range; give one from 0 to 4294967295",
    "--seed_everything=4294967296": "give one from 0 to 4294967295",
    f"--step_checkpoint.steps={'9' * 5000}": "step_checkpoint.steps",
    "--step_checkpoint.steps=99999999999999999999": "out of range",
    "--step_checkpoint.last_every_n_steps=-1": "give 0 or more",
    "--step_checkpoint.keep=0": "give 1 or more",
    "--model.learning_rate=.nan": "model.learning_rate: nan is out of range; give one above 0 and up to 1",
    "--model.learning_rate=0": "one above 0 and up to 1",
    "--model.learning_rate=1.5": "one above 0 and up to 1",
    "--model.learning_rate=true": "learning_rate",
    "--model.text_encoder_learning_rate=.inf": "one above 0 and up to 1",
    "--model.log_every_n_steps=0": "give 1 or more",
    "--model.weight_change_every_n_steps=-1": "give 0 or more",
    "--data.batch_size=0": "data.batch_size: 0 is not a number of photos; give 1 or more",
    "--data.batch_size=1000000000": "give one from 1 to 1024",
    "--data.num_workers=100000": "give one from 0 to 128",
    "--data.resolution=12": "data.resolution: 12 is not a size; give a multiple of 8",
    "--data.resolution=8000000": "give one from 8 to 8192",
    "--seed_grid.height=1000000": "seed_grid.height: 1000000 is out of range; give one from 1 to 8192",
    "--seed_grid.guidance_scale=.nan": "give one from 0 to 100",
    "--seed_grid.num_inference_steps=1001": "give one from 1 to 1000",
    "--seed_grid.batch_size=-1": "give one from 1 to 1024",
    "--seed_grid.drift_dial=0.5,.nan": "is not a list of numbers",
    "--seed_grid.drift_dial=2": "give 0 (the base) to 1.5",
    "--clip_drift.text_every_n_steps=-1": "give 0 or more",
    "--clip_drift.clip=/missing": "clip_drift.clip: there is no folder /missing",
    "--trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches: 0 is out of range; give one",
    "--trainer.accumulate_grad_batches=-1": "trainer.accumulate_grad_batches: -1 is out of range",
    "--trainer.gradient_clip_val=.nan": "trainer.gradient_clip_val: nan is out of range",
    "--trainer.gradient_clip_val=-1": "give 0 or more",
    "--trainer.val_check_interval=0": "trainer.val_check_interval: 0 is out of range",
    "--trainer.max_steps=-5": "trainer.max_steps: -5 is out of range",
    "--trainer.limit_train_batches=-1": "trainer.limit_train_batches",
    "--trainer.accelerator=warp": "invalid accelerator name",
    "--trainer.strategy=warp": "invalid strategy name",
    "--trainer.devices=0": "devices",
    "--trainer.devices=-1": "devices",
    "--trainer.devices=99": "devices",
    "--trainer.precision=8": "trainer.precision",
    "--trainer.precision=bf16-true": "give bf16-mixed or 32-true",
    "--trainer.max_time=abc": "not a valid duration",
    "--trainer.max_time={seconds: 99999999999999999999}": "the Trainer refuses its options",
    "--trainer.profiler=foo": "profiler",
    "--trainer.gradient_clip_algorithm=foo": "gradient_clip_algorithm",
    "--trainer.enable_checkpointing=false": "enable_checkpointing=False",
    "--trainer.barebones=true": "barebones=True",
    "--trainer.logger=lightning.pytorch.loggers.MLFlowLogger": "MLFlowLogger",
    "--data=lightning_drift.Prompts": "give it lightning_drift.InstanceImages",
    "--trainer.precision=64-true": "trainer.precision: 64-true trains weights twice as long as float32",
    "--trainer.fast_dev_run=99999999999999999999": "fast_dev_run: 99999999999999999999 is out of range",
    "--trainer.num_nodes=2": "trainer.num_nodes: 2 computers find each other by MASTER_ADDR",
    "--trainer={max_epochs: 1, max_steps: -1}": "trainer.max_epochs: the photos come round without an end",
    "--trainer={strategy: ddp_spawn, devices: 2}": "trainer.strategy: it runs copies of this process",
    "--trainer={logger: false, default_root_dir: /dev/null}": "trainer.default_root_dir: cannot write to",
    "--trainer.logger.sub_dir=../../x": "sub_dir: a run's files lie in its own folder",
    "--trainer.logger.save_dir=s3://bucket/logs": "'s3://bucket/logs' is an address and not a path",
}


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize(("option", "sentence"), FIT.items(), ids=lambda text: text[:50])
def test_a_fit_refuses_values_out_of_bounds_in_a_sentence(option: str, sentence: str, capsys: Any) -> None:
    assert sentence in refused(capsys, "fit", "--trainer.accelerator=cpu", option)


PREDICT = {
    "--data.seeds=99999999999999999999": "data.seeds: 99999999999999999999 is out of range",
    "--data.seeds=[]": "data.seeds: the list of numbers is empty",
    "--data.seeds=true": "data.seeds",
    "--data.seeds=-1": "data.seeds",
    "--data.prompts=[]": "data.prompts: the list of prompts is empty",
    "--data.batch_size=99999": "data.batch_size: 99999 is out of range; give one from 1 to 1024",
    "--model.height=8193": "model.height: 8193 is out of range",
    "--model.guidance_scale=.inf": "model.guidance_scale: inf is out of range",
    "--model.num_inference_steps=0": "model.num_inference_steps: 0 is out of range",
    "--model.drift=.nan": "model.drift: nan is out of range",
    "--seed_everything=-1": "seed_everything: -1 is out of range",
    "--data.prompts=--": "two hyphens end the options",
}


@pytest.mark.parametrize(("option", "sentence"), PREDICT.items(), ids=lambda text: text[:50])
def test_predict_refuses_values_out_of_bounds_in_a_sentence(option: str, sentence: str, capsys: Any) -> None:
    assert sentence in refused(capsys, "predict", option)


@pytest.mark.parametrize("option", ["upscale", "s_churn", "eta", "control_scale", "edm_steps", "tile_size"])
@pytest.mark.parametrize("value", [".nan", "-1000", "1e300"])
def test_supir_refuses_numbers_out_of_bounds(option: str, value: str, capsys: Any) -> None:
    words = (
        "--model=lightning_drift.SupirUpscaler",
        "--data=lightning_drift.UpscaleImages",
        "--data.images=x",
    )
    assert option in refused(capsys, "predict", *words, f"--model.{option}={value}")


@pytest.mark.parametrize("seed", ["true", "false", "4294967295"])
def test_every_documented_seed_runs_and_is_recorded(seed: str, capsys: Any) -> None:
    few = ("--trainer.max_steps=1", "--seed_grid.steps=", "--clip_drift.steps=", "--step_checkpoint.steps=")
    status, _, err = say(capsys, "fit", f"--seed_everything={seed}", *few)
    assert status == 0, err
    (run,) = Path("tb_logs/coffee").iterdir()
    recorded = yaml.safe_load((run / "config.yaml").read_text())["seed_everything"]
    used = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["recipe"]["seed"]
    assert used == int(recorded)  # so that a resume draws the same
    assert recorded == yaml.safe_load(seed) or seed == "true"


def test_a_rate_of_one_is_for_optimizers_that_want_it(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    Path("step_finder.py").write_text(
        "from torch.optim import SGD\n"
        "class StepFinder(SGD):\n"
        "    def __init__(self, params, lr=1.0, d0=1e-6):\n"
        "        super().__init__(params, lr * d0)\n"
        "        for group in self.param_groups: group['lr'] *= d0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    few = ("--trainer.max_steps=1", "--seed_grid.steps=", "--clip_drift.steps=", "--step_checkpoint.steps=")
    words = ("--model.optimizer=step_finder.StepFinder", "--model.learning_rate=1")
    status, _, err = say(capsys, "fit", *words, *few)
    assert status == 0, err
    assert Path("tb_logs/coffee/lr1e0_000").is_dir()


def test_a_clip_that_is_not_there_is_refused_though_nothing_would_be_measured(capsys: Any) -> None:
    answer = refused(capsys, "fit", "--clip_drift.clip=missing", "--seed_grid.steps=")
    assert "clip_drift.clip: there is no folder missing" in answer


@pytest.mark.parametrize(
    "arguments", ["{weight_decay: abc}", "{betas: 3}", "{betas: [0.9]}", "{eps: .nan}", "{x: 1}"]
)
def test_optimizer_arguments_of_the_wrong_kind_are_refused(arguments: str, capsys: Any) -> None:
    answer = refused(capsys, "fit", f"--model.optimizer_args={arguments}", "--seed_grid.steps=")
    assert "model.optimizer_args: " in answer


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--lr=nan", "--steps=1"), "corridor.lr"),
        (("--lr=", "--steps=1"), "corridor.lr"),
        (("--lr=0", "--steps=1"), "corridor.lr: 0 is out of range"),
        (("--lr=2", "--steps=1"), "corridor.lr: 2 is out of range; give one above 0 and up to 1"),
        (("--lr=4e-5,4.00000001e-5", "--steps=1"), "would share the folder lr4e-5"),
        (("--lr=1e-5", "--steps=0"), "corridor.steps: give optimizer steps above 0"),
        (("--lr=1e-5", f"--steps={'9' * 5000}"), "corridor.steps"),
        (("--lr=1e-5", "--steps=1", "-c", "missing.yaml"), "-c: cannot read the configuration missing.yaml"),
        (("--lr=1e-5", "--steps=1", "--data.instance_dir=nowhere"), "there is no folder nowhere"),
    ],
)
def test_a_corridor_refuses_bad_lists(words: tuple[str, ...], sentence: str, capsys: Any) -> None:
    assert sentence in refused(capsys, "corridor", *words)


# -- configurations --

SECTIONS = {
    "": "holds no options",
    "# nothing\n": "holds no options",
    "- a\n": "does not hold options by name",
    "seed_everything: 1\nseed_everything: 2\n": "has the key 'seed_everything' twice, again in line 2",
    "a: " + "[" * 3000 + "]" * 3000: "nested too deeply",
    "a: &a [*a]\n": "refers to itself",
    f"seed_everything: {'9' * 5000}\n": "is not YAML",
    "trainer: {max_step: 3}\n": "there is no such option in c.yaml; did you mean max_steps?",
    "seedgrid: {steps: 3}\n": "did you mean seed_grid?",
    "seed_grid: []\n": "seed_grid: [] holds no options by name in c.yaml",
    "seed_grid: 3\n": "seed_grid: 3 holds no options by name",
    "seed_grid: null\n": "seed_grid: None holds no options by name",
    "trainer: [1]\n": "trainer: [1] holds no options by name",
    "model: 3\n": "model",
    "model: {init_args: 3}\n": "model: init_args holds no options by name",
    "model: {class_path: 3}\n": "model",
    "seed_grid: {groups: []}\n": "seed_grid.groups",
    "seed_grid: {groups: {dream: {prompts: 3}}}\n": "seed_grid.groups.dream.prompts: 3 is neither",
    "seed_grid: {groups: {dream: {prompts: [1, null]}}}\n": "the list holds 1, which is no prompt",
    "seed_grid: {groups: {dream: {prompts: x, seeds: []}}}\n": "seeds: the list of numbers is empty",
    "seed_grid: {groups: {'../../x': {prompts: x}}}\n": "holds '/', which a file's name cannot",
    "seed_grid: {groups: {'.': {prompts: x}}}\n": "is not a file's name",
    "seed_grid: {groups: {dream: {prompts: x, seeds: 0-50000}}}\n": "more than 10,000",
    "seed_everything: null\n": "seed_everything",
    "model: {init_args: {learning_rate: .nan}}\n": "model.learning_rate: nan is out of range",
    "trainer: {callbacks: 3}\n": "trainer.callbacks",
    "trainer: {logger: [x]}\n": "trainer.logger",
}


@pytest.mark.parametrize(("text", "sentence"), SECTIONS.items(), ids=lambda text: text[:40].strip())
def test_a_configuration_that_cannot_be_used_is_named(text: str, sentence: str, capsys: Any) -> None:
    Path("c.yaml").write_text(text)
    assert sentence in refused(capsys, "fit", "-c", "c.yaml")


def test_aliases_are_counted_before_they_are_written_out(capsys: Any) -> None:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]" for i in range(9)]
    Path("c.yaml").write_text("\n".join(lines))
    for command in ("fit", "predict", "corridor"):
        assert "holds more than 100,000 values" in refused(capsys, command, "-c", "c.yaml")


def test_what_is_no_regular_file_is_not_read(capsys: Any) -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("bytes.yaml").write_bytes(b"\xff\xfe\0")
    for name in ("folder", "pipe", "/dev/zero", "bytes.yaml", "x\0y", ""):
        for words in (("-c", name), (f"--config={name}",)):
            assert refused(capsys, "fit", *words).startswith("error: -c: ")


def test_a_configuration_is_utf8_in_any_locale(tmp_path: Path) -> None:
    Path("c.yaml").write_text("data: {init_args: {prompts: 'café ☕'}}\n", encoding="utf-8")
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    few = ("--model.num_inference_steps=1", "--data.seeds=0", "--image_writer.output_dir=o")
    command = [sys.executable, "-m", "lightning_drift", "predict", "-c", "c.yaml", *few]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    (path,) = Path("o").glob("*.png")
    assert parameters(path).startswith("café ☕\n")


def test_home_folders_are_meant_by_a_tilde_in_a_configuration(monkeypatch: Any, capsys: Any) -> None:
    Path("home").mkdir()
    monkeypatch.setenv("HOME", str(Path("home").resolve()))
    Path("c.yaml").write_text("image_writer: {output_dir: ~/dreams}\ndata: {init_args: {seeds: 0}}\n")
    status, _, err = say(capsys, "predict", "-c", "c.yaml", "--model.num_inference_steps=1")
    assert status == 0, err
    Path("f.yaml").write_text(
        "trainer: {max_steps: 1, logger: {init_args: {save_dir: ~/logs}}}\n"
        "step_checkpoint: {steps: '', dirpath: ~/saved}\nclip_drift: {steps: ''}\nseed_grid: {steps: ''}\n"
    )
    for _ in range(2):
        status, _, err = say(capsys, "fit", "-c", "f.yaml")
        assert status == 0, err
        monkeypatch.delenv("LIGHTNING_DRIFT_RUN", raising=False)
    assert len(list(Path("home/dreams").glob("*.png"))) == 1
    assert len(list(Path("home/logs/coffee").iterdir())) == 2
    assert Path("home/saved/last.ckpt").is_file()
    assert not Path("~").exists()


# -- what a command line names or unfolds --

NINE = ",".join(f"&{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]" for i in range(9))


@pytest.mark.parametrize(
    "words",
    [
        ("fit", "--seed_grid", "pipe"),
        ("fit", "--model=pipe"),
        ("fit", "--trainer.callbacks+", "pipe"),
        ("predict", "--image_writer=pipe"),
        ("predict", "--data", "/dev/zero"),
    ],
)
def test_a_pipe_in_place_of_a_section_is_not_waited_for(words: tuple[str, ...], capsys: Any) -> None:
    os.mkfifo("pipe")
    assert "is a pipe, a device or a socket and no file" in refused(capsys, *words)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe\0abc", "section.yaml is not UTF-8 text; save it as UTF-8"),
        (f"[&a [{','.join('x' * 9)}],{NINE}]".encode(), "section.yaml holds more than 100,000 values"),
        (b"steps: [", "section.yaml is not YAML"),
        (b"#" * (2**24 + 1), "section.yaml holds more than 16 MiB"),
    ],
    ids=["bytes", "aliases", "broken", "large"],
)
@pytest.mark.parametrize("option", ["seed_grid", "model", "trainer.logger"])
def test_a_file_in_place_of_a_section_is_looked_at_first(
    content: bytes, sentence: str, option: str, capsys: Any
) -> None:
    Path("section.yaml").write_bytes(content)
    assert f"error: {option}: the configuration {sentence}" in refused(
        capsys, "fit", f"--{option}", "section.yaml"
    )


@pytest.mark.parametrize("command", ["fit", "predict", "export"])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (f"[&a [{','.join('x' * 9)}],{NINE}]", "holds more than 100,000 values"),
        ("&a [*a]", "a value refers to itself"),
        ("[" * 5000 + "]" * 5000, "it is nested too deeply"),
        ("9" * 5000, "is longer than a number can be"),
    ],
    ids=["aliases", "itself", "deep", "digits"],
)
def test_no_value_of_a_command_line_is_unfolded_without_an_end(
    command: str, value: str, sentence: str, capsys: Any
) -> None:
    option = {"fit": "trainer.max_steps", "predict": "data.batch_size", "export": "rank"}[command]
    answer = refused(capsys, command, f"--{option}", value)
    assert answer.startswith(f"error: {option}: ")
    assert sentence in answer


# -- the parser's reports --


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("fit", "--trainer.max_steps=5-3"), "trainer.max_steps: '5-3' is not a whole number\n"),
        (("fit", "--model.learning_rate=abc"), "model.learning_rate: 'abc' is not a number ("),
        (("fit", "--model.latents=abc"), "model.latents: 'abc' is not 'cached' or 'reencode'"),
        (
            ("fit", "--trainer.callbacks=[3]"),
            "trainer.callbacks: '[3]' is not the path of a class of Callback",
        ),
        (("fit", "--seed_grid=3"), "seed_grid: '3' is not a section of options by name"),
        (("fit", "--model=nope.Foo"), "model: No module named 'nope'"),
        (("fit", "--model.learning_rat=3"), "is not accepted; did you mean learning_rate?"),
        (("fit", "--clip_drift.thresholds.a=1"), "clip_drift.thresholds.a"),
        (("fit", "--trainer.max_steps"), "trainer.max_steps: its value is missing"),
        (("predict", "--dry_run=3"), "dry_run: it takes no value, and '3' is one; write --dry_run alone"),
        (("export", "--ckpt_path=pocket"), "to: required and not given; lightning-drift export --help"),
        (("export", "--ckpt_path=x", "--to=o", "--drift=nan"), "--drift: 'nan' is not a number or 'auto'"),
        (("export", "--ckpt_path=x", "--to=o", "--drift=abc"), "--drift: 'abc' is not a number or 'auto'"),
        (("export", "--ckpt_path=x", "--to=o", "--rank=[]"), "--rank: '[]' is not a whole number"),
        (("corridor", "report"), "folder: required and not given"),
    ],
)
def test_a_value_of_another_kind_is_told_with_what_it_may_be(
    words: tuple[str, ...], sentence: str, capsys: Any
) -> None:
    assert sentence in refused(capsys, *words)


# -- the environment --


@pytest.mark.parametrize(
    "words", [("predict", "--image_writer.output_dir"), ("export", "--ckpt_path=pocket", "--to")]
)
def test_a_path_of_two_thousand_folders_is_refused(words: tuple[str, ...], capsys: Any) -> None:
    assert "is more than 200 folders deep" in refused(capsys, *words, "a/" * 2000)


def test_a_working_folder_that_is_gone_is_a_sentence(capsys: Any) -> None:
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()
    for command in ("fit", "predict", "corridor", "export"):
        status, _, err = say(capsys, command)
        assert (status, err) == (2, "error: the working folder was deleted; change into another one\n")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("PL_GLOBAL_SEED", "error: PL_GLOBAL_SEED: 'abc' is not a seed"),
        ("RANK", "error: RANK: 'abc' is not a process's number; unset it"),
        ("LOCAL_RANK", "error: LOCAL_RANK: 'abc' is not a process's number; unset it"),
    ],
)
def test_odd_variables_of_launchers_cost_no_traceback(
    name: str, sentence: str, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv(name, "abc")
    few = ("--trainer.max_steps=1", "--seed_grid.steps=", "--clip_drift.steps=", "--step_checkpoint.steps=")
    status, _, err = say(capsys, "fit", "--seed_everything=true", *few)
    assert status == 2, err
    assert sentence in err


# -- classes that a configuration brings along --


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("fit", "--model=lightning_drift.Dreamer"), "model: Dreamer cannot be fine-tuned"),
        (
            ("validate", "--model=lightning.pytorch.demos.boring_classes.BoringModel"),
            "model: BoringModel cannot be fine-tuned; give lightning_drift.DreamBooth",
        ),
        (("predict", "--model=lightning_drift.DreamBooth"), "model: DreamBooth makes no pictures; give"),
        (
            ("predict", "--data=lightning.pytorch.demos.boring_classes.BoringDataModule"),
            "data: Dreamer renders prompts; give it lightning_drift.Prompts",
        ),
    ],
)
def test_a_module_that_a_command_cannot_run_is_refused(
    words: tuple[str, ...], sentence: str, capsys: Any
) -> None:
    assert sentence in refused(capsys, *words)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (
            "trainer.callbacks=[{class_path: lightning.pytorch.callbacks.EarlyStopping, "
            "init_args: {monitor: nope}}]",
            "trainer.callbacks: EarlyStopping failed: Early stopping conditioned on metric `nope`",
        ),
        (
            "trainer.callbacks=[{class_path: lightning.pytorch.callbacks.LambdaCallback, "
            "init_args: {on_train_start: os.getcwd}}]",
            "trainer.callbacks: LambdaCallback failed: posix.getcwd() takes no arguments",
        ),
        ("model.optimizer=torch.optim.SparseAdam", "model.optimizer: SparseAdam failed: SparseAdam does not"),
        ("trainer.logger.dict_kwargs={nope: 1}", "trainer.logger: TensorBoardLogger failed: SummaryWriter"),
    ],
)
def test_a_callback_or_a_logger_that_fails_is_named(option: str, sentence: str, capsys: Any) -> None:
    few = ("--trainer.max_steps=1", "--seed_grid.steps=", "--clip_drift.steps=", "--step_checkpoint.steps=")
    status, _, err = say(capsys, "fit", *few, f"--{option}")
    assert status == 2
    assert f"error: {sentence}" in err
    assert "lightning-drift: stopped " in err


def test_a_callback_whose_default_is_an_enumerations_member_runs(capsys: Any) -> None:
    timer = "{class_path: lightning.pytorch.callbacks.Timer, init_args: {duration: '00:00:00:00'}}"
    status, out, err = say(capsys, "fit", "--seed_grid.steps=", f"--trainer.callbacks=[{timer}]")
    assert status == 0, err
    assert "Nothing was trained" in out


def test_control_characters_of_a_path_are_written_out_where_it_is_said(capsys: Any) -> None:
    few = ("--trainer.max_steps=1", "--seed_grid.steps=", "--clip_drift.steps=", "--step_checkpoint.steps=")
    status, out, err = say(capsys, "fit", *few, "--trainer.logger.save_dir=a\nb\x1b[2J")
    assert status == 0, err
    assert "\x1b[2J" not in out + err  # the bars move the cursor with other codes
    assert r"The run is in a\nb\x1b[2J/coffee/lr4e-5_000" in out
    assert r"--model.pipeline $'a\x0ab\x1b[2J/coffee/lr4e-5_000/checkpoints/last.ckpt'" in out


# -- the Trainer's switches --


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Lightning's, about the switches
@pytest.mark.parametrize(
    "option",
    [
        "fast_dev_run=true",
        "fast_dev_run=2",
        "overfit_batches=1",
        "logger=true",
        "logger=[]",
        "logger=lightning.pytorch.loggers.CSVLogger",
        "detect_anomaly=true",
        "limit_train_batches=1",
        "max_time=00:00:01:00",
    ],
)
def test_the_trainers_own_switches_run(option: str, capsys: Any) -> None:
    words = ("--trainer.max_steps=1", "--seed_grid.steps=0", "--seed_grid.num_inference_steps=1")
    groups = "--seed_grid.groups={dream: {prompts: x, seeds: 0-1}, language: {prompts: [a, b], seeds: 0-1}}"
    status, _, err = say(capsys, "fit", *words, groups, "--step_checkpoint.steps=", f"--trainer.{option}")
    assert status == 0, err


# -- sweeps and long prompts --

SWEEP = ("predict", "--model=lightning_drift.SweepDreamer", "--data=lightning_drift.Sweep")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--data.prompts=a {artist",),
            "has a { that belongs to no slot; a slot is written {artist}, a brace twice",
        ),
        (("--data.prompts=a }",), "has a } that belongs to no slot"),
        (("--data.prompts={}",), "has a { that belongs to no slot"),
        (("--data.seeds=[]",), "data.seeds: the list of numbers is empty"),
        (("--data.seeds=99999999999999999999",), "data.seeds"),
        (
            ("--data.seeds=0-99999", "--data.guidance_scale=1,2,3,4,5,6"),
            "the sweep has 600,000 cells, more than 500,000",
        ),
        (("--data.drift=2",), "data.drift: 2 is out of range"),
        (("--data.batch_size=0",), "data.batch_size: 0 is out of range"),
        (("--data.also={'../x': {seeds: 1}}",), "which a file's name cannot"),
        (("--data.also={x: 3}",), '"also"; Expected a dict'),
        (("--model.height=-8",), "model.height: -8 is out of range"),
    ],
)
def test_a_sweep_is_counted_and_checked_before_a_cell_is_made(
    words: tuple[str, ...], sentence: str, capsys: Any
) -> None:
    assert sentence in refused(capsys, *SWEEP, *words, "--dry_run")


def test_what_is_cut_of_a_prompt_is_said_once(capsys: Any) -> None:
    words = " ".join(f"tree{number}" for number in range(40))
    few = ("--model.num_inference_steps=1", "--data.seeds=0-1", "--data.batch_size=1")
    status, _, err = say(capsys, "predict", f"--data.prompts={words}", *few)
    assert status == 0, err
    assert err.count("cut off") == 1
    assert "tokens and the model sees 32: its last " in err
    prompts = yaml.safe_dump({"data": {"init_args": {"prompts": [f"{words} {n}" for n in range(9)]}}})
    Path("c.yaml").write_text(prompts)
    status, _, err = say(capsys, "predict", "-c", "c.yaml", *few, "--data.seeds=0")
    assert status == 0, err
    assert "8 more prompts are longer than 32 tokens" in err
    assert err.count("cut off") == 2


@pytest.mark.parametrize(
    ("command", "text", "option"),
    [
        ("fit", "model: {init_args: {learning_rate: null}}", "model.learning_rate"),
        ("fit", "model: {init_args: {optimizer: null}}", "model.optimizer"),
        ("fit", "data: {init_args: {instance_dir: null}}", "data.instance_dir"),
        ("fit", "clip_drift: {thresholds: null}", "clip_drift.thresholds"),
        ("predict", "model: {init_args: {pipeline: null}}", "model.pipeline"),
        ("predict", "image_writer: {output_dir: null}", "image_writer.output_dir"),
    ],
)
def test_null_is_refused_where_it_is_no_value(command: str, text: str, option: str, capsys: Any) -> None:
    Path("null.yaml").write_text(text)
    assert main([command, "-c", "null.yaml"]) == 2
    assert f"error: {option}: " in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["null.yaml"]


def test_a_configuration_in_a_folder_called_like_options_is_a_file(capsys: Any) -> None:
    Path("{a}").mkdir()
    Path("{a}/c.yaml").write_text("data: {init_args: {seeds: 9-1}}")
    assert main(["predict", "-c", "{a}/c.yaml"]) == 2
    assert "data.seeds: the range 9-1 runs backwards" in capsys.readouterr().err
