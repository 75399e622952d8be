"""What drawing images costs beside diffusers' own pipeline, and a training step beside a bare PyTorch loop.

python experiments/benchmarks/sampling.py                             # unet_cifar10_small, 32x32
python experiments/benchmarks/sampling.py --model small --repeats 9   # unet_small, 8x8
python experiments/benchmarks/sampling.py --sampler ddpm --no-bf16     # ancestral; where a CPU has no bfloat16
python experiments/benchmarks/sampling.py --compile                   # needs a C++ compiler
"""

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from timing import interleave, report
from training_step import compare_steps

from gvr_lightning.diffusion.ddim import DDIM
from gvr_lightning.diffusion.ddpm import DDPM
from gvr_lightning.diffusion.noise import Noise
from gvr_lightning.diffusion.sampler import Sampler, draw
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.models.unet import to_diffusers, unet

MODELS: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "cifar": ((3, 32, 32), {"widths": [32, 64, 96], "attention": [False, False, True]}),
    "small": ((1, 8, 8), {"widths": [32, 32], "attention": [False, True]}),
}


def main() -> None:
    """Time whole drawings, taking turns, and then training steps likewise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="cifar")
    parser.add_argument("--sampler", choices=("ddim", "ddpm"), default="ddim")
    parser.add_argument("--no-bf16", dest="bf16", action="store_false")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape, settings = MODELS[options.model]
    network = unet(shape, 10, blocks=1, groups=8, **settings)
    print(f"drawing {options.batch} images {'x'.join(map(str, shape))} in {options.steps} steps of {options.sampler}")
    jobs = drawings(network, shape, options)
    report(interleave(jobs, options.repeats), dict.fromkeys([*jobs][1:], "diffusers"))
    print(f"a training step of {options.batch} images")
    report(compare_steps(network, shape, options.batch, options.repeats), {"this project": "bare loop"})


def drawings(
    network: SplitNetwork, shape: tuple[int, int, int], options: argparse.Namespace
) -> dict[str, Callable[[], object]]:
    """The same images, drawn by diffusers' pipeline and by ours in several ways."""
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler

    noise, batch = Noise(), options.batch
    pipelines: dict[str, Any] = {
        "ddim": (DDIMPipeline, DDIMScheduler, DDIM, "trailing"),
        "ddpm": (DDPMPipeline, DDPMScheduler, DDPM, "linspace"),
    }
    kind, theirs, scheduler, spacing = pipelines[options.sampler]
    config = {**noise.scheduler.config, "timestep_spacing": spacing}
    pipeline = kind(to_diffusers(network), theirs.from_config(config))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.eval()
    sampler = Sampler(scheduler.from_config(config), options.steps)
    fast = copy.deepcopy(network).to(memory_format=torch.channels_last)

    def ours(network: SplitNetwork, bf16: bool = False) -> Callable[[], object]:
        return lambda: [images.numpy() for images in draw(sampler, network, shape, batch, 0, batch, bf16)]

    jobs: dict[str, Callable[[], object]] = {
        "diffusers": lambda: pipeline(batch_size=batch, num_inference_steps=options.steps, output_type="np"),
        "ours": ours(network),
        "channels_last": ours(fast),
    }
    compiled: Any = copy.deepcopy(fast)
    if options.compile:
        compiled.compile_backbone()
        jobs["channels_last, compiled"] = ours(compiled)
    if options.bf16:
        jobs["channels_last, bf16"] = ours(fast, True)
    if options.compile and options.bf16:
        jobs["all three"] = ours(compiled, True)
    return jobs


if __name__ == "__main__":
    main()
