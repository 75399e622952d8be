"""Where each process of a run is, how they meet, what they decide together, and whose end is told."""

import json
import multiprocessing as mp
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from pool import Pool

from gvr_lightning.app import job
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.distributed.agreement import Agreement
from gvr_lightning.distributed.external import LOCALHOST, Place, external_place
from gvr_lightning.distributed.launch import _portable, launch
from gvr_lightning.distributed.neighbours import Neighbour, neighbours
from gvr_lightning.distributed.place import barrier, broadcast, join, largest, one_a_machine_first
from gvr_lightning.distributed.starting import cores, start_method
from gvr_lightning.distributed.watch import Failure, cause, failure_of
from gvr_lightning.errors import Interrupted, TrainingError, UserError

HANG = 60.0  # seconds after which a process gives up waiting for what should come at once

# --- started by torchrun or srun

TORCHRUN: dict[str, Any] = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SRUN: dict[str, Any] = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "node[03-04]",
    "SLURM_NODELIST": "other[7-9]",  # of the job, as are the next ones
    "SLURM_NTASKS": "16",
    "SLURM_JOB_NUM_NODES": "3",
}
WITHOUT: dict[str, Any] = dict.fromkeys(SRUN | TORCHRUN)
PLACES: dict[str, tuple[dict[str, Any], Place | None]] = {
    "neither": ({}, None),
    "torchrun": (TORCHRUN, Place(5, 8, 1, 4, "node1", 29500, serves=True)),
    "torchrun, whose agent serves": (
        TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"},
        Place(5, 8, 1, 4, "node1", 29500, serves=False),
    ),
    "torchrun, whose agent does not": (
        TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "False"},
        Place(5, 8, 1, 4, "node1", 29500, serves=True),
    ),
    "torchrun, alone": (
        TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        None,
    ),
    "torchrun, of two": (TORCHRUN | {"WORLD_SIZE": "2", "RANK": "1"}, Place(1, 2, 1, 4, "node1", 29500)),
    "what another program left": (TORCHRUN | {"TORCHELASTIC_RUN_ID": None}, None),
    "torchrun in a SLURM job": (SRUN | TORCHRUN, Place(5, 8, 1, 4, "node1", 29500)),
    "srun": (SRUN, Place(5, 8, 1, 4, "node03", 15_000 + 4567, serves=True)),
    "srun, with a port": (SRUN | {"MASTER_PORT": "4000"}, Place(5, 8, 1, 4, "node03", 4000)),
    "srun, without the step's nodes": (SRUN | {"SLURM_STEP_NODELIST": None}, Place(5, 8, 1, 4, "other7", 19_567)),
    "srun, alone": (SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}, None),
    "srun, one machine": (SRUN | {"SLURM_STEP_NUM_NODES": "1"}, Place(5, 8, 1, 8, "node03", 19_567)),
    "the batch script": (SRUN | {"SLURM_STEP_ID": None}, None),
    "a step without tasks": (SRUN | {"SLURM_PROCID": None}, None),
}


