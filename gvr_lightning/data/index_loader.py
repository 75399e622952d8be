"""The loader: numbers only."""

from collections.abc import Callable, Iterator

from torch import Tensor


class IndexLoader:
    """Batches of sample numbers, in an order that may depend on the epoch, from the batch at which a run stopped on.

    Args:
        order: () -> all sample numbers, in this epoch's order.
        n: how many there are.
        batch_size: the last batch may be smaller.
        start: () -> the first batch of this epoch that is still to be done.
    """

    def __init__(self, order: Callable[[], Tensor], n: int, batch_size: int, start: Callable[[], int]) -> None:
        self.order, self.n, self.batch_size, self.start = order, n, batch_size, start

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = self.order()
        for batch in range(self.start(), len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size]
