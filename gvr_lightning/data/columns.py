"""Which splits and columns of a set of the ``datasets`` library are the images and their labels."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gvr_lightning.errors import UserError

TRAIN, TEST, VAL = ("train", "training"), ("test", "testing"), ("validation", "val", "valid", "dev")
ENCODED = {"bytes", "path"}  # the fields of an image, where the file does not say that it is one


class Part(NamedTuple):
    """Rows of a split: ``name``, and from which on to which."""

    name: str
    start: int
    end: int


def find_parts(rows: Mapping[str, int], train: str | None, test: str | None, val: str | None) -> dict[str, Part]:
    """The parts "train", "test" and, where there is one, "val", in this order.

    Args:
        rows: how many each split has.
        train: what is asked for, a split or a slice of one such as ``train[:80%]``; None: the split of a usual name.
        test: likewise.
        val: likewise.

    Raises:
        UserError: for a part that is not there, and parts that overlap.
    """
    asked = {"train": train or _usual(rows, TRAIN), "test": test or _usual(rows, TEST), "val": val or _usual(rows, VAL)}
    if asked["train"] is None and len(rows) == 1:
        asked["train"] = next(iter(rows))
    if asked["train"] is None:
        raise UserError(f"data.train_split: there is no split train, but {_list(rows)}: set it to one of them")
    if asked["test"] is None:
        first = f"data.train_split='{asked['train']}[:80%]' data.test_split='{asked['train']}[80%:]'"
        way_out = f"data.test_split={asked['val']}" if asked["val"] else first
        raise UserError(f"data.test_split: there is no split test, but {_list(rows)}: set {way_out}")
    parts = {name: _part(rows, f"data.{name}_split", spec) for name, spec in asked.items() if spec is not None}
    if val is None and "val" in parts and any(_overlap(parts["val"], parts[name]) for name in ("train", "test")):
        del parts["val"]  # it is trained or tested on
    names = list(parts)
    for i, name in enumerate(names):
        for other in names[:i]:
            if _overlap(parts[name], parts[other]):
                both = f"data.{other}_split={asked[other]} and data.{name}_split={asked[name]}"
                raise UserError(f"{both} have images in common: set them to others")
    return parts


def image_column(features: Mapping[str, Any], asked: str | None) -> str:
    """The column of images: the one that is asked for, or the only one there is."""
    found = [name for name, feature in features.items() if _is_image(feature)]
    return _column("data.image_column", "images", features, found, asked)


def label_column(features: Mapping[str, Any], asked: str | None) -> str:
    """The column of labels: the one that is asked for, or the only one with named classes, or else with values."""
    named = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    values = [name for name, feature in features.items() if _is_label(feature)]
    return _column("data.label_column", "labels", features, values if asked else named or values, asked)


def require_alike(
    split: str, images: str, labels: str, trained: Mapping[str, Any], features: Mapping[str, Any]
) -> None:
    """Raises `UserError` if a split, in words, lacks one of the columns or has other classes than training."""
    for name in (images, labels):
        if name not in features:
            raise UserError(f"{split} has no column {name}")
    classes = [getattr(has[labels], "names", None) for has in (trained, features)]
    if classes[0] != classes[1]:
        raise UserError(f"{split} has other classes in {labels} than training, {classes[1]}: name another split")


def numbered(key: str, feature: Any, labels: Mapping[str, list[Any]]) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The names of the classes, and the targets of each part, int64, from its labels; ``key`` is for errors.

    A feature with named classes has their numbers; of others each value of the training labels is a class, in order.
    Raises `UserError` for images without a label, and labels that training lacks.
    """
    if type(feature).__name__ == "ClassLabel":
        classes, known = tuple(map(str, feature.names)), {i: i for i in range(len(feature.names))}
    else:
        values = sorted({value for value in labels["train"] if value is not None})
        classes, known = tuple(map(str, values)), {value: i for i, value in enumerate(values)}
    targets = {}
    for part, given in labels.items():
        strange = next((i for i, value in enumerate(given) if value not in known), None)
        if strange is not None:
            value = given[strange]
            none = value is None or value == -1
            what = "has no label" if none else f"has the label {value!r}, which no training image has"
            raise UserError(f"{key}: image {strange} of data.{part}_split {what}: set data.{part}_split to another")
        targets[part] = np.array([known[value] for value in given], dtype=np.int64)
    return classes, targets


def _usual(rows: Iterable[str], names: tuple[str, ...]) -> str | None:
    by_name = {name.lower(): name for name in reversed(list(rows))}
    return next((by_name[name] for name in names if name in by_name), None)


def _part(rows: Mapping[str, int], key: str, spec: str) -> Part:
    from datasets import ReadInstruction

    try:
        (found,) = ReadInstruction.from_spec(spec).to_absolute(dict(rows))
    except (AssertionError, ValueError) as error:
        one = f"one of {_list(rows)}, or a part of one, such as '{next(iter(rows))}[:80%]'"
        raise UserError(f"{key}={spec}: there is no such split: set it to {one}") from error
    part = Part(found.splitname, found.from_ or 0, rows[found.splitname] if found.to is None else found.to)
    if part.end <= part.start:
        raise UserError(f"{key}={spec}: there is no image in it")
    return part


def _overlap(a: Part, b: Part) -> bool:
    return a.name == b.name and max(a.start, b.start) < min(a.end, b.end)


def _is_image(feature: Any) -> bool:
    bare = isinstance(feature, dict) and set(feature) == ENCODED
    return type(feature).__name__ == "Image" or bare or str(getattr(feature, "dtype", "")).endswith("binary")


def _is_label(feature: Any) -> bool:
    kind = str(getattr(feature, "dtype", ""))
    named = type(feature).__name__ == "ClassLabel"
    return named or (type(feature).__name__ == "Value" and ("int" in kind or "string" in kind or kind == "bool"))


def _column(key: str, what: str, features: Mapping[str, Any], found: list[str], asked: str | None) -> str:
    if asked is not None and asked not in features:
        raise UserError(f"{key}={asked}: there is no such column, but {_list(features)}")
    if asked is not None and asked not in found:
        raise UserError(f"{key}={asked}: that column has no {what}" + (f"; {_list(found)} may" if found else ""))
    if not found:
        raise UserError(f"{key}: no column has {what}; there is {_list(features)}")
    if asked is None and len(found) > 1:
        raise UserError(f"{key}: several columns may be the {what}, {_list(found)}: set it to one of them")
    return found[0] if asked is None else asked


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
