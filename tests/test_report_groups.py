"""gvr-report's groups: what may be averaged and what may not, under which name, and compared with what."""

import copy
import json
import math
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from fake_runs import SYMMETRIC, fake_run, put
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.identity import leaves
from gvr_lightning.errors import UserError
from gvr_lightning.report.controls import is_plain, set_baselines
from gvr_lightning.report.groups import Comparison, Group, compare, natural
from gvr_lightning.report.labels import short_names
from gvr_lightning.report.provenance import commands, common, versions_table, warnings
from gvr_lightning.report.runs import differing, find_runs, frozen, read_run

Shape = dict[str, dict[str, list[int]]]

# Keys that say where a run is computed, kept or shown: with other values it is the same run.
THE_SAME = {
    *("name", "seed", "resume", "trust", "extractor.trust", "checkpoint.every_n_steps", "checkpoint.every_n_minutes"),
    *("checkpoint.every_n_epochs", "checkpoint.in_background"),
    *("alpha", "lr", "epochs"),  # which act through others: those count
    *("data.path", "data.source.path"),  # likewise
    *("data.root", "data.source.root", "data.download", "data.source.download"),  # the data are the same by their hash
    *("data.workers", "data.source.workers", "data.cache_dir", "data.source.cache_dir", "data.eval_batch_size"),
    "data.transform_workers",
    *("extractor.cache_dir", "regularizer.wrap._partial_", "optimizer._partial_", "scheduler._partial_"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.strategy._target_"),
    *("trainer.strategy.find_unused_parameters", "trainer.log_every_n_steps", "trainer.deterministic"),
    *(
        "trainer.timeout",
        "trainer.benchmark",
        "trainer.fused",
        "logger._target_",
        "logger._partial_",
        "logger.project",
        "logger.entity",
        "logger.mode",
    ),
    *("logger.on_error", "logger.group", "logger.job_type", "logger.tags", "logger.sweep"),
    *("generation.grid", "generation.every_n_epochs", "generation.score_every_n_epochs", "generation.batch_size"),
    "test_every_n_epochs",
}
SEPARATE = ("task", "data", "model", "label_noise", "batch_size", "protocol")  # methods are not compared across these
CLASSIFICATION = [
    *("data=cifar10", "model=resnet18", "regularizer=gvr_agr", "label_noise=symmetric", "scheduler=warmup_cosine"),
    *("optimizer=adan", "trainer=fsdp", "logger=wandb", "logger.job_type=a", "logger.sweep=b"),
]
FOLDER = ["task=ddpm", "data=image_folder", "data.root=x", "data.image_size=32", "regularizer=sam", "sampler=ddim"]
FOLDER += ["extractor=classifier", "trainer=ddp"]
DIGITS = ["regularizer=gvr", "optimizer=sgd", "scheduler=cosine", "trainer=cpu", "label_noise=asymmetric"]


def configuration(overrides: list[str]) -> dict[str, Any]:
    """A real one, as a run leaves it."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("config", overrides=["name=x", *overrides]), resolve=True)
    return config


def another(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 2
    return [*value, 9] if isinstance(value, list) else f"{value}x"


def compared(folder: Path, metric: str | None = None, baseline: str | None = None) -> list[Comparison]:
    """The comparisons of all runs in a folder, with their baselines."""
    found = compare(find_runs([folder]), metric)
    set_baselines(found, baseline)
    return found


def shape(comparison: Comparison) -> Shape:
    """The seeds of every group of every setting."""
    return {s.label: {g.label: list(g.runs) for g in s.groups} for s in comparison.settings}


def grouped(folder: Path, baseline: str | None = None) -> Shape:
    """Those of the only comparison."""
    (comparison,) = compared(folder, None, baseline)
    return shape(comparison)


def pair(folder: Path, first: dict[str, Any], second: dict[str, Any]) -> Shape:
    """Two runs of the seeds 0 and 1 that differ in what is given."""
    fake_run(folder / "a", seed=0, **first)
    fake_run(folder / "b", seed=1, **second)
    return grouped(folder)


# ---- what is one configuration


@pytest.mark.parametrize("overrides", [CLASSIFICATION, FOLDER, DIGITS], ids=["cifar10", "folder", "digits"])
def test_every_key_either_makes_repetitions_or_methods_or_settings(overrides: list[str], tmp_path: Path) -> None:
    config = configuration(overrides)
    run = read_run(fake_run(tmp_path), "a")

    def kind(path: str, value: Any) -> str:
        other = copy.deepcopy(config)
        put(other, path, another(value))
        runs = [replace(run, config=config), replace(run, config=other, summary={**run.summary, "seed": 1})]
        (comparison,) = compare(runs, None)
        sizes = sorted(len(group.runs) for setting in comparison.settings for group in setting.groups)
        if sizes == [2]:
            return "the same"
        assert sizes == [1, 1]
        return "another method" if len(comparison.settings) == 1 else "another setting"

    def expected(path: str) -> str:
        if path in THE_SAME:
            return "the same"
        return "another setting" if path.partition(".")[0] in SEPARATE else "another method"

    flat = leaves(config)
    found = {path: kind(path, value) for path, value in flat.items()}
    assert found == {path: expected(path) for path in flat}


@pytest.mark.parametrize(
    "key",
    [
        *("data.max_train", "data.val_fraction", "data.augmentation.flip", "data.source._target_", "model.width"),
        *("batch_size", "label_noise.rate", "task.label_smoothing"),
    ],
)
def test_what_is_another_task_stands_in_a_table_of_its_own(key: str, tmp_path: Path) -> None:
    noise = {"label_noise": SYMMETRIC}
    found = pair(tmp_path, {"keys": {key: 80}, **noise}, {"keys": {key: 40}, **noise})
    assert [list(groups.values()) for groups in found.values()] == [[[1]], [[0]]]  # 40, then 80


def test_another_name_folder_machine_version_and_number_of_processes_are_repetitions(tmp_path: Path) -> None:
    elsewhere = {"versions": {"torch": "2.10.0"}, "world_size": 4, "git": {"commit": "f" * 40, "dirty": False}}
    elsewhere |= {"machine": {"gpu": "A100"}}
    keys = {"trainer.devices": 4, "trainer.strategy": "ddp", "logger._target_": "wandb"}
    found = pair(tmp_path, {"hydra": False}, {"summary": elsewhere, "keys": keys, "name": "b"})
    assert found == {"": {"default": [0, 1]}} or list(found.values()) == [{"none": [0, 1]}]


@pytest.mark.parametrize("seed", [0, 1])
def test_other_content_of_the_data_is_another_setting_and_no_duplicate(seed: int, tmp_path: Path) -> None:
    fake_run(tmp_path / "a", seed=0)
    fake_run(tmp_path / "b", seed=seed, summary={"data_hash": "e" * 64})
    assert grouped(tmp_path) == {f"hash={'d' * 12}": {"none": [0]}, f"hash={'e' * 12}": {"none": [seed]}}
    assert not any(run.reason for run in find_runs([tmp_path]))


def test_where_the_data_lies_makes_no_difference_if_they_are_the_same(tmp_path: Path) -> None:
    here, there = {"keys": {"data.source.root": "here"}}, {"keys": {"data.source.root": "there"}}
    assert pair(tmp_path / "same", here, there) == {"": {"none": [0, 1]}}
    other = {**there, "summary": {"data_hash": "e" * 64}}
    assert pair(tmp_path / "other", here, other) == {"root=here": {"none": [0]}, "root=there": {"none": [1]}}


def test_two_data_sets_with_a_hash_each_may_lie_anywhere(tmp_path: Path) -> None:
    for seed, root in enumerate(("here", "there")):
        for name in ("A", "B"):
            keys = {"data.source._target_": f"m.{name}", "data.source.root": root}
            fake_run(tmp_path / f"{name}{seed}", seed=seed, keys=keys, summary={"data_hash": name * 64})
    assert grouped(tmp_path) == {"source=A": {"none": [0, 1]}, "source=B": {"none": [0, 1]}}


@pytest.mark.parametrize(
    ("seeds", "together"), [([0, 1, 2], True), ([7, 7, 7], True), ([0, 1, 0], False), ([1, 0, 2], False)]
)
def test_a_seed_of_the_labels_that_follows_the_run_s_makes_no_groups(
    seeds: list[int], together: bool, tmp_path: Path
) -> None:
    for seed, own in enumerate(seeds):
        fake_run(tmp_path / str(seed), seed=seed, label_noise={**SYMMETRIC, "seed": own})
    sizes = sorted(len(group) for groups in grouped(tmp_path).values() for group in groups.values())
    assert (sizes == [3]) == together and sum(sizes) == 3


def test_a_run_without_the_part_has_no_seed_that_could_differ(tmp_path: Path) -> None:
    for seed in (0, 1):
        fake_run(tmp_path / f"clean{seed}", seed=seed)
        fake_run(tmp_path / f"noisy{seed}", seed=seed, label_noise={**SYMMETRIC, "seed": seed})
    assert [list(groups.values()) for groups in grouped(tmp_path).values()] == [[[0, 1]], [[0, 1]]]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        *((1, 1.0, True), (0.1, 0.10, True), (1, 2, False), (1, True, False), (0, False, False), (1, "1", False)),
        *((0.5, 0.25, False), ([1, 2], [2, 1], False), ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True)),
        *((date(2026, 1, 2), date(2026, 1, 2), True), (date(2026, 1, 2), date(2026, 1, 3), False)),  # YAML has dates
        *((None, 0, False), (None, "", False), ("a", "b", False), (1e300, 1e300, True), (2.5, 2, False)),
    ],
)
def test_when_two_values_are_one(one: Any, other: Any, equal: bool) -> None:
    assert (frozen(one) == frozen(other)) == equal
    assert differing([{"key": one}, {"key": other}]) == ([] if equal else ["key"])


def test_what_is_absent_equals_null_and_nothing_else() -> None:
    assert differing([{"a": None, "b": 1, "c": 0}, {"b": 1.0}]) == ["c"]
    assert differing([{"a": 1}, {"b": 1}, {"a": 1, "b": 1}]) == ["a", "b"]


def test_flattened_keys_are_dotted_paths_and_lists_stay_whole() -> None:
    assert leaves({"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": None, "g": {}}) == {
        "a.b.c": 1,
        "a.d": [1, {"e": 2}],
        "f": None,
    }


# ---- duplicates


def test_of_equal_configurations_and_seeds_the_last_counts_and_other_seeds_or_keys_are_none(tmp_path: Path) -> None:
    for written, name in ((20, "b"), (20, "a"), (10, "c")):
        fake_run(tmp_path / name, written=written)
    fake_run(tmp_path / "seed", seed=1, written=1)
    fake_run(tmp_path / "lr", lr=0.5, written=2)
    runs = {run.name: run for run in find_runs([tmp_path])}
    (comparison,) = compare(list(runs.values()), None)
    kept = {group.label: [run.name for run in group.runs.values()] for group in comparison.settings[0].groups}
    assert kept == {"lr=0.02": ["b", "seed"], "lr=0.5": ["lr"]}  # of those of one time the last by name
    assert {run.name: run.reason.partition(", ")[0] for run in runs.values() if run.reason} == {
        "c": "the same configuration and seed as a",
        "a": "the same configuration and seed as b",
    }


def test_a_run_without_the_metric_replaces_none_that_has_it(tmp_path: Path) -> None:
    fake_run(tmp_path / "good", written=1)
    fake_run(tmp_path / "bad", written=2, metrics={"test/acc": math.nan})
    assert grouped(tmp_path) == {"": {"none": [0]}}


# ---- the metric


@pytest.mark.parametrize(
    ("task", "metrics", "expected"),
    [
        ("classification", ["test/loss", "fid", "test/acc"], "test/acc"),
        ("classification", ["test/loss", "val/acc"], "test/loss"),
        ("ddpm", ["test/acc", "test/loss", "fid"], "fid"),
        ("ddpm", ["test/acc", "test/loss"], "test/loss"),
        ("other", ["test/loss", "fid", "test/acc"], "test/acc"),
        ("other", ["test/loss", "fid"], "fid"),
        ("other", ["val/loss", "test/loss"], "test/loss"),
    ],
)
def test_what_is_compared_if_nothing_is_asked_for(task: str, metrics: list[str], expected: str, tmp_path: Path) -> None:
    fake_run(tmp_path / "a", metrics=dict.fromkeys(metrics, 0.5), task=task)
    (comparison,) = compared(tmp_path)
    assert (comparison.task, comparison.metric.name) == (task, expected)


def test_a_metric_that_one_run_has_leaves_the_others_out_with_the_reason(tmp_path: Path) -> None:
    for name, value in (("a", 0.5), ("b", math.inf), ("c", -math.inf), ("d", math.nan)):
        fake_run(tmp_path / name, seed=ord(name), metrics={"test/acc": 1.0, "own": value})
    fake_run(tmp_path / "e", seed=0)
    fake_run(tmp_path / "f", seed=1, metrics={"own": "0.5"}, rows=[])
    fake_run(tmp_path / "g", seed=2, metrics={"own": True})
    runs = find_runs([tmp_path])
    (comparison,) = compare(runs, "own")
    assert shape(comparison) == {"": {"none": [ord("a")]}}
    told = {run.name: run.reason for run in runs}
    assert told == {"a": "", "b": "own is inf", "c": "own is -inf", "d": "own is nan"} | dict.fromkeys(
        "efg", "finished without own"
    )


def test_a_task_s_runs_are_compared_among_themselves_in_the_order_of_the_names(tmp_path: Path) -> None:
    fake_run(tmp_path / "a", task="ddpm", metrics={"fid": 2.0})
    fake_run(tmp_path / "b", task="classification")
    fake_run(tmp_path / "c", task="ddpm", seed=1, metrics={"fid": 3.0})
    found = compared(tmp_path)
    assert [(c.task, c.metric.name, len(c.runs)) for c in found] == [
        ("classification", "test/acc", 1),
        ("ddpm", "fid", 2),
    ]


def test_a_group_s_values_are_by_seed_and_finite(tmp_path: Path) -> None:
    for seed, loss in ((3, 0.5), (1, math.nan), (2, 0.25)):
        fake_run(tmp_path / str(seed), seed=seed, metrics={"test/acc": seed / 10, "test/loss": loss})
    (group,) = compared(tmp_path)[0].settings[0].groups
    assert list(group.runs) == [1, 2, 3]
    assert (group.values("test/acc"), group.values("test/loss")) == ({1: 0.1, 2: 0.2, 3: 0.3}, {2: 0.25, 3: 0.5})
    assert group.values("other") == {}


# ---- labels


def test_a_label_is_the_options_that_differ_then_keys_in_the_order_of_the_groups(tmp_path: Path) -> None:
    for optimizer, target in (("adam", "torch.optim.Adam"), ("sgd", "torch.optim.SGD")):
        for method in ("none", "agr"):
            for schedule in ("cosine", "constant"):
                keys = {"optimizer._target_": target, "scheduler._target_": f"s.{schedule}"}
                chosen = {"optimizer": optimizer, "scheduler": schedule}
                fake_run(tmp_path / f"{optimizer}{method}{schedule}", method, keys=keys, chosen=chosen)
    assert set(grouped(tmp_path)[""]) == {
        f"{method}, {optimizer}, scheduler={schedule}"
        for method in ("none", "agr")
        for optimizer in ("adam", "sgd")
        for schedule in ("cosine", "constant")
    }


def test_where_a_run_is_computed_is_in_no_label_but_its_precision_is(tmp_path: Path) -> None:
    for option, precision in (("cpu", "32-true"), ("gpu", "bf16-mixed")):
        fake_run(tmp_path / option, keys={"trainer.precision": precision}, chosen={"trainer": option})
    assert set(grouped(tmp_path)[""]) == {"trainer.precision=32-true", "trainer.precision=bf16-mixed"}


def test_settings_are_told_apart_by_as_few_keys_as_it_takes_and_what_was_typed(tmp_path: Path) -> None:
    for rate in (0.2, 0.4):
        fake_run(tmp_path / str(rate), label_noise={**SYMMETRIC, "rate": rate}, overrides=(f"label_noise.rate={rate}",))
    fake_run(tmp_path / "clean")
    symmetric = {f"label_noise=symmetric, rate={rate}": {"none": [0]} for rate in (0.2, 0.4)}
    assert grouped(tmp_path) == {"label_noise=none": {"none": [0]}, **symmetric}


def test_what_all_of_a_setting_typed_stands_in_its_heading(tmp_path: Path) -> None:
    typed = {"overrides": ("+data.max_train=40", "~data.val_fraction=0"), "keys": {"data.max_train": 40}}
    fake_run(tmp_path / "small", batch_size=16, **typed)
    fake_run(tmp_path / "large", batch_size=128)
    assert set(grouped(tmp_path)) == {"max_train=40, batch_size=16", "batch_size=128"}


def test_what_all_runs_typed_stands_in_the_heading_of_those_that_have_it(tmp_path: Path) -> None:
    for name, noise in (("clean", None), ("noisy", SYMMETRIC)):
        fake_run(tmp_path / name, label_noise=noise, overrides=("++label_noise.rate=0.4",))
    assert list(grouped(tmp_path)) == ["label_noise=none", "label_noise=symmetric, rate=0.4"]


def test_numbers_in_names_are_ordered_by_value(tmp_path: Path) -> None:
    for size in (128, 16, 1024):
        for lr in (10, 0.5, 1e-05, 2):
            fake_run(tmp_path / f"{size}_{lr}", "gvr", batch_size=size, lr=lr)
    found = grouped(tmp_path)
    assert list(found) == [f"batch_size={size}" for size in (16, 128, 1024)]
    assert all(list(groups) == [f"lr={lr}" for lr in ("1e-05", "0.5", "2", "10")] for groups in found.values())
    assert sorted(["a10", "a9", "a9.5", "a1e3", "a", "b1"], key=natural) == ["a", "a9", "a9.5", "a10", "a1e3", "b1"]


def test_names_are_as_short_as_tells_the_keys_apart() -> None:
    names = [
        "optimizer.lr",
        "scheduler.min_lr",
        "a.b.c",
        "d.b.c",
        "c",
        "regularizer.penalty._target_",
        "trainer.max_epochs",
    ]
    assert short_names(names) == {
        "optimizer.lr": "lr",
        "scheduler.min_lr": "min_lr",
        "a.b.c": "a.b.c",
        "d.b.c": "d.b.c",
        "c": "c",
        "regularizer.penalty._target_": "penalty",
        "trainer.max_epochs": "epochs",
    }
    assert short_names(["regularizer.penalty.alpha", "regularizer.wrap.alpha"]) == {
        "regularizer.penalty.alpha": "alpha",  # as it is typed
        "regularizer.wrap.alpha": "wrap.alpha",
    }


def test_an_absent_key_is_not_in_the_label_and_a_text_that_looks_like_a_number_is_quoted(tmp_path: Path) -> None:
    for seed, keys in enumerate(({}, {"regularizer.own": 1}, {"regularizer.own": "1"}, {"regularizer.own": True})):
        fake_run(tmp_path / str(seed), keys=keys, hydra=False)
    assert set(grouped(tmp_path)[""]) == {"default", "own=1", "own='1'", "own=true"}


def test_one_configuration_is_called_by_its_regularizer(tmp_path: Path) -> None:
    fake_run(tmp_path / "a" / "a", "gvr")
    fake_run(tmp_path / "b" / "a", "gvr", hydra=False)
    assert grouped(tmp_path / "a") == {"": {"gvr": [0]}}
    assert grouped(tmp_path / "b") == {"": {"default": [0]}}


def test_keys_that_differ_between_settings_alone_are_no_part_of_a_method_s_name(tmp_path: Path) -> None:
    for size, epochs in ((16, 30), (128, 90)):
        for method in ("none", "gvr"):
            fake_run(tmp_path / f"{size}{method}", method, batch_size=size, epochs=epochs)
    (comparison,) = compared(tmp_path)
    assert set(comparison.setting_keys) == {"batch_size", "trainer.max_epochs"}
    assert all(name.startswith("regularizer.") for name in comparison.method_keys)
    assert [[group.label for group in setting.groups] for setting in comparison.settings] == [["none", "gvr"]] * 2
    assert ["batch_size=16" in s.label and "epochs=30" in s.label for s in comparison.settings] == [True, False]


# ---- baselines


@pytest.mark.parametrize(
    ("keys", "plain"),
    [
        ({}, True),
        ({"optimizer.lr": 0.5, "regularizer.wrap": None}, True),
        ({"regularizer.views": 2}, False),
        ({"regularizer.wrap": {"_target_": "gvr_lightning.methods.agr.AGR"}}, False),
        ({"regularizer.penalty._target_": "gvr_lightning.methods.label_smoothing.LabelSmoothing"}, False),
    ],
)
def test_plain_is_one_view_without_a_penalty_and_a_wrapper(keys: dict[str, Any], plain: bool, tmp_path: Path) -> None:
    run = read_run(fake_run(tmp_path, keys=keys), "a")
    assert is_plain(Group("a", leaves(run.config), {0: run})) == plain


def baselines(folder: Path, wanted: str | None = None) -> list[tuple[str, str | None]]:
    """The groups of the only setting in their order, with what each is compared with."""
    (setting,) = compared(folder, None, wanted)[0].settings
    found = [(group.label, setting.baselines.get(group.label)) for group in setting.groups]
    return [(label, base.label if base else None) for label, base in found]


def test_the_plain_configuration_is_the_baseline_and_comes_first(tmp_path: Path) -> None:
    for method in ("gvr", "agr", "two_view", "none"):
        fake_run(tmp_path / method, method)
    assert baselines(tmp_path) == [("none", "none"), ("agr", "none"), ("two_view", "none"), ("gvr", "two_view")]
    assert baselines(tmp_path, "two_view")[0] == ("two_view", "two_view")
    assert {base for _, base in baselines(tmp_path, "regularizer=gvr")} == {"gvr"}


def test_without_any_control_the_first_is_the_baseline(tmp_path: Path) -> None:
    for method in ("gvr", "agr"):
        fake_run(tmp_path / method, method)
    assert baselines(tmp_path) == [("agr", "agr"), ("gvr", "agr")]


@pytest.mark.parametrize("wanted", ["optimizer=fast", "optimizer.lr=0.5", "lr=0.5", "fast, lr=0.5"])
def test_a_baseline_is_found_by_its_label_or_a_key(wanted: str, tmp_path: Path) -> None:
    for optimizer, lr in (("fast", 0.5), ("slow", 0.25)):
        fake_run(tmp_path / optimizer, lr=lr, chosen={"optimizer": optimizer})
    assert baselines(tmp_path, wanted) == [("fast, lr=0.5", "fast, lr=0.5"), ("slow, lr=0.25", "fast, lr=0.5")]
    with pytest.raises(UserError, match="baseline=lr=1: no configuration"):
        baselines(tmp_path, "lr=1")


def test_among_several_baselines_the_one_that_shares_most_outside_the_regularizer_counts(tmp_path: Path) -> None:
    for lr in (0.5, 0.25):
        for momentum in (0.0, 0.9):
            for method in ("none", "gvr"):
                keys = {"optimizer.momentum": momentum}
                fake_run(tmp_path / f"{lr}{momentum}{method}", method, lr=lr, keys=keys)
    found = baselines(tmp_path)
    assert [(label.replace("gvr", "none"), label) for _, label in found] == [(base, base) for _, base in found]
    assert [label for label, _ in found] == [
        f"{method}, lr={lr}, momentum={momentum}"
        for lr in (0.25, 0.5)
        for momentum in ("0.0", "0.9")
        for method in ("none", "gvr")
    ]


def test_a_plain_configuration_that_nothing_is_like_is_compared_with_the_used_one(tmp_path: Path) -> None:
    for method, lr in (("none", 0.5), ("none", 0.25), ("gvr", 0.5)):
        fake_run(tmp_path / f"{method}{lr}", method, lr=lr)
    assert dict(baselines(tmp_path)) == dict.fromkeys(["none, lr=0.5", "gvr, lr=0.5", "none, lr=0.25"], "none, lr=0.5")


# ---- what is found


def test_runs_of_several_folders_are_named_by_them_and_found_once(tmp_path: Path) -> None:
    for name in ("one/x/a", "two/a"):
        fake_run(tmp_path / name)
    one, two = tmp_path / "one", tmp_path / "two"
    assert [run.name for run in find_runs([one])] == ["x/a"]
    assert [run.name for run in find_runs([one, two, one / "x"])] == ["one/x/a", "two/a"]
    assert [run.name for run in find_runs([two / "a"])] == ["a"]
    (tmp_path / "link").symlink_to(one)
    assert [run.name for run in find_runs([one, tmp_path / "link"])] == ["one/x/a"]


@pytest.mark.parametrize("inside", ["checkpoints", "samples", "tensorboard", "wandb"])
def test_what_lies_in_a_run_s_own_folders_is_no_run(inside: str, tmp_path: Path) -> None:
    fake_run(tmp_path / "b")
    fake_run(tmp_path / "b" / inside / "copy")
    fake_run(tmp_path / "b" / "sweep" / "a")
    fake_run(tmp_path / ".trash" / "c")
    fake_run(tmp_path / "a" / inside / "d")  # in no run: a folder of this name is as good as any
    assert [run.name for run in find_runs([tmp_path])] == [f"a/{inside}/d", "b", "b/sweep/a"]


def test_each_trace_of_a_run_makes_one(tmp_path: Path) -> None:
    for name in ("config", "hydra", "summary"):
        fake_run(tmp_path / name)
    for name in ("summary.json", "config.yaml"):
        (tmp_path / "hydra" / name).unlink()
    (tmp_path / "config" / "summary.json").unlink()
    (tmp_path / "config" / ".hydra" / "config.yaml").unlink()
    (tmp_path / "summary" / "config.yaml").unlink()
    found = {run.name: (run.status, bool(run.reason)) for run in find_runs([tmp_path])}
    assert found["config"] == found["hydra"] == ("unfinished", True)
    assert found["summary"] == ("finished", False)  # with the configuration that Hydra kept
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="empty: no run in it"):
        find_runs([tmp_path / "empty"])


@pytest.mark.parametrize("key", ["metrics", "train", "seed", "task"])
@pytest.mark.parametrize("value", [None, []])
def test_a_finished_summary_has_what_is_averaged(key: str, value: Any, tmp_path: Path) -> None:
    run = read_run(fake_run(tmp_path, summary={key: value}), "a")
    assert (run.status, run.reason) == ("not read", f"summary.json is none of this project: it has no {key}")


def test_a_run_that_failed_early_tells_its_error(tmp_path: Path) -> None:
    fake_run(tmp_path)
    (tmp_path / "summary.json").write_text('{"status": "failed", "error": "boom", "seed": 0}')
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "metrics.csv").write_text("step,val/acc\n1,oops\n")
    run = read_run(tmp_path, "a")
    assert (run.status, run.reason) == ("failed", "boom")


@pytest.mark.parametrize("key", ["seed", "regularizer"])
def test_a_configuration_without_our_keys_is_none_of_ours(key: str, tmp_path: Path) -> None:
    fake_run(tmp_path)
    lines = (tmp_path / "config.yaml").read_text().splitlines()
    first = lines.index(next(line for line in lines if line.startswith(f"{key}:")))
    after = next(i for i in range(first + 1, len(lines)) if not lines[i].startswith(" "))
    (tmp_path / "config.yaml").write_text("\n".join(lines[:first] + lines[after:]))
    run = read_run(tmp_path, "a")
    assert run.status == "not read" and "none of this project" in run.reason


def test_what_is_read_of_a_run(tmp_path: Path) -> None:
    rows = [{"step": 1, "val/acc": 0.5}, {"step": 2, "val/acc": "", "fid": "1e-3"}]
    metrics: Any = {"test/acc": 1, "extractor": "x", "good": True, "none": None, "fid": 2.5}
    fake_run(tmp_path, "gvr", 4, metrics, rows=rows, written=12.5, chosen={"model": None, "a/b": "c"})
    run = read_run(tmp_path, "a")
    assert (run.status, run.reason, run.seed, run.task, run.written) == ("finished", "", 4, "classification", 12.5)
    assert run.metrics == {"test/acc": 1.0, "fid": 2.5}
    assert run.rows == [{"step": 1.0, "val/acc": 0.5}, {"step": 2.0, "fid": 0.001}]
    assert run.choices == {
        "regularizer": "gvr",
        "data": "digits",
        "logger": "csv",
        "model": "none",
        "label_noise": "none",
    }
    assert run.overrides == ["regularizer=gvr", "seed=4"]


def test_what_is_not_recorded_of_a_run_is_empty(tmp_path: Path) -> None:
    fake_run(tmp_path, hydra=False)
    (tmp_path / "metrics.csv").unlink()
    run = read_run(tmp_path, "a")
    assert (run.status, run.rows, run.choices, run.overrides) == ("finished", [], {}, None)
    (tmp_path / ".hydra").mkdir()
    for name, text in (("hydra.yaml", "hydra: [1]"), ("overrides.yaml", "a: b")):
        (tmp_path / ".hydra" / name).write_text(text)
    again = read_run(tmp_path, "a")
    assert (again.choices, again.overrides) == ({}, None)


@pytest.mark.parametrize("key", ["lr", "regularizer.views", "data.val_fraction", "trainer.devices"])
def test_a_configuration_that_was_changed_after_the_summary_is_not_averaged(key: str, tmp_path: Path) -> None:
    fake_run(tmp_path / "a")
    told = json.loads((tmp_path / "a" / "summary.json").read_text())
    fake_run(tmp_path / "a", keys={key: 7}, summary={"config_hash": told["config_hash"]})
    run = read_run(tmp_path / "a", "a")
    assert run.status == "unfinished" and "newer than summary.json" in run.reason
    fake_run(tmp_path / "a", name="other", resume="x", summary={"config_hash": told["config_hash"]})
    assert read_run(tmp_path / "a", "a").status == "finished"


# ---- warnings, versions, commands


def test_warnings_tell_what_differs_within_a_setting_with_its_numbers(tmp_path: Path) -> None:
    for method in ("none", "gvr"):
        fake_run(tmp_path / f"small{method}", method, batch_size=16, summary={"world_size": 1})
        versions = {"torch": "2.9.0" if method == "none" else "2.8.0", "numpy": "2"}
        changed = {"versions": versions, "git": {"commit": "e" * 40, "dirty": method == "gvr"}, "world_size": 2}
        fake_run(tmp_path / f"large{method}", method, batch_size=128, summary=changed)
    fake_run(tmp_path / "more", "gvr", 3, batch_size=128, summary={**changed, "protocol": {"num_images": 5}})
    (comparison,) = compared(tmp_path)
    assert warnings(comparison) == [
        "torch differs between runs that are compared: 2.8.0 in 2 runs, 2.9.0 in 1 runs (batch_size=128).",
        "protocol.num_images differs between runs that are compared: "
        "not recorded in 2 runs, 5 in 1 runs (batch_size=128).",
        "Seeds differ between configurations, so compare the paired differences, not the means: "
        "none: 0; gvr: 0, 3 (batch_size=128).",
        "2 of 5 classification runs: the code had changes that were not committed.",
    ]


def test_runs_with_unlike_protocols_are_never_in_one_row(tmp_path: Path) -> None:
    """Of one configuration, by whatever differs; "average" was called "ema", and what is not recorded is like any."""
    sampler = {"steps": 100, "timestep_spacing": "leading"}
    protocols: list[dict[str, Any]] = [
        {"weights": "ema", "resize": "a", "drawn": "DDIM"},
        {"weights": "average", "resize": "a", "sampler": sampler},
        {"weights": "average", "resize": "a", "sampler": {**sampler, "timestep_spacing": "trailing"}},
        {"weights": "raw", "resize": "a", "sampler": sampler},
    ]

    def rows(*chosen: int) -> list[dict[int, str]]:
        folder = tmp_path / "".join(map(str, chosen))
        for seed in chosen:
            told = {"protocol": protocols[seed], "task": "ddpm", "metrics": {"fid": 5.0 + seed}}
            fake_run(folder / str(seed), seed=seed, summary=told)
        (comparison,) = compared(folder)
        return [dict.fromkeys(group.runs, setting.label) for setting in comparison.settings for group in setting.groups]

    assert [set(row) for row in rows(0, 1)] == [{0, 1}]
    assert [set(row) for row in rows(1, 2)] == [{1}, {2}] and "trailing" in str(rows(1, 2)[1])
    assert [set(row) for row in rows(1, 3)] == [{1}, {3}] and "raw" in str(rows(1, 3)[1])
    assert sorted(map(sorted, rows(0, 1, 2, 3))) == [[0], [1], [2], [3]]


def test_as_many_but_other_seeds_are_warned_of(tmp_path: Path) -> None:
    for method, seeds in (("none", (10, 9)), ("gvr", (9, 11))):
        for seed in seeds:
            fake_run(tmp_path / f"{method}{seed}", method, seed)
    (text,) = warnings(compared(tmp_path)[0])
    assert text.endswith("not the means: none: 9, 10; gvr: 9, 11.")


def test_without_differences_there_is_no_warning(tmp_path: Path) -> None:
    for method in ("none", "gvr"):
        for seed in (0, 1):
            fake_run(tmp_path / f"{method}{seed}", method, seed)
    assert warnings(compared(tmp_path)[0]) == []


def test_versions_are_counted_and_hashes_cut(tmp_path: Path) -> None:
    for seed, torch in enumerate(("2.8.0", "2.9.0", "2.9.0")):
        versions = {"torch": torch, "python": "3.11.7+a.long.one"}
        fake_run(tmp_path / str(seed), seed=seed, summary={"versions": versions})
    table = versions_table(compared(tmp_path)[0].runs)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["torch", "2.9.0 (2 runs), 2.8.0 (1 runs)"],
        ["python", "3.11.7+a.long.one"],
        ["git.commit", "c" * 12],
        ["git.dirty", "false"],
        ["data_hash", "d" * 12],
        ["world_size", "1"],
    ]


def test_what_all_runs_have_in_common(tmp_path: Path) -> None:
    chosen = {"model": "small_cnn", "trainer": "cpu", "scheduler": "none"}
    for method, lr in (("none", 0.1), ("gvr", 0.2)):
        typed = ("model.width=8", f"optimizer.momentum={lr}", "+trainer.x=1")
        fake_run(tmp_path / method, method, lr=lr, epochs=7, chosen=chosen, overrides=typed)
    text = common(compared(tmp_path)[0])
    assert text == "data=digits, model=small_cnn, epochs=7, batch_size=128, model.width=8, +trainer.x=1"


def test_the_classes_that_all_runs_have(tmp_path: Path) -> None:
    for method in ("none", "gvr"):
        fake_run(tmp_path / method, method, summary={"classes": ["a", "b c"]})
    assert common(compared(tmp_path)[0]).endswith("lr=0.02, 2 classes (a, b c)")
    fake_run(tmp_path / "gvr", "gvr", summary={"classes": ["a", "d"]})
    assert "class" not in common(compared(tmp_path)[0])
    for method in ("none", "gvr"):
        fake_run(tmp_path / method, method, summary={"classes": list(map(str, range(100)))})
    assert common(compared(tmp_path)[0]).endswith("100 classes (" + ", ".join(map(str, range(20))) + ", … 99)")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([["a=1"]], ["python train.py a=1"]),
        ([["a=1", "b=2"], ["b=2", "a=1"]], ["python train.py a=1 b=2"]),
        ([["a=1", "seed=0"], ["a=1", "seed=1"]], ["python train.py -m a=1 seed=0,1"]),
        ([["a=1", "b=1"], ["a=2", "b=2"]], ["python train.py a=1 b=1", "python train.py a=2 b=2"]),
        (
            [["a=1"], ["b=x y"], ["+c.d=null"]],
            ["python train.py a=1", "python train.py 'b=x y'", "python train.py +c.d=null"],
        ),
        ([["~a"]], ["python train.py '~a'"]),
        ([[]], ["python train.py"]),
        (
            [["a=1", "b=1", "seed=0"], ["a=1", "b=1", "seed=1"], ["a=2", "b=2", "seed=0"]],
            ["python train.py -m a=1 b=1 seed=0,1", "python train.py a=2 b=2 seed=0"],
        ),
    ],
)
def test_commands_make_exactly_these_runs_again(lines: list[list[str]], expected: list[str], tmp_path: Path) -> None:
    fake_run(tmp_path / "0", hydra=False)  # whose command nobody wrote down
    for i, line in enumerate(lines, start=1):
        folder = fake_run(tmp_path / str(i))
        (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(line))
    assert commands(find_runs([tmp_path])) == expected
