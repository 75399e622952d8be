"""Reads CIFAR's files: out of a folder or an archive, and through an unpickler that builds arrays and nothing else."""

import io
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from gvr_lightning.errors import UserError

INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
LARGEST = 1 << 28  # bytes of a file; CIFAR-100's is 155 MB


def read_folder(folder: Path, names: Collection[str]) -> dict[str, bytes]:
    """The files of these names that are in the folder."""
    try:
        found = [(name, folder / name) for name in names if (folder / name).is_file()]
        return {name: _bounded(path, path.stat().st_size, path.read_bytes) for name, path in found}
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error


def read_archive(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    """The files of these names that are in the archive, in one pass and without extracting it."""
    files = {}
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                file = tar.extractfile(member) if name in names and member.isfile() else None
                if file is not None:
                    files[name] = _bounded(archive / name, member.size, file.read)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{archive} is damaged ({error}): delete it, and put or download it again") from error
    return files


def _bounded(path: Path, size: int, read: Callable[[], bytes]) -> bytes:
    if size > LARGEST:
        raise UserError(f"{path} has {size:,} bytes, more than any CIFAR file")
    return read()


class _DType:
    """What stands for ``numpy.dtype``: the name of a plain integer type, in the byte order that is said next."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name, self.order = _text(name), ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1]).replace("|", "")
        if any(state[2:5]):
            raise ValueError("a structured array")

    def known(self) -> np.dtype[Any]:
        """The type itself."""
        if self.name not in INTEGERS or self.order not in ("", "<", ">", "="):
            raise ValueError(f"an array of {self.name!r}")
        return np.dtype(self.order + self.name)


class _Array:
    """What stands for ``numpy.ndarray``: its values are read off its bytes, whose number numpy compares with its shape.

    A view of these bytes, so that a file cannot have them copied a thousand times.
    """

    def __init__(self, *_: Any) -> None:
        self.values: np.ndarray = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, columns_first, content = state
        self.fill(content, dtype, shape, "F" if columns_first else "C")

    def fill(self, content: Any, dtype: _DType, shape: Any, order: str) -> "_Array":
        """Take these bytes for values."""
        kind, sides = dtype.known(), [int(side) for side in shape]
        if any(side < 0 for side in sides):
            raise ValueError(f"an array of shape {sides}")
        values = np.frombuffer(content, kind) if len(content) else np.empty(0, kind)
        self.values = values.reshape(sides, order="F" if order == "F" else "C")
        return self


def array_of(*state: Any) -> _Array:
    """What stands for numpy's function that makes arrays of the buffers of protocol 5."""
    return _Array().fill(*state)


def plain(value: Any) -> Any:
    """A value of what was built, an array as numpy's."""
    return value.values if isinstance(value, _Array) else value


# What numpy calls what its arrays are pickled by, before version 2, and what is built instead: whole numbers alone.
STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): array_of,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
}


class _Unpickler(pickle._Unpickler):
    """Builds integer arrays and plain containers, nothing else: a pickle can have any function called on loading.

    Python's own unpickler and not C's: numpy takes a forged type or state at its word, and C's memo a forged index, so
    that either crashes.
    """

    def __init__(self, raw: bytes) -> None:
        super().__init__(io.BytesIO(raw), encoding="bytes")
        self.left = LARGEST  # characters that may be encoded
        self.known: dict[tuple[str, str], Any] = {**STAND_INS, ("_codecs", "encode"): self._encode}

    def find_class(self, module: str, name: str) -> Any:
        known = (module.replace("numpy._core.", "numpy.core."), name)  # its name since numpy 2
        if known not in self.known:
            raise UserError(f"asks for {module}.{name}")
        return self.known[known]

    def _encode(self, text: str, encoding: Any) -> bytes:
        self.left -= len(text)
        if _text(encoding) != "latin1" or self.left < 0:
            raise ValueError("more bytes than a file has, or another encoding")
        return text.encode("latin-1")

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_bytearray8(self: Any) -> None:
        """As bytes, of which there are no more than the file has; else that many are allocated first."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(length))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_build(self: Any) -> None:
        """The state of an array or of its type; nothing else here has one."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Array | _DType):
            raise pickle.UnpicklingError(f"a state for a {type(self.stack[-1]).__name__}")
        self.stack[-1].__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build


def unpickle(path: Path, raw: bytes) -> dict[str, Any]:
    """The dictionary in one file, its keys as str, with integer arrays and plain containers."""
    try:
        content = _Unpickler(raw).load()
    except UserError as error:
        raise UserError(f"{path} {error}, which no CIFAR file needs: refused, as it could run any code") from error
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): put it there again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no CIFAR file: it holds a {type(content).__name__}, not a dictionary")
    return {_text(key): plain(value) for key, value in content.items()}


def _text(key: Any) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)
