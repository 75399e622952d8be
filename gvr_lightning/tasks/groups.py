"""Which parameters are trained, how fast, and whether they decay: the optimizer's groups."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from gvr_lightning.config.wording import nearest
from gvr_lightning.errors import UserError

Named = dict[str, nn.Parameter]


class ParameterGroups:
    """Frozen parameters, and groups of the others; without any of the three the optimizer gets one plain list.

    What is named is a module, such as backbone or backbone.early, or a pattern of parameters' names, such as *.bias.

    Args:
        freeze: what stays as it is; None for nothing.
        lr_scale: the learning rate of what is named, as a multiple of the others'.
        no_decay: "norm_bias": no weight decay of what has one dimension or none, biases and the scales of norms.
    """

    def __init__(
        self,
        freeze: str | Sequence[str] | None = None,
        lr_scale: Mapping[str, float] | None = None,
        no_decay: str | None = None,
    ) -> None:
        self.freeze, self.lr_scale, self.no_decay = freeze, dict(lr_scale or {}), no_decay

    def frozen(self, model: nn.Module) -> list[nn.Module]:
        """Freeze what is named; the modules that are frozen wholly, which stay in evaluation mode.

        Raises:
            UserError: for a name that means nothing, or if nothing is left to train.
        """
        if self.freeze is None:
            return []
        named = dict(model.named_parameters())
        for pattern in [self.freeze] if isinstance(self.freeze, str) else self.freeze:
            for name in _meant(model, named, pattern, "parameters.freeze"):
                named[name].requires_grad_(False)
        if not any(p.requires_grad for p in named.values()):
            raise UserError("parameters.freeze: leaves nothing to train")
        return [m for m in model.modules() if (own := list(m.parameters())) and not any(p.requires_grad for p in own)]

    def optimizer(self, make: Callable[..., Optimizer], model: nn.Module) -> Optimizer:
        """An optimizer of what is trained.

        Raises:
            UserError: for an optimizer whose groups have no learning rate, or no weight decay, of their own.
        """
        if not self.lr_scale and self.no_decay is None:
            return make([p for p in model.parameters() if p.requires_grad])
        groups = self.named(model)
        optimizer = make([{"params": params} for _, _, params in groups])
        for (name, decays, _), group in zip(groups, optimizer.param_groups, strict=True):
            for key, setting in (("lr", "lr_scale" * bool(name)), ("weight_decay", "no_decay" * (not decays))):
                if setting and key not in group:
                    kind = type(optimizer).__name__
                    raise UserError(f"parameters.{setting}: {kind} keeps no {key} for each group of parameters")
            if name:
                group["name"], group["lr"] = name, group["lr"] * self.lr_scale[name]
            if not decays:
                group["weight_decay"] = 0.0
        return optimizer

    def named(self, model: nn.Module) -> list[tuple[str, bool, list[nn.Parameter]]]:
        """What is trained, by groups: its name in ``lr_scale``, "" for all others; whether it decays; the parameters.

        Raises:
            UserError: for a name that means nothing, nothing that is trained, or what another one means too.
        """
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        owner: dict[str, str] = {}
        for pattern in self.lr_scale:
            for name in _meant(model, named, pattern, "parameters.lr_scale"):
                if name in owner:
                    raise UserError(f"parameters.lr_scale: {owner[name]} and {pattern} both mean {name}: name it once")
                owner[name] = pattern
        groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for pattern in ("", *self.lr_scale):
            for decays in (True, False):
                groups[pattern, decays] = [
                    p
                    for name, p in named.items()
                    if owner.get(name, "") == pattern and (self.no_decay is None or p.ndim > 1) == decays
                ]
        return [(*key, params) for key, params in groups.items() if params]


def _meant(model: nn.Module, named: Named, pattern: str, key: str) -> list[str]:
    """The names of parameters that a pattern, or the name of a module, means."""
    everything = [name for name, _ in model.named_parameters()]
    found = [name for name in everything if any(fnmatch.fnmatchcase(name, pattern + end) for end in ("", ".*"))]
    if not found:
        modules = [name for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
        near = nearest(pattern, [*modules, *everything])
        hint = f"did you mean {near}?" if near else f"there is {', '.join(n for n, _ in model.named_children())}, ..."
        raise UserError(f"{key}: the network has no parameters {pattern}; {hint}")
    if not any(name in named for name in found):
        raise UserError(f"{key}: all parameters {pattern} are frozen")
    return [name for name in found if name in named]
