"""The gradient-variance penalty as pure functions. Imports torch only.

Legend: V views, B samples, C classes, D features, L_v the loss of view v; z = W h + b the last layer with
features h (B, D) and logits z (B, C); d = dL/dz (B, C); g_v the gradient of L_v.
Every penalty is the mean of ||g_u - g_v||^2 over the pairs of views, which is ||g_1 - g_2||^2 for two; g is that of the
global batch, wherever there is a process group.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from gvr_lightning.distributed.batch import over_batch, product_norm, product_norm_is_cheaper, rank_and_size
from gvr_lightning.methods.gvr.outer import outer_distance, with_ones
from gvr_lightning.methods.passes import Criterion, at_least_float32


def gradient_variance(losses: Sequence[Tensor], params: Iterable[Tensor]) -> Tensor:
    """Mean over all pairs of views of sum_p ||dL_u/dp - dL_v/dp||^2, by double backward: any loss, any layers.

    This is the definition; :func:`last_layer_variance` equals it for a linear last layer at a lower price.

    Args:
        losses: the V >= 2 scalar losses of the V views, with their graphs; of several processes, those whose mean over
            them is the global batch's (each one's own mean loss, where all have as many rows).
        params: the parameters whose gradients are compared; one that a loss does not use has gradient zero there.

    Returns:
        A differentiable scalar, float32 at least.

    Raises:
        ValueError: for fewer than two losses, a loss that is not a scalar, or no parameter that takes part.
    """
    if isinstance(params, torch.nn.Module):
        raise ValueError(f"params is a module: give {type(params).__name__}'s parameters, model.parameters()")
    losses, params = list(losses), list(params)
    _check_losses(losses)
    if not params:
        raise ValueError("gradient_variance needs at least one parameter")
    # Autocast would rerun the graph's own operations in half precision.
    with torch.autocast(losses[0].device.type, enabled=False):
        by_view = [_gradients(loss, params) for loss in losses]
        by_param = [
            [torch.zeros_like(p) if g is None else g for g in grads]
            for p, grads in zip(params, zip(*by_view, strict=True), strict=True)
            if any(g is not None for g in grads)
        ]
        if not by_param:
            raise ValueError("gradient_variance: none of the parameters takes part in any of the losses")
        return _mean_pair_distance(by_param)


def last_layer_variance(
    losses: Sequence[Tensor],
    logits: Sequence[Tensor],
    features: Sequence[Tensor],
    bias: bool = True,
    most: int | None = None,
) -> Tensor:
    """The same for the linear last layer z = W h + b, in closed form: g_W = d^T h and g_b = sum_i d_i.

    A first-order expression in z and h: nothing is differentiated twice but the loss itself, so the network may be
    compiled, run in mixed precision, or use kernels without second derivatives. For a wide layer and few rows it takes
    inner products of rows, and never forms a (C, D) matrix: the value is the same.

    Args:
        losses: V >= 2 scalars, each a function of its own logits.
        logits: V tensors (B_v, C) that the losses were computed from.
        features: V tensors (B_v, D) that the last layer got; B_v may differ between views.
        bias: whether the last layer has a bias.
        most: rows of a view that any process may have; None: all have as many.

    Returns:
        A differentiable scalar, float32 at least, equal to ``gradient_variance(losses, last_layer.parameters())``.

    Raises:
        ValueError: for fewer than two losses, or a loss that is not a scalar.
    """
    _check_losses(losses)
    with torch.autocast(losses[0].device.type, enabled=False):
        d = [at_least_float32(_gradient(loss, z)) for loss, z in _zip(losses, logits)]
        h = [at_least_float32(f) for f in features]
        most, processes = most or max(map(len, logits)), rank_and_size()[1]
        if product_norm_is_cheaper(most * processes, d[0].shape[1], h[0].shape[1], processes, len(d)):
            pairs = [_factors((d[u], d[v]), (h[u], h[v]), bias) for u, v in combinations(range(len(d)), 2)]
            return torch.stack([product_norm(a, b, 2 * most) for a, b in pairs]).mean()
        by_param = [[dv.T @ hv for dv, hv in _zip(d, h)]]
        if bias:
            by_param.append([dv.sum(0) for dv in d])
        return _mean_pair_distance(by_param)


def _factors(d: tuple[Tensor, Tensor], h: tuple[Tensor, Tensor], bias: bool) -> tuple[Tensor, Tensor]:
    """Rows a, b with a^T b the difference d_1^T h_1 - d_2^T h_2; a bias is a feature that is always 1.

    Where row i is the same sample in both views, of the differences and means of both: these are small when the views
    agree, and nothing cancels.
    """
    if bias:
        h = (with_ones(h[0]), with_ones(h[1]))
    if len(d[0]) == len(d[1]):
        return torch.cat([d[0] - d[1], (d[0] + d[1]) / 2]), torch.cat([(h[0] + h[1]) / 2, h[0] - h[1]])
    return torch.cat([d[0], -d[1]]), torch.cat([h[0], h[1]])


def per_sample_variance(
    criterion: Criterion,
    logits: Sequence[Tensor],
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    bias: bool = True,
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

    Returns:
        A differentiable scalar, float32 at least.
    """
    _check_number(logits)
    with torch.autocast(logits[0].device.type, enabled=False):
        h = [at_least_float32(f) for f in features]
        d = [residual(criterion, z, y) for z, y in _zip(logits, targets)]
        pairs = [outer_distance(d[u], h[u], d[v], h[v], bias) for u, v in combinations(range(len(d)), 2)]
        return torch.stack(pairs).mean(0).mean()


