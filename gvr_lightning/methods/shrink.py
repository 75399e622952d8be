"""AGR on gradients of a kind, each kind in the fewest passes and calls. Imports torch only."""

from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from itertools import accumulate
from math import inf

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from gvr_lightning.methods.layout import by_stride, part_like
from gvr_lightning.methods.upload import upload

_ROW = 1024  # entries with a sum of their own: as one running sum, each addition would wait for that before it
_AT_ONCE = 2**25  # entries on a GPU: as many numbers are kept beside them


def whole(t: Tensor) -> Tensor:
    """Of a DTensor what all its shards make together."""
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def together_(grads: list[Tensor]) -> None:
    """AGR on tensors of one device and type, by operations on all of them."""
    if not (grads[0].is_cpu or grads[0].is_complex() or hasattr(grads[0], "full_tensor")):
        for some in _at_most(_AT_ONCE, grads):
            in_rows_(some)
        return
    sizes = [size.to(torch.promote_types(size.dtype, torch.float32)) for size in torch._foreach_abs(grads)]
    totals = whole(torch.stack([size.sum() for size in sizes]))  # on a CPU the norm is slow and 2% wrong
    if totals.is_cpu and totals.isinf().any():
        sizes = [size.double() for size in sizes]
        totals = whole(torch.stack([size.sum() for size in sizes]))
    totals = torch.where(totals > 0, totals, torch.inf)  # of zeros or NaN: with infinity the tensor stays as it is
    torch._foreach_clamp_max_(sizes, torch.finfo(sizes[0].dtype).max)  # inf / inf would be NaN
    torch._foreach_div_(sizes, totals.neg().unbind())  # not times 1 / sum, which overflows for a denormal sum
    torch._foreach_add_(sizes, 1)
    if grads[0].is_complex():  # as pairs of reals: infinity times a complex 1 is NaN
        grads = [torch.view_as_real(g.conj() if g.is_conj() else g) for g in grads]
        sizes = [size.unsqueeze(-1) for size in sizes]
    torch._foreach_mul_(grads, sizes)


def in_rows_(grads: list[Tensor]) -> None:
    """AGR on real tensors of one GPU and type, in as few kernels as for a single one.

    Their sizes |g| begin at rows of one matrix, so that one kernel divides each by its own sum: on lists of tensors of
    unlike shapes, such as tensors and their sums, torch takes a kernel for each.
    """
    rows_of = _rows_of.__wrapped__ if is_in_torch_dispatch_mode() else _rows_of  # no fake tensor is kept
    starts, owner = rows_of(tuple(g.numel() for g in grads), grads[0].device)
    wide = torch.promote_types(grads[0].dtype, torch.float32)
    rows = torch.empty(len(owner), _ROW, dtype=wide, device=grads[0].device)
    flat = rows.view(-1)
    sizes = [part_like(flat, start, g) for g, start in zip(grads, starts, strict=True)]
    torch._foreach_copy_(sizes, grads)
    rows.abs_()
    totals = torch.stack(torch._foreach_norm(sizes, 1))
    totals = torch.where(totals > 0, totals, torch.inf)  # of zeros or NaN: with infinity the tensor stays as it is
    rows.clamp_max_(torch.finfo(wide).max)  # inf / inf would be NaN
    each = totals.neg_().index_select(0, owner).unsqueeze(1)
    rows.div_(each).add_(1)  # not times 1 / sum, which overflows for a denormal sum
    torch._foreach_mul_(grads, sizes)


