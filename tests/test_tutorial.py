"""The tutorial, from a folder of images to the report: every command of its page, on few small images."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from prose import blocks, commands
from test_cli import main

from gvr_lightning.report.cli import main as report

PAGE = (Path(__file__).parents[1] / "docs" / "pages" / "tutorial.md").read_text()
TINY = ["model.widths=[4,4,8]", "model.blocks=1", "batch_size=16"]
SMALLER = {
    "epochs=2": "epochs=1",
    "epochs=40": "epochs=2",
    "seed=0,1,2": "seed=0",
    "alpha=0.01,0.1,1": "alpha=0.01,1",
}


def photos(folder: Path) -> None:
    """Two classes of 15 images, of more than one size, as most folders are."""
    generator = np.random.default_rng(0)
    for level, name in ((60, "cat"), (160, "dog")):
        (folder / name).mkdir(parents=True)
        for i in range(15):
            pixels = generator.integers(level, level + 80, (18, 16 + i % 3, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")


def test_every_command_of_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Figure, "savefig", lambda figure, target, **options: Image.new("L", (1, 1)).save(target, "PNG"))
    photos(tmp_path / "photos")
    assert main(monkeypatch, tmp_path, "data=image_folder", "data.root=photos") == 2
    assert "photos/train: an image folder has" in (said := capsys.readouterr().err) and "tutorial.md" in said
    ((title, code),) = blocks(PAGE, "python")
    assert f"python {title}" in PAGE
    (tmp_path / title).write_text(code)
    runpy.run_path(title)
    parts = {
        part: sorted(path.parent.name for path in Path("divided", part).rglob("*.jpg")) for part in ("train", "test")
    }
    assert parts == {"train": ["cat"] * 12 + ["dog"] * 12, "test": ["cat"] * 3 + ["dog"] * 3}
    lines = commands(PAGE)
    trainings = [words for words in lines if words[0] == "train.py"]
    assert [words[0] for words in lines] == ["train.py", "train.py", "gvr-report", "train.py", "train.py", "gvr-report"]
    assert all({"--config-dir", "experiment=photos"} <= {*words} for words in trainings)
    ((recipe, text),) = blocks(PAGE, "yaml")
    Path(recipe).parent.mkdir(parents=True)
    Path(recipe).write_text(text.replace("epochs: 20", "epochs: 1"))
    for words in lines:
        if words[0] == "gvr-report":
            report(words[1:])
        else:
            assert main(monkeypatch, tmp_path, *(SMALLER.get(word, word) for word in words[1:]), *TINY) == 0
    assert f"to compare the runs: gvr-report {tmp_path / 'outputs/photos/equal_cost'}\n" in capsys.readouterr().err
    runs = [json.loads(path.read_text()) for path in Path("outputs", "photos").rglob("summary.json")]
    assert len(runs) == 4 and {run["status"] for run in runs} == {"finished"}
    table = Path("outputs/photos/report/report.md").read_text()
    (header,) = re.findall(r"^\| configuration \| n \|.*", table, re.MULTILINE)
    assert " difference | 95% interval | p | pairs |" in header and "its column *difference*" in PAGE
    rows = re.findall(r"^\| (.+?), epochs=(\d) \| 1 \|.*\| (.+?) \|$", table, re.MULTILINE)
    against = "two\\_view, epochs=1"
    others = [("none", "1", against), ("none", "2", against), ("gvr, alpha=0.1", "1", against)]
    assert rows == [("two\\_view", "1", "baseline"), *others]
    assert {*SMALLER} <= {*PAGE.split()}
