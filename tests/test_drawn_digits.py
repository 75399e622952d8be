"""Every sampler of the command line draws digits as well as DDIM does, by the network that knows them all by heart."""

from functools import cache
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from gvr_lightning.app.build import build_data, build_sampler
from gvr_lightning.config.folder import conf_folder, group_options
from gvr_lightning.diffusion.noise import Noise
from gvr_lightning.diffusion.sampler import draw
from gvr_lightning.instantiate import make
from gvr_lightning.metrics.classifier import classifier
from gvr_lightning.metrics.scoring import Scoring

N, STEPS = 400, 20


class Ideal(nn.Module):
    """The noise that is to be expected in x_t, where every training image x_0 is as likely as any other.

    E[x_0 | x_t] = sum_i w_i x_i with w = softmax(-||x_t - sqrt(abar) x_i||^2 / (2 (1 - abar))). A hundredth is wrong,
    as in every network that was trained: by it the first predicted images are out of all bounds.
    """

    def __init__(self, images: Tensor, alpha_bar: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(images.double() / 127.5 - 1)
        self.alpha_bar = alpha_bar.double()
        self.wrong = 0.01 * torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0)).double()

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        x, t = inputs
        bar, known = self.alpha_bar[t.long()][:, None], self.images.flatten(1)
        far = torch.cdist(x.flatten(1), bar.sqrt()[:1] * known).square()  # one t for all
        expected = (-far / (2 * (1 - bar))).softmax(1) @ known
        return ((x.flatten(1) - bar.sqrt() * expected) / (1 - bar).sqrt()).view_as(x) + self.wrong


@cache
def scored(sampler: str, *further: str) -> tuple[dict[str, float], Tensor]:
    """FID and IS of images that this one draws, and the images."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", overrides=["task=ddpm", f"sampler={sampler}", f"sampler.steps={STEPS}", *further])
    data = build_data(cfg)
    data.setup("fit")
    noise: Any = make(cfg.task.noise, "task.noise", wanted=Noise)
    network = Ideal(data.train_images, noise.scheduler.alphas_cumprod)
    scoring = Scoring(classifier(data), data, N, 4, True, "")
    scoring.prepare(torch.device("cpu"))
    batches = list(draw(build_sampler(cfg.sampler, noise), network, data.image_shape, N))
    return scoring.of(batches), torch.cat(batches)


def grey(images: Tensor) -> float:
    """The share of pixels that are neither nearly black nor nearly white."""
    return ((images >= 13) & (images <= 242)).float().mean().item()


@pytest.mark.parametrize("sampler", sorted(group_options()["sampler"]))
def test_every_sampler_draws_digits_as_ddim_does(sampler: str) -> None:
    (of_ddim, by_ddim), (scores, images) = scored("ddim"), scored(sampler)
    assert scores["fid"] < 1.5 * of_ddim["fid"] + 0.1 and scores["is/mean"] > 0.9 * of_ddim["is/mean"] > 7
    assert len(images.unique()) >= 17 and grey(images) == pytest.approx(
        grey(by_ddim), abs=0.03
    )  # digits have 17 levels


@pytest.mark.parametrize("sampler", ["unipc", "dpmpp", "euler", "euler_ancestral"])
def test_without_clipping_these_draw_nothing_of_the_kind(sampler: str) -> None:
    assert scored(sampler, "sampler.clip_sample=false")[0]["fid"] > 100 * scored("ddim")[0]["fid"]
