"""What gvr-report's tables and figures hold, value by value, and a run's curves.png."""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import scipy.stats
from fake_runs import fake_run
from matplotlib import pyplot
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Drawing
from painting import painted
from PIL import Image

from gvr_lightning.recording.curves import draw_curves
from gvr_lightning.report.bands import Band, bands
from gvr_lightning.report.controls import set_baselines
from gvr_lightning.report.curves import draw_bands
from gvr_lightning.report.figures import Figure, draw_differences, draw_final, draw_samples, looks
from gvr_lightning.report.groups import Comparison, Group, Setting, compare
from gvr_lightning.report.metrics import Metric, number, p_value
from gvr_lightning.report.page import outcome, runs_found
from gvr_lightning.report.published import Published
from gvr_lightning.report.runs import Run, find_runs
from gvr_lightning.report.sheets import group_record, run_records
from gvr_lightning.report.statistics import Sample
from gvr_lightning.report.tables import (
    ComparedGroup,
    Table,
    best,
    compared_groups,
    cost_table,
    differences_table,
    further_metrics,
    left_out_table,
    metrics_table,
    result_table,
)
from gvr_lightning.report.write import draw_setting

GREY, BLUE, RED = "#4d4d4d", "#0072b2", "#d55e00"
ACCURACIES = {"none": [0.5, 0.6, 0.7], "gvr": [0.65, 0.76, 0.84], "agr": [0.4, 0.7, 0.7]}
DASH = "\u2013"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Drawing]]:
    """Every figure that is drawn and closed, as it was."""
    matplotlib.use("agg")
    close, kept = pyplot.close, []
    monkeypatch.setattr(pyplot, "close", kept.append)
    yield kept
    for figure in kept:
        close(figure)
    assert not pyplot.get_fignums()


def study(folder: Path, accuracies: dict[str, list[float]] | None = None, **options: Any) -> Comparison:
    """Runs of some methods with the seeds 0, 1, ..., compared."""
    for method, values in (accuracies or ACCURACIES).items():
        for seed, value in enumerate(values):
            figures = {"test/acc": value, "test/loss": 2 - value, "test/ece": 0.5, "val/acc": 0.1}
            fake_run(folder / f"{method}{seed}", method, seed, figures, **options)
    found = compare(find_runs([folder]), None)
    set_baselines(found, None)
    return found[0]


def rows_by_label(comparison: Comparison) -> dict[str, ComparedGroup]:
    return {row.group.label: row for row in compared_groups(comparison.settings[0], comparison.metric)}


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def strong(table: Table) -> list[tuple[str, str]]:
    """The row and the text of every cell in bold."""
    return [(row[0].text, cell.text) for row in table.rows for cell in row if cell.strong]


def interval(values: Sequence[float]) -> tuple[float, float]:
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))
    return float(low), float(high)


# ---- metrics

DIRECTIONS = {
    **dict.fromkeys(["test/acc", "val/acc", "train/acc", "test/top5", "val/acc_best", "is/mean"], 1),
    **dict.fromkeys(["test/balanced_acc", "test/acc_corrupted", "test/acc_corrupted/contrast"], 1),
    **dict.fromkeys(["test/loss", "val/loss", "val/loss_best", "test/ece", "fid"], -1),
    **dict.fromkeys(["test/nll", "test/nll_scaled", "test/ece_scaled", "test/nll_corrupted"], -1),
    **dict.fromkeys(["temperature", "real/fid", "real/is/mean", "is/std", "train/penalty", "train/penalty_share"], 0),
    **dict.fromkeys(["train/view_agreement", "train/acc_noisy", "train/acc_noisy_true", "train/seconds"], 0),
}
PERCENT = ["test/acc", "val/acc", "train/acc", "test/top5", "val/acc_best", "train/view_agreement"]
PERCENT += ["test/balanced_acc", "train/acc_noisy", "train/acc_noisy_true", "train/acc_clean"]
PERCENT += ["test/acc_corrupted", "test/acc_corrupted/contrast"]


@pytest.mark.parametrize(("name", "direction"), DIRECTIONS.items())
def test_which_direction_is_better_and_who_is_best(name: str, direction: int) -> None:
    metric = Metric(name)
    assert metric.direction == direction
    rows = [
        ComparedGroup(Group(label, {}, {}), None, Sample(2, mean), None, {}, {})
        for label, mean in zip("abc", (1, 3, 2), strict=True)
    ]
    assert best(rows, metric) == ({"b"} if direction > 0 else {"a"} if direction < 0 else set())
    assert best(rows[:1], metric) == set()
    tie = ComparedGroup(Group("d", {}, {}), None, Sample(1, 3 if direction > 0 else 1), None, {}, {})
    assert best([*rows, tie], metric) == (best(rows, metric) | {"d"} if direction else set())


@pytest.mark.parametrize("name", [*DIRECTIONS, "train/acc_clean"])
def test_which_figures_are_shown_in_percent(name: str) -> None:
    metric, percent = Metric(name), name in PERCENT
    assert (metric.percent, metric.scale, metric.unit) == (
        percent,
        100.0 if percent else 1.0,
        " (%)" if percent else "",
    )
    assert metric.text(0.123456) == ("12.35" if percent else "0.1235")
    assert [metric.difference(x) for x in (0.5, -0.5, 0.0)] == (
        ["+50.00", "-50.00", "+0.00"] if percent else ["+0.5000", "-0.5000", "+0.000"]
    )
    assert metric.text(None) == metric.difference(None) == DASH


def test_numbers_have_four_digits_and_p_two() -> None:
    shown = {0.0: "0.000", 1.0: "1.000", 999.96: "1000", 9999.4: "9999", 9999.5: "10,000", -12345.6: "-12,346"}
    assert {value: number(value) for value in shown} == shown
    assert [p_value(p) for p in (0.001, 0.0009, 0.0999, 0.1, 1.0)] == ["0.001", "<0.001", "0.100", "0.10", "1.00"]


# ---- rows and tables


def test_a_result_s_row_holds_mean_spread_and_the_paired_difference(tmp_path: Path) -> None:
    comparison = study(tmp_path)
    rows = rows_by_label(comparison)
    differences = [0.15, 0.16, 0.14]
    (low, high), (own_low, own_high) = interval(differences), interval(ACCURACIES["gvr"])
    p = scipy.stats.ttest_rel(ACCURACIES["gvr"], ACCURACIES["none"]).pvalue
    gvr, none = rows["gvr"], rows["none"]
    assert (gvr.result.n, gvr.result.mean) == (3, pytest.approx(0.75))
    assert (gvr.result.sd, gvr.result.low, gvr.result.high) == pytest.approx(
        (np.std(ACCURACIES["gvr"], ddof=1), own_low, own_high)
    )
    assert gvr.difference is not None and gvr.difference.seeds == (0, 1, 2)
    assert (gvr.difference.mean, gvr.difference.low, gvr.difference.high) == pytest.approx((0.15, low, high))
    assert gvr.difference.p == pytest.approx(p)
    assert gvr.difference.excludes_zero and not rows["agr"].difference.excludes_zero
    assert none.is_baseline and none.difference is None and not gvr.is_baseline
    assert gvr.baseline is none.group


