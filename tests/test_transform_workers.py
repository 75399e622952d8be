"""A transform of one's own in processes: the pixels of the step's own process, and how such processes end."""

import multiprocessing as mp
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handed_out import Handed, assert_same, handed_out
from hydra import compose, initialize_config_dir
from pool import Pool
from runs import tiny_run
from torch import Tensor

from gvr_lightning.app.build import build_data
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.data import transform_workers
from gvr_lightning.data.augmentation import PerImage
from gvr_lightning.data.batch_maker import VIEW
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.data.mixing import Mixing
from gvr_lightning.data.transform_workers import KILLED, Transformed, TransformWorkers
from gvr_lightning.errors import STOPPING, TrainingError, UserError
from gvr_lightning.random import hash_key

N = 46
MAIN = os.getpid()
IMAGES = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (N, 3, 6, 5)).astype(np.uint8))
KEYS = [3, -8]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that these few images are divided among the processes."""
    monkeypatch.setattr(transform_workers, "LEAST", 2)


def drawn(image: Tensor) -> Tensor:
    """What draws often, and changes the size."""
    top = int(torch.randint(0, 3, ()))
    return image[:, top : top + 4].float() / 255 * torch.rand(())


def module(transform: Callable[[Tensor], Tensor] = drawn, workers: int | None = 0, **options: Any) -> ViewsDataModule:
    part = ImageSet(IMAGES, torch.arange(N) % 3)
    splits = Splits(part, ImageSet(IMAGES[:5], torch.zeros(5, dtype=torch.int64)), ("a", "b", "c"), "")
    options = {"views": 2, "batch_size": 13, "seed": 3, "val_fraction": 0, "mean": [0.25], "std": [0.5]} | options
    data = ViewsDataModule(lambda: splits, PerImage(transform), transform_workers=workers, **options)
    data.setup()
    return data


@pytest.fixture
def started() -> Iterator[Callable[..., TransformWorkers]]:
    """Processes of a transform, which are ended."""
    made = []

    def start(transform: Callable[[Tensor], Tensor], workers: int = 2) -> TransformWorkers:
        made.append(TransformWorkers(Transformed(IMAGES, PerImage(transform)), workers))
        return made[-1]

    yield start
    for each in made:
        each.close()


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process ends in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


# --- pixels


@pytest.fixture(scope="module")
def at_once() -> Handed:
    """What the step's own process makes."""
    return handed_out(module())


def test_pixels_are_drawn_by_seed_epoch_sample_and_view_alone(at_once: Handed) -> None:
    assert {number for part, number in at_once if part == "train"} == set(range(N))
    for number in (0, 7, N - 1):
        for view in range(2):
            torch.manual_seed(hash_key(hash_key(VIEW, 3, 1, view), number))
            expected = (drawn(IMAGES[number]) - 0.25) / 0.5
            np.testing.assert_array_equal(at_once["train", number][view], expected)
        assert at_once["train", number][2] == number % 3


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_so_many_processes_make_the_same_pixels(workers: int, at_once: Handed) -> None:
    assert_same(at_once, handed_out(module(workers=workers)))


def test_the_processes_of_one_epoch_make_the_next_one_s_pixels(at_once: Handed) -> None:
    data = module(workers=2)
    end, data.teardown = data.teardown, lambda stage: None  # type: ignore[method-assign]
    assert_same(handed_out(module(), epoch=0), handed_out(data, epoch=0))
    first = mp.active_children()
    assert_same(at_once, handed_out(data))
    assert mp.active_children() == first and len(first) >= 2
    end("fit")


def test_an_epoch_that_goes_on_makes_the_same_pixels(at_once: Handed) -> None:
    data = module(workers=2)
    rest = handed_out(data, first=2)
    assert len(rest) == N - 26 + 5
    assert_same({name: at_once[name] for name in rest}, rest)


def of_a_process(workers: int, mixed: bool, micro_batches: int) -> Handed:
    """In one of several."""
    transform_workers.LEAST = 2
    mixing = Mixing(0.5, 1.0, prob=0.8) if mixed else None
    return handed_out(module(workers=workers, mixing=mixing), 0, micro_batches)


@pytest.mark.parametrize("mixed", [False, True])
def test_several_processes_of_a_run_see_the_same_pixels(two: Pool, four: Pool, mixed: bool) -> None:
    whole = of_a_process(0, mixed, 1)
    assert_same(whole, *two(of_a_process, 2, mixed, 1))
    assert_same(whole, *four(of_a_process, 1, mixed, 2))


# --- what is told


def fails(image: Tensor) -> Tensor:
    """In the others only."""
    if os.getpid() != MAIN:
        raise OSError("no\nsuch table")
    return image


