"""The processes of a run: how they meet, and what they say to each other on the CPU."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.distributed.external import LOCALHOST, Place
from gvr_lightning.errors import UserError


def join(place: Place, backend: str, patience: float = 600.0) -> None:
    """Meet the other processes; what Lightning and torch read from the environment says the same.

    Args:
        place: of this process.
        backend: of torch.distributed.
        patience: seconds to wait for those that have not come.

    Raises:
        UserError: for an address that leads nowhere, or processes that do not come.
    """
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
    named = dist.PrefixStore(f"gvr/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", _store(place, patience))
    _wait_for_all(place, named, patience)
    dist.init_process_group(backend, store=named, rank=place.rank, world_size=place.processes)
    longest = timedelta(days=1)  # that decoding a data set may take
    _Control.group = dist.new_group(backend="gloo", timeout=longest)


def _store(place: Place, patience: float) -> Any:
    where, reason = f"{place.address}:{place.port}", ""
    try:
        socket.getaddrinfo(place.address, place.port)
    except OSError as error:  # the name of no machine
        raise UserError(f"process {place.rank}: there is no machine {place.address} ({error.strerror})") from error
    serves = place.serves and place.rank == 0
    for seconds in _patiences(patience):
        try:
            longest = timedelta(seconds=seconds)
            return dist.TCPStore(place.address, place.port, place.processes, serves, longest, wait_for_workers=False)
        except RuntimeError as error:
            reason = " ".join(str(error).splitlines()[:1])[:200]
            if seconds < patience and not serves:
                print(f"process {place.rank}: waiting for the first one at {where} ...", file=sys.stderr)
            elif serves:
                break
    raise UserError(f"process {place.rank} of {place.processes} does not meet the others at {where}: {reason}")


def _patiences(patience: float) -> tuple[float, float]:
    """Seconds until it is told that a process waits, and until it gives up."""
    return min(10.0, patience / 2), patience


def _wait_for_all(place: Place, store: Any, patience: float) -> None:
    """Until every process has said that it is there; that some are missing is told after a while."""
    store.set(f"here/{place.rank}", "")
    names = [f"here/{rank}" for rank in range(place.processes)]
    for seconds in _patiences(patience):
        try:
            store.wait(names, timedelta(seconds=seconds))
            return
        except RuntimeError:  # it took longer
            missing = [rank for rank, name in enumerate(names) if not store.check([name])]
            there = f"{place.processes - len(missing)} of {place.processes} processes are here"
            if place.rank == 0 and seconds < patience:
                print(f"{there}: waiting for {', '.join(map(str, missing[:9]))} ...", file=sys.stderr)
    raise UserError(f"{there} after {patience:g} s: start the others, too, or set trainer.timeout")


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


def total(values: Tensor) -> Tensor:
    """The sum over the processes, of numbers on the CPU; those given stay as they are."""
    if rank_and_size()[1] > 1:
        values = values.clone()
        dist.all_reduce(values, dist.ReduceOp.SUM, _Control.group)
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
