"""The loggers of logger=wandb."""

import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from gvr_lightning.errors import UserError
from gvr_lightning.files import atomic, read_json
from gvr_lightning.recording.csv import METRICS, CsvLogger
from gvr_lightning.recording.summary import origin
from gvr_lightning.tracking.logger import WandbRun
from gvr_lightning.tracking.session import begin

MODES = ("online", "offline", "disabled")
INSTALL = "logger=wandb needs W&B: pip install wandb"


def weights_and_biases(
    folder: Path,
    step: int = 0,
    rows: int = 0,
    config: dict[str, Any] | None = None,
    *,
    project: str = "gvr_lightning",
    entity: str | None = None,
    mode: str | None = None,
    group: str | None = None,
    sweep: str | None = None,
    job_type: str | None = None,
    tags: Sequence[str] = (),
    on_error: str = "offline",
) -> list[Logger]:
    """metrics.csv and a W&B run, whose id is kept in ``wandb/run.json``, so that a resumed run goes on with it.

    Args:
        folder: the run's own.
        step: to go on from, 0 for a new run.
        rows: of metrics.csv that stay.
        config: the whole resolved configuration.
        project: of W&B.
        entity: of W&B; None for the account's own.
        mode: "online", "offline" for files that ``wandb sync`` sends, or "disabled"; None: what WANDB_MODE says, or
            online.
        group: of W&B; None for the sweep's folder, or outside of a sweep for the run's name.
        sweep: where a sweep's jobs lie.
        job_type: of W&B.
        tags: of W&B.
        on_error: where W&B cannot be reached or has no key: go on "offline", or "stop".

    Raises:
        UserError: if W&B is not installed, refuses its settings, or cannot be reached and ``on_error`` is "stop".
    """
    try:
        import wandb  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(INSTALL) from error
    mode = mode or os.environ.get("WANDB_MODE") or "online"
    if mode == "dryrun":  # its name in earlier times
        mode = "offline"
    if mode not in MODES:
        raise UserError(f"WANDB_MODE={mode}: one of {', '.join(MODES)}")
    if mode == "disabled":
        return [CsvLogger(folder / METRICS, rows)]
    config = config or {}
    code = origin(config)
    kept = _identity(folder, step > 0, _study(folder, sweep, config["name"]))
    labels: dict[str, Any] = {
        "project": project,
        "entity": entity,
        "group": group or kept["study"],
        "job_type": job_type,
    }
    labels |= {"name": config["name"], "tags": [str(tag) for tag in tags], "id": kept["id"], "dir": str(folder)}
    table = CsvLogger(folder / METRICS, rows)
    run = begin(mode, on_error, code["git"]["commit"], labels | {"config": config | {"origin": code}})
    return [table, WandbRun(run, folder, table.rows)]


def _study(folder: Path, sweep: str | None, name: str) -> str:
    """What all jobs of a sweep share, else the run's name."""
    jobs = Path(sweep).resolve() if sweep else None
    return jobs.name if jobs is not None and jobs in folder.resolve().parents else name


def _identity(folder: Path, resumed: bool, study: str) -> dict[str, str]:
    """The W&B run's id and study; those of a resumed run as they were."""
    path = folder / "wandb" / "run.json"
    if resumed and path.exists():
        kept: Any = None
        with suppress(ValueError):
            kept = read_json(path)
        if isinstance(kept, dict) and all(isinstance(kept.get(key), str) for key in ("id", "study")):
            return kept
        raise UserError(f"{path} is damaged: remove it, and the run goes on as a new one in W&B")
    identity = {"id": secrets.token_hex(6), "study": study}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic(path, lambda temporary: temporary.write_text(json.dumps(identity) + "\n"))
    return identity
