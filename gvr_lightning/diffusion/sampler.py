"""Images from noise, by any diffusers scheduler, the same for a seed however they are divided into batches."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gvr_lightning.diffusion.clipping import alpha_bars, clipped, clips_itself
from gvr_lightning.diffusion.generators import Generators
from gvr_lightning.diffusion.graphed import GraphedNetwork
from gvr_lightning.diffusion.normal import normal
from gvr_lightning.distributed.batch import balanced_shard, gather_rows, rank_and_size
from gvr_lightning.methods.upload import upload
from gvr_lightning.random import hash_key

START, STEPS = range(2)  # what a random number is for
Watch = Callable[[Tensor], None]


class Sampler:
    """A scheduler, in how many steps, and how noisy.

    Args:
        scheduler: of diffusers, with the noise schedule and the kind of prediction that the network was trained with.
        steps: network evaluations an image, None for one a timestep.
        eta: of DDIM: 0 is deterministic, 1 as noisy as DDPM.
        clip: the predicted image to [-1, 1], where the scheduler does not do it itself.

    Raises:
        ValueError: for steps or an eta that the scheduler does not take.
    """

    def __init__(self, scheduler: Any, steps: int | None = None, eta: float = 0.0, clip: bool = False) -> None:
        takes = inspect.signature(scheduler.step).parameters
        if eta and "eta" not in takes:
            raise ValueError(f"{type(scheduler).__name__} has no eta: set sampler.eta=0")
        self.scheduler, self.eta = scheduler, eta
        timesteps = int(scheduler.config.num_train_timesteps)
        self.steps = steps or timesteps
        if self.steps > timesteps:  # some schedulers take them, and the images are NaN
            raise ValueError(f"{self.steps} steps are more than the {timesteps} timesteps")
        self._noisy = "generator" in takes and (eta > 0 or "eta" not in takes)
        self._extra = {"eta": eta} if "eta" in takes else {}
        scheduler.set_timesteps(self.steps)  # refuses a number that it cannot do
        if min(scheduler.timesteps) < 0:  # diffusers' rounding of "trailing", for 61 of 1000 steps and a few others
            raise ValueError(f"{self.steps} steps end at a negative timestep: take another number or spacing")
        self.clip = clip and not clips_itself(scheduler)
        self.words = f"{type(scheduler).__name__}, {self.steps} steps" + (f", eta {eta:g}" if "eta" in takes else "")
        told = {name: value for name, value in scheduler.config.items() if name[0] != "_" and name != "trained_betas"}
        # all that an image depends on but for the network, its seed, and the noise schedule's betas
        self.settings = {"name": type(scheduler).__name__, "steps": self.steps, **self._extra, "clip": clip, **told}

    @torch.inference_mode()
    def __call__(
        self, network: nn.Module, shape: Sequence[int], index: Tensor, seed: int = 0, watch: Watch | None = None
    ) -> Tensor:
        """Draw images.

        Args:
            network: (x_t (B, C, H, W), t (B,)), as one tuple -> its prediction; in evaluation mode.
            shape: (C, H, W).
            index: (B,), the images' numbers: image i is a function of (seed, i).
            seed: of the starting noise and of what the scheduler draws.
            watch: called with x after every step.

        Returns:
            float32 (B, C, H, W), about in [-1, 1], on the network's device and in its memory format.
        """
        first = next(p for p in network.parameters() if p.ndim == 4)
        self.scheduler.set_timesteps(self.steps)  # on the CPU, where schedulers look them up
        times = upload(self.scheduler.timesteps.unsqueeze(1).repeat(1, len(index)), first.device).unbind()
        start = normal(hash_key(START, seed), index.cpu(), shape)
        x: Tensor = upload(start, first.device) * self.scheduler.init_noise_sigma
        if first.is_contiguous(memory_format=torch.channels_last) and not first.is_contiguous():
            x = x.contiguous(memory_format=torch.channels_last)
        extra = self._extra | ({"generator": self._generators(seed, index)} if self._noisy else {})
        bars, predict = alpha_bars(self.scheduler) if self.clip else [], GraphedNetwork(network)
        for step, t in enumerate(self.scheduler.timesteps):
            scaled = self.scheduler.scale_model_input(x, t)
            output = predict(scaled.to(first.dtype), times[step]).to(x.dtype)
            if bars:
                output = clipped(output, scaled, bars[step], self.scheduler.config.prediction_type)
            x = self.scheduler.step(output, t, x, return_dict=False, **extra)[0]
            if watch is not None:
                watch(x)
        return x

    def _generators(self, seed: int, index: Tensor) -> Generators:
        seeds = (hash_key(STEPS, seed, i) & (1 << 63) - 1 for i in index.tolist())
        return Generators(seeds, len(self.scheduler.timesteps))


@torch.inference_mode()
def draw(
    sampler: Sampler,
    network: nn.Module,
    shape: Sequence[int],
    number: int,
    seed: int = 0,
    batch_size: int = 500,
    bf16: bool = False,
) -> Iterator[Tensor]:
    """Batches of 8-bit images on the network's device: number 0, 1, ... of this seed.

    Of several processes each draws a part of every batch, and all get the whole.
    """
    rank, processes = rank_and_size()
    device = next(network.parameters()).device
    training = network.training
    # a compiled network is one for a shape: it gets the last batch filled up with image 0
    rows = -(-min(batch_size, number) // processes) if getattr(network, "is_compiled", False) else 0
    network.eval()
    try:
        for index in torch.arange(number).split(batch_size):
            shards = [balanced_shard(len(index), r, processes) for r in range(processes)]
            mine = index[shards[rank].start : shards[rank].stop]
            given = torch.cat([mine, mine.new_zeros(max(0, rows - len(mine)))])
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                images = to_bytes(sampler(network, shape, given, seed))[: len(mine)]
            yield images if processes == 1 else gather_rows(images, [s.row_count.rows for s in shards])
    finally:
        network.train(training)


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] to uint8 0..255, rounded."""
    return ((images + 1) * 127.5).round().clamp_(0, 255).to(torch.uint8)
