"""Which tests speak of a fault: those that share its words, of which the rare ones count for more (TF-IDF)."""

import ast
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

IN_ID = 0.5  # the share of a case's parameters: most say little of what is tested


class Likeness:
    """How much a text and a test have in common.

    Args:
        folder: of the tests.
        tests: their ids, "tests/test_name.py::test_function[case]".
    """

    def __init__(self, folder: Path, tests: Iterable[str]) -> None:
        functions = {name: _words(text) for path in folder.glob("test_*.py") for name, text in _sources(path)}
        self.words = {}
        for test in tests:
            function, _, case = test.partition("[")
            self.words[test] = functions.get(function, frozenset()), _words(case)
        self.tests_with = Counter(word for both in self.words.values() for word in both[0] | both[1])

    def to(self, text: str, tests: Iterable[str]) -> dict[str, float]:
        """0 (no word in common) to 1.5, the cosines of the test function's words and the case's, for each test."""
        said = _words(text)
        length = self._length(said)
        none: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())

        def cosine(words: frozenset[str]) -> float:
            return self._length(said & words) ** 2 / (length * self._length(words) or 1)

        found = {}
        for test in tests:
            function, case = self.words.get(test, none)
            found[test] = cosine(function) + IN_ID * cosine(case)
        return found

    def _length(self, words: frozenset[str]) -> float:
        return math.sqrt(sum(math.log((len(self.words) + 1) / (self.tests_with[word] + 1)) ** 2 for word in words))


def _sources(path: Path) -> Iterable[tuple[str, str]]:
    """The tests of a file, each with its names and its body; a decorator's parameters are in the ids."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            body = " ".join(ast.unparse(statement) for statement in node.body)
            yield f"tests/{path.name}::{node.name}", f"{path.stem} {node.name} {body}"


def _words(text: str) -> frozenset[str]:
    """Words and numbers, those within a name, too."""
    found = re.findall(r"[A-Za-z][a-z]+|[A-Z]{2,}|\d+(?:\.\d+)?", text.replace("_", " "))
    return frozenset(word.lower() for word in found)
