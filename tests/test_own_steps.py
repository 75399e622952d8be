"""The samplers' own update steps against diffusers', whose schedules are made float64 here, and the noise they draw."""

from itertools import product
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from gvr_lightning.diffusion import generators
from gvr_lightning.diffusion.ddim import DDIM
from gvr_lightning.diffusion.ddpm import DDPM
from gvr_lightning.diffusion.generators import Generators
from gvr_lightning.diffusion.sampler import Sampler, draw
from gvr_lightning.models.unet import unet
from gvr_lightning.optim.ema import MovingAverage

KINDS = ("epsilon", "v_prediction", "sample")
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "ddim": [{"timestep_spacing": s, "clip_sample": c} for s, c in product(("trailing", "leading"), (False, True))],
    "ddpm": [
        {"timestep_spacing": spacing, "clip_sample": clip, "variance_type": variance}
        for spacing, clip, variance in product(
            ("trailing", "leading", "linspace"), (False, True), ("fixed_small", "fixed_small_log", "fixed_large")
        )
    ],
}
OPTIONS["ddpm"] += [{"thresholding": True}, {"clip_sample_range": 0.3}, {"beta_schedule": "squaredcos_cap_v2"}]
OPTIONS["ddim"] += [{"steps_offset": 1, "timestep_spacing": "leading", "set_alpha_to_one": False}]
BOTH: dict[str, tuple[Any, Any]] = {"ddim": (DDIM, DDIMScheduler), "ddpm": (DDPM, DDPMScheduler)}


def walked(cls: Any, steps: int, further: dict[str, float], **options: Any) -> list[Tensor]:
    """The images after every step of a made-up network, in float64 throughout."""
    scheduler = cls(num_train_timesteps=200, beta_start=5e-4, beta_end=0.1, **options)
    scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)
    if hasattr(scheduler, "final_alpha_cumprod") and not scheduler.config.set_alpha_to_one:
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(steps)
    seeds = [torch.Generator().manual_seed(seed) for seed in (0, 0, 0)]
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=seeds.pop())
    bias, found = torch.randn(x.shape, dtype=torch.float64, generator=seeds.pop()), []
    for t in scheduler.timesteps:
        x = scheduler.step(torch.tanh(x + bias), t, x, generator=seeds[0], **further, return_dict=False)[0]
        found.append(x)
    return found


@pytest.mark.parametrize("name", BOTH)
def test_every_step_is_diffusers_own(name: str) -> None:
    noises: list[dict[str, float]] = [{"eta": 0.0}, {"eta": 0.7}] if name == "ddim" else [{}]
    for options, kind, further in product(OPTIONS[name], KINDS, noises):
        ours, theirs = (walked(cls, 20, further, prediction_type=kind, **options) for cls in BOTH[name])
        assert len(ours) == 20
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12), (options, kind)


def test_ddpm_refuses_what_only_another_network_could_do() -> None:
    with pytest.raises(ValueError, match=r"variance_type=learned_range: there is fixed_small and fixed_large"):
        Sampler(DDPM(variance_type="learned_range"))
    with pytest.raises(ValueError, match=r"begin at t = 1000, and the last is 999: take fewer steps"):
        Sampler(DDPM(timestep_spacing="leading", steps_offset=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 4), (1, 2, 2), (3, 5, 7), (1, 4, 5)])
def test_noise_drawn_ahead_is_that_of_a_draw_a_step(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit what diffusers draws from a list of generators; where 16 divides the pixels, by one draw for many."""
    like, seeds = torch.zeros(4, *shape, dtype=dtype), [3, 5, 2**40, 7]
    for ahead in (1, 3 * like.numel() + 1, 2**22):
        monkeypatch.setattr(generators, "AHEAD", ahead)
        ours, theirs = Generators(seeds, 7), [torch.Generator().manual_seed(seed) for seed in seeds]
        for _ in range(9):  # two more than were said
            assert torch.equal(ours.normal(like), randn_tensor(like.shape, generator=theirs, dtype=dtype))


def test_no_more_numbers_are_drawn_at_once_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    numbers = Generators._numbers
    monkeypatch.setattr(Generators, "_numbers", lambda self, n, *a: drawn.append(n) or numbers(self, n, *a))
    monkeypatch.setattr(generators, "AHEAD", 5 * 4 * 64)
    ours = Generators(range(4), 12)
    for _ in range(12):
        assert ours.normal(torch.zeros(4, 1, 8, 8)).shape == (4, 1, 8, 8)
    assert drawn == [5, 5, 2]
    assert Generators([], 3).normal(torch.zeros(0, 1, 8, 8)).shape == (0, 1, 8, 8)


class Plain(nn.Module):
    """Notes the sizes of its batches."""

    def __init__(self, is_compiled: bool) -> None:
        super().__init__()
        self.weight, self.is_compiled, self.sizes = nn.Parameter(torch.ones(1, 1, 1, 1)), is_compiled, set[int]()

    def forward(self, view: tuple[Tensor, Tensor]) -> Tensor:
        self.sizes.add(len(view[0]))
        return torch.tanh(view[0] + view[1].view(-1, 1, 1, 1) / 100)


def test_a_compiled_network_sees_one_shape_and_draws_the_same_images() -> None:
    sampler, networks = Sampler(DDPM(num_train_timesteps=20), 5), [Plain(False), Plain(True)]
    found = [torch.cat(list(draw(sampler, network, (1, 4, 4), 7, 3, batch_size=3))) for network in networks]
    assert len(found[0]) == 7 and torch.equal(*found)
    assert [network.sizes for network in networks] == [{3, 1}, {3}]
    assert len(next(iter(draw(sampler, networks[1], (1, 4, 4), 2)))) == 2 and networks[1].sizes == {3, 2}


def test_the_average_of_a_compiled_network_is_compiled() -> None:
    """What is validated, tested and drawn with; torch leaves the compiled call out of a copy."""
    network = unet((1, 8, 8), 0, widths=[4, 4], blocks=1, attention=[False, False], groups=2)
    assert not network.is_compiled and not MovingAverage(network, 0.9).module.is_compiled
    network.compile_backbone()
    average = MovingAverage(network, 0.9).module
    assert network.is_compiled and average.is_compiled and average.state_dict().keys() == network.state_dict().keys()
