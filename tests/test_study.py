"""gvr-study: what runs when, killed at any moment and continued, failures, and what is refused."""

import copy
import errno
import json
import re
import runpy
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from runs import TINY, TINY_CNN, tiny_run
from studies import PLAN, Killed, Runs, figure, pages, plan_file, stand_in, study

from gvr_lightning.errors import TrainingError, UserError
from gvr_lightning.files import locked
from gvr_lightning.study import folder as folders
from gvr_lightning.study import job, launch, machine, report
from gvr_lightning.study import run as studying
from gvr_lightning.study.cli import main
from gvr_lightning.study.outcomes import CRASH, reader
from gvr_lightning.study.read import read_plan
from gvr_lightning.study.schedule import Replay
from gvr_lightning.study.status import duration, status

ROOT = Path(__file__).parents[1]
COMMITTED = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "experiments").glob("*/*runs/**/study.md"))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Studies are made of stand-ins."""
    return stand_in(monkeypatch, Runs())


def by_arm(runs: Runs, first_seed: int) -> Counter[str]:
    """How many runs an arm had, of the seeds from there on, or of those below if it is 0."""
    lines = [line for line in runs.lines if (int(line["seed"]) >= 100) == (first_seed == 100)]
    return Counter(line["name"].partition("-")[0] for line in lines)


def test_every_arm_is_tuned_alike_and_each_run_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Runs
) -> None:
    told = study(tmp_path, monkeypatch)
    # 3 configurations at half of the length; 2 of them, two seeds; one further, two seeds
    assert by_arm(runs, 100) == {"sgd": 3 + 2 * 2 + 2, "gvr": 3 + 2 * 2 + 2} and by_arm(runs, 0) == {"sgd": 4, "gvr": 4}
    assert {line["epochs"] for line in runs.lines if line["name"].startswith("sgd")} == {"3", "6"}
    assert {line["epochs"] for line in runs.lines if line["name"].startswith("gvr")} == {"2", "3"}
    assert all(line["data.max_train"] == "100" and line["resume"] == "auto" for line in runs.lines)
    number = len(runs.lines)
    before = pages(tmp_path)
    assert study(tmp_path, monkeypatch) == told and len(runs.lines) == number and pages(tmp_path) == before
    assert told.splitlines()[-1] == "study/study.html"


def test_what_is_chosen_has_the_best_mean_and_is_what_is_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Runs
) -> None:
    study(tmp_path, monkeypatch)
    for arm, regularizer, key in (("sgd", "none", "lr"), ("gvr", "gvr", "alpha")):
        tuned = [line for line in runs.lines if line["regularizer"] == regularizer and int(line["seed"]) >= 100]
        full = [line for line in tuned if line["epochs"] == str({"sgd": 6, "gvr": 3}[arm])]
        scores: dict[tuple[str, str], list[float]] = {}
        for line in full:
            own = [f"{name}={value}" for name, value in line.items()]
            scores.setdefault((line["lr"], line.get("alpha", "")), []).append(figure(own, "val/acc"))
        assert all(len(values) == 2 for values in scores.values())
        best = max(scores, key=lambda name: sum(scores[name]))
        confirmed = [line for line in runs.lines if line["regularizer"] == regularizer and int(line["seed"]) < 100]
        assert {(line["lr"], line.get("alpha", "")) for line in confirmed} == {best}, key
    page = pages(tmp_path)["study.md"]
    assert "## Registered comparison" in page and page.index("Registered comparison") < page.index("What tuning chose")


def test_the_order_of_the_arms_is_drawn_for_each_seed_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Runs
) -> None:
    seeds = {"seeds": {"first": 0, "number": 16}}
    study(tmp_path / "a", monkeypatch, tuning=None, confirmation=seeds, arms=without_search())
    lines = [(line["seed"], line["name"][:3]) for line in runs.lines]
    first = Counter(lines[i][1] for i in range(0, len(lines), 2))
    assert all(lines[i][0] == lines[i + 1][0] and lines[i][1] != lines[i + 1][1] for i in range(0, len(lines), 2))
    assert 3 < first["sgd"] < 13
    runs.lines.clear()
    study(tmp_path / "b", monkeypatch, tuning=None, confirmation=seeds, arms=without_search())
    assert [(line["seed"], line["name"][:3]) for line in runs.lines] == lines


def without_search() -> dict[str, Any]:
    return {name: {"overrides": [*arm["overrides"], "lr=0.1"]} for name, arm in PLAN["arms"].items()}


def kill_at(moment: int, how: str) -> Runs:
    """Runs of which one takes the study with it: before it began, or half-way."""
    runs = Runs()

    def behave(line: dict[str, str], folder: Path) -> None:
        if len(runs.lines) == moment + 1:
            if how == "half-way":
                (folder / "summary.json").write_text('{"status": "fin')
                (folder / "config.yaml").write_text(f"seed: 0\nregularizer: {{}}\nname: {line['name']}\n")
            raise Killed

    runs.behave = behave
    return runs


SHORT = {"configurations": 2, "rungs": [{"length": 0.5, "seeds": [100], "keep": 2}, {"seeds": [100]}]}


def test_killed_at_any_moment_and_continued_it_gives_the_same_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stand_in(monkeypatch, Runs())
    changes = {"tuning": SHORT, "confirmation": {"seeds": [0, 1]}}
    study(tmp_path / "whole", monkeypatch, **changes)
    expected, commands = pages(tmp_path / "whole"), Counter(map(json.dumps, whole.lines))
    assert sum(commands.values()) == 14 and set(commands.values()) == {1}
    for moment in (0, 1, 3, 4, 6, 7, 8, 10, 11, 13):
        place, how = tmp_path / str(moment), ("before", "half-way")[moment % 2]
        killed = stand_in(monkeypatch, kill_at(moment, how))
        with pytest.raises(Killed):
            study(place, monkeypatch, **changes)
        again = stand_in(monkeypatch, Runs())
        study(place, monkeypatch, **changes)
        assert pages(place) == expected, (moment, how)
        made = [json.dumps(line).replace(str(place), str(tmp_path / "whole")) for line in killed.lines + again.lines]
        assert Counter(made) == commands + Counter([made[moment]]), "each once, but for the one that was killed"


def test_killed_while_the_report_is_written_it_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Runs
) -> None:
    study(tmp_path / "whole", monkeypatch)
    expected, number = pages(tmp_path / "whole"), len(runs.lines)
    with monkeypatch.context() as patch:
        patch.setattr(report, "markdown", lambda page: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            study(tmp_path / "killed", monkeypatch)
    study(tmp_path / "killed", monkeypatch)
    assert pages(tmp_path / "killed") == expected and len(runs.lines) == 2 * number


def diverge(line: dict[str, str], folder: Path, **more: Any) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    told = {"status": "failed", "error": "the loss is not finite", **more}
    (folder / "summary.json").write_text(json.dumps(told))
    return 1


def test_a_diverged_run_is_the_worst_and_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def behave(line: dict[str, str], folder: Path) -> int | None:
        return diverge(line, folder, diverged=True) if line["lr"] != "0.01" and int(line["seed"]) >= 100 else None

    runs = stand_in(monkeypatch, Runs(behave, lambda line, what: 0.5 if what == "val/acc" else figure(line, what)))
    told = study(tmp_path, monkeypatch)
    assert {line["lr"] for line in runs.lines if int(line["seed"]) < 100} == {"0.01"}
    assert len(runs.lines) == len({json.dumps(line) for line in runs.lines})
    assert "diverged: the loss is not finite" in told and "Runs that failed" in told


def test_a_configuration_that_diverges_with_one_of_its_seeds_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def behave(line: dict[str, str], folder: Path) -> int | None:
        return diverge(line, folder, diverged=True) if line["lr"] == "0.1" and line["seed"] == "101" else None

    runs = stand_in(monkeypatch, Runs(behave, lambda line, what: 0.9 if "lr=0.1" in line else 0.5))
    study(tmp_path, monkeypatch)
    assert "0.1" not in {line["lr"] for line in runs.lines if int(line["seed"]) < 100}


def test_equal_configurations_are_told_apart_by_their_place_in_the_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = stand_in(monkeypatch, Runs(value=lambda line, what: 0.5))
    told = study(tmp_path, monkeypatch)
    confirmed = {(line["lr"], line.get("alpha")) for line in runs.lines if int(line["seed"]) < 100}
    assert ("0.01", None) in confirmed and "No candidate beats sgd" in told


def test_an_arm_of_which_nothing_has_trained_ends_the_study_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def behave(line: dict[str, str], folder: Path) -> int | None:
        return diverge(line, folder, diverged=True) if line["regularizer"] == "gvr" else None

    stand_in(monkeypatch, Runs(behave))
    with pytest.raises(UserError, match=r"^arms\.gvr: no configuration of its search has trained to the end"):
        study(tmp_path, monkeypatch)


def test_a_crashed_run_is_said_tried_once_more_and_then_the_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def behave(line: dict[str, str], folder: Path) -> int | None:
        if line["regularizer"] == "none" and line["lr"] == "0.1" and line["seed"] == "100":
            (folder / job.OUTPUT).write_text("data: ...\nerror: out of memory\n")
            return -9
        return None

    runs = stand_in(monkeypatch, Runs(behave))
    with pytest.raises(
        TrainingError, match=r"^1 run\(s\) crashed: sgd lr=0\.1 epochs=3 seed=100: out of memory\. Mend"
    ):
        study(tmp_path, monkeypatch)
    assert len(runs.lines) == 6, "what else was to run has run"
    told = study(tmp_path, monkeypatch)
    assert "crashed 2 times: out of memory" in told
    assert {line["lr"] for line in runs.lines if line["regularizer"] == "none" and line["epochs"] == "6"} >= {"0.01"}
    assert not any(
        line["lr"] == "0.1" and line["epochs"] == "6" for line in runs.lines if line["regularizer"] == "none"
    )


def test_a_crash_that_was_mended_leaves_no_trace_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Runs())
    study(tmp_path / "whole", monkeypatch)
    stand_in(monkeypatch, Runs(lambda line, folder: 1 if line["seed"] == "2" else None))
    with pytest.raises(TrainingError, match=r"2 run\(s\) crashed.*its process ended with status 1"):
        study(tmp_path / "mended", monkeypatch)
    stand_in(monkeypatch, Runs())
    study(tmp_path / "mended", monkeypatch)
    assert pages(tmp_path / "mended") == pages(tmp_path / "whole")


def test_a_candidate_whose_run_fails_in_the_confirmation_does_not_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def behave(line: dict[str, str], folder: Path) -> int | None:
        return diverge(line, folder, diverged=True) if line["seed"] == "3" and line["regularizer"] == "gvr" else None

    def value(line: list[str], what: str) -> float:
        return 0.1 * figure(line, what) + 5 * ("regularizer=gvr" in line)

    stand_in(monkeypatch, Runs(behave, value))
    told = study(tmp_path, monkeypatch, confirmation={"seeds": [0, 1, 2, 3], "looks": [{"seeds": 4, "alpha": 0.05}]})
    assert "No candidate beats sgd" in told and "3 of 4" in told
    stand_in(monkeypatch, Runs(value=value))
    assert "gvr (p < 0.001) beats sgd" in study(tmp_path / "all", monkeypatch)


def test_when_all_candidates_have_won_the_study_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def value(line: list[str], what: str) -> float:
        return 0.01 * figure(line, what) + ("regularizer=gvr" in line)

    runs = stand_in(monkeypatch, Runs(value=value))
    seeds = {"seeds": {"first": 0, "number": 12}}
    told = study(tmp_path, monkeypatch, confirmation=seeds)
    assert {int(line["seed"]) for line in runs.lines if int(line["seed"]) < 100} == set(range(6))
    assert "over 6 fresh seeds" in told and "not made: all had won" in told


def test_an_interrupted_run_stops_the_study_and_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Runs(lambda line, folder: 143 if line["seed"] == "1" else None))
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, monkeypatch)
    assert not list(tmp_path.rglob(CRASH))
    stand_in(monkeypatch, Runs())
    assert "fresh seeds" in study(tmp_path, monkeypatch)


def test_a_row_that_was_begun_on_another_machine_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, kill_at(19, "before"))  # the second run of the confirmation's first seed
    with pytest.raises(Killed):
        study(tmp_path, monkeypatch)
    begun = next((tmp_path / "study" / "confirmation").rglob("summary.json")).parent
    again = stand_in(monkeypatch, Runs())
    monkeypatch.setattr(machine, "machine", lambda: "another one")
    study(tmp_path, monkeypatch)
    assert sum(line["seed"] == begun.parent.name.removeprefix("seed_") for line in again.lines) == 2
    assert (begun.parent / ".before_1" / begun.name / "summary.json").exists()
    assert "it begins anew" in capsys.readouterr().out
    assert {path.read_text() for path in (tmp_path / "study").rglob(machine.MACHINE)} == {"another one\n"}


def test_two_studies_do_not_work_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Runs) -> None:
    (tmp_path / "study").mkdir()
    with locked(tmp_path / "study"), pytest.raises(UserError, match=r"^study: another gvr-study is at work in it"):
        study(tmp_path, monkeypatch)
    assert not runs.lines
    study(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"comparison": {**PLAN["comparison"], "metric": "test/loss"}}, "comparison.metric was null and is test/loss"),
        ({"setting": []}, r"setting was \[data.max_train=100\] and is \[\]"),
        ({"confirmation": {"seeds": {"first": 0, "number": 5}}}, "confirmation.seeds.number was 4 and is 5"),
    ],
)
def test_a_changed_plan_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Runs, changes: dict[str, Any], words: str
) -> None:
    study(tmp_path, monkeypatch, tuning=None, arms=without_search())
    number = len(runs.lines)
    with pytest.raises(
        UserError, match=rf"^plan.yaml is not the plan that study was begun with: {words}; a changed plan"
    ):
        study(tmp_path, monkeypatch, **{"tuning": None, "arms": without_search(), **changes})
    assert len(runs.lines) == number
    launcher = {"launcher": ["hydra/launcher=joblib"]}
    study(tmp_path, monkeypatch, tuning=None, arms=without_search(), **launcher)  # where it runs is not registered


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "study.json is damaged"),
        ("{}", "study.json is damaged"),
        ("[1]", "study.json is damaged"),
        (None, "its plan is not the one that was registered"),
        ("", "has runs .tuning/. and no study.json"),
    ],
)
def test_a_damaged_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Runs, content: str | None, words: str
) -> None:
    study(tmp_path, monkeypatch)
    path = tmp_path / "study" / "study.json"
    path.write_text(path.read_text().replace("0.01", "0.02") if content is None else content)
    if content == "":
        path.unlink()
    with pytest.raises(UserError, match=words):
        study(tmp_path, monkeypatch)


def test_another_run_in_a_run_s_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Runs) -> None:
    study(tmp_path, monkeypatch)
    config = next((tmp_path / "study" / "confirmation").rglob("config.yaml"))
    config.write_text(config.read_text().replace("name: ", "name: other-"))
    with pytest.raises(UserError, match=r"holds another run than the plan has there \(other-.*move it away"):
        study(tmp_path, monkeypatch)


def test_a_metric_that_no_run_has_is_said_after_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Runs
) -> None:
    changes = {"tuning": {**PLAN["tuning"], "metric": "val/loss"}}
    with pytest.raises(UserError, match=r"^val/loss: the run in .* has no such figure; there is val/acc, test/acc"):
        study(tmp_path, monkeypatch, **changes)
    assert len(runs.lines) == 1


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, write: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(folders, "atomic", full)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main([str(plan_file(tmp_path))])
    printed = capsys.readouterr().err
    assert end.value.code == 2 and "No space left on device" in printed and printed.count("\n") == 1 and not runs.lines


def test_the_status_says_what_is_done_running_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = read_plan(plan_file(tmp_path))
    # 3 configurations, 2 of them on two seeds, one further on two; four fresh seeds; two arms
    assert "not begun" in status(plan) and "26 runs left at most" in status(plan)
    assert not (tmp_path / "study").exists()
    (tmp_path / "wrong").mkdir()
    wrong = plan_file(tmp_path / "wrong", setting=["no_such_key=1"])
    with pytest.raises(UserError, match=r"arms\.sgd: no_such_key=1"):
        status(read_plan(wrong))
    stand_in(monkeypatch, kill_at(8, "half-way"))
    with pytest.raises(Killed):
        study(tmp_path, monkeypatch)
    with locked(tmp_path / "study"):
        capsys.readouterr()
        main(["plan.yaml", "--status"])
        lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[-6:] == ["runs", "finished", "failed", "crashed", "running", "left"]
    assert lines[2].split()[-6:] == ["6", "6", "0", "0", "0", "0"]
    assert lines[3].split()[-6:] == ["8", "2", "0", "0", "1", "6"] and lines[-1] == "at work"
    # of the rung 6; the further ones 2 x 2; the confirmation 2 x 4
    assert lines[-2].startswith("18 runs left at most, some")
    stand_in(monkeypatch, Runs())
    study(tmp_path, monkeypatch)
    assert "all runs are done" in status(plan) and Replay(plan, {"sgd": 6, "gvr": 3}, reader(plan)).state().done


def test_what_is_left_is_what_then_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it is asked, as no look ends this study before its time."""
    runs = stand_in(monkeypatch, Runs())
    study(tmp_path / "whole", monkeypatch)
    number = len(runs.lines)
    for moment in (2, 15, 19, 23):
        stand_in(monkeypatch, kill_at(moment, "before"))
        with pytest.raises(Killed):
            study(tmp_path / str(moment), monkeypatch)
        line = status(read_plan(Path("plan.yaml"))).splitlines()[-2]
        assert line.startswith(f"{number - moment} runs left at most"), moment


