"""Image classification."""

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from gvr_lightning.data.batch import Batch
from gvr_lightning.methods.passes import forward
from gvr_lightning.methods.penalty import RegularizedLoss
from gvr_lightning.optim.ema import MovingAverage, estimate_statistics, moving_norms
from gvr_lightning.tasks.base import BaseTask
from gvr_lightning.tasks.corrupted import corrupted_figures
from gvr_lightning.tasks.evaluation import Evaluation, held_out_temperature
from gvr_lightning.tasks.label_figures import label_figures

STATISTICS = 100  # batches, at most, for those of an averaged network


class ClassificationTask(BaseTask):
    """Cross-entropy; top-1 and top-5 accuracy, loss and calibration error on validation and test.

    A test also gives the confusion matrix, and the likelihood and the calibration error with a temperature that is
    fitted on the validation images.

    Args:
        label_smoothing: of the training loss; validation and test report the plain cross-entropy.
        calibration_bins: of the expected calibration error (15, as in Guo et al. 2017).
        ema_decay: of the moving average of the weights, which then is what is measured; the weights themselves are in
            ``raw_acc`` and ``raw_loss``. 0 for none.
        ema_warmup: a shorter memory in the first updates.
        **base: see :class:`BaseTask`.
    """

    kind, monitor, mode = "classification", "val/acc", "max"
    needs = "classes"

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        calibration_bins: int = 15,
        ema_decay: float = 0.0,
        ema_warmup: bool = True,
        **base: Any,
    ) -> None:
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
        # a loss that is not a number is told, not left out of the mean
        self.val_loss, self.test_loss = (MeanMetric(nan_strategy="disable") for _ in range(2))
        self.evaluation = Evaluation(num_classes, calibration_bins)
        self.ema = MovingAverage(self.model, ema_decay, ema_warmup) if ema_decay else None
        self._norms = moving_norms(self.model, self.frozen) if ema_decay else []
        self._estimated = False  # whether this epoch's statistics of the average are there
        self.raw: Any = (
            nn.ModuleDict({"acc": metrics["acc"].clone(), "loss": self.val_loss.clone()}) if ema_decay else {}
        )

    @property
    def validated(self) -> dict[str, str]:
        """The loss, and what is measured beside it."""
        modes = {True: "max", False: "min"}
        best = {name: modes[m.higher_is_better] for name, m in self.val_metrics.items() if m.higher_is_better in modes}
        raw = {"raw_acc": "max", "raw_loss": "min"} if self.ema is not None else {}
        return {f"val/{name}": mode for name, mode in {"loss": "min", **best, **raw}.items()}

    def criterion(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, averaged over the batch; of labels, or of shares of classes (B, C)."""
        target = target.to(output.dtype) if target.is_floating_point() else target
        return F.cross_entropy(output, target, label_smoothing=self.label_smoothing)

    def measure(self, batch: Batch, loss: RegularizedLoss) -> dict[str, Tensor]:
        """Accuracy on all views, how often the views of a sample get one label, and what label noise makes of it.

        Of mixed samples, the label with the larger share counts.
        """
        loss = replace(loss, targets=[y.argmax(1) if y.is_floating_point() else y for y in loss.targets])
        return label_figures(loss, batch.true, agreement=1 < len(loss.logits) == len(batch.views))

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """Accuracy on the rightly and on the wrongly labelled samples apart, where there is label noise.

        ``acc_clean``: on those whose label is right; ``acc_noisy``: against the wrong label, so what was memorised;
        ``acc_noisy_true``: of the same samples, against the true one.
        """
        clean, noisy = means.pop("clean", 0.0), means.pop("noisy", 0.0)
        for name, whole in (("clean", clean), ("noisy", noisy), ("noisy_true", noisy)):
            right = means.pop(f"right_{name}", 0.0)
            if whole:
                means[f"acc_{name}"] = right / whole
        return super().derived(means)

    def on_validation_start(self) -> None:
        """The average gets statistics of its own, before it is measured."""
        self._estimate()

    def on_train_epoch_end(self) -> None:
        """At the latest here, before the epoch's end is saved."""
        if not self._estimated:
            self._estimate()
        self._estimated = False
        super().on_train_epoch_end()

    def _estimate(self) -> None:
        """BatchNorm's running statistics of the averaged network, on training images without augmentation."""
        if self.ema is not None and self._norms:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            images = map(self.as_input, data.as_they_are(STATISTICS))
            estimate_statistics(self.ema.module, self._norms, images)
        self._estimated = True

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the validation metrics."""
        self._evaluate(batch, self.val_metrics, self.val_loss)

    def on_validation_epoch_end(self) -> None:
        """Validation metrics into this epoch's row."""
        self.epoch_row.add(self._report("val", self.val_metrics, self.val_loss))

    def on_test_start(self) -> None:
        """The temperature, before the test images are looked at."""
        self.evaluation.start(held_out_temperature(self))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the test metrics."""
        self.evaluation.update(self._evaluate(batch, self.test_metrics, self.test_loss), batch.target)

    def on_test_epoch_end(self) -> None:
        """Test metrics to the loggers."""
        row = self._report("test", self.test_metrics, self.test_loss)
        further = self.evaluation.compute() | corrupted_figures(self)
        self.log_dict(further, logger=False)
        self._log(row | further)

    @property
    def confusion(self) -> Tensor | None:
        """As :attr:`RecordingTask.confusion`."""
        return self.evaluation.confusion

    def evaluated(self, batch: Batch) -> Tensor:
        """The logits of validation or test images, of which there is one view, by the weights that count."""
        counts = self.model if self.ema is None else self.ema.module
        return forward(counts, self.as_input(batch.views[0])).float()

    def _evaluate(self, batch: Batch, metrics: MetricCollection, mean_loss: MeanMetric) -> Tensor:
        if self.ema is not None:
            raw = forward(self.model, self.as_input(batch.views[0])).float()
            self.raw["acc"].update(raw.softmax(1), batch.target)
            self.raw["loss"].update(F.cross_entropy(raw, batch.target, reduction="none"))
        logits = self.evaluated(batch)
        metrics.update(logits.softmax(1), batch.target)
        mean_loss.update(F.cross_entropy(logits, batch.target, reduction="none"))
        return logits

    def _report(self, part: str, metrics: MetricCollection, mean_loss: MeanMetric) -> dict[str, float]:
        values = {**metrics.compute(), "loss": mean_loss.compute()}
        values |= {f"raw_{name}": metric.compute() for name, metric in self.raw.items()}
        metrics.reset()
        mean_loss.reset()
        for raw in self.raw.values():
            raw.reset()
        row = {f"{part}/{name}": float(value) for name, value in values.items()}
        self.log_dict(row, logger=False)
        return row
