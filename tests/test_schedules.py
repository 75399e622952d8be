"""Schedules with a warm-up and milestones, against torch's, timm's and the published code's own, update by update."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, MultiStepLR

from gvr_lightning.optim.schedules import Schedule, multistep, updates, warmup

STEPS, EPOCHS, PER_EPOCH, LR = 60, 12, 5, 0.4


def optimizer() -> Optimizer:
    return SGD([nn.Parameter(torch.ones(1))], lr=LR)


def rates(schedule: Schedule, of: Optimizer) -> list[float]:
    """The learning rate of every update of a run."""
    assert schedule.interval == "step"
    found = []
    for _ in range(STEPS):
        found.append(of.param_groups[0]["lr"])
        of.step()
        schedule.scheduler.step()
    return found


def ours(make: Callable[..., Schedule], **settings: Any) -> list[float]:
    of = optimizer()
    return rates(make(of, steps=STEPS, epochs=EPOCHS, **settings), of)


def test_multistep_is_torch_s_by_the_epoch() -> None:
    of = optimizer()
    scheduler: LRScheduler = MultiStepLR(of, [3, 7, 11], 0.2)
    expected = []
    for _ in range(EPOCHS):
        expected += [of.param_groups[0]["lr"]] * PER_EPOCH
        of.step()
        scheduler.step()
    assert ours(multistep, milestones=[3, 7, 11], gamma=0.2) == pytest.approx(expected, rel=1e-12)


def test_a_milestone_within_an_epoch_is_exact_in_updates() -> None:
    found = ours(multistep, milestones=[1.4, 8], gamma=0.5)
    assert found == [LR] * 7 + [LR / 2] * 33 + [LR / 4] * 20


class Published(LRScheduler):
    """The published warm-up: base rate * m / total after m updates."""

    def get_lr(self) -> list[float]:
        return [base * self.last_epoch / (PER_EPOCH + 1e-8) for base in self.base_lrs]


def test_the_published_classification_schedule() -> None:
    """One epoch of warm-up by update; from epoch 2 on, counted from 1, MultiStepLR is set at an epoch's start."""
    of = optimizer()
    multi, warm = MultiStepLR(of, [4, 8], 0.2), Published(of)
    expected = []
    for epoch in range(1, EPOCHS + 1):
        if epoch > 1:
            for group, rate in zip(of.param_groups, _closed_form(multi, epoch), strict=True):
                group["lr"] = rate
        for _ in range(PER_EPOCH):
            expected.append(of.param_groups[0]["lr"])
            of.step()
            if epoch <= 1:
                warm.step()
    found = ours(multistep, milestones=[3, 7], gamma=0.2, warmup_epochs=1, warmup_start=0.0)
    assert found == pytest.approx(expected, rel=1e-8) and found[0] == 0


def _closed_form(multi: MultiStepLR, epoch: int) -> list[float]:
    """What ``multi.step(epoch)`` sets."""
    return [base * multi.gamma ** sum(epoch >= milestone for milestone in multi.milestones) for base in multi.base_lrs]


@pytest.mark.parametrize(
    "length",
    [
        {"warmup_steps": 10},
        {"warmup_steps": None, "warmup_epochs": 2},
        {"warmup_steps": None, "warmup_fraction": 1 / 6},
    ],
)
def test_a_warm_up_has_one_length_however_it_is_given(length: dict[str, Any]) -> None:
    of = optimizer()
    linear = Schedule(LinearLR(of, 0.3, total_iters=10), "step")
    assert ours(warmup, **length, warmup_start=0.3) == pytest.approx(rates(linear, of), rel=1e-9)
    assert ours(warmup, **length)[:11] == pytest.approx([LR * min(1, (t + 1) / 10) for t in range(11)])


@pytest.mark.parametrize("after", [True, False], ids=["after the warm-up", "from the start"])
def test_a_cosine_to_a_least_rate_is_timm_s(after: bool) -> None:
    """As Swin (after it) and TinyViT (from the start) have it."""
    of, settings = optimizer(), {"lr_min": 0.004, "warmup_lr_init": 0.0004, "warmup_t": 20, "warmup_prefix": after}
    timms = CosineLRScheduler(of, STEPS - 20 if after else STEPS, **settings, cycle_limit=1, t_in_epochs=False)
    expected = []
    for t in range(STEPS):
        expected.append(of.param_groups[0]["lr"])
        timms.step_update(t + 1)
    up = {"warmup_steps": None, "warmup_epochs": 4, "warmup_start": 0.001}
    found = ours(warmup, **up, cosine=True, min_lr=0.004, cosine_from="warmup" if after else "start")
    assert found == pytest.approx(expected, rel=1e-9)


def test_groups_keep_their_ratio_to_the_least_rate() -> None:
    of = SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (LR, LR / 10)], lr=LR)
    schedule = warmup(of, STEPS, EPOCHS, warmup_steps=None, cosine=True, min_lr=LR / 100)
    for _ in range(STEPS):
        of.step()
        schedule.scheduler.step()
    assert [group["lr"] for group in of.param_groups] == pytest.approx([LR / 100, LR / 1000])


def test_two_lengths_are_refused_and_none_is_no_warm_up() -> None:
    with pytest.raises(ValueError, match="not in two of these"):
        updates(STEPS, EPOCHS, 3, 2.0)
    assert updates(STEPS, EPOCHS) == 0 and ours(warmup, warmup_steps=None) == [LR] * STEPS
