"""Which figures a setting gets."""

from collections.abc import Sequence
from pathlib import Path

from gvr_lightning.report.curves import X_AXES, Band, bands
from gvr_lightning.report.dots import draw_differences, draw_final
from gvr_lightning.report.groups import Group, Setting
from gvr_lightning.report.lines import draw_lines
from gvr_lightning.report.metrics import Metric
from gvr_lightning.report.published import ACCURACY, SCORE, Published
from gvr_lightning.report.style import Figure, Look
from gvr_lightning.report.tables import ComparedGroup

PROGRESS = {"classification": ("val/acc", "test/acc"), "ddpm": ("val/loss", "test/loss")}  # the first that was logged
BY_EPOCH = (
    "is/mean",
    "fid",
    "train/penalty",
    "train/view_agreement",
    "train/acc_clean",
    "train/acc_noisy",
    "train/acc_noisy_true",
)
ALWAYS_ZERO = "train/penalty"  # where there is none: not drawn


def draw_setting(
    task: str,
    metric: Metric,
    setting: Setting,
    rows: Sequence[ComparedGroup],
    styles: dict[str, Look],
    published: Sequence[Published],
    folder: Path,
    prefix: str,
) -> list[Figure]:
    """All figures of a setting that there are values for, as PNG in ``folder``."""
    found = [draw_final(rows, metric, styles, folder / f"{prefix}_final.png")]
    differences = draw_differences(rows, metric, styles, folder / f"{prefix}_differences.png")
    found += [differences] if differences else []
    progress = _logged(setting.groups, PROGRESS.get(task, (metric.name,)))
    for x in X_AXES if progress else ():
        beside = [
            p for p in published if x == "epoch" and p.metric == ACCURACY == f"test/{progress.rpartition('/')[2]}"
        ]
        curves = bands(setting.groups, x, progress)
        if curves:
            file = folder / f"{prefix}_{_slug(progress)}_by_{_slug(x)}.png"
            found.append(draw_lines(curves, x, Metric(progress), styles, file, beside))
    for name in BY_EPOCH:
        beside = [p for p in published if p.metric == name == SCORE]
        curves = [band for band in bands(setting.groups, "epoch", name) if _worth_drawing(band, name, bool(beside))]
        if curves:
            file = folder / f"{prefix}_{_slug(name)}_by_epoch.png"
            found.append(draw_lines(curves, "epoch", Metric(name), styles, file, beside))
    return found


def _logged(groups: Sequence[Group], names: Sequence[str]) -> str:
    """The first of some columns that any run logged, "" for none."""
    rows = [row for group in groups for run in group.runs.values() for row in run.rows]
    return next((name for name in names if any(name in row for row in rows)), "")


def _worth_drawing(band: Band, name: str, published: bool) -> bool:
    moves = len(band.x) > 1 or published
    return moves and not (name == ALWAYS_ZERO and not band.mean.any())


def _slug(name: str) -> str:
    return name.rpartition("/")[2] if name.startswith("train/") else name.replace("/", "_")
