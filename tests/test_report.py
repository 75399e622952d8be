"""gvr-report: statistics against other formulas, everything that is found accounted for, a page that stands alone."""

import csv
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from fake_runs import SYMMETRIC, fake_run, unfinished_run
from PIL import Image

from gvr_lightning.app.command import command
from gvr_lightning.errors import UserError
from gvr_lightning.report.bands import bands
from gvr_lightning.report.cli import main
from gvr_lightning.report.controls import set_baselines
from gvr_lightning.report.groups import Group, compare
from gvr_lightning.report.metrics import Metric, number, p_value
from gvr_lightning.report.provenance import commands
from gvr_lightning.report.published import not_drawn, read_published
from gvr_lightning.report.runs import find_runs
from gvr_lightning.report.settings import read_report_line
from gvr_lightning.report.sheets import group_record
from gvr_lightning.report.statistics import Paired, Sample, paired, sample
from gvr_lightning.report.tables import compared_groups

ROOT = Path(__file__).parents[1]
PUBLISHED_ACCURACY = "method,epoch,train_acc,test_acc\ngvr,0,5,10.5\ngvr,1,6,20.25\nsgd,0,5,11\n"
PUBLISHED_SCORES = "IS(std),epoch_10,epoch_400\nAdam,3.76(0.04),7.73(0.13)\nAdan(AGR),4.38(0.05),\n"

Records = list[dict[str, str]]


def report(folder: Path, *arguments: str) -> tuple[str, Records, Records]:
    """The page, table.csv and runs.csv of a folder of runs."""
    main([str(folder), *arguments])
    out = folder / "report"
    return (out / "report.html").read_text(), sheet(out / "table.csv"), sheet(out / "runs.csv")


def sheet(path: Path) -> Records:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def grouped(folder: Path, baseline: str | None = None) -> list[dict[str, Any]]:
    """What table.csv would hold, without drawing anything; means and differences are numbers here."""
    comparisons = compare(find_runs([folder]), None)
    set_baselines(comparisons, baseline)
    return [
        group_record(comparison, setting.label, row)
        for comparison in comparisons
        for setting in comparison.settings
        for row in compared_groups(setting, comparison.metric)
    ]


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a mistake gets; its exit status is checked here."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def methods(folder: Path, accuracies: dict[str, list[float]], **options: Any) -> None:
    """Finished runs: one a method and accuracy, with the seeds 0, 1, ..."""
    for method, values in accuracies.items():
        for seed, value in enumerate(values):
            fake_run(folder / f"{method}_{seed}", method, seed, {"test/acc": value, "test/loss": 1 - value}, **options)


# ---- statistics


@pytest.mark.parametrize("values", [[0.5, 0.75], [1.0, 2.0, 4.0], [93.1, 92.7, 94.0, 93.3, 92.2]])
def test_mean_and_interval_are_scipy_s(values: list[float]) -> None:
    found = sample(values)
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, scipy.stats.tmean(values), scipy.stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.sd == pytest.approx(scipy.stats.tstd(values), rel=1e-12)


def test_mean_and_interval_by_hand() -> None:
    # 2, 4, 9: mean 5, deviations -3, -1, 4, sum of squares 26, variance 13; t(0.975, 2) = 4.302652730 from a table
    found = sample([2.0, 4.0, 9.0])
    half = 4.302652730 * math.sqrt(13 / 3)
    assert (found.n, found.mean, found.sd) == (3, 5.0, pytest.approx(math.sqrt(13)))
    assert (found.low, found.high) == pytest.approx((5 - half, 5 + half), rel=1e-9)


def test_paired_difference_is_scipy_s() -> None:
    ours, base = [0.91, 0.935, 0.92, 0.95], [0.90, 0.91, 0.925, 0.93]
    found, other = paired(dict(enumerate(ours)), dict(enumerate(base))), scipy.stats.ttest_rel(ours, base)
    assert found is not None and found.p == pytest.approx(other.pvalue, rel=1e-10)
    assert (found.low, found.high) == pytest.approx(tuple(other.confidence_interval(0.95)), rel=1e-10)


def test_paired_difference_by_hand() -> None:
    # differences 1, 3: mean 2, sd sqrt(2), standard error 1, t = 2; with one degree of freedom t is Cauchy's
    found = paired({0: 5.0, 1: 8.0}, {0: 4.0, 1: 5.0})
    assert found is not None and found.mean == 2.0
    assert found.p == pytest.approx(1 - 2 / math.pi * math.atan(2))
    half = math.tan(math.pi * 0.475)  # its 97.5% quantile
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert not found.excludes_zero


