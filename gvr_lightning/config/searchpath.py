"""The folders of a user's own options: ``hydra.searchpath=[file://...,pkg://...]``."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from gvr_lightning.config.overrides import parse
from gvr_lightning.errors import UserError

KEY = "hydra.searchpath"


def own_folders(settings: Iterable[str]) -> list[Path]:
    """The folders that the command line adds; Hydra would only warn of one that is not there.

    Raises:
        UserError: for an entry that leads nowhere.
    """
    given = [text for text in settings if text.lstrip("+").startswith(f"{KEY}=")]
    return [folder for text in given for folder in _folders(text)]


def _folders(text: str) -> list[Path]:
    entries = parse(text).value()
    if not isinstance(entries, list):
        raise UserError(f"{text}: a list is needed: {KEY}=[file://{str(entries).removeprefix('file://')}]")
    return [_folder(str(entry), text) for entry in entries if "${" not in str(entry)]


def _folder(entry: str, text: str) -> Path:
    scheme, separator, place = entry.rpartition("://")
    if scheme == "pkg":
        folders = _of_package(place)
    elif scheme in ("file", "") and not (scheme == "" and separator):
        folders = [Path(place)]
    else:
        raise UserError(f"{text}: {scheme}:// is not known; folders are given as file://<folder> or pkg://<package>")
    for folder in folders:
        if folder.is_dir():
            return folder.absolute()
    where = f"no package {place} with a folder" if scheme == "pkg" else f"no folder {folders[0].absolute()}"
    raise UserError(f"{text}: there is {where}")


def _of_package(name: str) -> list[Path]:
    """Where a package's files may lie, a subfolder without Python code among them."""
    package, *below = name.replace("/", ".").split(".")
    try:
        found = find_spec(package) if package else None
    except (ImportError, ValueError):
        found = None
    return [Path(place, *below) for place in (found.submodule_search_locations or []) if found] if found else []
