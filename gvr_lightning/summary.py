"""summary.json: the final figures of a run, and what made them."""

import hashlib
import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gvr_lightning.callbacks.checkpoints import atomic

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
    """Write it whole or not at all."""
    atomic(path, lambda temporary: temporary.write_text(json.dumps(summary, indent=2) + "\n"))


def config_hash(config: dict[str, Any]) -> str:
    """The sha256 of what defines a run: its name and where it was resumed from do not."""
    defining = {key: value for key, value in config.items() if key not in ("name", "resume")}
    return hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of Python and the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout without an install
            found[package] = "not installed"
    return found


def git_state() -> dict[str, Any]:
    """Commit of this code and whether it was changed since; nulls outside of a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tracked = git("ls-files", "--error-unmatch", "__init__.py") is not None  # not a checkout that merely holds a venv
    status = git("status", "--porcelain", "--untracked-files=no") if tracked else None
    return {"commit": git("rev-parse", "HEAD") if tracked else None, "dirty": None if status is None else bool(status)}
