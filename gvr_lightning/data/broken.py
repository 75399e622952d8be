"""Images that cannot be decoded: what is said of them, the first with its reason, and how many there are."""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

NAMED = 4  # of them by name
_ADVICE = re.compile("set data|scale it")  # in a reason that says what to do
REPLACE = "replace or remove what is broken"


class Broken(NamedTuple):
    """An image, as text where it lies, and what is wrong with it."""

    image: object
    reason: str


def reason_of(error: Exception) -> str:
    """What an error of the decoder says, in one line."""
    from PIL import Image

    if isinstance(error, Image.DecompressionBombError):
        return "it has more than 178 megapixels, which is taken for an attack: scale it down before"
    said = re.sub(r" <_io\.BytesIO .*?>", "", " ".join(str(error).split()))  # an image within another file
    return said or type(error).__name__


def broken_line(broken: Sequence[Broken], way_out: str = REPLACE, others: int | None = None) -> str:
    """One line on some images.

    Args:
        broken: the images.
        way_out: what to do about them.
        others: how many there are beside the first, if not all are known.
    """
    first, n = broken[0], len(broken) - 1 if others is None else others
    line = f"{first.image} cannot be decoded ({first.reason})"
    if n:
        names = [str(one.image) for one in broken[1:NAMED]] + ["..."] * (n > NAMED - 1)
        listed = f" ({', '.join(names)})" if len(broken) > 1 else ""
        line += f", nor can {n} other image{'s' if n > 1 else ''}{listed}"
    return f"{line}: {way_out}" if way_out and not _ADVICE.search(line) else line


def leave_out(images: np.ndarray, targets: np.ndarray, numbers: Collection[int]) -> None:
    """Move the rows of all other files to the front, in order and in place; the targets behind them name these.

    Args:
        images: (N, C, H, W).
        targets: (N,).
        numbers: of the files to leave out.
    """
    kept = [i for i in range(len(targets)) if i not in numbers] if numbers else []
    for place, i in enumerate(kept):
        if place != i:
            images[place], targets[place] = images[i], targets[i]
    targets[len(targets) - len(numbers) :] = [-1 - i for i in sorted(numbers)]


def left_out(targets: np.ndarray) -> list[int]:
    """The numbers of the files that :func:`leave_out` left out."""
    return [-1 - int(target) for target in targets[targets < 0]]
