"""A network's calls on a GPU, one launch each, not hundreds: the host takes longer for those than the GPU computes."""

import sys
from functools import cache

import torch
from torch import Tensor, nn

from gvr_lightning.methods.passes import forward


class GraphedNetwork:
    """(x_t, t) -> prediction, for calls with inputs of one shape and with weights that stay.

    The first call is the network's own, the second is captured as a CUDA graph, and all from then on launch that: the
    same kernels on the same numbers. Elsewhere than on a GPU, where it cannot be captured, and with a network that does
    not say that it is ``capturable``, each call is the network's own.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self._capturable = network, is_capturable(network)
        self._given: tuple[Tensor, Tensor] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """What the network predicts, in a tensor of its own: a scheduler may keep it."""
        if not self._capturable:
            return forward(self.network, (x, t))
        if self._given is None:
            self._given = x.clone(), t.clone()  # already here, so that what is compiled is for just these
            return forward(self.network, self._given)
        self._given[0].copy_(x)
        self._given[1].copy_(t)
        if self._graph is None:
            try:
                self._graph = self._captured(*self._given)
            except RuntimeError as error:  # of what cannot be captured, or of too little memory
                self._capturable = False
                generator = torch.cuda.default_generators[x.device.index]  # which still counts for the graph
                generator.graphsafe_set_state(generator.clone_state())
                print(f"drawing: launched kernel by kernel: {str(error).splitlines()[0]}", file=sys.stderr)
                return forward(self.network, (x, t))
        self._graph.replay()
        return self._prediction.clone()

    def _captured(self, x: Tensor, t: Tensor) -> torch.cuda.CUDAGraph:
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(x.device)
        # a capture that fails leaves its stream the current one; and other threads, which decode images or watch over
        # processes, may ask the device for what they like meanwhile
        with (
            torch.cuda.stream(here),
            torch.cuda.graph(graph, stream=_stream(x.device), capture_error_mode="thread_local"),
        ):
            self._prediction = forward(self.network, (x, t))
        return graph


def is_capturable(network: nn.Module) -> bool:
    """Whether it does the same for all inputs of a shape, on one GPU, with weights that are all there."""
    weights = list(network.parameters())
    whole = all(type(weight) is nn.Parameter and weight.is_cuda for weight in weights)  # not so with FSDP
    return whole and getattr(network, "capturable", False)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """To capture on: one a device, for torch keeps working memory for each."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
