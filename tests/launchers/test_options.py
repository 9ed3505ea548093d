"""Which launcher is asked for, and what its options may be."""

from pathlib import Path
from typing import Any

import pytest

from lightning_drift.cli import main
from lightning_drift.common.command_line import Text
from lightning_drift.common.errors import UserError
from lightning_drift.launchers.options import launcher_help, launcher_words, read_launcher


def test_a_launchers_words_are_taken_out_of_a_command_and_the_others_keep_their_order() -> None:
    words = ["--lr", "1e-6", "--launcher", "ray", "--steps=4", "--launcher.gpus=0.5", Text("--launcher")]
    given, rest = launcher_words(words)
    assert given == {"name": "ray", "gpus": "0.5"}
    assert rest == ["--lr", "1e-6", "--steps=4", "--launcher"]
    with pytest.raises(UserError, match=r"launcher\.gpus: give it a value"):
        launcher_words(["--launcher.gpus", "--steps=4"])


def test_the_command_line_wins_over_a_section_and_another_launcher_drops_its_options() -> None:
    section = {"name": "slurm", "partition": "gpu", "minutes": 60, "setup": ["module load cuda"]}
    engine = read_launcher(section, {"minutes": Text("90")}, "corridor")
    assert engine is not None
    assert engine.name == "slurm"
    assert (engine.options.partition, engine.options.minutes) == ("gpu", 90)
    assert engine.options.setup == ["module load cuda"]
    other = read_launcher(section, {"name": Text("ray")}, "corridor")
    assert other is not None
    assert (other.name, other.options.cpus) == ("ray", 1)
    assert read_launcher(None, {}) is None
    short = read_launcher("ray", {"address": Text("10.0.0.1:6379"), "gpus": Text("0.5")})
    assert short is not None
    assert (short.options.address, short.options.gpus) == ("10.0.0.1:6379", 0.5)


def made(section: Any, given: dict[str, str], folder: Path) -> None:
    engine = read_launcher(section, {name: Text(value) for name, value in given.items()})
    assert engine is not None
    engine.make(folder, on_cpu=True)


@pytest.mark.parametrize(
    ("section", "given", "sentence"),
    [
        (None, {"name": "cloud"}, "launcher: 'cloud' is no launcher; they are local, ray, slurm, command"),
        (None, {"gpus": "1"}, "launcher: name the launcher that these options are for"),
        ([1], {}, r"launcher: \[1\] is neither a launcher's name nor its options"),
        ("ray", {"nodes": "2"}, "nodes"),
        ("ray", {"cpus": "many"}, "launcher.cpus"),
        ("ray", {"cpus": "0"}, "launcher.cpus: 0 is out of range"),
        ("ray", {"gpus": "-1"}, "launcher.gpus: -1"),
        ("slurm", {"minutes": "1"}, "launcher.minutes: 1 is out of range"),
        ("slurm", {"cluster": "moon"}, "launcher.cluster"),
        ("command", {}, "launcher.run"),
        ("command", {"run": "ssh gpu1"}, "launcher.run: 'ssh gpu1' runs nothing of this program"),
        ("command", {"run": "ssh {host} {line}"}, r"launcher.run: \{host\} is no field"),
        ("command", {"run": "ssh {line"}, "launcher.run: 'ssh {line'"),
        ("command", {"run": "sh -c {line}", "stop": "{id}"}, r"launcher.stop: \{id\} is no field"),
        ("local", {"devices": "tpu"}, "launcher.devices: 'tpu' is not a list of devices"),
    ],
)
def test_what_is_wrong_with_a_launcher_is_a_sentence(
    section: Any, given: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        made(section, given, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_options_of_every_launcher_are_in_the_help() -> None:
    text = launcher_help()
    for word in ("--launcher.address", "--launcher.minutes", "--launcher.run", "--launcher.devices"):
        assert word in text


def test_a_fit_and_other_data_have_no_launcher(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--launcher", "ray"]) == 2
    assert "launcher: a fit runs where it is started" in capsys.readouterr().err
    assert main(["predict", "--launcher", "cloud"]) == 2
    assert "launcher: 'cloud' is no launcher" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
