"""Draws differences.png from the committed runs: python experiments/gvr_noise/differences.py."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from gvr_lightning.files import read_json
from gvr_lightning.report.statistics import Paired, paired, sample

HERE = Path(__file__).parent
RIVAL = {"noise": "gce", "decay": "gce", "clean": "consistency"}
LABELS = {
    "rival": "the rival: GCE; consistency",
    "gvr_label_free": "gvr_label_free",
    "gvr_normalised": "gvr_normalised",
    "two_view": "two views, no penalty",
    "gvr": "gvr",
    "gvr_one_view": "gvr_one_view",
    "feature_norm": "feature norm, the control",
}


def figures(study: str, arm: str, metric: str) -> dict[int, float]:
    """A metric of an arm's runs in percent, by seed."""
    found = (HERE / "runs" / study / "confirmation").glob(
        f"seed_*/{RIVAL[study] if arm == 'rival' else arm}/summary.json"
    )
    return {
        int(path.parents[1].name.partition("_")[2]): 100 * float(read_json(path)["metrics"][metric]) for path in found
    }


def difference(study: str, arm: str) -> tuple[Paired, list[float]]:
    """Test accuracy less SGD's of the same seed: mean and interval, and each seed's."""
    own, plain = figures(study, arm, "test/acc"), figures(study, "sgd", "test/acc")
    found = paired(own, plain)
    assert found is not None
    return found, [own[seed] - plain[seed] for seed in found.seeds]


def colour(arm: str) -> str:
    """Orange for GVR's forms, blue for what they are compared with."""
    return "#b7541f" if arm.startswith("gvr") else "#2f6db5"


def draw_differences(panel: Axes, study: str) -> None:
    """One row an arm that the study has: mean, interval, and below it each seed's difference."""
    for row, arm in enumerate(reversed(LABELS)):
        if not figures(study, arm, "test/acc"):
            continue
        found, each = difference(study, arm)
        assert found.low is not None and found.high is not None
        panel.hlines(row, found.low, found.high, color=colour(arm), linewidth=3)
        panel.plot(found.mean, row, "o", color=colour(arm), markersize=8)
        panel.plot(each, [row - 0.28] * len(each), "o", color=colour(arm), markersize=4, alpha=0.4, markeredgewidth=0)
    panel.axvline(0, color="black", linewidth=1)
    panel.set(xlabel="test accuracy less SGD's (points)")


def main() -> None:
    """Accuracy less SGD's with wrong and with right labels, and the share of wrong labels that was memorised."""
    figure, (noise, decay, clean, memory) = plt.subplots(
        1, 4, figsize=(15, 3.8), sharey=True, width_ratios=(3, 2.6, 2.4, 1.4), layout="constrained"
    )
    draw_differences(noise, "noise")
    draw_differences(decay, "decay")
    draw_differences(clean, "clean")
    for row, arm in enumerate(reversed(LABELS)):
        memory.barh(
            row, sample(list(figures("noise", arm, "train/acc_noisy").values())).mean, color=colour(arm), height=0.5
        )
    plain = sample(list(figures("noise", "sgd", "train/acc_noisy").values())).mean
    memory.axvline(plain, color="black", linewidth=1)
    memory.annotate("SGD", (plain, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom")
    noise.set(title="40% of the labels wrong", yticks=range(len(LABELS)), yticklabels=list(reversed(LABELS.values())))
    decay.set(title="40% wrong, every weight decay tuned")
    clean.set(title="right labels")
    memory.set(xlabel="memorised in the first (%)", xlim=(0, 100))
    for panel in (noise, decay, clean, memory):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", color="#dddddd")
        panel.set_axisbelow(True)
    figure.savefig(HERE / "differences.png", dpi=110)


if __name__ == "__main__":
    main()
