"""How far a test set of so many images can tell accuracies apart: the sampling error that all runs on it share."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from gvr_lightning.report.groups import Group
from gvr_lightning.report.metrics import Metric
from gvr_lightning.report.runs import Run


def tested_images(runs: Iterable[Run]) -> int | None:
    """How many test images the runs had, None if that is not recorded, or not the same of all."""
    told = [(run.summary.get("data_size") or {}).get("test") for run in runs]
    number = told[0] if told and all(other == told[0] for other in told) else None
    return number if isinstance(number, int) and number > 0 else None


def sampling_error(accuracy: float, images: int | None) -> float | None:
    """The binomial standard error of a share of images: sqrt(p (1 - p) / N); None where N or p makes no sense."""
    return math.sqrt(accuracy * (1 - accuracy) / images) if images and 0 <= accuracy <= 1 else None


def sampling_note(groups: Sequence[Group], metric: Metric) -> str:
    """What a reader should know of it; "" for what is no share of test images."""
    if not metric.of_test_images:
        return ""
    number = tested_images(run for group in groups for run in group.runs.values())
    errors = [sampling_error(mean, number) for mean in (fmean(group.values(metric.name).values()) for group in groups)]
    known = [error for error in errors if error is not None]
    if number is None or len(known) < len(errors):
        return "The test set's own sampling error is not shown: not all of these runs recorded how many images it has."
    low, high = metric.text(min(known)), metric.text(max(known))
    size = low if low == high else f"{low} to {high}"
    return (
        f"The test set's own sampling error, sqrt(p (1 - p) / N) with N = {number:,} images: {size} points. So far may"
        " an accuracy be from that on other images. All runs share these, so it is in no interval: those are of seeds."
    )
