"""The pool of processes that other tests use: what it answers is the answer to this call."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from pool import LONGEST, Pool

HANG = 60  # seconds after which a process gives up waiting for a file


@pytest.fixture
def two() -> Iterator[Pool]:
    pool = Pool(2)
    yield pool
    pool.close()


def answer(value: int) -> tuple[int, int]:
    return dist.get_rank(), value


def answer_late(value: int, release: Path) -> tuple[int, int]:
    """Process 0 answers once it may."""
    deadline = time.monotonic() + HANG
    while dist.get_rank() == 0 and not release.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return answer(value)


def fail_in_one() -> None:
    if dist.get_rank() == 1:
        raise ValueError("not in this one")


def leave() -> None:
    if dist.get_rank() == 1:
        os._exit(3)


def test_a_late_answer_is_not_that_of_the_next_call(two: Pool, tmp_path: Path) -> None:
    assert two(answer, 1) == [(0, 1), (1, 1)]
    two.longest = 0.1
    with pytest.raises(AssertionError, match="process 0 does not answer"):
        two(answer_late, 2, tmp_path / "release")
    two.longest = LONGEST
    (tmp_path / "release").touch()
    assert two(answer, 3) == [(0, 3), (1, 3)]
    with pytest.raises(AssertionError, match=r"process 1: (?s:.*)ValueError: not in this one"):
        two(fail_in_one)
    assert two(answer, 4) == [(0, 4), (1, 4)]
    with pytest.raises(AssertionError, match="process 1 has ended"):
        two(leave)
