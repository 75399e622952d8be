"""An optimizer round another one. Imports torch only."""

from typing import Any

from torch.optim import Optimizer


class Wrapper(Optimizer):
    """Has `param_groups`, `state`, `state_dict()`, hooks and all else but `step` of the optimizer that it wraps."""

    base: Optimizer

    def __init__(self, base: Optimizer) -> None:
        self.base = base

    def __getattr__(self, name: str) -> Any:
        if name == "base" or name.startswith("__"):  # before __init__; or copy asks about the wrapper itself
            raise AttributeError(name)
        return getattr(self.base, name)


def _of_base(name: str) -> property:
    return property(lambda self: getattr(self.base, name), lambda self, value: setattr(self.base, name, value))


for _name in ["param_groups", "state", "defaults", *(n for n in vars(Optimizer) if n[0] != "_" and n != "step")]:
    setattr(Wrapper, _name, _of_base(_name))  # what Optimizer has itself would not reach __getattr__
