"""Faults drawn at random from the package's own code: another seed is another list that no test was written for."""

import ast
import copy
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from fault import PACKAGE, Fault, PlaceError, named, replaced

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
PASSED_OVER = (ast.JoinedStr, ast.Raise, ast.Assert)  # what is said of a mistake, and what only mypy needs

Change = Callable[[], None]


def draw(root: Path, number: int, seed: int) -> list[Fault]:
    """As many faults as asked for, each in another function."""
    chance, functions = random.Random(seed), list(_functions(root))
    chance.shuffle(functions)
    found: list[Fault] = []
    for area, at, node in functions:
        if len(found) == number:
            break
        changes = len(list(_changes(node)))
        fault = _fault(area, at, node, chance.randrange(changes)) if changes else None
        found += [fault] if fault is not None else []
    return found


def _functions(root: Path) -> Iterator[tuple[str, str, ast.FunctionDef]]:
    """Of the package, with the folder or file that they are in; names that stand twice with the same code left out."""
    by_name: dict[str, list[tuple[str, str, ast.FunctionDef]]] = defaultdict(list)
    for path in sorted((root / PACKAGE).rglob("*.py")):
        inside = path.relative_to(root / PACKAGE)
        area = inside.parts[0] if len(inside.parts) > 1 else inside.stem
        for name, node in named(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                by_name[name].append((area, name, node))
    for alike in by_name.values():
        codes = [ast.unparse(node) for _, _, node in alike] if len(alike) > 1 else [""]
        yield from (one for one, code in zip(alike, codes, strict=True) if codes.count(code) == 1)


def _fault(area: str, at: str, node: ast.FunctionDef, index: int) -> Fault | None:
    """The whole function is what is replaced: ``old`` then is unique. None where nothing changes."""
    mutant = copy.deepcopy(node)
    words, change = list(_changes(mutant))[index]
    change()
    old, new = ast.unparse(node), ast.unparse(ast.fix_missing_locations(mutant))
    try:
        replaced(old, ast.parse(old).body[0], new)  # type: ignore[arg-type]
    except PlaceError:
        return None
    return Fault(area, at, old, new, words)


def _changes(function: ast.FunctionDef) -> Iterator[tuple[str, Change]]:
    """Every single change to a function, in words and as what carries it out."""
    for node in _walk(function):
        before = ast.unparse(node) if isinstance(node, ast.expr) else ""
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and (other := COMPARISONS.get(type(node.ops[0]))):
            yield f"{before}: {other.__name__}", lambda n=node, o=other: n.ops.__setitem__(0, o())
        elif isinstance(node, ast.BoolOp):
            other = ast.Or if isinstance(node.op, ast.And) else ast.And
            yield f"{before}: {other.__name__}", lambda n=node, o=other: setattr(n, "op", o())
        elif isinstance(node, ast.BinOp) and (other := OPERATORS.get(type(node.op))):
            yield f"{before}: {other.__name__}", lambda n=node, o=other: setattr(n, "op", o())
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield f"{before}: without not", lambda n=node: setattr(n, "op", ast.UAdd()) or _truth(n)
        elif isinstance(node, ast.IfExp):
            yield f"{before}: always the first", lambda n=node: setattr(n, "orelse", n.body)
            yield f"{before}: always the second", lambda n=node: setattr(n, "body", n.orelse)
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
            other = not node.value if isinstance(node.value, bool) else node.value + 1
            yield f"{before} is {other}", lambda n=node, o=other: setattr(n, "value", o)
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                words = f"{before}: without {keyword.arg or '**'}"
                yield words, lambda n=node, k=keyword: n.keywords.remove(k)
            if len(node.args) == 2 and not any(isinstance(a, ast.Starred) for a in node.args):
                yield f"{before}: arguments swapped", lambda n=node: n.args.reverse()
        elif isinstance(node, ast.Slice) and node.upper is not None:
            yield f"[{before}]: to the end", lambda n=node: setattr(n, "upper", None)
        yield from _statements(node)


def _statements(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """Statements left out of a block, and branches always or never taken."""
    if isinstance(node, ast.If):
        for value in (True, False):
            words = f"if {ast.unparse(node.test)}: {'always' if value else 'never'}"
            yield words, lambda n=node, v=value: setattr(n, "test", ast.Constant(v))
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        for i, statement in enumerate(block if isinstance(block, list) else []):
            said = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if isinstance(statement, ast.Expr | ast.AugAssign) and not said:
                yield f"without {ast.unparse(statement)}", lambda b=block, k=i: b.__setitem__(k, ast.Pass())


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All below, without annotations, docstrings and what is passed over."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, PASSED_OVER):
                yield from _walk(child)


def _truth(node: ast.UnaryOp) -> None:
    """``not x`` to ``not not x``: its truth is that of x."""
    node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), node.operand)
