"""A batch's loss as one graph: the passes of all views, their losses and the penalty, forward and backward."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch._dynamo import config as dynamo
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from gvr_lightning.errors import UserError
from gvr_lightning.methods.penalty import Penalty, RegularizedLoss


class CompiledLoss:
    """Called as the penalty; what it returns has a ``total`` to call ``backward()`` on, and nothing else with a graph.

    Where torch cannot make one graph of it, it says so once and is the penalty itself, whose network may be compiled.

    Args:
        penalty: whose gradients within the loss (of the last layer, in closed form) are part of the graph.
        cuda_graphs: launch it as CUDA graphs, two for forward and backward instead of hundreds of kernels. What it
            returns, and the gradients that come of it, are then overwritten in the update after :meth:`start_update`.
        **options: of ``torch.compile``.
    """

    def __init__(self, penalty: Penalty, cuda_graphs: bool = False, **options: Any) -> None:
        if hasattr(dynamo, "trace_autograd_ops"):  # torch 2.11; before, a gradient within ends the graph
            dynamo.trace_autograd_ops = True
        self.penalty, self.cuda_graphs, self.is_whole = penalty, cuda_graphs, True
        mode = "reduce-overhead" if cuda_graphs else None  # torch's name for CUDA graphs
        # one graph for each number of rows: an epoch's last batch may have fewer
        self._graph = torch.compile(_with_total, fullgraph=True, dynamic=False, mode=mode, **options)

    def start_update(self) -> None:
        """Of what the update before returned nothing is read any more."""
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def __call__(self, *arguments: Any) -> RegularizedLoss:
        """See :meth:`Penalty.__call__`."""
        if self.is_whole:
            try:
                return self._graph(self.penalty, *arguments)
            except (TorchDynamoException, FailOnRecompileLimitHit) as error:
                self.is_whole = False
                why = f"since the loss cannot be one graph: {_first_line(error)}"
                print(f"task.compile: the backbone alone is compiled, {why}", file=sys.stderr)
        return self.penalty(*arguments)


def _first_line(error: Exception) -> str:
    cause = getattr(error, "inner_exception", error)  # of the code generator's, which torch tells after its own name
    return next((line for line in str(cause).splitlines() if line), type(cause).__name__)


@contextmanager
def compiler_is_told() -> Iterator[None]:
    """Round what may be compiled, which takes a C++ compiler, on a GPU Triton, and code that torch can follow.

    Raises:
        UserError: instead of torch's own exceptions.
    """
    try:
        yield
    except TorchDynamoException as error:
        ways_out = "install a C++ compiler (GPU: Triton, too), or use task.compile=false and no other compile=true"
        told = UserError(f"torch.compile: {_first_line(error)}; {ways_out}")
        told.details = "".join(traceback.format_exception(error))
        raise told from error


def _with_total(penalty: Penalty, *arguments: Any) -> RegularizedLoss:
    """The loss, whose total is part of the graph; of all else no gradient is wanted."""
    loss = penalty(*arguments)
    total, fixed = loss.total, [loss.penalty.detach(), *(x.detach() for x in (*loss.losses, *loss.logits))]
    views = len(loss.losses)
    known = replace(loss, penalty=fixed[0], losses=fixed[1 : 1 + views], logits=fixed[1 + views :])
    known.total = total
    return known
