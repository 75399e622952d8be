"""The mathematics of denoising diffusion, against formulas written down from the papers in float64.

Legend: a = alpha_bar at a timestep, b = at the next one visited (1 after the last); s, mu = of Gaussian data.
Statistical bounds are five standard errors wide, and the draws are fixed by their seeds: a pass stays a pass.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_ddpm
from hydra import compose, initialize_config_dir
from lightning.pytorch import Callback, Trainer
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor, nn

from gvr_lightning.app.build import build_sampler
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.data.augmentation import Augmentation
from gvr_lightning.data.datamodule import Batch, ViewsDataModule
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.diffusion import ddim as our_ddim
from gvr_lightning.diffusion.clipping import alpha_bars, clipped
from gvr_lightning.diffusion.ddim import DDIM
from gvr_lightning.diffusion.ddpm import DDPM
from gvr_lightning.diffusion.noise import Noise
from gvr_lightning.diffusion.normal import normal
from gvr_lightning.diffusion.sampler import Sampler, draw, to_bytes
from gvr_lightning.errors import UserError
from gvr_lightning.methods.penalty import NoPenalty
from gvr_lightning.optim import schedules
from gvr_lightning.optim.ema import MovingAverage
from gvr_lightning.random import hash_key
from gvr_lightning.tasks.diffusion import DiffusionTask

Array = NDArray[np.float64]
KINDS = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}  # our names, diffusers'
SPACINGS = ("trailing", "linspace", "leading")
# those with sigmas turn tensors into arrays in a way that NumPy 2 will not take for ever
of_diffusers = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
T200: dict[str, Any] = {"timesteps": 200, "beta_range": (5e-4, 0.1)}  # as noisy at the end as 1,000 usual steps


def betas(schedule: str, T: int, low: float = 1e-4, high: float = 0.02) -> Array:
    if schedule == "cosine":  # Nichol and Dhariwal 2021, equation 17
        f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - f[1:] / f[:-1], 0.999)
    ramp = np.arange(T) / (T - 1)
    return low + (high - low) * (ramp if schedule == "linear" else 1 / (1 + np.exp(6 - 12 * ramp)))


def alpha_bar(schedule: str = "linear", T: int = 1000, low: float = 1e-4, high: float = 0.02) -> Array:
    return np.cumprod(1 - betas(schedule, T, low, high))


def bars(scheduler: Any) -> Array:
    """The scheduler's own float32 schedule: what follows from it then holds to float64's precision."""
    return scheduler.alphas_cumprod.double().numpy()


def close(ours: Any, theirs: Any, tolerance: float) -> None:
    ours, theirs = (torch.as_tensor(np.asarray(x), dtype=torch.float64) for x in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def noised(x: Any, eps: Any, a: Any) -> Any:
    return a**0.5 * x + (1 - a) ** 0.5 * eps


def answer(kind: str, x: Any, eps: Any, a: Any) -> Any:
    """What the perfect network says."""
    return {"epsilon": eps, "v": a**0.5 * eps - (1 - a) ** 0.5 * x, "sample": x}[kind]


def double(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# the forward process


@pytest.mark.parametrize("T", [50, 1000])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
def test_betas(schedule: str, T: int) -> None:
    scheduler = Noise(T, schedule, (2e-4, 0.03)).scheduler
    np.testing.assert_allclose(scheduler.betas, betas(schedule, T, 2e-4, 0.03), rtol=2e-5)
    np.testing.assert_allclose(bars(scheduler), alpha_bar(schedule, T, 2e-4, 0.03), rtol=1e-3)


def test_the_cosine_schedule_s_alpha_bar_is_a_squared_cosine_until_the_cap() -> None:
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    scheduler = Noise(1000, "cosine").scheduler
    np.testing.assert_allclose(bars(scheduler)[:-1], f[1:-1] / f[0], rtol=1e-3)
    assert float(scheduler.betas.max()) == float(scheduler.betas[-1]) == pytest.approx(0.999)


def test_the_published_sigmoid_is_one_of_alpha_bar() -> None:
    """As the AGR authors' code writes it, tau being 1; the existing sigmoid is another function."""
    t, low, high = np.arange(1001) / 1000, 1 / (1 + np.exp(3)), 1 / (1 + np.exp(-3))
    expected = (-1 / (1 + np.exp(-(t * 6 - 3))) + high) / (high - low)
    scheduler = Noise(1000, "sigmoid_published").scheduler
    np.testing.assert_allclose(bars(scheduler)[:-1], expected[1:-1], rtol=1e-3)
    assert float(scheduler.betas[-1]) == pytest.approx(0.999)
    assert np.abs(bars(Noise(1000, "sigmoid").scheduler) - expected[1:]).max() > 0.2


def test_linear_betas_scale_as_published() -> None:
    for T in (250, 1000):
        betas_of = Noise(T, "linear", scale_betas=True).scheduler.betas
        np.testing.assert_allclose(betas_of, np.linspace(1e-4 * 1000 / T, 0.02 * 1000 / T, T), rtol=2e-5)
    with pytest.raises(ValueError, match="with 20 timesteps the last beta is 1, not < 1"):
        Noise(20, "linear", scale_betas=True)


@pytest.mark.parametrize(
    "option", [{"beta_schedule": "cosin"}, {"prediction": "noise"}, {"prediction": "v_prediction"}]
)
def test_unknown_names_are_refused(option: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="there is no '"):
        Noise(**option)  # type: ignore[arg-type]


@pytest.mark.parametrize("t", [0, 10, 300, 999])
def test_x_t_has_the_mean_and_variance_of_q(t: int) -> None:
    noise, x, n = Noise(), torch.tensor([-1.0, 0.2, 0.9]).view(3, 1, 1), 4000
    images, samples, a = x.expand(n, 3, 4, 4), torch.arange(n), alpha_bar()[t]
    _, eps = noise.draw(images, samples, 5)
    noisy = noise.noisy(images, torch.full((n,), t), eps).double()
    N = n * 16
    assert (noisy.mean((0, 2, 3)) - a**0.5 * x.flatten()).abs().max() < 5 * ((1 - a) / N) ** 0.5
    assert (noisy.var((0, 2, 3)) / (1 - a) - 1).abs().max() < 5 * (2 / N) ** 0.5 + 1e-3  # 1 - a in float32 at t = 0


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("kind", KINDS)
def test_x_t_and_the_target_give_x_0_back(kind: str, schedule: str) -> None:
    noise = Noise(1000, schedule, prediction=kind)
    t = torch.tensor([0, 1, 50, 500, 900, 998])
    x, eps = double(6, 3, 4, 4), double(6, 3, 4, 4, seed=1)
    a = torch.as_tensor(bars(noise.scheduler))[t].view(-1, 1, 1, 1)
    x_t, target = noise.noisy(x, t, eps), noise.target(x, t, eps)
    signal, rest = a**0.5, (1 - a) ** 0.5
    recovered = {"epsilon": (x_t - rest * target) / signal, "v": signal * x_t - rest * target, "sample": target}[kind]
    close(recovered, x, 1e-10)
    close(target, answer(kind, x, eps, a), 1e-12)


