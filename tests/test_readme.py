"""What the README shows runs as it stands there; its commands are checked in test_docs.py."""

import csv
import statistics
from pathlib import Path
from runpy import run_path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from prose import blocks, links, run_python

import gvr_lightning

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "experiments" / "gvr_cifar10_small"
README = (ROOT / "README.md").read_text()


def test_the_readme_s_python_runs(tmp_path: Path) -> None:
    assert len(blocks(README, "python")) == 1
    loss = run_python(README, tmp_path)["loss"]
    assert loss.penalty > 0 and len(loss.losses) == 2  # type: ignore[attr-defined]


def test_the_three_lines_at_its_top_run() -> None:
    ((_, code),) = blocks(README, "py")
    x, y = torch.randn(2, 4, 5), torch.tensor([0, 1, 2, 0])
    names: dict[str, Any] = {"torch": torch, "F": F, "Trainer": Trainer, "y": y, "view1": x[0], "view2": x[1]}
    names |= {name: getattr(gvr_lightning, name) for name in gvr_lightning.__all__} | {"model": torch.nn.Linear(5, 3)}
    exec(code, names)
    one, other = (F.cross_entropy(names["model"](view), y).item() for view in x)
    assert len(code.splitlines()) == 3 and names["loss"].item() >= one + other
    assert isinstance(names["optimizer"], gvr_lightning.AGR) and names["trainer"].callbacks[0].alpha == 0.01


def test_its_figures_are_the_study_s() -> None:
    study: Any = run_path(str(STUDY / "figure.py"))
    assert study["figure"]() == study["PICTURE"].read_text(), f"run python {STUDY / 'figure.py'}"
    runs = study["accuracies"]()
    rows = [row for row in (line.split(" | ") for line in README.splitlines()) if "0,000" in row[-1]]
    assert len(rows) == len(study["METHODS"]) == 5
    for row, (name, configurations) in zip(rows, study["METHODS"].items(), strict=True):
        assert row[0].startswith(f"| {name}") and row[3].startswith("40,000" if name == "plain SGD" else "80,000")
        for cell, (setting, _, _), configuration in zip(row[1:3], study["PANELS"], configurations, strict=True):
            values = runs[setting, configuration]
            mean, sd = statistics.mean(values), statistics.stdev(values)
            half = 2.7764451 * sd / 5**0.5  # Student's t of 4 degrees of freedom
            assert len(values) == 5
            assert cell.replace("*", "") == f"{mean:.1f} ({mean - half:.1f}, {mean + half:.1f})", name


def test_the_study_s_calibration_is_that_of_its_runs() -> None:
    with (STUDY / "report" / "runs.csv").open(newline="") as file:
        runs = [row for row in csv.DictReader(file) if row["averaged"] == "True"]
    page = (STUDY / "README.md").read_text()
    table = page[page.index("| | clean labels | 40% noise |") :]
    for name in ("gvr", "gvr_per_sample", "gvr_published", "consistency"):
        told = next(line for line in table.splitlines() if line.strip().startswith(f"| `{name}` |"))
        for cell, noise in zip(told.split(" | ")[2:], ("label_noise=none", "label_noise=symmetric"), strict=True):
            here = [row for row in runs if row["setting"] == noise]
            own = {row["seed"]: row for row in here if row["configuration"].startswith(f"{name},")}
            control = [row for row in here if row["configuration"].startswith("two_view")]
            found = [
                100 * (float(own[row["seed"]]["test/ece"]) - float(row["test/ece"]))
                for row in control
                if row["optimizer.lr"] == own["0"]["optimizer.lr"]
            ]
            mean, half = statistics.mean(found), 2.7764451 * statistics.stdev(found) / 5**0.5
            assert len(found) == 5
            assert cell.strip(" |") == f"{mean:+.2f} ({mean - half:+.2f}, {mean + half:+.2f})", name


def test_every_regularizer_is_in_the_table() -> None:
    for path in (ROOT / "conf" / "regularizer").glob("*.yaml"):
        assert f"`{path.stem}`" in README, path.stem


def test_the_links_lead_somewhere() -> None:
    assert links(README)
    for target in links(README):
        assert (ROOT / target).exists(), target