def test_the_result_table(tmp_path: Path) -> None:
    comparison = study(tmp_path)
    table = result_table(compared_groups(comparison.settings[0], comparison.metric), comparison.metric)
    assert table.columns == [
        *("configuration", "n", "test accuracy (%)", "95% interval", "difference", "95% interval", "p", "pairs"),
        "compared with",
    ]
    assert texts(table) == [
        ["none", "3", "60.00 ± 10.00", "[35.16, 84.84]", DASH, DASH, DASH, DASH, "baseline"],
        ["agr", "3", "60.00 ± 17.32", "[16.97, 103.03]", "+0.00", "[-24.84, +24.84]", "1.00", "3", "none"],
        ["gvr", "3", "75.00 ± 9.54", "[51.30, 98.70]", "+15.00", "[+12.52, +17.48]", "0.001", "3", "none"],
    ]
    assert strong(table) == [("gvr", "+15.00")]
    assert [row[0].method for row in table.rows] == ["none", "agr", "gvr"]


def test_the_result_table_of_single_and_of_other_seeds(tmp_path: Path) -> None:
    fake_run(tmp_path / "none", "none", 0, {"test/loss": 0.5})
    fake_run(tmp_path / "gvr", "gvr", 0, {"test/loss": 0.25})
    fake_run(tmp_path / "agr", "agr", 1, {"test/loss": 0.125})
    (comparison,) = compare(find_runs([tmp_path]), "test/loss")
    unset = compared_groups(comparison.settings[0], comparison.metric)
    assert {row[-1].text for row in result_table(unset, comparison.metric).rows} == {"no baseline"}
    set_baselines([comparison], None)
    table = result_table(compared_groups(comparison.settings[0], comparison.metric), comparison.metric)
    assert texts(table) == [
        ["none", "1", f"0.5000 ({DASH})", DASH, DASH, DASH, DASH, DASH, "baseline"],
        ["agr", "1", f"0.1250 ({DASH})", DASH, DASH, DASH, DASH, "0", "none: no common seeds"],
        ["gvr", "1", f"0.2500 ({DASH})", DASH, "-0.2500", DASH, DASH, "1", "none"],
    ]
    assert strong(table) == []


def test_costs_are_means_of_what_is_recorded_and_relative_to_the_baseline(tmp_path: Path) -> None:
    train = {"none": [(10.0, 1000), (20.0, 2000)], "gvr": [(45.0, 3000), (60.0, None)], "agr": [(None, None)]}
    for method, runs in train.items():
        for seed, (seconds, steps) in enumerate(runs):
            told = {name: v for name, v in (("seconds", seconds), ("steps", steps), ("images", 7)) if v is not None}
            rows = [{"epoch": i, "train/images": 100 * (i + 1 + seed)} for i in range(2)] if method == "none" else []
            fake_run(tmp_path / f"{method}{seed}", method, seed, summary={"train": told}, rows=rows)
    comparison = study(tmp_path, {"two_view": [0.5]}, summary={"train": {"seconds": 0.0, "steps": 0, "images": 0}})
    rows = rows_by_label(comparison)
    uncounted = {"gradient_evaluations": None}
    assert rows["none"].cost == {
        "seconds": 15.0,
        "images": 250.0,
        "steps": 1500.0,
        **uncounted,
    }  # the last row
    assert rows["gvr"].cost == {"seconds": 52.5, "images": 7.0, "steps": 3000.0, **uncounted}
    assert rows["agr"].cost == {"seconds": None, "images": 7.0, "steps": None, **uncounted}
    assert rows["none"].relative == {"seconds": 1.0, "images": 1.0, "steps": 1.0, **uncounted}
    assert rows["gvr"].relative == {
        "seconds": None,
        "images": 7 / 600,
        "steps": None,
        **uncounted,
    }  # of 0
    assert rows["agr"].relative == {"seconds": None, "images": 0.028, "steps": None, **uncounted}
    table = cost_table(list(rows.values()))
    assert table.columns[1::2] == ["seconds of training", "images seen", "updates", "compared with"]
    assert texts(table) == [
        ["none", "15.00", "1.00x", "250", "1.00x", "1,500", "1.00x", "none"],
        ["agr", DASH, DASH, "7", "0.03x", DASH, DASH, "none"],
        ["two_view", "0.000", "0.00x", "600", "2.40x", "0", "0.00x", "none"],
        ["gvr", "52.50", DASH, "7", "0.01x", "3,000", DASH, "two_view"],
    ]
    assert table.notes == ["Gradient evaluations are not shown: these runs did not record them."]


def test_a_baseline_that_costs_nothing_has_no_multiples(tmp_path: Path) -> None:
    for method, steps in (("none", 0), ("gvr", 5)):
        fake_run(tmp_path / method, method, summary={"train": {"steps": steps}}, rows=[])
    (comparison,) = compare(find_runs([tmp_path]), None)
    set_baselines([comparison], None)
    assert rows_by_label(comparison)["gvr"].relative == dict.fromkeys(
        ("seconds", "images", "gradient_evaluations", "steps")
    )


def test_the_table_of_all_test_metrics(tmp_path: Path) -> None:
    comparison = study(tmp_path, {"none": [0.5, 0.7], "gvr": [0.6, 0.9]})
    fake_run(tmp_path / "agr", "agr", metrics={"test/acc": 0.75, "test/top5": 0.875, "fid": 1.0, "train/loss": 1.0})
    (comparison,) = compare(find_runs([tmp_path]), None)
    metrics = further_metrics(comparison.runs)
    assert {metric.name for metric in metrics} == {"test/acc", "test/loss", "test/ece", "test/top5", "fid"}
    table = metrics_table(comparison.settings[0], [Metric(f"test/{name}") for name in ("acc", "loss", "ece", "top5")])
    assert table.columns == [
        *("configuration", "test accuracy (%)", "test loss", "calibration error", "top-5 accuracy (%)"),
    ]
    assert texts(table) == [
        ["agr", f"75.00 ({DASH})", DASH, DASH, f"87.50 ({DASH})"],
        ["gvr", "75.00 ± 21.21", "1.250 ± 0.2121", "0.5000 ± 0.000", DASH],
        ["none", "60.00 ± 14.14", "1.400 ± 0.1414", "0.5000 ± 0.000", DASH],
    ]
    assert strong(table) == []  # no control has been chosen
    set_baselines([comparison], None)
    table = metrics_table(comparison.settings[0], [Metric("test/acc"), Metric("test/ece")])
    assert strong(table) == []  # differences of 0.1 and 0.2: their interval holds zero
    for name in ("none", "gvr"):
        fake_run(tmp_path / f"{name}1", name, 1, {"test/acc": 0.7 + 0.10001 * (name == "gvr")})
    (comparison,) = compare(find_runs([tmp_path]), None)
    set_baselines([comparison], None)
    table = metrics_table(comparison.settings[0], [Metric("test/acc"), Metric("test/ece")])
    assert strong(table) == [("gvr", "70.00 ± 14.14")]