def test_only_common_seeds_are_paired() -> None:
    found = paired({0: 1.0, 2: 5.0, 7: 6.0}, {2: 4.0, 7: 4.0, 9: 100.0})
    assert found is not None and found.seeds == (2, 7) and found.mean == 1.5
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_one_seed_has_no_spread_and_equal_differences_no_p() -> None:
    assert sample([0.5]) == Sample(1, 0.5)
    assert paired({3: 0.5}, {3: 0.25}) == Paired((3,), 0.25)
    assert paired({0: 1.0, 1: 2.0}, {0: 0.5, 1: 1.5}) == Paired((0, 1), 0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="needs a value"):
        sample([])


def test_numbers_as_they_are_written() -> None:
    accuracy, fid = Metric("test/acc"), Metric("fid")
    assert [accuracy.text(0.912345), accuracy.difference(-0.001), accuracy.text(None)] == ["91.23", "-0.10", "\u2013"]
    assert [fid.text(7.39339), fid.difference(0.25), fid.difference(-2.0)] == ["7.393", "+0.2500", "-2.000"]
    assert [number(1234.6), number(123456.0), number(0.00012)] == ["1235", "123,456", "0.0001200"]
    assert [p_value(p) for p in (None, 0.0004, 0.0123, 0.5)] == ["\u2013", "<0.001", "0.012", "0.50"]
    assert [Metric(m).direction for m in ("test/acc", "fid", "is/mean", "test/loss", "real/fid", "is/std")] == [
        *(1, -1, 1, -1, 0, 0)
    ]


# ---- groups


def test_every_run_that_is_no_result_is_listed_and_none_is_averaged(tmp_path: Path) -> None:
    methods(tmp_path, {"none": [0.5, 0.75]})
    fake_run(tmp_path / "crashed", seed=2, metrics={"test/acc": 0.0}, summary={"status": "failed", "error": "boom <b>"})
    fake_run(tmp_path / "stopped", seed=3, metrics={"test/acc": 0.0}, summary={"status": "interrupted"})
    unfinished_run(tmp_path / "killed")
    fake_run(tmp_path / "foreign", seed=4)
    (tmp_path / "foreign" / "summary.json").write_text('{"accuracy": 0.1}')
    fake_run(tmp_path / "corrupt", seed=5)
    (tmp_path / "corrupt" / "summary.json").write_text('{"status": "fin')
    fake_run(tmp_path / "table", seed=6)
    (tmp_path / "table" / "metrics.csv").write_text("step,val/acc\n1,oops\n")
    fake_run(tmp_path / "bare", seed=7)
    (tmp_path / "bare" / "config.yaml").unlink()
    (tmp_path / "bare" / ".hydra" / "config.yaml").unlink()
    fake_run(tmp_path / "other", seed=8)
    (tmp_path / "other" / "config.yaml").write_text("wandb_version: 1\n")
    fake_run(tmp_path / "no_metric", seed=9, metrics={"test/loss": 0.1})
    fake_run(tmp_path / "nan", seed=10, metrics={"test/acc": math.nan})
    fake_run(tmp_path / "resumed", seed=11)
    text = (tmp_path / "resumed" / "config.yaml").read_text()
    (tmp_path / "resumed" / "config.yaml").write_text(text.replace("epochs: 3", "epochs: 9"))
    page, table, runs = report(tmp_path)
    assert [(row["configuration"], row["n"], row["mean"]) for row in table] == [("none", "2", "0.625")]
    reasons = {row["folder"]: f"{row['status']}: {row['reason']}" for row in runs if row["averaged"] == "False"}
    expected = {
        "crashed": "failed: boom <b>",
        "stopped": "interrupted: stopped by a signal",
        "killed": "unfinished: no summary.json: it is running, or was killed",
        "foreign": "not read: summary.json is none of this project: it has no status",
        "corrupt": "not read: summary.json cannot be read",
        "table": "not read: metrics.csv cannot be read",
        "bare": "not read: config.yaml is missing",
        "other": "not read: config.yaml is none of this project",
        "no_metric": "finished: finished without test/acc",
        "nan": "finished: test/acc is nan",
        "resumed": "unfinished: config.yaml is newer than summary.json",
    }
    assert reasons.keys() == expected.keys() and len(runs) == 13
    assert all(reasons[name].startswith(text) for name, text in expected.items()), reasons
    assert all(f">{name}</th>" in page for name in expected) and "boom &lt;b&gt;" in page and "boom <b>" not in page
    assert "13 runs found, 2 averaged in 1 configuration. 11 are not averaged" in page


def test_alpha_splits_gvr_but_not_methods_without_a_penalty(tmp_path: Path) -> None:
    for alpha in (0.01, 0.1):
        for method in ("none", "two_view", "gvr", "agr"):
            seed = 0 if alpha == 0.01 else 1
            fake_run(tmp_path / f"{method}_{alpha}", method, seed, alpha=alpha)
            fake_run(tmp_path / f"{method}_{alpha}_more", method, seed + 2, alpha=alpha)
    found = {row["configuration"]: (row["n"], row["baseline"]) for row in grouped(tmp_path)}
    both = {"gvr, alpha=0.01": (2, "two_view"), "gvr, alpha=0.1": (2, "two_view")}
    assert found == {"none": (4, "none"), "two_view": (4, "none"), "agr": (4, "none"), **both}


