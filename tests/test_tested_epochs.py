"""test_every_n_epochs: the test accuracy after some epochs, of the weights of that epoch; nothing goes by it."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_runs import fake_run
from runs import tiny_run, weights

from gvr_lightning.report.curves import draw_logged_curves
from gvr_lightning.report.figures import looks
from gvr_lightning.report.groups import compare
from gvr_lightning.report.metrics import Metric
from gvr_lightning.report.published import Published
from gvr_lightning.report.runs import find_runs


def rows_of_tests(folder: Path) -> list[tuple[str, str, str]]:
    """Epoch, accuracy and loss of each row that has them."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["epoch"], row["test/acc"], row["test/loss"]) for row in rows if row.get("test/acc")]


@pytest.mark.parametrize("average", [[], ["task.ema_decay=0.5"]], ids=["weights", "average"])
def test_an_epoch_s_figures_are_those_of_a_test_after_it(
    average: list[str], finished: Callable[..., Path], tmp_path: Path
) -> None:
    """With a constant rate a run of one epoch ends where one of three has its first; and the test changes nothing."""
    settings = ["scheduler=constant", *average]
    three = tmp_path / "three"
    tiny_run(three, *settings, "epochs=3", "test_every_n_epochs=1")
    one, plain = finished(*settings, "epochs=1"), finished(*settings, "epochs=3")
    found, alone = rows_of_tests(three), rows_of_tests(one)
    assert [epoch for epoch, *_ in found] == ["0", "1", "2", ""]  # and the test itself, of no epoch
    assert [epoch for epoch, *_ in alone] == [""] and found[0][1:] != found[1][1:]
    for ours, theirs in ((found[0], alone[0]), (found[2], found[3]), (found[3], rows_of_tests(plain)[0])):
        assert [float(x) for x in ours[1:]] == pytest.approx([float(x) for x in theirs[1:]], rel=1e-5)
    here, there = (weights(folder) for folder in (three, plain))
    assert all(torch.equal(here[name], there[name]) for name in there)


def test_published_accuracies_stand_beside_those_of_the_test(tmp_path: Path) -> None:
    """And no longer beside those of validation."""
    for seed in (0, 1):
        rows = [{"epoch": e, "val/acc": 0.1 * e, "test/acc": 0.2 * e} for e in range(3)]
        fake_run(tmp_path / "runs" / str(seed), seed=seed, rows=rows)
    (comparison,) = compare(find_runs([tmp_path / "runs"]), None)
    groups, published = comparison.settings[0].groups, [Published("Paper", "test/acc", (1, 2), (0.1, 0.2))]
    styles = looks([group.label for group in groups])
    figures = draw_logged_curves("classification", Metric("test/acc"), groups, styles, published, tmp_path, "p")
    dashed = {figure.file.name: "Dashed" in figure.caption for figure in figures}
    assert dashed["p_test_acc_by_epoch.png"] and not dashed["p_val_acc_by_epoch.png"]
