"""The check of a command line before anything is imported or run: a mistake ends in one line that names the way out."""

import copy
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from gvr_lightning.config.declarations import declared
from gvr_lightning.config.folder import conf_folder, first_comment, group_options
from gvr_lightning.config.groups import Groups, check_choice, is_choice
from gvr_lightning.config.keys import apply
from gvr_lightning.config.moved import current
from gvr_lightning.config.overrides import SIGNS, choices, combinations, parse
from gvr_lightning.config.relations import check_relations, folder_complaint
from gvr_lightning.config.targets import check_targets
from gvr_lightning.config.values import check_values, resolve
from gvr_lightning.config.wording import one_line, show
from gvr_lightning.errors import UserError

Tree = dict[str, Any]

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
HYDRA_KEY = re.compile(r"\$\{hydra:([\w.]+)\}")


def check(overrides: list[str], multirun: bool = True) -> None:
    """Check the command line's overrides, every choice of a sweep.

    Args:
        overrides: as typed, without flags.
        multirun: whether sweeps are allowed.

    Raises:
        UserError: for the first mistake, in one line.
    """
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        _check(overrides, multirun)


def _check(texts: list[str], multirun: bool) -> None:
    parsed, groups = [parse(text) for text in texts], group_options()
    swept = next((o for o in parsed if o.is_sweep_override()), None)
    if swept is not None and not multirun and "hydra.mode=MULTIRUN" not in texts:
        raise UserError(f"{swept.input_line}: several values are a sweep, which needs -m; a list is written key=[a,b]")
    for override in parsed:
        if override.key_or_group in FOLDERS and (wrong := folder_complaint(str(override.value() or ""))):
            raise UserError(f"{show(override.input_line)}: a folder must not {wrong}")
    single = [choices(o, groups.get(o.key_or_group, [])) for o in parsed]
    structure = [chosen for chosen in single if _is_structure(chosen[0], groups)]
    keys = [chosen for chosen in single if not _is_structure(chosen[0], groups)]
    if all(o.key_or_group != "hydra.searchpath" for o in parsed):  # it may bring further options
        for override in itertools.chain(*structure):
            check_choice(override, groups)
    composed: list[Any] = [(chosen, *_composed(_texts(chosen), groups)) for chosen in combinations(structure, 16)]
    for (chosen, tree, default), settings in combinations([composed, combinations(keys, 100)], 100):
        of_sweep = ", ".join(text for text in _texts(chosen) if text not in texts)
        _check_job(settings, tree, default, f" (with {of_sweep})" if of_sweep else "")
    if keys:
        _compose(_texts(chosen[0] for chosen in structure + keys))  # whatever Hydra itself has to say


def _check_job(overrides: Sequence[Override], tree: Tree, default: Tree, of_sweep: str) -> None:
    """Check a composed configuration with the overrides of its keys; ``default`` is as its files' groups have it."""
    try:
        made, resolved, raw = _applied(overrides, tree)
        check_values(default, resolved, raw)
        _check_missing(resolved, made)
        _check_references(raw, tree["hydra"])
        check_relations(resolved)
        _check_search(resolved, made)
        check_targets(default, resolved, resolved)
    except UserError as error:
        raise UserError(f"{error}{of_sweep}") from error


def _applied(overrides: Sequence[Override], tree: Tree) -> tuple[dict[str, str], Tree, Tree]:
    """The groups' options, and the configuration with the overrides, resolved and as it is written."""
    tree = copy.deepcopy(tree)
    targets_first = sorted(overrides, key=lambda override: not override.key_or_group.endswith("._target_"))
    for override in targets_first:
        if not (override.is_hydra_override() and SIGNS[override.type]):  # what may be added there only Hydra knows
            apply(override, tree)
    tree = current(tree)
    made = tree.pop("hydra")["runtime"]["choices"]
    return made, resolve(tree), tree


def _check_missing(tree: Tree, choices_made: dict[str, str], path: str = "") -> None:
    for name, value in tree.items():
        key = f"{path}.{name}".lstrip(".")
        if value == "???":
            group = key.partition(".")[0]
            comment = first_comment(group, choices_made[group]) if group in choices_made else ""
            raise UserError(f"{key} is missing: add {key}=<value>" + (f" ({comment})" if comment else ""))
        if isinstance(value, dict):
            _check_missing(value, choices_made, key)


def _check_references(raw: Any, hydra: Tree, path: str = "") -> None:
    """What a job alone resolves leads somewhere."""
    if isinstance(raw, dict):
        for name, inner in raw.items():
            _check_references(inner, hydra, f"{path}.{name}".lstrip("."))
    for key in HYDRA_KEY.findall(raw) if isinstance(raw, str) else []:
        node: Any = hydra
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                raise UserError(f"{path}={show(raw)}: Hydra has no setting {key}")
            node = node[part]


def _check_search(resolved: Tree, made: dict[str, str]) -> None:
    """A search goes by a figure that every run has."""
    sweeper = made.get("hydra/sweeper", "basic")
    if sweeper == "basic":
        return
    if declared(resolved.get("task"), "needs", "classes") == "classes":
        if resolved["data"].get("val_fraction") == 0:
            raise UserError(f"hydra/sweeper={sweeper}: goes by validation, which data.val_fraction=0 leaves out")
    elif resolved.get("extractor") is None:
        raise UserError(f"hydra/sweeper={sweeper}: goes by FID, which extractor=none leaves out")


def _is_structure(override: Override, groups: Groups) -> bool:
    """Whether an override decides which files are composed."""
    return is_choice(override, groups) or override.key_or_group == "hydra.searchpath"


def _texts(overrides: Iterable[Override]) -> tuple[str, ...]:
    return tuple(str(override.input_line) for override in overrides)


def _composed(texts: Sequence[str], groups: Groups) -> tuple[Tree, Tree]:
    """The configuration of some choices, and resolved what it would be without an experiment's own values."""
    tree = default = _compose(texts)
    made = tree["hydra"]["runtime"]["choices"]
    if made.get("experiment"):
        searchpath = [text for text in texts if "hydra.searchpath" in text]
        default = _compose([f"{g}={made[g]}" for g in groups if made.get(g) and g != "experiment"] + searchpath)
    return tree, resolve({name: value for name, value in default.items() if name != "hydra"})


def _compose(texts: Sequence[str]) -> Tree:
    """The configuration as plain containers, with its interpolations as they are written."""
    try:
        config = compose("config", list(texts), return_hydra_config=True)
    except Exception as error:  # Hydra's own, OmegaConf's, and ValueErrors in between
        line = one_line(error)
        named = any(text.partition("=")[0] in line for text in texts)
        raise UserError(line if named else f"{', '.join(texts)}: {line}") from error
    plain: Tree = current(OmegaConf.to_container(config, resolve=False))
    return plain
