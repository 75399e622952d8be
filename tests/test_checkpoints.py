"""After which epochs a checkpoint is written, and what is written by a thread while the training goes on."""

import errno
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import assert_equal_rows
from lightning.pytorch import Callback, Trainer
from runs import stop_after, tiny_run, weights
from test_callbacks import Scores, saved_by
from test_task import data

from gvr_lightning.callbacks.beside import NAME, Beside, held
from gvr_lightning.callbacks.checkpoints import Checkpoints
from gvr_lightning.callbacks.interruption import Interruption
from gvr_lightning.checkpoint import load_checkpoint
from gvr_lightning.errors import Interrupted, TrainingError

sys.path.append(str(Path(__file__).parents[1] / "experiments" / "robustness"))
from kill_resume import differences

NAN = float("nan")


class Written:
    """What goes to the disk, in the order in which it does; ``before`` is called first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None] = lambda n: None) -> None:
        self.states: list[Any] = []
        self._save, self.before = torch.save, before
        monkeypatch.setattr(torch, "save", self)

    def __call__(self, state: Any, path: Path) -> None:
        self.before(len(self.states))
        self._save(state, path)
        self.states.append(torch.load(path, weights_only=True))

    @property
    def steps(self) -> list[int]:
        return [state["global_step"] for state in self.states]


class Stop(Callback):
    """Ends the training after an epoch, as early stopping does."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.current_epoch == self.epoch


def all_is_written() -> bool:
    """Whether no thread writes; pytest may have threads of its own."""
    return NAME not in [thread.name for thread in threading.enumerate()]


# --- after which epochs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "values", "saved", "best"),
    [
        (1, [None] * 5, [1, 2, 3, 4, 5], 5),
        (2, [None] * 5, [2, 4, 5], 5),  # nothing to tell them by: the last that was written
        (9, [None] * 5, [5], 5),
        (2, [0.5, 0.1, 0.9, 0.2, 0.3], [1, 2, 3, 4, 5], 3),  # the first and the third were the best so far
        (3, [0.5, 0.1, 0.5, 0.9, 0.9], [1, 3, 4, 5], 4),
        (9, [NAN, NAN, 0.1, NAN, 0.1], [1, 2, 3, 5], 3),
        (3, [None, 0.1, None, 0.1, None], [2, 3, 5], 2),
    ],
)
def test_a_checkpoint_after_every_so_many_epochs_the_best_and_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, values: list[float | None], saved: list[int], best: int
) -> None:
    written, checkpoints = Written(monkeypatch), Checkpoints(tmp_path, "score", every_n_epochs=every)
    saved_by([Scores(values), checkpoints], data(16), tmp_path, max_epochs=5)
    assert written.steps == saved
    found = {path.name: load_checkpoint(path)["global_step"] for path in tmp_path.glob("*.ckpt")}
    assert found.pop("previous.ckpt", None) == (saved[-2] if len(saved) > 1 else None)
    assert found == {"last.ckpt": 5, "best.ckpt": best} and checkpoints.best_epoch == best - 1


def test_the_last_epoch_is_where_training_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(monkeypatch)
    saved_by([Stop(2), Checkpoints(tmp_path, "score", every_n_epochs=9)], data(16), tmp_path, max_epochs=5)
    assert written.steps == [3]


@pytest.mark.parametrize(
    ("batch", "late", "steps"),
    [(4, False, [4]), (6, False, [6]), (3, True, [4])],
    ids=["within an epoch", "in its last update", "when it was decided not to save it"],
)
@pytest.mark.parametrize("in_background", [False, True])
def test_a_signal_saves_an_epoch_that_else_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, late: bool, steps: list[int], in_background: bool
) -> None:
    """An epoch has three updates. What the signal has to wait for is known to be done when the run ends."""
    checkpoints = Checkpoints(tmp_path, "score", every_n_epochs=9, in_background=in_background)
    interruption, written = Interruption(checkpoints), Written(monkeypatch)
    asked = checkpoints.wanted

    def then_the_signal(trainer: Trainer) -> bool:
        wanted = asked(trainer)
        if trainer.global_step == batch:
            signal.raise_signal(signal.SIGTERM)
        return wanted

    if late:
        checkpoints.wanted = then_the_signal
    else:
        stop_after(monkeypatch, batch, signal.SIGTERM)
    with interruption, pytest.raises(Interrupted):
        saved_by([interruption, checkpoints], data(), tmp_path, max_epochs=5)
    assert written.steps == steps and all_is_written()


