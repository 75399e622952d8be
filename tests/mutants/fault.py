"""A fault: one thing made wrong in one place of the project, which is found by its name and never by its line."""

import ast
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

PACKAGE = "gvr_lightning"
Named = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


class PlaceError(Exception):
    """A fault whose place is not there, or there more than once."""


@dataclass(frozen=True)
class Fault:
    """What is made wrong: in ``at``, the first ``old`` becomes ``new``.

    ``at`` is the qualified name of a function, a class or a constant, wherever in the package it stands, or the path of
    a file of conf/. ``old`` and ``new`` are as ``ast.unparse`` writes them: comments and line breaks do not count.
    """

    area: str
    at: str
    old: str
    new: str
    says: str
    tests: str = ""  # test files that can catch it, a comma between, where no test calls the place itself

    @property
    def title(self) -> str:
        """One line for a list."""
        return f"{self.area:12} {self.at}: {self.says}"


@dataclass(frozen=True)
class Place:
    """Where a fault is: a file, the lines that a test has to reach (none: any of the file), and the file's new text."""

    path: Path
    lines: range | None
    text: str


def read_faults(folder: Path) -> list[Fault]:
    """Those of all lists in a folder: area -> [{at, old, new, says}, ...]."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        for area, faults in yaml.safe_load(path.read_text()).items():
            found += [Fault(area, **{key: str(value) for key, value in one.items()}) for one in faults]
    return found


def find(fault: Fault, root: Path) -> Place:
    """The place of a fault in the project at ``root``.

    Raises:
        PlaceError: if the fault has no place or several, or changes nothing.
    """
    if fault.at.startswith("conf/"):
        path = root / fault.at
        text = path.read_text() if path.is_file() else ""
        if text.count(fault.old) != 1:
            raise PlaceError(f"{fault.at} has {fault.old!r} {text.count(fault.old)} times")
        return Place(path, range(0), text.replace(fault.old, fault.new))
    found = _places(root).get(fault.at, [])
    fitting: list[tuple[Path, Named, str]] = []
    for old, new in ((fault.old, fault.new), (_plain(fault.old), _plain(fault.new))):
        codes = ((path, node, ast.unparse(node)) for path, node in found)
        fitting = fitting or [(path, node, code.replace(old, new, 1)) for path, node, code in codes if old in code]
    if len(fitting) != 1:
        raise PlaceError(f"{fault.at}: {len(found)} places of this name, {len(fitting)} with {fault.old!r}")
    path, node, code = fitting[0]
    return Place(path, reached(node), replaced(path.read_text(), node, code))


@cache
def _places(root: Path) -> dict[str, list[tuple[Path, Named]]]:
    """Where the package has which names."""
    found: dict[str, list[tuple[Path, Named]]] = defaultdict(list)
    for path in sorted((root / PACKAGE).rglob("*.py")):
        for name, node in named(ast.parse(path.read_text())):
            found[name].append((path, node))
    return found


def named(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Named]]:
    """Every function, class and constant by its qualified name, outside of functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from named(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((prefix + t.id, node) for t in targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.For | ast.If | ast.Try | ast.With):
            yield from named(node, prefix)


def reached(node: Named) -> range | None:
    """The lines of a function's body; None for what runs once, when the module is loaded."""
    if not isinstance(node, ast.FunctionDef):
        return None
    return range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1)


def replaced(text: str, node: Named, code: str) -> str:
    """A file's text with other code in a node's place.

    Raises:
        PlaceError: if it is the same, or no Python.
    """
    if code == ast.unparse(node):
        raise PlaceError(f"nothing changes: {code}")
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
    lines = text.splitlines()
    lines[first : node.end_lineno] = textwrap.indent(code, " " * node.col_offset).splitlines()
    changed = "\n".join(lines) + "\n"
    try:
        compile(changed, "mutant", "exec")
    except SyntaxError as error:
        raise PlaceError(f"no Python: {error}") from error
    return changed


def _plain(code: str) -> str:
    """As ``ast.unparse`` writes it, where it is whole statements or an expression."""
    code = textwrap.dedent(code).strip()
    try:
        return ast.unparse(ast.parse(code))
    except SyntaxError:
        return code
