"""curves.png: a run at a glance."""

from pathlib import Path
from typing import Any

from gvr_lightning.recording.csv import read_metrics

PANELS = {
    "loss": {"train/loss": "train, mean of the views", "val/loss": "validation"},
    "accuracy": {"train/acc": "train, augmented", "val/acc": "validation", "test/acc": "test, for this picture only"},
    "FID": {"fid": "Fréchet inception distance"},
    "inception score": {"is/mean": "mean over the splits"},
    "penalty": {"train/penalty": "penalty", "train/penalty_share": "share of the loss"},
}
SCORES = ("FID", "inception score")  # by epoch, if they were computed in more than one


def draw_curves(metrics: Path, picture: Path, title: str) -> None:
    """Loss, accuracy and penalty by epoch, from a metrics.csv to a PNG; a panel without figures is left out."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    rows = [row for row in read_metrics(metrics) if row.keys() & {"train/loss", "fid"}]
    panels = {name: _lines(rows, columns) for name, columns in PANELS.items()}
    panels = {name: lines for name, lines in panels.items() if any(any(y) for _, _, y in lines)}
    panels = {name: lines for name, lines in panels.items() if name not in SCORES or len(lines[0][1]) > 1}
    if not panels:
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.6), squeeze=False, layout="constrained")
    for axis, (name, lines) in zip(axes[0], panels.items(), strict=True):
        for label, x, y in lines:
            axis.plot(x, y, label=label, marker="o" if len(x) < 3 else None)
        axis.set(xlabel="epoch", title=name)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    if min((value for _, _, y in panels.get("penalty", []) for value in y), default=0.0) > 0:
        axes[0][-1].set_yscale("log")  # not where it is negative, as label smoothing's may be
    figure.suptitle(title, parse_math=False)  # a $ is a $
    try:
        figure.savefig(picture, dpi=110)
    finally:
        plt.close(figure)


def _lines(rows: list[dict[str, Any]], columns: dict[str, str]) -> list[tuple[str, list[int], list[float]]]:
    lines = []
    for column, label in columns.items():
        points = [(int(row["epoch"]) + 1, float(row[column])) for row in rows if column in row]
        if points:
            x, y = zip(*points, strict=True)
            lines.append((label, list(x), list(y)))
    return lines
