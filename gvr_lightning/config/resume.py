"""``resume=<run>``: the run's own command line again, in its own folder, with further overrides."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gvr_lightning.config.flags import separate
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.identity import ANEW, FIXED, MAY_MOVE, SWITCHES, leaves
from gvr_lightning.config.lookup import get
from gvr_lightning.config.moved import current
from gvr_lightning.config.overrides import parse
from gvr_lightning.config.started import read_started
from gvr_lightning.config.trust import HARMLESS, names, own_targets, refusal, targets_in
from gvr_lightning.config.values import resolve
from gvr_lightning.config.wording import one_line, show
from gvr_lightning.errors import UserError

REFERENCE = re.compile(r"\$\{(?:hydra:[\w.]+|now:[^${}]*|oc\.env:\w+|[\w.]+)\}")
SEARCH = "hydra.searchpath"
OPENS = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}  # of timm, which may unpickle what they name


def continue_run(arguments: list[str]) -> list[str]:
    """Replace ``resume=<run>`` by what the run was started with; other arguments follow, and so win.

    Raises:
        UserError: for a folder that holds no run, or one that asks for more than settings of this project, or
            overrides that would change its model or data.
    """
    given = [a for a in arguments if a.startswith("resume=") and a not in ("resume=", "resume=null", "resume=auto")]
    if not given:
        return arguments
    folder = Path(given[-1].partition("=")[2].strip("'\"")).expanduser()
    if folder.suffix == ".ckpt":
        raise UserError(f"resume={folder}: a run is continued by its folder: resume={folder.absolute().parents[1]}")
    further = [a for a in arguments if not a.startswith("resume=")]
    said, _, settings = separate(further)
    if said.multirun:
        raise UserError("resume continues one run: leave -m out")
    file, started = _started_with(folder)
    where = os.path.abspath(folder).replace("\\", "\\\\").replace("'", "\\'")
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        places = [text for text in settings if text.startswith(f"{SEARCH}=")]
        places += [f"{SEARCH}=['file://{os.path.abspath(said.config_dir)}']"] if said.config_dir else []
        before = _refuse_strangers(file, [*started, *places], _trusted([*settings, *places]))
        _refuse_changes(folder, before, [*started, *(a for a in settings if not a.startswith("hydra")), *places])
    return [*started, *further, f"resume='{where}'", f"hydra.run.dir='{where}'"]


def refuse_another(run: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to continue a run with another model or other data.

    Args:
        run: as the reader knows it.
        before: the resolved configuration that it was started with.
        now: the one that is wanted.

    Raises:
        UserError: with the keys that differ.
    """
    old, new = (_settled(leaves(_fixed(config))) for config in (before, now))
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    changed = [key for key in changed if not _came_later(key, old, new)]
    if changed:
        raise UserError(f"{run}: a run's model and data cannot change: {', '.join(changed)}; start a new run")


def _came_later(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a key that one side lacks only repeats what the data's source is told, which is the same."""
    source = key.replace("data.", "data.source.", 1)
    return (key in old) != (key in new) and source in old and old[source] == new.get(source)


def _fixed(config: dict[str, Any]) -> dict[str, Any]:
    return {key: get(config, key) for key in FIXED} | {key: bool(get(config, key)) for key in SWITCHES}


def _settled(flat: dict[str, Any]) -> dict[str, Any]:
    """Without where data lies."""
    return {path: value for path, value in flat.items() if path.rpartition(".")[2] not in MAY_MOVE}


def _started_with(folder: Path) -> tuple[Path, list[str]]:
    """The overrides that a run was started with: settings of this project, as anybody may have written the file."""
    checkpoints = folder / "checkpoints"
    checkpoint = checkpoints / "last.ckpt"
    for path in (folder, folder / "config.yaml", checkpoint):
        if not path.exists() and not (path == checkpoint and (checkpoints / "previous.ckpt").exists()):
            raise UserError(f"resume={folder}: there is no {path}, so there is no run to continue")
    file, texts = read_started(folder)
    return file, [text for text in texts if _setting(file, text) not in ANEW]


def _setting(file: Path, text: str) -> str:
    """The key of an override."""
    try:
        override = parse(text)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if override.key_or_group.partition("@")[0].partition("/")[0].partition(".")[0] == "hydra":
        raise UserError(f"{file}: {text}: Hydra's own settings do not come from a file; give them on the command line")
    if "${" in REFERENCE.sub("", text):
        raise UserError(f"{file}: {text}: only references to other keys come from a file")
    return override.key_or_group


def _trusted(settings: list[str]) -> set[str]:
    """The targets that the command line itself names: those of ``trust``, that it sets, and of its own folders."""
    found: set[str] = set()
    for text in settings:
        with suppress(UserError):  # of the check that follows
            found.update(_named_by(parse(text)))
    return found


def _named_by(override: Override) -> Iterator[str]:
    value = override.value()
    if override.key_or_group == "trust":
        yield from names(value)
    if override.key_or_group == SEARCH:
        for place in value if isinstance(value, list) else [value]:
            yield from own_targets("*", Path(str(place).removeprefix("file://")).expanduser())
    yield from targets_in({override.key_or_group.rpartition(".")[2]: value})


def _refuse_strangers(file: Path, started: list[str], trusted: set[str]) -> dict[str, Any]:
    """Whatever way a target came into the run's configuration, it is this project's own, or one that is trusted."""
    try:
        before = _composed(started)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{file}: {one_line(error)}") from error
    for target in targets_in(before):
        if target not in own_targets() | trusted and not HARMLESS.fullmatch(target):
            raise UserError(f"{file}: {refusal(target)}")
    for name, value in (get(before, "model.options") or {}).items():
        if name in OPENS and show(value) not in trusted:
            raise UserError(
                f"{file}: model.options.{name} has timm open a file; if you trust it, add trust={show(value)}"
            )
    return before


def _composed(overrides: list[str]) -> dict[str, Any]:
    """The configuration as plain containers, resolved but for what only a job knows."""
    return resolve(current(OmegaConf.to_container(compose("config", overrides=overrides), resolve=False)))


def _refuse_changes(folder: Path, before: dict[str, Any], overrides: list[str]) -> None:
    try:
        now = _composed(overrides)
    except (HydraException, OmegaConfBaseException, ValueError, UserError):
        return  # the check that follows says it better
    refuse_another(f"resume={folder}", before, now)
