"""The forward process q(x_t | x_0) and what the network is to predict, by diffusers' DDPM scheduler.

Legend: x_0 images in [-1, 1]; alpha_bar_t = prod_s (1 - beta_s);
x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, with eps standard normal.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gvr_lightning.diffusion.normal import normal
from gvr_lightning.methods.upload import upload
from gvr_lightning.random import hash_key, uniform

# ours -> diffusers' names; it does not know the last, whose betas it is given
BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid", "sigmoid_published": "linear"}
TARGETS = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}
TIME, EPSILON = range(2)  # what a random number is for


class Noise:
    """Noisy images and their targets; t and eps are pure functions of (key, sample).

    Args:
        timesteps: T; t runs over 0..T-1, and x_{T-1} is nearly pure noise.
        beta_schedule: "linear" (Ho et al. 2020), "cosine" (Nichol and Dhariwal 2021), "sigmoid" (its betas are one), or
            "sigmoid_published" (alpha_bar is one; Jabri et al. 2022, arXiv 2212.11972).
        beta_range: of the linear and the first sigmoid schedule.
        prediction: the target: "epsilon", "v" = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans and Ho 2022),
            or "sample", x_0 itself.
        scale_betas: the linear ones times 1000 / T, so that x_{T-1} is as noisy for any T.

    Raises:
        ValueError: for a name that is not one of these, or betas that leave nothing of an image in the end.
    """

    def __init__(
        self,
        timesteps: int = 1000,
        beta_schedule: str = "linear",
        beta_range: Sequence[float] = (1e-4, 0.02),
        prediction: str = "epsilon",
        scale_betas: bool = False,
    ) -> None:
        for value, names in ((beta_schedule, BETAS), (prediction, TARGETS)):
            if value not in names:
                raise ValueError(f"there is no {value!r}; there is {', '.join(names)}")
        from diffusers import DDPMScheduler  # two seconds

        self.timesteps = timesteps
        scale = 1000 / timesteps if scale_betas and beta_schedule == "linear" else 1.0
        if scale_betas and beta_range[1] * scale >= 1:
            raise ValueError(
                f"scale_betas=true: with {timesteps} timesteps the last beta is {beta_range[1] * scale:g}, not < 1"
            )
        self.scheduler: Any = DDPMScheduler(
            num_train_timesteps=timesteps,
            beta_schedule=BETAS[beta_schedule],
            beta_start=beta_range[0] * scale,
            beta_end=beta_range[1] * scale,
            trained_betas=published_sigmoid(timesteps) if beta_schedule == "sigmoid_published" else None,
            prediction_type=TARGETS[prediction],
            variance_type="fixed_large",  # sigma_t^2 = beta_t, as in the published CIFAR-10 models
        )
        if not self.scheduler.alphas_cumprod[-1] > 0:  # in float32: no image could be had back from x_{T-1}
            raise ValueError(
                f"beta_range={list(beta_range)} over {timesteps} timesteps leaves nothing of an image: lower it"
            )

    def draw(self, images: Tensor, samples: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """The timestep and the noise of each image.

        Args:
            images: x_0 (B, C, H, W).
            samples: (B,), each image's number in its data set; on the CPU, so that no step waits for them.
            key: of this update and view.

        Returns:
            t (B,), uniform over 0..T-1, and eps like the images, standard normal.
        """
        u = uniform(hash_key(key, TIME), samples, 1)[0]
        t = (u * self.timesteps).long().clamp_(max=self.timesteps - 1)
        eps = normal(hash_key(key, EPSILON), samples, images.shape[1:])
        return upload(t, images.device), upload(eps.to(images.dtype), images.device)

    def noisy(self, images: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t."""
        noisy: Tensor = self.scheduler.add_noise(images, eps, t)
        return noisy

    def target(self, images: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """What the network is to predict from x_t and t."""
        kind = self.scheduler.config.prediction_type
        if kind == "v_prediction":
            velocity: Tensor = self.scheduler.get_velocity(images, eps, t)
            return velocity
        return {"epsilon": eps, "sample": images}[kind]

    @classmethod
    def of(cls, scheduler: Any) -> "Noise":
        """From a diffusers scheduler, whatever its kind."""
        from diffusers import DDPMScheduler

        noise = cls.__new__(cls)
        noise.scheduler = DDPMScheduler.from_config(scheduler.config)
        noise.timesteps = torch.as_tensor(noise.scheduler.betas).numel()
        return noise


def published_sigmoid(timesteps: int, start: float = -3, end: float = 3) -> list[float]:
    """Betas whose alpha_bar falls from 1 to 0 as a sigmoid from ``start`` to ``end`` does; capped at 0.999."""
    v = torch.linspace(start, end, timesteps + 1, dtype=torch.float64).sigmoid()
    bars = (v[-1] - v) / (v[-1] - v[0])
    return (1 - bars[1:] / bars[:-1]).clamp(0, 0.999).tolist()
