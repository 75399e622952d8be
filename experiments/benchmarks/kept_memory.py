"""What a step gains where the process keeps what is freed, as this project's commands do (gvr_lightning/app/memory.py).

    python experiments/benchmarks/kept_memory.py [--batch 128] [--threads 2] [--repeats 15]

Steps of ResNet-18 in a process of glibc's own settings and in one that keeps, taking turns; and drawing of images.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from sampling import drawing
from step_cost import VARIANTS, _step
from timing import Elsewhere, interleave, report


def step(batch: int, bf16: bool) -> Callable[[], object]:
    """A step of SGD, of random images."""
    options = argparse.Namespace(model="resnet18", batch=batch, bf16=bf16)
    return _step(options, *VARIANTS["none"], [torch.randn(batch, 3, 32, 32)] * 2, torch.arange(batch) % 10)


def main() -> None:
    """Print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    drawn = argparse.Namespace(model="cifar", sampler="ddim", batch=16, steps=10)
    for title, make in {
        "a step in float32": partial(step, options.batch, False),
        "a step in bf16 and channels_last": partial(step, options.batch, True),
        "16 images of 3x32x32 by 10 steps of DDIM, channels_last": partial(drawing, drawn, "channels_last"),
    }.items():
        print(f"\n{title}")
        jobs = {name: Elsewhere(make, keeps=name == "keeps", threads=options.threads) for name in ("glibc", "keeps")}
        report(interleave(jobs, options.repeats, warmup=2), {"keeps": "glibc"})


if __name__ == "__main__":
    main()
