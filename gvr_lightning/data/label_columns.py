"""Columns of labels in .pt, .npy and .csv files, read as plain data: nothing that a file names is called."""

import csv
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gvr_lightning.data.cifar_files import STAND_INS, plain
from gvr_lightning.errors import UserError

TRUE = "clean_label"  # of CIFAR-10N and CIFAR-100N: what the labels are without noise
ONLY = "labels"  # the column of a file that does not name it
LARGEST = 1 << 28  # bytes of a file

Columns = dict[str, Tensor | list[str]]  # numbers, int64 (N,), or words (N,)


def read_labels(path: Path) -> Columns:
    """Every column of a file that may be labels, by its name.

    Raises:
        UserError: for a file that is not there, damaged, of another kind, or asks for anything but arrays.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"label_noise.path={path}: a file of labels ends in {', '.join(READERS)}")
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"label_noise.path={path}: has more than {LARGEST:,} bytes, too many for labels")
        columns = reader(path)
    except OSError as error:
        raise UserError(f"label_noise.path={path}: cannot be read: {error.strerror or error}") from error
    if not columns:
        raise UserError(f"label_noise.path={path}: has no labels, one whole number or class an image")
    return columns


def _torch(path: Path) -> Columns:
    """A dictionary of arrays, tensors or lists, or one of these, as ``torch.save`` leaves it.

    Arrays are built by stand-ins for numpy's own functions, which take forged types and states at their word.
    """
    known: list[Any] = []
    for (module, name), stand_in in STAND_INS.items():
        known += [(stand_in, f"{at}.{name}") for at in {module, module.replace("numpy.core", "numpy._core")}]
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                if (damaged := file.testzip()) is not None:
                    raise ValueError(f"{damaged} is damaged")
        with torch.serialization.safe_globals(known):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises whatever its unpickler met
        if "global" in str(error).lower():
            what = "asks for more than arrays of whole numbers, which no labels need: refused, as it could run any code"
            raise UserError(f"label_noise.path={path}: {what}") from error
        raise UserError(f"label_noise.path={path}: is damaged ({type(error).__name__})") from error
    named: Mapping[Any, Any] = content if isinstance(content, Mapping) else {ONLY: content}
    found = {str(name): _numbers(plain(value)) for name, value in named.items()}
    return {name: labels for name, labels in found.items() if labels is not None}


def _numpy(path: Path) -> Columns:
    try:
        labels = _numbers(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise UserError(f"label_noise.path={path}: is no array of whole numbers") from error
    return {} if labels is None else {ONLY: labels}


def _csv(path: Path) -> Columns:
    """Words by the names in the first line, or of a single column without one."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except (ValueError, csv.Error) as error:
        raise UserError(f"label_noise.path={path}: is no table of text ({error})") from error
    if not rows:
        return {}
    if len(rows[0]) == 1 and rows[0][0].isdecimal():
        rows.insert(0, [ONLY])
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise UserError(
                f"label_noise.path={path}: row {number} has {len(row)} cells, where the first has {len(rows[0])}"
            )
    return {name: list(column) for name, column in zip(rows[0], zip(*rows[1:], strict=True), strict=True)}


def _numbers(value: Any) -> Tensor | None:
    """Whole numbers (N,); None for anything else."""
    if isinstance(value, list) and value and all(type(label) is int and abs(label) < 2**62 for label in value):
        return torch.tensor(value)
    if isinstance(value, Tensor) and not value.is_sparse and value.layout == torch.strided:
        value = value.numpy()
    labels = isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.ndim == 1 and len(value)
    return torch.from_numpy(value.astype(np.int64)) if labels else None


READERS: dict[str, Callable[[Path], Columns]] = {".pt": _torch, ".npy": _numpy, ".csv": _csv}
