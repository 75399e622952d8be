"""gvr-report: each method against its matched control, and plain training of equal cost; what is missing is said."""

import csv
import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import yaml
from fake_runs import AGR, NO_PENALTY, REGULARIZERS, fake_run
from matplotlib.figure import Figure as Drawing

from gvr_lightning.config.folder import conf_folder
from gvr_lightning.report.bands import Band, bands
from gvr_lightning.report.cli import main
from gvr_lightning.report.controls import set_baselines
from gvr_lightning.report.curves import draw_bands
from gvr_lightning.report.figures import draw_differences, looks
from gvr_lightning.report.groups import Group, Setting, compare
from gvr_lightning.report.metrics import Metric
from gvr_lightning.report.runs import Run, find_runs
from gvr_lightning.report.sampling import sampling_error, sampling_note
from gvr_lightning.report.tables import compared_groups, cost_table, further_metrics, plain_table, result_table

DASH = "\u2013"
SAM = {"views": 1, "penalty": NO_PENALTY, "wrap": {"_target_": "gvr_lightning.methods.sam.SAM", "_partial_": True}}
GVR_AGR = {**REGULARIZERS["gvr"], "wrap": AGR}
STEPS, IMAGES = 10, 100  # of an epoch


@pytest.fixture(autouse=True)
def more_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    three = {**REGULARIZERS["two_view"], "views": 3}
    for name, node in {"sam": SAM, "gvr_agr": GVR_AGR, "three_view": three}.items():
        monkeypatch.setitem(REGULARIZERS, name, node)


def run_of(folder: Path, method: str, seed: int = 0, accuracy: float = 0.5, epochs: int = 3, **options: Any) -> None:
    """A run that tells what it took; its updates take the gradients twice if they are SAM's."""
    images = IMAGES * epochs * REGULARIZERS[method]["views"]
    train = {"epochs": epochs, "steps": STEPS * epochs, "seconds": 1.0, "images": images, "samples": IMAGES * epochs}
    train |= {"gradient_evaluations": images * (2 if method == "sam" else 1)}
    told = {"train": train, "data_size": {"train": 100, "val": 10, "test": 400}, **options.pop("summary", {})}
    name = f"{method}_{epochs}_{seed}_{'_'.join(map(str, options.values()))}"
    fake_run(folder / name, method, seed, {"test/acc": accuracy}, summary=told, rows=[], epochs=epochs, **options)


def setting_of(folder: Path, *methods: str, wanted: str | None = None) -> Setting:
    for method in methods:
        run_of(folder, method)
    (comparison,) = compare(find_runs([folder]), None)
    set_baselines([comparison], wanted)
    return comparison.settings[0]


def pairs(setting: Setting) -> dict[str, str]:
    """What each group is compared with, in the order of the rows."""
    return {group.label: setting.baselines[group.label].label for group in setting.groups}


# ---- which control


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (  # the control, its methods, then the control of two views with its own
            ["gvr", "none", "sam", "two_view", "gvr_agr", "agr"],
            {
                "none": "none",
                "agr": "none",
                "sam": "none",
                "two_view": "none",
                "gvr": "two_view",
                "gvr_agr": "two_view",
            },
        ),
        (["gvr", "two_view"], {"two_view": "two_view", "gvr": "two_view"}),
        (["none", "gvr", "agr"], {"none": "none", "agr": "none", "gvr": "none"}),
        (["two_view", "gvr", "agr"], {"two_view": "two_view", "agr": "two_view", "gvr": "two_view"}),
        (["none", "three_view", "gvr"], {"none": "none", "gvr": "none", "three_view": "none"}),
        (["sam", "agr"], {"agr": "agr", "sam": "agr"}),
        (["two_view", "three_view"], {"three_view": "three_view", "two_view": "three_view"}),
    ],
)
def test_a_method_s_control_has_as_many_views_and_adds_nothing(
    methods: list[str], expected: dict[str, str], tmp_path: Path
) -> None:
    found = pairs(setting_of(tmp_path, *methods))
    assert found == expected and next(iter(found)) == next(iter(expected.values()))
    if "none" in methods and "two_view" in methods:
        assert list(found) == list(expected)


