"""The import rules: methods need torch alone, so that anyone can use them; and no wing knows one above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gvr_lightning"
FILES = {path: str(path.relative_to(PACKAGE).with_suffix("")).replace("/", ".") for path in PACKAGE.rglob("*.py")}
METHODS = ("methods", "distributed.batch", "distributed.sync_batchnorm")
TORCH_ONLY = (*METHODS, "__init__", "errors", "random", "data.augmentation", "data.transforms", "optim", "models")
APPLICATION = ("app", "report", "study", "__main__")
HYDRA_USERS = ("app", "config", "instantiate", "study.launch")  # the rest takes built objects
TORCH_FREE = ("report", "study", "config", "errors", "files", "git", "app.command", "app.memory")


def within(module: str, names: tuple[str, ...]) -> bool:
    """Whether a module of the package is one of these, or lies in one of these."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """The modules that a file imports: at the top, or anywhere."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def ours(names: set[str]) -> set[str]:
    """Those of this package, without its name."""
    return {name.removeprefix("gvr_lightning.") for name in names if name.startswith("gvr_lightning.")}


@pytest.mark.parametrize("path", [path for path, name in FILES.items() if within(name, TORCH_ONLY)], ids=FILES.get)
def test_what_needs_torch_alone(path: Path) -> None:
    names = imported(path, top_level_only=True)
    assert {name.split(".")[0] for name in names} <= {"torch", "gvr_lightning", *sys.stdlib_module_names}
    allowed = METHODS if within(FILES[path], ("methods",)) else TORCH_ONLY
    assert all(within(name, (*allowed, "errors")) or name == "distributed" for name in ours(names))


def test_no_wing_knows_one_above_it() -> None:
    for path, name in FILES.items():
        if not within(name, APPLICATION):
            assert not {other for other in ours(imported(path)) if within(other, APPLICATION)}, name
        if within(name, METHODS):
            assert all(within(other, METHODS) for other in ours(imported(path))), name


def test_hydra_stays_at_the_door() -> None:
    for path, name in FILES.items():
        if not within(name, HYDRA_USERS):
            assert not {other.split(".")[0] for other in imported(path)} & {"hydra", "omegaconf"}, name


def test_the_report_and_the_check_need_neither_torch_nor_the_training_code() -> None:
    heavy = {"torch", "lightning", "torchmetrics", "timm", "diffusers", "pandas"}
    for path, name in FILES.items():
        if within(name, TORCH_FREE):
            assert not {other.split(".")[0] for other in imported(path)} & heavy, name
            assert all(within(other, TORCH_FREE) for other in ours(imported(path))), name


def test_what_starts_processes_does_not_load_what_they_load() -> None:
    """Through all that is imported at a file's top: the processes come the sooner."""
    paths = {name.removesuffix(".__init__"): path for path, name in FILES.items()}
    todo, seen = ["app.job"], set()
    while todo:
        name = todo.pop()
        if name in paths and name not in seen:
            seen.add(name)
            others = imported(paths[name], top_level_only=True)
            assert not {other.split(".")[0] for other in others} & {"lightning", "torchmetrics"}, name
            todo += ours(others)
    assert {"distributed.launch", "app.taken", "recording.summary"} <= seen


def test_the_public_names_need_neither_lightning_nor_hydra() -> None:
    code = (
        "import sys, gvr_lightning;"
        "[getattr(gvr_lightning, n) for n in gvr_lightning.__all__ if n != 'GradientRegularization'];"  # a callback
        "import gvr_lightning.models.resnet, gvr_lightning.data.augmentation;"
        "print(sorted({'lightning', 'hydra', 'timm', 'torchmetrics'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_run_on_digits_loads_no_more_than_lightning_does() -> None:
    """scikit-learn, whose file is read, takes as long to load as torch; the others are for other runs."""
    code = (
        "import sys, gvr_lightning.app.run, gvr_lightning.data.digits as digits;"
        "digits.Digits()();"
        "print(sorted({'sklearn', 'pandas', 'diffusers', 'timm', 'datasets', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
