"""A run on torch's *meta* device, whose tensors have no content: what a GPU would be told, and where be awaited.

Each operation on it counts as one kernel, views and allocations as none, an upload as one, and one on lists of tensors
as many as there are where torch goes through them one by one. What is read is made up.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

META = torch.device("meta")
UPLOADS = (torch.tensor, torch.as_tensor, torch.asarray)  # of numbers, which torch copies before it dispatches
FREE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh")
COPIES = ("_to_copy", "copy_")


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Any."""


class MetaTrainer(Trainer):
    """Lightning's, whose one device is meta: ``trainer._target_=on_meta.MetaTrainer``."""

    def __init__(self, **options: Any) -> None:
        options |= {"accelerator": "auto", "strategy": SingleDeviceStrategy(META, _Accelerator())}
        super().__init__(**options)


class Work(TorchDispatchMode):
    """Counts kernels by name, and the places where the host waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name.partition("::")[2]
        if torch.is_inference_mode_enabled():  # there some arrive as they were called, without their parts
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        read = any(x.is_meta for x in tensors)
        if read and name == "_local_scalar_dense":
            self.wait("read")
            return torch.ones((), dtype=args[0].dtype).item()
        if read and (kwargs.get("device", META).type == "cpu" or (name == "copy_" and not args[0].is_meta)):
            self.wait("download")
            return args[0] if name == "copy_" else torch.ones(args[0].shape, dtype=kwargs["dtype"])
        if name.startswith("index") and read and any(x.is_cpu and x.ndim for x in tensors):
            self.wait("upload of an index")
        result = _answer(func, args, kwargs) if read else func(*args, **kwargs)
        if not (read or (isinstance(result, Tensor) and result.is_meta)):
            return result
        if name in COPIES and any(x.is_cpu and x.ndim for x in tensors):
            asynchronous = kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,))
            name = "upload"
            if not asynchronous:
                self.wait("upload")
        self.kernels[name] += 0 if name in FREE or func.is_view else _launches(name, args)
        return result

    def wait(self, kind: str) -> None:
        """Note it, with the place in the project, or the nearest one."""
        frame, places = sys._getframe(2), []
        while frame is not None:
            places.append(f"{frame.f_code.co_filename.rpartition('site-packages/')[2]}:{frame.f_lineno}")
            frame = frame.f_back  # type: ignore[assignment]
        ours = [place for place in places if "gvr_lightning/" in place]
        self.waits.append(f"{kind} at {(ours or places)[0].rpartition('gvr_lightning/')[2]}")


def _launches(name: str, args: Any) -> int:
    """One, also for lists of tensors, if each has the shape, strides and type of its partners."""
    lists = [x for x in args if isinstance(x, list | tuple) and x and isinstance(x[0], Tensor)]
    if not name.startswith("_foreach") or all(
        len({(x.shape, x.stride(), x.dtype) for x in together}) == 1 for together in zip(*lists, strict=True)
    ):
        return 1
    return len(lists[0])


_KNOWN: dict[Any, Any] = {}  # what came of an operation on tensors of these shapes: torch takes a millisecond to say


def _answer(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation gives, of tensors without content."""
    returned = func._schema.returns
    if func.is_view or any(x.alias_info for x in returned):
        in_place = not func.is_view and all(x.alias_info and x.alias_info.is_write for x in returned)
        return args[0] if in_place and len(returned) == 1 and not kwargs else func(*args, **kwargs)
    if not returned:  # _foreach_add_ and its like
        return None
    key = func, _described(args), _described(kwargs)
    if key not in _KNOWN:
        result = func(*args, **kwargs)
        _KNOWN[key] = tree_map_only(Tensor, _Kind, result)
        return result
    return tree_map_only(_Kind, _Kind.tensor, _KNOWN[key])


class _Kind:
    def __init__(self, x: Tensor) -> None:
        self.like = x.shape, x.stride(), x.dtype, x.device

    def tensor(self) -> Tensor:
        shape, stride, dtype, device = self.like
        return torch.empty_strided(shape, stride, dtype=dtype, device=device)


def _described(x: Any) -> Any:
    if isinstance(x, Tensor):
        return tuple(x.shape), x.stride(), x.dtype, x.is_meta
    if isinstance(x, dict):
        return tuple((name, _described(value)) for name, value in x.items())
    return tuple(map(_described, x)) if isinstance(x, list | tuple) else (type(x), x)


class _Numbers(TorchFunctionMode):
    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (kwargs or {}).get("device")
        if func in UPLOADS and given is not None and torch.device(given).type == "meta":
            self.work.wait("upload")
            self.work.kernels["upload"] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def watched() -> Iterator[Work]:
    """What is done meanwhile; multi-tensor kernels are there as on a GPU."""
    listed = _foreach_utils._get_foreach_kernels_supported_devices()
    with pytest.MonkeyPatch.context() as patch:
        for module in (_foreach_utils, sys.modules["torch.optim.optimizer"], sys.modules["torch.optim.swa_utils"]):
            patch.setattr(module, "_get_foreach_kernels_supported_devices", lambda: [*listed, "meta"])
        autocast = torch.autocast  # which knows no meta device
        patch.setattr(torch, "autocast", lambda kind, *a, **k: autocast("cpu" if kind == "meta" else kind, *a, **k))
        with Work() as work, _Numbers(work):
            yield work
