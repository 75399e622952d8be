"""A download that shows where it is, goes on where it stopped, and is checked."""

import errno
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from gvr_lightning.errors import UserError
from gvr_lightning.files import locked
from gvr_lightning.progress import progress_bar

_CHUNK = 1 << 16
_TIMEOUT = 10.0  # seconds to connect, and without a byte


def download(url: str, path: Path, checksum: str, kind: str = "md5") -> None:
    """Fetch ``url`` into the file ``path``, by way of ``path.part``; a ``path`` that exists is left as it is.

    An interrupted download leaves the part, and the next call goes on from there. ``checksum`` is what the file's md5
    begins with, or its hash of another ``kind`` that hashlib knows. Raises `UserError` without a network, on a full
    disk, and on a wrong checksum (the part is deleted then).
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):  # two that append to one part would spoil it
            if path.exists():  # another process fetched it while this one waited
                return
            _fetch_all(url, part)
            if not file_hash(part, kind).startswith(checksum):
                part.unlink()
                raise UserError(f"the download of {url} is damaged (wrong {kind}) and was deleted: start again")
            os.replace(part, path)
    except (OSError, HTTPException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left for {part}: free some and start again, it goes on from there") from error
        reason = error.reason if isinstance(error, URLError) else error
        raise UserError(f"cannot download {url} to {path}: {reason}") from error


def _fetch_all(url: str, part: Path) -> None:
    """Fetch, and again after a lost connection, as long as each attempt gets further than the one before."""
    while True:
        before = _size(part)
        try:
            return _fetch(url, part)
        except (TimeoutError, ConnectionError):
            if _size(part) <= before:
                raise


def _fetch(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks, or fetch all of it from a server that does not know ranges."""
    have = _size(part)
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # nothing after the part's end: it is whole, or the checksum will tell
            return
        raise
    with response:
        have = have if response.status == 206 else 0
        length = response.headers["Content-Length"]
        total = have + int(length) if length else None
        with open(part, "ab" if have else "wb") as file, _bar(part, have, total) as advance:
            for chunk in iter(lambda: response.read(_CHUNK), b""):
                file.write(chunk)
                advance(len(chunk))
    if total is not None and _size(part) < total:
        raise ConnectionError(f"the connection was lost after {_size(part)} of {total} bytes")


@contextmanager
def _bar(part: Path, have: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, to be told of each chunk's size; one plain line if stderr is no terminal."""
    bar = progress_bar(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    if bar.disable:
        size = f"{total / 1e6:.1f} MB" if total is not None else "of unknown size"
        print(f"downloading {part.stem} ({size}, {have / 1e6:.1f} MB there already) to {part.parent}", file=sys.stderr)
    with bar:
        task = bar.add_task(part.stem, total=total, completed=have)
        yield lambda size: bar.advance(task, size)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def file_hash(path: Path, kind: str) -> str:
    """The md5, sha256 or other hash of a file, in hex."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