def test_a_transform_that_fails_is_one_line_with_its_name() -> None:
    with pytest.raises(UserError) as caught:
        handed_out(module(fails, 2))
    assert str(caught.value) == "data.transform (fails): OSError: no such table"
    assert "in fails" in caught.value.details


def test_views_of_unlike_sizes_are_told_wherever_they_are_joined(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transform_workers, "LEAST", 1)
    made = started(lambda image: image[:, : 3 + int(image[0, 0, 0]) % 2])
    odd = [int((IMAGES[:, 0, 0, 0] % 2 == parity).nonzero()[0]) for parity in (0, 1)]
    with pytest.raises(UserError, match=r"data\.transform \(.*<lambda>\): RuntimeError: Sizes of tensors must match"):
        made(torch.tensor(odd), KEYS, False)


def test_a_process_that_is_killed_is_told(started: Any) -> None:
    made = started(lambda image: os.kill(os.getpid(), signal.SIGKILL))
    for _ in range(2):
        with pytest.raises(TrainingError) as caught:
            made(torch.arange(N), KEYS, False)
        assert str(caught.value) == KILLED


def test_what_pickle_does_not_take_is_told_where_processes_are_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp, "get_all_start_methods", lambda: ["spawn", "fork"])
    with pytest.raises(UserError, match=r"^data\.transform_workers: no process starts by spawn, .* \(0 does without\)"):
        TransformWorkers(Transformed(IMAGES, PerImage(lambda image: image)), 1)


# --- what such a process is, and its end


def told_by(started: Any, what: Callable[[], int]) -> int:
    """What each of them answers."""
    made = started(lambda image: torch.full((1, 1, 1), what()), 1)
    return int(made(torch.arange(1), [0], False))


def test_a_process_has_one_thread_of_torch_s_and_no_ear_for_signals(started: Any) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert told_by(started, torch.get_num_threads) == 1
    finally:
        torch.set_num_threads(before)
    made = started(lambda image: torch.full((1, 1, 1), os.getpid()), 1)
    (pid,) = {int(made(torch.arange(1), [0], False)) for _ in range(2)}
    for signum in STOPPING:
        os.kill(pid, signum)
    assert int(made(torch.arange(1), [0], False)) == pid


def test_images_are_in_the_memory_of_one_process(started: Any) -> None:
    """What was forked sees what is there; what was sent would have been pickled, which none of this can be."""
    images = IMAGES.clone()
    assert told_by(started, images.data_ptr) == images.data_ptr()


def test_processes_end_whatever_they_are_at(started: Any) -> None:
    begun = mp.Value("i", 0)

    def stuck(image: Tensor) -> Tensor:
        begun.value = os.getpid()
        time.sleep(15)
        return image

    made = started(stuck, 1)
    made._pool.submit(transform_workers._views, [0], KEYS)
    while not begun.value:
        time.sleep(0.01)
    since = time.monotonic()
    made.close()
    assert gone(begun.value) and time.monotonic() - since < 10


def test_processes_end_with_the_run_s(started: Any) -> None:
    send, receive = mp.Pipe()

    def run() -> None:
        made = TransformWorkers(Transformed(IMAGES, PerImage(lambda image: torch.full((1, 1, 1), os.getpid()))), 2)
        send.send(int(made(torch.arange(1), [0], False)))
        os.kill(os.getpid(), signal.SIGKILL)

    process = mp.get_context("fork").Process(target=run)
    process.start()
    pid = receive.recv()
    process.join()
    assert gone(pid)


# --- whole runs

OWN = "data.transform={_target_: hydra.utils.get_method, path: test_transform_workers.%s}"
SLOW = [0.4]


def slow_at_first(image: Tensor) -> Tensor:
    """When it is called for the images' size, before the training."""
    time.sleep(SLOW.pop() if SLOW else 0)
    return image.roll(int(torch.randint(0, 3, ())), -1)


def test_the_key_arrives() -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        line = ["name=x", OWN % "slow_at_first", "data.transform_workers=3"]
        assert build_data(compose("config", line)).transform_workers == 3


def test_a_run_tells_how_long_its_steps_waited_and_leaves_nobody(tmp_path: Path) -> None:
    before = set(mp.active_children())
    run = [OWN % "slow_at_first", "regularizer=gvr"]
    found = [tiny_run(tmp_path / str(n), *run, f"data.transform_workers={n}") for n in (0, 2)]
    assert set(mp.active_children()) <= before
    for summary in found:
        assert summary["status"] == "finished" and 0 < summary["train"]["data_wait"] < 1
    assert found[0]["metrics"]["train/loss"] == found[1]["metrics"]["train/loss"]


def test_a_run_that_fails_leaves_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(mp.active_children())
    with pytest.raises(UserError, match=r"^data\.transform \(fails\): OSError: no such table$"):
        tiny_run(tmp_path, OWN % "fails")
    assert set(mp.active_children()) <= before
