"""Image classification."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from gvr_lightning.data.batch import Batch
from gvr_lightning.passes import forward
from gvr_lightning.penalty import RegularizedLoss
from gvr_lightning.tasks.base import BaseTask


class ClassificationTask(BaseTask):
    """Cross-entropy; top-1 and top-5 accuracy, loss and calibration error on validation and test.

    Args:
        label_smoothing: of the training loss; validation and test report the plain cross-entropy.
        calibration_bins: of the expected calibration error (15, as in Guo et al. 2017).
        **base: see :class:`BaseTask`.
    """

    kind, monitor, mode = "classification", "val/acc", "max"

    def __init__(self, *, label_smoothing: float = 0.0, calibration_bins: int = 15, **base: Any) -> None:
        super().__init__(**base)
        num_classes = self.num_classes
        self.label_smoothing = label_smoothing
        metrics: dict[str, Metric | MetricCollection] = {
            "acc": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
            "top5": MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro", validate_args=False),
            "ece": MulticlassCalibrationError(num_classes, calibration_bins, validate_args=False),
        }
        self.val_metrics = MetricCollection(metrics, compute_groups=False)
        self.test_metrics = self.val_metrics.clone()
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()

    def criterion(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, averaged over the batch."""
        return F.cross_entropy(output, target, label_smoothing=self.label_smoothing)

    def measure(self, batch: Batch, loss: RegularizedLoss) -> dict[str, Tensor]:
        """Accuracy on all views, and how often the views of a sample get one label."""
        labels = [logits.argmax(1) for logits in loss.logits]
        right = [_share(a == b, w) for a, b, w in zip(labels, loss.targets, loss.weights, strict=True)]
        values = {"acc": torch.stack(right).mean()}
        if len(batch.views) > 1:
            agree = [_share(label == labels[0], loss.weights[0]) for label in labels[1:]]
            values["view_agreement"] = torch.stack(agree).mean()
        return values

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the validation metrics."""
        self._evaluate(batch, self.val_metrics, self.val_loss)

    def on_validation_epoch_end(self) -> None:
        """Validation metrics into this epoch's row."""
        self.row |= self._report("val", self.val_metrics, self.val_loss)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the test metrics."""
        self._evaluate(batch, self.test_metrics, self.test_loss)

    def on_test_epoch_end(self) -> None:
        """Test metrics to the loggers."""
        self._log(self._report("test", self.test_metrics, self.test_loss))

    def _evaluate(self, batch: Batch, metrics: MetricCollection, mean_loss: MeanMetric) -> None:
        logits = forward(self.model, self.as_input(batch.views[0])).float()
        metrics.update(logits.softmax(1), batch.target)
        mean_loss.update(F.cross_entropy(logits, batch.target, reduction="none"))

    def _report(self, part: str, metrics: MetricCollection, mean_loss: MeanMetric) -> dict[str, float]:
        values = {**metrics.compute(), "loss": mean_loss.compute()}
        metrics.reset()
        mean_loss.reset()
        row = {f"{part}/{name}": float(value) for name, value in values.items()}
        self.log_dict(row, logger=False)
        return row


def _share(true: Tensor, weight: float) -> Tensor:
    """How many of these rows, weighted; zero where there are none."""
    return true.float().sum() * (weight / max(1, len(true)))
