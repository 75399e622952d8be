"""What goes wrong: damaged files, kills, gradients that explode; each is said in a line, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import assert_equal_rows, rows
from runs import TINY, TINY_CNN, tiny_run, weights
from test_cli import main
from test_task import data, fit, task
from torch import Tensor

from gvr_lightning.callbacks.checkpoint_files import AtomicCheckpointIO
from gvr_lightning.callbacks.checkpoints import Checkpoints
from gvr_lightning.checkpoint import load_checkpoint
from gvr_lightning.data.digits import Digits
from gvr_lightning.data.image_set import Splits
from gvr_lightning.distributed import watch
from gvr_lightning.distributed.external import external_place
from gvr_lightning.distributed.launch import launch
from gvr_lightning.errors import TrainingError, UserError
from gvr_lightning.models.resnet import resnet
from gvr_lightning.tasks.finite import is_finite

TRAIN = Path(__file__).parents[1] / "train.py"
WITHIN = 60  # seconds in which the other processes end


def same_weights(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_of_two_checkpoints_the_whole_one_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["regularizer=gvr_agr", "checkpoint.every_n_steps=2"]
    tiny_run(tmp_path / "one", *settings)
    tiny_run(tmp_path / "two", *settings)
    last = tmp_path / "two" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-2000])
    capsys.readouterr()
    tiny_run(tmp_path / "two", *settings, f"resume={tmp_path / 'two'}")
    assert f"{last} is damaged" in (said := capsys.readouterr().err) and "previous.ckpt" in said
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert_equal_rows(tmp_path / "one", tmp_path / "two", rounding=0)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    tiny_run(tmp_path)
    path = tmp_path / "checkpoints" / "last.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"last.ckpt is damaged"):
        load_checkpoint(path)
    (tmp_path / "checkpoints" / "previous.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match=r"previous.ckpt is damaged"):
        tiny_run(tmp_path, f"resume={tmp_path}")


def test_checkpoints_within_an_epoch_and_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    saved = torch.save
    monkeypatch.setattr(torch, "save", lambda c, p: (steps.append(c["global_step"]), saved(c, p)))
    tiny_run(tmp_path, "batch_size=10", "checkpoint.every_n_steps=3")
    assert steps == [3, 6, 8, 9, 12, 15, 16]
    folder = tmp_path / "checkpoints"
    assert [torch.load(folder / n, weights_only=True)["global_step"] for n in ("previous.ckpt", "last.ckpt")] == [
        15,
        16,
    ]
    assert sorted(p.name for p in folder.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    steps.clear()
    tiny_run(tmp_path / "by time", "batch_size=10", "checkpoint.every_n_minutes=1e-9")
    assert steps == list(range(1, 17))


def spoiled(steps: set[int]) -> Any:
    """A criterion whose loss is NaN in some updates; of two views, it is asked twice each."""
    calls = [0]

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        calls[0] += 1
        loss = torch.nn.functional.cross_entropy(output, target)
        return loss * float("nan") if (calls[0] - 1) // 2 in steps else loss

    return criterion


@pytest.mark.filterwarnings("ignore:Found .* module.* in eval mode")  # the average's, which the command line lets be
def test_skipped_updates_leave_everything_as_it_was(tmp_path: Path) -> None:
    model = resnet((1, 8, 8), 4, [4, 8], 1)
    ours = task(model=model, penalty=task().penalty, non_finite="skip", ema_decay=0.9)
    assert ours.ema is not None
    ours.criterion = spoiled({0, 1, 2})  # type: ignore[method-assign]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = fit(ours, data(), tmp_path, max_epochs=1)
    assert ours.non_finite.skipped == 3 == trainer.global_step
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert trainer.optimizers[0].state_dict()["state"] == {} and int(ours.ema.n_averaged) == 0
    ours.criterion = spoiled({1})  # type: ignore[method-assign]
    fit(ours, data(), tmp_path, max_epochs=1)
    assert ours.non_finite.skipped == 4 and not torch.equal(before["head.weight"], model.head.weight)
    assert int(ours.ema.n_averaged) == 2
    assert all(p.isfinite().all() for p in model.state_dict().values())


def test_as_many_updates_are_skipped_as_allowed_and_no_more(tmp_path: Path) -> None:
    ours = task(non_finite="skip", max_skipped=2)
    before = ours.model.head.weight.detach().clone()
    ours.criterion = spoiled({0, 3})  # type: ignore[method-assign]
    assert fit(ours, data(), tmp_path).global_step == 6
    assert ours.non_finite.skipped == 2 and not torch.equal(ours.model.head.weight, before)
    ours = task(non_finite="skip", max_skipped=2)
    ours.criterion = spoiled({0, 3, 4})  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"at step 4 .*2 updates were skipped before \(task.max_skipped\)"):
        fit(ours, data(), tmp_path)
    with pytest.raises(ValueError, match="stop or skip"):
        task(non_finite="ignore")


def test_those_of_before_a_resume_count(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "val/acc")
    options = {"enable_checkpointing": True, "plugins": [AtomicCheckpointIO()]}
    ours = task(non_finite="skip", max_skipped=1)
    ours.criterion = spoiled({1})  # type: ignore[method-assign]
    fit(ours, data(), tmp_path, max_epochs=1, callbacks=[checkpoints], **options)
    for allowed in (2, 1):
        ours = task(non_finite="skip", max_skipped=allowed)
        ours.criterion = spoiled({0})  # type: ignore[method-assign]
        again = {"callbacks": [Checkpoints(tmp_path / "again", "val/acc")], "resume": checkpoints.last_path, **options}
        if allowed == 2:
            assert fit(ours, data(), tmp_path, **again).global_step == 6 and ours.non_finite.skipped == 2
        else:
            with pytest.raises(TrainingError, match=r"at step 3 .*1 updates were skipped before"):
                fit(ours, data(), tmp_path, **again)


def test_how_many_may_be_skipped_is_configured(tmp_path: Path) -> None:
    """The first update makes the weights useless: every other is to be skipped."""
    with pytest.raises(TrainingError, match=r"at step 4 .*3 updates were skipped before"):
        tiny_run(tmp_path, "lr=1e20", "task.non_finite=skip", "task.max_skipped=3")


def test_resume_auto_starts_continues_and_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the words of the command; tests/test_cli.py has the other cases."""
    settings = [*TINY, *TINY_CNN, "regularizer=gvr_agr", f"hydra.run.dir={tmp_path / 'run'}", "resume=auto"]
    said = []
    for further in ([], [], ["epochs=3"]):
        assert main(monkeypatch, tmp_path, *settings, *further) == 0
        said.append(capsys.readouterr())
    assert said[1].out == said[0].out and "epoch 2/2" in said[0].err and "epoch" not in said[1].err
    assert "epoch 3/3" in said[2].err


