"""What drawing images costs on a GPU: diffusers' pipeline, this project's kernel by kernel, and as a CUDA graph.

python experiments/benchmarks/gpu_drawing.py
python experiments/benchmarks/gpu_drawing.py --model published --batch 128
python experiments/benchmarks/gpu_drawing.py --device cpu --steps 2 --repeats 2   # to see that it runs
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from timing import interleave, report

from gvr_lightning.diffusion.ddim import DDIM
from gvr_lightning.diffusion.noise import Noise
from gvr_lightning.diffusion.sampler import Sampler, draw
from gvr_lightning.models.unet import UNet, to_diffusers, unet

SHAPE = (3, 32, 32)
MODELS: dict[str, dict[str, Any]] = {  # model=unet_cifar10_small and unet_cifar10
    "small": {"widths": [32, 64, 96], "blocks": 1, "attention": [False, False, True], "groups": 8},
    "published": {"widths": [128, 256, 256, 256], "blocks": 2, "attention": [False, True, False, False]},
}


def main() -> None:
    """Time whole drawings, taking turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    on = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
    print(f"torch {torch.__version__}, {on}: {options.batch} images in {options.steps} steps of DDIM, {options.model}")
    jobs = drawings(options)
    report(
        interleave(jobs, options.repeats), dict.fromkeys([name for name in jobs if name != "diffusers"], "diffusers")
    )


def drawings(options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """The same images in several ways; each ends with them on the CPU."""
    from diffusers import DDIMPipeline, DDIMScheduler

    torch.manual_seed(0)
    network = unet(SHAPE, 10, **MODELS[options.model]).to(options.device).eval()
    config = {**Noise().scheduler.config, "timestep_spacing": "trailing"}
    pipeline = DDIMPipeline(to_diffusers(network), DDIMScheduler.from_config(config))
    pipeline.set_progress_bar_config(disable=True)
    network = network.to(memory_format=torch.channels_last)
    sampler = Sampler(DDIM.from_config(config), options.steps)

    def ours(graph: bool, bf16: bool) -> Callable[[], object]:
        def job() -> object:
            UNet.capturable = graph
            return [x.cpu() for x in draw(sampler, network, SHAPE, options.batch, 0, options.batch, bf16)]

        return job

    theirs = {"batch_size": options.batch, "num_inference_steps": options.steps, "output_type": "np"}
    return {
        "diffusers": lambda: pipeline(**theirs),
        "kernels": ours(False, False),
        "kernels, bf16": ours(False, True),
        "graph": ours(True, False),
        "graph, bf16": ours(True, True),
    }


if __name__ == "__main__":
    main()
