"""Something that a run makes once in every process, and that leaves a line."""

import os
from pathlib import Path
from typing import Any

import torch

COUNTED = "COUNTED_IN"  # the environment's name for the file


def counted_sgd(params: Any, lr: float, **options: Any) -> torch.optim.Optimizer:
    """SGD, and a line "<rank> <learning rate>"; for a learning rate of 0.4 a mistake instead."""
    with Path(os.environ[COUNTED]).open("a") as file:
        file.write(f"{os.environ.get('RANK', 'alone')} {lr}\n")
    if lr == 0.4:
        raise ValueError("not with this learning rate")
    return torch.optim.SGD(params, lr=lr, **options)