def test_seeds_names_and_places_make_no_groups(tmp_path: Path) -> None:
    fake_run(tmp_path / "a", "none", 0)
    fake_run(tmp_path / "b", "none", 1, name="another", label_noise=None, resume="outputs/b")
    assert [(row["configuration"], row["n"]) for row in grouped(tmp_path)] == [("none", 2)]


def test_a_confounded_key_is_shown_beside_the_choice(tmp_path: Path) -> None:
    fake_run(tmp_path / "a", "none", epochs=30)
    fake_run(tmp_path / "b", "agr", epochs=40)
    assert [row["configuration"] for row in grouped(tmp_path)] == ["none, epochs=30", "agr, epochs=40"]


def test_options_explain_their_keys_and_overrides_stand_beside_them(tmp_path: Path) -> None:
    for name, penalty in (("plain", "NoPenalty"), ("own", "a.Own"), ("unseen", "b.Own")):
        folder = fake_run(tmp_path / name, "none")
        text = (folder / "config.yaml").read_text().replace("gvr_lightning.methods.penalty.NoPenalty", f"x.{penalty}")
        (folder / "config.yaml").write_text(text)
        told = json.loads((folder / "summary.json").read_text())
        del told["config_hash"]
        (folder / "summary.json").write_text(json.dumps(told))
    fake_run(tmp_path / "gvr", "gvr", overrides=("regularizer.penalty.layers=head",))
    fake_run(tmp_path / "agr", "agr")
    found = {row["configuration"] for row in grouped(tmp_path)}
    assert found == {
        *("none, penalty=x.NoPenalty", "none, penalty=x.a.Own", "none, penalty=x.b.Own"),
        *("gvr, penalty=gvr_lightning.methods.gvr.penalty.GradientVariance, layers=head",),
        *("agr, penalty=gvr_lightning.methods.penalty.NoPenalty",),
    }


def test_no_name_in_a_run_s_files_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, done = tmp_path / "code" / "sneaky", tmp_path / "done"
    package.mkdir(parents=True)
    for file in ("__init__.py", "part.py"):
        (package / file).write_text(f"open({str(done)!r}, 'w')")
    monkeypatch.syspath_prepend(str(package.parent))
    for name, target in (("a", "sneaky.Own"), ("b", "sneaky.part.Own"), ("c", "no.such.Own"), ("d", "sneaky")):
        config = fake_run(tmp_path / "runs" / name, "none") / "config.yaml"
        config.write_text(config.read_text().replace("gvr_lightning.methods.penalty.NoPenalty", target))
        summary = config.with_name("summary.json")
        summary.write_text(summary.read_text().replace("config_hash", "no_hash"))
    assert len(grouped(tmp_path / "runs")) == 4
    assert not done.exists() and "sneaky" not in sys.modules


def test_without_hydra_s_record_the_keys_are_the_labels(tmp_path: Path) -> None:
    methods(tmp_path, {"none": [0.5], "two_view": [0.5], "gvr": [0.5], "agr": [0.5]}, hydra=False)
    table = grouped(tmp_path)
    labels = [row["configuration"] for row in table]
    assert len(set(labels)) == 4 and labels[0] == table[1]["baseline"] and "penalty=NoPenalty" in labels[0]
    assert any("penalty=GradientVariance" in label for label in labels) and any("wrap=AGR" in x for x in labels)


