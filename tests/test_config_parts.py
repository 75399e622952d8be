"""The parts of the command line's check by themselves: sweeps taken apart, names and values in words, hashes."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import MissingConfigException
from runs import tiny_run

from gvr_lightning.config.declarations import declared
from gvr_lightning.config.folder import first_comment, group_options
from gvr_lightning.config.identity import config_hash
from gvr_lightning.config.lookup import get, kind
from gvr_lightning.config.overrides import choices, combinations, parse
from gvr_lightning.config.ranges import is_number
from gvr_lightning.config.signatures import locate, signature
from gvr_lightning.config.sweep import expand, unfinished
from gvr_lightning.config.targets import GIVEN, _check_type
from gvr_lightning.config.values import resolve
from gvr_lightning.config.wording import nearest, one_line, show, suggest
from gvr_lightning.errors import UserError
from gvr_lightning.instantiate import make


def values(text: str, *options: str) -> list[Any]:
    return [override.value() for override in choices(parse(text), options)]


def test_a_sweep_is_taken_apart() -> None:
    assert values("a=1") == [1] and values("a=[1,2]") == [[1, 2]]
    assert values("a=1,x,null") == [1, "x", None]
    assert values("a=choice(3,1)") == [3, 1]
    assert values("a=range(1,4)") == [1, 2, 3] and values("a=range(0,1,0.5)") == [0.0, 0.5]
    assert values("a=interval(0.5,2)") == [0.5, 2.0]
    assert values("a=glob(x*)", "xa", "b", "xc") == ["xa", "xc"]
    assert values("a=glob(*,exclude=x*)", "xa", "b", "xc") == ["b"]
    assert [str(o.input_line) for o in choices(parse("+a.b=1,2"), [])] == ["+a.b=1", "+a.b=2"]


def test_a_long_sweep_is_looked_at_from_both_ends() -> None:
    assert values("a=range(0,50)") == list(range(50))
    assert values("a=range(0,1000)") == [*range(25), *range(975, 1000)]


def test_a_number_is_finite_and_no_truth_value() -> None:
    assert all(map(is_number, (0, -1, 1.5, -1.7976931348623157e308, 1.7976931348623157e308)))
    infinities = (float("inf"), float("-inf"), float("nan"), 10**400)
    assert not any(map(is_number, (True, False, "1", None, [1], *infinities)))


def test_combinations_are_all_or_contain_every_item() -> None:
    assert combinations([[1, 2], [3, 4]], 4) == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert combinations([[1, 2], [3, 4]], 3) == [(1, 3), (2, 4)]
    assert combinations([[1, 2, 5], [3, 4]], 5) == [(1, 3), (2, 4), (5, 3)]
    assert combinations([], 1) == [()]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (3, "3"),
        (0.5, "0.5"),
        ("abc", "abc"),
        ("a/b-1", "a/b-1"),
        *((looks, f"'{looks}'") for looks in ("3", "-1.5", "+2", ".5", "1e3", "true", "NULL", "nan", "inf", "", "1_0")),
        ([1, "a", None], "[1, a, null]"),
        ({"a": {"b": [True]}}, "{a: {b: [true]}}"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 80 + "..."),
    ],
)
def test_a_value_is_shown_as_one_would_type_it(value: Any, text: str) -> None:
    assert show(value) == text


def test_the_nearest_name() -> None:
    assert nearest("regulariser", ["regularizer", "sampler"]) == "regularizer"
    assert nearest("LR", ["alpha", "lr"]) == "lr" and nearest("zzz", ["alpha"]) is None
    assert nearest("adan", ["sgd", "ADAM"]) == "ADAM"
    assert nearest("abcx", ["abcd"], cutoff=0.7) == "abcd" and nearest("abcx", ["abcd"], cutoff=0.8) is None
    assert suggest("adan", ["adam", "sgd"]) == "did you mean adam? (there is adam, sgd)"
    assert suggest("zzz", ["adam", "sgd"]) == "there is adam, sgd" and suggest("a", []) == "there is none"


def test_an_exception_in_one_line() -> None:
    missing = MissingConfigException("no\nsuch thing", "optimizer/adan2", ["adan", "sgd"])
    assert one_line(missing) == "optimizer=adan2: there is no such option; did you mean adan? (there is adan, sgd)"
    assert one_line(ValueError("first\nsecond")) == "first" and one_line(ValueError()) == "ValueError"
    outer = ValueError("it failed.")
    outer.__cause__ = KeyError("why")
    assert one_line(outer) == "it failed: 'why'"


def test_what_stands_where() -> None:
    config = {"a": {"b": {"_target_": "x.y.Z", "c": 0}}, "d": None}
    assert get(config, "a.b.c") == 0 and get(config, "a.x.c") is get(config, "a.b.c.d") is get(config, "d") is None
    assert kind(config, "a.b") == "Z"


def test_the_hash_is_of_what_defines_a_run() -> None:
    config = {"name": "x", "seed": 0, "resume": None, "lr": 0.1, "data": {"root": "a"}}
    config["logger"] = {"_target_": "wandb", "project": "p", "sweep": "outputs/2030"}

    def changed(key: str, value: Any) -> str:
        other = copy.deepcopy(config)
        node: Any = other
        *above, name = key.split(".")
        for part in above:
            node = node[part]
        node[name] = value
        return config_hash(other)

    same = config_hash(config)
    assert len(same) == 64 and set(same) <= set("0123456789abcdef")
    assert all(changed(key, "y") == same for key in ("name", "resume", "logger.sweep"))
    others = [changed(key, "y") for key in ("seed", "lr", "data.root", "logger.project", "logger._target_", "new")]
    assert len({same, *others}) == 7
    assert config_hash(dict(reversed(config.items()))) == same
    assert config["logger"]["sweep"] == "outputs/2030"  # it stays as it is
    assert len({config_hash({**config, "logger": None}), config_hash({**config, "logger": {}}), same}) == 3


def test_references_are_resolved_but_for_those_of_a_job() -> None:
    tree = {"a": 1, "b": "${a}", "c": {"d": ["${b}", {"e": "x-${a}"}]}, "f": "${hydra:job.num}"}
    tree |= {"h": "???", "i": "${h}", "j": "${c.d}"}
    assert resolve(tree) == {
        "a": 1,
        "b": 1,
        "c": {"d": [1, {"e": "x-1"}]},
        "f": "${hydra:job.num}",
        "h": "???",
        "i": "${h}",
        "j": [1, {"e": "x-1"}],
    }
    with pytest.raises(UserError, match=r"c\.d\.0=\$\{z\}: .*'z' not found"):
        resolve({"c": {"d": ["${z}"]}})


def test_a_first_comment_says_what_an_option_is() -> None:
    assert first_comment("model", "resnet20") == "0.27 M parameters"
    assert first_comment("experiment", "gvr_cifar10") == "CIFAR-10, ResNet-18, 200 epochs: the published GVR row"
    assert first_comment("model", "nothing") == ""
    for group, options in group_options().items():
        for option in options:
            assert len(first_comment(group, option)) > 8, f"{group}={option}: --help has nothing to say of it"


def test_a_signature_is_that_of_the_class_and_what_it_passes_on() -> None:
    task = signature("gvr_lightning.tasks.diffusion.DiffusionTask")
    assert {"noise", "model", "penalty", "optimizer", "schedule"} == task.required
    assert {"noise", "ema_decay", "clip_norm", "accumulate"} <= task.arguments.keys() and not task.open
    assert "self" not in task.arguments and task.arguments["ema_decay"] == "float"
    assert signature("gvr_lightning.methods.sam.sam_agr").open is False
    assert signature("builtins.dict").open and not signature("gvr_lightning.methods.penalty.NoPenalty").arguments
    for target, words in {
        "torch.nn.Lineer": "did you mean torch.nn.Linear",
        "nothing": "No module named 'nothing'",
        "json.decoder.nothing": "nothing",
        "math.pi": "cannot be called",
    }.items():
        with pytest.raises(ImportError, match=words):
            signature(target)


def test_what_is_given_beside_a_ready_sweep_counts() -> None:
    swept = ["name=quick", "regularizer=none,two_view,gvr,sam,agr", "seed=0,1,2"]
    assert expand(["+sweep=quick"]) == ["-m", *swept] == expand(["sweep=quick"])
    assert expand(["--multirun", "+sweep=quick"]) == ["--multirun", *swept]
    assert expand(["+sweep=quick", "-m", "lr=0.1"]) == ["-m", "lr=0.1", *swept]
    assert expand(["+sweep=quick", "regularizer=gvr"]) == ["-m", "regularizer=gvr", swept[0], swept[2]]
    assert expand(["+sweep=quick", "+seed=5", "name=y"]) == ["-m", "+seed=5", "name=y", swept[1]]
    assert expand(["+sweep=quick", "~seed"]) == ["-m", "~seed", *swept[:2]]
    assert expand(["+sweep=quick", "experiment=x"]) == ["-m", "experiment=x", *swept[1:]]
    assert expand(["seed=0", "data=x"]) == ["seed=0", "data=x"]


def test_jobs_that_did_not_finish_are_listed(tmp_path: Path) -> None:
    summaries: dict[str, Any] = {
        "0": {"status": "finished"},
        "1": {"status": "failed", "error": "no memory"},
        "2": {"status": "interrupted"},
        "3": None,
        "4/inner": {"status": "failed"},
    }
    for name, summary in summaries.items():
        (tmp_path / name / ".hydra").mkdir(parents=True)
        if summary:
            (tmp_path / name / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "5" / ".hydra").mkdir(parents=True)
    (tmp_path / "5" / "summary.json").write_text('{"status": ')
    (tmp_path / "6").mkdir()  # no job's
    assert unfinished(tmp_path) == [
        (tmp_path / "1", "failed: no memory"),
        (tmp_path / "2", "interrupted"),
        (tmp_path / "3", "ended without a summary"),
        (tmp_path / "4" / "inner", "failed"),
        (tmp_path / "5", "ended without a summary"),
    ]


# --- what classes declare


OWN_PENALTIES = """
from gvr_lightning import GradientVariance, Penalty


