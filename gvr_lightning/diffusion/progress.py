"""How far the drawing of images is, on standard error."""

import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from gvr_lightning.distributed.batch import rank_and_size


def shown(batches: Iterable[Tensor], number: int, bar: Progress | None = None) -> Iterator[Tensor]:
    """The same batches; with a bar and images/s on a terminal, one line at the end elsewhere.

    Args:
        batches: tensors (B, ...), of ``number`` images together.
        number: how many there will be.
        bar: one that is up already, to be shown in.
    """
    console, start, done = Console(stderr=True), time.perf_counter(), 0
    own = bar is None
    if bar is None:
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(
            *columns,
            TextColumn("{task.fields[rate]}"),
            console=console,
            disable=not console.is_terminal or rank_and_size()[0] > 0,
        )
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
    if not console.is_terminal and rank_and_size()[0] == 0:
        print(f"drew {done:,} images in {time.perf_counter() - start:.1f} s ({rate})", file=sys.stderr)
