"""The last layer's penalty without its (C, D) matrix: for wide layers, from inner products of rows. Imports torch only.

Legend: as in variance.py. The difference of two views' gradients is a product of few rows, Delta = a^T b, so
||Delta||^2 = sum_ij (a_i.a_j)(b_i.b_j), which needs no matrix of the layer's size and, over several processes, the
rows of the others instead of a sum of such matrices.
"""

import torch
from torch import Tensor

from gvr_lightning.distributed.shards import Share, gather_rows

FLOPS_PER_BYTE = 100  # float32 operations in the time that a byte takes between two processes, about, on GPUs


def gram_is_cheaper(rows: int, classes: int, features: int, processes: int = 1, views: int = 2) -> bool:
    """Whether inner products beat the (C, D) matrix, by operations and bytes sent a process.

    Args:
        rows: of one view, as many as all processes together may have.
        classes: C.
        features: D.
        processes: that share the rows.
        views: V; inner products go by pairs of views, the matrices of V - 1 differences are sent.
    """
    sent = 4 * FLOPS_PER_BYTE * (processes - 1) / processes  # of a float, in operations
    pairs, here = views * (views - 1) // 2, rows / processes
    dense = 2 * views * here * classes * features + 2 * sent * (views - 1) * classes * features
    gram = pairs * (2 * 2 * here + sent) * 2 * rows * (classes + features)
    return gram < dense


def gram_distance(d: tuple[Tensor, Tensor], h: tuple[Tensor, Tensor], bias: bool, share: Share | None) -> Tensor:
    """||d_1^T h_1 - d_2^T h_2||^2 (+ the bias' part), of the mean over the processes of these matrices.

    Args:
        d: of both views, (B_v, C), this process's rows.
        h: likewise, (B_v, D).
        bias: whether the layer has one.
        share: which part of all rows is here; None: there is one process.

    Returns:
        A scalar whose mean over the processes is the distance, and whose gradients' mean is the distance's.
    """
    a, b = _factors(d, h, bias)
    processes = share.processes if share else 1
    if share is None or processes == 1:
        others_a, others_b = a.detach(), b.detach()
    else:
        most = 2 * share.most
        rows = torch.cat([a, b], 1).detach()
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), rows.shape[1])])
        others_a, others_b = gather_rows(padded, [most] * processes).split([a.shape[1], b.shape[1]], 1)
    # symmetric in its two sides: differentiate one and double it
    half = ((a @ others_a.T) * (b @ others_b.T)).sum() / processes
    return 2 * half - half.detach()


def _factors(d: tuple[Tensor, Tensor], h: tuple[Tensor, Tensor], bias: bool) -> tuple[Tensor, Tensor]:
    """Rows a, b with a^T b the difference; a bias is a feature that is always 1.

    Where row i is the same sample in both views, of the differences and means of both: these are small when the views
    agree, and nothing cancels.
    """
    if bias:
        h = (_with_ones(h[0]), _with_ones(h[1]))
    if len(d[0]) == len(d[1]):
        return torch.cat([d[0] - d[1], (d[0] + d[1]) / 2]), torch.cat([(h[0] + h[1]) / 2, h[0] - h[1]])
    return torch.cat([d[0], -d[1]]), torch.cat([h[0], h[1]])


def _with_ones(h: Tensor) -> Tensor:
    return torch.cat([h, h.new_ones(len(h), 1)], 1)
