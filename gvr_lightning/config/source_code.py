"""What a class or function takes, read off its source: importing torch or Lightning to look would take seconds."""

import ast
import importlib.util
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

_NONE_SUCH = object()


@dataclass
class Signature:
    """Arguments that can be given by name, with their annotations as text; ``open`` if any others can, too."""

    arguments: dict[str, str] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    open: bool = False
    defaults: dict[str, Any] = field(default_factory=dict, compare=False)  # those that are plain values

    def __or__(self, inherited: "Signature") -> "Signature":
        """Of a class whose further arguments go to its base."""
        required = self.required | (inherited.required - set(self.arguments))
        arguments = {**inherited.arguments, **self.arguments}
        return Signature(arguments, required, inherited.open, {**inherited.defaults, **self.defaults})


def from_source(module: str, name: str) -> Signature | None:
    """The signature of ``module.name``; None where its source does not simply say."""
    found = _definition(module, name)
    if found is None:
        return None
    home, node = found
    if isinstance(node, ast.FunctionDef):
        return _of_arguments(node.args)
    methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
    if node.decorator_list or node.keywords or "__new__" in methods:
        return None  # a dataclass, a metaclass: only the class itself knows
    init = methods.get("__init__")
    own = _of_arguments(init.args, skip=1) if init else Signature(open=True)
    if not own.open:
        return own
    bases = [base for base in node.bases if not (isinstance(base, ast.Name) and base.id == "ABC")]
    base = bases[0] if len(bases) == 1 else None
    inherited = from_source(home, base.id) if isinstance(base, ast.Name) else None
    if not bases and init is None:
        return Signature()
    return own | inherited if inherited else None


def attributes(module: str, name: str) -> dict[str, Any] | None:
    """The class attributes of ``module.name`` that are plain values, with those that it inherits.

    Of a function those of the class that it says it returns; None where the source does not say.
    """
    found = _definition(module, name)
    if found is None:
        return None
    home, node = found
    if isinstance(node, ast.FunctionDef):
        return attributes(home, node.returns.id) if isinstance(node.returns, ast.Name) else {}
    collected: dict[str, Any] = {}
    for base in reversed(node.bases):
        collected |= (attributes(home, base.id) or {}) if isinstance(base, ast.Name) else {}
    for statement in node.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = _plain(getattr(statement, "value", None))
        for target in targets:
            if isinstance(target, ast.Name) and value is not _NONE_SUCH:
                collected[target.id] = value
            elif isinstance(target, ast.Tuple) and isinstance(value, tuple):
                collected |= {n.id: v for n, v in zip(target.elts, value, strict=True) if isinstance(n, ast.Name)}
    return collected


def _definition(module: str, name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """A definition and the module that it is in, through whatever re-exports it."""
    path = _file(module)
    if path is None:
        return None
    for node in reversed(_statements(_parsed(path).body)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            original = next((alias.name for alias in node.names if (alias.asname or alias.name) == name), None)
            source = _imported_module(node, module if path.name == "__init__.py" else module.rpartition(".")[0])
            if original is not None:
                return None if source == module else _definition(source, original)
    return None


def _statements(body: list[ast.stmt]) -> list[ast.stmt]:
    """Those of a module, with what it imports for its types alone."""
    typing = [node for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return [*(inner for node in typing for inner in node.body), *body]


def _imported_module(node: ast.ImportFrom, package: str) -> str:
    """The absolute name of the module that a ``from ... import`` in a package names."""
    if not node.level:
        return node.module or ""
    above = package.split(".")[: len(package.split(".")) - (node.level - 1)]
    return ".".join([*above, node.module] if node.module else above)


def _file(module: str) -> Path | None:
    """A module's file, found without importing its packages."""
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    if not below:
        return Path(spec.origin)
    path = Path(spec.origin).parent.joinpath(*below)
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _of_arguments(arguments: ast.arguments, skip: int = 0) -> Signature:
    positional = [*arguments.posonlyargs, *arguments.args]
    required = {a.arg for a in positional[: len(positional) - len(arguments.defaults)]}
    required |= {a.arg for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is None}
    named = [a for a in positional[skip:] if a not in arguments.posonlyargs] + arguments.kwonlyargs
    annotations = {a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in named}
    given = zip([*positional, *arguments.kwonlyargs], [*[None] * (len(positional) - len(arguments.defaults)),
                *arguments.defaults, *arguments.kw_defaults], strict=True)  # fmt: skip
    defaults = {a.arg: value for a, node in given if (value := _plain(node)) is not _NONE_SUCH}
    return Signature(annotations, required & set(annotations), arguments.kwarg is not None, defaults)


def _plain(node: ast.expr | None) -> Any:
    """The value of an expression that needs nothing to be run."""
    try:
        return _NONE_SUCH if node is None else ast.literal_eval(node)
    except ValueError:
        return _NONE_SUCH
