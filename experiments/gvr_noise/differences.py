"""Draws differences.png from the committed runs: python experiments/gvr_noise/differences.py."""

from pathlib import Path

import matplotlib.pyplot as plt

from gvr_lightning.files import read_json
from gvr_lightning.report.statistics import Paired, paired, sample

HERE = Path(__file__).parent
RUNS = HERE / "runs" / "noise" / "confirmation"
LABELS = {
    "gce": "GCE, the rival",
    "gvr_label_free": "gvr_label_free",
    "gvr_normalised": "gvr_normalised",
    "two_view": "two views, no penalty",
    "gvr": "gvr",
    "gvr_one_view": "gvr_one_view",
    "feature_norm": "feature norm, the control",
}
COLOURS = {"gvr": "#b7541f", "oth": "#2f6db5"}


def figures(arm: str, metric: str) -> dict[int, float]:
    """A metric of an arm's runs in percent, by seed."""
    rows = {int(path.parents[1].name.partition("_")[2]): path for path in RUNS.glob(f"seed_*/{arm}/summary.json")}
    return {seed: 100 * float(read_json(path)["metrics"][metric]) for seed, path in rows.items()}


def difference(arm: str) -> tuple[Paired, list[float]]:
    """Test accuracy less SGD's of the same seed: mean and interval, and each seed's."""
    own, plain = figures(arm, "test/acc"), figures("sgd", "test/acc")
    found = paired(own, plain)
    assert found is not None
    return found, [own[seed] - plain[seed] for seed in found.seeds]


def main() -> None:
    """Two panels: accuracy less SGD's, and the share of wrong labels that was memorised."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, width_ratios=(2, 1), layout="constrained")
    for row, (arm, label) in enumerate(reversed(LABELS.items())):
        colour = COLOURS["gvr" if label.startswith("gvr") else "oth"]
        found, each = difference(arm)
        left.plot([found.low, found.high], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
        left.plot(found.mean, row, "o", color=colour, markersize=8)
        left.plot(each, [row - 0.28] * len(each), "o", color=colour, markersize=4, alpha=0.4, markeredgewidth=0)
        right.barh(row, sample(list(figures(arm, "train/acc_noisy").values())).mean, color=colour, height=0.5)
    plain = sample(list(figures("sgd", "train/acc_noisy").values())).mean
    left.axvline(0, color="black", linewidth=1)
    right.axvline(plain, color="black", linewidth=1)
    right.annotate("SGD", (plain, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom")
    left.set(
        yticks=range(len(LABELS)),
        yticklabels=list(reversed(LABELS.values())),
        xlabel="test accuracy less SGD's (points), 95% interval",
    )
    right.set(xlabel="wrong labels memorised (%)", xlim=(0, 100))
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", color="#dddddd")
        panel.set_axisbelow(True)
    figure.savefig(HERE / "differences.png", dpi=110)


if __name__ == "__main__":
    main()
