"""The table and the plot of the sweep: python experiments/agr_ddpm_digits/compare.py <sweep folder>..."""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

HERE = Path(__file__).parent
NAMES = ("ACProp", "RMSprop", "Adam", "AdamW", "Adan")
FIGURES = {"fid": "FID", "is/mean": "IS", "test/loss": "test loss"}

Runs = dict[tuple[str, bool], dict[int, dict[str, float]]]  # (optimizer, with AGR) -> seed -> figures


def main() -> None:
    """Print the table; write plot.png beside this file."""
    runs, real, seconds = read([Path(folder) for folder in sys.argv[1:]])
    print("| optimizer | AGR | n | " + " | ".join(FIGURES.values()) + " | FID with AGR less FID without, by seed |")
    print("|---" * (len(FIGURES) + 4) + "|")
    for optimizer in NAMES:
        for agr in (False, True):
            by_seed = runs[optimizer, agr]
            cells = [mean_sd([figures[key] for figures in by_seed.values()]) for key in FIGURES]
            pairs = {s: f["fid"] - runs[optimizer, False][s]["fid"] for s, f in by_seed.items()} if agr else {}
            differences = (
                f"{mean_sd([*pairs.values()])} ({', '.join(f'{d:+.2f}' for d in pairs.values())})" if agr else ""
            )
            print(f"| {optimizer} | {'yes' if agr else 'no'} | {len(by_seed)} | {' | '.join(cells)} | {differences} |")
    n, scores = real["real/num_images"], [real[f"real/{key}"] for key in ("fid", "is/mean")]
    print(f"\nreal held-out digits: FID {scores[0]:.3f}, IS {scores[1]:.2f} (n = {n})")
    hours, median = sum(seconds) / 3600, statistics.median(seconds)
    print(f"{hours:.2f} hours of training in {len(seconds)} runs, median {median:.0f} s")
    draw(runs, real)


def read(folders: list[Path]) -> tuple[Runs, dict[str, Any], list[float]]:
    """The figures of every finished run below the folders; an unfinished one is named on stderr."""
    runs: Runs = defaultdict(dict)
    real: dict[str, Any] = {}
    seconds = []
    for path in sorted(p for folder in folders for p in folder.glob("**/summary.json")):
        summary, config = json.loads(path.read_text()), _config(path.parent)
        if summary["status"] != "finished":
            print(f"{path.parent}: {summary['status']}", file=sys.stderr)
            continue
        optimizer = config["optimizer"]["_target_"].rpartition(".")[2]
        real = summary["metrics"]
        runs[optimizer, config["regularizer"]["wrap"] is not None][summary["seed"]] = real
        seconds.append(summary["train"]["seconds"])
    return runs, real, seconds


def _config(run: Path) -> Any:
    return OmegaConf.load(run / "config.yaml")


def mean_sd(values: list[float]) -> str:
    """Mean and standard deviation."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def draw(runs: Runs, real: dict[str, Any]) -> None:
    """FID and IS of every run, by optimizer; the real digits as a line."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, (key, label) in zip(axes, list(FIGURES.items())[:2], strict=True):
        for agr, colour, shift in ((False, "tab:blue", -0.12), (True, "tab:orange", 0.12)):
            points = [(i + shift, f[key]) for i, name in enumerate(NAMES) for f in runs[name, agr].values()]
            means = [statistics.mean(f[key] for f in runs[name, agr].values()) for name in NAMES]
            x, y = zip(*points, strict=True)
            axis.scatter(x, y, s=18, alpha=0.6, color=colour)
            axis.scatter([i + shift for i in range(len(NAMES))], means, marker="_", s=220, color=colour,
                         label="with AGR" if agr else "without")  # fmt: skip
        axis.axhline(real[f"real/{key}"], color="grey", linestyle="--", label="real, held out")
        axis.set_xticks(range(len(NAMES)), NAMES)
        axis.set(title=label + (" (lower is better)" if key == "fid" else " (higher is better)"))
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(HERE / "plot.png", dpi=110)


if __name__ == "__main__":
    main()
