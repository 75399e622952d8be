"""Files in the cache folder that are made once and can be made again: an extractor's weights, images' statistics."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gvr_lightning.data.cache import Cache
from gvr_lightning.files import atomic

T = TypeVar("T")


def cache_path(cache_dir: str | None, *parts: str) -> Path:
    """A path in ``cache_dir``, by default ``gvr_lightning`` in the user's cache folder."""
    return Cache(cache_dir).folder.joinpath(*parts)


def recall(path: Path, read: Callable[[Path], T]) -> T | None:
    """What ``read`` makes of a file; None if there is none or ``read`` raises, the latter said on stderr."""
    if not os.path.isfile(path):
        return None
    try:
        return read(path)
    except Exception as error:  # torch's and numpy's readers raise whatever they met in a damaged file
        say(f"{path} is damaged ({type(error).__name__}): it is made again")
        return None


def keep(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all; a folder that cannot be used is said on stderr, never raised."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic(path, write)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        say(f"cannot write {path} ({reason}): it is made again at the next start")


def say(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr)
