"""Every figure that classification logs, by value: logits are read off the images, and the rest is numpy.

The network's logits are its images' pixels times a number, and the learning rate is zero: what a view of a sample is
given, and by which batch, is all that the figures depend on.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from gvr_lightning import GradientVariance
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.data.label_noise import Symmetric
from gvr_lightning.methods.label_smoothing import LabelSmoothing
from gvr_lightning.methods.penalty import NoPenalty
from gvr_lightning.methods.sam import SAM
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.optim import schedules
from gvr_lightning.recording.csv import CsvLogger, read_metrics
from gvr_lightning.tasks.classification import ClassificationTask

CLASSES, SCALE, BATCH, ALPHA = 7, 6.0, 4, 0.5
TRAIN, TEST = 13, 9  # 3 are held out: batches of 4, 4 and 2
RANKS = (0, 4, 5, 0, 1, 6, 0)  # of the labels among an image's logits
FAIR = (0, 0, 1, 0, 2)  # likewise, of a network that is mostly right
STILL = partial(torch.optim.SGD, lr=0.0)
Row = dict[str, str]


def pixels(n: int, seed: int, classes: int = CLASSES) -> np.ndarray:
    """Images of one row whose pixels all differ, so that no two classes are equally likely."""
    random = np.random.RandomState(seed)
    return np.stack([random.permutation(256)[:classes] for _ in range(n)])


def labels_of(x: np.ndarray, ranks: Sequence[int]) -> np.ndarray:
    """Each image's brightest pixel, or the fifth, sixth, ... brightest."""
    ranks = np.resize(ranks, len(x)) % x.shape[1]
    return np.argsort(-x, axis=1)[np.arange(len(x)), ranks]


class Table:
    """Images, labels and views, and what follows from them.

    Args:
        classes: how many.
        ranks: of the labels, in turn.
        views: of a sample; view v is turned by i % (v + 1) classes, so any two agree on some samples only.
        **options: of the data module.
    """

    def __init__(self, classes: int = CLASSES, views: int = 1, ranks: Sequence[int] = RANKS, **options: Any) -> None:
        self.pixels = {"train": pixels(TRAIN, 0, classes), "test": pixels(TEST, 1, classes)}
        self.labels = {part: labels_of(x, ranks) for part, x in self.pixels.items()}
        self.order: list[list[int]] = []  # the samples of each training batch
        sets = (
            ImageSet(torch.from_numpy(x[:, None, None].astype(np.uint8)), torch.from_numpy(self.labels[part]))
            for part, x in self.pixels.items()
        )
        splits = Splits(*sets, tuple("abcdefghij"[:classes]), "")
        settings: dict[str, Any] = {"batch_size": BATCH, "val_fraction": 0.2, "eval_batch_size": 2} | options
        self.module = ViewsDataModule(lambda: splits, self.augmented, views, mean=[0.0], std=[1.0], **settings)
        self.module.setup()
        self.order.clear()
        self.trained, self.held_out = self.module.train_index.numpy(), self.module.val_index.numpy()
        self.told = self.module.splits.train.targets.numpy()  # type: ignore[union-attr]

    def augmented(self, images: Tensor, mean: Tensor, std: Tensor, index: Tensor, keys: Sequence[int]) -> list[Tensor]:
        """Views as the data module asks for them."""
        self.order.append(index.tolist())
        x = torch.from_numpy(np.stack([self.view(index.numpy(), v) for v in range(len(keys))]))
        return list((x[:, :, None, None] / 255).float().unbind())

    def view(self, samples: np.ndarray, view: int) -> np.ndarray:
        """The pixels of a training view."""
        rows = [np.roll(self.pixels["train"][i], i % (view + 1)) for i in samples]
        return np.stack(rows).astype(np.float64)

    def logits(self, samples: Sequence[int] | np.ndarray, view: int = 0) -> np.ndarray:
        """What the network makes of a training view."""
        return SCALE * self.view(np.asarray(samples), view) / 255


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(1, keepdims=True)


def cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """Of each row."""
    wanted = (1 - smoothing) * np.eye(logits.shape[1])[labels] + smoothing / logits.shape[1]
    return -(wanted * np.log(softmax(logits))).sum(1)


