"""The loader: numbers only."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

Ahead = Callable[[Iterator[Tensor]], Iterator[Any]]


class IndexLoader:
    """Batches of sample numbers, in an order that may depend on the epoch, from the batch at which a run stopped on.

    Args:
        order: () -> all sample numbers, in this epoch's order.
        n: how many there are.
        batch_size: the last batch may be smaller.
        start: () -> the first batch of this epoch that is still to be done.
        ahead: the batches -> what is handed out instead of each, such as with images that are being read; None: they.
    """

    def __init__(
        self,
        order: Callable[[], Tensor],
        n: int,
        batch_size: int,
        start: Callable[[], int],
        ahead: Ahead | None = None,
    ) -> None:
        self.order, self.n, self.batch_size, self.start, self.ahead = order, n, batch_size, start, ahead

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        return self._batches() if self.ahead is None else self.ahead(self._batches())

    def _batches(self) -> Iterator[Tensor]:
        """Asks for order and start when the first batch is wanted: not before a checkpoint has been restored."""
        order = self.order()
        for batch in range(self.start(), len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size]
