"""What does AGR cost beside the least that any such method must do, and beside the obvious loop?

    python experiments/benchmarks/agr_cost.py [--repeats 100] [--threads 2]

Times, on the CPU and in turns, over the gradients of a CIFAR ResNet-18 (11.2 million in 62 tensors) and over 1000
tensors of 64 elements: one read and one read-write of all gradients, `agr_` as it is and with compiled code, and a
plain Python loop of its formula.
"""

import argparse
from functools import partial
from math import prod

import torch
from timing import interleave, report
from torch import Tensor

from gvr_lightning.methods.agr import agr_


def resnet18_shapes(classes: int = 10) -> list[tuple[int, ...]]:
    """The parameter shapes of ResNet-18 with the 3x3 stem for CIFAR: convolutions, BatchNorm pairs, the last layer."""

    def conv_bn(inputs: int, outputs: int, kernel: int) -> list[tuple[int, ...]]:
        return [(outputs, inputs, kernel, kernel), (outputs,), (outputs,)]

    shapes, width = conv_bn(3, 64, 3), 64
    for outputs in (64, 128, 256, 512):
        shapes += conv_bn(width, outputs, 3) + conv_bn(outputs, outputs, 3)
        shapes += conv_bn(width, outputs, 1) if width != outputs else []
        shapes += conv_bn(outputs, outputs, 3) * 2
        width = outputs
    return [*shapes, (classes, width), (classes,)]


def read_and_write(grads: list[Tensor]) -> None:
    """The floor: every gradient read once for a sum, then read and written once."""
    for g in grads:
        g.sum()
    for g in grads:
        g.mul_(1.0)


def plain_loop(grads: list[Tensor]) -> None:
    """AGR as one would write it."""
    for g in grads:
        g.mul_(1 - g.abs() / g.abs().sum())


def compare(shapes: list[tuple[int, ...]], repeats: int) -> None:
    """Print the times over gradients of these shapes."""
    torch.compiler.reset()  # compiled code keeps the number of threads that it was made for
    grads = [torch.randn(shape) for shape in shapes]
    jobs = {
        FLOOR: partial(read_and_write, grads),
        "agr_": partial(agr_, grads),
        "agr_, compiled": partial(agr_, grads, compile=True),
        "plain loop": partial(plain_loop, grads),
    }
    against = {"agr_": FLOOR, "agr_, compiled": FLOOR, "plain loop": "agr_"}
    report(interleave(jobs, repeats, warmup=3), against, "ms", 1e3)


def main() -> None:
    """Print one table for each set of gradients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for title, shapes in SHAPES.items():
        print(f"{title}: {sum(prod(shape) for shape in shapes):,} float32 in {len(shapes)} tensors")
        compare(shapes, options.repeats)


SHAPES: dict[str, list[tuple[int, ...]]] = {"ResNet-18": resnet18_shapes(), "1,000 small tensors": [(64,)] * 1000}
FLOOR = "read + read-write"

if __name__ == "__main__":
    main()
