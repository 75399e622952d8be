"""Puts faults into copies of the project, one at a time, and runs the tests that can catch each: ``make mutants``.

The lists are in faults/, of which ``--sample N --seed S`` takes some; ``--draw N --seed S`` draws others from the code
itself. Survivors are listed at the end. Which tests reach a fault is seen once, by a run of the whole suite: remove
build/mutants to have it seen anew.
Why no mutmut or cosmic-ray: the first forks a process that has loaded torch and cannot mutate what is decorated, the
second runs one command for every mutant; both know operators only, and most of what goes wrong here is wiring.
"""

import argparse
import os
import queue
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from draw import draw
from fault import Fault, Place, PlaceError, find, read_faults
from reach import Reach
from trial import first_failure

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "build" / "mutants"
COPIES = 2
LIMIT = 0.1  # of the faults may survive
CONTROLS = ["tests/test_pool.py", "tests/test_consistency.py"]  # processes, and what they compute


@dataclass
class Verdict:
    """What became of a fault."""

    fault: Fault
    caught: bool
    by: str  # the test that failed first, or what was tried
    seconds: float


def main() -> None:
    """Exit status 1 where too many survive."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draw", type=int, default=0, help="so many drawn faults instead of the lists")
    parser.add_argument("--sample", type=int, default=0, help="so many of the lists; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw or the sample")
    parser.add_argument("--faults", type=Path, default=Path(__file__).parent / "faults", help="a folder of lists")
    parser.add_argument("--skip", type=int, default=0, help="so many of the first, judged before")
    parser.add_argument("--only", default="", help="faults whose title contains this")
    parser.add_argument("--tests", default="", help="files of tests/ to try, a comma between them; default: all")
    given = parser.parse_args()
    faults = draw(ROOT, given.draw, given.seed) if given.draw else read_faults(given.faults)
    faults = [fault for fault in faults if given.only in fault.title]
    if given.sample:
        faults = random.Random(given.seed).sample(faults, min(given.sample, len(faults)))
    places = [(fault, _place(fault)) for fault in faults][given.skip :]
    reach = Reach(ROOT, HERE) if not given.tests else None
    copies: queue.Queue[Path] = queue.Queue()
    for i in range(COPIES):
        copies.put(_copy(HERE / f"copy-{os.getpid()}-{i}"))

    def judge(item: tuple[Fault, Place]) -> Verdict:
        copy = copies.get()
        try:
            tries = [[f"tests/{name}" for name in given.tests.split(",")]] if reach is None else reach.tests(*item)
            verdict = _judge(*item, [(part, reach.patience(part) if reach else 1200.0) for part in tries], copy)
            if reach is not None and verdict.caught:
                reach.learn(item[0], verdict.by)
        finally:
            copies.put(copy)
        print(f"{'caught  ' if verdict.caught else 'SURVIVED'} {verdict.seconds:5.0f} s  {item[0].title}"
              f"  [{verdict.by}]", flush=True)  # fmt: skip
        return verdict

    try:
        if failed := first_failure(CONTROLS, copies.queue[0]):
            sys.exit(f"error: {failed} fails without a fault, so nothing could be told from its failing")
        with ThreadPoolExecutor(COPIES) as pool:
            verdicts = list(pool.map(judge, places))
    finally:
        while not copies.empty():
            shutil.rmtree(copies.get())
    survivors = [v.fault.title for v in verdicts if not v.caught]
    print(f"\n{len(survivors)} of {len(verdicts)} faults survived" + "".join(f"\n  {title}" for title in survivors))
    sys.exit(len(survivors) >= LIMIT * len(verdicts))


def _place(fault: Fault) -> Place:
    try:
        return find(fault, ROOT)
    except PlaceError as error:
        sys.exit(f"error: {error}")


def _copy(folder: Path) -> Path:
    """The project as it is, what git ignores left out."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def _judge(fault: Fault, place: Place, tries: list[tuple[list[str], float]], copy: Path) -> Verdict:
    """Put the fault into the copy, run the tests until one fails, and take it out again."""
    began, path = time.monotonic(), copy / place.path.relative_to(ROOT)
    original = path.read_text()
    path.write_text(place.text)
    tried = 0
    try:
        for tests, patience in tries:
            failed = first_failure(tests, copy, patience)
            tried += len(tests)
            if failed:
                return Verdict(fault, True, failed, time.monotonic() - began)
    finally:
        path.write_text(original)
    return Verdict(fault, False, f"{tried} tests and files", time.monotonic() - began)


if __name__ == "__main__":
    main()