def head_gradient(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of the mean loss by the last layer's weights, whose inputs are the logits over SCALE."""
    return (softmax(logits) - np.eye(logits.shape[1])[labels]).T @ (logits / SCALE) / len(labels)


def distance(table: Table, samples: Sequence[int]) -> float:
    """GVR's penalty of a batch of two views."""
    first, second = (head_gradient(table.logits(samples, view), table.told[samples]) for view in range(2))
    return float(((first - second) ** 2).sum())


def network(classes: int = CLASSES) -> SplitNetwork:
    head = nn.Linear(classes, classes, bias=False)
    nn.init.eye_(head.weight).data.mul_(SCALE)
    return SplitNetwork(nn.Flatten(), nn.Identity(), head)


def measured(table: Table, folder: Path, test: bool = False, every: int = 2, **options: Any) -> list[Row]:
    """The rows of two epochs, or of a test."""
    classes = table.module.num_classes
    settings: dict[str, Any] = {"model": network(classes), "penalty": NoPenalty(), "optimizer": STILL}
    settings |= {"schedule": schedules.constant, "num_classes": classes, **options}
    path = folder / "metrics.csv"
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=[CsvLogger(path)],
        log_every_n_steps=every,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    task = ClassificationTask(**settings)
    trainer.test(task, table.module, verbose=False) if test else trainer.fit(task, table.module)
    return read_metrics(path)


def epochs(rows: list[Row]) -> list[dict[str, float]]:
    """The rows of whole epochs."""
    return [{k: float(v) for k, v in row.items()} for row in rows if "lr" in row]


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("views", [1, 2, 3])
def test_loss_and_accuracy_are_means_over_samples_and_views(tmp_path: Path, views: int) -> None:
    table = Table(views=views)
    logits = [table.logits(table.trained, view) for view in range(views)]
    labels, said = table.told[table.trained], [z.argmax(1) for z in logits]
    rows = epochs(measured(table, tmp_path))
    assert len(rows) == 2
    for row in rows:
        assert row["train/loss"] == near(np.mean([cross_entropy(z, labels) for z in logits]))
        assert row["train/acc"] == near(np.mean([one == labels for one in said]))
        assert row["train/penalty"] == row["train/penalty_share"] == 0
        if views > 1:
            agreement = np.mean([one == said[0] for one in said[1:]])
            assert row["train/view_agreement"] == near(agreement) and 0 < agreement < 1
        else:
            assert "train/view_agreement" not in row


def test_the_penalty_is_the_batches_mean_by_their_samples_and_its_share_that_of_the_whole_loss(tmp_path: Path) -> None:
    table = Table(views=2)
    rows = epochs(measured(table, tmp_path, penalty=GradientVariance(ALPHA)))
    assert [len(samples) for samples in table.order] == [4, 4, 2] * 2
    for epoch, row in enumerate(rows):
        batches = table.order[3 * epoch : 3 * epoch + 3]
        penalty = sum(distance(table, samples) * len(samples) for samples in batches) / 10
        losses = np.mean([cross_entropy(table.logits(table.trained, v), table.told[table.trained]) for v in range(2)])
        assert row["train/penalty"] == near(penalty) and penalty > 0.01
        assert row["train/penalty_share"] == near(ALPHA * penalty / (2 * losses + ALPHA * penalty))
        assert row["train/total"] == near(2 * losses + ALPHA * penalty)
        assert row["train/loss"] == near(losses)  # without it


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (4, [4]), (7, [])])
def test_a_step_s_row_comes_every_so_many_updates_with_that_batch_s_figures(
    tmp_path: Path, every: int, steps: list[int]
) -> None:
    table = Table(views=2)
    rows = measured(table, tmp_path, every=every, penalty=GradientVariance(ALPHA))
    logged = [row for row in rows if "step/loss" in row]
    assert [int(row["step"]) for row in logged] == steps
    for row in logged:
        samples = table.order[int(row["step"]) - 1]
        assert row.keys() == {"step", "epoch", "step/loss", "step/penalty"}
        assert int(row["epoch"]) == (int(row["step"]) - 1) // 3
        losses = [cross_entropy(table.logits(samples, view), table.told[samples]) for view in range(2)]
        assert float(row["step/loss"]) == near(np.mean(losses))
        assert float(row["step/penalty"]) == near(distance(table, samples))


