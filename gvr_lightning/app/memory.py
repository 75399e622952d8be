"""Memory that a command keeps: what one step has freed is what the next one takes."""

import ctypes
import os
import sys

# of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER, NONE = -1, 0
OF_THE_USER = (
    *("GLIBC_TUNABLES", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_"),
    *("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"),
)  # glibc's variables about the same


def keep_memory() -> None:
    """Let glibc keep what is freed, whatever its size.

    By itself it gives blocks of 32 MiB or more back to the kernel at once, and the end of its heap where enough of it
    is free. A step takes as much again, as new pages, each of which the kernel has to fill with zeros: half a million
    in a float32 step of a ResNet-18 with 128 images, a third of its time. The process keeps what it needed at most.

    Other C libraries and other systems stay as they are, and so does glibc where the environment says anything of this.
    """
    if any(name in os.environ for name in OF_THE_USER):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, NONE)
        mallopt(M_TRIM_THRESHOLD, NEVER)
