"""The views' losses, added up or averaged: what is minimised, for every method, and what a run makes of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fake_runs import fake_run
from runs import weights
from test_precision import PENALTIES, batch, network, views_of

from gvr_lightning.config.moved import current
from gvr_lightning.methods.label_smoothing import LabelSmoothing
from gvr_lightning.report.groups import compare
from gvr_lightning.report.runs import find_runs


@pytest.mark.parametrize("name", PENALTIES)
def test_of_every_method_the_losses_are_averaged(name: str) -> None:
    model, (x, y, keys) = network(), batch(max(2, views_of(name)) if name != "split" else 1)
    penalty = PENALTIES[name]()
    added = penalty(model, F.cross_entropy, x, y, keys)
    penalty.views_loss = "mean"
    averaged = penalty(model, F.cross_entropy, x, y, keys)
    losses = sum(loss.item() for loss in added.losses)
    assert added.total.item() == pytest.approx(losses + added.weighted.item(), rel=1e-6)
    number = len(added.losses)
    of_penalty = added.weighted.item() / (number if name == "label_smoothing" else 1)  # a part of the loss itself
    assert averaged.total.item() == pytest.approx(losses / number + of_penalty, rel=1e-6) and number > 1


def test_smoothed_losses_are_averaged_too() -> None:
    model, (x, y, _) = network().double(), batch(2)
    penalty, x = LabelSmoothing(0.2), [v.double() for v in x]
    penalty.views_loss = "mean"
    theirs = sum(F.cross_entropy(model(v), y, label_smoothing=0.2) for v in x) / 2
    assert penalty(model, F.cross_entropy, x, y).total.item() == pytest.approx(theirs.item(), rel=1e-12)


def test_a_run_is_that_of_twice_the_loss_at_half_the_rate(finished: Callable[..., Path]) -> None:
    """SGD's update lr (g + wd w) is that of lr / 2 and 2 g, 2 wd; the gradient of 2 L is 2 g."""
    exact = ["regularizer=gvr", "trainer.precision=64-true"]
    one = weights(finished(*exact, "task.views_loss=mean", "lr=0.04", "alpha=0.5", "optimizer.weight_decay=0.01"))
    other = weights(finished(*exact, "lr=0.02", "alpha=1", "optimizer.weight_decay=0.02"))
    assert all(torch.allclose(one[name], other[name], rtol=1e-9, atol=1e-12) for name in one)


def test_an_earlier_run_added_them_and_a_report_keeps_both_apart(tmp_path: Path) -> None:
    for task in ("classification.ClassificationTask", "diffusion.DiffusionTask"):
        assert current({"_target_": f"gvr_lightning.tasks.{task}"})["views_loss"] == "sum"
    key, task = "task.views_loss", {"task._target_": "gvr_lightning.tasks.classification.ClassificationTask"}
    for name, how in (("earlier", {}), ("added", {key: "sum"}), ("averaged", {key: "mean"})):
        fake_run(tmp_path / name, "two_view", int(name == "added"), {"test/acc": 0.5}, keys=task | how)
    (comparison,) = compare(find_runs([tmp_path]), None)
    assert [(s.label, len(s.runs)) for s in comparison.settings] == [(f"{key}=mean", 1), (f"{key}=sum", 2)]
