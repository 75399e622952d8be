"""DDIM as a diffusers scheduler whose steps end where the next one begins.

diffusers' own goes from t to t - T // steps, which is not the next timestep that it visits unless the spacing is
uniform ("linspace" is not). This one goes to the next, and from the last to alpha_bar = 1; where the two agree on the
timesteps they agree on the result.
"""

from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from gvr_lightning.diffusion.generators import Generators


def quadratic(timesteps: int, steps: int) -> Tensor:
    """Timesteps from 0.8 T down to 0, as squares of even numbers, rounded down (Song et al. 2021, appendix D.2).

    The smallest ones coincide where there are many steps; each is visited once, as a step from t to t changes nothing.
    """
    even = np.linspace(0, np.sqrt(timesteps * 0.8), steps)
    return torch.from_numpy(np.unique((even**2).astype(np.int64))).flip(0)


class DDIM(DDIMScheduler):
    """Denoising diffusion implicit models (Song et al. 2021).

    Legend: a = alpha_bar at this timestep, b = at the next; eps the predicted noise, x_0 the predicted image;
    sigma = eta sqrt((1 - b) / (1 - a)) sqrt(1 - a / b) (their equation 16).
    """

    timesteps: Tensor

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """As diffusers does, by ``timestep_spacing``; "quadratic" is here alone."""
        spacing, last = self.config.timestep_spacing, self.config.num_train_timesteps - 1
        if num_inference_steps == 1 and spacing == "linspace":
            raise ValueError("one step is at t = 0 with spacing linspace: take trailing")
        if spacing == "quadratic":
            self.num_inference_steps = num_inference_steps
            self.timesteps = quadratic(last + 1, num_inference_steps).to(device) + self.config.steps_offset
        else:
            super().set_timesteps(num_inference_steps, device)
        self.timesteps = self.timesteps[self.timesteps >= 0]  # "trailing" rounds to -1 after 61 of 1000 steps
        self._bars = visited_bars(self, float(self.final_alpha_cumprod))

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Go on to the next timestep: sqrt(b) x_0 + sqrt(1 - b - sigma^2) eps + sigma z (their equation 12)."""
        a, b = self._bars[int(timestep)]
        clean, eps = clean_image(self, model_output, sample, a), self._noise_in(model_output, sample, a)
        sigma = eta * ((1 - b) / (1 - a) * (1 - a / b)) ** 0.5
        following = (clean * b**0.5).add_(eps, alpha=max(0.0, 1 - b - sigma**2) ** 0.5)
        if sigma > 0:
            following.add_(normal_like(sample, generator), alpha=sigma)
        return DDIMSchedulerOutput(following, clean) if return_dict else (following, clean)

    def _noise_in(self, output: Tensor, x: Tensor, a: float) -> Tensor:
        """The noise as predicted; clipping leaves it as it is."""
        signal, noise = a**0.5, (1 - a) ** 0.5
        eps = output
        if self.config.prediction_type == "v_prediction":
            eps = (output * signal).add_(x, alpha=noise)
        elif self.config.prediction_type == "sample":
            eps = (x / noise).sub_(output, alpha=signal / noise)
        return eps


def visited_bars(scheduler: Any, final: float) -> dict[int, tuple[float, float]]:
    """alpha_bar at each of a scheduler's timesteps, and at the one that follows; ``final`` after the last.

    Raises:
        ValueError: for timesteps that the network was not trained with.
    """
    visited, last = scheduler.timesteps.tolist(), scheduler.config.num_train_timesteps - 1
    if visited[0] > last:
        begin = f"{scheduler.num_inference_steps} steps begin at t = {visited[0]}, and the last is {last}"
        raise ValueError(f"{begin}: take fewer steps, or sampler.steps_offset=0")
    bars = scheduler.alphas_cumprod[visited].tolist()
    return {t: (a, b) for t, a, b in zip(visited, bars, [*bars[1:], final], strict=True)}


def clean_image(scheduler: Any, output: Tensor, x: Tensor, a: float) -> Tensor:
    """x_0 as predicted, clipped if the scheduler is so configured."""
    config, signal, noise = scheduler.config, a**0.5, (1 - a) ** 0.5
    clean: Tensor
    if config.prediction_type == "epsilon":
        clean = (x / signal).sub_(output, alpha=noise / signal)
    elif config.prediction_type == "v_prediction":
        clean = (x * signal).sub_(output, alpha=noise)
    else:
        clean = output
    if config.thresholding:
        clean = scheduler._threshold_sample(clean)
    elif config.clip_sample:
        clean = clean.clamp(-config.clip_sample_range, config.clip_sample_range)
    return clean


def normal_like(x: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    """Noise of the shape of x; of one generator an image, each image's own."""
    if isinstance(generator, Generators):
        return generator.normal(x)
    found: Tensor = randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return found
