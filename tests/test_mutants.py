"""The faults of ``make mutants``: each has its one place, wherever that has moved, and draws are what they say."""

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "mutants"))
from draw import draw
from fault import Fault, PlaceError, find, read_faults
from likeness import Likeness

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
