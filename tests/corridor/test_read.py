"""What the event files say becomes a table, and the table a choice."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.corridor_runs import PROMPTS, config, write_run
from torch.utils.tensorboard import SummaryWriter

from lightning_drift.common.errors import UserError
from lightning_drift.corridor.choice import choose
from lightning_drift.corridor.fit_queue import unfinished
from lightning_drift.corridor.plan import Row, joined, learning_rates, make_plan, take_up
from lightning_drift.corridor.read import read
from lightning_drift.fit.runs import rate_name

DREAM = ("dreaming", None, 41.0)


def test_cells_hold_what_the_event_files_say(tmp_path: Path) -> None:
    write_run(tmp_path / "lr2e-6", 2e-6, (800, 1200), {0: ("under-drifted", None, 0.0), 800: DREAM})
    table = read(tmp_path)
    assert table.title == "coffee"
    assert table.steps == [800, 1200]
    cell = table.cells["lr2e-6", 800]
    assert (cell.state, cell.zone, cell.borderline, cell.position) == ("measured", *DREAM)
    assert cell.verdict == "**dreaming**, 41 of 100. Because of dreaming."
    assert cell.checkpoint == tmp_path / "lr2e-6" / "checkpoints" / "step=00800.ckpt"
    unmeasured = table.cells["lr2e-6", 1200]
    assert (unmeasured.state, unmeasured.zone) == ("not measured", None)
    assert unmeasured.verdict.startswith("Not measured")
    run = table.runs[0]
    assert list(run.prompts) == list(PROMPTS)
    assert run.prompts[PROMPTS[0]] == [0, 3]
    reading = run.readings("adherence")[-1]
    assert reading == pytest.approx((800, 0.59, 0.49, 0.69), abs=1e-6)
    assert run.readings("tilt")[1] == pytest.approx((800, 0.4, 0.4, 0.4))  # no interval was logged


def test_without_a_clip_the_text_says_why_and_no_zone_is_made_up(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 2e-6, (8,))
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("drift/verdict", "verdict not available: no CLIP was found", 8)
    cell = read(folder).cells["run", 8]
    assert (cell.state, cell.verdict) == ("not measured", "verdict not available: no CLIP was found")
    choice = choose(read(folder))
    assert choice.cell is None
    assert "No verdict is available" in choice.sentence


def test_points_drawn_again_after_a_resume_count_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 2e-6, (8, 16), {8: DREAM, 16: ("cooked", None, 90.0)})
    with SummaryWriter(str(folder), purge_step=9) as writer:
        writer.add_scalar("drift/zone", 2, 16)
        writer.add_scalar("drift/position", 60.0, 16)
    run = read(folder).runs[0]
    assert run.scalars["drift/zone"] == [(8, 1.0), (16, 2.0)]
    assert run.cell(16).zone == "forgetting"


def test_a_planned_corridor_shows_what_has_not_run_and_what_failed(tmp_path: Path) -> None:
    plan = make_plan(
        config(1e-6, (8,)) | {"trainer": _trainer(tmp_path)}, "1e-6,2e-6,4e-6", "8,16", "corridor"
    )
    plan = take_up(plan)
    write_run(plan.run(Row(1e-6)), 1e-6, (8,), {8: DREAM})
    (plan.folder / "lr4e-6.error.txt").write_text("the loss is not finite (NaN or inf) at step 3\n")
    (plan.folder / "lr2e-6.stopped.txt").write_text("The search stopped it at step 4.\n")
    table = read(plan.folder)
    states = {key: cell.state for key, cell in table.cells.items()}
    assert states == {
        ("lr1e-6", 8): "measured",
        ("lr1e-6", 16): "not run",
        ("lr2e-6", 8): "not run",
        ("lr2e-6", 16): "not run",
        ("lr4e-6", 8): "failed",
        ("lr4e-6", 16): "failed",
    }
    assert table.cells["lr2e-6", 8].verdict == "The search stopped it at step 4."
    assert table.cells["lr4e-6", 8].verdict == "the loss is not finite (NaN or inf) at step 3"


def _trainer(root: Path) -> dict[str, Any]:
    trainer: dict[str, Any] = config(1e-6, (8,))["trainer"]
    trainer["logger"]["init_args"]["save_dir"] = str(root)
    return trainer


def test_a_corridor_grows_and_is_not_mixed_with_another_one(tmp_path: Path) -> None:
    fit = config(1e-6, (8,)) | {"trainer": _trainer(tmp_path)}
    take_up(make_plan(fit, "2e-6", "16", "corridor"))
    grown = take_up(make_plan(fit, ["1e-6", 2e-6], [8], "corridor"))  # type: ignore[list-item]
    assert (grown.rates, grown.steps) == ((1e-6, 2e-6), (8, 16))
    assert "--trainer.max_steps=16" in grown.options(Row(1e-6))
    assert "--seed_grid.steps=0,8,16" in grown.options(Row(1e-6))
    other = fit | {"model": {"init_args": fit["model"]["init_args"] | {"instance_prompt": "a dog"}}}
    with pytest.raises(UserError, match=r"model.init_args.instance_prompt: a photo of sks cup -> a dog"):
        take_up(make_plan(other, "1e-6", "8", "corridor"))
    take_up(make_plan(other, "1e-6", "8", "corridor-of-dogs"))
    elsewhere = fit | {"trainer": fit["trainer"] | {"accelerator": "cpu"}}
    take_up(make_plan(elsewhere, "1e-6", "8", "corridor"))  # where it computes is no other corridor


def test_a_corridor_holds_the_prompts_that_its_files_held_when_it_began(tmp_path: Path) -> None:
    prompts = tmp_path / "mine.txt"
    prompts.write_text("a tree\na moon\n")
    groups = {"dream": {"prompts": str(prompts), "seeds": "0-1"}}
    fit = config(1e-6, (8,)) | {"trainer": _trainer(tmp_path), "seed_grid": {"groups": groups, "steps": "0"}}
    plan = take_up(make_plan(fit, "1e-6", "8", "corridor"))
    assert read(plan.folder).runs[0].prompts == {"a tree": [0, 1], "a moon": [0, 1]}
    take_up(make_plan(fit, "2e-6", "8", "corridor"))  # the same prompts, from the same file
    prompts.write_text("a tree\n")
    assert read(plan.folder).runs[0].prompts == {"a tree": [0, 1], "a moon": [0, 1]}
    with pytest.raises(UserError, match=r"seed_grid.groups.dream.prompts: \['a tree', 'a moon'\] -> "):
        take_up(make_plan(fit, "2e-6", "8", "corridor"))
    prompts.unlink()
    with pytest.raises(UserError, match=r"^seed_grid.groups.dream.prompts: cannot read the prompt file"):
        make_plan(fit, "2e-6", "8", "corridor")


def test_prompts_that_a_resume_added_are_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 2e-6, (8, 16))
    later = config(2e-6, (8, 16))
    later["seed_grid"]["groups"]["dream"] = {"prompts": ["a moon"], "seeds": "0-1"}
    (folder / "config.resume-00008.yaml").write_text("# Resumed at step 8\n" + yaml.safe_dump(later))
    run = read(folder).runs[0]
    assert run.prompts == {PROMPTS[0]: [0, 3], PROMPTS[1]: [0, 3], "a moon": [0, 1]}
    assert run.config["seed_grid"]["groups"]["dream"]["prompts"] == PROMPTS[0]


def test_two_names_of_one_class_are_no_other_corridor(tmp_path: Path) -> None:
    fit = config(1e-6, (8,)) | {"trainer": _trainer(tmp_path)}
    fit["trainer"]["logger"]["class_path"] = "lightning.pytorch.loggers.tensorboard.TensorBoardLogger"

    def of(class_path: str) -> dict[str, Any]:
        return fit | {"model": fit["model"] | {"class_path": class_path}}

    take_up(make_plan(of("lightning_drift.DreamBooth"), "1e-6", "8", "corridor"))
    take_up(make_plan(of("lightning_drift.fit.dreambooth.DreamBooth"), "2e-6", "8", "corridor"))
    with pytest.raises(UserError, match=r"model.class_path: .*DreamBooth -> lightning_drift.Dreamer"):
        take_up(make_plan(of("lightning_drift.Dreamer"), "2e-6", "8", "corridor"))
    with pytest.raises(UserError, match=r"model.class_path: .*DreamBooth -> nowhere.DreamBooth"):
        take_up(make_plan(of("nowhere.DreamBooth"), "2e-6", "8", "corridor"))


@pytest.mark.parametrize(
    ("verdicts", "chosen"),
    [
        ({8: DREAM, 16: ("dreaming", None, 45.0), 24: ("forgetting", None, 60.0)}, 16),
        ({8: DREAM, 16: ("dreaming", "forgetting", 48.0), 24: ("forgetting", None, 60.0)}, 8),
        ({8: ("dreaming", "under-drifted", 26.0), 16: ("forgetting", None, 60.0)}, 8),
    ],
)
def test_the_farthest_that_clearly_dreams_is_chosen(
    tmp_path: Path, verdicts: dict[int, Any], chosen: int
) -> None:
    folder = write_run(tmp_path / "lr2e-6", 2e-6, (8, 16, 24), verdicts)
    choice = choose(read(folder))
    assert choice.cell is not None
    assert choice.cell.step == chosen
    assert f"--ckpt_path {folder}/checkpoints/step={chosen:05d}.ckpt" in choice.export
    assert f"--title coffee-lr2e-6-step{chosen:05d}" in choice.export


@pytest.mark.parametrize(
    ("zones", "advice"),
    [
        (("under-drifted", "under-drifted"), "train longer, or raise the learning rate"),
        (("forgetting", "cooked"), "look at earlier steps, or lower the learning rate"),
        (("under-drifted", "forgetting"), "steps or learning rates in between"),
    ],
)
def test_where_nothing_dreams_the_page_says_where_to_look(
    tmp_path: Path, zones: tuple[str, str], advice: str
) -> None:
    run = write_run(tmp_path / "run", 2e-6, (8, 16), {8: (zones[0], None, 10.0), 16: (zones[1], None, 60.0)})
    choice = choose(read(run))
    assert choice.cell is None
    assert advice in choice.sentence


def test_runs_of_ordinary_fits_are_rows_by_rate(tmp_path: Path) -> None:
    for name, rate in (("lr4e-6_000", 4e-6), ("lr2e-6_001", 2e-6), ("lr2e-6_000", 2e-6)):
        write_run(tmp_path / name, rate, (8,))
    (tmp_path / "not-a-run").mkdir()
    assert [run.name for run in read(tmp_path).runs] == ["lr2e-6_000", "lr2e-6_001", "lr4e-6_000"]


def test_mistakes_are_answered_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no run"):
        read(tmp_path)
    for text in ("abc", "1e-6,", "2", "-1e-6", "nan"):
        with pytest.raises(UserError, match=r"corridor.lr: .* a list is 1e-6,2e-6,4e-6"):
            learning_rates(text)
    with pytest.raises(UserError, match=r"corridor\.steps"):
        make_plan(config(1e-6, (8,)), "1e-6", "0,8", "corridor")
    with pytest.raises(UserError, match=r"corridor\.name: 'a/b'"):
        make_plan(config(1e-6, (8,)), "1e-6", "8", "a/b")
    without = config(1e-6, (8,)) | {"trainer": {"logger": False}}
    with pytest.raises(UserError, match="keep the TensorBoard logger"):
        make_plan(without, "1e-6", "8", "corridor")
    one_place = config(1e-6, (8,)) | {"step_checkpoint": {"dirpath": "checkpoints"}}
    with pytest.raises(UserError, match=r"^step_checkpoint.dirpath: the fits of a corridor would overwrite"):
        make_plan(one_place, "1e-6", "8", "corridor")
    folder = write_run(tmp_path / "run", 2e-6, (8,))
    (folder / "config.yaml").write_text("a: [b")
    with pytest.raises(UserError, match=r"config.yaml cannot be read"):
        read(folder)


def test_a_run_is_named_as_fit_names_it(tmp_path: Path) -> None:
    assert [rate_name(rate) for rate in (1e-5, 1.6e-4, 2e-6)] == ["lr1e-5", "lr1.6e-4", "lr2e-6"]
    plan = make_plan(config(1e-6, (8,)), yaml.safe_load("[1e-6, 2.0e-6]"), 8, "corridor")
    assert plan.run(Row(2e-6)) == Path("tb_logs/coffee/corridor/lr2e-6")


def test_seeds_are_rows_and_join_those_of_earlier_calls(tmp_path: Path) -> None:
    fit = config(1e-6, (8,)) | {"trainer": _trainer(tmp_path)}
    alone = take_up(make_plan(fit, "1e-6,2e-6", "8", "corridor"))
    assert [row.name for row in alone.rows] == ["lr1e-6", "lr2e-6"]
    assert "seeds" not in yaml.safe_load((alone.folder / "plan.yaml").read_text())
    more = take_up(make_plan(fit, "1e-6", "8", "corridor", "1-2"))
    # 0 is the configuration's own, with which the corridor began.
    assert more.seeds == (0, 1, 2)
    assert [row.name for row in more.rows][:3] == ["lr1e-6", "lr1e-6_seed1", "lr1e-6_seed2"]
    assert [row.label for row in more.rows][3:5] == ["lr 2e-6", "lr 2e-6, seed 1"]
    assert "--seed_everything=2" in more.options(more.rows[2])
    assert not any(option.startswith("--seed_everything") for option in more.options(more.rows[0]))
    assert joined(make_plan(fit, "1e-6", "8", "corridor")).seeds == (0, 1, 2)
    assert [run.seed for run in read(more.folder).runs] == [0, 1, 2] * 2
    others = take_up(make_plan(fit, "1e-6", "8", "others", "1-2"))
    assert [row.name for row in others.rows] == ["lr1e-6_seed1", "lr1e-6_seed2"]
    assert joined(make_plan(fit, "1e-6", "8", "others", [4])).seeds == (1, 2, 4)
    for wrong, sentence in (
        ("a", "is not a whole number"),
        ("4294967296", "out of range"),
        ("0-100", "more than 100"),
    ):
        with pytest.raises(UserError, match=rf"^corridor.seeds: .*{sentence}"):
            make_plan(fit, "1e-6", "8", "corridor", wrong)


def test_a_fit_that_stopped_itself_says_so_and_has_nothing_left_to_do(tmp_path: Path) -> None:
    fit = config(1e-6, (8,)) | {
        "trainer": _trainer(tmp_path),
        "clip_drift": {"stop_when": "forgetting", "steps": None},
    }
    plan = take_up(make_plan(fit, "1e-6", "8,16", "corridor"))
    assert not any(
        option.startswith("--clip_drift") for option in plan.options(Row(1e-6))
    )  # null is the grid's steps
    run = write_run(
        plan.run(Row(1e-6)), 1e-6, (8,), {0: ("under-drifted", None, 0.0), 8: ("cooked", None, 90.0)}
    )
    (run / "config.yaml").write_text(yaml.safe_dump(fit))
    torch.save({"state_dict": {}, "global_step": 8}, run / "checkpoints" / "step=00008.ckpt")
    cell = read(plan.folder).cells["lr1e-6", 16]
    assert cell.state == "not run"
    assert cell.verdict == "The fit was ended at step 8, where the model was cooked (clip_drift.stop_when)."
    assert unfinished(plan, Row(1e-6)) == ([], None, 0)
    goes_on = take_up(
        make_plan(fit | {"clip_drift": {"stop_when": None, "steps": None}}, "1e-6", "8,16", "corridor")
    )
    assert unfinished(goes_on, Row(1e-6)) == ([16], run / "checkpoints" / "step=00008.ckpt", 8)