def test_timesteps_are_uniform_and_reach_both_ends() -> None:
    n = 20_000
    images, samples = torch.zeros(n, 1, 1, 1), torch.arange(n)
    long, _ = Noise(1000).draw(images, samples, 3)
    short, _ = Noise(10).draw(images, samples, 3)
    assert (long.min(), long.max(), long.dtype) == (0, 999, torch.int64)
    counts = short.bincount(minlength=11)
    assert counts[10] == 0 and ((counts[:10] - n / 10) ** 2 / (n / 10)).sum() < 9 + 5 * 18**0.5  # chi^2, 9 degrees
    assert set(Noise(1).draw(images, samples, 3)[0].tolist()) == {0}


def normals(key: int = 1, n: int = 4000) -> Tensor:
    return Noise().draw(torch.zeros(n, 3, 4, 4), torch.arange(n), key)[1].double()


def correlation(a: Tensor, b: Tensor) -> float:
    """In standard errors, for standard normal numbers."""
    return float((a * b).sum().abs() / a.numel() ** 0.5)


def test_eps_is_standard_normal() -> None:
    eps = normals()
    moments = [float((eps**k).mean()) for k in (1, 2, 3, 4)]
    spreads = [1, 2, 15, 96]  # variance of x^k: E x^2k - (E x^k)^2
    for moment, expected, spread in zip(moments, [0, 1, 0, 3], spreads, strict=True):
        assert abs(moment - expected) < 5 * (spread / eps.numel()) ** 0.5
    assert 3.9 < eps.abs().max() < 6  # the tails of 192,000 numbers


def test_samples_pixels_keys_and_timesteps_are_independent() -> None:
    eps = normals()
    keys = [hash_key(0, seed, step, view) for seed, step, view in ((0, 0, 1), (0, 1, 0), (1, 0, 0))]
    first = normals(hash_key(0, 0, 0, 0))
    assert all(correlation(first, normals(key)) < 5 for key in keys)
    assert all(correlation(eps[:-lag], eps[lag:]) < 5 for lag in (1, 2, 64))
    numbers = [normal(key, torch.arange(2, 1002) - key, (3, 4, 4)).double() for key in (1, 2)]
    assert correlation(*numbers) < 5  # key + sample is not what they are made of
    pixels = eps.flatten(1).T @ eps.flatten(1) / len(eps) ** 0.5
    assert (pixels - pixels.diag().diag()).abs().max() < 5.5  # 1,128 pairs
    t, _ = Noise().draw(torch.zeros(4000, 3, 4, 4), torch.arange(4000), 1)
    assert correlation((t[:, None] - 499.5) / 1000 * 12**0.5, eps.flatten(1)[:, :1]) < 5


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 2, 2), (3, 5, 7)])
def test_draws_are_pure_functions_of_key_and_sample(shape: tuple[int, ...]) -> None:
    noise, samples = Noise(), torch.tensor([4, 0, 2**40, 7, 50_000])
    whole = noise.draw(torch.zeros(5, *shape), samples, 9)
    torch.randn(3)  # the global generator has no say
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = noise.draw(torch.zeros(5, *shape), samples[order], 9)
    assert all(torch.equal(a[order], b) for a, b in zip(whole, shuffled, strict=True))
    for i in range(5):
        alone = noise.draw(torch.ones(1, *shape), samples[i : i + 1], 9)
        assert all(torch.equal(a[i : i + 1], b) for a, b in zip(whole, alone, strict=True))
    others = noise.draw(torch.zeros(5, *shape), samples, 10)
    assert not torch.equal(whole[0], others[0]) and not (whole[1] == others[1]).any()


@pytest.mark.parametrize("scheduler_class", [DDPMScheduler, DDIM, UniPCMultistepScheduler])
def test_noise_of_a_scheduler_keeps_betas_and_prediction(scheduler_class: Any) -> None:
    scheduler = scheduler_class(num_train_timesteps=77, beta_schedule="scaled_linear", prediction_type="v_prediction")
    noise = Noise.of(scheduler)
    x, eps, t = double(2, 1, 2, 2), double(2, 1, 2, 2, seed=1), torch.tensor([0, 76])
    a = np.cumprod(1 - np.linspace(1e-4**0.5, 0.02**0.5, 77) ** 2)[[0, 76]]
    assert noise.timesteps == 77
    close(noise.target(x, t, eps), answer("v", x, eps, torch.as_tensor(a).view(-1, 1, 1, 1)), 1e-3)
    assert torch.equal(noise.scheduler.betas, scheduler.betas)


# DDIM


def ddim(T: int = 1000, steps: int = 50, cls: Any = DDIM, **options: Any) -> Any:
    scheduler = cls(num_train_timesteps=T, **({"clip_sample": False, "timestep_spacing": "trailing"} | options))
    scheduler.set_timesteps(steps)
    return scheduler


def walk(scheduler: Any) -> Iterator[tuple[int, float, float]]:
    """Each timestep with a and b."""
    visited = scheduler.timesteps.tolist()
    a = bars(scheduler)[visited]
    return zip(visited, a, [*a[1:], 1.0], strict=True)