@lru_cache(maxsize=256)  # fewer than a step has lists, and each step would make all anew; 0.3 MB each at most
def _rows_of(numbers: tuple[int, ...], device: torch.device) -> tuple[list[int], Tensor]:
    """Where in a matrix of whole rows each of some vectors of these lengths begins, and whose each row is."""
    rows = [-(-n // _ROW) for n in numbers]
    starts = [(end - n) * _ROW for n, end in zip(rows, accumulate(rows), strict=True)]
    owner = torch.tensor([i for i, n in enumerate(rows) for _ in range(n)])
    return starts, upload(owner, device)


def _at_most(entries: int, grads: list[Tensor]) -> Iterator[list[Tensor]]:
    """In lists of no more entries together, but for a single tensor that has more."""
    some: list[Tensor] = []
    left = entries
    for g in grads:
        left -= g.numel()
        if left < 0 and some:
            yield some
            some, left = [], entries - g.numel()
        some.append(g)
    yield some


def with_whole_rows(g: Tensor) -> Tensor:
    """Of a DTensor whose rows are divided among the processes, as FSDP does, those that are here."""
    if not hasattr(g, "placements"):
        return g
    if any(getattr(place, "dim", 0) > 0 for place in g.placements):
        raise ValueError("granularity='row' takes DTensors that are divided by rows: this one is divided within them")
    here: Tensor = g.to_local()  # type: ignore[attr-defined]
    return here


def by_row_(g: Tensor) -> None:
    """AGR on each row of a dense tensor, in one pass over all of them."""
    size = g.abs()
    size = size.to(torch.promote_types(size.dtype, torch.float32))
    dims = tuple(range(1, g.dim()))
    totals = size.sum(dims, keepdim=True)
    if totals.is_cpu and totals.isinf().any():
        size = size.double()
        totals = size.sum(dims, keepdim=True)
    totals = torch.where(totals > 0, totals, torch.inf)  # of zeros or NaN: with infinity the row stays as it is
    coefs = size.clamp_max_(torch.finfo(size.dtype).max).div_(-totals).add_(1)
    if g.is_complex():  # as pairs of reals: infinity times a complex 1 is NaN
        g, coefs = torch.view_as_real(g.conj() if g.is_conj() else g), coefs.unsqueeze(-1)
    g.mul_(coefs)


def alike_(grads: list[Tensor]) -> None:
    """AGR on CPU tensors of one shape, as rows of one: many small ones cost as many calls, not their entries."""
    together = torch.stack(grads) if len(grads) > 1 else grads[0].unsqueeze(0)
    if not _plain_rows_(together):
        by_row_(together)
    if len(grads) > 1:
        torch._foreach_copy_(grads, together.unbind())


def _plain_rows_(g: Tensor) -> bool:
    """AGR on each row by half as many calls, where every row has a finite sum that is not zero: whether it was done."""
    if g.dtype not in (torch.float32, torch.float64) or not g.is_contiguous():
        return False
    rows = g.view(len(g), -1)
    size = rows.abs()
    totals = size.sum(1, keepdim=True)
    if not all(0 < total < inf for total in totals.flatten().tolist()):
        return False
    rows.addcmul_(rows, size.div_(totals), value=-1)
    return True


def in_two_passes_(g: Tensor) -> None:
    """AGR on a large CPU tensor by compiled code, of any length, that reads it once and then reads and writes it."""
    flat = _in_memory_order(g)
    if g.is_complex() or not flat.is_contiguous():
        by_row_(g.unsqueeze(0))
        return
    flat = flat.view(-1)
    rest = len(flat) % _ROW
    wide = torch.promote_types(g.dtype, torch.float32)
    outside = flat[-rest:].abs().sum(dtype=wide) if rest else torch.zeros((), dtype=wide)
    if _compiled()(flat, outside).item() == inf:  # of finite entries, or nothing has changed
        by_row_(g.unsqueeze(0))


@cache
def _compiled() -> Callable[[Tensor, Tensor], Tensor]:
    return torch.compile(_shrink_, dynamic=True)


def _shrink_(flat: Tensor, rest: Tensor) -> Tensor:
    """AGR on a vector of whole rows, and of a rest with this sum; returns the sum, of zeros or NaN infinity.

    With an infinite sum the vector stays as it is.
    """
    rows = flat[: len(flat) // _ROW * _ROW].view(-1, _ROW)
    total = rows.abs().to(rest.dtype).sum(1).sum() + rest
    total = torch.where(total > 0, total, torch.inf)
    size = flat.abs().to(rest.dtype).clamp_max(torch.finfo(rest.dtype).max)  # inf / inf would be NaN
    flat.mul_(1 - size / total)
    return total


def _in_memory_order(g: Tensor) -> Tensor:
    return g if g.is_contiguous() else g.permute(by_stride(g))


def alone_(g: Tensor, buffer: Tensor) -> None:
    """AGR on a large CPU tensor, a float32 one by way of the buffer."""
    flat = _in_memory_order(g)
    blocks = flat.view(-1).split(len(buffer)) if g.dtype == torch.float32 and flat.is_contiguous() else ()
    total = sum(torch.abs(block, out=buffer[: len(block)]).sum().item() for block in blocks)
    if 1e-30 < total < 1e30:  # then multiplying by 1 / total is accurate, and saves a pass
        for block in blocks:
            size = buffer[: len(block)]  # of a single block: still there
            block.addcmul_(block, size if len(blocks) == 1 else torch.abs(block, out=size), value=-1 / total)
    else:
        by_row_(g.unsqueeze(0))
