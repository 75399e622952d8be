"""The import rule: the methods need torch alone, so that anyone can use them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gvr_lightning"
TORCH_ONLY = [
    *(
        PACKAGE / name
        for name in (
            *(
                "__init__.py",
                "errors.py",
                "variance.py",
                "gram.py",
                "passes.py",
                "scopes.py",
                "penalty.py",
                "regularizers.py",
                "consistency.py",
                "label_smoothing.py",
            ),
            *("distributed/__init__.py", "distributed/shards.py", "distributed/sync_batchnorm.py"),
        )
    ),
    *(PACKAGE / "data" / name for name in ("augmentation.py", "counter_random.py")),
    *sorted((PACKAGE / "optim").glob("*.py")),
    *sorted((PACKAGE / "models").glob("*.py")),
]
HYDRA_USERS = {"build.py", "processes.py", "run.py", "jobs.py", "cli.py", "config"}  # the rest takes built objects


def imported(path: Path, top_level_only: bool) -> set[str]:
    """The modules that a file imports: at the top, or anywhere."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", TORCH_ONLY, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_methods_import_torch_only(path: Path) -> None:
    allowed = {"torch", "gvr_lightning", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in imported(path, top_level_only=True)} <= allowed
    ours = {f"gvr_lightning.{'.'.join(p.relative_to(PACKAGE).with_suffix('').parts)}" for p in TORCH_ONLY}
    packages = {"gvr_lightning"}
    assert {n for n in imported(path, top_level_only=True) if n.startswith("gvr_lightning")} <= ours | packages


def test_hydra_stays_at_the_door() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] not in HYDRA_USERS:
            names = {name.split(".")[0] for name in imported(path, top_level_only=False)}
            assert not names & {"hydra", "omegaconf"}, path


def test_the_report_needs_neither_torch_nor_the_training_code() -> None:
    heavy = {"torch", "lightning", "torchmetrics", "timm", "diffusers", "pandas"}
    shared = {
        f"gvr_lightning.{name}" for name in ("errors", "command", "config.lookup", "config.wording")
    }  # which load no torch
    for path in (PACKAGE / "report").glob("*.py"):
        names = imported(path, top_level_only=False)
        assert not {name.split(".")[0] for name in names} & heavy, path
        ours = {name for name in names if name.startswith("gvr_lightning")}
        assert all(name in shared or name.startswith("gvr_lightning.report") for name in ours), path


def test_the_public_names_need_neither_lightning_nor_hydra() -> None:
    code = (
        "import sys; from gvr_lightning import AGR, GradientVariance, agr_, gradient_variance;"
        "import gvr_lightning.models.resnet, gvr_lightning.data.augmentation;"
        "print(sorted({'lightning', 'hydra', 'timm', 'torchmetrics'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
