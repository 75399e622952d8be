"""``resume=<run>``: the run's own command line again, in its own folder, with further overrides."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.moved import current
from gvr_lightning.errors import UserError

FIXED = (
    "model",
    "data",
    "label_noise",
    "seed",
    "batch_size",
    "task.noise",
)  # what a run is: another one is another run
MAY_MOVE = ("root", "cache_dir", "workers", "download", "on_device", "eval_batch_size")  # where data lies, not what


def continue_run(arguments: list[str]) -> list[str]:
    """Replace ``resume=<run>`` by what the run was started with; other arguments follow, and so win.

    Raises:
        UserError: for a folder that holds no run, or overrides that would change its model or data.
    """
    given = [a for a in arguments if a.startswith("resume=") and a not in ("resume=", "resume=null", "resume=auto")]
    if not given:
        return arguments
    folder = Path(given[-1].partition("=")[2].strip("'\"")).expanduser()
    further = [a for a in arguments if not a.startswith("resume=")]
    if any(a in ("-m", "--multirun") for a in further):
        raise UserError("resume continues one run: leave -m out")
    started = _started_with(folder)
    where = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    overrides = [a for a in (*started, *further) if not a.startswith(("-", "hydra"))]
    _refuse_changes(folder, overrides)
    return [*started, *further, f"resume='{where}'", f"hydra.run.dir='{where}'"]


def require_same(folder: Path, cfg: DictConfig) -> None:
    """Refuse to continue the run in a folder with another model or other data.

    Raises:
        UserError: with the list of keys.
    """
    before, now = _defining(OmegaConf.load(folder / "config.yaml")), _defining(cfg)  # type: ignore[arg-type]
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise UserError(f"resume={folder}: a run's model and data cannot change: {', '.join(changed)}; start a new run")


def _started_with(folder: Path) -> list[str]:
    """The overrides that a run was started with."""
    overrides, checkpoints = folder / ".hydra" / "overrides.yaml", folder / "checkpoints"
    checkpoint = checkpoints / "last.ckpt"
    for path in (folder, overrides, folder / "config.yaml", checkpoint):
        if not path.exists() and not (path == checkpoint and (checkpoints / "previous.ckpt").exists()):
            raise UserError(f"resume={folder}: there is no {path}, so there is no run to continue")
    return [str(a) for a in OmegaConf.load(overrides) if not str(a).startswith("resume=")]


def _refuse_changes(folder: Path, overrides: list[str]) -> None:
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            now = compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException, ValueError):
        return  # the check that follows says it better
    require_same(folder, now)


def _defining(cfg: DictConfig) -> dict[str, Any]:
    """The flattened keys of a configuration that no continuation may change."""
    flat: dict[str, Any] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{path}.{key}", inner)
        elif path.rpartition(".")[2] not in MAY_MOVE:
            flat[path] = value

    for key in FIXED:
        node = OmegaConf.select(cfg, key)
        walk(key, current(OmegaConf.to_container(node, resolve=True)) if OmegaConf.is_config(node) else node)
    return flat
