"""From the command line's keys to the figures: which images a run shows its network, and of which weights it tells."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numbered import PLAIN, SEEN, TEST, WATCHED, Numbered, seen, watching
from runs import tiny_run, weights
from torch import Tensor

Batches = list[dict[str, Any]]
SPLIT = ["data.val_fraction=0.2", "data.max_train=50", "batch_size=16", "epochs=3"]
CLASSES = 12


def watched(folder: Path, *overrides: str) -> tuple[dict[str, Any], Batches]:
    """The summary of a run on numbered images, and what its network was shown, batch by batch."""
    file = folder.with_suffix(".seen")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SEEN, str(file))
        summary = tiny_run(folder, *WATCHED, *SPLIT, *overrides, cnn=False)
    return summary, seen(file)


def trained_on(batches: Batches, epoch: int, views: int = 2) -> list[int]:
    """The numbers of an epoch in the order of training; all views of a batch have to be of the same images."""
    steps = -(-50 // 16)
    shown = [batch["numbers"] for batch in batches if batch["training"]][epoch * steps * views :][: steps * views]
    by_view = [shown[v::views] for v in range(views)]
    assert all(view == by_view[0] for view in by_view)
    return [number for batch in by_view[0] for number in batch]


@pytest.fixture(scope="module")
def gvr(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Batches]:
    """A run with two views."""
    return watched(tmp_path_factory.mktemp("gvr") / "run", "regularizer=gvr")


# --- which images


def test_training_validation_and_test_are_three_sets(gvr: tuple[dict[str, Any], Batches]) -> None:
    """90 images: 18 held out, 50 of the rest trained on; 40 test images, each looked at once, at the end."""
    summary, batches = gvr
    train = {number for batch in batches if batch["training"] for number in batch["numbers"]}
    evaluated = [number for batch in batches if not batch["training"] for number in batch["numbers"]]
    validation, test = evaluated[:-40], evaluated[-40:]
    assert len(train) == 50 and train <= set(range(90))
    assert validation == validation[:18] * 4 and len(set(validation)) == 18 and not set(validation) & train
    assert set(validation) <= set(range(90))
    assert sorted(test) == list(range(TEST, TEST + 40))
    assert summary["train"]["samples"] == 150 and summary["train"]["images"] == 300


def test_every_epoch_has_all_images_once_in_an_order_of_its_own(gvr: tuple[dict[str, Any], Batches]) -> None:
    orders = [trained_on(gvr[1], epoch) for epoch in range(3)]
    assert all(sorted(order) == sorted(orders[0]) and len(set(order)) == 50 for order in orders)
    assert len({tuple(order) for order in orders}) == 3 and all(order != sorted(order) for order in orders)
    assert [len(batch["numbers"]) for batch in gvr[1][:8]] == [16, 16, 16, 16, 16, 16, 2, 2]


def test_the_seed_makes_the_order_and_leaves_the_split(gvr: tuple[dict[str, Any], Batches], tmp_path: Path) -> None:
    (_, again), (_, other) = (watched(tmp_path / str(s), "regularizer=gvr", f"seed={s}") for s in (0, 1))
    assert again == gvr[1]
    assert all(trained_on(other, epoch) != trained_on(again, epoch) for epoch in range(3))
    assert sorted(trained_on(other, 0)) == sorted(trained_on(again, 0))
    held = [[n for batch in batches if not batch["training"] for n in batch["numbers"]] for batches in (again, other)]
    assert held[0] == held[1]


def test_a_subset_of_the_training_images_leaves_the_validation_part(tmp_path: Path) -> None:
    held, trained = [], []
    for most in ("null", "20"):
        _, batches = watched(tmp_path / most, f"data.max_train={most}", "epochs=1")
        held.append({n for b in batches if not b["training"] for n in b["numbers"]})
        trained.append({n for b in batches if b["training"] for n in b["numbers"]})
    assert held[0] == held[1] and [len(t) for t in trained] == [72, 20] and trained[1] < trained[0]
    assert trained[0] | {n for n in held[0] if n < TEST} == set(range(90))


COLOUR = [
    "+data.source.channels=3",
    "+data.source.width=10",
    "data.augmentation.padding=2",
    "data.augmentation.flip=true",
]


def test_views_are_other_pixels_by_view_epoch_and_seed(tmp_path: Path) -> None:
    """Of colour images that are not square; the network is shown them shifted and mirrored."""
    runs = [watched(tmp_path / str(s), "regularizer=two_view", *COLOUR, f"seed={s}", "epochs=2")[1] for s in (0, 1)]

    def pixels(batches: Batches, epoch: int, view: int) -> dict[int, float]:
        shown = [b for b in batches if b["training"]][8 * epoch : 8 * epoch + 8][view::2]
        return {n: s for batch in shown for n, s in zip(batch["numbers"], batch["sums"], strict=True)}

    found = [pixels(batches, epoch, view) for batches in runs for epoch in (0, 1) for view in (0, 1)]
    assert all(one.keys() == found[0].keys() and len(one) == 50 for one in found)
    for i, one in enumerate(found):
        for other in found[:i]:
            assert sum(one[n] != other[n] for n in one) > 30  # a shift may be the same by chance


def test_the_moments_are_those_of_the_images_that_are_trained_on(
    gvr: tuple[dict[str, Any], Batches], tmp_path: Path
) -> None:
    tiny_run(tmp_path, *WATCHED, *SPLIT, "data.mean=null", "data.std=null", "epochs=1", cnn=False)
    told = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["ViewsDataModule"]
    images = Numbered()().train.images.double().numpy() / 255
    trained = images[sorted(trained_on(gvr[1], 0))]
    assert told["mean"] == pytest.approx([trained.mean()], rel=1e-6) != pytest.approx([images.mean()], rel=1e-6)
    assert told["std"] == pytest.approx([trained.std()], rel=1e-6) != pytest.approx([images.std()], rel=1e-6)


# --- which weights


def scores(folder: Path, checkpoint: str, images: Tensor, targets: Tensor) -> dict[str, float]:
    """Loss, accuracy and the like of a checkpoint's network, by other means than the project's."""
    state = torch.load(folder / "checkpoints" / f"{checkpoint}.ckpt", weights_only=True)["state_dict"]
    network = watching(tuple(images.shape[1:]), CLASSES).eval()
    network.load_state_dict({n.removeprefix("model."): v for n, v in state.items() if n.startswith("model.")})
    with torch.no_grad():
        logits = network(images.float() / 255).double().numpy()
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    of_label = p[np.arange(len(p)), targets.numpy()]
    rank = (p > of_label[:, None]).sum(1)
    sure, right = p.max(1), p.argmax(1) == targets.numpy()
    bins = np.minimum((sure * 5).astype(int), 4)
    gaps = [abs(sure[bins == b].sum() - right[bins == b].sum()) for b in range(5)]
    figures = {"loss": -np.log(of_label).mean(), "acc": right.mean(), "top5": (rank < 5).mean()}
    return figures | {"ece": sum(gaps) / len(p)}


DATA = {"train": 200, "test": 150, "width": 12, "classes": CLASSES}
HARD = [*(f"+data.source.{name}={value}" for name, value in DATA.items()), "data.max_train=80", "batch_size=8"]
HARD += ["optimizer=adam", "lr=0.02", "epochs=5", "scheduler=constant", "scheduler._target_=numbered.breaking"]
HARD += ["task.calibration_bins=5", "task.label_smoothing=0.2", "data.eval_batch_size=64"]


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any], Batches]]:
    """Runs whose best epoch is not their last, by which of both is tested."""
    found = {}
    for which in ("last", "best"):
        folder = tmp_path_factory.mktemp("hard") / which
        found[which] = (folder, *watched(folder, *HARD, f"test_on={which}"))
    return found


@pytest.mark.parametrize("which", ["last", "best"])
def test_the_test_figures_are_those_of_the_checkpoint_that_is_named(hard: Any, which: str) -> None:
    folder, summary, _ = hard[which]
    test = Numbered(**DATA)().test
    checkpoints = [which, {"last": "best", "best": "last"}[which]]
    expected, other = (scores(folder, name, test.images, test.targets) for name in checkpoints)
    found = {name: summary["metrics"][f"test/{name}"] for name in expected}
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert expected["loss"] != pytest.approx(other["loss"], rel=1e-3)
    assert 0 < expected["acc"] < expected["top5"] < 1 and expected["ece"] > 0.01


def test_the_best_checkpoint_is_that_of_the_best_validation(hard: Any) -> None:
    folder, summary, batches = hard["best"]
    accuracies = [float(row["val/acc"]) for row in table(folder) if row["val/acc"]]
    assert len(accuracies) == 5 and accuracies[-1] < max(accuracies) > accuracies[0]
    best, last = (torch.load(folder / "checkpoints" / f"{n}.ckpt", weights_only=True) for n in ("best", "last"))
    assert best["epoch"] == accuracies.index(max(accuracies)) and last["epoch"] == 4
    assert summary["metrics"]["val/acc_best"] == max(accuracies) and summary["metrics"]["val/acc"] == accuracies[-1]
    train = Numbered(**DATA)().train
    held = sorted({n for b in batches if not b["training"] for n in b["numbers"] if n < TEST})
    assert len(held) == 40
    sizes = [len(b["numbers"]) for b in batches if not b["training"]]
    # of validation, the last for the temperature, and of the test in parts of data.eval_batch_size
    assert sizes == [40] * 6 + [64, 64, 22]
    for name, epoch in (("best", best["epoch"]), ("last", 4)):
        expected = scores(folder, name, train.images[held], train.targets[held])
        row = [row for row in table(folder) if row["val/acc"]][epoch]
        assert {k: float(row[f"val/{k}"]) for k in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)


def table(folder: Path) -> list[dict[str, str]]:
    """metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_seeds_start_from_other_weights_and_one_seed_from_the_same(tmp_path: Path) -> None:
    """With a rate at which nothing moves, the last weights are the first."""
    still = ["lr=1e-30", "optimizer.weight_decay=0", "epochs=1"]
    runs = [("a", 0), ("b", 0), ("c", 1)]
    first, again, other = (
        tiny_run(tmp_path / name, *still, f"seed={seed}") and weights(tmp_path / name) for name, seed in runs
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name, value in first.items() if value.std() > 0 and value.unique().numel() > 2]
    assert len(drawn) >= 8 and not any(torch.equal(first[name], other[name]) for name in drawn)


