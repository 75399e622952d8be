"""The test images once more, under corruptions: what a network is worth where images are worse than those it knows."""

import sys
from typing import Any

import torch
import torch.nn.functional as F

from gvr_lightning.config.corruption import SEVERITIES
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.distributed.place import total


def corrupted_figures(task: Any) -> dict[str, float]:
    """Accuracy under each kind, and the means of accuracy and loss, over all severities; nothing where none is wanted.

    Args:
        task: with ``trainer`` and ``evaluated(batch)``, the logits; every process has to ask.
    """
    data: Any = getattr(task.trainer, "datamodule", None)
    kinds = getattr(data, "corruptions", ())
    if not kinds:
        return {}
    if rank_and_size()[0] == 0:
        print(f"test under corruption: {', '.join(kinds)}", file=sys.stderr)
    sums = torch.zeros(len(kinds), len(SEVERITIES), 3, dtype=torch.float64)  # right, loss, images
    with task.trainer.precision_plugin.test_step_context():
        for k, kind in enumerate(kinds):
            for s, severity in enumerate(SEVERITIES):
                for batch in data.corrupted(task.device, kind, severity):
                    sums[k, s] += _sums(task.evaluated(batch), batch.target)
    right, loss, images = total(sums).unbind(2)
    accuracy, nll = (right / images).mean(1), (loss / images).mean(1)
    means = {"test/acc_corrupted": float(accuracy.mean()), "test/nll_corrupted": float(nll.mean())}
    return means | {f"test/acc_corrupted/{kind}": float(a) for kind, a in zip(kinds, accuracy, strict=True)}


def _sums(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """How many are right, the summed loss, and how many there are: float64 (3,), on the CPU."""
    z, y = logits.cpu().double(), target.cpu()
    right = (logits.softmax(1).argmax(1).cpu() == y).sum()  # as the accuracy has it
    return torch.stack([right.double(), F.cross_entropy(z, y, reduction="sum"), torch.tensor(float(len(y)))])
