"""Set before torch loads, so that the suite does not crawl: its tensors are too small for two threads."""

import copy
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hydra._internal import defaults_list
from hydra.core.override_parser.overrides_parser import OverridesParser
from matplotlib.layout_engine import ConstrainedLayoutEngine
from omegaconf import OmegaConf

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import torch  # not before the lines above
from painting import blank, painted
from pool import Pool
from torch._subclasses import FakeTensorMode

LONGEST = ("test_processes", "test_run", "test_sweeps", "test_faults", "test_keys", "test_cli", "test_generation")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files first, so that the suite's processes end together; in the random order as they come."""
    if not hasattr(torch.cpu.Stream, "record_event"):  # torch 2.6
        for item in items:
            if "fsdp]" in item.name or item.name.startswith("test_sharded_weights"):
                item.add_marker(pytest.mark.skip(reason="FSDP2 on CPUs needs a newer torch"))
    if not config.pluginmanager.hasplugin("randomly"):
        items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the whole suite's: that of all its processes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def two() -> Iterator[Pool]:
    """Two processes that have met."""
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def four() -> Iterator[Pool]:
    """Likewise four."""
    pool = Pool(4)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def fake_gpu() -> None:
    """A fake GPU tensor can be copied: in old releases torch asks the driver, so that there has to be one."""
    with FakeTensorMode():
        x = torch.empty(1, device="cuda")
        try:
            x.copy_(x.clone())
        except RuntimeError as error:
            pytest.skip(f"fake GPU tensors need a GPU here: {str(error).splitlines()[0]}")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(shared: Path) -> Iterator[None]:
    """A cache of the suite's own: the user's stays as it is, and the scores' classifier is trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def plain_layout() -> Iterator[None]:
    """Figures without the fitting of their parts to each other, which takes a fifth of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda self, figure: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_disk_is_waited_for() -> Iterator[None]:
    """What a power cut would lose is nothing that a test could see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def files_are_parsed_once() -> Iterator[None]:
    """Hydra parses the files of conf/ anew for each of the suite's thousands of compositions."""
    load, kept = OmegaConf.load, {}

    def once(file: Any) -> Any:
        if not hasattr(file, "read"):
            return load(file)
        text = file.read()
        if text not in kept:
            kept[text] = OmegaConf.to_container(load(io.StringIO(text)))
        return OmegaConf.create(kept[text])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def choices_are_listed_where_needed() -> Iterator[None]:
    """Hydra lists all choices for each entry of each defaults list, which only an interpolated entry asks for.

    That is half of the time of a composition.
    """
    make = defaults_list._create_interpolation_map

    def where_needed(overrides: Any, entries: list[Any], self_added: bool) -> Any:
        needed = any(entry.is_interpolation() for entry in entries)
        return make(overrides, entries, self_added) if needed else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defaults_list, "_create_interpolation_map", where_needed)
        yield


@pytest.fixture(scope="session", autouse=True)
def settings_are_parsed_once() -> Iterator[None]:
    """As the files: most of the settings of a composition are those of the one before."""
    parse, kept = OverridesParser.parse_rule, {}

    def once(self: OverridesParser, text: str, rule: str) -> Any:
        if (text, rule) not in kept:
            kept[text, rule] = parse(self, text, rule)
        return copy.deepcopy(kept[text, rule])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OverridesParser, "parse_rule", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def runs_leave_empty_pictures() -> Iterator[None]:
    """Drawing and painting them would take more than half of a tiny run."""
    with blank():
        yield


@pytest.fixture(scope="session")
def finished(shared: Path) -> Callable[..., Path]:
    """``finished(*overrides)``: the folder of such a tiny run, which is made once; who wants to change it copies it."""
    from runs import tiny_run

    def get(*overrides: str, curves: bool = False) -> Path:
        name = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:16] + "-painted" * curves
        folder = shared / "runs" / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / "summary.json").exists():
                cnn = not any(text.startswith("model") for text in overrides)
                tiny_run(folder, *overrides, cnn=cnn, pictures=painted if curves else blank)
        return folder

    return get


@pytest.fixture(scope="session")
def site(shared: Path) -> Path:
    """The folder of the documentation's site, which is built once."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = shared / "site"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "index.html").exists():
            build(
                load_config(str(Path(__file__).parents[1] / "docs" / "mkdocs.yml"), site_dir=str(folder), strict=True)
            )
    return folder
