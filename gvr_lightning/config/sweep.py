"""Ready sweeps, and how the jobs of a sweep ended."""

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from gvr_lightning.config import own_parts  # noqa: F401 (a resolver of conf/config.yaml, wherever jobs are started)
from gvr_lightning.config.folder import group_options, option_file
from gvr_lightning.config.overrides import parse
from gvr_lightning.config.searchpath import own_folders
from gvr_lightning.config.wording import suggest
from gvr_lightning.errors import UserError

EXCLUDE = "hydra.job.config.override_dirname.exclude_keys"
LONGEST = 120  # bytes of what a job's folder says of it; disks take names of 255
READY = ("+sweep=", "sweep=")


def expand(arguments: list[str], config_dir: str | None = None) -> list[str]:
    """``+sweep=<name>`` replaced by what it sweeps over, so that each job's own command line says all that it is.

    A key that is given beside it counts instead: ``+sweep=quick seed=7``. Any launcher and sweeper will do. A sweep may
    be the user's, in a folder of ``hydra.searchpath`` or ``--config-dir``.

    Raises:
        UserError: for a sweep that is not there or sweeps over nothing, or several.
    """
    given = [a for a in arguments if a.startswith(READY)]
    if not given:
        return arguments
    name, others = given[0].partition("=")[2], [a for a in arguments if a not in given]
    own = [*own_folders(others), *([Path(config_dir)] if config_dir else [])]
    options = group_options(own)["sweep"]
    if len(given) > 1 or "," in name:
        raise UserError(f"{' '.join(given)}: one sweep at a time")
    if name not in options:
        raise UserError(f"{given[0]}: there is no such sweep; {suggest(name, options)}")
    params = _params(option_file("sweep", name, own), given[0])
    keys = {a.lstrip("+~").partition("=")[0] for a in others}
    keys |= {"name"} if "experiment" in keys else set()  # which has its own
    swept = [f"{key}={value}" for key, value in params.items() if key not in keys]
    # behind the flags: between overrides argparse takes none
    return [*([] if {"-m", "--multirun"} & set(others) else ["-m"]), *others, *swept]


def _params(file: Path | None, given: str) -> Any:
    """What a sweep's file sweeps over.

    Raises:
        UserError: for a file without.
    """
    params = OmegaConf.select(OmegaConf.load(file), "hydra.sweeper.params") if file else None
    if not params:
        raise UserError(f"{given}: {file} has no hydra.sweeper.params, the keys and their values")
    return params


def job_names(settings: list[str]) -> list[str]:
    """What makes Hydra name the jobs' folders by the keys that are swept alone."""
    if any(text.startswith(f"{EXCLUDE}=") for text in settings):
        return []
    parsed = [parse(text) for text in settings]
    keys = [o.key_or_group for o in parsed if not o.is_sweep_override() and not o.is_hydra_override()]
    return [f"{EXCLUDE}=[{','.join(dict.fromkeys([*keys, 'name', 'resume', 'trust']))}]"]


def job_folder(number: Any, swept: Any) -> str:
    """The name of a job's folder: its number and what is its own, of a length that every disk takes."""
    text = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "-" for c in str(swept))
    if len(text.encode()) > LONGEST:
        text = f"{text.encode()[: LONGEST - 9].decode(errors='ignore')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return f"{number}_{text}".rstrip("_. ")


OmegaConf.register_new_resolver(
    "job_folder", job_folder, replace=True
)  # of conf/config.yaml, wherever jobs are started


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
