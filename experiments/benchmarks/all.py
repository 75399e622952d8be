"""Every ratio that this project holds itself to, each with n and quartiles; the contenders take turns.

    python experiments/benchmarks/all.py                       # an hour or so on two cores
    python experiments/benchmarks/all.py --repeats 2 --only loop agr

What a GPU is asked to do is counted by tests/test_steps.py; on one, gpu_step.py measures.
"""

import argparse

import torch
from agr_cost import SHAPES, compare
from loop_cost import COLOUR, compare_loops, published, same_data, same_passes
from sampling import compare_drawings
from step_cost import VARIANTS, _step
from timing import interleave, report

from gvr_lightning.app.memory import keep_memory

OVER_HAND = {"this project": "by hand"}
TINY = ["model.width=8", "model.groups=4", "batch_size=32"]


def loop(repeats: int) -> None:
    """A step over one by hand with the same data module, both in float32 and torch's usual layout."""
    runs = {"digits, none": [], "digits, gvr": ["regularizer=gvr"], "a tiny network, none": TINY}
    for title, overrides in runs.items():
        print(f"\nthe loop: {title}")
        report(compare_loops(same_data, 20 * repeats, *overrides), OVER_HAND, "ms", 1e3)


def agr(repeats: int) -> None:
    """AGR over one read and one read-write of the gradients."""
    threads = torch.get_num_threads()
    for title, shapes in SHAPES.items():
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            print(f"\nAGR: {title}")
            compare(shapes, 5 * repeats)
    torch.set_num_threads(threads)


def step(repeats: int) -> None:
    """Steps of ResNet-18: the penalties' price, and what bf16 and channels_last give on this CPU."""
    views, target = [torch.randn(128, 3, 32, 32) for _ in range(2)], torch.arange(128) % 10
    jobs = {}
    for bf16, names in ((False, ("none", "two_view", "gvr", "gvr_split")), (True, ("none", "gvr"))):
        options = argparse.Namespace(model="resnet18", batch=128, bf16=bf16)
        for name in names:
            jobs[name + ", bf16" * bf16] = _step(options, *VARIANTS[name], views, target)
    against = {"gvr": "two_view", "gvr_split": "none", "none, bf16": "none", "gvr, bf16": "gvr"}
    print("\na step: ResNet-18, batch 128")
    report(interleave(jobs, repeats), against)


def whole(repeats: int) -> None:
    """End to end, data, metrics and loop included, of trainer=cpu.

    Over a bare loop of the same passes in the same precision and layout, and over a float32 loop with torchvision's
    transforms, image by image.
    """
    for by_hand in (same_passes, published):
        for name in ("none", "gvr", "gvr_split"):
            print(f"\nend to end: ResNet-18, {name}, batch 128, trainer=cpu over {by_hand.__name__}")
            regularizer = f"regularizer={name}"
            found = compare_loops(by_hand, repeats, *COLOUR, "trainer=cpu", "model=resnet18", regularizer)
            report(found, OVER_HAND)
            for who, seconds in found.items():
                print(f"{who}: {128 / sorted(seconds)[len(seconds) // 2]:.1f} samples/s")


def sampling(repeats: int) -> None:
    """DDIM and DDPM over diffusers' own pipelines."""
    for sampler in ("ddim", "ddpm"):
        print(f"\ndrawing 16 images 3x32x32 in 10 steps of {sampler}")
        fixed = {"model": "cifar", "batch": 16, "steps": 10, "compile": False, "bf16": False}
        options = argparse.Namespace(sampler=sampler, repeats=repeats, threads=torch.get_num_threads(), **fixed)
        compare_drawings(options)


PARTS = {"loop": loop, "agr": agr, "step": step, "whole": whole, "sampling": sampling}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()  # as a run does
    for name in options.only:
        torch.manual_seed(0)
        PARTS[name](options.repeats)


if __name__ == "__main__":
    main()
