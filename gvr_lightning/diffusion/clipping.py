"""The predicted image kept in [-1, 1], whatever the scheduler.

At the first steps alpha_bar is nearly 0 (4e-9 for the cosine schedule), and x_0 = (x - sqrt(1 - alpha_bar) eps) /
sqrt(alpha_bar) makes images of thousands of the network's smallest errors. DDIM and DDPM clip it; others of diffusers'
schedulers do not, and what they draw with is then noise.
"""

from typing import Any

from torch import Tensor


def alpha_bars(scheduler: Any) -> list[float]:
    """alpha_bar at each of a scheduler's steps; empty for one without a noise schedule of this kind."""
    if not hasattr(scheduler, "alphas_cumprod"):
        return []
    if hasattr(scheduler, "sigmas"):  # sigma^2 = (1 - alpha_bar) / alpha_bar, in the order of the steps
        return [1 / (1 + float(sigma) ** 2) for sigma in scheduler.sigmas[: len(scheduler.timesteps)]]
    return [float(scheduler.alphas_cumprod[int(t)]) for t in scheduler.timesteps]


def clips_itself(scheduler: Any) -> bool:
    """Whether a scheduler has its own way to keep the predicted image in bounds, and it is on."""
    return bool(scheduler.config.get("clip_sample") or scheduler.config.get("thresholding"))


def clipped(output: Tensor, x: Tensor, a: float, prediction: str) -> Tensor:
    """The prediction whose predicted image is that of ``output``, clipped to [-1, 1].

    Args:
        output: the network's, epsilon, v or the image itself.
        x: what the network got, x_t = sqrt(a) x_0 + sqrt(1 - a) eps.
        a: alpha_bar at this timestep, in (0, 1).
        prediction: diffusers' name of what the output is.
    """
    if prediction == "sample":
        return output.clamp(min=-1, max=1)
    signal, noise = a**0.5, (1 - a) ** 0.5
    if prediction == "epsilon":
        clean: Tensor = (x / signal).sub_(output, alpha=noise / signal).clamp_(-1, 1)
        return _noise_of(x, clean, signal, noise)
    clean = (x * signal).sub_(output, alpha=noise).clamp_(-1, 1)
    return _noise_of(x, clean, signal, noise).mul_(signal).sub_(clean, alpha=noise)


def _noise_of(x: Tensor, clean: Tensor, signal: float, noise: float) -> Tensor:
    return (x / noise).sub_(clean, alpha=signal / noise)