def test_durations_are_told_in_their_unit() -> None:
    assert [duration(x) for x in (59, 150, 9000, 400_000)] == ["59 seconds", "2.5 minutes", "2.5 hours", "4.6 days"]


def test_rows_go_through_hydra_s_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Runs) -> None:
    """Each row once, its runs in their order, in a folder with signs that Hydra reads otherwise."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "a study, it's {here}=1"
    plan = read_plan(plan_file(tmp_path, folder=str(place), tuning=None, arms=without_search()))
    stage = Replay(plan, {"sgd": 2, "gvr": 2}, reader(plan)).state().stages[0]
    made: list[Any] = []
    monkeypatch.setattr(job, "run_row", lambda *arguments: made.append(arguments))
    launch.launch(place, stage.rows, stage.metric, [])
    assert made == [(place, list(row), "test/acc") for row in stage.rows]


def test_a_run_is_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "PRELOAD", [])
    assert job.train(["lr=0"], tmp_path / "output.txt") == 2
    assert (tmp_path / "output.txt").read_text() == "error: lr=0: must be a finite number > 0\n"


def test_a_whole_study_on_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With real runs, and nothing else that stands for something."""

    def train(arguments: list[str], output: Path) -> int:
        outside = copy.copy(GlobalHydra.instance().hydra)  # of the launcher, which a process of its own would not know
        GlobalHydra.instance().clear()
        tiny_run(output.parent, *(text for text in arguments if not text.startswith(("hydra.", "resume="))))
        GlobalHydra.instance().initialize(outside)
        return 0

    monkeypatch.setattr(job, "train", train)
    monkeypatch.chdir(tmp_path)
    own = ["epochs=1", *(text for text in TINY if not text.startswith(("name", "epochs"))), *TINY_CNN]
    arms = {name: {**arm, "search": {"lr": [0.02, 0.1]}} for name, arm in PLAN["arms"].items()}
    tuning = {"configurations": 2, "further": 0, "rungs": [{"length": 0.5, "seeds": [9]}]}
    file = Path(plan_file(tmp_path, setting=own, arms=arms, tuning=tuning, confirmation={"seeds": [0, 1]}).name)
    told = studying.run_study(read_plan(file))
    figures = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("summary.json"))]
    assert len(figures) == 8 and {x["status"] for x in figures} == {"finished"}
    assert "over 2 fresh seeds" in told
    rows = (tmp_path / "study" / "report" / "runs.csv").read_text().splitlines()
    assert len(rows) == 1 + 4
    page = (tmp_path / "study" / "study.html").read_text()
    linked = re.findall(r'href="([^"#:]+)"', page)
    assert linked == ["study.md", "report/report.html"] and all((tmp_path / "study" / name).exists() for name in linked)
    chosen = {"hydra": {"run": {"dir": str(tmp_path)}, "runtime": {"choices": {"regularizer": "none"}}}}
    for run in (path.parent for path in list(tmp_path.rglob("summary.json"))):
        (run / ".hydra").mkdir(exist_ok=True)
        (run / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(chosen))
    under_way = shutil.copytree(run, run.parent / "under_way")
    (under_way / "summary.json").unlink()
    monkeypatch.setattr(sys, "argv", ["finished_runs.py", "study", "kept"])
    runpy.run_path(str(ROOT / "experiments" / "finished_runs.py"), run_name="__main__")
    copied = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert len(copied) == 2 + 2 + 8 * 4 and not [path for path in copied if str(tmp_path) in path.read_text()]
    assert all(yaml.safe_load(p.read_text())["hydra"].keys() == {"runtime"} for p in copied if p.name == "hydra.yaml")
    assert capsys.readouterr().out.endswith("kept: 8 runs; 1 have not ended\n")
    shutil.rmtree(under_way)
    told = studying.run_study(read_plan(file))  # with the options' names
    assert studying.run_study(replace(read_plan(file), folder=Path("kept"))).splitlines()[:-2] == told.splitlines()[:-2]
    for name in ("study.md", "report/table.csv", "report/runs.csv"):
        assert (tmp_path / "kept" / name).read_text() == (tmp_path / "study" / name).read_text()


@pytest.mark.parametrize("page", COMMITTED)
def test_a_committed_study_recomputes_from_its_runs_alone(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, and nothing is run."""
    monkeypatch.chdir(ROOT)
    plans = map(read_plan, Path("experiments").glob("*/*.yaml"))
    (plan,) = (plan for plan in plans if plan.folder == Path(page).parent)
    monkeypatch.setattr(job, "train", lambda *arguments: pytest.fail(f"{arguments} is run"))
    shutil.copytree(Path(page).parent, tmp_path / "study", dirs_exist_ok=True)
    studying.run_study(replace(plan, folder=tmp_path / "study"))
    assert (tmp_path / "study" / "study.md").read_text() == Path(page).read_text()
