"""The faults of ``make mutants``: each has its one place, wherever that has moved, and draws are what they say."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from coverage import CoverageData

sys.path.append(str(Path(__file__).parent / "mutants"))
from draw import draw
from fault import Fault, PlaceError, find, read_faults
from likeness import Likeness
from reach import PROCESSES, Reach, _sources

ROOT = Path(__file__).parents[1]
FAULTS = read_faults(ROOT / "tests" / "mutants" / "faults")


def test_every_listed_fault_has_its_place() -> None:
    lost = []
    for fault in FAULTS:
        try:
            find(fault, ROOT)
        except PlaceError as error:
            lost.append(f"{fault.title}: {error}")
    assert not lost, "\n".join(lost)


def test_the_lists_are_long_and_of_every_area_and_say_nothing_twice() -> None:
    areas = Counter(fault.area for fault in FAULTS)
    wanted = {"methods", "optim", "models", "data", "tasks", "callbacks", "distributed", "metrics", "diffusion"}
    assert wanted | {"config", "report", "tracking", "build", "run"} <= areas.keys() and len(FAULTS) >= 100
    assert max(Counter((fault.at, fault.old, fault.new) for fault in FAULTS).values()) == 1


def test_drawn_faults_are_others_by_another_seed_and_each_changes_one_function() -> None:
    first, again, other = draw(ROOT, 12, 0), draw(ROOT, 12, 0), draw(ROOT, 12, 1)
    assert first == again and len(first) == len(other) == 12 and len(set(first) & set(other)) < 4
    for fault in first:
        place = find(fault, ROOT)
        before, after = place.path.read_text().splitlines(), place.text.splitlines()
        assert before != after and place.lines


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("a", "no_such_function", "x", "y", ""), "0 places"),
        (Fault("a", "_build", "nothing like it", "y", ""), "0 with"),
        (Fault("a", "run", "quiet()", "quiet()", ""), "nothing changes"),
        (Fault("a", "run", "quiet()", "quiet(", ""), "no Python"),
        (Fault("a", "conf/config.yaml", "epochs: 31", "", ""), "0 times"),
    ],
)
def test_a_fault_without_a_place_is_named(fault: Fault, words: str) -> None:
    with pytest.raises(PlaceError, match=words):
        find(fault, ROOT)


def test_the_test_that_speaks_of_a_fault_is_the_likeliest(tmp_path: Path) -> None:
    first = "def test_the_seed_arrives():\n    assert draw(seed=1) != draw(seed=2)\n"
    (tmp_path / "test_a.py").write_text(first + "def test_rows():\n    assert rows(2) == 2\n")
    ids = ["tests/test_a.py::test_the_seed_arrives", *(f"tests/test_a.py::test_rows[{case}]" for case in ("lr", "all"))]
    likeness = Likeness(tmp_path, ids)
    assert max(likeness.to("draw: the seed is not used", ids).items(), key=lambda item: item[1])[0] == ids[0]
    rows = likeness.to("rows: lr is not looked at", ids)
    assert rows[ids[1]] > rows[ids[2]] > rows[ids[0]] == 0  # the case counts, too
    assert set(likeness.to("nothing alike", [*ids, "tests/test_b.py::test_unknown"]).values()) == {0.0}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two functions, their tests, and what a run of these left."""
    module = tmp_path / "gvr_lightning" / "a.py"
    module.parent.mkdir()
    module.write_text("def one():\n    return 1\n\n\ndef two():\n    return 2\n")
    tests = {"a": "def test_one():\n    pass\ndef test_two():\n    pass\n", "b": "from gvr_lightning.a import one\n"}
    (tmp_path / "tests").mkdir()
    for name, text in tests.items():
        (tmp_path / "tests" / f"test_{name}.py").write_text(text)
    data = CoverageData(str(tmp_path / "coverage"))
    for line, test, phase in ((2, "a.py::test_one", "run"), (6, "a.py::test_two", "run"), (6, "c.py::test_x", "setup")):
        data.set_context(f"tests/test_{test}|{phase}")
        data.add_lines({str(module): [line]})
    data.write()
    cases = "".join(f'<testcase classname="tests.test_a" name="test_{n}" time="1"/>' for n in ("one", "two"))
    (tmp_path / "times.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    (tmp_path / "sources.json").write_text(json.dumps(_sources(tmp_path)))
    return tmp_path


ONE, TWO = "tests/test_a.py::test_one", "tests/test_a.py::test_two"


def test_what_reaches_a_fault_is_tried_and_then_files_that_may_reach_it_unseen(project: Path) -> None:
    reach = Reach(project, project)
    fault = Fault("a", "two", "2", "3", "another number")
    assert reach.tests(fault, find(fault, project)) == [[TWO], ["tests/test_b.py", "tests/test_c.py"]]
    named = Fault("a", "one", "1", "3", "another number", "test_d.py,test_e.py")
    files = [f"tests/test_{name}.py" for name in "bde"]
    assert reach.tests(named, find(named, project)) == [[ONE], files]
    assert reach.patience([ONE]) == 125 and reach.patience(["tests/test_a.py"]) > 130


def test_a_file_that_has_changed_is_reached_by_whatever_reached_any_line_of_it(project: Path) -> None:
    module = project / "gvr_lightning" / "a.py"
    module.write_text("# one line more\n" * 20 + module.read_text())
    fault = Fault("a", "one", "1", "3", "another number")
    assert set(Reach(project, project).tests(fault, find(fault, project))[0]) == {ONE, TWO}


def test_what_caught_a_fault_is_tried_first_the_next_time(project: Path) -> None:
    module = project / "gvr_lightning" / "a.py"
    module.write_text(module.read_text() + "# so that both tests reach both functions\n")
    fault = Fault("a", "one", "1", "3", "one")
    place = find(fault, project)
    reach = Reach(project, project)
    assert reach.tests(fault, place)[0] == [ONE, TWO]
    reach.learn(fault, f"FAILED {TWO}")
    reach.learn(fault, "nothing ended")  # names no test
    assert Reach(project, project).tests(fault, place)[0] == [TWO, ONE]


def test_what_nothing_reaches_is_tried_by_commands(project: Path) -> None:
    (project / "conf").mkdir()
    (project / "conf" / "a.yaml").write_text("lr: 1\n")
    fault = Fault("a", "conf/a.yaml", "lr: 1", "lr: 2", "another rate")
    assert Reach(project, project).tests(fault, find(fault, project)) == [[f"tests/{name}" for name in PROCESSES]]