def test_each_setting_has_its_own_baseline_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    means = {"clean": {"none": 0.9, "gvr": 0.92}, "noisy": {"none": 0.5, "gvr": 0.6}}
    for setting, noise in (("clean", None), ("noisy", SYMMETRIC)):
        for method, mean in means[setting].items():
            for seed in (0, 1):
                folder = tmp_path / setting / f"{method}{seed}"
                fake_run(folder, method, seed, {"test/acc": mean + 0.01 * seed}, label_noise=noise)
    page, table, _ = report(tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "8 runs found, 8 averaged in 4 configurations and 2 settings."
    opening = printed[: printed.index("")]
    assert [line.partition("%")[0] for line in opening[1:]] == [
        "label_noise=none: Best test accuracy: 92.50",
        "label_noise=symmetric: Best test accuracy: 60.50",
    ]
    assert all(f'<p class="lead">{line}</p>' in page for line in opening)
    found = {(row["setting"], row["configuration"]): row["difference_mean"] for row in table}
    assert found.keys() == {(f"label_noise={n}", m) for n in ("none", "symmetric") for m in ("none", "gvr")}
    assert float(found["label_noise=none", "gvr"]) == pytest.approx(0.02)
    assert float(found["label_noise=symmetric", "gvr"]) == pytest.approx(0.1)
    assert page.count("<h3>label_noise=") == 2
    assert {p.name for p in (tmp_path / "report").glob("*_final.png")} == {
        *("classification-1_final.png", "classification-2_final.png")
    }


def test_a_method_is_compared_with_the_baseline_most_like_it(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        for method in ("none", "agr"):
            fake_run(tmp_path / f"{method}{lr}", method, 0, {"test/acc": lr}, lr=lr, overrides=())
    pairs = {row["configuration"]: row["baseline"] for row in grouped(tmp_path)}
    assert pairs == {f"{method}, lr={lr}": f"none, lr={lr}" for lr in (0.1, 0.2) for method in ("none", "agr")}
    assert {row["baseline"] for row in grouped(tmp_path, "agr, lr=0.2")} == {"agr, lr=0.2"}


def test_a_setting_without_the_wanted_baseline_has_no_differences(tmp_path: Path) -> None:
    fake_run(tmp_path / "a", "none")
    fake_run(tmp_path / "b", "two_view")
    fake_run(tmp_path / "c", "none", label_noise=SYMMETRIC)
    fake_run(tmp_path / "d", "gvr", label_noise=SYMMETRIC)
    found = {(row["setting"], row["configuration"]): row["baseline"] for row in grouped(tmp_path, "two_view")}
    clean, noisy = "label_noise=none", "label_noise=symmetric"
    both = dict.fromkeys([(clean, "none"), (clean, "two_view")], "two_view")
    assert found == {**both, (noisy, "none"): None, (noisy, "gvr"): None}


def test_a_duplicate_counts_once_the_last_finished(tmp_path: Path) -> None:
    fake_run(tmp_path / "b_first", metrics={"test/acc": 0.1}, written=1000)
    fake_run(tmp_path / "a_last", metrics={"test/acc": 0.7}, written=2000)
    fake_run(tmp_path / "c_middle", metrics={"test/acc": 0.2}, written=1500)
    _, table, runs = report(tmp_path)
    assert [(row["n"], row["mean"]) for row in table] == [("1", "0.7")]
    told = {row["folder"]: row["reason"] for row in runs}
    assert told["a_last"] == "" and "as c_middle, which finished later" in told["b_first"]
    assert "as a_last, which finished later" in told["c_middle"]


def test_different_seeds_are_paired_by_seed_and_said(tmp_path: Path) -> None:
    for seed, value in ((0, 0.5), (1, 0.6), (2, 0.7)):
        fake_run(tmp_path / f"none{seed}", "none", seed, {"test/acc": value})
    for seed, value in ((1, 0.65), (2, 0.77), (5, 0.1)):
        fake_run(tmp_path / f"gvr{seed}", "gvr", seed, {"test/acc": value})
    fake_run(tmp_path / "agr", "agr", 9)
    page, table, _ = report(tmp_path)
    gvr, agr = (next(row for row in table if row["configuration"] == name) for name in ("gvr", "agr"))
    assert float(gvr["difference_mean"]) == pytest.approx(0.06) and gvr["pairs"] == "2"
    assert agr["difference_mean"] == "" and "none: no common seeds" in page
    assert "Seeds differ between configurations" in page
    words = re.sub(r"base64,[^\"]*", "", page)  # the pictures' letters may spell anything
    assert agr["sd"] == agr["low"] == "" and not re.search(r"\bnan\b", words, re.IGNORECASE)


def test_what_differs_besides_the_configuration_is_warned_of(tmp_path: Path) -> None:
    fake_run(tmp_path / "a", "none")
    changed = {"versions": {"torch": "2.10.0"}, "world_size": 2, "git": {"commit": "f" * 40, "dirty": True}}
    fake_run(tmp_path / "b", "gvr", summary=changed)
    page, _, _ = report(tmp_path)
    for name in ("torch", "world_size", "git.commit"):
        assert f"{name} differs between runs that are compared" in page
    assert "1 of 2 classification runs: the code had changes" in page


def test_generation_is_compared_by_fid_beside_classification(tmp_path: Path) -> None:
    scores = {"fid": 8.0, "is/mean": 5.0, "test/loss": 0.2}
    rows = [{"epoch": i, "fid": 9.0 - i, "is/mean": 4.0 + i, "train/images": 10 * i} for i in range(3)]
    for method, fid in (("none", 8.0), ("agr", 7.0)):
        folder = fake_run(tmp_path / method, method, 0, {**scores, "fid": fid}, task="ddpm", rows=rows)
        (folder / "samples").mkdir()
        for name in ("epoch_0001", "final"):
            Image.new("L", (102, 102)).save(folder / "samples" / f"{name}.png")
    (folder / "samples" / "epoch_0001.png").write_bytes(b"broken")
    fake_run(tmp_path / "c", "none")
    page, table, _ = report(tmp_path)
    assert [(row["task"], row["metric"]) for row in table] == [("classification", "test/acc"), *[("ddpm", "fid")] * 2]
    assert "Best FID: 7.000 (one seed), by agr." in page  # the lower is the better
    names = {path.name for path in (tmp_path / "report").glob("ddpm_*.png")}
    curves = {"ddpm_fid_by_epoch.png", "ddpm_is_mean_by_epoch.png"}
    assert curves | {"ddpm_samples_1.png", "ddpm_samples_2.png", "ddpm_epochs_1.png"} <= names
    assert "ddpm_epochs_2.png" not in names


def test_curves_are_means_over_the_common_range(tmp_path: Path) -> None:
    rows = [[{"train/seconds": s, "val/acc": v} for s, v in points] for points in (
        [(0.0, 0.0), (2.0, 0.2), (4.0, 0.4)], [(1.0, 0.3), (3.0, 0.5)]
    )]  # fmt: skip
    folders = [fake_run(tmp_path / str(i), seed=i, rows=part) for i, part in enumerate(rows)]
    runs = {run.seed: run for run in find_runs(folders)}
    (band,) = bands([Group("none", {}, runs)], "train/seconds", "val/acc")
    assert list(band.x) == [1.0, 2.0, 3.0] and band.mean == pytest.approx([0.2, 0.3, 0.4])
    assert band.high is not None
    assert band.high[1] - 0.3 == pytest.approx(math.tan(math.pi * 0.475) * 0.2 / math.sqrt(2) / math.sqrt(2))


# ---- published figures


def test_both_formats_of_published_figures(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(PUBLISHED_ACCURACY)
    (tmp_path / "b.csv").write_text(PUBLISHED_SCORES)
    gvr, sgd, adam, agr = read_published([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert (gvr.label, gvr.metric, gvr.epochs, gvr.values) == ("gvr", "test/acc", (1, 2), (0.105, 0.2025))
    assert (sgd.epochs, adam.label, adam.metric) == ((1,), "Adam", "is/mean")
    assert (adam.epochs, adam.values, agr.values) == ((10, 400), (3.76, 7.73), (4.38,))


def test_every_published_column_is_its_own_metric(tmp_path: Path) -> None:
    """As the logs of GVR's code give them; what this project has no like of, such as train_acc, is left out."""
    heading = "method,epoch,train_loss,train_acc,test_loss,test_acc,gvr_penalty,step_seconds,lr_next"
    rows = ["gvr,0,8.25,7.5,3.5,10,1.5,0.07,0.05", "gvr,1,7.5,15,3.25,20,0.5,0.07,0.05", "sgd,0,4,8,3,12,,0.03,0.05"]
    (tmp_path / "a.csv").write_text("\n".join([heading, *rows, ""]))
    found = {
        (curve.label, curve.metric): (curve.epochs, curve.values) for curve in read_published([tmp_path / "a.csv"])
    }
    assert found == {
        ("gvr", "test/acc"): ((1, 2), (0.1, 0.2)),
        ("gvr", "test/loss"): ((1, 2), (3.5, 3.25)),
        ("gvr", "train/total"): ((1, 2), (8.25, 7.5)),
        ("gvr", "train/penalty"): ((1, 2), (1.5, 0.5)),
        ("sgd", "test/acc"): ((1,), (0.12,)),
        ("sgd", "test/loss"): ((1,), (3.0,)),
        ("sgd", "train/total"): ((1,), (4.0,)),
    }
    (tmp_path / "b.csv").write_text("method,epoch,penalty\ngvr,0,2.5\n")
    (curve,) = read_published([tmp_path / "b.csv"])
    assert (curve.metric, curve.values) == ("train/penalty", (2.5,))
    assert len(not_drawn(read_published([tmp_path / "a.csv"]), ["ddpm"])) == 2, "a line a method"


@pytest.mark.parametrize(
    ("name", "first", "metric"),
    [
        ("agr_ddpm_cifar10_is.csv", "optimizer", "is/mean"),
        ("fid.csv", "optimizer", "fid"),
        ("scores.csv", "FID", "fid"),
        ("scores.csv", "is/mean", "is/mean"),
        ("is.csv", "fid", "fid"),  # the heading counts more than the file's name
        ("fid:this.csv", "optimizer", "fid"),
        ("is:fid.csv", "fid", "is/mean"),  # and what is typed more than both
    ],
)
def test_a_table_of_scores_is_of_what_the_file_or_the_line_says(
    name: str, first: str, metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name.rpartition(":")[2]).write_text(f"{first},epoch_10,epoch_400\nAdan,169.32,14.60\n")
    (curve,) = read_published([Path(name)])
    assert (curve.metric, curve.values) == (metric, (169.32, 14.6))
    assert bool(not_drawn([curve], ["classification"])) and not not_drawn([curve], ["ddpm"])


@pytest.mark.parametrize("name", ["table.csv", "fid_and_is.csv", "what_this_is_about.csv"])
def test_scores_of_an_unknown_kind_are_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("optimizer,epoch_10\nAdam,3.76(0.04)\n")
    with pytest.raises(UserError, match=rf"^published=.*{name}: does not say whether .*published=fid:.*published=is:"):
        read_published([tmp_path / name])


def test_published_figures_of_another_task_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(PUBLISHED_ACCURACY)
    (tmp_path / "b.csv").write_text(PUBLISHED_SCORES)
    curves = read_published([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert not_drawn(curves, ["classification", "ddpm"]) == []
    assert [text.partition(":")[0] for text in not_drawn(curves, ["classification"])] == [
        *("Published, Adam", "Published, Adan(AGR)"),
    ]
    assert [text.partition(":")[0] for text in not_drawn(curves, ["ddpm"])] == ["Published, gvr", "Published, sgd"]


def test_published_figures_are_drawn_and_in_no_table(tmp_path: Path) -> None:
    methods(tmp_path, {"none": [0.5], "gvr": [0.6]})
    without, table, _ = report(tmp_path)
    (tmp_path / "p.csv").write_text(PUBLISHED_ACCURACY)
    (tmp_path / "q.csv").write_text(PUBLISHED_SCORES)
    page, again, _ = report(tmp_path, f"published={tmp_path / 'p.csv'}", f"published={tmp_path / 'q.csv'}")
    assert "Dashed: published, not measured here." in page and "Dashed" not in without and table == again
    assert "Published, Adam: not drawn, there is no run of task=ddpm" in page


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "method,epoch,test_acc\ngvr,x,3\n", "optimizer,epoch_10\nAdam,high\n", "\x00"]
)
def test_a_bad_published_file_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=r"published=.*p\.csv"):
        read_published([tmp_path / "p.csv"])


# ---- the page


class Balance(HTMLParser):
    """Whether every tag is closed, in order, and what the page would fetch."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()


def test_the_page_stands_alone_and_escapes_names(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    fake_run(tmp_path / "runs" / "a", "none", model={"_target_": "m", "name": bad})
    fake_run(tmp_path / "runs" / "b", "gvr", model={"_target_": "m", "name": bad})
    fake_run(tmp_path / "runs" / "c", "none", model={"_target_": "m", "name": "b|c"})
    fake_run(tmp_path / "runs" / "<img src=x>", summary={"status": "failed", "error": bad})
    page, _, _ = report(tmp_path / "runs", f"title={bad}")
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == [] and not {"script", "link", "iframe"} & parser.tags
    outside = [link for link in parser.links if not link.startswith("data:image/png;base64,")]
    assert set(outside) == {"report.md", "table.csv", "runs.csv"}
    assert "url(" not in page and "@import" not in page
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "<img src=x>" not in page
    written = (tmp_path / "runs" / "report" / "report.md").read_text()
    text = "".join(line for line in written.splitlines() if not line.startswith("    "))  # the rest is code
    assert "<script" not in text.replace("\\<", "") and "b\\|c" in text


class Cells(HTMLParser):
    """The text of every cell, with what stands before the first as its own."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("th", "td"):
            self.inside = True
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data


def test_markdown_page_and_csv_hold_the_same_numbers(tmp_path: Path) -> None:
    methods(tmp_path, {"none": [0.9, 0.91, 0.935], "gvr": [0.92, 0.94, 0.96]})
    fake_run(tmp_path / "nan", metrics={"test/acc": math.nan})
    page, table, runs = report(tmp_path, "title=a *b* title")
    written = (tmp_path / "report" / "report.md").read_text()
    parser = Cells()
    parser.feed(page)
    lines = [
        line[2:-2].replace("**", "").replace("\\", "").split(" | ") for line in written.splitlines() if line[:1] == "|"
    ]
    cells = [cell for line in lines for cell in line if line[0] != "---"]
    assert parser.cells == cells and len(lines) - lines.count(["---", "---"]) > 20
    bold = re.findall(r"<td><strong>(.*?)</strong></td>", page)
    assert bold == re.findall(r"\| \*\*(.*?)\*\*(?= \|)", written.replace("\\", "")) and len(bold) == 3
    named = re.findall(r'<span class="dot" style="background:(.*?)"></span>(.*?)</th>', page)
    assert named == [("#4d4d4d", "none"), ("#0072b2", "gvr")] * 3
    assert {line[0] + line[1] for line in lines if line[0] == "---"} == {"------:", "------"}
    again = f"gvr-report {tmp_path} 'title=a *b* title'"
    assert f"<pre>{again.replace(chr(39), '&#39;')}</pre>" in page and written.endswith(f"\n    {again}\n")
    assert "<title>a *b* title</title>" in page and written.startswith("# a \\*b\\* title\n")
    heading = "classification: test accuracy, 6 runs"
    assert f"<h2>{heading}</h2>" in page and f"\n## {heading}\n" in written
    common = "Common to all: data=digits, epochs=3, batch_size=128, lr=0.02"
    command = "python train.py -m regularizer=none,gvr seed=0,1,2"
    for text in ("7 runs found, 6 averaged in 2 configurations.", common, command, "Found, but not averaged"):
        assert text in page and text in written.replace("\\", ""), text
    assert not re.search("Before comparing|<h3>[^C]", page) and "Before comparing" not in written
    for row in table:
        mean, sd, low, high = (100 * float(row[name]) for name in ("mean", "sd", "low", "high"))
        for text in (f"{mean:.2f} ± {sd:.2f}", f"[{low:.2f}, {high:.2f}]"):
            assert text in page and text in written.replace("\\", ""), text
    gvr = table[1]
    values = [float(run["test/acc"]) for run in runs if run["configuration"] == "gvr"]
    assert float(gvr["mean"]) == pytest.approx(sum(values) / 3)
    low, high = (100 * float(gvr[f"difference_{name}"]) for name in ("low", "high"))
    assert f"[{low:+.2f}, {high:+.2f}]" in page and f"[{low:+.2f}, {high:+.2f}]" in written.replace("\\", "")
    assert f"<td>{float(gvr['p']):.3f}</td>" in page
    assert (gvr["images"], gvr["images_relative"], gvr["steps_relative"]) == ("600.0", "2.0", "1.0")
    for name in re.findall(r"\]\((\S+\.png)\)", written):
        assert (tmp_path / "report" / name).exists(), name
    assert len(re.findall(r"\]\((\S+\.png)\)", written)) == page.count("<img ") >= 6


def test_the_commands_that_made_the_runs_are_put_together(tmp_path: Path) -> None:
    methods(tmp_path, {"none": [0.5, 0.6], "gvr": [0.5, 0.6]}, epochs=5)
    grid = "python train.py -m regularizer=none,gvr seed=0,1 epochs=5"
    assert commands(find_runs([tmp_path])) in ([grid], [grid.replace("none,gvr", "gvr,none")])
    fake_run(tmp_path / "more", "agr", 7, epochs=5)
    single = [f"python train.py -m regularizer={method} seed=0,1 epochs=5" for method in ("gvr", "none")]
    assert sorted(commands(find_runs([tmp_path]))) == [*single, "python train.py regularizer=agr seed=7 epochs=5"]
    fake_run(tmp_path / "other", "none", 0, epochs=5, lr=0.1)
    assert "python train.py regularizer=none seed=0 epochs=5 lr=0.1" in commands(find_runs([tmp_path]))


def test_a_hundred_runs_stay_small(tmp_path: Path) -> None:
    for method in ("none", "gvr"):
        for lr in range(1, 11):
            for seed in range(5):
                fake_run(
                    tmp_path / f"{method}{lr}_{seed}", method, seed, {"test/acc": seed / 10 + 0.01 * lr}, lr=lr / 100
                )
    page, table, _ = report(tmp_path)
    assert len(table) == 20 and {row["n"] for row in table} == {"5"}
    assert len(page) < 3_000_000


# ---- the command line


def test_mistakes_are_one_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    methods(runs, {"none": [0.5], "gvr": [0.6]})
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    unfinished_run(tmp_path / "only" / "killed")
    assert "nowhere: there is no such folder" in complaint(capsys, str(tmp_path / "nowhere"))
    assert "file: is not a folder" in complaint(capsys, str(tmp_path / "file"))
    assert "no run in it" in complaint(capsys, str(tmp_path / "empty"))
    assert "no run to average: killed: unfinished" in complaint(capsys, str(tmp_path / "only"))
    for name in "abcd":
        fake_run(tmp_path / "without" / name, metrics={"own": math.nan, "other": 1.0}, task=name)
    told = complaint(capsys, str(tmp_path / "without"))
    assert "; b: finished: finished without test/acc; c: finished" in told and told.endswith("; and 1 more")
    three = [str(tmp_path / "without" / name) for name in "abc"]
    assert complaint(capsys, *three).endswith("c: finished: finished without test/acc")
    told = complaint(capsys, str(tmp_path / "without"), "metric=own")  # which they have, and it is no number
    assert "no run to average: a: finished: own is nan; b" in told
    assert "did you mean metric?" in complaint(capsys, str(runs), "metrc=test/acc")
    assert "metric=test/ac: no finished run has it; did you mean test/acc?" in complaint(
        capsys, str(runs), "metric=test/ac"
    )
    assert "did you mean gvr?" in complaint(capsys, str(runs), "baseline=gv")
    assert "published=nothing.csv: cannot be read" in complaint(capsys, str(runs), "published=nothing.csv")
    assert "--fast: there is no such flag" in complaint(capsys, str(runs), "--fast")
    assert "no folder is given" in complaint(capsys, "metric=fid")
    assert "out=: a value is missing" in complaint(capsys, str(runs), "out=")
    assert "cannot read or write" in complaint(capsys, str(runs), f"out={tmp_path / 'file'}")


def test_without_arguments_those_of_the_process_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gvr-report", "--fast"])
    with pytest.raises(SystemExit):
        main()
    assert "--fast: there is no such flag" in capsys.readouterr().err


def test_settings_that_are_not_given(tmp_path: Path) -> None:
    settings = read_report_line([str(tmp_path)])
    assert (settings.folders, settings.out) == ((tmp_path,), tmp_path / "report")
    assert (settings.metric, settings.baseline, settings.published, settings.title) == (None, None, (), "Comparison")


def test_a_setting_that_is_given_again_counts_last_and_published_files_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "runs").mkdir()
    arguments = ["~/runs", "metric=fid", "published=~/a.csv", "metric=own", "out=~/o", "published=b.csv", "out=~/p"]
    settings = read_report_line(arguments)
    assert (settings.folders, settings.out, settings.metric) == ((tmp_path / "runs",), tmp_path / "p", "own")
    assert settings.published == (tmp_path / "a.csv", Path("b.csv")) and settings.arguments == tuple(arguments)


def test_the_help_names_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"], ["nowhere", "--help"]):
        main(arguments)
        printed = capsys.readouterr().out
        assert printed.startswith("Compares the runs") and "\n  published=   a CSV" in printed
        for name, default in (("out", "DIR/report"), ("metric", "by task"), ("baseline", "control"), ("title", "Comp")):
            assert re.search(rf"\n  {name}= (.|\n {{15}})*\[{default}", printed)  # a row, with the lines it goes on in


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("a mistake"), 2, "error: a mistake\n"),
        (PermissionError("no right"), 2, "error: cannot read or write: no right\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_a_command_ends(error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work(arguments: list[str]) -> str:
        if arguments == ["well"]:
            return "done"
        raise error

    command(["well"], lambda: "help", work)
    assert capsys.readouterr() == ("done\n", "")
    with pytest.raises(SystemExit) as end:
        command(["badly"], lambda: "help", work)
    assert end.value.code == status and capsys.readouterr() == ("", said)
    with pytest.raises(ZeroDivisionError):  # a fault of the program's own is not called a mistake
        command(["own"], lambda: "help", lambda arguments: 1 / 0)


def test_settings(tmp_path: Path) -> None:
    odd = tmp_path / "a=b"
    odd.mkdir()
    settings = read_report_line([str(tmp_path), str(odd), "title=a, b = c", "baseline=lr=0.1"])
    assert settings.folders == (tmp_path, odd) and settings.out == tmp_path / "report"
    assert (settings.title, settings.baseline) == ("a, b = c", "lr=0.1")


def test_metric_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods(tmp_path / "runs", {"none": [0.5, 0.6], "gvr": [0.7, 0.7]})
    main([str(tmp_path / "runs"), "metric=test/loss", f"out={tmp_path / 'new' / 'out'}", "baseline=regularizer=gvr"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(tmp_path / "new" / "out" / "report.html") and Path(printed[-1]).exists()
    none, gvr = sorted(sheet(tmp_path / "new" / "out" / "table.csv"), key=lambda row: row["configuration"])[::-1]
    assert (none["metric"], none["baseline"]) == ("test/loss", "gvr")
    assert float(none["difference_mean"]) == pytest.approx(0.15) and gvr["difference_mean"] == ""
    assert not (tmp_path / "runs" / "report").exists()


def test_help_is_fast_and_nothing_loads_torch(tmp_path: Path) -> None:
    methods(tmp_path, {"none": [0.5], "gvr": [0.6]})
    code = (
        "import sys; from gvr_lightning.report.cli import main; main(['--help']); main([sys.argv[1]]);"
        "print(sorted({'torch', 'lightning', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: gvr-report" in done.stdout and done.stdout.splitlines()[-1] == "[]"


def test_real_runs_end_to_end(finished: Callable[..., Path], tmp_path: Path) -> None:
    folders = {
        (method, seed): finished(*option, *(["seed=1"] if seed else []))
        for method, option in (("none", []), ("gvr", ["regularizer=gvr"]))
        for seed in (0, 1)
    }
    main([*map(str, folders.values()), f"out={tmp_path}"])
    table, runs = sheet(tmp_path / "table.csv"), sheet(tmp_path / "runs.csv")
    summaries = [json.loads((folders["gvr", seed] / "summary.json").read_text()) for seed in (0, 1)]
    gvr = next(row for row in table if "GradientVariance" in row["configuration"])
    assert float(gvr["mean"]) == pytest.approx(sum(s["metrics"]["test/acc"] for s in summaries) / 2)
    assert float(gvr["seconds"]) == pytest.approx(sum(s["train"]["seconds"] for s in summaries) / 2)
    assert float(gvr["images"]) == summaries[0]["train"]["images"] and gvr["images_relative"] == "2.0"
    assert gvr["pairs"] == "2" and "NoPenalty" in gvr["baseline"] and all(run["averaged"] == "True" for run in runs)
    assert len(table) == 2 and len(runs) == 4
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert {"classification_val_acc_by_seconds.png", "classification_penalty_by_epoch.png"} <= pictures
