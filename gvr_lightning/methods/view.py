"""What a penalty sees: a batch's views after their passes through the network. Every mean is the global batch's."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gvr_lightning.distributed.batch import RowCount, Shard, equal_shard, gather_rows
from gvr_lightning.distributed.sync_batchnorm import uncounted
from gvr_lightning.methods.once import once
from gvr_lightning.methods.passes import Criterion, Input, Through, row_of_zeros, take
from gvr_lightning.methods.upload import upload


@dataclass
class View:
    """One view after its pass; ``sample`` and ``halves`` choose rows of it without another one.

    Attributes:
        logits: (B, C, ...), float32 at least.
        target: (B, ...), of these rows.
        features: what entered the head, (B, D), and
        entering: what entered the last stage; None where the pass did not keep them.
    """

    logits: Tensor
    target: Tensor
    features: Tensor | None
    entering: Input | None
    batch: "GlobalBatch"
    number: int  # among the views
    count: RowCount  # of its rows, how many are here
    index: Tensor | None = None  # which of the batch's rows here these are; None: all
    order: Tensor | None = None  # the global batch's rows that these were chosen as; None: all
    source: "View | None" = None  # that these rows were chosen from
    head: nn.Module | None = None  # the layer that the features entered

    @once
    def loss(self) -> Tensor:
        """The criterion of these rows, a scalar."""
        return self.loss_of(self.logits)

    def loss_of(self, logits: Tensor) -> Tensor:
        """The criterion of these rows with logits of another pass."""
        return self.mean(self.batch.criterion(logits, self.target))

    def mean(self, values: Tensor) -> Tensor:
        """The mean of one value a row, or of what is a mean over these rows already; a scalar.

        Over several processes it is scaled so that the processes' mean is the global batch's.
        """
        mean = values.mean() if values.ndim else values
        return mean if self.weight == 1 else mean * self.weight

    @property
    def weight(self) -> float:
        """Of a mean over the rows here."""
        return self.count.weight

    @property
    def most(self) -> int:
        """Rows of this view that any process may have."""
        return self.count.most

    def sample(self, n: int, like: "View | None" = None) -> "View":
        """The first n rows in this view's random order, or those of another view."""
        return self._rows((like or self)._random_order()[:n])

    def halves(self) -> "list[View]":
        """Two random halves of the rows, as views; of a single row one."""
        return [self._rows(half) for half in self._random_order().tensor_split(2) if len(half)]

    def uncounted(self, module: nn.Module) -> AbstractContextManager[None]:
        """Round a further pass of these rows: where one only stands in for none, it leaves no trace in BatchNorm."""
        return nullcontext() if self.weight else uncounted(module)

    def _random_order(self) -> Tensor:
        return self.batch.orders[self.number] if self.order is None else self.order

    def _rows(self, order: Tensor) -> "View":
        source = self.source or self
        index, count = self.batch.choose(order)
        return replace(
            source,
            logits=source.logits[index],
            target=source.target[index],
            features=None if source.features is None else source.features[index],
            entering=None if source.entering is None else take(source.entering, index),
            count=count,
            index=index,
            order=order,
            source=source,
        )


class GlobalBatch:
    """The batch of all processes, of which each has some rows of every view.

    Args:
        criterion: (logits (B, C, ...), target (B, ...)) -> scalar; over several processes it must be a mean.
        inputs: V inputs, the rows that are here.
        targets: V targets, likewise.
        keys: random numbers (V, all rows), the rows with the smallest first; None: torch's generator draws them.
        shard: which rows are here; None: where there is a process group, each has as many; else all.
    """

    def __init__(
        self,
        criterion: Criterion,
        inputs: Sequence[Input],
        targets: Sequence[Tensor],
        keys: Tensor | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.criterion, self.inputs, self.targets, self._keys = criterion, inputs, targets, keys
        self.shard = shard or equal_shard(len(targets[0]))

    @once
    def orders(self) -> Tensor:
        """A random order of all rows for each view, (V, all rows); the same on every process."""
        if self._keys is not None:
            return self._keys.argsort(dim=1)
        keys = torch.rand(len(self.inputs), len(self.targets[0]), device=self.targets[0].device)
        return (keys if self.shard.processes == 1 else gather_rows(keys.T).T).argsort(dim=1)

    def choose(self, rows: Tensor) -> tuple[Tensor, RowCount]:
        """As :meth:`Shard.choose`; keys of the CPU's make the choice there, so that no GPU is awaited."""
        index, count = self.shard.choose(rows)
        return upload(index, self.targets[0].device), count

    def views(self, model: nn.Module, through: Through, rows: Tensor | None = None) -> list[View]:
        """Each view's pass through the network.

        A process without rows passes one of zeros, with weight 0: all compute the same, and their collectives meet.

        Args:
            model: the network.
            through: how, see passes.py.
            rows: of the global batch, those that pass; None: all.
        """
        inputs, targets, count = self.inputs, self.targets, self.shard.row_count
        if rows is not None:
            index, count = self.choose(rows)
            inputs = [take(x, index[: count.rows]) for x in inputs]
            targets = [y[index[: count.rows]] for y in targets]
        if count.rows:
            return self._pass(model, through, inputs, targets, count)
        with uncounted(model):
            return self._pass(model, through, list(map(row_of_zeros, inputs)), [_zero(y) for y in targets], count)

    def _pass(
        self, model: nn.Module, through: Through, inputs: Sequence[Input], targets: Sequence[Tensor], count: RowCount
    ) -> list[View]:
        passes = [through(model, x) for x in inputs]
        return [
            View(p.logits, y, p.features, p.entering, self, number, count, head=p.head)
            for number, (p, y) in enumerate(zip(passes, targets, strict=True))
        ]


def _zero(target: Tensor) -> Tensor:
    return target.new_zeros(1, *target.shape[1:])
