"""Files that are whole or not there, and text files read as plain data: nothing in them is executed."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

LARGEST = 256 << 20  # bytes of a file
DEEPEST = 64  # lists and mappings within each other
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built


def atomic(path: Path, write: Callable[[Path], Any], ready: Callable[[Path], Any] | None = None) -> None:
    """Call ``write(temporary)`` beside ``path``, flush it to the disk, call ``ready(temporary)`` and rename.

    The old file stays until then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if ready is not None:
            ready(temporary)
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say which file it was
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Let one process at a time work in a folder; one that has ended holds no lock.

    Raises:
        BlockingIOError: if another one does, and ``wait`` is off.
    """
    handle = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    try:
        if handle is not None:
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError:  # some network file systems lock no folders
                pass
        yield
    finally:
        if handle is not None:
            os.close(handle)


def read_text(path: Path) -> str:
    """What a text file holds.

    Raises:
        OSError: if it cannot be read.
        ValueError: for a pipe, a device, or more than anybody writes by hand or by a run.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is a pipe or a device")
    if status.st_size > LARGEST:
        raise ValueError(f"it has more than {LARGEST >> 20} MB")
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file; raises as :func:`read_text`, and ValueError for a damaged one."""
    try:
        return json.loads(read_text(path))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_yaml(path: Path) -> Any:
    """The value in a YAML file, of plain containers; raises as :func:`read_text`, and ValueError for a damaged one.

    Without references within the file: a few lines of them stand for more than a machine holds.
    """
    text, depth = read_text(path), 0
    try:
        for event in yaml.parse(text, LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it refers to itself (*{event.anchor})")
            if depth > DEEPEST:
                raise ValueError("it is nested too deeply")
        return yaml.load(text, LOADER)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def as_text(value: Any) -> Any:
    """A cell of a table: a text that a spreadsheet would take for a formula, as text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
