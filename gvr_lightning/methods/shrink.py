"""AGR on gradients of a kind, each kind in the fewest passes and calls. Imports torch only."""

import torch
from torch import Tensor


def whole(t: Tensor) -> Tensor:
    """Of a DTensor what all its shards make together."""
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def together_(grads: list[Tensor]) -> None:
    """AGR on tensors of one device and type, in as few kernels as for a single one."""
    sizes = [size.to(torch.promote_types(size.dtype, torch.float32)) for size in torch._foreach_abs(grads)]
    fused = not sizes[0].is_cpu and not hasattr(sizes[0], "full_tensor")  # on a CPU the norm is slow and 2% wrong
    totals = whole(torch.stack(torch._foreach_norm(sizes, 1) if fused else [size.sum() for size in sizes]))
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
    if len(grads) == 1:
        by_row_(grads[0].unsqueeze(0))
        return
    together = torch.stack(grads)
    by_row_(together)
    torch._foreach_copy_(grads, together.unbind())


def alone_(g: Tensor, buffer: Tensor) -> None:
    """AGR on a large CPU tensor, a float32 one by way of the buffer."""
    flat = g if g.is_contiguous() else g.permute(sorted(range(g.dim()), key=g.stride, reverse=True))  # in memory order
    blocks = flat.view(-1).split(len(buffer)) if g.dtype == torch.float32 and flat.is_contiguous() else ()
    total = sum(torch.abs(block, out=buffer[: len(block)]).sum().item() for block in blocks)
    if 1e-30 < total < 1e30:  # then multiplying by 1 / total is accurate, and saves a pass
        for block in blocks:
            size = buffer[: len(block)]  # of a single block: still there
            block.addcmul_(block, size if len(blocks) == 1 else torch.abs(block, out=size), value=-1 / total)
    else:
        by_row_(g.unsqueeze(0))
