"""Draws docs/pages/verdict.svg from report/runs.csv: python experiments/gvr_cifar10_small/figure.py."""

import csv
from collections.abc import Iterator
from pathlib import Path

from gvr_lightning.report.statistics import Sample, sample

HERE = Path(__file__).parent
PICTURE = HERE.parents[1] / "docs" / "pages" / "verdict.svg"
METHODS = {  # the figure's rows: their configuration with right labels, and with wrong ones
    "plain SGD": ("none, lr=0.02, epochs=20", "none, lr=0.01, epochs=20"),
    "two views": ("two_view, lr=0.0125, epochs=20", "two_view, lr=0.0125, epochs=20"),
    "two views + GVR": ("gvr, alpha=0.1, lr=0.0125, epochs=20", "gvr, alpha=1, lr=0.0125, epochs=20"),
    "GVR as published": (
        "gvr_published, alpha=0.001, lr=0.0125, epochs=20",
        "gvr_published, alpha=0.01, lr=0.0125, epochs=20",
    ),
    "plain SGD, twice as long": ("none, lr=0.02, epochs=40", "none, lr=0.01, epochs=40"),
}
PANELS = (("label_noise=none", "right labels", 47), ("label_noise=symmetric", "40% of the labels wrong", 36))
LEFT, GAP, POINT, TOP, ROW = 178, 316, 32, 78, 40  # pixels: of a panel, a percentage point, a row
POINTS = 8  # of a panel
HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 776 320" width="776" height="320" role="img" aria-labelledby="t">
  <title id="t">Test accuracy of SGD, two views, and two views with GVR, five seeds each</title>
  <style>
    .card { fill: #ffffff; stroke: #d0d7de; }
    .grid { stroke: #d8dee4; }
    .bar { stroke-width: 3; }
    .seed { opacity: 0.45; }
    .plain { fill: #57606a; stroke: #57606a; }
    .views { fill: #2f6db5; stroke: #2f6db5; }
    .gvr { fill: #b7541f; stroke: #b7541f; }
    text { font-family: system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; font-size: 13px; fill: #1f2328; }
    .head { font-size: 14px; font-weight: 600; }
    .small { font-size: 12px; fill: #57606a; }
    @media (prefers-color-scheme: dark) {
      .card { fill: #0d1117; stroke: #30363d; }
      .grid { stroke: #30363d; }
      .plain { fill: #9da7b3; stroke: #9da7b3; }
      .views { fill: #6aa5e8; stroke: #6aa5e8; }
      .gvr { fill: #f0884d; stroke: #f0884d; }
      text { fill: #e6edf3; }
      .small { fill: #9da7b3; }
    }
  </style>
  <rect class="card" x="0.5" y="0.5" width="775" height="319" rx="8"/>
  <text class="head" x="16" y="27">Test accuracy on 2,000 real images (%): mean, 95% interval, five seeds</text>"""


def accuracies() -> dict[tuple[str, str], list[float]]:
    """Test accuracy of each run in percent, by setting and configuration."""
    found: dict[tuple[str, str], list[float]] = {}
    with (HERE / "report" / "runs.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["setting"], row["configuration"]), []).append(100 * float(row["test/acc"]))
    return found


def figure() -> str:
    """The figure, as SVG that has colours for a light and for a dark page."""
    runs, lines = accuracies(), [HEAD]
    for i, name in enumerate(METHODS):
        lines.append(f'  <text x="{LEFT - 12}" y="{TOP + i * ROW + 14}" text-anchor="end">{name}</text>')
    for number, (setting, title, first) in enumerate(PANELS):
        left = LEFT + number * GAP
        lines.append(f'  <text class="small" x="{left}" y="{TOP - 22}">{title}</text>')
        for point in range(0, POINTS + 1, 2):
            x, bottom = left + point * POINT, TOP + len(METHODS) * ROW
            lines.append(f'  <line class="grid" x1="{x}" x2="{x}" y1="{TOP - 12}" y2="{bottom}"/>')
            lines.append(f'  <text class="small" x="{x}" y="{bottom + 18}" text-anchor="middle">{first + point}</text>')
        for i, (name, configurations) in enumerate(METHODS.items()):
            values = runs[setting, configurations[number]]
            lines += _row(_kind(name), sample(values), values, left - first * POINT, TOP + i * ROW + 10)
    return "\n".join([*lines, "</svg>\n"])


def _row(kind: str, found: Sample, values: list[float], zero: float, y: float) -> Iterator[str]:
    assert found.low is not None and found.high is not None
    low, mean, high = (round(zero + POINT * value, 1) for value in (found.low, found.mean, found.high))
    yield f'  <line class="bar {kind}" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
    yield f'  <circle class="{kind}" cx="{mean}" cy="{y}" r="5"/>'
    yield f'  <text class="small" x="{high + 6}" y="{y + 4}">{found.mean:.1f}</text>'
    for value in values:
        yield f'  <circle class="seed {kind}" cx="{zero + POINT * value:.1f}" cy="{y + 13}" r="2.5"/>'


def _kind(name: str) -> str:
    return "gvr" if "GVR" in name else "views" if "views" in name else "plain"


if __name__ == "__main__":
    PICTURE.write_text(figure(), encoding="utf-8")
