"""Gradients of a linear last layer as outer products: row i's is d_i h_i^T, (C, D), which is never made.

Legend: d (B, C) the gradients of the rows' own losses with respect to their logits, h (B, D) the features; a bias is
the weight of a feature that is always 1.
"""

import torch
from torch import Tensor

from gvr_lightning.distributed.batch import over_batch, product_norm, product_norm_is_cheaper, rank_and_size


def with_ones(h: Tensor) -> Tensor:
    """The features, and one that is always 1."""
    return torch.cat([h, h.new_ones(len(h), 1)], 1)


def outer_norm(d: Tensor, h: Tensor) -> Tensor:
    """||d_i h_i^T||^2 for every row i, shape (B,)."""
    return d.square().sum(1) * h.square().sum(1)


def outer_distance(d1: Tensor, h1: Tensor, d2: Tensor, h2: Tensor, bias: bool = False) -> Tensor:
    """||d1_i h1_i^T - d2_i h2_i^T||^2 (+ ||d1_i - d2_i||^2) for every row i, shape (B,)."""
    dd, dm, dh, hm = d1 - d2, (d1 + d2) / 2, h1 - h2, (h1 + h2) / 2
    dd2 = dd.square().sum(1)
    weight = dd2 * hm.square().sum(1) + dm.square().sum(1) * dh.square().sum(1)
    weight = weight + 2 * (dd * dm).sum(1) * (hm * dh).sum(1)
    return weight + dd2 if bias else weight


def sum_norm(d: Tensor, h: Tensor, most: int | None = None) -> Tensor:
    """||sum_i d_i h_i^T||^2, of the mean over the processes of these sums: a scalar.

    By inner products of rows or by the matrix itself, whichever is cheaper; the value is the same.

    Args:
        d: this process's rows.
        h: likewise.
        most: rows that any process may have; None: all have as many.

    Returns:
        What has that norm as its mean over the processes, and whose gradients' mean is the norm's.
    """
    most, processes = most or len(d), rank_and_size()[1]
    halves = -(-most * processes // 2)  # of two views, whose rows are laid side by side there
    if product_norm_is_cheaper(halves, d.shape[1], h.shape[1], processes):
        return product_norm(d, h, most)
    return over_batch([d.T @ h])[0].square().sum()
