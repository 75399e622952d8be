"""The command line: ``gvr-train``, and ``train.py`` in a checkout. Loads torch only once the configuration is right."""

import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gvr_lightning.config.check import check
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.help import help_page
from gvr_lightning.config.resume import continue_run
from gvr_lightning.errors import Interrupted, TrainingError, UserError


def main() -> None:
    """Check the command line, then hand it to Hydra; exit status 2 for a mistake, 1 for a failed run."""
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        print(help_page())
        return
    try:
        arguments = continue_run(arguments)
        check([a for a in arguments if not a.startswith("-")])
    except UserError as error:
        sys.exit(_complain(error, 2))
    sys.argv[1:] = arguments
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions as they are: Hydra would cut a traceback down to nothing
    try:
        hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")(_job)()
    except OSError as error:
        sys.exit(_complain(error, 2))
    except KeyboardInterrupt:  # before training has begun
        sys.exit(130)


def _job(cfg: DictConfig) -> Any:
    from gvr_lightning.run import run  # torch and Lightning, two seconds

    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        summary = run(cfg, folder)
    except UserError as error:
        sys.exit(_complain(error, 2))
    except TrainingError as error:
        sys.exit(_complain(error, 1))
    except Interrupted as stop:
        print(f"interrupted; continue with resume={folder}", file=sys.stderr)
        sys.exit(128 + stop.signum)
    figures = "  ".join(f"{k} {v:.4f}" for k, v in summary["metrics"].items() if k.startswith("test/"))
    print(f"{figures}  ({summary['train']['seconds']:.1f} s of training)")
    print(folder)
    return summary["metrics"].get("val/acc")


def _complain(error: Exception, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status
