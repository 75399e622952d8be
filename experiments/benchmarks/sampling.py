"""What drawing images costs beside diffusers' own pipeline, and a training step beside a bare PyTorch loop.

python experiments/benchmarks/sampling.py                             # unet_cifar10_small, 32x32
python experiments/benchmarks/sampling.py --model small --repeats 9   # unet_small, 8x8
python experiments/benchmarks/sampling.py --sampler ddpm --no-bf16     # ancestral; where a CPU has no bfloat16
python experiments/benchmarks/sampling.py --compile                   # needs a C++ compiler
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from timing import Elsewhere, interleave, report
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
    shape, _ = MODELS[options.model]
    print(f"drawing {options.batch} images {'x'.join(map(str, shape))} in {options.steps} steps of {options.sampler}")
    compare_drawings(options)
    print(f"a training step of {options.batch} images")
    report(compare_steps(network_of(options), shape, options.batch, options.repeats), {"this project": "bare loop"})


def compare_drawings(options: argparse.Namespace) -> None:
    """Print the times over diffusers', each in a process of its own, of which only this project's keep their memory."""
    names = ["diffusers", "ours", "channels_last"]
    names += ["channels_last, compiled"] * options.compile + ["channels_last, bf16"] * options.bf16
    names += ["all three"] * (options.compile and options.bf16)
    jobs = {
        name: Elsewhere(drawing, options, name, keeps=name != "diffusers", threads=options.threads) for name in names
    }
    report(interleave(jobs, options.repeats), dict.fromkeys(names[1:], "diffusers"))


def network_of(options: argparse.Namespace) -> SplitNetwork:
    """The U-Net, with the same weights in each process."""
    torch.manual_seed(0)
    shape, settings = MODELS[options.model]
    return unet(shape, 10, blocks=1, groups=8, **settings)


def drawing(options: argparse.Namespace, name: str) -> Callable[[], object]:
    """The same images, drawn by diffusers' pipeline or by ours in one of several ways."""
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler

    network, noise, batch = network_of(options), Noise(), options.batch
    pipelines: dict[str, Any] = {
        "ddim": (DDIMPipeline, DDIMScheduler, DDIM, "trailing"),
        "ddpm": (DDPMPipeline, DDPMScheduler, DDPM, "linspace"),
    }
    kind, theirs, scheduler, spacing = pipelines[options.sampler]
    config = {**noise.scheduler.config, "timestep_spacing": spacing}
    if name == "diffusers":
        pipeline = kind(to_diffusers(network), theirs.from_config(config))
        pipeline.set_progress_bar_config(disable=True)
        pipeline.unet.eval()
        return lambda: pipeline(batch_size=batch, num_inference_steps=options.steps, output_type="np")
    sampler, (shape, _) = Sampler(scheduler.from_config(config), options.steps), MODELS[options.model]
    if name != "ours":
        network = network.to(memory_format=torch.channels_last)
    if "compiled" in name or name == "all three":
        network.compile_backbone()
    bf16 = "bf16" in name or name == "all three"
    return lambda: [images.numpy() for images in draw(sampler, network, shape, batch, 0, batch, bf16)]


if __name__ == "__main__":
    main()
