"""Whether the pictures of a run's figures are painted, which takes longer than a tiny run itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

PICTURES = ("curves.png", "confusion.png")
_PAINT = Figure.savefig


@contextmanager
def unpainted() -> Iterator[None]:
    """These are empty pictures; others are as ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", _save)
        yield


@contextmanager
def painted() -> Iterator[None]:
    """Within the other: all are as ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", _PAINT)
        yield


def _save(figure: Figure, target: Any, **options: Any) -> None:
    if Path(str(target)).name in PICTURES:
        Image.new("L", (1, 1)).save(target)
    else:
        _PAINT(figure, target, **options)
