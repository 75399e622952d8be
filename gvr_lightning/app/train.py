"""The command line: ``gvr-train``, and ``train.py`` in a checkout. Loads torch only once the configuration is right."""

import atexit
import logging
import os
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gvr_lightning import __version__
from gvr_lightning.app.command import keep_details
from gvr_lightning.app.streams import unbreakable
from gvr_lightning.config.check import check
from gvr_lightning.config.flags import separate
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.help import help_page
from gvr_lightning.config.resume import continue_run
from gvr_lightning.config.searchpath import own_folders
from gvr_lightning.config.sweep import Outcome, expand, job_names, unfinished
from gvr_lightning.distributed.external import external_place
from gvr_lightning.errors import Interrupted, TrainingError, UserError

SCORES = ("fid", "is/mean", "is/std", "raw/fid", "raw/is/mean", "real/fid", "real/is/mean")  # generated, and real


def main() -> None:
    """Check the command line, then hand it to Hydra; exit status 2 for a mistake, 1 for a failed run."""
    # before torch loads: threads that wait by spinning stall each other where cores are shared
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # who waits for whom is told in a line of our own
    unbreakable()
    arguments = sys.argv[1:]
    try:
        if told := _told(arguments):
            print(told)
            return
        sys.argv[1:] = _settled(arguments)
    except UserError as error:
        sys.exit(_complain(error, 2))
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)  # Hydra would print that fonts were listed
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions as they are: Hydra would cut a traceback down to nothing
    try:
        hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")(_job)()
    except OSError as error:
        sys.exit(_complain(error, 2))
    except KeyboardInterrupt:  # before training has begun
        sys.exit(_interrupted())
    except Exception as error:
        if Outcome.folder is None or not unfinished(Outcome.folder):
            raise
        print(f"the sweep ended: {' '.join(str(error).split())}", file=sys.stderr)  # it had nothing to go by
    if Outcome.folder is not None:
        if failed := unfinished(Outcome.folder):
            lines = "".join(f"\n  {folder}: {how}" for folder, how in failed)
            sys.exit(_complain(f"{len(failed)} job(s) of the sweep did not finish:{lines}", 1, several=True))
        print(f"to compare the runs: gvr-report {Outcome.folder}", file=sys.stderr)


def _told(arguments: list[str]) -> str:
    """What the line asks to be told instead of a run; "" for nothing.

    Raises:
        UserError: for a folder of own options that is not there.
    """
    if "--version" in arguments:
        return f"gvr_lightning {__version__}"
    if not {"--help", "-h"} & set(arguments):
        return ""
    said, _, settings = separate([a for a in arguments if a not in ("--help", "-h")])
    return help_page([*own_folders(settings), *([Path(said.config_dir)] if said.config_dir else [])])


def _settled(arguments: list[str]) -> list[str]:
    """The command line for Hydra, once it is right: flags first, between settings it takes none.

    Raises:
        UserError: for the first mistake.
    """
    said, flags, settings = separate(arguments)
    if said.shell_completion:
        return arguments
    said, flags, settings = separate(continue_run(expand([*flags, *settings], said.config_dir)))
    own = [f"hydra.searchpath=['file://{Path(said.config_dir).absolute()}']"] if said.config_dir else []
    check([*settings, *own], multirun=said.multirun)
    return [*flags, *settings, *(job_names(settings) if said.multirun else []), *_beside_the_first(said.multirun)]


def _beside_the_first(multirun: bool) -> list[str]:
    """What Hydra is told in the processes that torchrun or srun started beside the first: to leave no folder behind.

    Raises:
        UserError: for a sweep, whose jobs these would all start for themselves.
    """
    place = external_place()
    if place is None:
        return []
    if multirun:
        raise UserError("a sweep starts the processes of its jobs itself: leave torchrun or srun out and set"
                        " trainer.devices, or send the jobs with hydra/launcher=submitit_slurm")  # fmt: skip
    if place.rank == 0:
        return []
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return [f"hydra.run.dir='{folder}'", "hydra.output_subdir=null"]


def _job(cfg: DictConfig) -> Any:
    from gvr_lightning.app.job import train  # torch, two seconds

    of_hydra = HydraConfig.get()
    os.chdir(of_hydra.runtime.cwd)  # with hydra.job.chdir, too, paths mean what they meant where they were typed
    folder, place = Path(of_hydra.runtime.output_dir), external_place()
    try:
        summary = train(cfg, folder, list(of_hydra.overrides.task), place)
    except Interrupted as stop:
        if place is None or place.rank == 0:
            kept = (folder / "checkpoints").is_dir() and any((folder / "checkpoints").glob("*.ckpt"))
            print(f"interrupted{f'; continue with resume={folder}' * kept}", file=sys.stderr)
        sys.exit(128 + stop.signum)
    except Exception as error:
        if place is not None and place.rank > 0 and isinstance(error, UserError):
            sys.exit(2)  # the first process says it
        status = _tell(error, folder)
        if of_hydra.mode == RunMode.MULTIRUN:
            return None  # the sweep goes on; how its jobs ended is told at its end
        sys.exit(status)
    if place is not None and place.rank > 0:
        return None
    metrics = summary["metrics"]
    told = [name for name in metrics if name in SCORES or (name.startswith("test/") and name.count("/") == 1)]
    figures = "  ".join(f"{name} {metrics[name]:.4f}" for name in told)
    print(f"{figures}  ({summary['train']['seconds']:.1f} s of training)")
    print(folder)
    return metrics.get("fid", metrics.get("val/acc"))


def _tell(error: Exception, folder: Path) -> int:
    """Say what went wrong, a mistake in one line; the exit status."""
    if isinstance(error, UserError):
        return _complain(f"{error}{keep_details(error, folder)}", 2)
    kept = (folder / "checkpoints" / "last.ckpt").exists()  # not in the temporary folder of other processes
    hint = f"; continue with resume={folder}" if kept else ""
    if isinstance(error, TrainingError):
        return _complain(f"{error}{'' if 'resume=' in str(error) else hint}", 1)
    if isinstance(error, OSError):
        return _complain(f"cannot read or write: {error}{hint and '; what was saved before is untouched' + hint}", 1)
    traceback.print_exception(error)
    return 1


def _interrupted() -> int:
    print("interrupted", file=sys.stderr)
    return 128 + signal.SIGINT


def _complain(error: object, status: int, several: bool = False) -> int:
    print(f"error: {error if several else ' '.join(str(error).splitlines())}", file=sys.stderr)
    return status
