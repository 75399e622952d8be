"""A penalty that acts in a part of the updates: its weight in every one, and what is recorded of it."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import weights

from gvr_lightning.tasks.strength import AlphaSchedule

GVR = ["regularizer=gvr", "trainer.log_every_n_steps=1", "epochs=2", "scheduler=constant"]  # six updates
Finished = Callable[..., Path]


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (AlphaSchedule(), [1] * 10),
        (AlphaSchedule(start=0.3), [0] * 3 + [1] * 7),
        (AlphaSchedule(until=0.7), [1] * 7 + [0] * 3),
        (AlphaSchedule(ramp=0.4), [0, 0.25, 0.5, 0.75, *[1] * 6]),
        (AlphaSchedule(start=0.2, ramp=0.5, until=0.9), [0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 0]),
        (AlphaSchedule(start=0.8, ramp=0.2), [0] * 9 + [0.5]),
    ],
)
def test_the_factor_of_every_update(schedule: AlphaSchedule, factors: list[float]) -> None:
    assert [schedule.factor(update, 10) for update in range(10)] == pytest.approx(factors)


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0), (0.5, 0.4, 0), (-0.1, 1, 0), (0, 1.1, 0), (0.5, 1, 0.6), (0, 1, -1)])
def test_shares_in_which_alpha_is_never_reached_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"needs 0 <= start < until <= 1 and 0 <= ramp"):
        AlphaSchedule(*shares)


def column(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_what_was_used_is_recorded_by_update_and_by_epoch(finished: Finished) -> None:
    """Batches of 32, 32 and 16 images, the ramp over half of six updates."""
    folder = finished(*GVR, "alpha=0.6", "regularizer.alpha_ramp=0.5", "regularizer.alpha_until=0.8")
    assert column(folder, "step/alpha") == pytest.approx([0, 0.2, 0.4, 0.6, 0.6, 0])
    sizes = [32, 32, 16]
    of_first, of_second = [0 * 32 + 0.2 * 32 + 0.4 * 16, 0.6 * 32 + 0.6 * 32 + 0 * 16]
    assert column(folder, "train/alpha") == pytest.approx([of_first / sum(sizes), of_second / sum(sizes)])


def test_a_schedule_of_no_effect_is_the_run_without_one_and_only_a_schedule_is_recorded(finished: Finished) -> None:
    plain, idle = finished(*GVR), finished(*GVR, "regularizer.alpha_from=0", "regularizer.alpha_until=1")
    assert not column(plain, "train/alpha") and column(idle, "train/alpha") == pytest.approx([0.01, 0.01])
    one, other = weights(plain), weights(idle)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_while_alpha_is_zero_it_is_the_run_without_a_penalty(finished: Finished) -> None:
    """The first epoch's validation loss, which is after three updates of six; the last one is another."""
    control = finished("regularizer=two_view", *GVR[1:])
    late = finished(*GVR, "alpha=5", "regularizer.alpha_from=0.5")
    one, other = (column(folder, "val/loss") for folder in (control, late))
    assert one[0] == other[0] and one[1] != other[1]
