"""summary.json: the final figures of a run, and what made them."""

import json
import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gvr_lightning.config.identity import config_hash
from gvr_lightning.errors import Interrupted
from gvr_lightning.files import atomic
from gvr_lightning.git import git_state

SUMMARY = "summary.json"
PACKAGES = (
    "gvr-lightning",
    "torch",
    "lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "diffusers",
    "timm",
    "numpy",
)


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write it whole or not at all; a figure that is infinite or not a number, which JSON has not, is null."""
    text = json.dumps(_finite(summary), indent=2, allow_nan=False)
    atomic(path, lambda temporary: temporary.write_text(text + "\n"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_summary(folder: Path) -> dict[str, Any]:
    """Of a run's folder; empty if there is none that can be read."""
    try:
        found = json.loads((folder / SUMMARY).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_failure(folder: Path, config: dict[str, Any], error: object) -> None:
    """The summary of a run that could not say itself how it ended; what it had said before stays."""
    folder.mkdir(parents=True, exist_ok=True)
    stopped = isinstance(error, Interrupted)
    outcome = {"status": "interrupted"} if stopped else {"status": "failed", "error": str(error)}
    write_summary(folder / SUMMARY, {**origin(config), **read_summary(folder), **outcome})


def origin(config: dict[str, Any]) -> dict[str, Any]:
    """What a run came from."""
    return {
        "seed": config["seed"],
        "versions": versions(),
        "machine": machine(),
        "git": git_state(),
        "config_hash": config_hash(config),
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout without an install
            found[package] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """What a run's seconds depend on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"system": platform.system(), "processor": platform.machine(), "cpus": os.cpu_count(), "gpu": gpu}
