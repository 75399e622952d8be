"""Tests run in a copy of the project, in a process that has torch loaded already, which is most of a test's time."""

import multiprocessing as mp
import os
import resource
import signal
import sys
from pathlib import Path

MEMORY = 8 * 2**30  # bytes of each process: a fault that reads /dev/zero ends in an error, not in the machine's end
LOADED = [
    "torch",
    "lightning.pytorch",
    "torchmetrics",
    "hydra",
    "diffusers",
    "timm",
    "scipy.stats",
    "matplotlib.pyplot",
]


def first_failure(tests: list[str], copy: Path, patience: float = 1200.0) -> str:
    """The first of some tests that fails in the copy, or that they took longer than so many seconds; "" for neither.

    Raises:
        RuntimeError: if pytest names none and yet ends otherwise than well: then it is not the fault that was seen.
    """
    os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    output = copy / "output.txt"
    process = context.Process(target=_run, args=(tests, copy, output))
    process.start()
    process.join(patience)
    if process.exitcode is None:
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        return "nothing ended"
    if process.exitcode == 0:
        return ""
    if process.exitcode < 0 and -process.exitcode != signal.SIGKILL:  # which may be for want of memory
        return f"{signal.Signals(-process.exitcode).name} ended pytest"
    said = [line for line in output.read_text().splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if not said:
        raise RuntimeError(f"pytest ended with status {process.exitcode}:\n{output.read_text()[-2000:]}")
    return said[0].split(" - ")[0]


def _run(tests: list[str], copy: Path, output: Path) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    os.chdir(copy)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ["PYTHONPATH"] = str(copy)  # of the processes that tests start
    sys.path[:] = [str(copy), *(entry for entry in sys.path if not entry.endswith("mutants"))]
    started_by = vars(sys.modules["__main__"])  # which processes that tests spawn would import
    started_by.pop("__file__", None)
    started_by["__spec__"] = None
    import pytest

    loaded = "ignore::pytest.PytestAssertRewriteWarning"  # one of pytest's plugins may be among what is loaded
    # asserts as they are: what they would say is not read, and rewriting them takes as long as many tests
    status = pytest.main(["-x", "--assert=plain", "-W", loaded, "-p", "no:cacheprovider", "-p", "no:randomly", *tests])
    sys.stdout.flush()
    os._exit(int(status))