def test_micro_batches_count_by_their_rows_and_have_penalties_of_their_own(tmp_path: Path) -> None:
    """A batch of 4 by 3 is 2, 1 and 1; the last batch of 2 is 1 and 1."""
    table = Table(views=2)
    rows = measured(table, tmp_path, every=1, penalty=GradientVariance(ALPHA), accumulate=3)
    penalties = []
    for samples in table.order:
        parts = [part.tolist() for part in np.array_split(samples, min(3, len(samples)))]
        penalties.append(sum(distance(table, part) * len(part) for part in parts) / len(samples))
    assert [float(row["step/penalty"]) for row in rows if "step/loss" in row] == [near(p) for p in penalties]
    for row, found in zip(epochs(rows), (penalties[:3], penalties[3:]), strict=True):
        assert row["train/penalty"] == near(np.average(found, weights=[4, 4, 2]))


def test_of_sam_s_two_passes_the_first_is_recorded(tmp_path: Path) -> None:
    """The one at the weights themselves."""
    table = Table()
    for row in epochs(measured(table, tmp_path, wrap=partial(SAM, rho=5.0))):
        assert row["train/loss"] == near(cross_entropy(table.logits(table.trained), table.told[table.trained]).mean())


def test_accuracy_where_labels_are_noisy_is_told_apart(tmp_path: Path) -> None:
    """By the samples' true labels, over both views; the validation's labels are the true ones."""
    table = Table(views=2, label_noise=Symmetric(0.4, seed=1))
    true, told = table.labels["train"][table.trained], table.told[table.trained]
    said = np.stack([table.logits(table.trained, view).argmax(1) for view in range(2)])
    wrong = true != told
    assert wrong.sum() == 4
    expected = {
        "train/acc": (said == told).mean(),
        "train/acc_clean": (said == true)[:, ~wrong].mean(),
        "train/acc_noisy": (said == told)[:, wrong].mean(),
        "train/acc_noisy_true": (said == true)[:, wrong].mean(),
        "val/acc": (table.logits(table.held_out).argmax(1) == table.labels["train"][table.held_out]).mean(),
    }
    assert len({*expected.values(), 0.0, 1.0}) == 7, "so that none is mistaken for another"
    for row in epochs(measured(table, tmp_path)):
        assert {name: row[name] for name in expected} == {name: near(value) for name, value in expected.items()}
        assert not {"train/clean", "train/noisy", "train/right_clean", "train/right_noisy"} & row.keys()


@pytest.mark.parametrize(("rate", "absent"), [(0.0, {"acc_noisy", "acc_noisy_true"}), (1.0, {"acc_clean"})])
def test_a_part_without_samples_has_no_accuracy(tmp_path: Path, rate: float, absent: set[str]) -> None:
    rows = epochs(measured(Table(label_noise=Symmetric(rate)), tmp_path))
    for name in ("acc_clean", "acc_noisy", "acc_noisy_true"):
        assert (f"train/{name}" in rows[0]) == (name not in absent)


def confident(logits: np.ndarray, labels: np.ndarray, bins: int) -> tuple[float, float]:
    """The expected calibration error, and the largest of a bin."""
    confidence, right = softmax(logits).max(1), logits.argmax(1) == labels
    which = np.floor(confidence * bins).astype(int)
    gaps = [abs(right[which == b].mean() - confidence[which == b].mean()) for b in set(which)]
    return float(np.average(gaps, weights=[(which == b).sum() for b in set(which)])), max(gaps)


@pytest.mark.parametrize("bins", [3, 15])
@pytest.mark.parametrize("test", [False, True], ids=["validation", "test"])
def test_validation_and_test_figures(tmp_path: Path, test: bool, bins: int) -> None:
    """Over uneven batches of two; the loss is the plain one although the training's is smoothed."""
    table = Table(val_fraction=0.55)
    part, which = ("test", np.arange(TEST)) if test else ("train", table.held_out)
    assert len(which) % 2 == 1
    logits, labels = SCALE * table.pixels[part][which] / 255, table.labels[part][which]
    rank = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)  # 0: the first
    assert {4, 5} <= set(rank) and 0 in rank
    error, largest = confident(logits, labels, bins)
    assert abs(error - largest) > 0.01
    rows = measured(table, tmp_path, test, label_smoothing=0.3, calibration_bins=bins)
    name = "test" if test else "val"
    found = [row for row in rows if f"{name}/acc" in row]
    assert len(found) == (1 if test else 2)
    for row in found:
        assert float(row[f"{name}/acc"]) == near((rank == 0).mean())
        assert float(row[f"{name}/top5"]) == near((rank < 5).mean())
        assert float(row[f"{name}/loss"]) == near(cross_entropy(logits, labels).mean())
        assert float(row[f"{name}/ece"]) == near(error)
    assert confident(logits, labels, 3) != confident(logits, labels, 15)


