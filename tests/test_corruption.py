"""Test images under corruption, each kind against a plain formula of the published one, and the figures of a run."""

import colorsys
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from runs import tiny_run
from scipy.ndimage import convolve
from scipy.stats import norm, poisson
from torch import Tensor

from gvr_lightning.app.build import build_data
from gvr_lightning.checkpoint import load_network
from gvr_lightning.config.corruption import KINDS, SEVERITIES, chosen
from gvr_lightning.data.batch_maker import CORRUPT
from gvr_lightning.data.corruptions import corrupt
from gvr_lightning.data.corruptions.corrupt import NOISE, STILL, corrupted
from gvr_lightning.data.corruptions.noise import gaussian_noise as normal_noise
from gvr_lightning.errors import UserError
from gvr_lightning.random import hash_key, uniform
from gvr_lightning.report.metrics import Metric

N, H, W = 5, 11, 14
CONSTANTS: dict[str, Any] = {  # of severity 1 to 5, as published for CIFAR-10-C
    "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10],
    "shot_noise": [500, 250, 100, 75, 50],
    "impulse_noise": [0.01, 0.02, 0.03, 0.05, 0.07],
    "defocus_blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
    "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
    "pixelate": [0.95, 0.9, 0.85, 0.75, 0.65],
    "jpeg_compression": [80, 65, 58, 50, 40],
}


def pictures(channels: int, size: tuple[int, int] = (H, W)) -> Tensor:
    """Noise on slopes, a black one, a white one, and one of a single grey."""
    g = torch.Generator().manual_seed(3)
    slope = torch.linspace(0, 180, size[1]) * torch.rand(N, channels, 1, 1, generator=g)
    x = (slope + 75 * torch.rand(N, channels, *size, generator=g)).to(torch.uint8)
    x[1], x[2], x[3] = 0, 255, 119
    return x


def gaussian_noise(x: np.ndarray, c: float, u: np.ndarray) -> np.ndarray:
    return x + norm.ppf(u + 2.0**-25, scale=c)


def shot_noise(x: np.ndarray, c: float, u: np.ndarray) -> np.ndarray:
    counts = poisson.ppf(u, x * c)
    return np.where(u == 0, 0, counts) / c  # where scipy says -1


def impulse_noise(x: np.ndarray, c: float, u: np.ndarray) -> np.ndarray:
    return np.where(u < c / 2, 1.0, np.where(u < c, 0.0, x))


def defocus_blur(x: np.ndarray, c: tuple[float, float]) -> np.ndarray:
    """A disk on 17 x 17 pixels, softened by three taps each way; scipy's "mirror" has the border once."""
    y, z = np.mgrid[-8:9, -8:9]
    disk = (y**2 + z**2 <= c[0] ** 2).astype(float)
    taps = np.exp(-np.array([1, 0, 1]) / (2 * c[1] ** 2))
    kernel = convolve(disk / disk.sum(), np.outer(taps, taps) / taps.sum() ** 2, mode="constant")
    return np.stack([convolve(channel, kernel, mode="mirror") for channel in x])


def brightness(x: np.ndarray, c: float) -> np.ndarray:
    out = np.empty_like(x)
    for i, j in np.ndindex(x.shape[1:]):
        hue, saturation, value = colorsys.rgb_to_hsv(*np.broadcast_to(x[:, i, j], 3))
        out[:, i, j] = colorsys.hsv_to_rgb(hue, saturation, min(value + c, 1))[: len(x)]
    return out


def contrast(x: np.ndarray, c: float) -> np.ndarray:
    means = np.array([channel.mean() for channel in x])[:, None, None]
    return means + c * (x - means)


def as_picture(x: np.ndarray) -> Image.Image:
    bytes_ = (x * 255).round().astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(bytes_ if len(x) == 3 else bytes_[..., 0])


def as_levels(picture: Image.Image) -> np.ndarray:
    bytes_ = np.asarray(picture)
    return (bytes_[None] if bytes_.ndim == 2 else bytes_.transpose(2, 0, 1)) / 255


def pixelate(x: np.ndarray, c: float) -> np.ndarray:
    picture = as_picture(x)
    small = picture.resize((max(1, int(picture.width * c)), max(1, int(picture.height * c))), Image.Resampling.BOX)
    return as_levels(small.resize(picture.size, Image.Resampling.BOX))


def jpeg_compression(x: np.ndarray, c: int) -> np.ndarray:
    file = io.BytesIO()
    as_picture(x).save(file, "JPEG", quality=c)
    return as_levels(Image.open(file))


PLAIN = [gaussian_noise, shot_noise, impulse_noise, defocus_blur, brightness, contrast, pixelate, jpeg_compression]
FORMULAS: dict[str, Callable[..., np.ndarray]] = {formula.__name__: formula for formula in PLAIN}


