"""The processes of a run: how they meet, and what they say to each other on the CPU."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.distributed.external import LOCALHOST, Place


def join(place: Place, backend: str) -> None:
    """Meet the other processes; what Lightning and torch read from the environment says the same."""
    os.environ.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.processes),
        LOCAL_RANK=str(place.local_rank),
        LOCAL_WORLD_SIZE=str(place.local_processes),
        NODE_RANK=str(place.rank // place.local_processes),
        MASTER_ADDR=place.address,
        MASTER_PORT=str(place.port),
    )
    if place.address == LOCALHOST and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine need not be able to look up its own name
    serves = place.serves and place.rank == 0
    store = dist.TCPStore(place.address, place.port, place.processes, serves, wait_for_workers=False)
    named = dist.PrefixStore(f"gvr/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=named, rank=place.rank, world_size=place.processes)
    longest = timedelta(days=1)  # that decoding a data set may take
    _Control.group = dist.new_group(backend="gloo", timeout=longest)


class _Control:
    """A group on the CPU for what the programs say to each other, so that no GPU waits for it."""

    group: Any = None


def barrier() -> None:
    """Wait for all processes, for a day at most."""
    if rank_and_size()[1] > 1:
        dist.barrier(_Control.group)


def broadcast(value: Any) -> Any:
    """What process 0 has."""
    box = [value]
    if rank_and_size()[1] > 1:
        dist.broadcast_object_list(box, 0, _Control.group)
    return box[0]


def largest(values: Tensor) -> Tensor:
    """The largest over the processes, of numbers on the CPU."""
    if rank_and_size()[1] > 1:
        dist.all_reduce(values, dist.ReduceOp.MAX, _Control.group)
    return values


@contextmanager
def one_a_machine_first() -> Iterator[None]:
    """Each machine's first process does this before the others, which then find what it left in the cache."""
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0
    if not first:
        barrier()
    yield
    if first:
        barrier()