def test_the_table_of_what_differs_and_the_table_of_what_is_left_out(tmp_path: Path) -> None:
    for size in (16, 128):
        for method in ("none", "gvr"):
            fake_run(tmp_path / f"{method}{size}", method, batch_size=size)
    fake_run(tmp_path / "failed", summary={"status": "failed", "error": "boom"})
    fake_run(tmp_path / "nan", metrics={"test/acc": math.nan})
    runs = find_runs([tmp_path])
    (comparison,) = compare(runs, None)
    table = differences_table(comparison)
    columns = [f"{method} (batch_size={size})" for size in (16, 128) for method in ("gvr", "none")]
    assert table.columns == ["key", *columns]
    lines = {row[0]: row[1:] for row in texts(table)}
    assert lines["batch_size"] == ["16", "16", "128", "128"]
    assert lines["regularizer.views"] == ["2", "1"] * 2
    assert lines["regularizer.penalty.alpha"] == ["0.01", DASH] * 2
    assert next(iter(lines)) == "batch_size" and not {"seed", "name", "lr", "alpha"} & lines.keys()
    assert table.wide and left_out_table(runs).wide and not result_table([], comparison.metric).wide
    assert texts(left_out_table(runs)) == [["failed", "failed", "boom"], ["nan", "finished", "test/acc is nan"]]


def test_the_sheets_hold_every_figure_in_full(tmp_path: Path) -> None:
    accuracies = {"none": [1 / 3, 2 / 3], "gvr": [0.5, 0.9]}
    comparison = study(tmp_path, accuracies)
    fake_run(tmp_path / "zz", "gvr", 7, summary={"status": "failed", "error": "boom"})
    row = rows_by_label(comparison)["gvr"]
    (low, high), (d_low, d_high) = interval([0.5, 0.9]), interval([0.5 - 1 / 3, 0.9 - 2 / 3])
    assert group_record(comparison, "where", row) == pytest.approx(
        {
            "task": "classification",
            "setting": "where",
            "configuration": "gvr",
            "metric": "test/acc",
            "n": 2,
            "mean": 0.7,
            "sd": 0.4 / math.sqrt(2),
            "low": low,
            "high": high,
            "baseline": "none",
            "pairs": 2,
            "difference_mean": 0.2,
            "difference_low": d_low,
            "difference_high": d_high,
            "p": scipy.stats.ttest_rel([0.5, 0.9], [1 / 3, 2 / 3]).pvalue,
            "seconds": 4.0,
            "images": 600.0,
            "steps": 30.0,
            "seconds_relative": 2.0,
            "images_relative": 2.0,
            "steps_relative": 1.0,
            "gradient_evaluations": None,
            "gradient_evaluations_relative": None,
            **dict.fromkeys(("test_images", "sampling_error", "plain", "plain_equal", "plain_pairs")),
            **dict.fromkeys(f"plain_difference_{name}" for name in ("mean", "low", "high", "p")),
        }
    )
    records = run_records(find_runs([tmp_path]), [comparison])
    assert [record["averaged"] for record in records] == [False] * 5  # other objects than those compared
    runs = find_runs([tmp_path])
    records = {record["folder"]: record for record in run_records(runs, compare(runs, None))}
    gvr, failed = records["gvr1"], records["zz"]
    assert {key: gvr[key] for key in ("status", "averaged", "reason", "task", "setting", "configuration", "seed")} == {
        "status": "finished",
        "averaged": True,
        "reason": "",
        "task": "classification",
        "setting": "",
        "configuration": "gvr",
        "seed": 1,
    }
    assert (gvr["regularizer.views"], gvr["seconds"], gvr["images"], gvr["steps"]) == (2, 4.0, 600.0, 30)
    assert (gvr["test/acc"], gvr["test/loss"], gvr["test/ece"], gvr["val/acc"]) == (0.9, 1.1, 0.5, 0.1)
    assert (failed["averaged"], failed["configuration"], failed["seconds"]) == (False, None, None)


# ---- words


def test_the_opening_counts_runs_configurations_and_settings(tmp_path: Path) -> None:
    for size in (16, 128):
        for method in ("none", "gvr"):
            fake_run(tmp_path / f"{method}{size}", method, batch_size=size)
    runs = find_runs([tmp_path])
    text = "4 runs found, 4 averaged in 4 configurations and 2 settings."
    assert runs_found(runs, compare(runs, None)) == text
    fake_run(tmp_path / "nan", metrics={"test/acc": math.nan}, batch_size=16, seed=1)
    runs = find_runs([tmp_path])
    assert runs_found(runs, compare(runs, None)) == (
        text.replace("4 runs", "5 runs") + " 1 is not averaged, and listed below with the reason."
    )
    one = find_runs([tmp_path / "gvr16"])
    assert runs_found(one, compare(one, None)) == "1 run found, 1 averaged in 1 configuration."


def test_the_outcome_names_the_best_and_the_differences_that_stand_out(tmp_path: Path) -> None:
    comparison = study(tmp_path)
    setting = comparison.settings[0]
    assert outcome(setting, compared_groups(setting, comparison.metric), comparison.metric) == (
        "Best test accuracy: 75.00% (95% interval 51.30 to 98.70, n = 3), by gvr. Of 2 differences to the baseline,"
        " 1 has a 95% interval that excludes zero: gvr less none +15.00 points [+12.52, +17.48], 3 pairs."
    )
    loss = Metric("test/loss")
    assert outcome(setting, compared_groups(setting, loss), loss) == (
        "Best test loss: 1.250 (95% interval 1.013 to 1.487, n = 3), by gvr. Of 2 differences to the baseline,"
        " 1 has a 95% interval that excludes zero: gvr less none -0.1500 [-0.1748, -0.1252], 3 pairs."
    )
    tied = Metric("test/ece")
    assert outcome(Setting("here", setting.groups, setting.baselines), compared_groups(setting, tied), tied) == (
        "here: Best calibration error: 0.5000, by none and agr and gvr."
        " Of 2 differences to the baseline, none has a 95% interval that excludes zero."
        " Identical in every seed: agr and none; gvr and none."
    )


def test_the_outcome_of_single_seeds_and_of_many_differences(tmp_path: Path) -> None:
    comparison = study(tmp_path / "one", {"none": [0.5], "gvr": [0.6]})
    setting = comparison.settings[0]
    assert outcome(setting, compared_groups(setting, comparison.metric), comparison.metric) == (
        "Best test accuracy: 60.00% (one seed), by gvr."
        " No interval of a difference: that takes two seeds in common with the baseline."
    )
    for seed in (0, 1):
        fake_run(tmp_path / "many" / f"none{seed}", seed=seed, metrics={"test/acc": 0.1 + seed / 10})
        for lr in range(1, 9):
            figures = {"test/acc": 0.2 + 0.01 * lr + seed * 0.10001}
            fake_run(tmp_path / "many" / f"{lr}{seed}", "gvr", seed, figures, keys={"regularizer.penalty.own": lr})
    (comparison,) = compare(find_runs([tmp_path / "many"]), None)
    set_baselines([comparison], None)
    setting = comparison.settings[0]
    text = outcome(setting, compared_groups(setting, comparison.metric), comparison.metric)
    assert "Of 8 differences to the baseline, 8 have a 95% interval that excludes zero: " in text
    assert text.count(" less none ") == 6 and text.endswith(", and 2 more.")


# ---- curves


