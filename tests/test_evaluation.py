"""What a test tells beyond accuracy and loss, against scikit-learn's figures and by hand."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from painting import painted
from PIL import Image
from runs import tiny_run
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import confusion_matrix, log_loss, recall_score
from torch import Tensor

from gvr_lightning.app.build import build_data
from gvr_lightning.checkpoint import load_network
from gvr_lightning.data.digits import Digits
from gvr_lightning.metrics.calibration import fit_temperature
from gvr_lightning.recording.confusion import draw_confusion, read_cells, write_confusion
from gvr_lightning.tasks.evaluation import Evaluation


def predictions(n: int = 41, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Overconfident logits, and labels of all classes but the last."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(n, classes, generator=generator)
    labels = torch.where(torch.rand(n, generator=generator) < 0.6, logits[:, :-1].argmax(1), torch.arange(n) % 4)
    return logits, labels


@pytest.mark.parametrize("right", [3, 4])
def test_of_two_classes_the_temperature_makes_the_confidence_the_accuracy(right: int) -> None:
    """All logits say (a, 0), of which ``right`` of 5 are true: the logistic function of a / T has to be that share."""
    logits = torch.tensor([[2.0, 0.0]]).repeat(5, 1)
    targets = (torch.arange(5) >= right).long()
    assert fit_temperature(logits, targets) == pytest.approx(2 / math.log(right / (5 - right)), rel=1e-10)


def test_the_temperature_has_the_least_loss_and_undoes_a_scale() -> None:
    logits, labels = predictions()
    z, y = logits.double().numpy(), labels.numpy()
    found = minimize_scalar(
        lambda t: -log_softmax(z / t, 1)[np.arange(len(y)), y].mean(), bounds=(0.1, 50), options={"xatol": 1e-9}
    )
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(found.x, rel=1e-6) and temperature != pytest.approx(1, abs=0.1)
    assert fit_temperature(3 * logits.double() - 7, labels) == pytest.approx(3 * temperature, rel=1e-6)


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        ([[1.0, 0.0], [0.0, 2.0]], [0, 1]),  # all right
        ([[1.0, 0.0], [0.0, 2.0]], [1, 0]),  # all wrong
        ([[1.0, 1.0], [0.0, 0.0]], [0, 1]),  # nothing said
        ([[math.nan, 0.0], [1.0, 0.0]], [0, 1]),
        ([[1.0], [2.0]], [0, 0]),  # a single class
    ],
)
def test_where_no_temperature_is_the_best_there_is_none(logits: list[list[float]], targets: list[int]) -> None:
    assert fit_temperature(torch.tensor(logits), torch.tensor(targets)) is None


def test_the_figures_are_scikit_learn_s_over_uneven_batches() -> None:
    logits, labels = predictions()
    evaluation, temperature = Evaluation(5, 15), 2.5
    evaluation.start(9.0)
    evaluation.update(logits, labels)  # of an earlier test
    evaluation.start(temperature)
    for z, y in zip(logits.split(16), labels.split(16), strict=True):
        evaluation.update(z, y)
    found, said = evaluation.compute(), logits.argmax(1)
    assert evaluation.confusion is not None
    assert evaluation.confusion.tolist() == confusion_matrix(labels, said, labels=range(5)).tolist()
    assert evaluation.confusion[-1].sum() == 0 < evaluation.confusion[:, -1].sum(), "a class without images"
    assert found["test/balanced_acc"] == pytest.approx(recall_score(labels, said, labels=range(4), average="macro"))
    for name, t in (("test/nll", 1.0), ("test/nll_scaled", temperature)):
        p = (logits.double() / t).softmax(1).numpy()
        assert found[name] == pytest.approx(log_loss(labels, p, labels=range(5)), rel=1e-12)
    p = (logits / temperature).softmax(1)
    sure, right = p.max(1).values, (said == labels).float()
    which = (sure * 15).long()
    gaps = [float((sure - right)[which == b].sum().abs()) for b in range(15)]
    assert found["test/ece_scaled"] == pytest.approx(sum(gaps) / len(labels), rel=1e-5)
    assert found["temperature"] == temperature


def test_the_tables_are_those_of_the_counts_and_names_are_text(tmp_path: Path) -> None:
    names = ["=1+1", 'a, "b"', "@x"]
    write_confusion(tmp_path, torch.tensor([[3, 1, 0], [0, 0, 0], [1, 0, 4]]), names)
    with (tmp_path / "confusion.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["true \\ predicted", "'=1+1", 'a, "b"', "'@x"],
            ["'=1+1", "3", "1", "0"],
            ['a, "b"', "0", "0", "0"],
            ["'@x", "1", "0", "4"],
        ]
    assert read_cells(tmp_path / "classes.csv") == [
        ["class", "images", "accuracy", "predicted", "precision"],
        ["'=1+1", 4, 0.75, 4, 0.75],
        ['a, "b"', 0, None, 1, 0],
        ["'@x", 5, 0.8, 4, 1],
    ]
    write_confusion(tmp_path, None, names)
    assert not list(tmp_path.iterdir()), "of a test that was not made nothing is left"


def test_a_picture_has_a_place_for_every_class_and_names_in_any_script(tmp_path: Path) -> None:
    with painted():
        draw_confusion(tmp_path, torch.tensor([[5, 0], [2, 0]]), ["猫", "$a_1$\n" + "x" * 99], "$_")
    with Image.open(tmp_path / "confusion.png") as picture:
        pixels = np.asarray(picture.convert("L")).astype(int)
    dark, light = (pixels < 90).mean(), (pixels > 245).mean()
    assert dark > 0.1 and light > 0.3, "one class is right, the other never"


def test_a_run_leaves_them_of_the_weights_that_it_tested(finished: Callable[..., Path]) -> None:
    folder = finished("regularizer=gvr")
    summary = json.loads((folder / "summary.json").read_text())
    heading, *rows = read_cells(folder / "confusion.csv")
    counts = np.array([row[1:] for row in rows])
    assert heading[1:] == [row[0] for row in rows] == summary["classes"] and counts.sum() == 360
    metrics = summary["metrics"]
    assert metrics["test/acc"] == pytest.approx(np.trace(counts) / 360, rel=1e-6)
    assert metrics["test/balanced_acc"] == pytest.approx((counts.diagonal() / counts.sum(1)).mean(), rel=1e-6)
    assert metrics["test/nll"] == pytest.approx(metrics["test/loss"], rel=1e-6)


def test_the_temperature_of_a_run_is_that_of_all_its_validation_images(finished: Callable[..., Path]) -> None:
    folder = finished("regularizer=gvr")
    loaded, told = load_network(folder / "checkpoints" / "last.ckpt"), json.loads((folder / "summary.json").read_text())
    held_out = build_data(OmegaConf.load(folder / "config.yaml")).val_index
    digits = Digits()().train
    assert len(held_out) == 72
    with torch.no_grad():
        logits = loaded.network((digits.images[held_out].float() / 255 - loaded.mean) / loaded.std)
    expected = fit_temperature(logits, digits.targets[held_out])
    assert told["metrics"]["temperature"] == pytest.approx(expected, rel=1e-5)
    fewer = fit_temperature(logits[1:], digits.targets[held_out][1:])
    assert fewer != pytest.approx(expected, rel=1e-4), "one image less is seen"


def test_without_a_validation_part_it_is_said_that_there_is_no_temperature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tiny_run(tmp_path, "data.val_fraction=0", "epochs=1")
    assert not {"temperature", "test/nll_scaled", "test/ece_scaled"} & summary["metrics"].keys()
    assert "there is no validation part to fit a temperature on" in capsys.readouterr().err