def test_a_run_goes_on_from_the_epoch_that_was_saved(
    finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four, the fourth is under way when it ends at once, and the third was neither saved nor the best."""
    settings = ["regularizer=gvr_agr", "epochs=4"]
    rare = ["checkpoint.every_n_epochs=2", "checkpoint.in_background=true", f"resume={tmp_path}"]
    monkeypatch.setattr(Checkpoints, "_is_better", lambda self, value: self.best is None)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        for _ in range(2):  # the second ends it at once
            stop_after(patch, 11, signal.SIGTERM)
        tiny_run(tmp_path, *settings, *rare[:2])
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 6
    tiny_run(tmp_path, *settings, *rare)
    whole, ours = finished(*settings), weights(tmp_path)
    assert_equal_rows(whole, tmp_path, rounding=0)
    assert all(torch.equal(ours[name], value) for name, value in weights(whole).items())


# --- by a thread -----------------------------------------------------------------------------------------------------


class Sign(Callback):
    """Lets the thread write once the update after has changed the weights."""

    def __init__(self) -> None:
        self.now = threading.Event()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            self.now.set()


def test_a_thread_writes_what_there_was_when_it_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the foreground and beside: the same files, though the second writes after the next update."""
    states = []
    for name, beside in (("one", False), ("two", True)):
        sign = Sign()
        with monkeypatch.context() as patch:
            written = Written(patch, (lambda n, sign=sign: sign.now.wait(60)) if beside else lambda n: None)
            checkpoints = Checkpoints(tmp_path / name, "score", every_n_steps=2, in_background=beside)
            saved_by([Scores([0.1, 0.5, 0.2]), sign, checkpoints], data(80), tmp_path, max_epochs=3)
        states.append(written.states)
        found = {path.name: load_checkpoint(path)["global_step"] for path in (tmp_path / name).glob("*.ckpt")}
        assert found == {"last.ckpt": 15, "previous.ckpt": 14, "best.ckpt": 10}
    assert not differences(*states)
    assert [state["global_step"] for state in states[1]] == [2, 4, 5, 6, 8, 10, 12, 14, 15]


@pytest.mark.parametrize(("which", "ends"), [(2, 7), (4, 10)], ids=["within an epoch", "the last"])
def test_what_a_thread_cannot_write_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int, ends: int
) -> None:
    """Here after the next update, as the thread is then through; what was there before it is still there."""
    checkpoints, reached = Checkpoints(tmp_path, "score", every_n_steps=3, in_background=True), []

    class Wait(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            reached.append(trainer.global_step)
            if trainer.global_step == 7:
                checkpoints._beside._thread.join()  # type: ignore[union-attr]

    def no_room(n: int) -> None:
        if n == which:
            raise OSError(errno.ENOSPC, "No space left on device")

    written = Written(monkeypatch, no_room)
    with pytest.raises(TrainingError, match=r"last.ckpt: the disk is full; the one before is untouched: make room"):
        saved_by([Wait(), checkpoints], data(80), tmp_path)
    assert written.steps == [3, 5, 6, 9][:which] and reached[-1] == ends
    assert load_checkpoint(checkpoints.last_path)["global_step"] == written.steps[-1]
    assert not list(tmp_path.glob(".*")) and all_is_written()


def test_what_ends_a_run_waits_for_the_thread_and_is_what_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = threading.Event()

    class Fails(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                raise ZeroDivisionError

        def on_exception(self, *_: Any) -> None:
            now.set()

    for failing in (False, True):

        def before(n: int, failing: bool = failing) -> None:
            now.wait(60)
            if failing:
                raise OSError("a broken disk")

        now.clear()
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            Written(patch, before)
            checkpoints = Checkpoints(tmp_path / str(failing), "score", every_n_steps=1, in_background=True)
            saved_by([Fails(), checkpoints], data(), tmp_path)
        assert checkpoints.last_path.exists() != failing and all_is_written()


def test_one_piece_of_work_at_a_time_and_what_went_wrong_is_told_once() -> None:
    beside, seen, go_on = Beside(), [], threading.Event()

    def work(n: int) -> None:
        go_on.wait(60)
        seen.append(n)
        if n == 2:
            raise TrainingError("two")

    beside.start(lambda: work(1))
    beside.look()
    assert seen == []
    go_on.set()
    beside.start(lambda: work(2))
    assert seen[0] == 1
    with pytest.raises(TrainingError, match="two"):
        beside.start(lambda: work(3))
    beside.wait()
    assert seen == [1, 2]


def test_what_is_held_stays_as_it_was() -> None:
    layer = torch.nn.BatchNorm1d(3)
    tied = torch.arange(4.0)
    state: dict[str, Any] = {"model": layer.state_dict(), "tied": [tied, tied[1:]], "lr": [{"betas": [0.9, 0.99]}]}
    copied = held(state)
    with torch.no_grad():
        layer.weight += 1
    tied += 1
    state["lr"][0]["betas"][0] = 0.5
    assert copied["lr"] == [{"betas": [0.9, 0.99]}] and copied["model"]["weight"].tolist() == [1, 1, 1]
    assert copied["model"]._metadata == state["model"]._metadata
    assert copied["tied"][1].tolist() == [1, 2, 3] and copied["tied"][0].data_ptr() == copied["tied"][1].data_ptr() - 4


@pytest.mark.parametrize(
    ("configured", "device", "thread"),
    [(None, "cpu", False), (None, "cuda", True), (True, "cpu", True), (False, "cuda", False)],
)
def test_by_default_a_thread_writes_where_the_training_is_on_a_gpu(
    tmp_path: Path, configured: bool | None, device: str, thread: bool
) -> None:
    class Asked:
        def save_checkpoint(self, path: Path, storage_options: Any) -> None:
            self.path, self.how = path, storage_options

    trainer: Any = Asked()
    trainer.optimizers, trainer.global_step = [], 7
    trainer.strategy = type("Strategy", (), {"root_device": torch.device(device)})
    checkpoints = Checkpoints(tmp_path, "score", in_background=configured)
    checkpoints.save(trainer)
    assert trainer.path == tmp_path / "last.ckpt" and trainer.how.best is None
    assert (trainer.how.beside is not None) == thread
