"""AGR, adaptive gradient regularization: every gradient entry shrinks by its share of its tensor's L1 norm."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gvr_lightning.methods.optimizer_wrapper import Wrapper
from gvr_lightning.methods.shrink import alike_, alone_, by_row_, in_two_passes_, together_, whole, with_whole_rows

GRANULARITIES = ("tensor", "row")  # what sum|g| is over
_LARGE = 2**14  # a CPU tensor with so many elements is treated by itself,
_BLOCK = 2**19  # in blocks: what |g| is kept in stays cached, and its memory costs nothing to get
_TOGETHER = 2**15 - 1  # elements of small ones at a time: from 2^15 on torch's threads share a call, and wait for it
_BUCKETS = {"2-99": 100, "100-9999": 10_000, "10k+": float("inf")}  # name: the first size beyond it


@torch.no_grad()
def agr_(grads: Iterable[Tensor | None], granularity: str = "tensor", compile: bool = False) -> None:
    """Regularize gradients in place, each tensor by itself: g <- g * (1 - |g| / sum|g|).

    With granularity "row" each output unit by itself, a row of a matrix or a filter: of a tensor's entries each is a
    share of 1/n, which in a network is next to nothing, of a row's D times as much. A bias has rows of one entry, which
    stay; sparse gradients go by tensor only, else ValueError.

    With ``compile`` large tensors on a CPU go through memory in two passes instead of four, by tensor, by code of
    ``torch.compile``: some seconds at the first call, and a C++ compiler. All else is as without.

    Takes the tensors `p.grad`, or the parameters that have them, or None, else TypeError: of any shape, memory format
    and device, real or complex (|g| is the modulus), dense, sparse COO or DTensor (sum over all shards). Half precision
    goes by float32; no GPU is awaited.

    Source: Psi(g) = (1 - alpha) g, alpha = |g| / sum|g| (Jiang et al., "An Adaptive Gradient Regularization Method",
    arXiv 2407.16944). The official code turns an all-zero tensor into NaN and a one-element tensor into zero for ever;
    here both stay as they are, and so does a tensor with an infinite or NaN entry or, on a GPU, an overflowing sum.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity must be {' or '.join(GRANULARITIES)}, got {granularity!r}")
    if granularity == "row":
        for g in _nontrivial(grads, sparse=False):
            if g.shape[1:].numel() > 1:
                by_row_(with_whole_rows(g))
        return
    large, alike, others = [], defaultdict(list), defaultdict(list)
    for g in _nontrivial(grads):
        if type(g) is not Tensor or not g.is_cpu:
            others[type(g), g.device, g.dtype].append(g)
        elif g.numel() >= _LARGE:
            large.append(g)
        else:
            alike[g.shape, g.dtype].append(g)
    if large and compile:
        for g in large:
            in_two_passes_(g)
    elif large:
        buffer = torch.empty(min(_BLOCK, max(g.numel() for g in large)), dtype=torch.float32, device="cpu")
        for g in large:
            alone_(g, buffer)
    for small in alike.values():
        most = _TOGETHER // small[0].numel()
        for first in range(0, len(small), most):
            alike_(small[first : first + most])
    for group in others.values():
        together_(group)


