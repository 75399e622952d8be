"""A value that is made when it is first asked for."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801 (used as property is)
    """``functools.cached_property`` without its lock (Python 3.11 and before), which ``torch.compile`` cannot enter."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self.make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, owned: None, owner: type) -> "once[T]": ...
    @overload
    def __get__(self, owned: object, owner: type) -> T: ...
    def __get__(self, owned: object, owner: type) -> "T | once[T]":
        if owned is None:
            return self
        value = self.make(owned)
        setattr(owned, self.name, value)
        return value