def test_two_seeds_differ_in_every_figure_of_training(finished: Callable[..., Path]) -> None:
    one, other = (finished(*s) for s in ([], ["seed=1"]))
    assert json.loads((other / "summary.json").read_text())["seed"] == 1
    for a, b in zip(table(one)[:-1], table(other)[:-1], strict=True):
        assert a["train/loss"] != b["train/loss"] and a["val/loss"] != b["val/loss"]
        assert a["train/images"] == b["train/images"] and a["lr"] == b["lr"]
    assert table(one)[-1]["test/loss"] != table(other)[-1]["test/loss"]
    hashes = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    assert hashes[0]["config_hash"] != hashes[1]["config_hash"] and hashes[0]["data_hash"] == hashes[1]["data_hash"]


# --- what the seed reaches, one thing at a time

STILL = [*PLAIN, "model._target_=numbered.constant", "~model.width", "~model.groups", "data.val_fraction=0", "epochs=2"]
SEEDED = {  # all else is the same whatever the seed
    "nothing": (["batch_size=90"], False),
    "order": (["batch_size=30"], True),
    "augmentation": (["batch_size=90", "data.augmentation.padding=2"], True),
    "cutout": (["batch_size=90", "data.augmentation.cutout=4", "data.augmentation.cutout_prob=0.5"], True),
    "a transform of one's own": (
        ["batch_size=90", "data.transform={_target_: torchvision.transforms.v2.RandomCrop, size: 8, padding: 2}"],
        True,
    ),
    "dropout": (["batch_size=90", "+model.dropout=0.5"], True),
    "subsets": (["batch_size=90", "regularizer=gvr", "regularizer.penalty.subset=9", "alpha=1"], True),
    "halves": (["batch_size=90", "regularizer=gvr_split", "alpha=1"], True),
    "label noise": (["batch_size=90", "label_noise=symmetric"], False),
}


@pytest.mark.parametrize("what", SEEDED)
def test_what_the_seed_reaches(what: str, tmp_path: Path) -> None:
    """Of a network that starts the same, in batches that are the whole set where the order is not meant."""
    overrides, reached = SEEDED[what]
    for name, seed in (("a", 0), ("b", 1), ("c", 1)):
        tiny_run(tmp_path / name, *STILL, *overrides, f"seed={seed}", cnn=False)
    first, other, again = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(other[n], again[n]) for n in other)
    same = all(torch.allclose(first[n], other[n], rtol=1e-4, atol=1e-6) for n in first)
    assert same != reached
