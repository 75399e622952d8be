"""Whole runs of task=ddpm with a network that writes down what it is given: what is trained on, drawn, and scored.

The data are ``numbered``, in colour and not square. Readable runs have so little noise that an image's number can be
read from x_t, and eps recovered: alpha_bar_t = 1 - (t + 1) 2^-23.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from diffusers import DDPMScheduler
from numbered import TEST, Numbered
from PIL import Image
from runs import tiny_run
from torch import Tensor, nn

from gvr_lightning.app import sample
from gvr_lightning.app.draw import draw_images
from gvr_lightning.checkpoint import load_network
from gvr_lightning.config.sampling import read_sample_line, sample_help
from gvr_lightning.diffusion.ddim import DDIM
from gvr_lightning.diffusion.noise import Noise
from gvr_lightning.diffusion.pipeline import save_pipeline
from gvr_lightning.diffusion.progress import shown
from gvr_lightning.diffusion.sampler import Sampler
from gvr_lightning.diffusion.sampler import draw as draw_batches
from gvr_lightning.errors import UserError
from gvr_lightning.metrics.extractor import Extractor
from gvr_lightning.models.small_cnn import small_cnn
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.models.unet import unet
from gvr_lightning.recording.csv import read_metrics
from gvr_lightning.recording.images import evenly, save_grid, save_images

SHAPE = (3, 8, 12)
COLOUR = ["data.source._target_=numbered.Numbered", "+data.source.channels=3", "+data.source.width=12"]
COLOUR += ["+data.source.test=41"]
DATA = Numbered(channels=3, width=12, test=41)()  # 90 training images
TRUST = "trust=test_generated_images.recording"
RUN = ["task=ddpm", "model._target_=test_generated_images.recording", *COLOUR, "lr=0.05"]
RUN += ["data.val_fraction=0.2", "data.max_train=64", "data.eval_batch_size=7"]


@dataclass
class Call:
    """A pass through the network: how it was, what it got, and what it gave."""

    training: bool
    weights: Tensor
    x: Tensor
    t: Tensor
    output: Tensor


CALLS: list[Call] = []


class _Early(nn.Module):
    """Of (x, t)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.slope = nn.Conv2d(channels, 4, 3, padding=1), nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, view: tuple[Tensor, Tensor]) -> Tensor:
        return torch.tanh(self.conv(view[0]) + self.slope * view[1].view(-1, 1, 1, 1) / 10)


class Recording(SplitNetwork):
    """A network of two convolutions."""

    def forward(self, x: Any) -> Tensor:
        output = super().forward(x)
        CALLS.append(Call(self.training, flat(self), x[0].clone(), x[1].clone(), output.detach().clone()))
        return output


def recording(image_shape: tuple[int, int, int], num_classes: int, **_: Any) -> Recording:
    """In a U-Net's place, whose settings it does not take."""
    return Recording(_Early(image_shape[0]), nn.Identity(), nn.Conv2d(4, image_shape[0], 3, padding=1))


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().cpu().flatten() for p in module.parameters()])


def saved(run: Path, prefix: str, name: str = "last.ckpt") -> Tensor:
    """The raw ("model.") or the averaged ("ema.module.") weights of a checkpoint, laid out as `flat` does."""
    state = torch.load(run / "checkpoints" / name, weights_only=True)["state_dict"]
    return torch.cat([value.flatten() for key, value in state.items() if key.startswith(prefix)])


def network_of(weights: Tensor) -> nn.Module:
    network = recording(SHAPE, 4)
    nn.utils.vector_to_parameters(weights, network.parameters())
    return network.eval()


@dataclass
class Run:
    """A run's folder and the passes through its network."""

    folder: Path
    training: list[Call]
    evaluation: list[Call]  # of validation and test
    drawing: list[Call]
    summary: dict[str, Any]

    @classmethod
    def of(cls, folder: Path, *overrides: str) -> "Run":
        CALLS.clear()
        summary = tiny_run(folder, *RUN, *overrides)
        calls, others = list(CALLS), [call for call in CALLS if not call.training]
        drawing = [call for call in others if len(call.t.unique()) == 1]  # every image of a batch is at one t
        evaluation = [call for call in others if len(call.t.unique()) > 1]
        return cls(folder, [call for call in calls if call.training], evaluation, drawing, summary)

    def rows(self, name: str) -> list[dict[str, str]]:
        """The rows of metrics.csv with a figure of that name."""
        return [row for row in read_metrics(self.folder / "metrics.csv") if name in row]

    def averages(self, decay: Callable[[int], float]) -> list[Tensor]:
        """The moving average after each update, from the raw weights that the next one begins with."""
        raw = [*(call.weights for call in self.training[1:]), saved(self.folder, "model.")]
        found = [raw[0]]
        for n, weights in enumerate(raw[1:], start=1):
            found.append(decay(n) * found[-1] + (1 - decay(n)) * weights)
        return found


def same(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() < 1e-5)


# --- what is trained on, and with what noise

READABLE = ["task.noise.beta_schedule=linear", f"task.noise.beta_range=[{2**-23},{2**-23}]", "task.noise.timesteps=8"]
READABLE += ["extractor=none", "sampler.steps=3", "generation.grid=5", "generation.batch_size=3"]


