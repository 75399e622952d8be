"""What is given on the command line of a resume takes effect or is refused: a row for each row of the docs' table."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import assert_equal_rows, rows
from runs import stop_after, tiny_run, weights
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from gvr_lightning.callbacks.changes import changes
from gvr_lightning.errors import Interrupted, UserError
from gvr_lightning.optim.schedules import Schedule

SHORT = ["epochs=2"]


def plateau(optimizer: Any, steps: int, epochs: int, mode: str = "min") -> Schedule:
    """A schedule that follows a metric: one epoch without progress halves the rate."""
    return Schedule(ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=0, threshold=10.0), "epoch")  # type: ignore[arg-type]


def keeping(params: Any, lr: float, hidden: int = 0) -> SGD:
    """An optimizer that keeps an argument to itself."""
    return SGD(params, lr)


def rates(folder: Path) -> list[float]:
    """The learning rate of each epoch's last update."""
    return [float(row["lr"]) for row in rows(folder) if row["lr"]]


@pytest.fixture
def resumed(finished: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """``resumed(before, after)``: the folder of a run of two epochs that went on with further settings."""

    def get(before: list[str], after: list[str]) -> Path:
        folder = Path(shutil.copytree(finished(*SHORT, *before), tmp_path / "run"))
        tiny_run(folder, *SHORT, *before, *after, f"resume={folder}")
        return folder

    return get


def groups(folder: Path) -> dict[str, Any]:
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return content["optimizer_states"][0]["param_groups"][0]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["scheduler=constant"], ["lr=0.0123"]),
        (["scheduler=cosine"], ["lr=0.0123"]),
        (["scheduler=cosine", "scheduler.min_lr=0.001"], ["lr=0.5"]),
        (["scheduler=cosine"], []),
        (["scheduler=cosine", "scheduler.interval=step"], []),
        (["scheduler=cosine"], ["scheduler.interval=step", "scheduler.min_lr=0.002"]),
        (["scheduler=onecycle"], []),
        (["scheduler=onecycle"], ["scheduler.warmup_fraction=0.6", "lr=0.3"]),
        (["scheduler=warmup", "scheduler.warmup_steps=4"], ["lr=0.3"]),
        (["scheduler=warmup_cosine", "scheduler.warmup_steps=4"], []),
        (["scheduler=cosine", "optimizer=adamw"], ["lr=0.01"]),
        (["scheduler=cosine", "regularizer=agr"], ["lr=0.01"]),
    ],
)
def test_the_rate_goes_on_as_if_the_run_had_been_planned_so(
    before: list[str],
    after: list[str],
    resumed: Callable[..., Path],
    finished: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    planned = rates(finished(*SHORT, *before, "epochs=4", *after))
    found = rates(resumed(before, ["epochs=4", *after]))
    assert len(found) == len(planned) == 4
    assert found[2:] == pytest.approx(planned[2:], rel=1e-12)
    assert found[:2] == rates(finished(*SHORT, *before))
    assert "the learning rate is " in (said := capsys.readouterr().err)
    assert all(f"{'optimizer.' * text.startswith('lr')}{text} instead of" in said for text in after)


def test_a_rate_is_another_in_the_middle_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["scheduler=onecycle", "epochs=2"]
    with monkeypatch.context() as patch:
        stop_after(patch, 4, 15)
        with pytest.raises(Interrupted):
            tiny_run(tmp_path / "run", *settings)
    tiny_run(tmp_path / "run", *settings, "lr=0.3", f"resume={tmp_path / 'run'}")
    tiny_run(tmp_path / "planned", *settings, "lr=0.3")
    assert rates(tmp_path / "run")[1:] == pytest.approx(rates(tmp_path / "planned")[1:], rel=1e-12)


@pytest.mark.parametrize("setting", ["weight_decay=0.25", "momentum=0.5", "nesterov=false"])
def test_a_setting_of_the_optimizer_takes_effect(setting: str, resumed: Callable[..., Path]) -> None:
    name, _, value = setting.partition("=")
    folder = resumed([], ["epochs=3", f"optimizer.{setting}"])
    assert groups(folder)[name] == json.loads(value)


def test_a_setting_that_the_optimizer_keeps_to_itself_is_refused(tmp_path: Path) -> None:
    settings = ["optimizer._target_=test_resume_changes.keeping", "~optimizer.momentum", "~optimizer.nesterov"]
    settings += ["~optimizer.weight_decay"]
    tiny_run(tmp_path, *settings, "epochs=1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"optimizer.hidden: cannot be another for a run that goes on"):
        tiny_run(tmp_path, *settings, "+optimizer.hidden=1", f"resume={tmp_path}")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_another_schedule_starts_afresh_over_what_remains(
    resumed: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = resumed(["scheduler=cosine"], ["scheduler=constant", "epochs=4"])
    assert rates(folder)[2:] == [0.02, 0.02]
    said = "the schedule starts afresh over what remains, as gvr_lightning.optim.schedules.constant"
    assert said in capsys.readouterr().err


def one_cycle(steps: int) -> list[float]:
    """The rates of so many updates, and that of the one which would come."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], 0.02)
    schedule, found = OneCycleLR(optimizer, 0.02, total_steps=steps, pct_start=0.3, cycle_momentum=False), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(found) < steps:
            schedule.step()
    return found


def test_another_schedule_is_whole_and_survives_another_resume(
    resumed: Callable[..., Path], finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, after = [*SHORT, "scheduler=cosine"], ["scheduler=onecycle", "epochs=5"]
    folder = resumed(["scheduler=cosine"], after)
    assert rates(folder)[2:4] == pytest.approx(one_cycle(9)[3:7:3], rel=1e-12)  # after an update: that of the next
    other = Path(shutil.copytree(finished(*settings), tmp_path / "other"))
    with monkeypatch.context() as patch:
        stop_after(patch, 4, 15)  # of nine
        with pytest.raises(Interrupted):
            tiny_run(other, *settings, *after, f"resume={other}")
    tiny_run(other, *settings, *after, f"resume={other}")
    assert all(torch.equal(value, weights(folder)[name]) for name, value in weights(other).items())
    assert_equal_rows(folder, other, rounding=0)
    with monkeypatch.context() as patch:
        stop_after(patch, 2, 15)
        with pytest.raises(Interrupted):
            tiny_run(other, *settings, *after, "epochs=7", f"resume={other}")
    tiny_run(other, *settings, *after, "epochs=7", f"resume={other}")
    # as a schedule of fifteen updates that began after the second epoch
    assert rates(other)[5:6] == pytest.approx([one_cycle(15)[12]], rel=1e-12) and len(rates(other)) == 7


def test_another_optimizer_starts_afresh(resumed: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = resumed(["scheduler=cosine"], ["optimizer=adamw", "lr=0.004", "epochs=4"])
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    assert {"exp_avg", "exp_avg_sq"} <= content["state"][0].keys() and content["state"][0]["step"] == 6
    assert "the optimizer starts afresh, as torch.optim.AdamW" in capsys.readouterr().err
    assert rates(folder)[2:] == pytest.approx([0.004 * 0.5, 0.004 * 0.14644660940672627])


@pytest.mark.parametrize("method", ["sam", "agr", "gvr"])
def test_another_method_takes_effect(method: str, resumed: Callable[..., Path], tmp_path: Path) -> None:
    with_it = resumed([], [f"regularizer={method}", "epochs=3", "alpha=1"])
    without = Path(shutil.move(with_it, tmp_path / "with")).parent / "run"
    assert with_it == without  # the same name again
    without = resumed([], ["epochs=3"])
    assert not torch.equal(weights(tmp_path / "with")["model.head.weight"], weights(without)["model.head.weight"])


def test_fewer_epochs_than_are_done_are_refused(
    finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(finished(*SHORT), tmp_path / "run"))
    with pytest.raises(UserError, match=r"epochs=1: the run has come to epoch 2 already; give at least as many"):
        tiny_run(run, "epochs=1", f"resume={run}")
    assert tiny_run(run, *SHORT, f"resume={run}")["train"]["epochs"] == 2
    with monkeypatch.context() as patch:
        stop_after(patch, 4, 15)  # in the second epoch
        with pytest.raises(Interrupted):
            tiny_run(tmp_path / "cut", *SHORT)
    with pytest.raises(UserError, match="has come to epoch 2 already"):
        tiny_run(tmp_path / "cut", "epochs=1", f"resume={tmp_path / 'cut'}")


def test_nothing_is_said_where_nothing_changed(
    resumed: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    resumed([], ["test_on=best"])
    assert "instead of" not in (said := capsys.readouterr().err) and "afresh" not in said


def test_what_two_configurations_differ_in() -> None:
    config = {"optimizer": {"_target_": "a", "lr": 1.0}, "scheduler": {"_target_": "c"}, "trainer": {"max_epochs": 2}}
    assert not changes(config, config).said and not changes(config, config).reschedule
    found = changes(config, {**config, "optimizer": {"_target_": "b", "lr": 3.0}})
    assert found.new_optimizer and not found.settings and found.reschedule
    found = changes(config, {**config, "optimizer": {"_target_": "a", "lr": 3.0, "x": 1}})
    assert found.settings == ("lr", "x") and found.ratio == 3.0 and not found.new_optimizer
    assert changes(config, {**config, "trainer": {"max_epochs": 3}}).reschedule
    assert changes(config, {**config, "scheduler": {"_target_": "d"}}).new_schedule
    assert not changes(config, {**config, "scheduler": {"_target_": "c", "_partial_": True}}).reschedule
