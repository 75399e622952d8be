"""Training losses of the runs, and their figures: python experiments/ddpm_cifar10_jpeg/losses.py NAME=FOLDER ..."""

import json
import sys
from pathlib import Path

from gvr_lightning.recording.csv import read_metrics

HERE = Path(__file__).parent
FIGURES = ("fid", "is/mean", "is/std", "test/loss", "val/loss", "train/seconds", "real/fid", "real/is/mean")
SMOOTH = 0.8  # of a running mean over the logged updates


def main() -> None:
    """Print a table; write losses.png beside this file."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
    print("| run | updates | " + " | ".join(FIGURES) + " |\n" + "|---" * (len(FIGURES) + 2) + "|")
    for name, folder in (argument.split("=", 1) for argument in sys.argv[1:]):
        summary = json.loads((Path(folder) / "summary.json").read_text())
        figures = " | ".join(f"{summary['metrics'][key]:.4g}" for key in FIGURES)
        print(f"| {name} | {summary['train']['steps']} | {figures} |")
        rows = [row for row in read_metrics(Path(folder) / "metrics.csv") if "step/loss" in row]
        smooth = float(rows[0]["step/loss"])
        losses = [smooth := SMOOTH * smooth + (1 - SMOOTH) * float(row["step/loss"]) for row in rows]
        axis.plot([int(row["step"]) for row in rows], losses, label=name)
    axis.set(xlabel="update", title="training loss, running mean", yscale="log")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(HERE / "losses.png", dpi=110)


if __name__ == "__main__":
    main()