def numbers(calls: list[Call]) -> list[int]:
    """Which images these are."""
    high, low = torch.cat([((call.x[:, :2].mean((2, 3)) + 1) * 127.5).round().long() for call in calls]).T
    return (256 * high + low).tolist()


def noise_of(calls: list[Call]) -> tuple[Tensor, Tensor]:
    """The timestep and eps of each row, in float64, from x_t and the image that it is of."""
    rows = torch.tensor(numbers(calls))
    images = DATA.test.images[rows - TEST] if rows[0] >= TEST else DATA.train.images[rows]
    t = torch.cat([call.t for call in calls])
    rest = ((t + 1) * 2.0**-23).double().view(-1, 1, 1, 1)
    x_0 = images.double() / 127.5 - 1
    return t, (torch.cat([call.x for call in calls]).double() - (1 - rest) ** 0.5 * x_0) / rest**0.5


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Its validation loss is lowest in the middle."""
    settings = ["epochs=4", "seed=5", "test_on=best", "scheduler=constant", "lr=0.3"]
    settings += ["task.ema_decay=0.6", "task.ema_warmup=false", "generation.every_n_epochs=3", "generation.bf16=true"]
    return Run.of(tmp_path_factory.mktemp("readable") / "run", *READABLE, *settings)


@pytest.fixture(scope="module")
def first_epochs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    """Of two seeds; an update is of all images."""
    folder = tmp_path_factory.mktemp("seeds")
    settings = [*READABLE, "epochs=1", "batch_size=64"]
    return {seed: Run.of(folder / str(seed), *settings, f"seed={seed}") for seed in (5, 6)}


def test_a_part_of_the_rest_is_trained_on_and_the_held_out_and_the_test_images_are_looked_at(readable: Run) -> None:
    each = len(readable.training) // 4
    epochs = [numbers(readable.training[i : i + each]) for i in range(0, 4 * each, each)]
    assert [len(call.x) for call in readable.training[:each]] == [32, 32]
    assert len(set(epochs[0])) == 64 and all(set(epoch) == set(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4 and sorted(epochs[0]) != epochs[0]  # in another order each time
    *validation, tested = [readable.evaluation[i : i + 3] for i in (0, 3, 6, 9)] + [readable.evaluation[12:]]
    held_out = numbers(validation[0])
    assert [len(call.x) for call in validation[0]] == [7, 7, 4]
    assert len(set(held_out)) == 18 and max(held_out) < 90 and not set(held_out) & set(epochs[0])
    assert all(numbers(epoch) == held_out for epoch in validation)
    assert numbers(tested) == list(range(TEST, TEST + 41))


def test_noise_is_normal_at_all_timesteps_and_new_in_every_update_but_not_in_validation(readable: Run) -> None:
    t, eps = noise_of(readable.training)
    assert t.unique().tolist() == list(range(8))
    assert abs(eps.mean()) < 5 / eps.numel() ** 0.5 and abs(eps.var() - 1) < 5 * (2 / eps.numel()) ** 0.5
    order = torch.tensor(numbers(readable.training)).view(4, 64).argsort(1)  # of the same images in every epoch
    t, eps = (
        t.view(4, 64).gather(1, order),
        torch.stack([e[o] for e, o in zip(eps.view(4, 64, *SHAPE), order, strict=True)]),
    )
    correlation = torch.corrcoef(eps.flatten(1))
    assert (correlation - torch.eye(4)).abs().max() < 0.05 and len({tuple(row.tolist()) for row in t}) == 4
    assert eps[0].flatten(1).corrcoef().fill_diagonal_(0).abs().max() < 0.4  # 64 images of 288 pixels
    validation = [noise_of(readable.evaluation[i : i + 3]) for i in (0, 3, 6, 9)]
    assert all(torch.equal(a, b) for later in validation[1:] for a, b in zip(validation[0], later, strict=True))
    t, eps = noise_of(readable.evaluation[:12])
    assert len(t.unique()) > 5 and abs(eps.var() - 1) < 0.1


def test_the_seed_is_that_of_the_first_weights_the_order_the_noise_and_the_images(
    first_epochs: dict[int, Run], tmp_path: Path
) -> None:
    again = Run.of(tmp_path / "again", *READABLE, "epochs=1", "batch_size=64", "seed=5")
    one, other = first_epochs[5], first_epochs[6]
    for a, b in ((one, again), (one, other)):
        alike = b is again
        assert torch.equal(a.training[0].weights, b.training[0].weights) == alike
        assert (numbers(a.training) == numbers(b.training)) == alike
        assert set(numbers(a.training)) == set(numbers(b.training))  # the split is the same
        draws = []
        for calls in (a.training, b.training, a.evaluation[:3], b.evaluation[:3]):
            order = torch.tensor(numbers(calls)).argsort()
            t, eps = noise_of(calls)
            draws.append((t[order], eps[order]))
        for (t1, e1), (t2, e2) in (draws[:2], draws[2:]):
            assert torch.equal(t1, t2) == alike and bool((e1 - e2).abs().max() < 0.01) == alike
            assert alike or abs(torch.stack([e1.flatten(), e2.flatten()]).corrcoef()[0, 1]) < 0.1
        for first in (0, 3):  # of the strip and of the grid
            starts = [run.drawing[first].x.flatten() for run in (a, b)]
            assert torch.equal(*starts) == alike and (alike or abs(torch.stack(starts).corrcoef()[0, 1]) < 0.2)
        assert (picture(a, "final.png") == picture(b, "final.png")).all() == alike
    assert same(saved(one.folder, "model."), saved(again.folder, "model."))


def test_two_views_are_two_draws_on_one_image_and_both_count(tmp_path: Path) -> None:
    run = Run.of(tmp_path / "run", *READABLE, "epochs=1", "regularizer=two_view")
    for first, second in (run.training[:2], run.training[2:]):
        assert numbers([first]) == numbers([second])
        (t1, e1), (t2, e2) = noise_of([first]), noise_of([second])
        assert not torch.equal(t1, t2) and abs(torch.stack([e1.flatten(), e2.flatten()]).corrcoef()[0, 1]) < 0.1
    (row,) = run.rows("train/loss")
    assert float(row["train/loss"]) == pytest.approx(loss_of(run.training), rel=5e-4)
    assert len(run.training) == 4


def test_validation_test_and_images_are_the_averaged_network_s(readable: Run) -> None:
    averages = readable.averages(lambda n: 0.6)
    for epoch in range(4):
        for call in readable.evaluation[3 * epoch : 3 * epoch + 3]:
            assert same(call.weights, averages[2 * epoch + 1])
    assert same(saved(readable.folder, "ema.module."), averages[-1])
    assert not same(averages[-1], saved(readable.folder, "model."))
    assert same(readable.drawing[0].weights, averages[5])  # the grid after the third epoch


def test_losses_are_the_mean_squared_error_over_all_images(readable: Run) -> None:
    """Of the noise in x_t; batches are of 7, 7 and 4 images, and count by their images."""
    recorded = [float(row["val/loss"]) for row in readable.rows("val/loss")]
    for epoch, found in enumerate(recorded):
        assert found == pytest.approx(loss_of(readable.evaluation[3 * epoch : 3 * epoch + 3]), rel=5e-4)
    assert readable.summary["metrics"]["test/loss"] == pytest.approx(loss_of(readable.evaluation[12:]), rel=5e-4)
    (row,) = readable.rows("test/loss")
    assert float(row["test/loss"]) == readable.summary["metrics"]["test/loss"]
    trained = [float(row["train/loss"]) for row in readable.rows("train/loss")]
    for epoch, found in enumerate(trained):
        assert found == pytest.approx(loss_of(readable.training[2 * epoch : 2 * epoch + 2]), rel=5e-4)


def loss_of(calls: list[Call]) -> float:
    _, eps = noise_of(calls)
    return float((torch.cat([call.output for call in calls]).double() - eps).square().mean())


def test_the_best_checkpoint_has_the_lowest_validation_loss_and_is_tested_and_drawn_with(readable: Run) -> None:
    recorded = [float(row["val/loss"]) for row in readable.rows("val/loss")]
    best = recorded.index(min(recorded))
    assert best in (1, 2)
    assert readable.summary["metrics"]["val/loss_best"] == recorded[best]
    weights = readable.averages(lambda n: 0.6)[2 * best + 1]
    assert same(saved(readable.folder, "ema.module.", "best.ckpt"), weights)
    final = readable.drawing[6:]
    assert all(same(call.weights, weights) for call in readable.evaluation[12:] + final)


def test_a_grid_is_drawn_every_so_many_epochs_in_batches_and_in_bfloat16(readable: Run) -> None:
    """Without scores as many as the grid holds, each from the same start; before the last, the strip of 8."""
    steps, each = [call.t[0].item() for call in readable.drawing], [len(call.x) for call in readable.drawing]
    assert each == [3] * 3 + [2] * 3 + [8] * 3 + [3] * 3 + [2] * 3
    assert steps == [7, 4, 2] * 5  # trailing
    assert torch.equal(readable.drawing[0].x, readable.drawing[9].x)
    assert sorted(path.name for path in (readable.folder / "samples").iterdir()) == [
        *("denoising.png", "epoch_0003.png", "final.png")
    ]
    strip = [call for call in readable.drawing if len(call.x) == 8]
    assert {call.output.dtype for call in readable.drawing if len(call.x) < 8} == {torch.bfloat16}
    assert {call.output.dtype for call in strip + readable.training + readable.evaluation} == {torch.float32}
    assert not readable.rows("fid") and "protocol" not in readable.summary


# --- what is drawn and scored


@pytest.fixture(scope="module")
def classified(finished: Callable[..., Path]) -> Path:
    """A run whose network is what images are scored by."""
    return finished(*COLOUR)


@pytest.fixture(scope="module")
def scored(classified: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("scored")
    settings = ["epochs=5", "seed=3", "task.noise.timesteps=40", "task.noise.prediction=v", "task.ema_decay=0.8"]
    settings += ["sampler.steps=4", "sampler.eta=0.5", "sampler.spacing=leading", "sampler.clip_sample=false"]
    settings += [f"generation.{text}" for text in ("num_images=50", "grid=6", "batch_size=7", "splits=3")]
    settings += ["generation.every_n_epochs=1", "generation.score_every_n_epochs=2", "extractor=classifier"]
    settings += [
        f"extractor.checkpoint={classified / 'checkpoints' / 'last.ckpt'}",
        f"extractor.cache_dir={folder}/kept",
    ]
    return Run.of(folder / "run", *settings)


def picture(run: Run | Path, name: str, columns: int = 3, scale: int = 6) -> Any:
    """The images of a grid, (N, H, W, C); it enlarges them so that the shorter side is 48 pixels at least."""
    path = run.folder / "samples" / name if isinstance(run, Run) else run / name
    pixels = np.asarray(Image.open(path)).astype(int)
    height, width = SHAPE[1] * scale + 2, SHAPE[2] * scale + 2
    rows = (pixels.shape[0] - 2) // height
    assert pixels.shape == (rows * height + 2, columns * width + 2, 3)
    cells = [pixels[2 + r * height :, 2 + c * width :] for r in range(rows) for c in range(columns)]
    return np.stack([cell[: height - 2, : width - 2][::scale, ::scale] for cell in cells])


def warm(n: int) -> float:
    return min(0.8, (1 + n) / (10 + n))


def images_of(weights: Tensor, number: int = 50, seed: int = 3, watch: Any = None) -> Tensor:
    """Drawn by a scheduler with the run's settings written out."""
    scheduler = DDIM(
        num_train_timesteps=40,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="leading",
        clip_sample=False,
    )
    return as_bytes(Sampler(scheduler, 4, 0.5)(network_of(weights), SHAPE, torch.arange(number), seed, watch))


