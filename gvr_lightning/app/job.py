"""One job of the command line: the run itself, in as many processes as it wants, or on with one that was stopped.

What a run needs is loaded where it runs: not beside the processes that do, of which this one only sees the end.
"""

import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gvr_lightning.app.processes import backend, processes_wanted
from gvr_lightning.app.taken import taken
from gvr_lightning.checkpoint_names import begun
from gvr_lightning.config.identity import config_hash
from gvr_lightning.config.moved import current
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.distributed.external import Place
from gvr_lightning.distributed.launch import launch
from gvr_lightning.distributed.neighbours import neighbours
from gvr_lightning.distributed.place import broadcast, join
from gvr_lightning.errors import Interrupted, TrainingError
from gvr_lightning.recording.summary import read_summary, write_failure

RUN = "gvr_lightning.app.run"  # which loads Lightning
TIMEOUT = 600.0  # seconds, where a trainer of somebody's own does not say


def train(cfg: DictConfig, folder: Path, overrides: list[str], place: Place | None = None) -> dict[str, Any]:
    """Run a job; one at a time in a folder.

    Args:
        cfg: its composed configuration.
        folder: its own.
        overrides: that it was composed with.
        place: of this process, where torchrun or srun started several; then the first one's folder counts.

    Returns:
        What summary.json holds.

    Raises:
        UserError, TrainingError, Interrupted: as :func:`gvr_lightning.app.run.run`.
    """
    cfg = OmegaConf.create(current(OmegaConf.to_container(cfg)))
    if place is not None:
        patience = cfg.trainer.get("timeout", TIMEOUT)
        join(place, backend(cfg.trainer), patience)
        folder = Path(broadcast(str(folder)))
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        with neighbours(place, patience, partial(_give_up, folder, config)), taken(folder, place.rank == 0):
            return _here(_settled(cfg, folder), folder, overrides)
    with taken(folder):
        done = _finished(cfg, folder) if cfg.resume == "auto" else None
        if done is not None:
            return done
        cfg = _settled(cfg, folder)
        if (processes := processes_wanted(cfg.trainer)) == 1:
            return _here(cfg, folder, overrides)
    return _train_in(processes, cfg, folder, overrides)


def _train_in(processes: int, cfg: DictConfig, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The first of the processes holds the folder: should this one be killed, they go on for a moment."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)  # the processes do not know Hydra's own values
    try:
        timeout = cfg.trainer.get("timeout", TIMEOUT)
        launch(_run, (config, folder, overrides), processes, backend(cfg.trainer), timeout, RUN)
    except TrainingError as error:  # perhaps of a process that was killed, and wrote nothing
        write_failure(folder, config, error)
        raise
    except Interrupted as stop:  # perhaps of processes that had to be ended
        if read_summary(folder).get("status") != "interrupted":
            write_failure(folder, config, stop)
        raise
    return read_summary(folder)


def _give_up(folder: Path, config: dict[str, Any], error: TrainingError) -> None:
    """End this process, which may be waiting for a lost one: what started it then ends the others."""
    print(f"error: {error}; continue with resume={folder}", file=sys.stderr, flush=True)
    with suppress(OSError):
        write_failure(folder, config, error)
    os._exit(1)


def _run(config: dict[str, Any], folder: Path, overrides: list[str]) -> None:
    with taken(folder, rank_and_size()[0] == 0):
        _here(OmegaConf.create(config), folder, overrides)


def _here(cfg: DictConfig, folder: Path, overrides: list[str]) -> dict[str, Any]:
    from gvr_lightning.app.run import run

    return run(cfg, folder, overrides)


def _settled(cfg: DictConfig, folder: Path) -> DictConfig:
    """``resume=auto`` decided: on with what is there, or from the start."""
    if cfg.resume == "auto":
        cfg.resume = str(folder) if begun(folder) else None
    return cfg


def _finished(cfg: DictConfig, folder: Path) -> dict[str, Any] | None:
    """The summary of a run that has been finished with this very configuration."""
    summary = read_summary(folder)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    same = summary.get("status") == "finished" and summary.get("config_hash") == config_hash(config)
    return summary if same else None
