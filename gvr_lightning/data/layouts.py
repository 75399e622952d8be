"""How image folders are laid out: which folder holds which part, and what their classes are called."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gvr_lightning.errors import UserError

TRAIN, TEST, VAL = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")
ANNOTATED = "val_annotations.txt"  # Tiny-ImageNet's, beside images/: file, class and box in a line
WORDS = "words.txt"  # what WordNet's numbers of classes mean
BESIDE = "__MACOSX"  # in archives that were made there


@dataclass(frozen=True)
class Layout:
    """The folders of the parts, by name below ``root``; images of ``annotated`` ones are classified in a file."""

    root: Path
    train: str
    test: str
    val: str = ""  # where there is one beside the test
    annotated: tuple[str, ...] = ()
    said: str = ""  # what was chosen that is not plain


def find_layout(root: Path, test: str | None = None) -> Layout:
    """``train`` and ``test``, perhaps with ``val``, ``valid`` or ``validation``; in ``root``, or in its only folder.

    Case does not count. Without ``test`` the validation images are tested on, and so they are where only they are
    classified, as in Tiny-ImageNet.

    Args:
        root: the folder.
        test: the name of the folder to test on; None: the usual ones.

    Raises:
        UserError: for a part that is missing, or there twice.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: set data.root to the one with train/<class>/ and test/<class>/")
    names = _folders(root)
    if not _one(root, names, TRAIN) and len(names) == 1 and _one(root / names[0], _folders(root / names[0]), TRAIN):
        root, names = root / names[0], _folders(root / names[0])
    train, usual, val = (_one(root, names, kind) for kind in (TRAIN, TEST, VAL))
    if not train:
        raise UserError(f"there is no folder {root / 'train'}: {_instead(root, train)}")
    annotated = (val,) if val and (root / val / ANNOTATED).is_file() else ()
    tested = test or (val if annotated else usual or val)
    if tested not in names:
        raise UserError(f"there is no folder {root / (tested or 'test')}: {_instead(root, train)}")
    if tested == val:
        why = "the test images have no classes" if usual and not test else "there is no test folder"
        said = "" if test else f"{why}, so that the images of {val} are tested on"
        return Layout(root, train, val, "", annotated, said)
    return Layout(root, train, tested, val, annotated)


def class_folders(layout: Layout, part: str) -> list[str]:
    """The names of a part's class folders, sorted."""
    folder = layout.root / part
    names = _folders(folder)
    if not names:
        instead = "" if part == layout.train else others(layout.root, layout.train, part)
        raise UserError(
            f"there is no class folder in {folder}: put its images into {folder}/<class>/{instead and f'; {instead}'}"
        )
    return names


def annotations(folder: Path, classes: Sequence[str]) -> dict[str, str]:
    """File -> class, of Tiny-ImageNet's list.

    Raises:
        UserError: for a line that is none, and a class that training lacks.
    """
    found, known = {}, set(classes)
    for number, line in enumerate(_lines(folder / ANNOTATED), 1):
        file, _, rest = line.partition("\t")
        name = rest.partition("\t")[0]
        if name not in known or Path(file).name != file:
            raise UserError(f"{folder / ANNOTATED}: line {number} is not a file and one of the classes: {line[:60]!r}")
        found[file] = name
    return found


def readable(root: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """The classes' names; of WordNet's numbers the first of their words, where ``words.txt`` has them all."""
    if not (root / WORDS).is_file():
        return tuple(classes)
    words = {
        number: text.partition(",")[0].strip() for number, _, text in (x.partition("\t") for x in _lines(root / WORDS))
    }
    if not all(words.get(name) for name in classes):
        return tuple(classes)
    times = Counter(words[name] for name in classes)
    return tuple(words[name] if times[words[name]] == 1 else f"{words[name]} ({name})" for name in classes)


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    return sorted(name for name in names if name != BESIDE)


def _one(root: Path, names: Sequence[str], usual: Sequence[str]) -> str:
    """The folder of one of the usual names, "" for none."""
    found = [name for name in names if name.lower() in usual]
    if len(found) > 1:
        raise UserError(f"{root} has {' and '.join(found)}, which are one part: rename or remove one")
    return found[0] if found else ""


def _instead(root: Path, train: str) -> str:
    """What to do about a part that is missing."""
    plain = "an image folder has train/<class>/ and test/<class>/; docs/pages/tutorial.md divides one that has neither"
    return (others(root, train, "") if train else "") or plain


def others(root: Path, train: str, part: str) -> str:
    """How to test on another folder than ``part``; "" where there is none."""
    found = [name for name in _folders(root) if name not in (train, part)]
    named = " or ".join(f"data.test_folder={name}" for name in found[:3])
    return f"to test on the images of another one, set {named}" if found else ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