def as_bytes(x: Tensor) -> Tensor:
    return ((x.double() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def assert_shows(found: Any, images: Tensor) -> None:
    """To the rounding that another batch size brings."""
    assert np.abs(found - images.permute(0, 2, 3, 1).numpy().astype(int)).max() <= 1


def test_pictures_show_what_the_averaged_weights_of_their_epoch_draw(scored: Run) -> None:
    averages = scored.averages(warm)
    names = [f"epoch_{epoch:04d}.png" for epoch in (1, 2, 3, 4)]
    assert sorted(path.name for path in (scored.folder / "samples").iterdir()) == ["denoising.png", *names, "final.png"]
    for epoch, name in enumerate([*names, "final.png"], start=1):
        assert_shows(picture(scored, name), images_of(averages[2 * epoch - 1], 6))
    assert len(np.unique(picture(scored, "final.png"))) > 50
    with pytest.raises(AssertionError):
        assert_shows(picture(scored, "final.png"), images_of(saved(scored.folder, "model."), 6))


def test_the_strip_shows_images_on_their_way(scored: Run) -> None:
    steps: list[Tensor] = []
    images_of(saved(scored.folder, "ema.module."), 8, watch=lambda x: steps.append(as_bytes(x)))
    expected = torch.stack(steps, 1).flatten(0, 1)  # an image a row, a step a column
    assert_shows(picture(scored, "denoising.png", columns=4), expected)


def test_as_many_images_are_drawn_as_are_scored_or_shown(scored: Run) -> None:
    """So many in a batch; DDIM's steps are 30, 20, 10 and 0."""
    first = [call for call in scored.drawing if call.t[0] == 30]
    whole = [7] * 7 + [1]
    assert [len(call.x) for call in first] == [6, *whole, 6, *whole, 8, *whole]
    assert [call.t[0].item() for call in scored.drawing] == [30, 20, 10, 0] * len(first)


def features(run: Path, images: Tensor) -> tuple[Any, Any]:
    """Features and probabilities by a classification run's network, normalised as it was trained."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    network = small_cnn(SHAPE, 4, 8, 4).eval()
    network.load_state_dict({n.removeprefix("model."): v for n, v in checkpoint["state_dict"].items()})
    mean, std = (torch.tensor(checkpoint["ViewsDataModule"][n]).view(3, 1, 1) for n in ("mean", "std"))
    with torch.no_grad():
        found = network.backbone((images.float() / 255 - mean) / std)
        return found.double().numpy(), network.head(found).double().softmax(1).numpy()


def frechet(f: Any, g: Any) -> float:
    m, c, n, d = f.mean(0), np.cov(f.T), g.mean(0), np.cov(g.T)
    return float(((m - n) ** 2).sum() + np.trace(c + d) - 2 * np.trace(scipy.linalg.sqrtm(c @ d)).real)


def test_fid_is_that_of_all_training_images_and_is_of_so_many_splits(scored: Run, classified: Path) -> None:
    averages, metrics = scored.averages(warm), scored.summary["metrics"]
    real, _ = features(classified, DATA.train.images)
    rows = scored.rows("fid")
    assert [row["epoch"] for row in rows] == ["1", "3", "4"] and [row["num_images"] for row in rows] == ["50"] * 3
    for row, updates in zip(rows, (4, 8, 10), strict=True):
        f, p = features(classified, images_of(averages[updates - 1]))
        assert float(row["fid"]) == pytest.approx(frechet(f, real), rel=0.01)
        p = p[torch.randperm(50, generator=torch.Generator().manual_seed(0)).numpy()]
        each = [np.exp((q * np.log(q / q.mean(0))).sum(1).mean()) for q in (p[:17], p[17:34], p[34:])]
        assert float(row["is/mean"]) == pytest.approx(np.mean(each), rel=1e-3)
        assert float(row["is/std"]) == pytest.approx(np.std(each, ddof=1), rel=0.05)
    last = {name: float(value) for name, value in rows[-1].items() if name not in ("step", "epoch")}
    assert last.items() <= metrics.items()
    assert metrics["fid"] == float(rows[-1]["fid"]) != float(rows[0]["fid"])


def test_real_scores_are_of_the_test_images(scored: Run, classified: Path) -> None:
    (f, p), (real, _) = (features(classified, part.images) for part in (DATA.test, DATA.train))
    metrics = scored.summary["metrics"]
    assert metrics["real/num_images"] == 41 and metrics["real/fid"] == pytest.approx(frechet(f, real), rel=1e-3)
    assert 1 < metrics["real/is/mean"] < np.exp((p * np.log(p / p.mean(0))).sum(1)).max() and metrics["real/is/std"] > 0


def test_the_protocol_says_how_the_scores_were_made(scored: Run) -> None:
    protocol = scored.summary["protocol"]
    digest = protocol["extractor_hash"]
    assert protocol == {
        "extractor": "classifier",
        "extractor_hash": digest,
        "features": 32,
        "resize": "none (8x12 in, as trained)",
        "pixels": "rounded to 8 bits",
        "reference": "all 90 training images",
        "num_images": 50,
        "is_splits": 3,
        "drawn": "DDIM, 4 steps, eta 0.5",
        "unreliable": False,
        "weights": "average",
        "bf16": False,
        "sampler": protocol["sampler"],
    }
    asked = {"name": "DDIM", "steps": 4, "eta": 0.5, "clip": False, "clip_sample": False, "timestep_spacing": "leading"}
    asked |= {"steps_offset": 0, "set_alpha_to_one": True, "num_train_timesteps": 40, "prediction_type": "v_prediction"}
    assert asked.items() <= protocol["sampler"].items() and "trained_betas" not in protocol["sampler"]
    assert len(digest) == 64 and scored.summary["metrics"]["extractor_hash"] == digest
    assert json.loads((scored.folder / "summary.json").read_text())["protocol"] == protocol


def test_the_real_images_statistics_are_kept_where_it_is_said(scored: Run, classified: Path) -> None:
    (path,) = (scored.folder.parent / "kept" / "statistics").iterdir()
    assert path.name.startswith(f"{DATA.hash[:16]}-train-90-")
    real, _ = features(classified, DATA.train.images)
    kept = np.load(path)
    np.testing.assert_allclose(kept["total"], real.sum(0), rtol=1e-5)
    np.testing.assert_allclose(kept["outer"], real.T @ real, rtol=1e-5)


def test_the_average_with_a_warm_up_is_what_the_checkpoint_holds(scored: Run) -> None:
    assert same(saved(scored.folder, "ema.module."), scored.averages(warm)[-1])
    assert not same(scored.averages(lambda n: 0.8)[-1], scored.averages(warm)[-1])


def test_raw_weights_are_drawn_and_scored_alone_or_beside_the_average(classified: Path, tmp_path: Path) -> None:
    settings = [*READABLE[:3], "epochs=3", "sampler.steps=2", "generation.grid=6", "lr=0.3", "task.ema_decay=0.6"]
    settings += ["generation.num_images=50", "generation.score_every_n_epochs=[1,9]", "task.ema_warmup=false"]
    settings += ["extractor=classifier", f"extractor.checkpoint={classified / 'checkpoints' / 'last.ckpt'}"]
    raw, both = (Run.of(tmp_path / weights, *settings, f"generation.weights={weights}") for weights in ("raw", "both"))
    for run in (raw, both):
        assert [row["epoch"] for row in run.rows("fid")] == ["0", "2"]  # of the list, and the last epoch's
    assert raw.summary["protocol"]["weights"] == "raw" and both.summary["protocol"]["weights"] == "average"
    alone, beside = raw.summary["metrics"], both.summary["metrics"]
    assert [alone[name] for name in ("fid", "is/mean")] == [beside[f"raw/{name}"] for name in ("fid", "is/mean")]
    assert alone["fid"] != beside["fid"] and "raw/num_images" not in beside and "raw/fid" not in alone
    weights = saved(raw.folder, "model.")
    assert all(same(call.weights, weights) for call in raw.drawing[2:])  # the strip and the final images
    assert same(both.drawing[0].weights, both.averages(lambda n: 0.6)[1])
    assert same(both.drawing[2].weights, both.training[2].weights)  # after the first epoch's two updates
    assert (picture(both, "final_raw.png") == picture(raw, "final.png")).all()
    assert sorted(path.name for path in (both.folder / "samples").iterdir()) == [
        *("denoising.png", "epoch_0001.png", "epoch_0001_raw.png", "final.png", "final_raw.png")
    ]
    assert len(both.training) == len(raw.training) == 6 and same(weights, saved(both.folder, "model."))


# --- gvr-sample


@pytest.fixture
def draw(scored: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``draw(*settings)`` as on the command line, of the scored run: what it prints."""

    def command(*settings: str) -> str:
        CALLS.clear()
        given = [] if any(text.startswith("ckpt=") for text in settings) else [f"ckpt={scored.folder}"]
        monkeypatch.setattr("sys.argv", ["gvr-sample", *given, *settings, TRUST])
        sample.main()
        return capsys.readouterr().out.strip()

    return command


SAME = ["steps=4", "eta=0.5", "spacing=leading", "sampler.clip_sample=false"]  # as the run's own


def test_images_of_a_run_are_its_own(scored: Run, draw: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    assert draw(*SAME, "seed=3", "n=6", f"out={out}") == str(out)
    assert_shows(picture(tmp_path, "grid.png"), images_of(saved(scored.folder, "ema.module."), 6))
    assert np.abs(picture(tmp_path, "grid.png") - picture(scored, "final.png")).max() <= 1


def test_a_folder_holds_the_images_by_their_numbers(scored: Run, draw: Callable[..., str], tmp_path: Path) -> None:
    out, checkpoint = tmp_path / "new" / "images", scored.folder / "checkpoints" / "last.ckpt"
    assert draw(*SAME, f"ckpt={checkpoint}", "n=7", "batch_size=3", "seed=3", f"out={out}") == str(out)
    assert sorted(path.name for path in out.iterdir()) == [f"{i:06d}.png" for i in range(7)]
    assert [len(call.x) for call in CALLS[::4]] == [3, 3, 1]
    found = np.stack([np.asarray(Image.open(out / f"{i:06d}.png")).astype(int) for i in range(7)])
    assert_shows(found, images_of(saved(scored.folder, "ema.module."), 7))


def test_what_is_not_said_is_64_images_of_seed_0_by_ddim_in_50_steps(
    scored: Run,
    draw: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Or as many steps as there are timesteps, if asked: there are 40."""
    monkeypatch.chdir(tmp_path)
    assert draw("steps=40") == "samples.png"
    assert [call.t[0].item() for call in CALLS] == list(range(39, -1, -1)) and len(CALLS[0].x) == 64
    assert all(same(call.weights, saved(scored.folder, "ema.module.")) for call in CALLS)
    assert {(call.output.dtype, call.training) for call in CALLS} == {(torch.float32, False)}
    start = CALLS[0].x
    with pytest.raises(SystemExit):
        draw()
    assert "50 steps are more than the 40 timesteps" in capsys.readouterr().err
    draw("steps=40", "seed=0", "n=1", "out=one.png")
    assert torch.equal(CALLS[0].x, start[:1])
    draw("steps=1", "seed=1", "n=1", "out=one.png")
    assert not torch.equal(CALLS[0].x, start[:1])


@pytest.mark.parametrize(("weights", "prefix"), [("ema", "ema.module."), ("raw", "model.")])
def test_images_are_drawn_with_the_weights_that_are_asked_for(
    weights: str, prefix: str, scored: Run, draw: Callable[..., str], tmp_path: Path
) -> None:
    draw("steps=2", "n=2", f"weights={weights}", f"out={tmp_path / 'x.png'}")
    assert all(torch.equal(call.weights, saved(scored.folder, prefix)) for call in CALLS)


@pytest.mark.parametrize(("weights", "prefix"), [("ema", "ema.module."), ("raw", "model.")])
def test_a_network_is_loaded_in_evaluation_mode_with_what_it_was_trained_on(
    weights: str, prefix: str, scored: Run
) -> None:
    loaded = load_network(scored.folder / "checkpoints" / "last.ckpt", weights, [TRUST.partition("=")[2]])
    assert torch.equal(flat(loaded.network), saved(scored.folder, prefix)) and not loaded.network.training
    assert (loaded.kind, loaded.image_shape, loaded.config["seed"]) == ("ddpm", SHAPE, 3)
    assert loaded.mean.tolist() == loaded.std.tolist() == [0.5]


def test_bfloat16_and_the_device_are_as_asked_for(draw: Callable[..., str], tmp_path: Path) -> None:
    draw("steps=2", "n=2", "bf16=true", "device=cpu", f"out={tmp_path / 'x.png'}")
    assert {(call.output.dtype, call.x.device.type) for call in CALLS} == {(torch.bfloat16, "cpu")}


SCHEDULE = {"num_train_timesteps": 40, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}


@pytest.mark.parametrize(
    ("settings", "scheduler", "steps", "eta"),
    [
        (["steps=5"], DDIM(timestep_spacing="trailing", **SCHEDULE), 5, 0.0),
        (["steps=5", "eta=1"], DDIM(timestep_spacing="trailing", **SCHEDULE), 5, 1.0),
        (["steps=5", "spacing=linspace"], DDIM(timestep_spacing="linspace", **SCHEDULE), 5, 0.0),
        (
            ["steps=5", "sampler.clip_sample=false"],
            DDIM(timestep_spacing="trailing", clip_sample=False, **SCHEDULE),
            5,
            0.0,
        ),
        (
            ["sampler=ddpm"],
            DDPMScheduler(variance_type="fixed_large", timestep_spacing="linspace", **SCHEDULE),
            None,
            0.0,
        ),
        (
            ["sampler=ddpm", "steps=5", "spacing=leading"],
            DDPMScheduler(variance_type="fixed_large", timestep_spacing="leading", **SCHEDULE),
            *(5, 0.0),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_sampler_is_the_one_that_is_configured(
    settings: list[str],
    scheduler: Any,
    steps: int | None,
    eta: float,
    scored: Run,
    draw: Callable[..., str],
    tmp_path: Path,
) -> None:
    draw(*settings, "n=6", "seed=2", f"out={tmp_path / 'x.png'}")
    network = network_of(saved(scored.folder, "ema.module."))
    expected = as_bytes(Sampler(scheduler, steps, eta)(network, SHAPE, torch.arange(6), 2))
    assert_shows(picture(tmp_path, "x.png"), expected)


def test_images_are_drawn_in_the_network_s_memory_format_and_in_float32_unless_told_otherwise() -> None:
    sampler, network = Sampler(DDIM(timestep_spacing="trailing", **SCHEDULE), 2), recording(SHAPE, 4)
    for layout in (torch.contiguous_format, torch.channels_last):
        CALLS.clear()
        x = sampler(network.to(memory_format=layout), SHAPE, torch.arange(2))
        assert x.is_contiguous(memory_format=layout) and all(c.x.is_contiguous(memory_format=layout) for c in CALLS)
    CALLS.clear()
    assert torch.equal(next(iter(draw_batches(sampler, network, SHAPE, 2))), as_bytes(x))
    assert {call.output.dtype for call in CALLS} == {torch.float32}


def test_a_pipeline_s_images_have_its_own_shape(draw: Callable[..., str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = unet(SHAPE, 4, [4, 8], 1, [False, False], groups=4).eval()
    save_pipeline(network, Noise(20, "linear", (1e-3, 0.3), "sample"), tmp_path / "pipeline")
    for name, source in (("drawn", "pipeline"), ("again", "exported")):
        if source == "exported":
            printed = draw(f"ckpt={tmp_path / 'pipeline'}", f"export={tmp_path / source}", f"out={tmp_path / 'no.png'}")
            assert printed == str(tmp_path / source) and not (tmp_path / "no.png").exists()
        draw(f"ckpt={tmp_path / source}", "n=2", "steps=20", "seed=4", f"out={tmp_path / name}")
    scheduler = DDIM(num_train_timesteps=20, beta_start=1e-3, beta_end=0.3, prediction_type="sample")
    expected = as_bytes(Sampler(scheduler, 20)(network, SHAPE, torch.arange(2), 4))
    for name in ("drawn", "again"):
        found = [np.asarray(Image.open(tmp_path / name / f"00000{i}.png")).astype(int) for i in range(2)]
        assert_shows(np.stack(found), expected)


def test_a_path_that_cannot_be_written_shows_before_the_work(
    draw: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        draw("steps=2", f"out={tmp_path / 'file' / 'x.png'}")
    assert "cannot read or write" in capsys.readouterr().err and not CALLS


def test_folders_that_hold_nothing_to_draw_from_or_cannot_be_written_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a folder with neither checkpoints/last\.ckpt nor model_index\.json"):
        draw_images(str(tmp_path), None)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match=f"{tmp_path} holds no unconditional diffusers pipeline: "):
        draw_images(str(tmp_path), None)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot write the pipeline to {tmp_path / 'file'}: "):
        save_pipeline(unet((1, 8, 8), 4, [4, 8], 1, [False, False], groups=4), Noise(20), tmp_path / "file")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ([], "ckpt is missing"),
        (["ckpt=x", "n=0"], "n=0: must be a whole number >= 1"),
        (["ckpt=x", "n=2.0"], "n=2.0: must be a whole number >= 1"),
        (["ckpt=x", "seed=-1"], "seed=-1: must be a whole number >= 0"),
        (["ckpt=x", "batch_size=0"], "batch_size=0: must be a whole number >= 1"),
        (["ckpt=x", "bf16=1"], "bf16=1: must be true or false"),
        (["ckpt=x", "weights=best"], "weights=best: must be one of ema, raw"),
        (["ckpt=x", "out=null"], "out=null: must be text"),
        (["ckpt=x", "device=[cpu]"], "must be text"),
        (["ckpt=null"], "ckpt is missing"),
        (["ckpt=x", "stepz=3"], "stepz=3: there is no such setting; did you mean steps"),
        (["ckpt=x", "steps=0"], "sampler.steps=0: must be a whole number >= 1"),
        (["ckpt=x", "eta=-1"], "sampler.eta=-1: must be"),
        (["ckpt=x", "spacing=even"], "sampler.spacing=even: must be one of trailing, linspace, leading"),
    ],
    ids=" ".join,
)
def test_settings_that_are_none_are_told(settings: list[str], complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        read_sample_line(settings)
    assert complaint in str(caught.value)


def test_settings_that_look_like_numbers_are_text_where_text_is_meant() -> None:
    """Names of files, say; and a million steps are a matter of the checkpoint."""
    settings, sampler = read_sample_line(["ckpt=2024", "out=7", "export=1.5", "n=3", "steps=1000000", "sampler=ddpm"])
    assert settings == {
        "ckpt": "2024",
        "trust": None,
        "out": "7",
        "n": 3,
        "seed": 0,
        "weights": "ema",
        "batch_size": 100,
        "bf16": False,
        "device": "auto",
        "export": "1.5",
    }
    assert sampler == {
        "_target_": "gvr_lightning.diffusion.ddpm.DDPM",
        "steps": 1000000,
        "spacing": "linspace",
        "clip_sample": True,
    }
    assert read_sample_line(["ckpt=x"])[1] == {
        "_target_": "gvr_lightning.diffusion.ddim.DDIM",
        "steps": 50,
        "eta": 0.0,
        "spacing": "trailing",
        "clip_sample": True,
    }


def test_the_help_names_every_setting_and_its_default() -> None:
    settings = [line for line in sample_help().splitlines() if line[:2] == "  " and line[2] != " "]
    lines = dict(line.split(maxsplit=1) for line in settings)
    defaults = ("ckpt=null", "out=samples.png", "n=64", "seed=0", "weights=ema", "batch_size=100", "bf16=false")
    assert lines.keys() == {*defaults, "device=auto", "trust=null", "export=null", "sampler=ddim"}


# --- pictures


def test_small_images_are_enlarged_so_that_the_shorter_side_is_48_pixels_at_least(tmp_path: Path) -> None:
    for side, scale in ((8, 6), (12, 4), (47, 2), (48, 1), (64, 1)):
        for shape in ((1, side, side + 3), (1, side + 3, side)):
            images = torch.full((2, *shape), 9, dtype=torch.uint8)
            save_grid(images, tmp_path / "x.png")
            height, width = shape[1] * scale, shape[2] * scale
            assert np.asarray(Image.open(tmp_path / "x.png")).shape == (height + 4, 2 * width + 6)  # gaps of 2


def test_a_grid_is_as_square_as_can_be_and_grey_images_stay_grey(tmp_path: Path) -> None:
    for number, columns, rows in ((1, 1, 1), (4, 2, 2), (5, 3, 2), (10, 4, 3)):
        images = torch.arange(number, dtype=torch.uint8).add(1).view(-1, 1, 1, 1).expand(-1, 1, 48, 48)
        save_grid(images, tmp_path / "x.png")
        pixels = np.asarray(Image.open(tmp_path / "x.png"))
        assert pixels.shape == (50 * rows + 2, 50 * columns + 2)
        cells = [
            pixels[2 + 50 * r : 50 + 50 * r, 2 + 50 * c : 50 + 50 * c] for r in range(rows) for c in range(columns)
        ]
        assert [(cell.min(), cell.max()) for cell in cells[:number]] == [(i + 1, i + 1) for i in range(number)]
        assert all(cell.min() == 255 for cell in cells[number:])  # white
        assert (pixels[:2] == 255).all() and (pixels[:, -2:] == 255).all() and (pixels[50:52] == 255).all()


def test_single_images_are_files_of_their_own_size(tmp_path: Path) -> None:
    for channels in (1, 3):
        images = torch.arange(2 * channels * 6, dtype=torch.uint8).view(2, channels, 2, 3)
        save_images(images, tmp_path / "a" / str(channels), first=9)
        assert sorted(p.name for p in (tmp_path / "a" / str(channels)).iterdir()) == ["000009.png", "000010.png"]
        found = np.asarray(Image.open(tmp_path / "a" / str(channels) / "000010.png"))
        assert (found == images[1].permute(1, 2, 0).numpy().squeeze()).all()


@pytest.mark.parametrize(
    ("there", "wanted", "found"),
    [(50, 4, [0, 16, 33, 49]), (4, 12, [0, 1, 2, 3]), (12, 12, list(range(12))), (13, 3, [0, 6, 12]), (1, 5, [0])],
)
def test_pictures_of_the_way_are_evenly_chosen(there: int, wanted: int, found: list[int]) -> None:
    assert [int(x) for x in evenly(list(torch.arange(there)), wanted)] == found


class _Levels(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        levels = images.float().mean((2, 3)) / 255
        return levels, levels


def levels(data: Any, cache_dir: str | None = None) -> Extractor:
    """An extractor of one's own: the mean of each channel."""
    return Extractor(_Levels(), "levels", 3, "none")


def test_images_whose_size_a_transform_changes_are_not_scored(tmp_path: Path) -> None:
    padded = "{_target_: torch.nn.ZeroPad2d, padding: 2}"
    settings = ["extractor._target_=test_generated_images.levels", f"data.transform={padded}"]
    with pytest.raises(UserError, match=r"data\.transform changes the images' size.* extractor=none"):
        tiny_run(tmp_path, *RUN, *settings, f"data.eval_transform={padded}")


def test_scores_of_too_few_images_are_marked_where_they_are_allowed(tmp_path: Path) -> None:
    settings = [*RUN, "extractor._target_=test_generated_images.levels", "generation.num_images=3", "epochs=1"]
    settings += ["sampler.steps=2", "generation.grid=2"]
    with pytest.raises(UserError, match=r"3 features of levels needs 4 images or more .* 3 generated and 90 real"):
        tiny_run(tmp_path, *settings)
    marked = tiny_run(tmp_path / "few", *settings, "generation.allow_few=true", "generation.batch_size=2")
    assert marked["protocol"]["unreliable"] is True and marked["protocol"]["extractor"] == "levels"
    assert marked["metrics"]["num_images"] == marked["metrics"]["real/num_images"] == 3


def test_how_many_images_were_drawn_is_said_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    batches = [torch.zeros(3, 1), torch.ones(4, 1)]
    assert all(a is b for a, b in zip(shown(iter(batches), 7), batches, strict=True))
    assert re.fullmatch(r"drew 7 images in \d+\.\d s \([\d,]+\.\d images/s\)\n", capsys.readouterr().err)
