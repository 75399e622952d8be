"""Work beside the training: a thread writes a copy of the state, while the state itself goes on changing."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

NAME = "beside-the-training"


class Beside:
    """One piece of work at a time, in a thread; what went wrong in it is raised by whoever asks next."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin, when the piece before has ended."""
        self.wait()
        self._thread = threading.Thread(target=self._do, args=(work,), name=NAME)
        self._thread.start()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._error = error

    def look(self) -> None:
        """Raise what went wrong, if it has; without waiting."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Until it has ended; raise what went wrong."""
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error


def held(state: dict[str, Any]) -> dict[str, Any]:
    """A copy of a state, of plain containers and tensors, on the CPU: by pinned memory where it comes from a GPU."""
    found: dict[int, Any] = {id(t): _pinned(t) for t in tree_leaves(state) if isinstance(t, Tensor) and t.is_cuda}
    if found:
        torch.cuda.synchronize()  # once for all of them
    return copy.deepcopy(state, found)  # which takes what is found for copied


def _pinned(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor.detach(), non_blocking=True)
