"""The gradient-variance penalty as pure functions. Imports torch only.

Legend: V views, B samples, C classes, D features, L_v the loss of view v; z = W h + b the last layer with
features h (B, D) and logits z (B, C); d = dL/dz (B, C); g_v the gradient of L_v.
Every penalty is the mean of ||g_u - g_v||^2 over the pairs of views, which is ||g_1 - g_2||^2 for two.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from gvr_lightning.distributed.shards import Share, mean_over_processes
from gvr_lightning.gram import gram_distance, gram_is_cheaper

Criterion = Callable[[Tensor, Tensor], Tensor]


def gradient_variance(losses: Sequence[Tensor], params: Iterable[Tensor], processes: int = 1) -> Tensor:
    """Mean over all pairs of views of sum_p ||dL_u/dp - dL_v/dp||^2, by double backward: any loss, any layers.

    This is the definition; :func:`last_layer_variance` equals it for a linear last layer at a lower price.

    Args:
        losses: the V >= 2 scalar losses of the V views, with their graphs.
        params: the parameters whose gradients are compared; one that a loss does not use has gradient zero there.
        processes: that each have a part of the losses, whose mean over them is meant (see distributed/shards.py).

    Returns:
        A differentiable scalar, float32 at least.

    Raises:
        ValueError: for fewer than two losses, a loss that is not a scalar, or no parameter that takes part.
    """
    losses, params = list(losses), list(params)
    _check_losses(losses)
    if not params:
        raise ValueError("gradient_variance needs at least one parameter")
    # Autocast would rerun the graph's own operations in half precision.
    with torch.autocast(losses[0].device.type, enabled=False):
        by_view = [torch.autograd.grad(loss, params, create_graph=True, allow_unused=True) for loss in losses]
        by_param = [
            [torch.zeros_like(p) if g is None else g for g in grads]
            for p, grads in zip(params, zip(*by_view, strict=True), strict=True)
            if any(g is not None for g in grads)
        ]
        if not by_param:
            raise ValueError("gradient_variance: none of the parameters takes part in any of the losses")
        return _mean_pair_distance(by_param, processes)


def last_layer_variance(
    losses: Sequence[Tensor],
    logits: Sequence[Tensor],
    features: Sequence[Tensor],
    bias: bool = True,
    share: Share | None = None,
) -> Tensor:
    """The same for the linear last layer z = W h + b, in closed form: g_W = d^T h and g_b = sum_i d_i.

    A first-order expression in z and h: nothing is differentiated twice but the loss itself, so the network may be
    compiled, run in mixed precision, or use kernels without second derivatives. For a wide layer and few rows it takes
    inner products of rows, and never forms a (C, D) matrix (gram.py): the value is the same.

    Args:
        losses: V >= 2 scalars, each a function of its own logits.
        logits: V tensors (B_v, C) that the losses were computed from.
        features: V tensors (B_v, D) that the last layer got; B_v may differ between views.
        bias: whether the last layer has a bias.
        share: which part of each view's rows is here; None: there is one process.

    Returns:
        A differentiable scalar, float32 at least, equal to ``gradient_variance(losses, last_layer.parameters())``; of
        several processes, one whose mean over them is.

    Raises:
        ValueError: for fewer than two losses, or a loss that is not a scalar.
    """
    _check_losses(losses)
    processes = share.processes if share else 1
    with torch.autocast(losses[0].device.type, enabled=False):
        d = [at_least_float32(torch.autograd.grad(loss, z, create_graph=True)[0]) for loss, z in _zip(losses, logits)]
        h = [at_least_float32(f) for f in features]
        # as many as are sent: every process sends as many as any may have
        rows = share.most * processes if share else max(len(z) for z in logits)
        pairs = list(combinations(range(len(d)), 2))
        if gram_is_cheaper(rows, d[0].shape[1], h[0].shape[1], processes, len(d)):
            distances = [gram_distance((d[u], d[v]), (h[u], h[v]), bias, share) for u, v in pairs]
            return torch.stack(distances).mean()
        by_param = [[dv.T @ hv for dv, hv in _zip(d, h)]]
        if bias:
            by_param.append([dv.sum(0) for dv in d])
        return _mean_pair_distance(by_param, processes)


def per_sample_variance(
    criterion: Criterion,
    logits: Sequence[Tensor],
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    bias: bool = True,
    weight: float = 1.0,
) -> Tensor:
    """Mean over the samples of each sample's own penalty: (1/B) sum_i ||d1_i h1_i^T - d2_i h2_i^T||^2 (+ the bias).

    The batch's penalty averages gradients first and so shrinks with B; this one does not. It never forms a (C, D)
    matrix: with Delta the difference and bar the mean of two views, the matrix is Delta d bar h^T + bar d Delta h^T,
    so its norm needs inner products only, O(B (C + D)) time and memory, and does not cancel when views agree.

    Args:
        criterion: (logits, target) -> scalar; it is applied to one sample at a time (by vmap), so that its reduction
            does not matter.
        logits: V tensors (B, C); row i is the same sample in each.
        features: V tensors (B, D).
        targets: V tensors (B, ...).
        bias: whether the last layer has a bias.
        weight: of these samples' mean, where other processes have more of the batch.

    Returns:
        A differentiable scalar, float32 at least.
    """

    def one(z: Tensor, y: Tensor) -> Tensor:
        return criterion(z.unsqueeze(0), y.unsqueeze(0))

    with torch.autocast(logits[0].device.type, enabled=False):
        z32 = [at_least_float32(z) for z in logits]
        h = [at_least_float32(f) for f in features]
        losses = [torch.vmap(one)(z, y).sum() for z, y in _zip(z32, targets)]
        _check_losses(losses)
        d = [torch.autograd.grad(loss, z, create_graph=True)[0] for loss, z in _zip(losses, z32)]
        pairs = [_outer_distance(d[u], h[u], d[v], h[v], bias) for u, v in combinations(range(len(d)), 2)]
        return torch.stack(pairs).mean(0).mean() * weight


def _outer_distance(d1: Tensor, h1: Tensor, d2: Tensor, h2: Tensor, bias: bool) -> Tensor:
    """||d1_i h1_i^T - d2_i h2_i^T||^2 (+ ||d1_i - d2_i||^2) for every row i, shape (B,)."""
    dd, dm, dh, hm = d1 - d2, (d1 + d2) / 2, h1 - h2, (h1 + h2) / 2
    dd2 = dd.square().sum(1)
    weight = dd2 * hm.square().sum(1) + dm.square().sum(1) * dh.square().sum(1)
    weight = weight + 2 * (dd * dm).sum(1) * (hm * dh).sum(1)
    return weight + dd2 if bias else weight


def _mean_pair_distance(by_param: Sequence[Sequence[Tensor]], processes: int) -> Tensor:
    """Mean of ||g_u - g_v||^2 over all pairs = 2/(V-1) sum_v ||g_v - mean g||^2: linear in V, and no cancellation.

    Args:
        by_param: the gradients of all views, for each parameter.
        processes: over which gradients are averaged first.
    """
    by_param = [[at_least_float32(g) for g in grads] for grads in by_param]
    if processes > 1:
        by_param = _over_processes(by_param)
    terms = []
    for grads in by_param:
        mean = torch.stack(list(grads)).mean(0)
        terms += [(g - mean).square().sum() for g in grads]
    return 2 / (len(by_param[0]) - 1) * torch.stack(terms).sum()


def _over_processes(by_param: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """The gradients less those of the first view, averaged: differences are all that counts, so V - 1 are sent."""
    differences = [g - grads[0] for grads in by_param for g in grads[1:]]
    averaged = iter(mean_over_processes(differences))
    return [[torch.zeros_like(grads[0]), *(next(averaged) for _ in grads[1:])] for grads in by_param]


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision to float32; anything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _check_losses(losses: Sequence[Tensor]) -> None:
    if len(losses) < 2:
        raise ValueError(f"a gradient variance needs the losses of two views or more, got {len(losses)}")
    for loss in losses:
        if loss.numel() != 1:
            raise ValueError(f"each view's loss must be a scalar, got shape {tuple(loss.shape)}; reduce it first")


def _zip(left: Sequence[Tensor], right: Sequence[Tensor]) -> "zip[tuple[Tensor, Tensor]]":
    return zip(left, right, strict=True)