def test_an_epoch_s_validation_is_of_that_epoch_alone(tmp_path: Path) -> None:
    """The network learns here: the last epoch's figures are those of the weights that it ends with."""
    table, model = Table(val_fraction=0.55), network()
    first, last = epochs(measured(table, tmp_path, model=model, optimizer=partial(torch.optim.SGD, lr=30.0)))
    inputs = table.pixels["train"][table.held_out] / 255
    logits, labels = inputs @ model.head.weight.detach().double().numpy().T, table.labels["train"][table.held_out]
    assert last["val/loss"] == near(cross_entropy(logits, labels).mean()) and last["val/loss"] != near(
        first["val/loss"]
    )
    assert last["val/acc"] == near((logits.argmax(1) == labels).mean()) and last["val/acc"] != first["val/acc"]


def test_fifteen_bins_are_the_usual_ones(tmp_path: Path) -> None:
    table = Table()
    (row,) = measured(table, tmp_path, test=True)
    error, _ = confident(SCALE * table.pixels["test"] / 255, table.labels["test"], 15)
    assert float(row["test/ece"]) == near(error)


@pytest.mark.parametrize("classes", [3, 5])
def test_of_five_classes_or_fewer_every_one_is_among_the_first_five(tmp_path: Path, classes: int) -> None:
    (row,) = measured(Table(classes), tmp_path, test=True)
    assert float(row["test/top5"]) == 1 and float(row["test/acc"]) < 1


def test_the_loss_of_training_is_smoothed_where_the_task_says_so(tmp_path: Path) -> None:
    table = Table()
    logits, labels, held_out = table.logits(table.trained), table.told[table.trained], table.held_out
    (row, _) = epochs(measured(table, tmp_path, label_smoothing=0.3))
    assert row["train/loss"] == near(cross_entropy(logits, labels, 0.3).mean())
    assert row["train/loss"] != near(cross_entropy(logits, labels).mean())
    assert row["val/loss"] == near(cross_entropy(table.logits(held_out), table.told[held_out]).mean())


def test_label_smoothing_as_a_penalty_leaves_the_loss_and_is_its_share(tmp_path: Path) -> None:
    table = Table()
    logits, labels, held_out = table.logits(table.trained), table.told[table.trained], table.held_out
    plain, smoothed = (cross_entropy(logits, labels, smoothing).mean() for smoothing in (0.0, 0.3))
    for row in epochs(measured(table, tmp_path, penalty=LabelSmoothing(0.3))):
        assert row["train/loss"] == near(plain)
        assert row["train/penalty"] == near((smoothed - plain) / 0.3)
        assert row["train/penalty_share"] == near((smoothed - plain) / smoothed)
        assert row["val/loss"] == near(cross_entropy(table.logits(held_out), table.told[held_out]).mean())


class Poisoned(nn.Module):
    """Gives no numbers where an image's first pixel is that one, while it trains or else while it does not."""

    def __init__(self, pixel: int, training: bool = True) -> None:
        super().__init__()
        self.pixel, self.while_training = pixel, training

    def forward(self, x: Tensor) -> Tensor:
        bad = (x[:, 0] * 255).round() == self.pixel
        return torch.where(bad[:, None] & (self.training == self.while_training), x * float("nan"), x)


def poisoned(pixel: int, training: bool = True) -> SplitNetwork:
    model = network()
    model.backbone.early = nn.Sequential(nn.Flatten(), Poisoned(pixel, training))
    return model


@pytest.mark.parametrize("test", [False, True], ids=["validation", "test"])
def test_a_loss_that_is_not_a_number_is_not_left_out_of_the_mean(tmp_path: Path, test: bool) -> None:
    table = Table()
    part, sample = ("test", 3) if test else ("train", table.held_out[0])
    model = poisoned(int(table.pixels[part][sample, 0]), training=False)
    rows = measured(table, tmp_path, test, model=model)
    name = "test/loss" if test else "val/loss"
    assert {row[name] for row in rows if name in row} == {"nan"}


