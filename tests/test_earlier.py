"""Runs and names of earlier versions: what earlier/ holds was left by the version before the package was rearranged."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from gvr_lightning.app.draw import draw_images
from gvr_lightning.app.job import train
from gvr_lightning.checkpoint import load_network
from gvr_lightning.config.check import check
from gvr_lightning.config.declarations import declared
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.moved import MODULES, current
from gvr_lightning.config.resume import continue_run
from gvr_lightning.config.sampling import read_sample_line
from gvr_lightning.config.signatures import locate, signature
from gvr_lightning.instantiate import make
from gvr_lightning.report.runs import find_runs

# the minimum Lightning is older than the one that left these runs
pytestmark = pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with Lightning")

EARLIER = Path(__file__).parent / "earlier"
KINDS = [path.name for path in sorted(EARLIER.iterdir())]
NAMES = {
    "gvr_lightning.consistency": ["Consistency"],
    "gvr_lightning.label_smoothing": ["LabelSmoothing"],
    "gvr_lightning.loggers": ["csv", "tensorboard"],
    "gvr_lightning.optim.agr": ["AGR"],
    "gvr_lightning.optim.sam": ["SAM", "sam_agr"],
    "gvr_lightning.penalty": ["NoPenalty"],
    "gvr_lightning.regularizers": ["GradientVariance", "PublishedGradientVariance"],
}


@pytest.fixture
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(EARLIER / request.param, tmp_path / "run"))


def resumed(folder: Path, *further: str) -> dict[str, Any]:
    """The run goes on as the command line has it."""
    overrides = continue_run([f"resume={folder}", *further])
    check(overrides, multirun=False)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", overrides=[text for text in overrides if not text.startswith("hydra.")])
    return train(cfg, folder, [])


def epochs(folder: Path, figure: str = "train/loss") -> list[dict[str, str]]:
    """The rows of metrics.csv that are an epoch's, or that have another figure, without what is empty."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{n: v for n, v in row.items() if v} for row in csv.DictReader(file) if row.get(figure)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_s_network_computes_what_it_did(kind: str) -> None:
    loaded = load_network(EARLIER / kind / "checkpoints" / "last.ckpt", "raw")
    assert loaded.kind == kind and loaded.image_shape == (1, 8, 8)
    state = torch.load(EARLIER / kind / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, state[f"model.{name}"]), name


@pytest.mark.parametrize("earlier", KINDS, indirect=True)
def test_a_run_goes_on(earlier: Path) -> None:
    before = json.loads((earlier / "summary.json").read_text())
    rows = epochs(earlier)
    summary = resumed(earlier, "epochs=2")
    assert summary["status"] == "finished" and summary["train"]["steps"] == 2 * before["train"]["steps"]
    (first, second) = epochs(earlier)
    assert [{name: first[name] for name in row} for row in rows] == rows and float(second["epoch"]) == 1
    assert len(epochs(earlier, "test/loss")) == 1, "the first test's row is not of the checkpoint"
    assert "gvr_lightning.penalty" not in (earlier / "config.yaml").read_text()


def test_images_are_drawn_from_a_checkpoint(tmp_path: Path) -> None:
    settings, sampler = read_sample_line([f"ckpt={EARLIER / 'ddpm'}", "n=4", "steps=2", f"out={tmp_path / 'grid.png'}"])
    assert draw_images(sampler=sampler, **settings) == tmp_path / "grid.png"
    assert (tmp_path / "grid.png").stat().st_size > 100


def test_the_report_reads_a_run_as_one_of_today() -> None:
    runs = {run.task: run for run in find_runs([EARLIER])}
    assert runs.keys() == set(KINDS) and all(run.status == "finished" for run in runs.values())
    penalty = runs["classification"].config["regularizer"]["penalty"]
    assert penalty["_target_"] == "gvr_lightning.methods.gvr.penalty.GradientVariance"
    assert declared(runs["ddpm"].config["regularizer"]["penalty"], "adds_nothing")


def test_every_name_that_moved_is_found_where_it_is() -> None:
    assert NAMES.keys() == MODULES.keys()
    for module, names in NAMES.items():
        for name in names:
            node = current({"inner": [{"_target_": f"{module}.{name}", "other": 1}]})["inner"][0]
            assert node["other"] == 1 and node["_target_"] == f"{MODULES[module]}.{name}"
            assert locate(node["_target_"]).__name__ == name and signature(node["_target_"]) is not None
    assert current({"_target_": "gvr_lightning.penalty_of_mine.X"}) == {"_target_": "gvr_lightning.penalty_of_mine.X"}
    assert type(make({"_target_": "gvr_lightning.regularizers.GradientVariance"}, "x")).__name__ == "GradientVariance"


def test_an_earlier_name_on_the_command_line_is_checked_as_the_present_one() -> None:
    old = "regularizer.penalty._target_=gvr_lightning.consistency.Consistency"
    check(["regularizer=consistency", old])
    with pytest.raises(Exception, match="views must be >= 2"):
        check(["regularizer=consistency", old, "regularizer.views=1"])
