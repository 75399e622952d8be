"""How much of a run's pictures is made: painting them takes longer than a tiny run itself, drawing them up a fifth."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from gvr_lightning.app import run
from gvr_lightning.recording.confusion import PICTURE

_DRAW_CURVES, _DRAW_CONFUSION, _PAINT = run.draw_curves, run.draw_confusion, Figure.savefig


@contextmanager
def blank() -> Iterator[None]:
    """Nothing: these two pictures are empty, and others are as ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "draw_curves", lambda metrics, picture, title: _blank(picture))
        patch.setattr(run, "draw_confusion", _blank_confusion)
        yield


@contextmanager
def drawn() -> Iterator[None]:
    """Within the first: all but the picture itself, which is empty."""
    with painted(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, target, **options: _blank(target))
        yield


@contextmanager
def painted() -> Iterator[None]:
    """Within the first: all, as ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "draw_curves", _DRAW_CURVES)
        patch.setattr(run, "draw_confusion", _DRAW_CONFUSION)
        patch.setattr(Figure, "savefig", _PAINT)
        yield


def _blank(picture: Any) -> None:
    Image.new("L", (1, 1)).save(picture)


def _blank_confusion(folder: Path, confusion: Any, classes: Any, title: str) -> None:
    if confusion is not None:
        _blank(folder / PICTURE)
