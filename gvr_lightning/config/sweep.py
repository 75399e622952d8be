"""Ready sweeps, and how the jobs of a sweep ended."""

import json
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from gvr_lightning.config.folder import conf_folder, group_options
from gvr_lightning.config.wording import suggest
from gvr_lightning.errors import UserError

READY = ("+sweep=", "sweep=")


def expand(arguments: list[str]) -> list[str]:
    """``+sweep=<name>`` replaced by what it sweeps over, so that each job's own command line says all that it is.

    A key that is given beside it counts instead: ``+sweep=quick seed=7``. Any launcher and sweeper will do.

    Raises:
        UserError: for a sweep that is not there, or several.
    """
    given = [a for a in arguments if a.startswith(READY)]
    if not given:
        return arguments
    name, others = given[0].partition("=")[2], [a for a in arguments if a not in given]
    options = group_options()["sweep"]
    if len(given) > 1 or "," in name:
        raise UserError(f"{' '.join(given)}: one sweep at a time")
    if name not in options:
        raise UserError(f"{given[0]}: there is no such sweep; {suggest(name, options)}")
    params = OmegaConf.load(conf_folder() / "sweep" / f"{name}.yaml").hydra.sweeper.params
    keys = {a.lstrip("+~").partition("=")[0] for a in others}
    keys |= {"name"} if "experiment" in keys else set()  # which has its own
    swept = [f"{key}={value}" for key, value in params.items() if key not in keys]
    # behind the flags: between overrides argparse takes none
    return [*([] if {"-m", "--multirun"} & set(others) else ["-m"]), *others, *swept]


class Outcome(Callback):
    """Remembers where the sweep's jobs are, which Hydra knows only while it runs."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Called where the sweep was started, whatever launches its jobs."""
        HydraConfig.instance().set_config(config)  # the folder's name needs it, and some sweepers ask before a job does
        Outcome.folder = Path(config.hydra.sweep.dir).absolute()


def unfinished(sweep: Path) -> list[tuple[Path, str]]:
    """The folders of jobs that did not finish, and what is known of that."""
    found = []
    for hydra in sorted(sweep.rglob(".hydra")):
        folder = hydra.parent
        try:
            summary = json.loads((folder / "summary.json").read_text())
        except (OSError, ValueError):
            summary = {"status": "ended without a summary"}
        if summary["status"] != "finished":
            found.append(
                (folder, f"{summary['status']}: {summary['error']}" if "error" in summary else summary["status"])
            )
    return found