class Three(Penalty):
    fewest = most = 3
    needs_classes, double_backward = True, True


class Halves(GradientVariance):
    varies = {("split", True): {"fewest": 1, "most": 1}, ("layers", "all"): {"double_backward": "all"}}


def made(alpha: float = 1.0) -> Three:
    raise RuntimeError("nothing is run")


raise RuntimeError("nothing is imported")
"""


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"_target_": "own_penalties.Three"}, (3, 3, True, True)),
        ({"_target_": "own_penalties.made"}, (3, 3, True, True)),
        ({"_target_": "own_penalties.Halves", "split": False}, (2, None, False, True)),
        ({"_target_": "own_penalties.Halves", "split": True, "layers": "all"}, (1, 1, False, "all")),
        ({"_target_": "gvr_lightning.methods.gvr.penalty.GradientVariance"}, (2, None, False, False)),
        ({"_target_": "gvr_lightning.GradientVariance", "layers": ["a"]}, (2, None, False, True)),
        ({"_target_": "gvr_lightning.methods.penalty.NoPenalty"}, (1, None, False, False)),
        ({"_target_": "no.such.thing"}, (None,) * 4),
        ({"_target_": 3}, (None,) * 4),
        (None, (None,) * 4),
    ],
)
def test_what_a_class_declares_is_read_without_importing_it(
    node: Any, expected: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_penalties.py").write_text(OWN_PENALTIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("fewest", "most", "needs_classes", "double_backward")
    assert tuple(declared(node, name) for name in names) == expected
    assert declared(node, "no_such_name", "otherwise") == "otherwise"


def test_what_is_read_is_what_the_classes_have() -> None:
    names = ["GradientVariance", "NormalisedGradientVariance", "LabelFreeGradientVariance", "OneViewGradientVariance"]
    for name in [*names, "FeatureNorm", "Consistency", "methods.gvr.penalty.PublishedGradientVariance"]:
        target = f"gvr_lightning.{name}"
        penalty = locate(target)()
        for key in ("fewest", "most", "needs_classes", "double_backward", "adds_nothing"):
            assert declared({"_target_": target}, key) == getattr(penalty, key), key


def test_what_the_run_passes_itself_is_what_may_not_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: dict[str, set[str]] = {}

    def spy(node: Any, key: str, *wanted: Any, **arguments: Any) -> Any:
        passed.setdefault(key, set()).update(arguments)
        return make(node, key, *wanted, **arguments)

    for module in ("build", "trainer"):
        monkeypatch.setattr(f"gvr_lightning.app.{module}.make", spy)
    tiny_run(tmp_path, "regularizer=gvr")
    given = {key: names for key, names in passed.items() if names}
    assert given.keys() == {"model", "task", "trainer"}
    assert given["model"] == GIVEN["model"].keys() and given["task"] == GIVEN["task"].keys()
    assert given["trainer"] <= GIVEN["trainer"].keys() | {"strategy"}  # trainer.strategy is a setting


@pytest.mark.parametrize(
    ("group", "option", "package"),
    [
        ("launcher", "joblib", "hydra-joblib-launcher"),
        ("launcher", "submitit_slurm", "hydra-submitit-launcher"),
        ("sweeper", "optuna", "hydra-optuna-sweeper"),
    ],
)
def test_a_plugin_of_hydra_s_that_is_missing_is_named(group: str, option: str, package: str) -> None:
    error = MissingConfigException("not found", f"hydra/{group}/{option}", ["basic"])
    assert one_line(error) == f"hydra/{group}={option} needs {package}: pip install {package}"
    assert "did you mean basic?" in one_line(MissingConfigException("not found", f"hydra/{group}/basik", ["basic"]))
    assert f"{package}>=" in (Path(__file__).parents[1] / "pyproject.toml").read_text()


@pytest.mark.parametrize("annotation", ["int | None", "Optional[int]", "typing.Optional[int]", "Union[None, int]"])
def test_an_annotation_that_allows_none_takes_null(annotation: str) -> None:
    for value in (None, 3):
        _check_type(annotation, "key", value)
    with pytest.raises(UserError, match=r"key=abc: must be int or null|must be null or int"):
        _check_type(annotation, "key", "abc")
    with pytest.raises(UserError, match=r"key=null: must be int$"):
        _check_type("int", "key", None)