@torch.no_grad()
def agr_statistics(grads: Iterable[Tensor | None], granularity: str = "tensor") -> dict[str, Tensor]:
    """How much AGR would change these gradients (which stay): its coefficients |g| / sum|g| by tensor (or row) size.

    Returns `mean_coef/<bucket>` and `max_coef/<bucket>` over the entries of all tensors of 2-99, 100-9999 and 10k+
    elements, as 0-d tensors that nothing has waited for, for the buckets with tensors. The mean is about 1/n, for n
    coefficients add up to 1; the maximum shows an entry nearly stopped. A tensor that AGR leaves alone counts as zeros.
    """
    found = defaultdict(list)
    for g in _nontrivial(grads, sparse=granularity == "tensor"):
        size = whole(g).abs()
        rows = size.reshape(1 if granularity == "tensor" else len(size), -1)
        n = rows.shape[1]
        if n > 1 or granularity == "tensor":
            bucket = next(name for name, beyond in _BUCKETS.items() if n < beyond)
            coefs = 1 / (rows / rows.amax(1, keepdim=True)).float().sum(1)  # NaN: all zero or non-finite
            found[bucket].append((coefs, rows.numel()))
    statistics = {}
    for bucket, of_size in found.items():
        largest = torch.cat([coefs.to(of_size[0][0]) for coefs, _ in of_size]).nan_to_num(0.0)
        statistics[f"mean_coef/{bucket}"] = (largest > 0).sum() / sum(n for _, n in of_size)
        statistics[f"max_coef/{bucket}"] = largest.max()
    return statistics


def _nontrivial(grads: Iterable[Tensor | None], sparse: bool = True) -> Iterator[Tensor]:
    if isinstance(grads, torch.nn.Module):
        raise TypeError(f"AGR works on gradients, not on a {type(grads).__name__}: agr_(model.parameters())")
    for g in [grads] if isinstance(grads, Tensor) else grads:
        if type(g) is not Tensor:  # asked first, as it costs next to nothing
            g = g.grad if isinstance(g, torch.nn.Parameter) else g
            if g is not None and not isinstance(g, Tensor):
                raise TypeError(f"AGR works on gradients, the tensors p.grad, not on {type(g).__name__}")
        if g is not None and g.numel() > 1:  # a single element would become zero, and its parameter would never train
            if g.is_sparse:
                if not sparse:
                    raise ValueError("granularity='row' takes dense gradients; AGR by tensor takes sparse ones, too")
                g = (g if g.is_coalesced() else g.copy_(g.coalesce()))._values()
            if g.numel():
                yield g


class AGR(Wrapper):
    """Any optimizer, with AGR applied once to the gradients that a step uses. TypeError for anything else.

    ``granularity`` ("tensor", as published, or "row") and ``compile`` are those of :func:`agr_`.

    `param_groups`, `state`, `state_dict()`, hooks and every other attribute are the wrapped optimizer's, so schedulers
    take the wrapper and checkpoints move between wrapped and plain. Clip before: in the closure, or before `step()`.
    Step hooks receive the wrapped optimizer; without a closure, pre-hooks see regularized gradients.
    """

    _step_supports_amp_scaling = False  # GradScaler must unscale before AGR, also where the wrapped optimizer is fused

    def __init__(self, optimizer: Optimizer, granularity: str = "tensor", compile: bool = False) -> None:
        if granularity not in GRANULARITIES:
            raise ValueError(f"granularity must be {' or '.join(GRANULARITIES)}, got {granularity!r}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"AGR wraps an instance of torch.optim.Optimizer, not {type(optimizer).__name__}")
        super().__init__(optimizer.base if isinstance(optimizer, AGR) else optimizer)  # AGR once, not twice
        self.granularity, self.compile = granularity, compile

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Regularize, then update. With a closure, AGR follows every call of it: gradients exist only then."""
        if closure is None:
            self._regularize()
            return self.base.step()
        evaluate = torch.enable_grad()(closure)
        return self.base.step(lambda: self._regularize(evaluate()))

    def _regularize(self, loss: Any = None) -> Any:
        agr_([p.grad for group in self.param_groups for p in group["params"]], self.granularity, self.compile)
        return loss

    def __reduce__(self) -> Any:  # without a scheduler's `step`, which is bound to this very object
        return AGR, (self.base, self.granularity, self.compile)

    def __repr__(self) -> str:
        settings = {"granularity": (self.granularity, "tensor"), "compile": (self.compile, False)}
        changed = "".join(f", {name}={value!r}" for name, (value, default) in settings.items() if value != default)
        return f"AGR({self.base!r}{changed})"
