"""What a run was started with: written whole beside Hydra's own files, which a kill may leave empty or cut."""

import hashlib
import json
from pathlib import Path
from typing import Any

from gvr_lightning.errors import UserError
from gvr_lightning.files import atomic, read_json, read_yaml

STARTED = Path(".hydra") / "started.json"
OVERRIDES = Path(".hydra") / "overrides.yaml"  # Hydra's; what earlier versions went on by


def write_started(folder: Path, overrides: list[str]) -> None:
    """Keep a run's command line in its folder."""
    path = folder / STARTED
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"overrides": overrides, "sha256": _hash(overrides)}
    atomic(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"))


def read_started(folder: Path) -> tuple[Path, list[str]]:
    """The file with a run's command line, and that command line.

    Raises:
        UserError: for a file that is damaged, or none.
    """
    path = folder / (STARTED if (folder / STARTED).exists() else OVERRIDES)
    if not path.exists():
        raise UserError(f"resume={folder}: there is no {path}, so there is no run to continue")
    try:
        overrides = read_yaml(path) if path.suffix == ".yaml" else _whole(read_json(path))
        if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
            raise ValueError("it is no list of settings")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged, so the run cannot be continued: {' '.join(str(error).split())}") from error
    return path, overrides


def _whole(content: Any) -> Any:
    if not isinstance(content, dict) or content.get("sha256") != _hash(content.get("overrides")):
        raise ValueError("it is not as it was written")
    return content["overrides"]


def _hash(overrides: Any) -> str:
    return hashlib.sha256(json.dumps(overrides).encode()).hexdigest()
