"""Which tests can catch a fault: those that reach its lines, as coverage saw it when the whole suite ran once."""

import hashlib
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from threading import Lock
from xml.etree import ElementTree

from coverage import CoverageData
from fault import Fault, Place
from likeness import Likeness

FEW = 8  # tests that are tried first, then five times as many, and so on: pytest looks long for hundreds
LIKE = 20.0  # a test that speaks of the fault comes exp(LIKE * likeness) earlier (the best of 5 to 70, on 111 faults)
# whose runs coverage does not see
PROCESSES = ("test_cli.py", "test_faults.py", "test_processes.py", "test_sweeps.py", "test_wheel.py")


class Reach:
    """The map from lines to tests.

    Args:
        root: of the project.
        folder: where the map is kept; made by a run of the whole suite where it is not there.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        data, times, then = folder / "coverage", folder / "times.xml", folder / "sources.json"
        if not (data.exists() and times.exists() and then.exists()):
            then.unlink(missing_ok=True)
            now = _sources(root)
            self._run(folder, data, times)
            then.write_text(json.dumps(now))
        self.known = json.loads(then.read_text())  # the files' hashes, when the suite ran
        self.data = CoverageData(str(data))
        self.data.read()
        self.seconds = {
            f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}": float(case.get("time", 0))
            for case in ElementTree.parse(times).iter("testcase")
        }
        self.files = {f"tests/{path.name}": path.read_text() for path in (root / "tests").glob("test_*.py")}
        self.likeness = Likeness(root / "tests", self.seconds)
        self.kept, self.lock = folder / "caught.json", Lock()
        # a fault's title -> the test that caught it before
        self.caught: dict[str, str] = json.loads(self.kept.read_text()) if self.kept.exists() else {}
        self.times = Counter(_function(test) for test in self.caught.values())

    def learn(self, fault: Fault, failed: str) -> None:
        """That a test, "FAILED tests/...", caught a fault: it comes first the next time, and early for other faults."""
        test = failed.partition(" ")[2]
        if self.caught.get(fault.title) != test and test.startswith("tests/"):
            with self.lock:
                self.caught[fault.title] = test
                self.times[_function(test)] += 1
                self.kept.write_text(json.dumps(self.caught, indent=0))

    def tests(self, fault: Fault, place: Place) -> list[list[str]]:
        """In parts, to be tried one after the other: the likeliest and quickest first, whole files at the end.

        A file is taken whole where a fixture reached the place: the tests that look at what it made do not reach it.
        What imports the fault's module may call it in a process that coverage does not see.
        """
        calling, files = self._reaching(place)
        importing = self._importing(place)
        naming = {file for file in importing if fault.at.partition(".")[0] in self.files[file]}
        calling |= {test for test in self.seconds if test.partition("::")[0] in naming}
        files |= importing | {f"tests/{name}" for name in fault.tests.split(",") if name}  # where tests may be new
        started = place.path.parent.name == "app"  # by commands, for the most part
        files |= {f"tests/{name}" for name in PROCESSES} if started or not (calling or files) else set()
        before = self.caught.get(fault.title)
        said = f"{fault.at} {fault.says} {fault.old} {fault.new} {place.path.stem}"
        like = self.likeness.to(said, calling)

        def order(test: str) -> tuple[bool, float]:
            seconds = (self.seconds.get(test, 1.0) + 0.1) / (1 + 10 * self.times[_function(test)])
            return test != before, seconds / math.exp(LIKE * like[test])

        tests = sorted(calling, key=order)
        parts = [[before]] if before in self.seconds and before not in calling else []
        size = FEW
        while tests:
            parts.append(tests[:size])
            tests, size = tests[size:], 5 * size
        return [*parts, sorted(files)] if files else parts

    def patience(self, tests: list[str]) -> float:
        """Seconds after which tests, or whole files, hang: some would wait for five minutes for a process."""
        known = sum(self.seconds.get(test, 1.0) for test in tests)
        known += sum(s for test, s in self.seconds.items() if test.partition("::")[0] in tests)
        return 120 + 5 * known

    def _reaching(self, place: Place) -> tuple[set[str], set[str]]:
        """Tests that call the place, and files whose fixtures do."""
        lines = self.data.contexts_by_lineno(str(self.root / place.path.relative_to(self.root)))
        calling, files = set(), set()
        # of a file that is another since, what reached any line of it
        moved = _hash(place.path) != self.known.get(str(place.path.relative_to(self.root)))
        for line, contexts in lines.items():
            if place.lines is None or moved or line in place.lines:
                for test, _, phase in (context.rpartition("|") for context in contexts if "|" in context):
                    calling |= {test} if phase == "run" else set()
                    files |= {test.partition("::")[0]} if phase == "setup" else set()
        return calling, files

    def _importing(self, place: Place) -> set[str]:
        module = ".".join(place.path.relative_to(self.root).with_suffix("").parts)
        return {name for name, text in self.files.items() if f"from {module} import" in text}

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


def _sources(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): _hash(path) for path in (root / "gvr_lightning").rglob("*.py")}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
