"""The last layer of any network: found, and heard of what enters it. Imports torch only."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gvr_lightning.methods.passes import Input, Network, Pass, at_least_float32, logits_of

NAMES = ("fc", "head", "classifier")  # of the last layer, or of what holds it, in most networks
_ORIGINAL = "_orig_mod"  # what torch.compile calls the network that it wraps
INSTEAD = "name it, head='fc' or head=model.fc, or give layers=[names of modules]"


def unwrapped(model: Network) -> Network:
    """The network itself, from within DDP and ``torch.compile``.

    Raises:
        ValueError: for DataParallel, which runs copies.
    """
    while True:
        if isinstance(model, nn.DataParallel):
            raise ValueError("nn.DataParallel runs copies of the network, which cannot be looked into: use DDP")
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif _ORIGINAL in model._modules:
            model = model._modules[_ORIGINAL]
        else:
            return model


def candidates(model: Network, head: str | nn.Module | None) -> list[nn.Module]:
    """Layers of which the last to run is the last layer.

    Args:
        model: any network.
        head: the layer, or its name; None: ``get_classifier()``, ``.fc``, ``.head``, ``.classifier`` or the last
            ``nn.Linear`` in one of these, else all ``nn.Linear``.

    Raises:
        ValueError: if there is none, or the network has no such layer.
    """
    network = unwrapped(model)
    if isinstance(head, nn.Module):
        if not any(module is head for module in network.modules()):
            raise ValueError(f"head: {type(head).__name__} is no part of this {type(network).__name__}")
        return [head]
    if head is not None:
        try:
            return [network.get_submodule(head)]
        except AttributeError as error:
            names = ", ".join(name for name, _ in network.named_children())
            raise ValueError(f"head={head!r}: {type(network).__name__} has no such layer; it has {names}") from error
    classifier = network.get_classifier() if hasattr(network, "get_classifier") else None
    for part in (classifier, *(getattr(network, name, None) for name in NAMES)):
        if isinstance(part, nn.Module) and (found := _linear(part)):
            return found[-1:]
    if found := _linear(network):
        return found
    raise ValueError(f"{type(network).__name__} has no linear layer: {INSTEAD}")


def by_last_layer(model: Network, x: Input, layers: Sequence[nn.Module]) -> Pass:
    """A pass through the whole network that keeps what enters the last of some layers to run.

    Raises:
        ValueError: if none of them ran, or what it gives is not what the network gives.
    """
    tap = _tapped(layers) if _is_compiled(model) else _Tap()
    tap.last = None
    handles = [] if tap in layers[0]._forward_hooks.values() else [m.register_forward_hook(tap) for m in layers]
    try:
        logits = logits_of(model(x))
    finally:
        for handle in handles:
            handle.remove()
    last: Any = tap.last
    tap.last = None
    if last is None:
        raise ValueError(f"{type(layers[-1]).__name__}, the last layer, did not run: {INSTEAD}")
    layer, features, output = last
    if not _same(output, logits):
        name = next(name for name, module in unwrapped(model).named_modules() if module is layer)
        raise ValueError(f"what {name!r} gives is not what the network gives: {INSTEAD}")
    return Pass(at_least_float32(logits), features, head=layer)


class _Tap:
    """Keeps what entered the last of its layers to run, and what left it."""

    last: tuple[nn.Module, Tensor, Tensor] | None = None

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.last = (layer, inputs[0], output)


def _tapped(layers: Sequence[nn.Module]) -> _Tap:
    """The tap that stays in a compiled network, whose code was made with it."""
    for hook in layers[0]._forward_hooks.values():
        if isinstance(hook, _Tap):
            return hook
    tap = _Tap()
    for layer in layers:
        layer.register_forward_hook(tap)
    torch.compiler.reset()  # what was compiled without it would not call it
    return tap


def _is_compiled(model: nn.Module) -> bool:
    return any(_ORIGINAL in m._modules or m._compiled_call_impl is not None for m in model.modules())


def _linear(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.stride() == b.stride() and a.data_ptr() == b.data_ptr())
