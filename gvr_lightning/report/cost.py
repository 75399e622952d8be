"""What a run took: seconds, images, gradients, updates; and which of these two groups have in equal number."""

from collections.abc import Mapping
from statistics import fmean

from gvr_lightning.report.groups import Group
from gvr_lightning.report.runs import Run

GRADIENTS = "gradient_evaluations"
COSTS = {
    "seconds": "seconds of training",
    "images": "images seen",
    GRADIENTS: "gradient evaluations",
    "steps": "updates",
}
EQUAL = 0.01  # the share by which equal numbers may differ: a last batch, a run that went on elsewhere

Costs = Mapping[str, float | None]  # by the names above; None: not recorded


def cost_of(run: Run, name: str) -> float | None:
    """One of a run's `COSTS`; None if it is not recorded."""
    if name == "images":
        logged = [row["train/images"] for row in run.rows if "train/images" in row]
        if logged:
            return logged[-1]
    spent: float | None = run.summary["train"].get(name)
    return spent


def costs(group: Group) -> dict[str, float | None]:
    """Means over the runs that recorded them."""
    found = {name: [cost_of(run, name) for run in group.runs.values()] for name in COSTS}
    known = {name: [value for value in values if value is not None] for name, values in found.items()}
    return {name: fmean(values) if values else None for name, values in known.items()}


def ratio(value: float | None, base: float | None) -> float | None:
    """How many times the other's; None where that has no sense."""
    return value / base if value is not None and base else None


def are_equal(one: float | None, other: float | None) -> bool:
    """Whether two numbers are there and as good as equal."""
    found = ratio(one, other)
    return found is not None and abs(found - 1) <= EQUAL
