"""Which tests can catch a fault: those that reach its lines, as coverage saw it when the whole suite ran once."""

import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from xml.etree import ElementTree

from coverage import CoverageData
from fault import Place

FEW = 8  # tests that are tried before the others are looked for, which takes pytest longer than these
EACH = 4  # cases of one parametrised test that are tried first: the others seldom tell more
PROCESSES = ("test_cli.py", "test_faults.py", "test_sweeps.py", "test_wheel.py")  # whose runs coverage does not see


class Reach:
    """The map from lines to tests.

    Args:
        root: of the project.
        folder: where the map is kept; made by a run of the whole suite where it is not there.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        data, times = folder / "coverage", folder / "times.xml"
        if not (data.exists() and times.exists()):
            self._run(folder, data, times)
        self.data = CoverageData(str(data))
        self.data.read()
        self.seconds = {
            f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}": float(case.get("time", 0))
            for case in ElementTree.parse(times).iter("testcase")
        }
        self.caught: Counter[str] = Counter()  # faults, by each test function

    def learn(self, failed: str) -> None:
        """That a test, "FAILED tests/...", caught a fault: of those that reach the next one it comes early."""
        self.caught[_function(failed.removeprefix("FAILED "))] += 1

    def _order(self, test: str) -> float:
        """Seconds, fewer for what has caught much."""
        return (self.seconds.get(test, 1.0) + 0.1) / (1 + 10 * self.caught[_function(test)])

    def tests(self, place: Place, further: str = "") -> tuple[list[str], list[str], list[str]]:
        """A few to try first, then some cases of each, then those that are left: the other cases, and whole files.

        A file is taken whole where a fixture reached the place: the tests that look at what it made do not reach it.
        """
        calling, files = self._reaching(place)
        by_function: dict[str, list[str]] = defaultdict(list)
        for test in sorted(calling, key=lambda t: self.seconds.get(t, 1.0)):
            by_function[_function(test)].append(test)
        first = sorted((test for same in by_function.values() for test in same[:EACH]), key=self._order)
        files |= {f"tests/{further}"} if further else set()
        started = place.path.parent.name == "app"  # by commands, for the most part
        files |= {f"tests/{name}" for name in PROCESSES} if started or not (calling or files) else set()
        rest = [test for test in calling if test not in set(first) and test.partition("::")[0] not in files]
        return first[:FEW], first[FEW:], [*sorted(rest, key=self._order), *sorted(files)]

    def _reaching(self, place: Place) -> tuple[set[str], set[str]]:
        """Tests that call the place, and files whose fixtures do."""
        lines = self.data.contexts_by_lineno(str(self.root / place.path.relative_to(self.root)))
        calling, files = set(), set()
        for line, contexts in lines.items():
            if place.lines is None or line in place.lines:
                for test, _, phase in (context.rpartition("|") for context in contexts if "|" in context):
                    calling |= {test} if phase == "run" else set()
                    files |= {test.partition("::")[0]} if phase == "setup" else set()
        return calling, files

    def _run(self, folder: Path, data: Path, times: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "coveragerc"
        settings.write_text(f"[run]\nsource = gvr_lightning\ndata_file = {data}\n")
        command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--cov", "--cov-report="]
        command += [f"--cov-config={settings}", "--cov-context=test", f"--junitxml={times}"]
        if subprocess.run(command, cwd=self.root).returncode:
            sys.exit("the suite has to be green before faults are put into the code")


def _function(test: str) -> str:
    return test.partition("[")[0]
