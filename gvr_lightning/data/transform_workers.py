"""Processes that apply a transform of one's own, a few batches ahead of the steps.

Torch has one generator for all threads of a process, in which each image's draws are seeded: so threads would not do.
"""

import gc
import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from gvr_lightning.data.augmentation import PerImage
from gvr_lightning.data.decode import share_of_cores
from gvr_lightning.data.encoded import EncodedImages
from gvr_lightning.errors import STOPPING, TrainingError, UserError

MOST = 16  # processes, if nobody has asked for more: each takes 25 ms to start
LEAST = 16  # images, for which sending a part of a batch, half a millisecond, is worth it
KILLED = "a process of data.transform was killed, perhaps for want of memory; fewer data.transform_workers need less"


class Transformed:
    """The views of some images, in the process that calls it; on the CPU, so that pixels are the same in all.

    Args:
        images: uint8 (N, C, H, W).
        transform: of one.
    """

    def __init__(self, images: Tensor | EncodedImages, transform: PerImage) -> None:
        self.images, self.transform = images, transform

    def __call__(self, index: Tensor, keys: Sequence[int]) -> Tensor:
        """Sample numbers (B,) to (V, B, C, H, W), a view for each key.

        Raises:
            UserError: for a transform that fails.
        """
        images = self.images[index]
        with self.told():
            return self.transform.views(images, index, keys)

    @contextmanager
    def told(self) -> Iterator[None]:
        """What the transform raises, and what cannot be made of what it gives, is one line with its name."""
        own = self.transform.transform
        try:
            yield
        except Exception as error:
            raise _complaint(
                f"data.transform ({getattr(own, '__qualname__', type(own).__qualname__)})", error
            ) from error

    def alone(self) -> "Transformed":
        """For one of many processes, with a single thread."""
        images = self.images.alone() if isinstance(self.images, EncodedImages) else self.images
        return Transformed(images, self.transform)


class TransformWorkers:
    """The processes. They are started once for all epochs.

    Forked, where the system's way is that, they share the images' memory with this process; elsewhere they get them,
    and the transform, by pickle.

    Args:
        made: what they do.
        workers: how many; None for one a core, the cores being shared by a machine's processes, and ``MOST`` at most.

    Raises:
        UserError: if none can be started.
    """

    def __init__(self, made: Transformed, workers: int | None) -> None:
        self.made, self.workers = made, workers or min(share_of_cores(), MOST)
        context = mp.get_context(mp.get_all_start_methods()[0])  # the system's way, whatever joblib has set
        context.set_forkserver_preload([__name__])  # torch, once for all of them
        life, self._held = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(self.workers, context, _begin, (made.alone(), life, self._held))
        try:
            self._pool.submit(os.getpid)  # by which they are started
        except Exception as error:
            self.close()
            method = context.get_start_method()
            how = method if method == "fork" else f"{method}, for which pickle has to take the transform"
            raise _complaint(f"data.transform_workers: no process starts by {how} (0 does without)", error) from error

    def __call__(self, index: Tensor, keys: Sequence[int], pinned: bool) -> Tensor:
        """As :class:`Transformed`; each process makes a part, so that a batch is soon there, and few are held.

        Raises:
            UserError: for a transform that fails.
            TrainingError: if a process was killed.
        """
        parts = index.tensor_split(max(1, min(self.workers, len(index) // LEAST)))
        try:
            begun = [self._pool.submit(_views, part.tolist(), keys) for part in parts]
            views = [future.result() for future in begun]
        except BrokenProcessPool as error:
            raise TrainingError(KILLED) from error
        with self.made.told():
            shape = (len(keys), len(index), *views[0].shape[2:])
            out = torch.empty(shape, dtype=views[0].dtype, pin_memory=pinned)
            return torch.cat(views, 1, out=out)

    def close(self) -> None:
        """End them, whatever they are at."""
        self._held.close()
        self._pool.shutdown(cancel_futures=True)


def _complaint(key: str, error: Exception) -> UserError:
    from gvr_lightning.instantiate import complaint  # and Lightning, which such a process needs for nothing else

    return complaint(key, error)


_at_work: list[Transformed] = []  # in such a process, what it does


def _begin(made: Transformed, life: Connection, held: Connection) -> None:
    """In a new process. No signal to the whole run ends it, which may need it for a last step: the run does."""
    gc.freeze()  # what was forked stays as it is: neither copied by a collection, nor ended as if it were ours
    for signum in STOPPING:
        signal.signal(signum, signal.SIG_IGN)
    held.close()
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    torch.set_num_threads(1)
    _at_work.append(made)


def _end_with(life: Connection) -> None:
    """Nothing is ever sent: the other end is closed, or its process has ended."""
    life.poll(None)
    os._exit(0)


def _views(numbers: list[int], keys: Sequence[int]) -> Tensor:
    """In memory that is shared with the run's process; where there is none left, that is raised here, and told."""
    views = _at_work[0](torch.tensor(numbers, dtype=torch.int64), keys)
    return views.share_memory_()  # type: ignore[no-any-return]
