"""Training that ends where validation gets no better: when, with which weights, and what a resume makes of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from equality import assert_equal_rows, in_process, rows
from pool import Pool
from runs import stop_after, tiny_run, weights
from test_task import task

from gvr_lightning.callbacks.early_stopping import EarlyStopping
from gvr_lightning.errors import Interrupted, UserError

NAN = float("nan")
BASE = ["epochs=6", "lr=0.5", "data.val_fraction=0.2", "trainer.log_every_n_steps=1"]
STOPS = [*BASE, "early_stopping.patience=2", "early_stopping.monitor=val/loss"]  # a large lr: the loss goes up and down

Finished = Callable[..., Path]


def stops_after(values: list[float], **options: Any) -> int | None:
    """The number of validations after which it stops, over which it is saved and restored each time."""
    saved: dict[str, Any] | None = None
    for n, value in enumerate(values, 1):
        ours = EarlyStopping("x", **options)
        if saved is not None:
            ours.load_state_dict(saved)
        decide = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
        trainer: Any = SimpleNamespace(
            callback_metrics={"x": torch.tensor(value)}, strategy=decide, current_epoch=n - 1, should_stop=False
        )
        ours.on_validation_end(trainer, None)  # type: ignore[arg-type]
        if trainer.should_stop:
            return n
        saved = ours.state_dict()
    return None


@pytest.mark.parametrize(
    ("values", "options", "after"),
    [
        ([1, 2, 3, 3, 3], {"mode": "max", "patience": 2}, 5),
        ([1, 2, 3, 3, 3], {"mode": "max", "patience": 1}, 4),
        ([1, 2, 3, 3, 3], {"mode": "max", "patience": 3}, None),
        ([1, 2, 3, 3, 3], {"mode": "max", "patience": None}, None),
        ([3, 2, 1, 2, 0.5, 3, 3, 3], {"mode": "min", "patience": 2}, 7),
        ([3, 2, 1], {"mode": "max", "patience": 2}, 3),
        ([1, 1.5, 1.25, 2], {"mode": "max", "patience": 2, "min_delta": 0.5}, 3),
        ([1, 1.25, 1.75, 2], {"mode": "max", "patience": 2, "min_delta": 0.5}, None),  # 1.75 is more than 0.5 above 1
        ([-3, -5, -5], {"mode": "min", "patience": 1, "min_delta": 1}, 3),
        ([NAN, NAN, 1, 2], {"mode": "max", "patience": 2}, 2),
        ([NAN, 1, NAN, NAN], {"mode": "min", "patience": 2}, 4),
        ([NAN, 1, 0.5, NAN, 0.25], {"mode": "min", "patience": 2}, None),
    ],
)
def test_it_stops_after_so_many_validations_without_a_better_one(
    values: list[float], options: dict[str, Any], after: int | None
) -> None:
    assert stops_after(values, **options) == after


def stopping_epoch(losses: list[float], patience: int) -> int:
    """After how many epochs, by the definition: none of the last ones is below the best before them."""
    epochs = range(patience + 1, len(losses) + 1)
    return next(n for n in epochs if min(losses[n - patience : n]) >= min(losses[: n - patience]))


def epochs(folder: Path, name: str = "val/loss") -> list[float]:
    return [float(row[name]) for row in rows(folder) if row.get(name)]


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_a_run_that_stops_is_the_beginning_of_the_run_that_does_not(finished: Finished) -> None:
    whole, stopped = finished(*BASE), finished(*STOPS)
    expected = stopping_epoch(epochs(whole), 2)
    assert 2 < expected < 6, "the figures of this run do not stop it any more: choose another lr"
    assert epochs(stopped) == epochs(whole)[:expected] and epochs(stopped, "lr") == epochs(whole, "lr")[:expected]
    found = summary(stopped)
    assert found["status"] == "finished" and found["train"]["stopped_early"] is True
    assert found["train"]["epochs"] == expected and found["train"]["steps"] == expected * 3
    best = epochs(whole).index(min(epochs(whole)[:expected])) + 1
    assert f"in epoch {best}, and has not been better in 2 validations since" in found["train"]["reason"]
    assert "stopped_early" not in summary(whole)["train"]


def test_a_run_that_was_stopped_by_a_signal_stops_with_the_same_weights(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 10, 15)  # in the fourth epoch, after one validation that was no better
        with pytest.raises(Interrupted):
            tiny_run(tmp_path, *STOPS)
    found = tiny_run(tmp_path, *STOPS, f"resume={tmp_path}")
    theirs = weights(finished(*STOPS))
    assert all(torch.equal(value, theirs[name]) for name, value in weights(tmp_path).items())
    assert_equal_rows(finished(*STOPS), tmp_path, rounding=0)
    assert found["train"]["stopped_early"]


def test_a_run_that_has_stopped_says_so_and_goes_on_with_more_patience_as_if_planned_so(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished(*STOPS), tmp_path / "run"))
    before, at = weights(run), summary(run)["train"]["epochs"]
    capsys.readouterr()
    again = tiny_run(run, *STOPS, f"resume={run}")
    (said,) = (line for line in capsys.readouterr().err.splitlines() if "stopped early" in line)
    assert said.startswith(f"had stopped early after epoch {at} of 6: val/loss was best") and "patience=null" in said
    assert again["train"] == summary(finished(*STOPS))["train"]
    assert all(torch.equal(value, before[name]) for name, value in weights(run).items())
    tiny_run(run, *BASE, f"resume={run}")
    assert epochs(run) == epochs(finished(*BASE))
    assert all(torch.equal(value, weights(finished(*BASE))[name]) for name, value in weights(run).items())


def test_patience_that_is_set_on_a_resume_counts_from_the_beginning(finished: Finished, tmp_path: Path) -> None:
    slow = [*BASE, "scheduler=constant", "early_stopping.min_delta=9"]  # no loss is better than the first by 9
    run = Path(shutil.copytree(finished(*slow, "epochs=2"), tmp_path / "run"))
    more = [*slow, "early_stopping.patience=2", f"resume={run}"]
    tiny_run(run, *more, "early_stopping.monitor=val/loss")  # of which nothing is known
    assert summary(run)["train"]["epochs"] == 5
    run = Path(shutil.copytree(finished(*slow, "epochs=2"), tmp_path / "other"))
    assert tiny_run(run, *more[:-1], f"resume={run}")["train"]["epochs"] == 3


def test_several_processes_stop_after_the_same_epoch(two: Pool, finished: Finished, tmp_path: Path) -> None:
    exact = [*STOPS, "trainer.precision=64-true"]
    two(in_process, tmp_path, [*exact, "trainer.devices=2"])
    assert_equal_rows(finished(*exact), tmp_path)
    assert summary(tmp_path)["train"]["stopped_early"]
    assert summary(tmp_path)["train"]["epochs"] == summary(finished(*exact))["train"]["epochs"] < 6


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["early_stopping.monitor=val/los"], r"^early_stopping.monitor=val/los: .*did you mean val/loss\? \(there is"),
        (["early_stopping.monitor=train/loss"], r"^early_stopping.monitor=train/loss: validation does not give it"),
        (["early_stopping.patience=1", "data.val_fraction=0"], r"^early_stopping.patience=1: .* no images for it$"),
    ],
)
def test_what_validation_does_not_give_is_refused(overrides: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        tiny_run(tmp_path, *overrides)


def test_every_figure_of_validation_can_be_gone_by_and_knows_its_best(finished: Finished) -> None:
    modes = task().validated
    assert {name for row in rows(finished(*BASE)) for name in row if name.startswith("val/")} == modes.keys()
    assert [modes[f"val/{name}"] for name in ("acc", "top5", "loss", "ece")] == ["max", "max", "min", "min"]