def group(label: str, *runs: list[dict[str, float]]) -> Group:
    """One whose runs logged these rows."""
    return Group(label, {}, {i: Run(Path(), str(i), "finished", rows=rows) for i, rows in enumerate(runs)})


def points(**columns: Sequence[float]) -> list[dict[str, float]]:
    """Rows of metrics.csv; names are written with __ for /."""
    names = [name.replace("__", "/") for name in columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_a_curve_by_epoch_counts_from_one_and_a_row_without_epoch_is_of_the_last() -> None:
    rows: list[dict[str, float]] = [
        {"fid": 9.0},  # before any epoch
        *(
            {"epoch": 0, "fid": 5.0},
            {"epoch": 1, "fid": 4.0},
            {"epoch": 2},
            {"fid": 3.0},
            {"epoch": 4, "fid": math.nan},
        ),
        {"epoch": 5, "val/acc": 0.5},
    ]
    (band,) = bands([group("a", rows)], "epoch", "fid")
    assert (band.label, list(band.x), list(band.mean), band.low, band.high) == ("a", [1, 2, 3], [5, 4, 3], None, None)
    again = [{"epoch": 2, "fid": 1.0}, {"epoch": 0, "fid": 2.0}, {"epoch": 0, "fid": 3.0}]
    (band,) = bands([group("a", again)], "epoch", "fid")
    assert (list(band.x), list(band.mean)) == ([1, 3], [3, 1])  # in order, the last of equal ones


@pytest.mark.parametrize("x", ["train/seconds", "train/images"])
def test_a_curve_by_second_or_image_is_where_it_was_logged(x: str) -> None:
    rows = [{x: 0.0, "val/acc": 0.25, "epoch": 0}, {x: 2.5, "val/acc": 0.5, "epoch": 1}, {"val/acc": 0.75}]
    (band,) = bands([group("a", rows)], x, "val/acc")
    assert (list(band.x), list(band.mean)) == ([0.0, 2.5], [0.25, 0.75])


def test_a_band_is_the_interval_over_the_seeds_at_every_point() -> None:
    values = [[0.1, 0.4, 0.7], [0.2, 0.5, 0.9], [0.6, 0.3, 0.8]]
    (band,) = bands([group("a", *(points(epoch=[0, 1, 2], val__acc=v) for v in values))], "epoch", "val/acc")
    low, high = zip(*(interval(column) for column in zip(*values, strict=True)), strict=True)
    assert list(band.x) == [1, 2, 3] and band.mean == pytest.approx(np.mean(values, 0))
    assert band.low == pytest.approx(low) and band.high == pytest.approx(high)


def test_curves_of_other_ranges_and_of_none() -> None:
    apart = [points(epoch=[0, 1], fid=[1, 2]), points(epoch=[5, 6], fid=[3, 6])]
    touching = [points(epoch=[0, 1], fid=[1, 2]), points(epoch=[1, 2], fid=[4, 6])]
    other = [points(epoch=[0, 1], val__acc=[1, 2])]
    found = bands(
        [group("a", *apart), group("b", *other), group("c", *touching), group("d", *apart[:1], *other)], "epoch", "fid"
    )
    assert [band.label for band in found] == ["a", "c", "d"]
    assert [(list(band.x), list(band.mean)) for band in found] == [([4.5], [4]), ([2], [3]), ([1, 2], [1, 2])]
    assert found[0].low is None and found[1].low is not None and found[2].low is None


@pytest.mark.parametrize(("logged", "kept"), [(200, 200), (201, 200), (1000, 200)])
def test_long_curves_are_thinned_over_their_whole_range(logged: int, kept: int) -> None:
    rows = points(train__images=[float(i) for i in range(logged)], val__acc=[i / 2 for i in range(logged)])
    (band,) = bands([group("a", rows)], "train/images", "val/acc")
    assert (len(band.x), band.x[0], band.x[-1]) == (kept, 0.0, logged - 1)
    assert band.mean == pytest.approx(band.x / 2)


# ---- figures


def look_up(drawing: Drawing) -> tuple[Any, dict[str, Any]]:
    """The axes, and its lines by their label."""
    (axes,) = drawing.axes
    return axes, {line.get_label(): line for line in axes.lines}


def edges(collection: Any) -> tuple[dict[float, float], dict[float, float]]:
    """The lower and the upper edge of a filled band."""
    found: dict[float, list[float]] = {}
    for x, y in collection.get_paths()[0].vertices:
        found.setdefault(float(x), []).append(float(y))
    return {x: min(y) for x, y in found.items()}, {x: max(y) for x, y in found.items()}


def test_curves_are_drawn_in_percent_with_their_bands_and_dashed_published_ones(
    tmp_path: Path, drawn: list[Drawing]
) -> None:
    x, mean = np.array([1.0, 2.0, 3.0]), np.array([0.2, 0.5, 0.6])
    curves = [Band("none", x, mean, mean - 0.1, mean + 0.2), Band("gvr", x, mean + 0.1)]
    published = [Published("Paper", "test/acc", (1, 50), (0.25, 0.75)), Published("Other", "test/acc", (2,), (0.5,))]
    styles = looks(["none", "gvr"])
    figure = draw_bands(curves, "epoch", Metric("val/acc"), styles, tmp_path / "a.png", published)
    axes, lines = look_up(drawn[0])
    assert list(lines) == ["none", "gvr", "published, Paper", "published, Other"]
    assert [list(line.get_xdata()) for line in lines.values()] == [[1, 2, 3], [1, 2, 3], [1, 50], [2]]
    expected = [[20, 50, 60], [30, 60, 70], [25, 75], [50]]
    assert all(line.get_ydata() == pytest.approx(y) for line, y in zip(lines.values(), expected, strict=True))
    assert [line.get_linestyle() for line in lines.values()] == ["-", "-", "--", "--"]
    assert [line.get_color() for line in lines.values()][:2] == [GREY, BLUE]
    assert [line.get_marker() for line in lines.values()][:2] == ["o", "s"]
    assert lines["none"].get_linewidth() > lines["gvr"].get_linewidth()  # seen under a curve that equals it
    assert lines["published, Paper"].get_color() != lines["published, Other"].get_color()
    (band,) = axes.collections
    low, high = edges(band)
    assert low == pytest.approx({1: 10, 2: 40, 3: 50}) and high == pytest.approx({1: 40, 2: 70, 3: 80})
    assert to_hex(band.get_facecolor()[0][:3]) == GREY
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epochs", "validation accuracy (%)")
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == list(lines)
    assert axes.get_yscale() == "linear" and axes.get_ylim() == pytest.approx((10 - 3.5, 80 + 3.5))
    assert figure.caption == (
        "Validation accuracy over epochs: mean over the seeds, band: its 95% interval."
        " Dashed: published, not measured here."
    )


@pytest.mark.parametrize(
    ("x", "label"),
    [("epoch", "epochs"), ("train/seconds", "seconds of training"), ("train/images", "images seen")],
)
def test_the_axis_and_the_caption_of_single_runs(x: str, label: str, tmp_path: Path, drawn: list[Drawing]) -> None:
    band = Band("a", np.array([0.0, 20_000.0]), np.array([2.0, 4.0]))
    figure = draw_bands([band], x, Metric("train/penalty"), looks(["a"]), tmp_path / "a.png")
    axes, lines = look_up(drawn[0])
    assert (axes.get_xlabel(), axes.get_ylabel()) == (label, "penalty")
    assert list(lines["a"].get_ydata()) == [2.0, 4.0] and not axes.collections
    assert figure.caption == f"Penalty over {label}. The regularizer's penalty, without its weight."
    assert "20k" in [text.get_text() for text in axes.get_xticklabels()]


@pytest.mark.parametrize(
    ("name", "values", "scale", "limits"),
    [
        ("train/penalty", [0.1, 2.1], "log", (0.1 / 1.5, 2.1 * 1.5)),
        ("train/penalty", [0.1, 2.0], "linear", (0.1 - 0.095, 2.0 + 0.095)),
        ("train/penalty", [0.0, 2.1], "linear", (-0.105, 2.205)),
        ("train/penalty", [-0.1, 2.1], "linear", (-0.21, 2.21)),
        ("val/loss", [0.1, 2.1], "linear", (0.0, 2.2)),
        ("fid", [3.0, 3.0], "linear", (2.85, 3.15)),
        ("fid", [0.0, 0.0], "linear", (-1.0, 1.0)),
        ("val/acc", [0.5, 0.5], "linear", (47.5, 52.5)),
        ("val/loss", [9.0, *[1.0] * 4, *[2.0] * 4], "linear", (0.6, 9.4)),  # 9 points: all within the frame
        ("val/loss", [9.0, *[1.0] * 4, *[2.0] * 5], "linear", (0.95, 2.05)),  # a long one may start outside
        ("val/acc", [0.9, *[0.1] * 4, *[0.2] * 5], "linear", (6.0, 94.0)),
        ("val/acc", [*[0.1] * 3, *[0.8] * 2, *[0.9] * 5], "linear", (79.5, 90.5)),  # the first quarter
        ("val/acc", [*[0.1] * 4, *[0.8], *[0.9] * 5], "linear", (6.0, 94.0)),
        ("train/penalty", [90.0, *[1.0] * 9], "log", (1 / 1.5, 90 * 1.5)),
    ],
)
def test_the_frame_holds_what_there_is_to_see(
    name: str, values: list[float], scale: str, limits: tuple[float, float], tmp_path: Path, drawn: list[Drawing]
) -> None:
    band = Band("a", np.arange(len(values)) + 1.0, np.array(values))
    draw_bands([band], "epoch", Metric(name), looks(["a"]), tmp_path / "a.png")
    axes, _ = look_up(drawn[0])
    assert axes.get_yscale() == scale and axes.get_ylim() == pytest.approx(limits)


def test_a_band_that_reaches_below_zero_stays_on_the_page_and_one_of_negative_values_is_whole(
    tmp_path: Path, drawn: list[Drawing]
) -> None:
    x, mean = np.array([1.0, 2.0]), np.array([1.0, -1.0])
    band = Band("a", x, mean, mean - 2, mean + 0.5)
    draw_bands([band], "epoch", Metric("train/penalty"), looks(["a"]), tmp_path / "a.png")
    axes, _ = look_up(drawn[0])
    low, high = edges(axes.collections[0])
    assert low == pytest.approx({1: 0.001, 2: -3}) and high == pytest.approx({1: 1.5, 2: -0.5})


def test_marks_are_spread_over_a_curve_and_shifted_from_method_to_method(tmp_path: Path, drawn: list[Drawing]) -> None:
    curves = [Band(label, np.arange(60.0), np.zeros(60)) for label in "abc"] + [Band("d", np.arange(3.0), np.zeros(3))]
    draw_bands(curves, "epoch", Metric("fid"), looks(list("abcd")), tmp_path / "a.png")
    _, lines = look_up(drawn[0])
    assert [lines[label].get_markevery() for label in "abcd"] == [
        *([first + 10 * i for i in range(6)] for first in range(3)),
        [0, 1, 2],
    ]


def dots(axes: Any) -> list[tuple[list[float], list[float], str]]:
    """The x, y and colour of every set of dots."""
    found = [
        (c.get_offsets(), to_hex(c.get_facecolor()[0][:3])) for c in axes.collections if isinstance(c, PathCollection)
    ]
    return [([float(x) for x, _ in at], [float(y) for _, y in at], colour) for at, colour in found]


def test_final_values_are_every_seed_s_dot_the_mean_and_its_interval(tmp_path: Path, drawn: list[Drawing]) -> None:
    comparison = study(tmp_path)
    rows = compared_groups(comparison.settings[0], comparison.metric)
    figure = draw_final(rows, comparison.metric, looks(["none", "agr", "gvr"]), tmp_path / "a.png")
    (axes,) = drawn[0].axes
    found = [part for part in dots(axes) if len(part[0]) in (1, 3)]
    seeds, means = [part for part in found if len(part[0]) == 3], [part for part in found if len(part[0]) == 1]
    for place, (method, colour) in enumerate((("none", GREY), ("agr", BLUE), ("gvr", RED))):
        x, y, shown = seeds[place]
        assert x == pytest.approx([100 * value for value in ACCURACIES[method]]) and shown == colour
        assert len(set(y)) == 1 and place < y[0] < place + 0.5  # under the mean
        assert means[place] == (pytest.approx([100 * np.mean(ACCURACIES[method])]), [place], colour)
        low, high = interval(ACCURACIES[method])
        segment = axes.containers[place].lines[2][0].get_segments()[0]
        assert segment[:, 0] == pytest.approx([100 * low, 100 * high]) and list(segment[:, 1]) == [place] * 2
    assert [text.get_text() for text in axes.get_yticklabels()] == ["none", "agr", "gvr"]
    assert list(axes.get_yticks()) == [0, 1, 2] and axes.get_ylim() == (2.5, -0.5)
    assert axes.get_xlabel() == "test accuracy (%)" and len(axes.containers) == 3
    assert axes.get_xlim() == pytest.approx(
        (100 * interval(ACCURACIES["agr"])[0] - 2.2, 100 * interval(ACCURACIES["agr"])[1] + 2.2)
    )
    assert not any(set(np.ravel(line.get_xdata())) == {0.0} for line in axes.lines)  # no zero line
    assert figure.caption == (
        "Test accuracy (%): every seed's dot, above them the mean with its 95% interval."
        " An interval that reaches the frame goes on beyond it."
    )


@pytest.mark.parametrize(
    ("metric", "sign", "label", "unit", "better"),
    [
        ("test/acc", 100, "difference (points)", " (percentage points)", "Higher is better."),
        ("test/loss", -1, "difference", "", "Lower is better."),
    ],
)
def test_differences_are_drawn_seed_by_seed_about_zero(
    metric: str, sign: float, label: str, unit: str, better: str, tmp_path: Path, drawn: list[Drawing]
) -> None:
    comparison = study(tmp_path)
    rows = compared_groups(comparison.settings[0], Metric(metric))
    figure = draw_differences(rows, Metric(metric), looks(["none", "agr", "gvr"]), tmp_path / "a.png")
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["agr", "gvr"]
    seeds = [part[0] for part in dots(axes) if len(part[0]) == 3]
    means = [part[0] for part in dots(axes) if len(part[0]) == 1]
    for place, differences in enumerate(([-0.1, 0.1, 0.0], [0.15, 0.16, 0.14])):
        assert seeds[place] == pytest.approx([sign * value for value in differences])
        assert means[place] == pytest.approx([sign * np.mean(differences)], abs=1e-12)
        low, high = sorted(sign * end for end in interval(differences))
        assert axes.containers[place].lines[2][0].get_segments()[0][:, 0] == pytest.approx([low, high])
    assert any(list(line.get_xdata()) == [0, 0] for line in axes.lines) and axes.get_xlabel() == label
    assert figure is not None and figure.caption == (
        f"Difference to the baseline in {Metric(metric).words}{unit}, paired by seed, with its 95% interval."
        f" {better} An interval that reaches the frame goes on beyond it."
    )


def test_without_seeds_in_common_no_differences_are_drawn_and_single_seeds_have_no_bar(
    tmp_path: Path, drawn: list[Drawing]
) -> None:
    fake_run(tmp_path / "none", "none", 0, {"test/acc": 0.5})
    fake_run(tmp_path / "gvr", "gvr", 1, {"test/acc": 0.5})
    (comparison,) = compare(find_runs([tmp_path]), None)
    set_baselines([comparison], None)
    rows = compared_groups(comparison.settings[0], comparison.metric)
    assert draw_differences(rows, comparison.metric, looks(["none", "gvr"]), tmp_path / "a.png") is None
    draw_final(rows, comparison.metric, looks(["none", "gvr"]), tmp_path / "a.png")
    (axes,) = drawn[0].axes
    assert len(drawn) == 1 and not axes.containers
    assert axes.get_xlim() == pytest.approx((50 - 0.05, 50 + 0.05))  # 2% of it stand for a range


@pytest.mark.parametrize("zero", [False, True])
def test_wide_intervals_leave_the_dots_legible(zero: bool, tmp_path: Path, drawn: list[Drawing]) -> None:
    comparison = study(tmp_path, {"none": [0.5, 0.5], "gvr": [0.6, 0.7]})
    rows = compared_groups(comparison.settings[0], comparison.metric)
    draw: Any = draw_differences if zero else draw_final
    draw(rows, comparison.metric, looks(["none", "gvr"]), tmp_path / "a.png")
    # dots from 50 to 70, and the interval of two seeds reaches 63 points to each side: one range of the dots is kept
    limits = (-20 - 1, 40 + 1) if zero else (30 - 1, 90 + 1)
    assert drawn[0].axes[0].get_xlim() == pytest.approx(limits)


def test_a_look_is_a_label_s_own_everywhere_and_pairs_repeat_late() -> None:
    labels = [str(i) for i in range(40)]
    found = looks([*labels, "0", "39"])
    assert list(found) == labels and found["0"].colour == GREY
    assert [look.index for look in found.values()] == list(range(40))
    assert len({(look.colour, look.marker) for look in found.values()}) == 40
    assert len({look.colour for look in list(found.values())[:10]}) == 10


def test_a_figure_is_a_small_picture_of_the_size_that_the_page_is_told(tmp_path: Path, drawn: list[Drawing]) -> None:
    band = Band("a", np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    long = [Band(" ".join(["word"] * 12), band.x, band.mean), band, Band("c", band.x, band.mean)]
    styles = looks([one.label for one in long])
    short, tall = (
        draw_bands(some, "epoch", Metric("fid"), styles, tmp_path / f"{len(some)}.png") for some in (long[1:2], long)
    )
    for figure in (short, tall):
        with Image.open(figure.file) as picture:
            assert picture.size == figure.size and picture.format == "PNG" and picture.mode == "P"
            assert len(picture.getcolors() or []) <= 128
    assert short.size[0] == tall.size[0] == 768 and tall.size[1] > short.size[1]  # the legend has its place
    assert all("\n" in line.get_label() for line in drawn[1].axes[0].lines[:1])


# ---- which figures a setting gets


def by_epoch(**columns: Sequence[float]) -> list[dict[str, Any]]:
    """Rows of epochs with the seconds and images that go with them."""
    n = len(next(iter(columns.values())))
    return points(
        epoch=range(n),
        train__seconds=[2.0 * i + 2 for i in range(n)],
        train__images=[50.0 * i + 50 for i in range(n)],
        **columns,
    )


def draw_all(
    folder: Path, task: str, rows: dict[str, list[dict[str, Any]]], published: Sequence[Published] = ()
) -> list[Figure]:
    """All figures of runs that logged these rows, by method."""
    for method, logged in rows.items():
        metrics = {"test/acc": 0.5} if task == "classification" else {"fid": 3.0}
        fake_run(folder / method, method, metrics=metrics, rows=logged, task=task)
    (comparison,) = compare(find_runs([folder]), None)
    set_baselines([comparison], None)
    setting = comparison.settings[0]
    rows_ = compared_groups(setting, comparison.metric)
    styles = looks([group.label for group in setting.groups])
    return draw_setting(task, comparison.metric, setting, rows_, styles, published, folder, "p")


def test_a_classification_s_figures(tmp_path: Path, drawn: list[Drawing]) -> None:
    more = {"train__view_agreement": [0.5, 1.0], "train__acc_noisy": [0.25, 0.5]}
    rows = {
        "none": by_epoch(val__acc=[0.25, 0.5], train__penalty=[0.0, 0.0]),
        "gvr": by_epoch(val__acc=[0.5, 0.75], train__penalty=[4.0, 2.0], **more),
    }
    published = [Published("Paper", "test/acc", (1, 2), (0.1, 0.2)), Published("Scores", "is/mean", (1,), (3.0,))]
    figures = draw_all(tmp_path, "classification", rows, published)
    assert [figure.file.name for figure in figures] == [
        *("p_final.png", "p_differences.png", "p_val_acc_by_epoch.png", "p_val_acc_by_seconds.png"),
        *("p_val_acc_by_images.png", "p_penalty_by_epoch.png", "p_view_agreement_by_epoch.png"),
        "p_acc_noisy_by_epoch.png",
    ]
    found = {f.file.stem: look_up(drawing)[1] for f, drawing in zip(figures, drawn, strict=True)}
    values = {
        name: {label: (list(line.get_xdata()), list(line.get_ydata())) for label, line in lines.items()}
        for name, lines in found.items()
    }
    accuracies = {"none": [25, 50], "gvr": [50, 75]}
    assert all(tick == round(tick) for tick in drawn[2].axes[0].get_xticks())  # there is no half an epoch
    assert values["p_val_acc_by_epoch"] == {
        **{method: ([1, 2], values) for method, values in accuracies.items()},
        "published, Paper": ([1, 2], [10, 20]),
    }
    assert values["p_val_acc_by_seconds"] == {method: ([2, 4], values) for method, values in accuracies.items()}
    assert values["p_val_acc_by_images"] == {method: ([50, 100], values) for method, values in accuracies.items()}
    assert values["p_penalty_by_epoch"] == {"gvr": ([1, 2], [4, 2])}  # where there is none, it is not drawn
    assert values["p_view_agreement_by_epoch"] == {"gvr": ([1, 2], [50, 100])}
    assert values["p_acc_noisy_by_epoch"] == {"gvr": ([1, 2], [25, 50])}
    assert found["p_penalty_by_epoch"]["gvr"].get_color() == BLUE  # a method's own in every figure


def test_published_losses_and_penalties_are_on_their_own_axes_alone(tmp_path: Path, drawn: list[Drawing]) -> None:
    rows = {
        "none": by_epoch(val__acc=[0.25, 0.5], train__penalty=[0.0, 0.0], train__total=[2.0, 1.0], train__loss=[2, 1]),
        "gvr": by_epoch(val__acc=[0.5, 0.75], train__penalty=[4.0, 2.0], train__total=[4.0, 2.5], test__loss=[3, 2]),
    }
    names = ("test/acc", "test/loss", "train/total", "train/penalty")
    published = [Published(f"of {name}", name, (1, 2), (0.25, 0.125)) for name in names]
    figures = draw_all(tmp_path, "classification", rows, published)
    found = {f.file.stem: list(look_up(drawing)[1]) for f, drawing in zip(figures, drawn, strict=True)}
    dashed = {name: [label.replace("\n", " ") for label in labels if "of" in label] for name, labels in found.items()}
    assert {name: labels for name, labels in dashed.items() if labels} == {
        "p_val_acc_by_epoch": ["published, of test/acc"],
        "p_penalty_by_epoch": ["published, of train/penalty"],
        "p_total_by_epoch": ["published, of train/total"],
        "p_test_loss_by_epoch": ["published, of test/loss"],
    }
    without = draw_all(tmp_path, "classification", rows)
    assert not {"p_total_by_epoch.png", "p_test_loss_by_epoch.png"} & {figure.file.name for figure in without}


def test_a_diffusion_model_s_figures(tmp_path: Path, drawn: list[Drawing]) -> None:
    rows = {
        "none": by_epoch(val__loss=[0.5, 0.25], fid=[9.0, 8.0], is__mean=[1.0, 2.0]),
        "agr": by_epoch(test__loss=[0.5], fid=[9.0], is__mean=[1.5]),
    }
    published = [Published("Paper", "is/mean", (100,), (3.5,)), Published("Accuracy", "test/acc", (1,), (0.5,))]
    published.append(Published("Table", "fid", (10, 400), (169.0, 14.6)))  # on no other axis
    figures = draw_all(tmp_path, "ddpm", rows, published)
    found = {f.file.stem: look_up(drawing)[1] for f, drawing in zip(figures, drawn, strict=True)}
    assert list(found) == [
        *("p_final", "p_differences", "p_val_loss_by_epoch", "p_val_loss_by_seconds", "p_val_loss_by_images"),
        *("p_is_mean_by_epoch", "p_fid_by_epoch"),
    ]
    assert list(found["p_val_loss_by_epoch"]) == ["none"]
    assert list(found["p_fid_by_epoch"]) == ["none", "agr", "published, Table"]
    scores = {label: (list(x.get_xdata()), list(x.get_ydata())) for label, x in found["p_is_mean_by_epoch"].items()}
    # a single point is drawn beside published ones, and else it is no curve
    assert scores == {"none": ([1, 2], [1, 2]), "agr": ([1], [1.5]), "published, Paper": ([100], [3.5])}


def test_test_figures_stand_in_for_a_validation_that_there_was_not(tmp_path: Path, drawn: list[Drawing]) -> None:
    figures = draw_all(tmp_path, "classification", {"none": by_epoch(test__acc=[0.5, 0.75])})
    assert [f.file.name for f in figures][1:] == [f"p_test_acc_by_{x}.png" for x in ("epoch", "seconds", "images")]
    assert list(look_up(drawn[1])[1]["none"].get_ydata()) == [50, 75]


# ---- generated images


def write_grid(path: Path, shades: Sequence[int], side: int = 48) -> None:
    """A square grid as a run draws it: every image a shade of its own, 2 pixels of white round each."""
    columns = math.isqrt(len(shades))
    picture = Image.new("L", (columns * (side + 2) + 2,) * 2, 255)
    for i, shade in enumerate(shades):
        at = (2 + i % columns * (side + 2), 2 + i // columns * (side + 2))
        picture.paste(shade, (*at, at[0] + side, at[1] + side))
    path.parent.mkdir(exist_ok=True)
    picture.save(path)


def generating(folder: Path, name: str, seed: int, grid: int = 4) -> Run:
    """A run that generates so many images a grid."""
    fake_run(folder / name, seed=seed, keys={"generation.grid": grid})
    return next(run for run in find_runs([folder]) if run.name == name)


def pixel(figure: Figure, x: int, y: int) -> int:
    with Image.open(figure.file) as picture:
        found = picture.convert("RGB").getpixel((x, y))
    assert isinstance(found, tuple) and len(set(found)) == 1
    return int(found[0])


def size(figure: Figure) -> tuple[int, int]:
    with Image.open(figure.file) as picture:
        assert picture.size == figure.size
        return picture.size


def test_generated_images_are_those_of_the_first_seed_in_common_and_the_strip_runs_to_the_end(tmp_path: Path) -> None:
    groups = []
    for label, seeds in (("a", (0, 1, 2)), ("b", (2, 1))):
        runs = {seed: generating(tmp_path, f"{label}{seed}", seed) for seed in seeds}
        for seed, run in runs.items():
            for i, name in enumerate([*(f"epoch_{10 * epoch:04d}" for epoch in range(1, 10)), "final", "process"]):
                write_grid(run.path / "samples" / f"{name}.png", [100 * (label == "b") + 10 * seed + i] * 4)
        groups.append(Group(label, {}, runs))
    figures = draw_samples(groups, tmp_path, "p")
    assert [figure.file.name for figure in figures] == [
        *("p_samples_1.png", "p_samples_2.png", "p_epochs_1.png", "p_epochs_2.png"),
    ]
    assert [figure.caption for figure in figures] == [
        *("a, seed 1: generated images", "b, seed 1: generated images"),
        *(f"{label}, seed 1, after epochs 10, 30, 50, 80, final" for label in "ab"),
    ]
    assert [size(figure) for figure in figures] == [(102, 102)] * 2 + [(5 * 102 + 4 * 6, 102)] * 2
    assert [pixel(figure, 10, 10) for figure in figures] == [19, 119, 10, 110]
    assert [pixel(figures[2], 10 + 108 * i, 10) for i in range(5)] == [10, 12, 14, 17, 19]
    assert pixel(figures[2], 104, 10) == 255  # white between them


def test_without_a_seed_in_common_each_shows_its_first(tmp_path: Path) -> None:
    groups = []
    for label, seeds in (("a", (3, 1)), ("b", (5, 4))):
        groups.append(Group(label, {}, {s: generating(tmp_path, f"{label}{s}", s) for s in seeds}))
        for run in groups[-1].runs.values():
            write_grid(run.path / "samples" / "final.png", [0] * 4)
    assert [figure.caption.partition(":")[0] for figure in draw_samples(groups, tmp_path, "p")] == [
        "a, seed 1",
        "b, seed 4",
    ]


@pytest.mark.parametrize(("groups", "sides"), [(7, (402, 152)), (8, (202, 52))])
def test_of_large_grids_whole_images_are_shown_as_many_as_fit(
    groups: int, sides: tuple[int, int], tmp_path: Path
) -> None:
    run = generating(tmp_path, "a", 0, grid=100)
    for name in ("epoch_0001", "final"):
        write_grid(run.path / "samples" / f"{name}.png", [0] * 100)
    empty = [Group(str(i), {}, {0: generating(tmp_path, f"b{i}", 0)}) for i in range(groups - 1)]
    final, strip = draw_samples([Group("a", {}, {0: run}), *empty], tmp_path, "p")
    assert size(final) == (sides[0],) * 2 and size(strip) == (2 * sides[1] + 6, sides[1])
    last = sides[0] - 1
    assert pixel(final, last, last) == 255 and pixel(final, last - 2, last - 2) == 0  # cut between two images


def test_a_single_image_larger_than_its_place_is_shrunk_and_a_broken_one_passed_over(tmp_path: Path) -> None:
    large, broken = (generating(tmp_path, name, 0) for name in "ab")
    write_grid(large.path / "samples" / "final.png", [0, 50, 100, 150], side=900)
    (broken.path / "samples").mkdir()
    (broken.path / "samples" / "final.png").write_bytes(b"no picture")
    (figure,) = draw_samples([Group("b", {}, {0: broken}), Group("a", {}, {0: large})], tmp_path, "p")
    assert (figure.file.name, size(figure)) == ("p_samples_2.png", (412, 412))
    assert {pixel(figure, x, y) for x in (9, 400) for y in (9, 400)} == {0}


def test_a_run_that_has_drawn_no_final_images_shows_those_of_its_epochs(tmp_path: Path) -> None:
    run = generating(tmp_path, "a", 0)
    for epoch in (1, 2):
        write_grid(run.path / "samples" / f"epoch_{epoch:04d}.png", [0] * 4)
    (figure,) = draw_samples([Group("a", {}, {0: run})], tmp_path, "p")
    assert figure.caption == "a, seed 0, after epochs 1, 2"


# ---- curves.png


def draw_run(folder: Path, rows: list[dict[str, Any]]) -> None:
    """curves.png of a run that logged these rows."""
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    with painted():
        draw_curves(folder / "metrics.csv", folder / "curves.png", "a title")


def panels(drawing: Drawing) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """The points of every line of every panel."""
    return {
        axes.get_title(): {str(x.get_label()): (list(x.get_xdata()), list(x.get_ydata())) for x in axes.lines}
        for axes in drawing.axes
    }


def test_a_run_s_curves_hold_its_rows_by_epoch(tmp_path: Path, drawn: list[Drawing]) -> None:
    rows = points(
        step=[10, 20, 30], epoch=[0, 1, 2], train__loss=[3.0, 2.0, 1.0], val__loss=[3.5, 2.5, 1.5],
        train__acc=[0.25, 0.5, 0.75], val__acc=[0.125, 0.25, 0.5], train__penalty=[4.0, 2.0, 1.0],
        train__penalty_share=[0.5, 0.25, 0.125],
    )  # fmt: skip
    draw_run(tmp_path, [*rows, {"step": 30, "test/acc": 0.9, "val/acc": 0.0}])
    x = [1, 2, 3]
    assert panels(drawn[0]) == {
        "loss": {"train, mean of the views": (x, [3, 2, 1]), "validation": (x, [3.5, 2.5, 1.5])},
        "accuracy": {"train, augmented": (x, [0.25, 0.5, 0.75]), "validation": (x, [0.125, 0.25, 0.5])},
        "penalty": {"penalty": (x, [4, 2, 1]), "share of the loss": (x, [0.5, 0.25, 0.125])},
    }
    assert [axes.get_yscale() for axes in drawn[0].axes] == ["linear", "linear", "log"]
    assert {axes.get_xlabel() for axes in drawn[0].axes} == {"epoch"}
    assert all(tick == round(tick) for axes in drawn[0].axes for tick in axes.get_xticks())
    for axes in drawn[0].axes:
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [line.get_label() for line in axes.lines]
        assert {line.get_marker() for line in axes.lines} == {"None"}
    assert drawn[0].get_suptitle() == "a title"
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == pytest.approx((3 * 506, 396), abs=1)  # old releases cut what newer ones round


def test_curves_of_few_epochs_have_marks_and_what_is_always_zero_has_no_panel(
    tmp_path: Path, drawn: list[Drawing]
) -> None:
    rows = points(epoch=[0, 1], train__loss=[3.0, 2.0], train__penalty=[0.0, 0.0], train__acc=[0.0, 0.5])
    draw_run(tmp_path, [*rows, {"epoch": 2, "val/acc": 0.5}])
    assert panels(drawn[0]) == {
        "loss": {"train, mean of the views": ([1, 2], [3, 2])},
        "accuracy": {"train, augmented": ([1, 2], [0, 0.5])},
    }
    assert all(line.get_marker() == "o" for axes in drawn[0].axes for line in axes.lines)


@pytest.mark.parametrize(("penalties", "scale"), [([1.0, 2.0], "log"), ([0.0, 2.0], "linear"), ([-1.0, 2.0], "linear")])
def test_a_penalty_has_a_log_scale_only_where_it_is_positive(
    penalties: list[float], scale: str, tmp_path: Path, drawn: list[Drawing]
) -> None:
    draw_run(tmp_path, points(epoch=[0, 1], train__loss=[3.0, 2.0], train__penalty=penalties))
    assert [axes.get_yscale() for axes in drawn[0].axes] == ["linear", scale]


def test_scores_are_drawn_if_there_is_more_than_one(tmp_path: Path, drawn: list[Drawing]) -> None:
    rows = points(epoch=[0, 1, 2], train__loss=[3.0, 2.0, 1.0])
    rows[1] |= {"fid": 9.0, "is/mean": 2.0}
    draw_run(tmp_path, rows)
    assert list(panels(drawn[0])) == ["loss"]
    draw_run(tmp_path, [*rows, {"epoch": 2, "fid": 8.0, "is/mean": 2.5, "real/fid": 1.0}])
    found = panels(drawn[1])
    assert list(found) == ["loss", "FID", "inception score"]
    assert found["FID"] == {"Fréchet inception distance": ([2, 3], [9, 8])}
    assert found["inception score"] == {"mean over the splits": ([2, 3], [2, 2.5])}


def test_without_figures_there_is_no_picture(tmp_path: Path, drawn: list[Drawing]) -> None:
    draw_run(tmp_path, [{"step": 1, "test/acc": 0.5}])
    assert not drawn and not (tmp_path / "curves.png").exists()


def test_a_finished_run_leaves_its_curves(finished: Callable[..., Path], tmp_path: Path, drawn: list[Drawing]) -> None:
    folder = finished("regularizer=gvr", curves=True)
    with painted():
        draw_curves(folder / "metrics.csv", tmp_path / "curves.png", "test")
    assert (tmp_path / "curves.png").read_bytes() == (folder / "curves.png").read_bytes()
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:2]
    found = panels(drawn[1])  # after confusion.png
    assert found["loss"]["validation"] == ([1, 2], [float(row["val/loss"]) for row in rows])
    assert found["penalty"]["penalty"] == ([1, 2], [float(row["train/penalty"]) for row in rows])
