"""What a step of each regularizer costs, as a ratio to the training that sees the same images.

python experiments/benchmarks/step_cost.py                         # ResNet-18, batch 128
python experiments/benchmarks/step_cost.py --model resnet20 --batch 64 --repeats 3
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from timing import interleave, report
from torch import Tensor

from gvr_lightning.methods.gvr.penalty import GradientVariance, PublishedGradientVariance
from gvr_lightning.methods.penalty import NoPenalty, Penalty
from gvr_lightning.models.resnet import resnet

MODELS = {"resnet18": ([64, 128, 256, 512], 2), "resnet20": ([16, 32, 64], 3)}
VARIANTS: dict[str, tuple[int, Callable[[], Penalty]]] = {  # views that the data yields, penalty
    "none": (1, NoPenalty),
    "two_view": (2, NoPenalty),
    "gvr": (2, GradientVariance),
    "gvr_split": (1, lambda: GradientVariance(split=True)),
    "gvr_per_sample": (2, lambda: GradientVariance(per_sample=True)),
    "gvr_last_stage": (2, lambda: GradientVariance(layers="last_stage", subset=32, shared=True)),
    "gvr_published": (2, PublishedGradientVariance),
}
AGAINST = {"two_view": "none", "gvr_split": "none"} | dict.fromkeys(
    ("gvr", "gvr_per_sample", "gvr_last_stage", "gvr_published"), "two_view"
)


def main() -> None:
    """Time full steps (forward, penalty, backward, update) of all variants, taking turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast and channels_last")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    views, target = [torch.randn(options.batch, 3, 32, 32) for _ in range(2)], torch.arange(options.batch) % 10
    jobs = {name: _step(options, *VARIANTS[name], views, target) for name in options.only}
    against = {name: base for name, base in AGAINST.items() if name in jobs and base in jobs}
    report(interleave(jobs, options.repeats), against)


def _step(
    options: argparse.Namespace, n: int, make: Callable[[], Penalty], views: list[Tensor], target: Tensor
) -> Callable[[], None]:
    widths, blocks = MODELS[options.model]
    layout = torch.channels_last if options.bf16 else torch.contiguous_format
    model = resnet((3, 32, 32), 10, widths, blocks).to(memory_format=layout)
    inputs = [view.contiguous(memory_format=layout) for view in views[:n]]
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    penalty = make()

    def step() -> None:
        sgd.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if options.bf16 else nullcontext():
            loss = penalty(model, F.cross_entropy, inputs, target)
        loss.total.backward()
        sgd.step()
        penalty.after_step(model, inputs)

    return step


if __name__ == "__main__":
    main()
