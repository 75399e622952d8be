"""How far the drawing of images is, on standard error."""

import sys
import time
from collections.abc import Iterable, Iterator

from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.progress import progress_bar


def shown(batches: Iterable[Tensor], number: int, bar: Progress | None = None) -> Iterator[Tensor]:
    """The same batches; with a bar and images/s on a terminal, one line at the end elsewhere.

    Args:
        batches: tensors (B, ...), of ``number`` images together.
        number: how many there will be.
        bar: one that is up already, to be shown in.
    """
    start, done, first = time.perf_counter(), 0, rank_and_size()[0] == 0
    own = bar is None
    if bar is None:
        columns = (MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[rate]}"))
        bar = progress_bar(*columns, quiet=not first)
    task = bar.add_task("drawing images", total=number, rate="", metrics="")
    if own:
        bar.start()
    try:
        for batch in batches:
            done += len(batch)
            rate = f"{done / (time.perf_counter() - start):,.1f} images/s"
            bar.update(task, completed=done, rate=rate)
            yield batch
    finally:
        bar.stop() if own else bar.remove_task(task)
    if not bar.console.is_terminal and first:
        print(f"drew {done:,} images in {time.perf_counter() - start:.1f} s ({rate})", file=sys.stderr)
