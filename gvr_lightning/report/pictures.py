"""Generated images: the last grid of one seed a configuration, and how it came about epoch by epoch."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from gvr_lightning.report.groups import Group
from gvr_lightning.report.runs import Run
from gvr_lightning.report.style import Figure

GRID, SMALL, MOST = 410, 160, 5  # pixels of a grid, of one in a strip; pictures in a strip
MANY = 8  # groups from which on their pictures are half as wide, to keep the page small
SPACE = 6  # pixels between them
GAP = 2  # pixels round the images of a run's grid
Pictures = dict[str, Path]  # grids by the words for their epoch


def draw_samples(groups: Sequence[Group], folder: Path, prefix: str) -> list[Figure]:
    """The pictures of every group that has any; broken files are passed over."""
    shared = set.intersection(*(set(group.runs) for group in groups))
    final, strips = [], []
    share = 1 if len(groups) < MANY else 2
    for i, group in enumerate(groups):
        seed = min(shared or group.runs)
        run = group.runs[seed]
        grids, columns = _grids(run), math.ceil(math.sqrt((run.config.get("generation") or {}).get("grid", 1)))
        who = f"{group.label}, seed {seed}"
        if "final" in grids:
            file = folder / f"{prefix}_samples_{i + 1}.png"
            final += _save([grids["final"]], columns, GRID // share, file, f"{who}: generated images")
        if len(grids) > 1:
            chosen = _evenly(list(grids), MOST)
            caption, file = f"{who}, after epochs {', '.join(chosen)}", folder / f"{prefix}_epochs_{i + 1}.png"
            strips += _save([grids[k] for k in chosen], columns, SMALL // share, file, caption)
    return final + strips


def _grids(run: Run) -> Pictures:
    samples = run.path / "samples"
    grids = {m[1].lstrip("0"): p for p in sorted(samples.glob("*.png")) if (m := re.fullmatch(r"epoch_(\d+)", p.stem))}
    return {**grids, **({"final": samples / "final.png"} if (samples / "final.png").exists() else {})}


def _evenly(names: list[str], most: int) -> list[str]:
    if len(names) <= most:
        return names
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


def _save(paths: Sequence[Path], columns: int, size: int, file: Path, caption: str) -> list[Figure]:
    """Side by side, each at most ``size`` pixels high and wide; nothing if one cannot be read."""
    try:
        pictures = [_part(path, columns, size) for path in paths]
    except (OSError, ValueError):
        return []
    width = sum(picture.width for picture in pictures) + SPACE * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + SPACE
    sheet.quantize(128).save(file, optimize=True)
    return [Figure(file, caption, sheet.size)]


def _part(path: Path, columns: int, size: int) -> Image.Image:
    """As many whole images of a grid as fit, from its corner; shrunk only where not even one does."""
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    cell = max(1, (whole.width - GAP) // columns)
    side = max(1, size // cell) * cell + GAP
    part = whole.crop((0, 0, min(side, whole.width), min(side, whole.height)))
    part.thumbnail((size + GAP, size + GAP))
    return part