@pytest.mark.parametrize("case", PLACES)
def test_the_place_that_a_process_was_given(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables, expected = PLACES[case]
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    for name, value in (WITHOUT | variables).items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert external_place() == expected


@pytest.mark.parametrize("given", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_half_of_a_launcher_s_environment_is_one_line(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def place(change: dict[str, Any]) -> Any:
        for name, value in (WITHOUT | given | change).items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        return external_place()

    assert place({}) is not None
    needed = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    needed = needed if given is TORCHRUN else ("SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES")
    for name in needed:
        with pytest.raises(UserError, match=f"has set no {name}: start all processes with torchrun or srun, or none"):
            place({name: None})
        if name != "MASTER_ADDR":
            with pytest.raises(UserError, match=f"{name}=x is no whole number"):
                place({name: "x"})
    rank = "RANK" if given is TORCHRUN else "SLURM_PROCID"
    with pytest.raises(UserError, match="process 8 of 8"):
        place({rank: "8"})


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Place(0, 2, 0, 2, "no-such-machine.invalid", 1), "there is no machine no-such-machine.invalid"),
        (Place(1, 2, 1, 2, LOCALHOST, 1), "process 1 of 2 does not meet the others at 127.0.0.1:1"),
        (Place(0, 2, 0, 2, LOCALHOST, 0), "1 of 2 processes are here after 1 s: start the others, too"),
    ],
    ids=["no machine", "no first process", "no second process"],
)
def test_processes_that_do_not_come_are_told(
    place: Place, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with patch.dict(os.environ), pytest.raises(UserError, match=words):
        join(place, "gloo", 1.0)
    assert capsys.readouterr().err.count("\n") <= 1


def waits(path: str) -> None:
    """Of two processes the second is stopped, as a debugger or a full machine does."""
    if os.environ["RANK"] == "1":
        Path(path).write_text("")
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(HANG)


@pytest.mark.parametrize("signals", [0, 2])
def test_a_process_that_is_stopped_is_ended(signals: int, tmp_path: Path) -> None:
    def ask() -> None:
        while not (tmp_path / "there").exists():
            time.sleep(0.1)
        for _ in range(signals):
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    arguments = (str(tmp_path / "there"),)
    if signals:
        with pytest.raises(Interrupted), patch("gvr_lightning.distributed.watch.AT_ONCE", 1.0):
            launch(waits, arguments, 2, "gloo")
    else:
        words = r"process 1 of 2 has shown no sign of life for 3 s \(trainer.timeout\)"
        with pytest.raises(TrainingError, match=words), patch("gvr_lightning.distributed.watch.LOADING", 6.0):
            launch(waits, arguments, 2, "gloo", timeout=3.0)
    asking.join()


# --- what torchrun's or srun's processes know of each other


@pytest.fixture
def of_two() -> Iterator[Callable[[int], tuple[Place, Any]]]:
    """Two processes' places and their connections to one store, which process 0 keeps."""
    kept = dist.TCPStore(LOCALHOST, 0, 2, True, wait_for_workers=False)

    def place(rank: int) -> tuple[Place, Any]:
        return Place(rank, 2, rank, 2, LOCALHOST, kept.port), dist.TCPStore(LOCALHOST, kept.port, 2, False)

    yield place


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_falls_silent_is_named_by_the_one_before_it(
    of_two: Callable[[int], tuple[Place, Any]], stopped: int
) -> None:
    seconds = [0.0]
    here, there = (Neighbour(*of_two(rank), 10.0, lambda: seconds[0]) for rank in (1 - stopped, stopped))
    for _ in range(5):
        there.exchange()
        here.exchange()
        seconds[0] += 9
        assert not here.lost()
    here.exchange()
    seconds[0] += 2  # the other said nothing more for 11 of them
    assert here.lost() == f"process {stopped} of 2"
    here.slept()  # as if it had been this process that was stopped
    assert not here.lost()
    there.leave()
    here.exchange()
    seconds[0] += 9
    here.exchange()
    seconds[0] += 9
    assert not here.lost()


@pytest.mark.parametrize(("serves", "words"), [(True, "process 0 of 3"), (False, "the store at 127.0.0.1:7")])
def test_a_store_that_does_not_answer_is_named_by_who_keeps_it(serves: bool, words: str) -> None:
    seconds = [0.0]
    here = Neighbour(Place(1, 3, 1, 3, LOCALHOST, 7, serves), None, 10.0, lambda: seconds[0])
    seconds[0] = 9
    assert not here.lost()
    seconds[0] = 11
    assert here.lost() == words


def test_processes_watch_each_other_as_long_as_they_work(of_two: Callable[[int], tuple[Place, Any]]) -> None:
    """Two that work and end, one after the other; then one whose neighbour never comes."""
    told: list[str] = []
    ended = threading.Event()

    def end(error: TrainingError) -> None:
        told.append(str(error))
        ended.set()

    with patch("gvr_lightning.distributed.neighbours.BEAT", 0.05):
        with neighbours(of_two(0)[0], 2.0, end), neighbours(of_two(1)[0], 2.0, end):
            pass
        with patch.dict(os.environ, TORCHELASTIC_RESTART_COUNT="1"), neighbours(of_two(0)[0], 2.0, end):
            assert told == [] and ended.wait(HANG)
    assert told == ["process 1 of 2 has shown no sign of life for 2 s (trainer.timeout), as if it had been stopped"]


def test_a_run_that_torchrun_started_is_watched_as_its_configuration_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until it ends; the one that notices tells it, leaves the summary, and ends."""
    place, told = Place(0, 2, 0, 2), list[Any]()

    @contextmanager
    def watched(*arguments: Any) -> Iterator[None]:
        told.append(arguments[:2])
        yield
        told.append("over")
        arguments[2](TrainingError("process 1 of 2 is lost"))

    def leave(status: int) -> None:
        raise SystemExit(status)

    stand_ins = {
        "join": lambda *_: None,
        "broadcast": str,
        "_here": lambda *_: told.append("run"),
        "neighbours": watched,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(job, name, stand_in)
    monkeypatch.setattr(os, "_exit", leave)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", overrides=["name=test", "trainer.timeout=7"])
    with pytest.raises(SystemExit) as end:
        job.train(cfg, tmp_path / "run", [], place)
    assert told == [(place, 7), "run", "over"] and end.value.code == 1
    assert capsys.readouterr().err == f"error: process 1 of 2 is lost; continue with resume={tmp_path / 'run'}\n"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["error"]) == ("failed", "process 1 of 2 is lost")


# --- four processes that are told to be on two machines


@pytest.fixture(scope="module")
def machines() -> Iterator[Pool]:
    pool = Pool(4, machines=2)
    yield pool
    pool.close()


NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "GLOO_SOCKET_IFNAME")


def told() -> tuple[list[Any], tuple[int, int], str, int]:
    """What others read from the environment, and what torch knows itself."""
    found = [os.environ.get(name) for name in NAMES]
    return found, (dist.get_rank(), dist.get_world_size()), dist.get_backend(), int(os.environ["MASTER_PORT"])


@pytest.mark.skipif(sys.platform != "linux", reason="the interface is named on Linux")
def test_a_process_and_its_environment_say_the_same(machines: Pool) -> None:
    assert machines(told) == [
        ([str(r), "4", str(r % 2), "2", str(r // 2), LOCALHOST, "lo"], (r, 4), "gloo", machines.store.port)
        for r in range(4)
    ]


def patience() -> set[timedelta]:
    """How long each of the groups waits."""
    groups = dist.distributed_c10d._world.pg_map
    return {group._get_backend(torch.device("cpu")).options._timeout for group in groups}


def test_what_the_programs_say_to_each_other_may_wait_for_a_day(machines: Pool) -> None:
    for found in machines(patience):
        assert timedelta(days=1) in found and min(found) < timedelta(hours=1)


def say() -> tuple[Any, list[float]]:
    rank = dist.get_rank()
    barrier()
    return broadcast({"said by": rank}), largest(torch.tensor([float(rank), -float(rank), 5.0])).tolist()


def test_the_first_process_is_heard_and_the_largest_number_counts(machines: Pool) -> None:
    assert machines(say) == [({"said by": 0}, [3.0, 0.0, 5.0])] * 4
    assert broadcast("alone") == "alone" and largest(torch.tensor([2.0])).tolist() == [2.0]


def first_of_its_machine(folder: Path) -> bool:
    """Whether this process found what the first one of its machine leaves; who comes too early lets the first know."""
    rank, early = dist.get_rank(), folder / "early"
    with one_a_machine_first():
        left = folder / f"left on machine {rank // 2}"
        found = left.exists()
        if rank % 2 == 0:
            deadline = time.monotonic() + 0.3
            while not early.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            left.touch()
        elif not found:
            early.touch()
    return found


def test_the_first_process_of_each_machine_fills_the_cache_for_the_others(machines: Pool, tmp_path: Path) -> None:
    assert machines(first_of_its_machine, tmp_path) == [False, True, False, True]
    assert machines(first_of_its_machine, tmp_path) == [True, True, True, True]  # and none waits for another barrier


def agreements(seconds: float, of_a_step: list[float], steps: int, now: list[int]) -> list[tuple[int, list[float]]]:
    """The steps at which this process was told something, and what; its clock moves by its own seconds a step."""
    rank, clock, found = dist.get_rank(), [100.0 * dist.get_rank()], []
    with patch("time.monotonic", lambda: clock[0]):
        agree = Agreement(seconds) if seconds else Agreement()
        for step in range(steps):
            answer = agree([rank + 1.0, 10.0 - rank], step, now=step in now)
            if answer != [0.0, 0.0]:
                found.append((step, answer))
            clock[0] += of_a_step[rank]
    return found


@pytest.mark.parametrize(
    ("seconds", "of_a_step", "now", "asked"),
    [
        # the fastest process has 64 steps a second
        (0, [1 / 32, 1 / 64, 1 / 16, 1 / 32], [], [0, 1, 65, 129]),
        (0, [1 / 32, 1 / 64, 1 / 16, 1 / 32], [70], [0, 1, 65, 70, 134]),
        (2.0, [1 / 64] * 4, [], [0, 1, 129]),
        (0, [5.0] * 4, [], list(range(150))),
        (0, [0.625] * 4, [], list(range(150))),  # not quite two of them in a second
    ],
)
def test_all_processes_compare_their_wishes_at_the_same_steps(
    seconds: float, of_a_step: list[float], now: list[int], asked: list[int], machines: Pool
) -> None:
    assert machines(agreements, seconds, of_a_step, 150, now) == [[(step, [4.0, 10.0]) for step in asked]] * 4


def test_a_thousand_steps_are_the_most_between_two_comparisons(machines: Pool) -> None:
    for found in machines(agreements, 1.0, [0.0] * 4, 2100, []):
        assert [step for step, _ in found] == [0, 1, 1001, 2001]


def test_alone_a_wish_is_heard_at_once() -> None:
    agree = Agreement()
    assert [agree((wish, 0.0), step) for step, wish in enumerate([0.0, 3.0, 0.0, 2.0])] == [
        *([0.0, 0.0], [3.0, 0.0], [0.0, 0.0], [2.0, 0.0])
    ]


def meet_again(port: int) -> tuple[Any, int]:
    """Leave the others, and join them once more at a store that the first of them keeps."""
    rank, before = dist.get_rank(), os.environ["MASTER_PORT"]
    dist.destroy_process_group()
    join(Place(rank, 4, rank % 2, 2, LOCALHOST, port, serves=True), "gloo")
    os.environ["MASTER_PORT"] = before  # as the next test finds it
    return broadcast(("from", rank)), dist.get_world_size()


def test_processes_meet_where_the_first_of_them_keeps_the_store(machines: Pool) -> None:
    with socket.socket() as free:
        free.bind((LOCALHOST, 0))
        port = free.getsockname()[1]
    assert machines(meet_again, port) == [(("from", 0), 4)] * 4


def test_restarted_processes_do_not_read_what_those_before_left_in_the_store(
    machines: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(machines(say)) == 4
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    pool = Pool(2, longest=HANG, store=machines.store)
    try:
        assert pool(say) == [({"said by": 0}, [1.0, 0.0, 5.0])] * 2
    finally:
        pool.close()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: pytest.fail("met one of those before"))
    with patch.dict(os.environ), pytest.raises(UserError, match="1 of 2 processes are here"):
        join(Place(0, 2, 0, 2, LOCALHOST, machines.store.port, serves=False), "gloo", 1.0)


# --- started by this program


def note(folder: Path) -> None:
    """Leave what this process is told."""
    found = {"threads": os.environ["OMP_NUM_THREADS"], "own session": os.getsid(0) == os.getpid()}
    found |= {"torch": torch.get_num_threads(), "parent": mp.parent_process().pid}  # type: ignore[union-attr]
    found |= {name: os.environ[name] for name in NAMES[:-1]}
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(found))
    barrier()  # before one leaves whom the other is still to be connected with


def test_processes_share_the_cores_and_leave_the_environment_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)), raising=False)
    before = dict(os.environ)
    launch(note, (tmp_path,), 2, "gloo")
    assert dict(os.environ) == before
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert (
            found["threads"] == "3" and found["torch"] == 3 and found["own session"] and found["parent"] == os.getpid()
        )
        assert [found[name] for name in NAMES[:-1]] == [str(rank), "2", str(rank), "2", "0", LOCALHOST]


def test_threads_that_the_user_chose_stay_also_where_no_signal_can_be_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    failed: list[BaseException] = []

    def start() -> None:
        try:
            launch(note, (tmp_path,), 1, "gloo")
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=start)  # as joblib's jobs may be
    thread.start()
    thread.join(HANG)
    assert not failed
    found = json.loads((tmp_path / "0.json").read_text())
    assert found["threads"] == "5" and found["torch"] == 5  # also where the first launch's had others
    assert os.environ["OMP_NUM_THREADS"] == "5"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such thing here")
def test_cores_are_those_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    assert cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def ends(how: list[str]) -> None:
    """End as said, once all are there."""
    mine = how[dist.get_rank()]
    barrier()
    if mine == "error":
        raise ValueError("of the first")
    if mine == "interrupted":
        raise Interrupted(signal.SIGTERM)
    if mine == "status":
        os._exit(3)
    try:  # "late": says what it knows when the other has gone
        barrier()
    except RuntimeError:
        raise UserError("what was wrong") from None


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        (["error", "late"], UserError, "^what was wrong$"),
        (["interrupted", "status"], TrainingError, "^process 1 of 2 ended with status 3; the others were ended$"),
    ],
)
def test_processes_that_end_after_the_first_are_still_heard(how: list[str], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        launch(ends, (how,), 2, "gloo")


def asks_for_a_signal() -> None:
    """The first process sends one to the parent, which every process then gets."""
    came = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: came.set())
    barrier()
    if dist.get_rank() == 0:
        os.kill(mp.parent_process().pid, signal.SIGUSR1)  # type: ignore[union-attr, arg-type]
    deadline = time.monotonic() + HANG / 3  # before the parent gives up waiting for this process
    while not came.is_set() and time.monotonic() < deadline:
        time.sleep(0.01)  # a handler runs between two of these
    if not came.is_set():
        raise UserError(f"process {dist.get_rank()} got no signal")
    raise Interrupted(signal.SIGUSR1)


def test_a_signal_goes_to_every_process_and_the_parent_s_own_handlers_come_back() -> None:
    got: list[int] = []

    def own(signum: int, frame: Any) -> None:
        got.append(signum)

    before = {signum: signal.signal(signum, own) for signum in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(Interrupted) as stop:
            launch(asks_for_a_signal, (), 2, "gloo")
        assert stop.value.signum == signal.SIGUSR1 and got == []
        assert all(signal.getsignal(signum) is own for signum in before)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


PARENT = """
import os, sys
from pathlib import Path
from test_launching import wait_to_be_ended
from gvr_lightning.distributed.launch import launch
if __name__ == "__main__":
    launch(wait_to_be_ended, (Path(sys.argv[1]),), 1, "gloo")
"""


def wait_to_be_ended(folder: Path) -> None:
    """A run as it behaves on SIGTERM: it saves, and leaves."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    (folder / "began").touch()
    deadline = time.monotonic() + HANG
    while not stopped.is_set() and time.monotonic() < deadline:
        time.sleep(0.01)
    (folder / ("saved" if stopped.is_set() else "forgotten")).touch()


def wait_for(arrived: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + HANG
    while not arrived() and time.monotonic() < deadline:
        time.sleep(0.02)
    return arrived()


def leave_a_trace(folder: Path) -> None:
    (folder / "worked").touch()


def test_a_signal_while_the_processes_load_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It waits until they can catch it."""
    process_class = mp.get_context(start_method("gloo")).Process
    start = process_class.start

    def start_and_interrupt(process: Any) -> None:
        start(process)
        os.kill(process.pid, signal.SIGINT)

    monkeypatch.setattr(process_class, "start", start_and_interrupt)
    with pytest.raises(Interrupted) as stop:
        launch(leave_a_trace, (tmp_path,), 2, "gloo")
    assert stop.value.signum == signal.SIGINT and not (tmp_path / "worked").exists()
    assert "Traceback" not in capfd.readouterr().err
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_processes_whose_parent_was_killed_save_and_end(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent), *sys.path])}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(tmp_path)], env=environment)
    try:
        assert wait_for(lambda: (tmp_path / "began").exists() or parent.poll() is not None) and parent.poll() is None
    finally:
        parent.kill()
        parent.wait()
    assert wait_for(lambda: (tmp_path / "saved").exists() or (tmp_path / "forgotten").exists())
    assert (tmp_path / "saved").exists()


# --- whose end is told

MISTAKE, TRAINING = Failure(1, UserError("a mistake")), Failure(1, TrainingError("not finite"))
KILLED, STOPPED = Failure(2, ProcessLookupError("was killed (SIGKILL)")), Failure(1, Interrupted(15))
OTHER = Failure(0, RuntimeError("ValueError: connection lost"), "Traceback ...\nconnection lost")


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([OTHER, KILLED, TRAINING, STOPPED, MISTAKE], UserError("a mistake")),
        ([OTHER, KILLED, STOPPED, TRAINING], TrainingError("not finite")),
        ([OTHER, STOPPED, KILLED], TrainingError("process 2 of 4 was killed (SIGKILL); the others were ended")),
        ([STOPPED, OTHER], TrainingError("process 0 of 4 failed: ValueError: connection lost")),
        ([STOPPED, Failure(0, Interrupted(2))], Interrupted(15)),  # the first that was known
    ],
)
def test_of_several_failures_the_cause_is_told(
    failures: list[Failure], expected: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    told = cause(failures, 4)
    assert (type(told), told.args) == (type(expected), expected.args)
    traceback = "Traceback ...\nconnection lost\n" if "failed" in str(expected) else ""
    assert capsys.readouterr().err == traceback  # of an error that is none of ours


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0, None),
        (3, ProcessLookupError("ended with status 3")),
        (-signal.SIGKILL, ProcessLookupError("was killed (SIGKILL): out of memory, perhaps")),
        (-signal.SIGSEGV, ProcessLookupError("was killed (SIGSEGV)")),
        (-signal.SIGTERM, Interrupted(signal.SIGTERM)),
        (-signal.SIGINT, Interrupted(signal.SIGINT)),
        (-signal.SIGUSR1, Interrupted(signal.SIGUSR1)),
    ],
)
def test_what_is_known_of_a_process_that_said_nothing(status: int, expected: BaseException | None) -> None:
    from multiprocessing import Pipe

    receive, send = Pipe(duplex=False)
    send.close()
    found = failure_of(2, status, receive)
    if expected is None:
        assert found is None
    else:
        assert found is not None and (found.rank, type(found.error), found.error.args) == (
            *(2, type(expected), expected.args),
        )


def raised(error: BaseException) -> Failure:
    """What a process reports of an error."""
    try:
        raise error
    except BaseException as caught:
        return _portable(3, caught)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyboardInterrupt(), Interrupted(signal.SIGINT)),
        (Interrupted(signal.SIGTERM), Interrupted(signal.SIGTERM)),
        (UserError("a mistake"), UserError("a mistake")),
        (TrainingError("not finite"), TrainingError("not finite")),
        (OSError(28, "No space left"), TrainingError("cannot read or write: [Errno 28] No space left")),
        (ValueError("first line\nsecond"), RuntimeError("ValueError: first line")),
        (ValueError(), RuntimeError("ValueError: ")),
    ],
)
def test_what_a_process_reports_of_an_error(error: BaseException, expected: BaseException) -> None:
    found = raised(error)
    assert (found.rank, type(found.error), found.error.args) == (3, type(expected), expected.args)
    ours = isinstance(expected, UserError | TrainingError | Interrupted)
    assert found.text == "" if ours else "in raised" in found.text and type(error).__name__ in found.text


def test_a_report_fits_into_a_pipe_whatever_the_error_says() -> None:
    """It is read once the process has ended, and that waits until it is written."""
    assert len(pickle.dumps(raised(ValueError("x" * 100_000)))) < 1 << 16