def test_an_update_that_is_skipped_is_in_no_figure(tmp_path: Path) -> None:
    table = Table()
    first = table.pixels["train"][:, 0].tolist()
    bad = next(i for i in table.trained if first.count(first[i]) == 1)
    rows = measured(table, tmp_path, every=1, model=poisoned(first[bad]), non_finite="skip")
    skipped = [step for step, samples in enumerate(table.order, 1) if bad in samples]
    assert len(skipped) == 2
    assert [int(row["step"]) for row in rows if "step/loss" in row] == sorted({1, 2, 3, 4, 5, 6} - set(skipped))
    for epoch, row in enumerate(epochs(rows)):
        kept = [i for samples in table.order[3 * epoch : 3 * epoch + 3] if bad not in samples for i in samples]
        assert row["train/loss"] == near(cross_entropy(table.logits(kept), table.told[kept]).mean())
        assert row["train/acc"] == near((table.logits(kept).argmax(1) == table.told[kept]).mean())
        assert row["train/skipped"] == epoch + 1


TRAINED = {"step", "epoch", "lr", "train/loss", "train/penalty", "train/penalty_share", "train/total", "train/acc"}
VALIDATED = {"val/acc", "val/top5", "val/ece", "val/loss"}


@pytest.mark.parametrize(
    ("views", "options", "further"),
    [
        (1, {}, set()),
        (2, {}, {"train/view_agreement"}),
        (1, {"non_finite": "skip"}, {"train/skipped"}),
    ],
)
def test_the_columns_of_an_epoch(tmp_path: Path, views: int, options: dict[str, Any], further: set[str]) -> None:
    rows = epochs(measured(Table(views=views), tmp_path, **options))
    assert [row.keys() for row in rows] == [TRAINED | VALIDATED | further] * 2
    assert [(row["step"], row["epoch"]) for row in rows] == [(3, 0), (6, 1)]


def test_without_a_validation_part_its_columns_are_absent(tmp_path: Path) -> None:
    rows = epochs(measured(Table(val_fraction=0.0), tmp_path))
    assert [row.keys() for row in rows] == [TRAINED] * 2


def test_a_test_s_columns(tmp_path: Path) -> None:
    (row,) = measured(Table(ranks=FAIR), tmp_path, test=True)
    tested = {"step", "test/acc", "test/top5", "test/ece", "test/loss", "test/balanced_acc", "test/nll"}
    scaled = {"test/nll_scaled", "test/ece_scaled", "temperature"}
    assert row.keys() == tested | scaled
    (row,) = measured(Table(val_fraction=0.0), tmp_path, test=True)
    assert row.keys() == tested


def test_the_temperature_is_of_the_held_out_images_and_scales_the_test_s(tmp_path: Path) -> None:
    table = Table(ranks=FAIR, val_fraction=0.55)
    held, test = (SCALE * x / 255 for x in (table.pixels["train"][table.held_out], table.pixels["test"]))
    labels = table.labels["train"][table.held_out]
    least = minimize_scalar(lambda t: cross_entropy(held / t, labels).mean(), bounds=(0.1, 99), options={"xatol": 1e-9})
    (row,) = measured(table, tmp_path, test=True, label_smoothing=0.3)
    assert float(row["temperature"]) == pytest.approx(least.x, rel=1e-5) != pytest.approx(1, rel=0.05)
    labels, scaled = table.labels["test"], test / least.x
    assert float(row["test/nll"]) == near(cross_entropy(test, labels).mean())
    assert float(row["test/nll_scaled"]) == near(cross_entropy(scaled, labels).mean())
    assert float(row["test/ece_scaled"]) == near(confident(scaled, labels, 15)[0])
    right = [(test.argmax(1) == labels)[labels == c].mean() for c in sorted(set(labels))]
    assert float(row["test/balanced_acc"]) == near(np.mean(right))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.constant, [0.1, 0.1]),
        (schedules.cosine, [0.1, 0.05]),  # of the epoch, not of the next
        (partial(schedules.warmup, warmup_steps=8), [0.05, 0.0875]),  # by update: after those of the epoch
    ],
)
def test_the_learning_rate_of_an_epoch(
    tmp_path: Path, schedule: Callable[..., schedules.Schedule], expected: list[float]
) -> None:
    rows = epochs(measured(Table(), tmp_path, schedule=schedule, optimizer=partial(torch.optim.SGD, lr=0.1)))
    assert [row["lr"] for row in rows] == [near(lr) for lr in expected]