def test_the_kinds_have_one_order_that_stays() -> None:
    """What is drawn goes by a kind's number: a new one comes last among those that draw."""
    assert tuple(FORMULAS) == tuple(CONSTANTS) == KINDS == (*NOISE, *STILL)
    assert [corrupt.NUMBER[kind] for kind in KINDS] == list(range(8))
    assert chosen("all") == chosen(["pixelate", "all"]) == KINDS and chosen(None) == ()
    assert chosen(["pixelate", "contrast"]) == chosen(["contrast", "pixelate"]) == ("contrast", "pixelate")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_the_published_formula(kind: str, channels: int) -> None:
    x, index = pictures(channels), torch.tensor([4, 0, 9, 70_000, 2])
    for severity in range(1, 6):
        found, constant = corrupted(x, index, kind, severity, seed=7), CONSTANTS[kind][severity - 1]
        u = uniform(hash_key(7, KINDS.index(kind), severity), index, channels * H * W).double().T.view(x.shape)
        drawn = [[row] for row in u.numpy()] if kind in NOISE else [[]] * N
        levels = [FORMULAS[kind](row / 255, constant, *own) for row, own in zip(x.numpy(), drawn, strict=True)]
        expected = (np.clip(levels, 0, 1) * 255 + 1e-6).astype(np.uint8)  # cut, as published
        assert np.array_equal(found.numpy(), expected), severity
        assert found.dtype == torch.uint8 and not torch.equal(found, x)


def test_the_smallest_number_is_as_far_from_the_middle_as_the_largest() -> None:
    ends = normal_noise(
        torch.zeros(2, dtype=torch.float64), torch.tensor([0.0, 1 - 2.0**-24], dtype=torch.float64), 1.0
    )
    assert torch.allclose(ends, torch.tensor([-1.0, 1.0], dtype=torch.float64) * norm.ppf(1 - 2.0**-25))


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_any_size_and_any_number_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ((1, 1), (1, 2), (3, 2)):
        x = pictures(3, size)
        for severity in SEVERITIES:
            found = corrupted(x, torch.arange(N), kind, severity, seed=0)
            assert found.shape == x.shape
    assert corrupted(x[:0], torch.arange(0), kind, 1, 0).shape == (0, 3, 3, 2)
    x, index = pictures(3), torch.arange(N)
    whole = corrupted(x, index, kind, 3, seed=1)
    monkeypatch.setattr(corrupt, "MOST", 2 * 3 * H * W)
    turned = corrupted(x.flip(0), index.flip(0), kind, 3, seed=1).flip(0)
    assert torch.equal(whole, turned), "a function of each image and its number"
    others = corrupted(x, index, kind, 3, seed=2)
    assert torch.equal(whole, others) != (kind in NOISE)


@pytest.mark.parametrize("kind", ["brightness", "jpeg_compression"])
def test_images_that_have_no_colours_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match=rf"data.corruption: {kind} needs images of 1 or 3 channels, not 2"):
        corrupted(pictures(2), torch.arange(N), kind, 1, 0)


ASKED = "data.corruption=[jpeg_compression,shot_noise]"


def test_a_run_scores_its_last_weights_under_each_kind(finished: Callable[..., Path], tmp_path: Path) -> None:
    """The figures are those of the images made by hand; all others are as without, and none of these is there then."""
    plain = json.loads((finished() / "summary.json").read_text())["metrics"]
    folder = Path(shutil.copytree(finished(), tmp_path / "run"))
    found = tiny_run(folder, ASKED, f"resume={folder}")["metrics"]  # a finished run, tested once more
    assert {name: found[name] for name in plain if name != "train/seconds"} == {
        name: value for name, value in plain.items() if name != "train/seconds"
    }
    loaded, data = (
        load_network(folder / "checkpoints" / "last.ckpt"),
        build_data(OmegaConf.load(folder / "config.yaml")),
    )
    images, targets = data.test_images, data._splits.test.targets
    accuracies, losses = {}, []
    for kind in ("shot_noise", "jpeg_compression"):
        right = []
        for severity in (1, 3, 5):
            x = corrupted(images, torch.arange(len(images)), kind, severity, hash_key(CORRUPT, 0))
            with torch.no_grad():
                logits = loaded.network((x.float() / 255 - loaded.mean) / loaded.std)
            right.append((logits.argmax(1) == targets).double().mean())
            losses.append(torch.nn.functional.cross_entropy(logits.double(), targets))
        accuracies[kind] = float(torch.stack(right).mean())
        assert found[f"test/acc_corrupted/{kind}"] == pytest.approx(accuracies[kind], rel=1e-6)
    assert found["test/acc_corrupted"] == pytest.approx(sum(accuracies.values()) / 2, rel=1e-6)
    assert found["test/nll_corrupted"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert {name for name in found if "corrupted" in name} - plain.keys() == {
        *("test/acc_corrupted", "test/nll_corrupted"),
        *(f"test/acc_corrupted/{kind}" for kind in accuracies),
    }


def test_how_the_report_calls_them() -> None:
    whole, one, loss = (
        Metric(f"test/{name}_corrupted{kind}") for name, kind in (("acc", ""), ("acc", "/shot_noise"), ("nll", ""))
    )
    assert (whole.words, one.words) == ("accuracy under corruption", "accuracy, shot noise")
    assert (whole.direction, one.direction, loss.direction) == (1, 1, -1)
    assert (whole.percent, one.percent, loss.percent) == (True, True, False)
