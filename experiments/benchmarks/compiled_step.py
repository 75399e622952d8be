"""A step with GVR: eagerly, with a compiled backbone, and with the loss as one graph (task.compile=true).

python experiments/benchmarks/compiled_step.py --model resnet20 --threads 2
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timing import interleave, report
from torch import nn

from gvr_lightning.methods.gvr.penalty import GradientVariance
from gvr_lightning.models.resnet import resnet
from gvr_lightning.models.small_cnn import small_cnn
from gvr_lightning.tasks.compiled import CompiledLoss

MODELS: dict[str, tuple[Callable[..., Any], tuple[int, int, int], int]] = {  # what makes it, an image, a batch
    "small_cnn": (small_cnn, (1, 8, 8), 128),
    "resnet20": (partial(resnet, widths=[16, 32, 64], blocks=3), (3, 32, 32), 64),
}


def step(
    model: nn.Module, loss: Callable[..., Any], views: list[torch.Tensor], target: torch.Tensor
) -> Callable[[], None]:
    """An update by SGD."""
    sgd = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def update() -> None:
        sgd.zero_grad()
        loss(model, F.cross_entropy, views, target).total.backward()
        sgd.step()

    return update


def main() -> None:
    """Print the table; the rounds before those that count hold the compiling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="resnet20")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    make, shape, batch = MODELS[options.model]
    views, target = [torch.randn(batch, *shape) for _ in range(2)], torch.arange(batch) % 10
    eager, gvr = make(shape, 10), GradientVariance(0.01)
    backbone, whole = copy.deepcopy(eager), copy.deepcopy(eager)
    backbone.compile_backbone()
    jobs = {
        "eager": step(eager, gvr, views, target),
        "compiled backbone": step(backbone, gvr, views, target),
        "loss as one graph": step(whole, CompiledLoss(gvr), views, target),
    }
    report(interleave(jobs, options.repeats, warmup=2), dict.fromkeys([*jobs][1:], "eager"), "ms", 1e3)


if __name__ == "__main__":
    main()
