"""gvr-study's plan: every mistake in one line before anything runs, and the configurations that it means."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prose import blocks
from studies import PLAN, plan_file

from gvr_lightning.errors import UserError
from gvr_lightning.study.check import check_arms
from gvr_lightning.study.cli import main
from gvr_lightning.study.plan import Arm, Look, draw
from gvr_lightning.study.read import read_plan
from gvr_lightning.study.search import at_edge, configurations, further, search_space

ROOT = Path(__file__).parents[1]


def changed(path: str, value: Any) -> dict[str, Any]:
    """The plan with another value at a dotted path."""
    content: Any = yaml.safe_load(yaml.safe_dump(PLAN, sort_keys=False))
    *above, last = path.split(".")
    node = content
    for name in above:
        node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
    node[last] = value
    return content


MISTAKES = [
    ("arm", {}, "there is no key arm; did you mean arms?"),
    ("comparison.candidate", ["gvr"], "there is no key comparison.candidate; did you mean comparison.candidates?"),
    ("tuning.rungs.0.lenght", 1, "there is no key tuning.rungs.0.lenght; did you mean tuning.rungs.0.length?"),
    ("arms.gvr.overides", [], "there is no key arms.gvr.overides; did you mean arms.gvr.overrides?"),
    ("confirmation.looks", [{"seeds": 4}], "confirmation.looks.0.alpha is missing: the level, two-sided"),
    ("confirmation.looks", [{"seeds": 4, "alpha": 1.5}], "looks.0.alpha=1.5: must be a number in (0, 1)"),
    ("confirmation.looks", [{"seeds": 3, "alpha": 0.05}], "looks: their seeds must grow, the last look has all 4"),
    ("confirmation.seeds", [1, 1], "confirmation.seeds=[1, 1]: must be a list of different whole numbers"),
    ("confirmation.seeds", {"first": 0}, "confirmation.seeds={first: 0}: must be a list of different"),
    ("confirmation.seeds", [3], "confirmation.seeds: a comparison takes two seeds at the least"),
    ("confirmation.seeds", [0, 100], "confirmation.seeds: 100 is a seed of the tuning"),
    ("comparison.candidates", ["gvrr"], "comparison.candidates: there is no arm gvrr; did you mean gvr?"),
    ("comparison.candidates", ["sgd"], "comparison: sgd is candidate and comparator"),
    ("comparison.candidates", ["gvr", "gvr"], "an arm stands there twice"),
    ("comparison.metric", "temperature", "comparison.metric=temperature: neither higher nor lower is known"),
    ("comparison.power", 1, "comparison.power=1: must be a number in (0, 1)"),
    ("tuning.metric", "test/acc", "tuning.metric=test/acc: a test figure chooses nothing"),
    ("tuning.configurations", 1, "tuning.configurations=1: must be a whole number >= 2"),
    ("tuning.rungs", [], "tuning.rungs=[]: must be a list"),
    ("tuning.rungs.0.length", 1.5, "tuning.rungs.0.length=1.5: must be a number in (0, 1]"),
    ("tuning.rungs.0.keep", 4, "tuning.rungs.0.keep=4: only 3 configurations come to it"),
    ("tuning.rungs.1.keep", 2, "tuning.rungs.1.keep=2: the last rung keeps 1"),
    ("tuning", None, "arms.sgd.search: nothing is searched without tuning"),
    ("arms", {}, "comparison.candidates: there is no arm gvr"),
    ("arms.a/b", {}, "arms.a/b: an arm's name is of letters, digits"),
    ("arms.sgd", [1], "arms.sgd must be settings {key: value}, got [1]"),
    ("arms.sgd.search.lr", [0.1, 0.1], "arms.sgd.search.lr=[0.1, 0.1]: must be a list [a, b, ...] of different"),
    ("arms.sgd.search.lr", {"from": 1, "to": 0.1, "number": 3}, "with a < b and n >= 2"),
    ("arms.sgd.search.batch_size", {"from": 1, "to": 3, "number": 9}, "arms.sgd.search.batch_size={from: 1"),
    ("setting", "lr=0.1", "setting=lr=0.1: must be a list of words"),
    ("seed", -1, "seed=-1: must be a whole number from 0"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "words"), MISTAKES)
def test_a_mistake_in_a_plan_is_one_line(tmp_path: Path, path: str, value: Any, words: str) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(changed(path, value), sort_keys=False))
    with pytest.raises(UserError) as told:
        read_plan(file)
    assert str(told.value).startswith(f"{file}: ") and words in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "cannot be read: while parsing"),
        ("", "the plan must be settings"),
        ("- 1", "the plan must be settings"),
        ("a: &x 1\nb: *x", "cannot be read: it refers to itself"),
        ("a: !!python/object/apply:os.system [ls]", "cannot be read"),
    ],
)
def test_what_is_no_plan_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as told:
        read_plan(file)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.yaml"], "none.yaml: there is no such file; a plan is a YAML file"),
        (["."], ". cannot be read: it is a folder"),
        (["--stat"], "--stat: there is no such flag; did you mean --status?"),
        (["a.yaml", "b.yaml"], "one plan is needed, given: a.yaml, b.yaml"),
        (["--status"], "one plan is needed, given: none"),
        (["a.yaml", "lr=0.1"], "lr=0.1: a study's settings stand in its plan"),
    ],
)
def test_a_mistake_on_the_line_is_one_line(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed = capsys.readouterr().err
    assert end.value.code == 2 and printed.startswith(f"error: {words}") and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("arms.gvr.overrides", ["regularizer=gvrr"], "arms.gvr: regularizer=gvrr: there is no such option; did you"),
        ("arms.gvr.overrides", ["regularizer=gvr", "lrr=1"], "arms.gvr: lrr=1: there is no key lrr; did you mean lr?"),
        ("arms.gvr.search", {"alpha": [0.1, -1]}, "arms.gvr: alpha=-1: must be a finite number >= 0"),
        ("arms.sgd.search", {"lrr": [1, 2]}, "arms.sgd: lrr=1: there is no key lrr; did you mean lr?"),
        ("setting", ["data.max_trian=1"], "arms.sgd: data.max_trian=1: there is no key data.max_trian; did you mean"),
        ("setting", ["seed=3"], "arms.sgd: seed=3: seed is set by the study itself"),
        ("setting", ["trainer.max_epochs=3"], "trainer.max_epochs is set by the study itself; give epochs"),
        ("setting", ["hydra.run.dir=x"], "hydra.run.dir is set by the study itself"),
        ("setting", ["lr=1,2"], "lr=1,2: several values belong to the arm's search"),
        ("arms.gvr.search", {"epochs": [1, 2]}, "search.epochs: the length is the arm's own"),
        ("arms.gvr.overrides", ["regularizer=gvr", "lr=1"], "search.lr: lr=1 stands among the overrides"),
        ("launcher", ["hydra/launcher=jobli"], "launcher: hydra/launcher=jobli"),
        ("launcher", ["lr=1"], "launcher: lr=1: only hydra/launcher=..."),
    ],
)  # fmt: skip
def test_every_arm_is_checked_before_anything_runs(tmp_path: Path, path: str, value: Any, words: str) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(changed(path, value), sort_keys=False))
    with pytest.raises(UserError) as told:
        check_arms(read_plan(file))
    assert words in str(told.value) and "\n" not in str(told.value)


def test_the_length_of_an_arm_is_that_of_its_configuration(tmp_path: Path) -> None:
    arms = {"sgd": {"overrides": ["epochs=7"]}, "gvr": None}
    assert check_arms(read_plan(plan_file(tmp_path, arms=arms, tuning=None))) == {"sgd": 7, "gvr": 30}


def test_the_plan_that_the_page_shows_can_be_carried_out(tmp_path: Path) -> None:
    ((title, code),) = blocks((ROOT / "docs" / "pages" / "studies.md").read_text(), "yaml")
    (tmp_path / title).write_text(code)
    plan = read_plan(tmp_path / title)
    assert {name: len(configurations(plan, name)) for name in plan.arms} == {"sgd": 6, "two_view": 6, "gvr": 6}


def test_what_is_registered_is_what_the_plan_says_not_how_it_is_written(tmp_path: Path) -> None:
    plan = read_plan(plan_file(tmp_path))
    path = plan_file(tmp_path, folder="elsewhere", launcher=["hydra/launcher=joblib"], seed=0)
    path.write_text("# a remark\n" + path.read_text())
    other = read_plan(path, ["hydra/launcher=basic"])
    assert other.digest == plan.digest and other.launcher == ("hydra/launcher=basic",)
    assert read_plan(plan_file(tmp_path, seed=1)).digest != plan.digest
    assert plan.folder == Path("study") and read_plan(plan_file(tmp_path, folder=None)).folder == Path("outputs/plan")


@pytest.mark.parametrize(
    ("seeds", "looks"),
    [(12, [(6, 0.005), (12, 0.048)]), (5, [(3, 0.005), (5, 0.048)]), (2, [(2, 0.048)]), (3, [(2, 0.005), (3, 0.048)])],
)
def test_the_usual_looks(tmp_path: Path, seeds: int, looks: list[tuple[int, float]]) -> None:
    plan = read_plan(plan_file(tmp_path, confirmation={"seeds": {"first": 0, "number": seeds}}))
    assert list(plan.looks) == [Look(*look) for look in looks] and plan.seeds == tuple(range(seeds))


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ([1, 0.5, "a", None, True], (1, 0.5, "a", None, True)),
        ({"from": 0.001, "to": 1, "number": 4}, (0.001, 0.01, 0.1, 1)),
        ({"from": 0, "to": 1, "number": 3}, (0, 0.5, 1)),
        ({"from": 1, "to": 100, "number": 3}, (1, 10.0, 100)),
        ({"from": 0.012345, "to": 1, "number": 2}, (0.012345, 1)),
    ],
)
def test_a_search_space_by_hand(value: Any, line: tuple[Any, ...]) -> None:
    assert search_space("arms.a.search.lr", value) == line
    whole = search_space("arms.a.search.batch_size", {"from": 16, "to": 64, "number": 3})
    assert whole == (16, 32, 64) and all(type(x) is int for x in whole)


def test_of_a_larger_grid_as_many_are_drawn_for_every_arm(tmp_path: Path) -> None:
    arms = {"sgd": {"search": {"lr": {"from": 0.001, "to": 1, "number": 40}}}, "gvr": PLAN["arms"]["gvr"]}
    plans = [read_plan(plan_file(tmp_path, arms=arms, seed=seed)) for seed in (0, 0, 1)]
    first, again, other = (configurations(plan, "sgd") for plan in plans)
    assert first == again != other and len(set(first)) == 3 == len(configurations(plans[0], "gvr"))
    assert first == sorted(first), "in the grid's order"
    small = read_plan(plan_file(tmp_path, arms={**arms, "sgd": {"search": {"lr": [1, 2]}}}))
    with pytest.raises(UserError, match=r"^arms\.sgd\.search has 2 configurations, every arm needs 3"):
        configurations(small, "sgd")
    with pytest.raises(UserError, match=r"^arms\.sgd\.search has 2 configurations"):
        check_arms(small)  # before anything is registered


@pytest.mark.parametrize(
    ("key", "line", "winner", "found"),
    [
        ("lr", (0.01, 0.1, 1.0), 1.0, [10.0, 0.3162]),
        ("lr", (0.01, 0.1, 1.0), 0.01, [0.001, 0.03162]),
        ("lr", (1.0, 0.01, 0.1), 0.1, [0.3162, 0.03162]),
        ("optimizer.momentum", (0.5, 0.9), 0.9, [0.6708]),  # beyond 1 there is none
        ("alpha", (0, 1, 4), 0, [0.5]),  # nor below 0
        ("model.options.drop", (0.0, 1.0), 0.0, [0.5]),  # likewise where no range is known
        ("alpha", (0, 1), 1, [2, 0.5]),
        ("batch_size", (32, 64), 64, [128, 45]),
        ("batch_size", (1, 2), 1, []),  # no whole number between, none below
        ("regularizer", ("none", "gvr"), "gvr", []),
        ("lr", (0.1,), 0.1, []),
    ],
)
def test_beyond_the_edge_first_then_beside_the_winner(key: str, line: Any, winner: Any, found: list[Any]) -> None:
    arm = Arm((), {key: line, "x": (1,)})
    tried = [values for values, _ in further(arm, ((key, winner), ("x", 1)))]
    assert tried == [((key, value), ("x", 1)) for value in found]


def test_the_edges_of_a_grid() -> None:
    arm = Arm((), {"lr": (0.1, 0.01, 1), "alpha": (1, 2, 3), "regularizer": ("a", "b"), "seed": (1,)})
    values = (("lr", 0.01), ("alpha", 2), ("regularizer", "a"), ("seed", 1))
    assert at_edge(arm, values) == ["lr"]
    tried = ["lr beyond the edge", "lr beside the winner", "alpha beside the winner", "alpha beside the winner"]
    assert [what for _, what in further(arm, values)] == tried


def test_a_draw_is_a_pure_function_of_its_coordinates() -> None:
    items = list(range(30))
    assert draw(items, 0, "a") == draw(items, 0, "a") != draw(items, 0, "b") != draw(items, 1, "a")
    assert sorted(draw(items, 0, "a")) == items
