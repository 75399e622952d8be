"""What a test of classes tells beyond accuracy and loss: who is taken for whom, and what probabilities are worth."""

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassCalibrationError

from gvr_lightning.distributed.batch import gather_rows, rank_and_size
from gvr_lightning.distributed.place import total
from gvr_lightning.metrics.calibration import LEAST, MOST, fit_temperature


class Evaluation(nn.Module):
    """The confusion matrix, and the negative log-likelihood and calibration error with and without a temperature.

    Counts and sums are exact: whole numbers and float64 on the CPU, over the images of all processes, each once.

    Args:
        num_classes: C.
        bins: of the calibration error.
    """

    def __init__(self, num_classes: int, bins: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.scaled_ece = MulticlassCalibrationError(num_classes, bins, validate_args=False)
        self.confusion: Tensor | None = None  # (C, C): images by true and by predicted class, once a test is through
        self.start(None)

    def start(self, temperature: float | None) -> None:
        """Forget what was; ``temperature`` None leaves the scaled figures out."""
        self.temperature = temperature
        self._counts = torch.zeros(self.num_classes**2, dtype=torch.int64)
        self._nll, self._scaled_nll = torch.zeros(2, dtype=torch.float64).unbind()
        self.scaled_ece.reset()

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add the images of a batch."""
        z, y = logits.detach().cpu().double(), targets.cpu()
        predicted = logits.softmax(1).argmax(1).cpu()  # as the accuracy has it
        self._counts += torch.bincount(y * self.num_classes + predicted, minlength=len(self._counts))
        self._nll = self._nll + F.cross_entropy(z, y, reduction="sum")
        if self.temperature is not None:
            self._scaled_nll = self._scaled_nll + F.cross_entropy(z / self.temperature, y, reduction="sum")
            self.scaled_ece.update((logits / self.temperature).softmax(1), targets)

    def compute(self) -> dict[str, float]:
        """The figures, by their names in metrics.csv; every process has to ask."""
        self.confusion = counts = total(self._counts).view(self.num_classes, self.num_classes)
        nll, scaled_nll = (total(torch.stack([self._nll, self._scaled_nll])) / counts.sum()).tolist()
        figures = {"test/balanced_acc": balanced_accuracy(counts), "test/nll": nll}
        if self.temperature is not None:
            scaled = {"test/nll_scaled": scaled_nll, "test/ece_scaled": float(self.scaled_ece.compute())}
            figures |= scaled | {"temperature": self.temperature}
        return figures


def class_accuracies(confusion: Tensor) -> Tensor:
    """Of each class the share of its images that are predicted rightly, float64 (C,); NaN where it has none."""
    return confusion.diagonal().double() / confusion.sum(1)


def balanced_accuracy(confusion: Tensor) -> float:
    """The mean of the classes' accuracies, over those that have images."""
    return float(class_accuracies(confusion).nanmean())


def held_out_temperature(task: Any) -> float | None:
    """The temperature of the weights that are tested, fitted on the validation images; None, which is said, for none.

    Args:
        task: with ``trainer`` and ``evaluated(batch)``, the logits; every process has to ask.
    """
    data = getattr(task.trainer, "datamodule", None)
    if data is None or not len(data.val_index):
        _say("there is no validation part to fit a temperature on")
        return None
    with task.trainer.precision_plugin.test_step_context():
        parts = [
            (task.evaluated(batch), batch.target, batch.samples.to(task.device)) for batch in data.held_out(task.device)
        ]
    logits, targets, samples = (torch.cat(part) for part in zip(*parts, strict=True))
    if rank_and_size()[1] > 1:
        logits, targets, samples = map(gather_rows, (logits, targets, samples))
    order = samples.argsort()  # one for any number of processes
    temperature = fit_temperature(logits[order], targets[order])
    if temperature is None:
        _say(f"the loss on the validation images has no minimum at temperatures from {LEAST:g} to {MOST:g}")
    return temperature


def _say(reason: str) -> None:
    if rank_and_size()[0] == 0:
        print(f"{reason}: test/nll_scaled and test/ece_scaled are left out", file=sys.stderr)
