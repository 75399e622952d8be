"""What a ``_target_`` takes: by its source, or else by importing it."""

import importlib
import inspect
from functools import cache
from typing import Any

from gvr_lightning.config.source_code import Signature, from_source
from gvr_lightning.config.wording import nearest


@cache
def signature(target: str) -> Signature:
    """The arguments of a class or function, a class's with those that its ``**kwargs`` pass to its bases.

    Raises:
        ImportError: if there is no such thing, with the reason and the nearest name.
    """
    module, _, name = target.rpartition(".")
    return (from_source(module, name) if module else None) or _of_object(locate(target))


def locate(target: str) -> Any:
    """The class or function itself, imported.

    Raises:
        ImportError: if there is no such thing, with the reason and the nearest name.
    """
    first, *rest = target.split(".")
    try:
        found: Any = importlib.import_module(first)
        for part in rest:
            if not hasattr(found, part) and inspect.ismodule(found):
                _import_submodule(found, part)
            found = getattr(found, part)
    except Exception as error:  # an import runs code, which raises what it likes
        raise ImportError(" ".join(str(error).split()) or type(error).__name__) from error
    if not callable(found):
        raise ImportError("it cannot be called")
    return found


def _import_submodule(package: Any, name: str) -> None:
    full = f"{package.__name__}.{name}"
    try:
        importlib.import_module(full)
    except ModuleNotFoundError as error:
        if error.name not in (full, package.__name__):
            raise
        near = nearest(name, [n for n in dir(package) if not n.startswith("_")])
        hint = f"; did you mean {package.__name__}.{near}?" if near else ""
        raise ImportError(f"{package.__name__} has no {name}{hint}") from error


def _of_object(target: Any) -> Signature:
    functions = [target]
    if inspect.isclass(target):
        functions = [vars(c)["__init__"] for c in target.__mro__[:-1] if "__init__" in vars(c)] or [target]
    result = Signature(open=True)
    for function in functions:
        own = _of_function(function)
        if own is None or not result.open:
            break
        result = result | own
    return result


def _of_function(function: Any) -> Signature | None:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some C functions have none
        return None
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"]
    annotations = {p.name: "" if p.annotation is p.empty else inspect.formatannotation(p.annotation) for p in named}
    required = {p.name for p in named if p.default is p.empty}
    return Signature(annotations, required, any(p.kind is p.VAR_KEYWORD for p in parameters))
