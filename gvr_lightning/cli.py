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

WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i", "--experimental-rerun")  # Hydra's flags that take one

SCORES = ("fid", "is/mean", "is/std", "real/fid", "real/is/mean")  # of generated images, and of real ones


def main() -> None:
    """Check the command line, then hand it to Hydra; exit status 2 for a mistake, 1 for a failed run."""
    # before torch loads: threads that wait by spinning stall each other where cores are shared
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        print(help_page())
        return
    try:
        arguments = continue_run(arguments)
        check(_overrides(arguments), multirun=bool({"-m", "--multirun"} & set(arguments)))
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


def _overrides(arguments: list[str]) -> list[str]:
    """The arguments that are neither flags nor a flag's value."""
    before = ["", *arguments]
    return [a for a, last in zip(arguments, before, strict=False) if not a.startswith("-") and last not in WITH_VALUE]


def _job(cfg: DictConfig) -> Any:
    from gvr_lightning.run import run  # torch and Lightning, two seconds

    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        summary = run(cfg, folder)
    except UserError as error:
        sys.exit(_complain(error, 2))
    except TrainingError as error:
        sys.exit(_complain(error, 1))
    except OSError as error:
        kept = (folder / "checkpoints" / "last.ckpt").exists()
        hint = f"; what was saved before is untouched: mend that, then resume={folder}" if kept else ""
        sys.exit(_complain(f"cannot read or write: {error}{hint}", 1))
    except Interrupted as stop:
        print(f"interrupted; continue with resume={folder}", file=sys.stderr)
        sys.exit(128 + stop.signum)
    metrics = summary["metrics"]
    figures = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k.startswith("test/") or k in SCORES)
    print(f"{figures}  ({summary['train']['seconds']:.1f} s of training)")
    print(folder)
    return metrics.get("fid", metrics.get("val/acc"))


def _complain(error: object, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status