def residual(criterion: Criterion, logits: Tensor, target: Tensor) -> Tensor:
    """The gradients d_i of the rows' own losses with respect to their logits, (B, C), with a graph."""

    def one(z: Tensor, y: Tensor) -> Tensor:
        return criterion(z.unsqueeze(0), y.unsqueeze(0))

    z = at_least_float32(logits)
    return _gradient(torch.vmap(one)(z, target).sum(), z)


def _mean_pair_distance(by_param: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean of ||g_u - g_v||^2 over all pairs = 2/(V-1) sum_v ||g_v - mean g||^2: linear in V, and no cancellation.

    Differences from the first view's gradients are all that counts, so V - 1 are averaged over the processes.

    Args:
        by_param: the gradients of all views, for each parameter.
    """
    by_param = [[at_least_float32(g) for g in grads] for grads in by_param]
    further = len(by_param[0]) - 1
    if further == 1 and rank_and_size()[1] == 1:
        return reduce(torch.add, [F.mse_loss(one, other, reduction="sum") for one, other in by_param])  # one kernel
    averaged = over_batch([g - grads[0] for grads in by_param for g in grads[1:]])
    terms = []
    for i in range(0, len(averaged), further):
        from_first = [torch.zeros_like(averaged[i]), *averaged[i : i + further]]
        mean = torch.stack(from_first).mean(0)
        terms += [(difference - mean).square().sum() for difference in from_first]
    return 2 / further * torch.stack(terms).sum()


def _gradients(loss: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Gradients with graphs of their own; None where the loss does not use an input.

    On the calling thread, on a GPU too: autograd runs nodes in the order of their numbers, each thread counts its own,
    and sums of several gradients would be rounded otherwise in every run.
    """
    if torch.compiler.is_compiling():  # into the order of the graph
        return torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)
    with torch.autograd.set_multithreading_enabled(False):
        return torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)


def _gradient(loss: Tensor, x: Tensor) -> Tensor:
    (gradient,) = _gradients(loss, [x])
    if gradient is None:
        raise ValueError("a loss does not depend on its logits")
    return gradient


def _check_number(of_views: Sequence[Tensor]) -> None:
    if len(of_views) < 2:
        raise ValueError(f"a gradient variance needs the losses of two views or more, got {len(of_views)}")


def _check_losses(losses: Sequence[Tensor]) -> None:
    _check_number(losses)
    for loss in losses:
        if loss.numel() != 1:
            raise ValueError(f"each view's loss must be a scalar, got shape {tuple(loss.shape)}; reduce it first")


def _zip(left: Sequence[Tensor], right: Sequence[Tensor]) -> "zip[tuple[Tensor, Tensor]]":
    return zip(left, right, strict=True)
