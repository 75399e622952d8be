"""Reads CIFAR's files: out of a folder or an archive, and through an unpickler that builds arrays and nothing else."""

import io
import pickle
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from gvr_lightning.errors import UserError


def read_folder(folder: Path, names: Collection[str]) -> dict[str, bytes]:
    """The files of these names that are in the folder."""
    try:
        return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
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
                    files[name] = file.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{archive} is damaged ({error}): delete it, and put or download it again") from error
    return files


class _Unpickler(pickle.Unpickler):
    """Builds numpy arrays and plain containers, nothing else: a pickle can have any function called on loading."""

    allowed = frozenset(
        {
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.numeric", "_frombuffer"),  # arrays in pickles of protocol 5
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # its name before numpy 2
        if (module, name) not in self.allowed:
            raise UserError(f"asks for {module}.{name}")
        try:
            return super().find_class(module, name)
        except ImportError:  # numpy before 2 itself
            return super().find_class(module.replace("numpy._core.", "numpy.core."), name)


def unpickle(path: Path, raw: bytes) -> dict[str, Any]:
    """The dictionary in one file, its keys as str."""
    try:
        content = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
    except UserError as error:
        raise UserError(f"{path} {error}, which no CIFAR file needs: refused, as it could run any code") from error
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): put it there again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no CIFAR file: it holds a {type(content).__name__}, not a dictionary")
    return {key.decode("latin-1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}
