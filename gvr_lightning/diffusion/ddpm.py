"""DDPM's own sampling as a diffusers scheduler: diffusers' steps, with coefficients that are plain numbers.

diffusers' own makes them anew in every step, of tensors, and draws each image's noise by a call of its own, whose copy
to the device is waited for.
"""

from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from torch import Tensor

from gvr_lightning.diffusion.ddim import clean_image, normal_like, visited_bars

SMALL, LARGE = ("fixed_small", "fixed_small_log"), "fixed_large"
SMALLEST = 1e-20  # variance of the small kind, as diffusers has it


class DDPM(DDPMScheduler):
    """Denoising diffusion probabilistic models (Ho et al. 2020).

    Legend: a = alpha_bar at this timestep, b = at the next (1 after the last); beta = 1 - a / b; x_0 the predicted
    image; sigma^2 = beta ("fixed_large") or (1 - b) / (1 - a) beta ("fixed_small"), and 0 at t = 0.
    """

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, timesteps: list[int] | None = None
    ) -> None:
        """As diffusers does.

        Raises:
            ValueError: for a variance that the network would have to give.
        """
        if self.config.variance_type not in (*SMALL, LARGE):
            raise ValueError(f"variance_type={self.config.variance_type}: there is fixed_small and fixed_large")
        super().set_timesteps(num_inference_steps, device, timesteps)
        self._bars = visited_bars(self, 1.0)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Go on to the next timestep: sqrt(b) beta / (1 - a) x_0 + sqrt(a / b) (1 - b) / (1 - a) x + sigma z."""
        a, b = self._bars[int(timestep)]
        beta = 1 - a / b
        clean = clean_image(self, model_output, sample, a)
        following = clean * (b**0.5 * beta / (1 - a))
        following.add_(sample, alpha=(a / b) ** 0.5 * (1 - b) / (1 - a))
        if timestep > 0:
            variance = beta if self.config.variance_type == LARGE else max(SMALLEST, (1 - b) / (1 - a) * beta)
            following.add_(normal_like(sample, generator), alpha=variance**0.5)
        return DDPMSchedulerOutput(following, clean) if return_dict else (following, clean)