def start(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TRAIN), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def training(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """Two processes that train; returns once they have saved."""
    command = [sys.executable, str(TRAIN), *TINY, *TINY_CNN, *arguments, "trainer.devices=2", f"hydra.run.dir={folder}"]
    process = subprocess.Popen([*command, "checkpoint.every_n_steps=1"], stderr=subprocess.PIPE, text=True)
    lines = iter(process.stderr.readline, "")  # type: ignore[union-attr]
    assert any(line.startswith("epoch 1/") for line in lines), "it ended"
    assert (folder / "checkpoints" / "previous.ckpt").exists()
    return process


def children(pid: int) -> list[int]:
    """The processes that train: of one started by ``pid``, from which they are forked."""
    below = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    (server,) = (child for child in below if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes())
    return [int(child) for child in Path(f"/proc/{server}/task/{server}/children").read_text().split()]


def test_a_killed_process_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    process = training(["epochs=10000"], folder)
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    _, said = process.communicate(timeout=WITHIN)
    assert process.returncode == 1
    assert "error: process 1 of 2 was killed (SIGKILL): out of memory, perhaps; the others were ended" in said
    assert f"continue with resume={folder}" in said and "Traceback" not in said
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    epochs = load_checkpoint(folder / "checkpoints" / "last.ckpt")["epoch"] + 2
    assert main(monkeypatch, tmp_path, f"resume={folder}", f"epochs={epochs}", "trainer.devices=1") == 0


def test_a_signal_stops_all_processes_after_the_same_update(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = training(["epochs=10000"], folder)
    process.terminate()
    _, said = process.communicate(timeout=WITHIN)
    assert process.returncode == 143 and f"interrupted; continue with resume={folder}" in said, said
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"


def fails(rank: int) -> None:
    from torch.distributed import barrier, get_rank

    if get_rank() == rank:
        raise MemoryError("not enough")
    barrier()  # never met


def test_what_the_parent_tells(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "GRACE", 3.0)
    with pytest.raises(TrainingError, match="process 1 of 2 failed: MemoryError: not enough"):
        launch(fails, (1,), 2, "gloo")
    assert "in fails" in capfd.readouterr().err


def test_several_machines_are_for_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, tmp_path, *TINY, "trainer.num_nodes=2") == 2
    assert "torchrun" in capsys.readouterr().err


def test_a_sweep_is_not_for_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert external_place() is None
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    done = start(["-m", "seed=0,1"], tmp_path)
    assert done.returncode == 2 and "leave torchrun or srun out" in done.stderr


def test_a_failed_start_leaves_a_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: Digits) -> Splits:
        raise UserError("nothing there")

    monkeypatch.setattr(Digits, "__call__", absent)
    with pytest.raises(UserError, match="nothing there"):
        tiny_run(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed" and summary["error"] == "nothing there" and summary["seed"] == 0


def test_a_checkpoint_of_an_earlier_version_keeps_the_metrics(tmp_path: Path) -> None:
    tiny_run(tmp_path)
    before = rows(tmp_path)
    path = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = load_checkpoint(path)
    del checkpoint["metrics_rows"], checkpoint["metrics"], checkpoint["skipped"]
    torch.save(checkpoint, path)
    tiny_run(tmp_path, f"resume={tmp_path}", "epochs=3")
    assert rows(tmp_path)[: len(before)] == before and len(rows(tmp_path)) == len(before) + 2


SIZES = {"finite": 2.0, "zero": 0.0, "infinite": float("inf"), "NaN": float("nan"), "beyond float32": 3e38}
SIZES["with a square beyond"] = 1e25


@pytest.mark.parametrize("kinds", [[torch.float32], [torch.float64], [torch.float32, torch.float64]], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_as_finite_as_their_norm(size: str, kinds: list[torch.dtype]) -> None:
    """The last: of such entries float32 has no norm, so that clipping by it would make zeros of all."""
    parameters = [torch.nn.Parameter(torch.zeros(3, 4, dtype=kinds[i % len(kinds)])) for i in range(4)]
    assert is_finite(parameters)  # without any
    for p in parameters[:3]:
        p.grad = torch.ones_like(p)
    parameters[0].grad[1, 2:] = SIZES[size]  # type: ignore[index]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    assert is_finite(parameters) is bool(norm.isfinite())
    assert is_finite(parameters) is (size in ("finite", "zero") or ("beyond" in size and torch.float32 not in kinds))