@pytest.mark.parametrize(
    ("T", "steps"), [(1000, 1000), (1000, 100), (1000, 50), (1000, 7), (50, 50), (50, 7), (1000, 61), (200, 121)]
)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_fall_evenly_from_the_end(spacing: str, T: int, steps: int) -> None:
    """61 of 1,000, too: diffusers' trailing timesteps, rounded from floating point, then go on to -1."""
    visited = ddim(T, steps, timestep_spacing=spacing).timesteps
    assert len(visited) == steps and visited.min() >= 0
    ideal = {"trailing": T / steps, "linspace": (T - 1) / (steps - 1), "leading": T // steps}[spacing]
    assert ((visited[:-1] - visited[1:] - ideal).abs() < 1).all()
    assert visited[0] == (T - 1 if spacing != "leading" else (steps - 1) * (T // steps))
    assert visited[-1] == (0 if spacing != "trailing" else round(T / steps) - 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("T", "steps", "schedule"),
    [
        *((1000, steps, "linear") for steps in (1000, 50, 7, 61)),
        *((T, steps, "squaredcos_cap_v2") for T, steps in ((1000, 100), (50, 7), (50, 50))),
    ],
)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_each_step_lands_where_the_next_begins(spacing: str, T: int, steps: int, schedule: str, kind: str) -> None:
    """With the true x_0 and eps; after the last step the image is x_0 itself."""
    scheduler = ddim(T, steps, timestep_spacing=spacing, beta_schedule=schedule, prediction_type=KINDS[kind])
    x_0, eps = double(2, 1, 3, 3), double(2, 1, 3, 3, seed=1)
    x = noised(x_0, eps, next(walk(scheduler))[1])
    for t, a, b in walk(scheduler):
        x = scheduler.step(answer(kind, x_0, eps, a), t, x, return_dict=False)[0]
        close(x, noised(x_0, eps, b), 1e-10)
    close(x, x_0, 1e-10)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize(("spacing", "steps"), [("trailing", 50), ("leading", 50), ("trailing", 1000)])
def test_ddim_is_diffusers_where_the_spacing_is_uniform(
    spacing: str, steps: int, kind: str, eta: float, clip: bool
) -> None:
    """Diffusers' coefficients are float32, and x_0 = (x - ...) / sqrt(a) multiplies their rounding by up to 158."""
    options = {"timestep_spacing": spacing, "prediction_type": kind, "clip_sample": clip}
    ours, theirs = (ddim(1000, steps, cls, **options) for cls in (DDIM, DDIMScheduler))
    assert torch.equal(ours.timesteps, theirs.timesteps)
    x, output = double(2, 1, 3, 3), double(2, 1, 3, 3, seed=1)
    for t in (*ours.timesteps[:: steps // 50].tolist(), int(ours.timesteps[-1])):
        results = [s.step(output, t, x, eta=eta, generator=torch.Generator().manual_seed(t)) for s in (ours, theirs)]
        close(results[0].prev_sample, results[1].prev_sample, 2e-5)
        close(results[0].pred_original_sample, results[1].pred_original_sample, 2e-5)


def published_ddim(network: nn.Module, x: Tensor, steps: int, method: str, T: int = 1000) -> Tensor:
    """The AGR authors' sampler, transcribed: eta = 0, betas 1e-4 to 0.02."""
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, T), 0).numpy()
    if method == "linear":
        visited = np.asarray(list(range(0, T, T // steps)))
    else:
        visited = (np.linspace(0, np.sqrt(T * 0.8), steps) ** 2).astype(int)
    visited = visited + 1
    before = np.concatenate([[0], visited[:-1]])
    for i in reversed(range(steps)):
        a, b = bar[visited[i]], bar[before[i]]
        eps = network((x, torch.full((len(x),), int(visited[i]))))
        x = (b / a) ** 0.5 * x + ((1 - b) ** 0.5 - (b * (1 - a) / a) ** 0.5) * eps
    return x


@pytest.mark.parametrize(("method", "spacing"), [("linear", "leading"), ("quadratic", "quadratic")])
@pytest.mark.parametrize("steps", [100, 30, 7])
def test_ddim_published_is_the_published_code_step_by_step(method: str, spacing: str, steps: int) -> None:
    """steps_offset=1 and set_alpha_to_one=false; the smallest timesteps of the quadratic spacing coincide."""
    overrides = ["task=ddpm", "sampler=ddim_published", f"sampler.steps={steps}", f"sampler.spacing={spacing}"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", overrides=[*overrides, "task.noise.beta_schedule=linear"])
    torch.manual_seed(0)
    noise = Noise()
    network = BlackAndWhite(noise.scheduler.alphas_cumprod, error=0.0)  # which would multiply roundings
    starts: list[Tensor] = []

    def first_seen(xt: tuple[Tensor, Tensor]) -> Tensor:
        starts.append(xt[0])
        return network(xt)  # type: ignore[no-any-return]

    network_as_seen = nn.Module()
    network_as_seen.weight, network_as_seen.forward = network.weight, first_seen  # type: ignore[assignment]
    images = build_sampler(cfg.sampler, noise)(network_as_seen, (1, 4, 4), torch.arange(6))
    expected = published_ddim(network, starts[0].double(), steps, method)
    close(images.double(), expected, 1e-5)
    assert images.abs().max() > 0.5
    if steps == 100:
        with pytest.raises(UserError, match=r"1000 steps begin at t = 1000, and the last is 999: take fewer steps"):
            build_sampler(OmegaConf.merge(cfg.sampler, {"steps": 1000, "spacing": "leading"}), noise)


@pytest.mark.parametrize(("spacing", "steps"), [("linspace", 50), ("trailing", 7), ("linspace", 7)])
def test_diffusers_steps_elsewhere_when_the_spacing_is_not_uniform(spacing: str, steps: int) -> None:
    """It goes to t - T // steps whatever it visits next, so the network sees x_t with another t's noise level."""
    x_0, eps = double(2, 1, 3, 3), double(2, 1, 3, 3, seed=1)
    worst = {}
    for cls in (DDIM, DDIMScheduler):
        scheduler = ddim(1000, steps, cls, timestep_spacing=spacing)
        landed = [scheduler.step(eps, t, noised(x_0, eps, a))[0] - noised(x_0, eps, b) for t, a, b in walk(scheduler)]
        worst[cls] = max(float(miss.abs().max()) for miss in landed)
    assert worst[DDIM] < 1e-10 and worst[DDIMScheduler] > 1e-3


@pytest.mark.parametrize("steps", [1000, 50])
@pytest.mark.parametrize("kind", KINDS)
def test_eta_one_draws_from_ddpm_s_posterior(kind: str, steps: int) -> None:
    """q(x_{t-1} | x_t, x_0), equations 6 and 7 of Ho et al.: its variance is the smaller of the two fixed ones."""
    scheduler = ddim(1000, steps, prediction_type=KINDS[kind])
    x_0, eps = double(2, 1, 3, 3), double(2, 1, 3, 3, seed=1)
    every = list(walk(scheduler))
    for t, a, b in (*every[:: steps // 10 - 1], *every[-3:]):
        x_t, alpha, beta = noised(x_0, eps, a), a / b, 1 - a / b
        mean = b**0.5 * beta / (1 - a) * x_0 + alpha**0.5 * (1 - b) / (1 - a) * x_t
        variance = (1 - b) / (1 - a) * beta
        z = double(2, 1, 3, 3, seed=t)
        x = scheduler.step(answer(kind, x_0, eps, a), t, x_t, 1.0, torch.Generator().manual_seed(t))[0]
        close(x, mean + variance**0.5 * z, 1e-8)


def test_the_posterior_s_variance_by_draws() -> None:
    """As above, but nothing said of how z is made."""
    scheduler, t, n = ddim(1000, 1000), 400, 200_000
    beta, a = betas("linear", 1000), alpha_bar()
    x_0, eps = torch.full((1, 1, 1, n), 0.5, dtype=torch.float64), torch.full((1, 1, 1, n), -1.0, dtype=torch.float64)
    x_t = noised(x_0, eps, a[t])
    x = scheduler.step(eps, t, x_t, 1.0, torch.Generator().manual_seed(0))[0]
    mean = (a[t - 1] ** 0.5 * beta[t] * 0.5 + (1 - beta[t]) ** 0.5 * (1 - a[t - 1]) * x_t[0, 0, 0, 0]) / (1 - a[t])
    variance = (1 - a[t - 1]) / (1 - a[t]) * beta[t]
    assert abs(float(x.mean() - mean)) < 5 * (variance / n) ** 0.5
    assert abs(float(x.var()) / variance - 1) < 5 * (2 / n) ** 0.5


def test_eta_zero_draws_nothing() -> None:
    scheduler, generator = ddim(), torch.Generator().manual_seed(0)
    before, everyone = generator.get_state(), torch.get_rng_state()
    x, output = double(2, 1, 3, 3), double(2, 1, 3, 3, seed=1)
    first, second = (scheduler.step(output, 499, x, 0.0, generator)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, generator.get_state()) and torch.equal(everyone, torch.get_rng_state())


# Gaussian data, whose denoiser and whose every step are known


class GaussianDenoiser(nn.Module):
    """E[. | x_t] for pixels x_0 ~ N(mu, s^2).

    x_t ~ N(sqrt(a) mu, p) with p = a s^2 + 1 - a, and cov(eps, x_t) = sqrt(1 - a), so by regression on x_t
    E[eps | x_t] = sqrt(1 - a) / p (x_t - sqrt(a) mu), and likewise E[x_0 | x_t] with cov(x_0, x_t) = sqrt(a) s^2.
    """

    def __init__(self, a: Array, mu: float, s: float, kind: str = "epsilon") -> None:
        super().__init__()
        self.mu, self.s, self.kind = mu, s, kind
        self.weight = nn.Parameter(torch.zeros(1, 1, 1, 1))
        self.a = torch.as_tensor(a)

    def forward(self, xt: tuple[Tensor, Tensor]) -> Tensor:
        x, t = xt
        a = self.a[t.long()].view(-1, 1, 1, 1)
        deviation = (x - a**0.5 * self.mu) / (a * self.s**2 + 1 - a)
        return answer(self.kind, self.mu + a**0.5 * self.s**2 * deviation, (1 - a) ** 0.5 * deviation, a)


def chain(a: Array, mu: float, s: float, variance: str | float) -> list[tuple[float, float]]:
    """Mean and variance after each step, exactly: every step is x -> slope x + const + sigma z.

    a: alpha_bar at the timesteps visited; variance: of each step: DDIM's eta, or "small" or "large", DDPM's.
    """
    m, v, after = 0.0, 1.0, []
    for here, there in zip(a, [*a[1:], 1.0], strict=True):
        p, beta = here * s**2 + 1 - here, 1 - here / there
        to_x_0, to_eps = here**0.5 * s**2 / p, (1 - here) ** 0.5 / p
        posterior = (1 - there) / (1 - here) * beta
        if isinstance(variance, str):
            sigma2 = posterior if variance == "small" else beta * (there < 1)  # none after the last step
            keep_x_0 = there**0.5 * beta / (1 - here)
            slope = keep_x_0 * to_x_0 + (1 - beta) ** 0.5 * (1 - there) / (1 - here)
        else:
            sigma2 = variance**2 * posterior
            slope = there**0.5 * to_x_0 + max(0.0, 1 - there - sigma2) ** 0.5 * to_eps
        m, v = there**0.5 * mu + slope * (m - here**0.5 * mu), slope**2 * v + sigma2
        after.append((m, v))
    return after


def assert_follows(
    sampler: Sampler, network: nn.Module, expected: list[tuple[float, float]], number: int, side: int
) -> None:
    """Mean and variance of the pixels after every step: within five standard errors, plus float32's rounding."""
    seen: list[tuple[float, float]] = []
    shape, n = (1, side, side), number * side**2
    sampler(network, shape, torch.arange(number), watch=lambda x: seen.append((x.mean().item(), x.var().item())))
    for (mean, variance), (m, v) in zip(seen, expected, strict=True):
        assert abs(mean - m) < 5 * (v / n) ** 0.5 + 1e-5
        assert abs(variance - v) < 5 * v * (2 / n) ** 0.5 + 1e-6


@pytest.mark.parametrize(("steps", "number", "side"), [(50, 4000, 2), (100, 2000, 4), (1000, 2000, 4)])
def test_ddim_of_gaussian_data(steps: int, number: int, side: int) -> None:
    """First order: the standard deviation is too small by 3 / steps (0.3 % with 1,000), whatever the draws.

    The mean is off by what the start, N(0, 1), lacks of sqrt(alpha_bar_T) mu: 0.001.
    """
    a, mu, s = alpha_bar(), 0.3, 0.5
    expected = chain(a[ddim(1000, steps).timesteps], mu, s, 0.0)
    m, v = expected[-1]
    assert abs(m - mu) < 1e-3 and -3.2 / steps < v**0.5 / s - 1 < -2.5 / steps
    assert_follows(Sampler(ddim(1000, steps), steps), GaussianDenoiser(a, mu, s), expected, number, side)


@pytest.mark.parametrize("kind", ["v", "sample"])
def test_what_the_network_predicts_does_not_matter(kind: str) -> None:
    a, index = alpha_bar(), torch.arange(20)
    images = [
        Sampler(ddim(prediction_type=KINDS[k]), 50, eta)(GaussianDenoiser(a, 0.3, 0.5, k), (1, 4, 4), index)
        for k, eta in (("epsilon", 0.0), (kind, 0.0), ("epsilon", 1.0), (kind, 1.0))
    ]
    close(images[0], images[1], 1e-4)
    close(images[2], images[3], 1e-4)


SCHEDULERS = {
    1.0: partial(DDIM, timestep_spacing="trailing"),
    "small": partial(DDPM, variance_type="fixed_small"),
    "large": partial(DDPM.from_config, Noise(**T200).scheduler.config),  # what a run is sampled with
}


def ancestral(variance: str | float, mu: float, s: float) -> tuple[Sampler, nn.Module, Array]:
    """All 200 steps."""
    a = alpha_bar("linear", 200, *T200["beta_range"])
    options = {"num_train_timesteps": 200, "beta_start": 5e-4, "beta_end": 0.1, "clip_sample": False}
    sampler = Sampler(SCHEDULERS[variance](**options), eta=variance if isinstance(variance, float) else 0.0)
    return sampler, GaussianDenoiser(a, mu, s), a


@pytest.mark.parametrize("variance", [1.0, "small", "large"])
def test_ancestral_sampling_of_gaussian_data(variance: str | float) -> None:
    """With 200 steps the deviation is 3.5 % too small with the posterior's variance, 0.8 % too large with beta."""
    mu, s = 0.3, 0.5
    sampler, network, a = ancestral(variance, mu, s)
    expected = chain(a[::-1], mu, s, variance)
    m, v = expected[-1]
    assert m == pytest.approx(mu, abs=1e-4)
    assert v**0.5 / s - 1 == pytest.approx(0.0076 if variance == "large" else -0.0346, abs=5e-4)
    assert_follows(sampler, network, expected, 250, 16)


@pytest.mark.parametrize(
    ("variance", "mu", "s", "final"), [("large", 0.0, 1.0, 0.9995), ("small", 0.3, 0.0, 0.0), (1.0, 0.3, 0.0, 0.0)]
)
def test_each_fixed_variance_is_exact_for_one_prior(variance: str | float, mu: float, s: float, final: float) -> None:
    """Ho et al., section 3.2: beta for x_0 ~ N(0, 1), the posterior's for a single point.

    beta: x_{t-1} = sqrt(1 - beta) x_t + sqrt(beta) z keeps the variance 1, until the last step, which adds no noise.
    """
    sampler, network, a = ancestral(variance, mu, s)
    expected = chain(a[::-1], mu, s, variance)
    assert expected[-1][1] == pytest.approx(final, abs=3e-4)  # the rest is the start's, not quite N(0, 1)
    assert_follows(sampler, network, expected, 250, 16)


@of_diffusers
@pytest.mark.parametrize(
    ("cls", "error"),
    [
        (UniPCMultistepScheduler, 0.01),
        (DPMSolverMultistepScheduler, 0.01),
        (EulerDiscreteScheduler, 0.02),  # first order
        (EulerAncestralDiscreteScheduler, 0.04),  # first order: as much as DDPM with the posterior's variance
    ],
)
def test_other_schedulers_of_gaussian_data(cls: Any, error: float) -> None:
    """Some want a larger start and a rescaled input."""
    sampler = Sampler(cls.from_config(Noise().scheduler.config, timestep_spacing="trailing"), 200)
    x = sampler(GaussianDenoiser(alpha_bar(), 0.3, 0.5), (1, 16, 16), torch.arange(250))
    assert x.mean().item() == pytest.approx(0.3, abs=0.01)
    assert x.std().item() == pytest.approx(0.5, rel=error)


@pytest.mark.parametrize("spacing", ["linspace", "leading"])
def test_fewer_ddpm_steps_that_end_at_timestep_0_leave_no_noise(spacing: str) -> None:
    """Not so "trailing": it ends at T / steps - 1, and diffusers adds its noise wherever t > 0."""
    scheduler = DDPMScheduler(variance_type="fixed_large", clip_sample=False, timestep_spacing=spacing)
    images = Sampler(scheduler, 50)(GaussianDenoiser(alpha_bar(), 0.3, 0.0), (1, 4, 4), torch.arange(10))
    close(images, torch.full_like(images, 0.3), 1e-4)


# the predicted image, clipped


class BlackAndWhite(nn.Module):
    """The noise in images of pixels -0.8 and 0.8, with a network's small errors, and as deaf to what it never saw."""

    def __init__(self, a: Tensor, error: float = 0.02) -> None:
        super().__init__()
        self.a, self.error, self.weight = a, error, nn.Parameter(torch.zeros(1, 1, 1, 1))

    def forward(self, xt: tuple[Tensor, Tensor]) -> Tensor:
        x, a = xt[0].clamp(-4, 4), self.a[xt[1].long()].view(-1, 1, 1, 1)
        clean = 0.8 * torch.tanh(0.8 * a.sqrt() * x / (1 - a))  # the posterior's mean
        return (x - a.sqrt() * clean) / (1 - a).sqrt() + self.error * torch.cos(40 * x)


def drawn_by(option: str, steps: int, clip: bool) -> Tensor:
    overrides = ["task=ddpm", f"sampler={option}", f"sampler.steps={steps}", f"sampler.clip_sample={clip}".lower()]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", overrides=overrides)
    noise = Noise(beta_schedule="cosine")
    sampler = build_sampler(cfg.sampler, noise)
    return sampler(BlackAndWhite(noise.scheduler.alphas_cumprod), (1, 8, 8), torch.arange(60))


@of_diffusers
@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("option", sorted(path.stem for path in (conf_folder() / "sampler").glob("*.yaml")))
def test_every_sampler_draws_what_ddim_does(option: str, steps: int) -> None:
    """With the cosine schedule, whose first predicted image would be of thousands."""
    images, by_ddim = drawn_by(option, steps, True), drawn_by("ddim", steps, True)
    assert ((images.abs() - 0.8).abs() < 0.1).float().mean() > 0.97
    assert (images > 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    if option in ("unipc", "dpmpp", "euler"):  # of the same noise the same image
        assert ((images > 0) == (by_ddim > 0)).float().mean() > 0.97
    if option == "ddim_published":  # it begins at t = 951, where alpha_bar is large enough
        return
    without = drawn_by(option, steps, False)
    assert ((without.abs() - 0.8).abs() < 0.1).float().mean() < 0.6  # so that this test can fail


@pytest.mark.parametrize("prediction", KINDS)
def test_a_prediction_is_that_of_the_clipped_image(prediction: str) -> None:
    x, eps = (torch.randn(2, 3, 4, 4, dtype=torch.float64) for _ in range(2))
    a, kind = 0.37, KINDS[prediction]
    clean = (x - (1 - a) ** 0.5 * eps) / a**0.5
    of = {
        "epsilon": lambda c, e: e,
        "v_prediction": lambda c, e: a**0.5 * e - (1 - a) ** 0.5 * c,
        "sample": lambda c, e: c,
    }
    kept = clean.clamp(-1, 1)
    assert 0.1 < (clean.abs() > 1).double().mean() < 0.9
    expected = of[kind](kept, (x - a**0.5 * kept) / (1 - a) ** 0.5)
    close(clipped(of[kind](clean, eps), x, a, kind), expected, 1e-12)


@of_diffusers
@pytest.mark.parametrize(
    "cls",
    [
        DDPMScheduler,
        UniPCMultistepScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        EulerAncestralDiscreteScheduler,
        HeunDiscreteScheduler,
    ],
)
def test_alpha_bar_at_every_step_of_a_scheduler(cls: Any) -> None:
    scheduler = cls.from_config(Noise().scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    assert len(alpha_bars(scheduler)) == len(scheduler.timesteps)
    at = [alpha_bar()[int(t)] for t in scheduler.timesteps]
    assert alpha_bars(scheduler) == pytest.approx(at, rel=1e-3)


def test_a_scheduler_that_clips_or_has_thresholds_is_left_to_itself() -> None:
    assert not Sampler(DDIMScheduler(clip_sample=True), 10, clip=True).clip
    assert not Sampler(UniPCMultistepScheduler(thresholding=True), 10, clip=True).clip
    assert Sampler(UniPCMultistepScheduler(), 10, clip=True).clip and not Sampler(UniPCMultistepScheduler(), 10).clip


# the sampler


class Wave(nn.Module):
    """Depends on x, its neighbours and t; nothing in it depends on the batch."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 1, 1, 1), 0.5))
        self.dropout = nn.Dropout(dropout)

    def forward(self, xt: tuple[Tensor, Tensor]) -> Tensor:
        x, t = xt
        return self.dropout(self.weight * x + 0.3 * x.roll(1, -1) + 0.1 * torch.cos(t / 50).view(-1, 1, 1, 1))


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddim": lambda: Sampler(ddim(200, 10), 10),
    "ddim, eta 1": lambda: Sampler(ddim(200, 10), 10, 1.0),
    "ddpm": lambda: Sampler(DDPM(num_train_timesteps=20)),
    "diffusers' ddpm": lambda: Sampler(DDPMScheduler(num_train_timesteps=20)),
    "euler ancestral": lambda: Sampler(EulerAncestralDiscreteScheduler(num_train_timesteps=200), 10),
    "unipc": lambda: Sampler(UniPCMultistepScheduler(num_train_timesteps=200), 10),
    "dpm-solver": lambda: Sampler(DPMSolverMultistepScheduler(num_train_timesteps=200), 10),
}
SHAPE = (2, 4, 4)
anyhow = pytest.mark.parametrize("name", SAMPLERS)


@of_diffusers
@anyhow
def test_image_i_is_a_function_of_seed_and_i(name: str) -> None:
    sampler, network = SAMPLERS[name](), Wave()
    many = sampler(network, SHAPE, torch.arange(50), seed=3)
    torch.manual_seed(99)
    few = sampler(network, SHAPE, torch.arange(5), seed=3)
    single = SAMPLERS[name]()(network, SHAPE, torch.tensor([31]), seed=3)
    assert many.isfinite().all() and many.dtype == torch.float32
    close(few, many[:5], 1e-5)
    close(single, many[31:32], 1e-5)


@of_diffusers
@anyhow
def test_the_seed_and_the_number_make_an_image_another(name: str) -> None:
    sampler, network, index = SAMPLERS[name](), Wave(), torch.arange(6)
    ours, theirs = (sampler(network, SHAPE, index, seed) for seed in (0, 1))
    both = torch.cat([ours, theirs])
    distance = torch.cdist(both.flatten(1), both.flatten(1)) / both.std() + 10 * torch.eye(12)
    assert distance.min() > 0.5


@of_diffusers
@anyhow
def test_drawn_images_do_not_depend_on_the_batch_size(name: str) -> None:
    sampler, network = SAMPLERS[name](), Wave()
    runs = []
    for batch_size in (3, 7, 100):
        batches = list(draw(sampler, network, SHAPE, 20, seed=5, batch_size=batch_size))
        assert {len(b) for b in batches[:-1]} <= {batch_size}
        runs.append(torch.cat(batches))
    assert runs[0].shape == (20, *SHAPE) and runs[0].dtype == torch.uint8
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("variance", [1.0, "large"])
def test_each_image_has_noise_of_its_own(variance: str | float) -> None:
    """The start is forgotten when the data are N(0, 1): what is left is the steps' noise."""
    sampler, network, _ = ancestral(variance, 0.0, 1.0)
    ours, theirs = (sampler(network, (1, 16, 16), torch.arange(40), seed).double() for seed in (0, 1))
    assert all(correlation(ours[:-lag], ours[lag:]) < 5 for lag in (1, 2, 7))
    assert correlation(ours, theirs) < 5 and correlation(ours[1:], theirs[:-1]) < 5


def test_drawing_is_in_evaluation_mode_and_leaves_the_mode() -> None:
    network, sampler = Wave(dropout=0.5), SAMPLERS["ddim"]()
    for training in (True, False):
        network.train(training)
        first, second = (torch.cat(list(draw(sampler, network, SHAPE, 4))) for _ in range(2))
        assert torch.equal(first, second)
        assert network.training is network.dropout.training is training
    plain = torch.cat(list(draw(sampler, Wave(), SHAPE, 4)))
    assert torch.equal(first, plain)


def test_the_mode_is_left_when_drawing_is_broken_off() -> None:
    network = Wave().train()
    batches = draw(SAMPLERS["ddim"](), network, SHAPE, 4, batch_size=2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert network.training


def test_an_observer_sees_every_step() -> None:
    seen: list[Tensor] = []
    x = SAMPLERS["ddim, eta 1"]()(Wave(), SHAPE, torch.arange(2), watch=seen.append)
    assert len(seen) == 10 and torch.equal(seen[-1], x) and not torch.equal(seen[-2], x)


@of_diffusers
def test_what_a_scheduler_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="UniPCMultistepScheduler has no eta"):
        Sampler(UniPCMultistepScheduler(), 10, 0.5)
    for cls in (DDIM, DDPMScheduler, UniPCMultistepScheduler, EulerAncestralDiscreteScheduler):
        with pytest.raises(ValueError, match="101 steps"):
            Sampler(cls(num_train_timesteps=100), 101)
    with pytest.raises(ValueError, match="negative timestep"):
        Sampler(DDPMScheduler(timestep_spacing="trailing"), 61)


def test_without_a_number_of_steps_there_is_one_a_timestep() -> None:
    assert Sampler(DDPMScheduler(num_train_timesteps=30)).words == "DDPMScheduler, 30 steps"
    assert Sampler(ddim(30, 30), eta=0.5).words == "DDIM, 30 steps, eta 0.5"


def test_bytes_are_rounded_and_clamped() -> None:
    levels = torch.arange(256)
    assert torch.equal(to_bytes(levels / 127.5 - 1), levels.to(torch.uint8))
    assert to_bytes(torch.tensor([-1.0, 1.0, -5.0, 5.0, 0.9999, -0.9999])).tolist() == [0, 255, 0, 255, 255, 0]
    assert to_bytes((torch.tensor([10.4, 10.6]) / 127.5) - 1).tolist() == [10, 11]


# golden numbers


def ripple(k: int) -> Array:
    """The k-th "random" numbers: the same on every machine."""
    return 1.4 * np.cos(7.1 * np.arange(24) + k).reshape(2, 3, 2, 2)


def by_numpy(variance: str | float, steps: int, clip: bool) -> Array:
    """Sampling as in the papers, with the network x t / 1001, from a ramp over [-1, 1]."""
    a, k = alpha_bar(), 0
    x = np.linspace(-1, 1, 24).reshape(2, 3, 2, 2)
    visited = [1000 * n // steps - 1 for n in range(steps, 0, -1)]
    for t, then in zip(visited, [*visited[1:], -1], strict=True):
        here, there = a[t], a[then] if then >= 0 else 1.0
        eps, beta = x * t / 1001, 1 - here / there
        x_0 = (x - (1 - here) ** 0.5 * eps) / here**0.5
        x_0 = np.clip(x_0, -1, 1) if clip else x_0
        posterior = (1 - there) / (1 - here) * beta
        if isinstance(variance, str):
            sigma2 = (posterior if variance == "small" else beta) if t > 0 else 0.0
            x = (there**0.5 * beta * x_0 + (1 - beta) ** 0.5 * (1 - there) * x) / (1 - here)
        else:
            sigma2 = variance**2 * posterior
            x = there**0.5 * x_0 + max(0.0, 1 - there - sigma2) ** 0.5 * eps
        if sigma2 > 0:
            x, k = x + sigma2**0.5 * ripple(k), k + 1
    return x


# computed once by by_numpy: sum and mean of |x|
GOLDEN = [
    (0.0, 10, False, 58.40435608, 2.43351484),
    (0.0, 10, True, 21.42200990, 0.89258375),
    (1.0, 10, True, 11.91817384, 0.49659058),
    ("small", 1000, True, 1.64837198, 0.06868217),
    ("large", 1000, True, 1.62336673, 0.06764028),
]


@pytest.mark.parametrize(("variance", "steps", "clip", "total", "mean"), GOLDEN)
@pytest.mark.parametrize("ancestral", [DDPM, DDPMScheduler])
def test_golden_numbers(
    monkeypatch: pytest.MonkeyPatch,
    variance: str | float,
    steps: int,
    clip: bool,
    total: float,
    mean: float,
    ancestral: Any,
) -> None:
    counter = iter(range(2000))
    for module in (our_ddim, scheduling_ddpm):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: torch.as_tensor(ripple(next(counter))))
    scheduler = DDIM if isinstance(variance, float) else partial(ancestral, variance_type=f"fixed_{variance}")
    scheduler = ddim(1000, steps, scheduler, clip_sample=clip)
    extra = {"eta": variance} if isinstance(variance, float) else {}
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).view(2, 3, 2, 2)
    for t in scheduler.timesteps:
        x = scheduler.step(x * (t / 1001), t, x, return_dict=False, **extra)[0]
    for result in (x.numpy(), by_numpy(variance, steps, clip)):
        assert (np.abs(result).sum(), np.abs(result).mean()) == pytest.approx((total, mean), rel=1e-3)
    close(x, by_numpy(variance, steps, clip), 1e-3)


# the moving average


def drifting(n: int) -> Iterator[nn.Module]:
    """One model after each of n updates of its weights and its buffers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    yield model
    for _ in range(n):
        for tensor in (*model.parameters(), model[1].running_mean):
            tensor.data.add_(torch.randn_like(tensor))
        yield model


def flat(model: nn.Module) -> Array:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).numpy().copy()


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_the_moving_average(decay: float, warmup: bool) -> None:
    models = drifting(30)
    average = MovingAverage(next(models), decay, warmup)
    expected = np.nan
    for n, model in enumerate(models):
        average.update_parameters(model)
        d = min(decay, (1 + n) / (10 + n)) if warmup else decay
        expected = flat(model) if n == 0 else d * expected + (1 - d) * flat(model)
        close(flat(average.module), expected, 1e-12)
        assert torch.equal(average.module[1].running_mean, model[1].running_mean)  # buffers are copied
    assert int(average.n_averaged) == 30


def test_the_average_is_a_copy_that_only_updates_move() -> None:
    models = drifting(3)
    model = next(models)
    average = MovingAverage(model, 0.9, True)
    start = flat(model)
    for _ in models:
        assert np.array_equal(flat(average.module), start)
    assert not np.array_equal(flat(model), start)
    assert not any(p.requires_grad for p in average.parameters()) and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_goes_on_from_its_state(warmup: bool) -> None:
    models = drifting(20)
    model = next(models)
    average, restored = (MovingAverage(model, 0.99, warmup) for _ in range(2))
    for n, now in enumerate(models):
        average.update_parameters(now)
        if n == 7:
            restored.load_state_dict({name: value.clone() for name, value in average.state_dict().items()})
        elif n > 7:
            restored.update_parameters(now)
            assert np.array_equal(flat(average.module), flat(restored.module))
    assert int(restored.n_averaged) == 20


# the task


class Tiny(nn.Module):
    """(x, t) -> w x + slope t / 1000, with both to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 1, 1, 1), 0.5))
        self.slope = nn.Parameter(torch.tensor(0.5))

    def forward(self, xt: tuple[Tensor, Tensor]) -> Tensor:
        return self.weight * xt[0] + self.slope * (xt[1] / 1000).view(-1, 1, 1, 1)


def task(prediction: str = "epsilon", **options: Any) -> DiffusionTask:
    settings = {"optimizer": partial(torch.optim.SGD, lr=0.01), "schedule": schedules.constant} | options
    return DiffusionTask(noise=Noise(prediction=prediction), model=Tiny(), penalty=NoPenalty(), **settings)


def batch(n: int = 6, views: int = 3) -> Batch:
    """Views that differ: only the first is to count."""
    first = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch([first + v for v in range(views)], torch.zeros(n), torch.arange(n) * 100)


def rows(source: Batch, index: Any) -> Batch:
    return Batch([v[index] for v in source.views], source.target[index], source.samples[index])


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_noisy_and_targets_theirs(kind: str) -> None:
    """eps, v or x_0 by inverting x_t with t; and the same eps and t whatever is predicted."""
    source, a_bar = batch(), torch.as_tensor(alpha_bar())
    made, reference = task(kind).examples(source), task("sample").examples(source)
    for (x_t, t), (x_t2, t2), target in zip(made.views, reference.views, made.target, strict=True):
        assert torch.equal(x_t, x_t2) and torch.equal(t, t2)
        a = a_bar[t].view(-1, 1, 1, 1)
        eps = (x_t.double() - a**0.5 * source.views[0]) / (1 - a) ** 0.5
        close(target, answer(kind, source.views[0], eps, a), 1e-4)
    assert torch.equal(made.samples, source.samples) and len(made.views) == 3


def test_all_views_are_draws_on_the_first_image() -> None:
    one = task("sample").examples(batch())
    assert all(torch.equal(target, batch().views[0]) for target in one.target)
    times = torch.stack([t for _, t in one.views])
    assert len(times.unique()) > 14  # 3 views of 6 samples
    eps = torch.stack(task("epsilon").examples(batch(500)).target).double()
    assert all(correlation(eps[v], eps[w]) < 5 for v, w in ((0, 1), (0, 2), (1, 2)))


def test_a_view_is_a_function_of_seed_update_sample_and_view(monkeypatch: pytest.MonkeyPatch) -> None:
    source = batch()
    whole, swapped, fewer = (task(seed=7).examples(b) for b in (source, rows(source, [4, 1]), batch(views=2)))
    for v in range(2):
        for part, index in ((swapped, [4, 1]), (fewer, slice(None))):
            pairs = zip((*whole.views[v], whole.target[v]), (*part.views[v], part.target[v]), strict=True)
            assert all(torch.equal(a[index], b) for a, b in pairs)
    assert not torch.equal(task(seed=8).examples(source).target[0], whole.target[0])
    monkeypatch.setattr(DiffusionTask, "global_step", 1)
    later, again = (task(seed=7).examples(source) for _ in range(2))
    assert not (later.target[0] == whole.target[0]).any() and not (later.target[0] == whole.target[1]).any()
    assert torch.equal(later.target[2], again.target[2])


def test_the_loss_is_the_mean_squared_error_of_each_view() -> None:
    module = task()
    made = module.examples(batch())
    loss = module.penalty(module.model, module.criterion, made.views, made.target, made.keys)
    for (x, t), target, value in zip(made.views, made.target, loss.losses, strict=True):
        output = 0.5 * x.double().numpy() + t.numpy()[:, None, None, None] / 2000
        assert value.item() == pytest.approx(((output - target.double().numpy()) ** 2).mean(), rel=1e-5)
    assert loss.total.item() == pytest.approx(sum(value.item() for value in loss.losses))


def test_the_validation_loss_is_the_average_network_s_however_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over images, on draws that neither the update nor the weights being trained change."""
    module, source = task(), batch(7, views=1)
    module.model.weight.data.zero_()
    reported = []
    for step, parts in ((0, [slice(0, 7)]), (5, [slice(0, 4), slice(4, 5), slice(5, 7)])):
        monkeypatch.setattr(DiffusionTask, "global_step", step)
        for part in parts:
            module.validation_step(rows(source, part), 0)
        reported.append(float(module.eval_loss.compute()))
        module.eval_loss.reset()
    noisy = module._noisy(source, [hash_key(1, 0)])
    (x, t), target = noisy.views[0], noisy.target[0]
    expected = (0.5 * x + t.view(-1, 1, 1, 1) / 2000 - target).square().mean()
    assert reported == pytest.approx([float(expected)] * 2, rel=1e-5)
    assert not torch.equal(noisy.target[0], module.examples(source).target[0])  # not training's draws


def test_an_average_remembers_ten_thousand_updates_if_nothing_is_said() -> None:
    module = task()
    for weight in (1.0, 2.0):
        module.model.weight.data.fill_(weight)
        module.ema.update_parameters(module.model)
    assert float(module.averaged.weight) == pytest.approx(1.0001, abs=1e-6)


def test_a_validation_loss_that_is_not_a_number_is_told() -> None:
    module, source = task(), batch(4, views=1)
    source.views[0][1] = float("nan")
    module.validation_step(source, 0)
    assert module.eval_loss.compute().isnan()


def test_the_optimizer_has_no_averaged_weights() -> None:
    module = task()
    module._trainer = SimpleNamespace(estimated_stepping_batches=10, max_epochs=1)  # type: ignore[assignment]
    optimizer = module.configure_optimizers()["optimizer"]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in module.model.parameters()}


class Weights(Callback):
    """After each update: the network's, and their average."""

    def __init__(self) -> None:
        self.raw: list[Array] = []
        self.averaged: list[Array] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.raw.append(flat(pl_module.model))
        self.averaged.append(flat(pl_module.averaged))


def test_every_update_moves_the_average_once(tmp_path: Path) -> None:
    images = ImageSet(torch.randint(0, 256, (24, 3, 4, 4), dtype=torch.uint8), torch.zeros(24, dtype=torch.int64))
    splits = Splits(images, images, ("a",), "")
    data = ViewsDataModule(lambda: splits, Augmentation(0, False, 0), 2, 4, val_fraction=0.0, mean=[0.5], std=[0.5])
    weights, module = Weights(), task(ema_decay=0.6, accumulate=2)
    options = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, callbacks=[weights], **options)
    trainer.fit(module, data)
    expected = weights.raw[0]
    for raw, averaged in zip(weights.raw, weights.averaged, strict=True):
        expected = 0.6 * expected + 0.4 * raw
        close(averaged, expected, 1e-6)
    assert len(weights.raw) == 6 and not np.allclose(weights.raw[-1], weights.averaged[-1])
