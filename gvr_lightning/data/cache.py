"""Decoded images on disk: a folder of .npy files for each content, written whole or not at all.

<folder>/<key>/images.npy, targets.npy, meta.json
<folder>/index/<stamp>       the content hash of files whose names, sizes and times have this stamp
<folder>/index/<key>-moments mean and standard deviation of each channel of images
<folder>/index/<stamp>-top   the largest value that their images of more than 8 bits may have, 0 without any; in hex
"""

import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from gvr_lightning.data.cache_entry import DAMAGED, IMAGES, Arrays, open_entry, reserve, seal
from gvr_lightning.errors import UserError

_TEMP = ".filling-"
_WEEK = 7 * 24 * 3600


class Cache:
    """The cache in ``folder``, by default ``gvr_lightning`` in the user's cache folder.

    A folder that cannot be used is said on stderr, never raised.
    """

    def __init__(self, folder: str | None) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        try:
            self.folder = Path(folder or f"{base}/gvr_lightning").expanduser().absolute()
        except RuntimeError as error:
            raise UserError("the user has no home folder for the image cache: set data.cache_dir") from error
        self.usable = True

    def recall(self, stamp: str, form: str = "[0-9a-f]{64}") -> str | None:
        """What is noted for the stamp, by default a content hash; None for nothing, or nothing of that form."""
        try:
            content = (self.folder / "index" / stamp).read_text()
        except (OSError, ValueError):
            return None
        return content if re.fullmatch(form, content) else None

    def remember(self, stamp: str, content: str) -> None:
        """Note something for the stamp."""
        if not self.usable:
            return
        path = self.folder / "index" / stamp
        temp = path.with_name(f".{stamp}-{os.getpid()}-{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temp.write_text(content)
            os.replace(temp, path)
        except OSError as error:
            _say(f"cannot write {path} ({error.strerror}): the images are read in full at every start")
        finally:
            with suppress(OSError):
                temp.unlink(missing_ok=True)

    def load(self, key: str) -> Arrays | None:
        """The arrays, the images as a memory map (copy on write); None if absent or damaged, the latter said."""
        entry = self.folder / key
        if not os.path.isdir(entry):
            return None
        try:
            return open_entry(entry)
        except DAMAGED as error:
            _say(f"the cache entry {entry} is damaged ({error}): decoding again")
            return None

    def store(
        self, key: str, shape: tuple[int, ...], targets: np.ndarray, fill: Callable[[np.ndarray], None]
    ) -> Arrays | None:
        """Let ``fill`` write the images into a file, publish it under the key, and load it.

        None if the folder cannot take them; nothing has been filled then.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _sweep(self.folder)
            temp = Path(tempfile.mkdtemp(prefix=_TEMP, dir=self.folder))
        except OSError as error:
            self._give_up(error)
            return None
        try:
            return self._fill(temp / "entry", key, shape, targets, fill)  # other users may read what mkdir makes
        finally:
            shutil.rmtree(temp, ignore_errors=True)

    def _fill(
        self, entry: Path, key: str, shape: tuple[int, ...], targets: np.ndarray, fill: Callable[[np.ndarray], None]
    ) -> Arrays | None:
        try:
            entry.mkdir()
            images = reserve(entry / IMAGES, shape)
        except OSError as error:
            self._give_up(error)
            return None
        fill(images)
        try:
            images.flush()
            seal(entry, targets)
            self._publish(entry, key)
        except OSError as error:
            self._give_up(error)
            return images, targets
        return self.load(key) or (images, targets)

    def _give_up(self, error: OSError) -> None:
        self.usable = False
        _say(f"the cache folder {self.folder} cannot be used ({error.strerror}): the images are decoded at every start")

    def _publish(self, entry: Path, key: str) -> None:
        """Rename the entry to its place, unless another process put a good one there meanwhile."""
        final = self.folder / key
        while True:
            try:
                return os.rename(entry, final)
            except OSError:
                if not final.is_dir():
                    raise
            try:
                open_entry(final)
                return None
            except DAMAGED:
                with suppress(FileNotFoundError):
                    os.rename(final, Path(tempfile.mkdtemp(dir=entry.parent)) / "damaged")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left behind."""
    for temp in folder.glob(f"{_TEMP}*"):
        with suppress(OSError):
            if time.time() - temp.stat().st_mtime > _WEEK:
                shutil.rmtree(temp)
