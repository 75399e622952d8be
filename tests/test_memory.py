"""What a process frees it keeps, so that no step fills new pages."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from runs import tiny_run

import gvr_lightning.app.command as command_line
import gvr_lightning.app.run as run_module
from gvr_lightning.app.memory import OF_THE_USER

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own settings")

# new pages of ten blocks of 64 MiB and one of 100 KiB at the heap's end, each freed before the next is taken
FAULTS = """
import resource, torch
from gvr_lightning.app.memory import keep_memory
{}
def work():
    for _ in range(10):
        torch.ones(2**24), torch.ones(25_000)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(call: str = "", **variables: str) -> int:
    env = {name: value for name, value in os.environ.items() if name not in OF_THE_USER}
    env |= {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", **variables}
    line = [sys.executable, "-c", FAULTS.format(call)]
    return int(subprocess.run(line, env=env, capture_output=True, text=True, check=True).stdout)


@glibc
def test_a_large_block_is_made_of_the_pages_of_the_last_one() -> None:
    """Of 16,384 pages each, or of fewer where the kernel gives huge ones."""
    assert new_pages("keep_memory()") < 100 < new_pages()


@glibc
@pytest.mark.parametrize("variable", [{"GLIBC_TUNABLES": ""}, {"MALLOC_TRIM_THRESHOLD_": "131072"}])
def test_settings_of_the_user_s_own_count(variable: dict[str, str]) -> None:
    assert new_pages("keep_memory()", **variable) > 100


def test_other_systems_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no mallopt in macOS or musl, and no library of None on Windows."""
    for name in OF_THE_USER:
        monkeypatch.delenv(name, raising=False)
    asked = []

    def library(name: None) -> object:
        asked.append(name)
        return object()

    monkeypatch.setattr("gvr_lightning.app.memory.ctypes.CDLL", library)
    monkeypatch.setattr(sys, "platform", "win32")
    command_line.keep_memory()
    assert not asked
    monkeypatch.setattr(sys, "platform", "linux")
    command_line.keep_memory()
    assert asked == [None]


def test_runs_and_commands_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = list[str]()
    monkeypatch.setattr(run_module, "keep_memory", lambda: kept.append("run"))
    monkeypatch.setattr(command_line, "keep_memory", lambda: kept.append("command"))
    tiny_run(tmp_path, "epochs=1")
    command_line.command(["out=x"], lambda: "", lambda arguments: "")
    assert kept == ["run", "command"]
