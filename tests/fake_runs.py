"""Folders as runs leave them, without running anything."""

import copy
import csv
import json
import os
from pathlib import Path
from typing import Any

import yaml

from gvr_lightning.config.identity import config_hash

NO_PENALTY = {"_target_": "gvr_lightning.methods.penalty.NoPenalty"}
AGR = {"_target_": "gvr_lightning.methods.agr.AGR", "_partial_": True}
GVR = {"_target_": "gvr_lightning.methods.gvr.penalty.GradientVariance", "alpha": 0.01, "layers": "head"}
REGULARIZERS: dict[str, dict[str, Any]] = {
    "none": {"views": 1, "penalty": NO_PENALTY, "wrap": None},
    "two_view": {"views": 2, "penalty": NO_PENALTY, "wrap": None},
    "gvr": {"views": 2, "penalty": GVR, "wrap": None},
    "agr": {"views": 1, "penalty": NO_PENALTY, "wrap": AGR},
}
SYMMETRIC = {"_target_": "gvr_lightning.data.label_noise.Symmetric", "rate": 0.4, "seed": 0}


def fake_config(
    regularizer: str = "none", seed: int = 0, keys: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """A resolved configuration; ``changes`` are of its top-level keys, which feed others as in conf/, ``keys`` of any.

    Args:
        regularizer: one of `REGULARIZERS`.
        seed: of the run.
        keys: values by dotted path, set last.
        changes: values of top-level keys.
    """
    top = {"name": f"digits-{regularizer}", "seed": seed, "epochs": 3, "batch_size": 128, "lr": 0.02, "alpha": 0.01}
    config: dict[str, Any] = {**top, "resume": None, "label_noise": None, **copy.deepcopy(changes)}
    config["regularizer"] = json.loads(json.dumps(REGULARIZERS[regularizer]))
    if "alpha" in config["regularizer"]["penalty"]:
        config["regularizer"]["penalty"]["alpha"] = config["alpha"]
    config |= {"optimizer": {"_target_": "torch.optim.SGD", "lr": config["lr"], "momentum": 0.9}}
    config |= {"data": {"source": {"_target_": "gvr_lightning.data.digits.Digits"}, "val_fraction": 0.1}}
    config |= {"trainer": {"max_epochs": config["epochs"], "devices": 1}, "logger": {"_target_": "csv"}}
    for path, value in (keys or {}).items():
        put(config, path, value)
    return config


def put(config: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path."""
    *nodes, last = path.split(".")
    for name in nodes:
        config = config.setdefault(name, {})
    config[last] = value


def fake_run(
    folder: Path,
    regularizer: str = "none",
    seed: int = 0,
    metrics: dict[str, float] | None = None,
    task: str = "classification",
    hydra: bool = True,
    written: float | None = None,
    rows: list[dict[str, Any]] | None = None,
    summary: dict[str, Any] | None = None,
    overrides: tuple[str, ...] = (),
    keys: dict[str, Any] | None = None,
    chosen: dict[str, str] | None = None,
    **changes: Any,
) -> Path:
    """A finished run; ``written`` is when its summary was, in seconds, ``summary`` changes that.

    ``keys`` are values by dotted path, ``chosen`` the options of further config groups, ``changes`` top-level keys.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = fake_config(regularizer, seed, keys, **changes)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    views = config["regularizer"]["views"]
    figures = {"test/acc": 0.9, "test/loss": 0.3} if metrics is None else metrics
    told = {
        "status": "finished",
        "task": task,
        "seed": seed,
        "metrics": figures,
        "world_size": 1,
        "data_hash": "d" * 64,
    }
    told |= {"train": {"epochs": 3, "steps": 30, "seconds": 2.0 * views}, "config_hash": config_hash(config)}
    told |= {"versions": {"torch": "2.9.0"}, "git": {"commit": "c" * 40, "dirty": False}, **(summary or {})}
    (folder / "summary.json").write_text(json.dumps(told))
    if written is not None:
        os.utime(folder / "summary.json", (written, written))
    _write_rows(folder / "metrics.csv", _epochs(figures, views) if rows is None else rows)
    if hydra:
        typed = [f"regularizer={regularizer}", f"seed={seed}", *overrides]
        typed += [f"{key}={value}" for key, value in changes.items() if not isinstance(value, dict)]
        choices = {"regularizer": regularizer, "data": "digits", "logger": "csv", **(chosen or {})}
        _write_hydra(folder / ".hydra", choices, config, typed)
    return folder


def unfinished_run(folder: Path) -> Path:
    """What a killed run leaves."""
    fake_run(folder)
    (folder / "summary.json").unlink()
    return folder


def _epochs(figures: dict[str, float], views: int) -> list[dict[str, Any]]:
    last = figures.get("test/acc", 0.5)
    steps = [{"step": 10 * (i + 1), "epoch": i, "train/seconds": views * (i + 1.0)} for i in range(3)]
    rows = [{**row, "train/images": 100 * views * (i + 1)} for i, row in enumerate(steps)]
    rows = [{**row, "val/acc": last * (i + 1) / 3, "train/penalty": 0.1 * (views - 1)} for i, row in enumerate(rows)]
    return [*rows, {"step": 30, **{name: value for name, value in figures.items() if name.startswith("test/")}}]


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def _write_hydra(folder: Path, choices: dict[str, str], config: dict[str, Any], overrides: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    noise = "none" if config["label_noise"] is None else "symmetric"
    chosen = {**choices, "label_noise": noise, "hydra/launcher": "basic"}
    (folder / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"choices": chosen}}}))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
