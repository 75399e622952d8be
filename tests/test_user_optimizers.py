"""Optimizers and schedules of one's own that want more than ``step()``: a metric, or to be told of training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import assert_equal_rows, rows
from runs import stop_after, tiny_run, weights
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from gvr_lightning.errors import Interrupted, UserError
from gvr_lightning.optim.schedules import Schedule

MODES: list[str] = []


def plateau(optimizer: Optimizer, steps: int, epochs: int, mode: str = "min", interval: str = "epoch") -> Schedule:
    """Halves the rate after every epoch that is not ten better than the best."""
    direction: Any = mode
    follows: Any = ReduceLROnPlateau(optimizer, direction, 0.5, patience=0, threshold=10.0, threshold_mode="abs")
    return Schedule(follows, interval)


class Apart(SGD):
    """Trains weights that lie apart from those to use, by half of the last step."""

    def train(self) -> None:
        self._move("train", 1.0)

    def eval(self) -> None:
        self._move("eval", -1.0)

    @torch.no_grad()
    def _move(self, mode: str, sign: float) -> None:
        MODES.append(mode)
        for group in self.param_groups:
            if group.get("training", False) != (mode == "train"):
                group["training"] = mode == "train"
                for p in group["params"]:
                    p.add_(torch.full_like(p, 0.125), alpha=sign)


APART = ["optimizer._target_=test_user_optimizers.Apart", "scheduler=constant"]
PLATEAU = ["scheduler=constant", "scheduler._target_=test_user_optimizers.plateau"]


def rates(folder: Path) -> list[float]:
    return [float(row["lr"]) for row in rows(folder) if row["lr"]]


@pytest.mark.parametrize("further", [[], ["+scheduler.mode=max"], ["data.val_fraction=0"]])
def test_a_schedule_follows_a_metric(further: list[str], finished: Callable[..., Path]) -> None:
    folder = finished(*PLATEAU, *further, "epochs=4")
    assert rates(folder) == [0.02, 0.02, 0.01, 0.005]  # the first epoch is the best so far


def test_a_schedule_that_has_no_metric_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="scheduler: mode=max by epoch has no metric to follow here"):
        tiny_run(tmp_path / "a", *PLATEAU, "+scheduler.mode=max", "data.val_fraction=0")
    with pytest.raises(UserError, match="has no metric to follow here; use mode=min, by epoch"):
        tiny_run(tmp_path / "b", *PLATEAU, "+scheduler.interval=step")


def test_a_schedule_that_follows_a_metric_goes_on_and_takes_another_rate(tmp_path: Path) -> None:
    for name in ("whole", "parts", "other"):
        tiny_run(tmp_path / name, *PLATEAU, f"epochs={4 if name == 'whole' else 2}")
    tiny_run(tmp_path / "parts", *PLATEAU, "epochs=4", f"resume={tmp_path / 'parts'}")
    assert_equal_rows(tmp_path / "whole", tmp_path / "parts", rounding=0)
    tiny_run(tmp_path / "other", *PLATEAU, "epochs=4", "lr=0.2", f"resume={tmp_path / 'other'}")
    assert rates(tmp_path / "other") == pytest.approx([0.02, 0.02, 0.1, 0.05])


def test_what_is_kept_and_validated_are_the_weights_to_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MODES.clear()
    tiny_run(tmp_path / "apart", *APART, "lr=1e-12", "epochs=1")
    tiny_run(tmp_path / "plain", "scheduler=constant", "lr=1e-12", "epochs=1")
    found, plain = weights(tmp_path / "apart"), weights(tmp_path / "plain")
    for name in ("model.head.weight", "model.head.bias"):
        torch.testing.assert_close(found[name], plain[name], rtol=0, atol=1e-5)
    assert MODES[0] == "train" and MODES[-1] == "eval" and {"train", "eval"} == set(MODES)
    validated, trained = (
        [[float(row[key]) for row in rows(tmp_path / name) if row[key]] for name in ("apart", "plain")]
        for key in ("val/loss", "train/loss")
    )
    assert validated[0] == pytest.approx(validated[1], rel=1e-5)
    assert trained[0] != pytest.approx(trained[1], rel=1e-3)


@pytest.mark.parametrize("wrap", ["none", "agr"])
def test_such_a_run_goes_on_as_if_it_had_not_been_stopped(
    wrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: list[Any] = [*APART, f"regularizer={wrap}"]
    tiny_run(tmp_path / "whole", *settings, "checkpoint.every_n_steps=4")
    with monkeypatch.context() as patch:
        stop_after(patch, 4, 15)
        with pytest.raises(Interrupted):
            tiny_run(tmp_path / "cut", *settings)
    tiny_run(tmp_path / "cut", *settings, f"resume={tmp_path / 'cut'}")
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_what_is_no_optimizer_or_schedule_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer: gives a .*, not a torch.optim.Optimizer"):
        tiny_run(tmp_path / "a", "optimizer._target_=test_user_optimizers.nothing", "epochs=1")
    with pytest.raises(UserError, match=r"optimizer: ZeroDivisionError: division by zero"):
        tiny_run(tmp_path / "c", "optimizer._target_=test_user_optimizers.failing", "epochs=1")
    with pytest.raises(UserError, match="scheduler: gives a LambdaLR, not Schedule"):
        tiny_run(tmp_path / "b", "scheduler=constant", "scheduler._target_=test_user_optimizers.bare", "epochs=1")


def nothing(params: Any, **settings: Any) -> Any:
    """No optimizer."""
    return {}


def failing(params: Any, **settings: Any) -> Any:
    """None either."""
    return 1 / 0


def bare(optimizer: Optimizer, steps: int, epochs: int) -> Any:
    """A scheduler alone."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