def test_the_controls_of_configured_penalties_are_told_by_what_they_declare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By no name: each is called otherwise here."""
    controls = {"gvr_normalised": "two_view", "gvr_label_free": "two_view", "gvr_one_view": "none"}
    controls |= {"feature_norm": "none"}
    for name in controls:
        node = yaml.safe_load((conf_folder() / "regularizer" / f"{name}.yaml").read_text())
        node["penalty"]["alpha"] = 0.5
        monkeypatch.setitem(REGULARIZERS, f"my_{name}", node)
    found = pairs(setting_of(tmp_path, "none", "two_view", *(f"my_{name}" for name in controls)))
    assert {name: found[f"my_{name}"] for name in controls} == controls


def test_each_optimizer_has_controls_of_its_own_and_related_rows_stand_together(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        for method in ("none", "two_view", "gvr"):
            run_of(tmp_path, method, lr=lr)
    setting = setting_of(tmp_path)
    assert list(pairs(setting).items()) == [
        (f"{method}, lr={lr}", f"{base}, lr={lr}")
        for lr in (0.1, 0.2)
        for method, base in (("none", "none"), ("two_view", "none"), ("gvr", "two_view"))
    ]
    compared = compared_groups(setting, Metric("test/acc"))
    assert result_table(compared, Metric("test/acc")).families == {1, 3, 4}


def test_a_baseline_that_was_asked_for_is_everyone_s_and_nothing_is_missing(tmp_path: Path) -> None:
    setting = setting_of(tmp_path, "none", "sam", "two_view", "gvr", wanted="regularizer=none")
    assert set(pairs(setting).values()) == {"none"} and not setting.missing and not setting.weighed


# ---- plain training of equal cost


def test_what_costs_more_is_weighed_against_plain_training_of_equal_cost(tmp_path: Path) -> None:
    for method, accuracies in (("two_view", [0.5, 0.75]), ("gvr", [0.75, 0.875]), ("sam", [0.5, 0.5]), ("agr", [0, 1])):
        for seed, accuracy in enumerate(accuracies):
            run_of(tmp_path, method, seed, accuracy)
    for epochs in (3, 6):
        for seed in (0, 1):
            run_of(tmp_path, "none", seed, epochs / 16 + seed / 8, epochs)
    setting = setting_of(tmp_path)
    long, short = "none, epochs=6", "none, epochs=3"
    assert [(w.group.label, w.plain.label, w.equal) for w in setting.weighed] == [
        ("gvr, epochs=3", long, ("images", "gradient_evaluations")),
        ("gvr, epochs=3", short, ("steps",)),
        ("sam, epochs=3", long, ("gradient_evaluations",)),
        ("two_view, epochs=3", long, ("images", "gradient_evaluations")),
    ]
    assert not setting.missing
    table = plain_table(compared_groups(setting, Metric("test/acc")), Metric("test/acc"))
    rows = {(row[0].text, row[5].text): [cell.text for cell in row] for row in table.rows}
    ours, base = [0.75, 0.875], [0.375, 0.5]
    assert rows["gvr, epochs=3", long][1:] == [
        "+37.50",
        "[+37.50, +37.50]",
        DASH,
        "2",
        long,
        "images and gradients",
        "1.00x",
    ]
    assert np.mean(np.subtract(ours, base)) == 0.375
    assert rows["gvr, epochs=3", short][5:] == [short, "updates", "2.00x"]
    assert rows["sam, epochs=3", long][5:] == [long, "gradients", "0.50x"]


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (["none", "agr"], []),
        (["none"], []),
        (["gvr"], []),
        (
            ["none", "gvr", "gvr_agr"],
            [
                "No control (regularizer=two_view) for gvr, gvr_agr: compared with none; a difference is that of the"
                " views and of the method together.",
                "No plain training at equal cost (regularizer=none epochs=6) for gvr, gvr_agr.",
            ],
        ),
        (
            ["none", "two_view", "gvr", "sam", "agr"],
            ["No plain training at equal cost (regularizer=none epochs=6) for sam, two_view, gvr."],
        ),
        (
            ["two_view", "gvr"],
            ["No plain training (regularizer=none) beside two_view, gvr: what their views are worth is not seen."],
        ),
        (["agr", "sam"], ["No control (regularizer=none) for agr, sam: compared with agr."]),
        (
            ["none", "three_view"],
            ["No plain training at equal cost (regularizer=none epochs=9) for three_view."],
        ),
    ],
)
def test_a_control_that_is_missing_is_said_with_what_makes_it(
    methods: list[str], expected: list[str], tmp_path: Path
) -> None:
    assert setting_of(tmp_path, *methods).missing == expected


# ---- tables


def test_figures_that_are_equal_in_every_seed_are_called_so(tmp_path: Path) -> None:
    for seed in (0, 1):
        run_of(tmp_path, "none", seed, 0.25 + seed / 4)
        run_of(tmp_path, "agr", seed, 0.25 + seed / 4)
        run_of(tmp_path, "sam", seed, 0.5 - seed / 4)  # the mean of the differences is zero, too
    setting = setting_of(tmp_path)
    table = result_table(compared_groups(setting, Metric("test/acc")), Metric("test/acc"))
    agr, sam = ([cell.text for cell in row[4:]] for row in table.rows[1:])
    assert agr == ["identical in every seed", DASH, DASH, "2", "none"]
    assert sam[0] == "+0.00" and sam[2] == "1.00"


def test_gradient_evaluations_stand_beside_images(tmp_path: Path) -> None:
    compared = compared_groups(setting_of(tmp_path, "none", "sam", "two_view"), Metric("test/acc"))
    table = cost_table(compared)
    assert table.columns[3:7] == ["images seen", "ratio", "gradient evaluations", "ratio"] and not table.notes
    assert [[cell.text for cell in row[3:7]] for row in table.rows] == [
        ["300", "1.00x", "300", "1.00x"],
        ["600", "2.00x", "600", "2.00x"],
        ["300", "1.00x", "600", "2.00x"],
    ]


def test_top_5_accuracy_is_shown_above_five_classes_alone(tmp_path: Path) -> None:
    for number, shown in ((5, False), (6, True)):
        told = {"classes": list(map(str, range(number)))}
        fake_run(tmp_path / str(number), metrics={"test/acc": 0.5, "test/top5": 1.0}, summary=told)
        found = [metric.name for metric in further_metrics(find_runs([tmp_path / str(number)]))]
        assert ("test/top5" in found) == shown and "test/acc" in found
    fake_run(tmp_path / "unknown", metrics={"test/top5": 1.0})
    assert [metric.name for metric in further_metrics(find_runs([tmp_path / "unknown"]))] == ["test/top5"]


# ---- the test set's own sampling error


def test_the_sampling_error_is_the_binomial_s() -> None:
    assert sampling_error(0.9, 100) == pytest.approx(0.03)  # sqrt(0.9 * 0.1 / 100)
    assert sampling_error(0.3, 50) == pytest.approx(scipy.stats.binom(50, 0.3).std() / 50)
    assert sampling_error(1.0, 10) == 0 and sampling_error(0.5, None) is None and sampling_error(1.5, 10) is None


def test_the_sampling_error_is_told_below_accuracies_and_its_absence_too(tmp_path: Path) -> None:
    run_of(tmp_path, "none", 0, 0.9)
    run_of(tmp_path, "gvr", 0, 0.8)
    setting = setting_of(tmp_path)
    told = sampling_note(setting.groups, Metric("test/acc"))
    assert "with N = 400 images: 1.50 to 2.00 points." in told  # sqrt(.09 / 400), sqrt(.16 / 400)
    assert result_table(compared_groups(setting, Metric("test/acc")), Metric("test/acc")).notes == [told]
    assert sampling_note(setting.groups, Metric("test/loss")) == ""
    for size in ({}, {"data_size": {"test": 300}}, {"data_size": {"test": ["many"]}}):
        run_of(tmp_path, "agr", 0, 0.9, summary={"data_size": None, **size})
        found = sampling_note(setting_of(tmp_path).groups, Metric("test/acc"))
        assert found.startswith("The test set's own sampling error is not shown: not all of these runs recorded")


# ---- the terminal and the sheets


def test_the_terminal_shows_the_table_before_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, (none, two, gvr) in enumerate([(0.5, 0.75, 0.875), (0.625, 0.75, 0.90), (0.5, 0.75, 0.885)]):
        for method, accuracy in (("none", none), ("two_view", two), ("gvr", gvr)):
            run_of(tmp_path, method, seed, accuracy)
    main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    first = lines.index("No plain training at equal cost (regularizer=none epochs=6) for two_view, gvr.")
    assert lines[first + 1 : first + 13] == [
        "Result: test accuracy (%)",
        "method       mean ± sd        interval  n  difference          interval  compared with",
        f"none      54.17 ± 7.22  [36.24, 72.09]  3           {DASH}                 {DASH}  baseline",
        "two_view  75.00 ± 0.00  [75.00, 75.00]  3    +20.83 *   [+2.91, +38.76]  none",
        "gvr       88.67 ± 1.26  [85.54, 91.79]  3    +13.67 *  [+10.54, +16.79]  two_view",
        "* its interval excludes zero",
        "",
        "Against plain training: test accuracy (%)",
        "configuration  difference      95% interval      p  pairs  compared with  equal in  images",
        "gvr              +34.50 *  [+19.39, +49.61]  0.010      3           none   updates  2.00x",
        "* its interval excludes zero",
        lines[first + 12],
    ]
    assert lines[first + 12].startswith("The test set's own sampling error") and lines[first + 13] == ""
    assert lines[-1] == str(tmp_path / "report" / "report.html") and len(lines) == first + 15
    with (tmp_path / "report" / "table.csv").open(newline="") as file:
        gvr = list(csv.DictReader(file))[2]
    assert (gvr["baseline"], gvr["plain"], gvr["plain_equal"], gvr["plain_pairs"]) == ("two_view", "none", "steps", "3")
    assert float(gvr["plain_difference_mean"]) == pytest.approx(0.345)
    assert (gvr["test_images"], gvr["gradient_evaluations"]) == ("400", "600.0")
    assert float(gvr["sampling_error"]) == pytest.approx(math.sqrt(0.8866667 * 0.1133333 / 400), rel=1e-4)
    page, text = ((tmp_path / "report" / f"report.{end}").read_text() for end in ("html", "md"))
    assert f'<p class="missing">{lines[first]}</p>' in page and page.count('<tr class="family">') == 2
    assert lines[first + 12] in page.replace("&#39;", "'") and "regularizer=none epochs=6" in text.replace("\\", "")


def test_a_terminal_without_the_signs_gets_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of(tmp_path, "none", 0, 0.5)
    run_of(tmp_path, "none", 1, 0.5)
    run_of(tmp_path, "none", 0, 0.5, overrides=("name=ö",), lr=0.5)
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", out)
    main([str(tmp_path)])
    out.flush()
    assert b"50.00 +- 0.00" in out.buffer.getvalue()  # type: ignore[attr-defined]


# ---- curves


def group(label: str, runs: list[list[tuple[float, float]]]) -> Group:
    rows = [[{"train/seconds": x, "val/acc": y} for x, y in points] for points in runs]
    return Group(label, {}, {i: Run(Path(), str(i), "finished", rows=some) for i, some in enumerate(rows)})


def drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curves: list[Band]) -> tuple[Drawing, str]:
    from matplotlib import pyplot

    kept: list[Drawing] = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    figure = draw_bands(
        curves, "train/seconds", Metric("val/acc"), looks([c.label for c in curves]), tmp_path / "a.png"
    )
    monkeypatch.undo()
    pyplot.close(kept[0])
    return kept[0], figure.caption


def test_few_seeds_have_lines_of_their_own_and_many_a_band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [[(1, 0.1), (2, 0.3)], [(1, 0.2), (2, 0.4)], [(1, 0.6), (2, 0.5)]]
    drawn, caption = drawing(tmp_path, monkeypatch, bands([group("a", few)], "train/seconds", "val/acc"))
    (axes,) = drawn.axes
    assert [list(line.get_ydata()) for line in axes.lines] == [
        pytest.approx(y)
        for y in ([10, 30], [20, 40], [60, 50], [30, 40])  # three seeds and their mean
    ]
    assert not axes.collections and axes.get_ylim() == pytest.approx((10 - 2.5, 60 + 2.5))  # of what is drawn
    assert caption == "Validation accuracy over seconds of training: mean over the seeds, thin: each seed."
    drawn, caption = drawing(tmp_path, monkeypatch, bands([group("a", few * 2)], "train/seconds", "val/acc"))
    (axes,) = drawn.axes
    low, high = scipy.stats.t.interval(0.95, 5, 30, scipy.stats.sem([10, 20, 60] * 2))
    assert len(axes.lines) == len(axes.collections) == 1 and caption.endswith("band: its 95% interval.")
    edge = 0.05 * (high - low)
    assert axes.get_ylim() == pytest.approx((low - edge, high + edge))


def test_marks_stand_where_every_run_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = [[(1, 0.1), (2, 0.3), (4, 0.3)], [(1, 0.2), (3, 0.4), (4, 0.3)]]
    apart = [[(1, 0.1), (3, 0.3)], [(2, 0.2), (4, 0.4)]]
    curves = bands([group("a", together), group("b", apart)], "train/seconds", "val/acc")
    assert [list(band.measured) for band in curves] == [[True, False, False, True], [False, False]]
    drawn, _ = drawing(tmp_path, monkeypatch, curves)
    lines = {line.get_label(): line for line in drawn.axes[0].lines}
    assert lines["a"].get_markevery() == [0, 3] and lines["a"].get_marker() == "o"
    assert lines["b"].get_marker() == "None"


def test_a_start_that_leaves_the_frame_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    band = Band("a", np.arange(20.0), np.array([0.1, 0.2, *[0.9] * 17, 0.95]))
    drawn, caption = drawing(tmp_path, monkeypatch, [band])
    assert drawn.axes[0].get_ylim() == pytest.approx((90 - 0.25, 95 + 0.25))
    assert caption.endswith("The start lies outside the frame.")


def test_differences_to_several_controls_name_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import pyplot

    setting = setting_of(tmp_path, "none", "two_view", "gvr")
    kept: list[Drawing] = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    labels = [one.label for one in setting.groups]
    compared = compared_groups(setting, Metric("test/acc"))
    figure = draw_differences(compared, Metric("test/acc"), looks(labels), tmp_path / "a.png")
    monkeypatch.undo()
    pyplot.close(kept[0])
    names = [text.get_text() for text in kept[0].axes[0].get_yticklabels()]
    assert names == ["two_view\nless none", "gvr\nless two_view"]
    assert figure is not None and figure.caption.startswith("Difference to what it is compared with in test accuracy")
