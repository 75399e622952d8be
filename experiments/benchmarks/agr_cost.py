"""What does AGR cost beside the least that any such method must do, and beside the obvious loop?

    python experiments/benchmarks/agr_cost.py [--repeats 100] [--threads 2] [--quick]

Times, on the CPU and in turns, over the gradients of a CIFAR ResNet-18 (11.2 million in 62 tensors) and over 1000
tensors of 64 elements: one read and one read-write of all gradients, `agr_`, and a plain Python loop of its formula.
"""

import argparse
from collections.abc import Callable
from statistics import quantiles
from time import perf_counter

import torch
from torch import Tensor

from gvr_lightning.optim.agr import agr_


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


Contender = Callable[[list[Tensor]], None]


def measure(contenders: dict[str, Contender], grads: list[Tensor], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every contender, one after the other in each repetition; three first repetitions are dropped."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats + 3):
        for name, function in contenders.items():
            start = perf_counter()
            function(grads)
            times[name].append(1000 * (perf_counter() - start))
    return {name: values[3:] for name, values in times.items()}


def spread(values: list[float]) -> str:
    """Median and interquartile range."""
    low, median, high = quantiles(values, n=4)
    return f"{median:7.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Print one table for each set of gradients."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=100, help="repetitions of each contender, at least 2")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--quick", action="store_true", help="10 repetitions: does it run?")
    args = parser.parse_args()
    repeats = 10 if args.quick else max(args.repeats, 2)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    contenders: dict[str, Contender] = {
        "a: one read, one read-write": read_and_write,
        "b: agr_": agr_,
        "c: plain loop": plain_loop,
    }
    for title, shapes in (("ResNet-18", resnet18_shapes()), ("1000 small tensors", [(64,)] * 1000)):
        grads = [torch.randn(shape) for shape in shapes]
        elements = sum(g.numel() for g in grads)
        print(f"{title}: {elements:,} float32 in {len(grads)} tensors, {args.threads} threads, n = {repeats}")
        print("  median [quartiles]")
        times = measure(contenders, grads, repeats)
        for name, values in times.items():
            print(f"  {name:28} {spread(values)} ms")
        a, b, c = times.values()
        for name, others in (("b / a", a), ("b / c", c)):
            print(f"  {name:28} {spread([x / y for x, y in zip(b, others, strict=True)])}")
        print()


if __name__ == "__main__":
    main()
