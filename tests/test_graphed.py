"""A network's calls recorded once and launched again; tests/test_gpu.py does it where there is a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gvr_lightning.diffusion import graphed
from gvr_lightning.diffusion.ddim import DDIM
from gvr_lightning.diffusion.ddpm import DDPM
from gvr_lightning.diffusion.sampler import Sampler, draw
from gvr_lightning.models.unet import unet

SHAPE = (1, 8, 8)


class Graph(TorchDispatchMode):
    """What a CUDA graph does: the operations once more, on the memory that they had."""

    replayed = 0

    def __init__(self) -> None:
        super().__init__()
        self.work: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        self.work.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> None:
        """With what is in the inputs now."""
        Graph.replayed += 1
        for func, args, kwargs, found in self.work:
            for old, new in zip(tree_leaves(found), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextmanager
def capture(graph: Graph, stream: str, capture_error_mode: str) -> Iterator[None]:
    """As ``torch.cuda.graph``, but that what is captured has been done, too, which a GPU leaves to the first replay."""
    assert (stream, capture_error_mode) == ("a stream", "thread_local")
    with graph:
        yield
    for *_, found in graph.work:
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor._is_view():
                tensor.fill_(torch.nan)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "where it was")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(graphed, "_stream", lambda device: "a stream")
    monkeypatch.setattr(Graph, "replayed", 0)


SAMPLERS = {
    "ddim": lambda: Sampler(DDIM(num_train_timesteps=100), 6),
    "ddpm": lambda: Sampler(DDPM(num_train_timesteps=100), 6),
    "pndm, which keeps predictions": lambda: Sampler(diffusers.PNDMScheduler(num_train_timesteps=100), 6),
    "dpm": lambda: Sampler(diffusers.DPMSolverMultistepScheduler(num_train_timesteps=100), 6),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.usefixtures("graphs")
def test_replayed_calls_draw_the_same_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of two sizes, each recorded anew; the weights of the second drawing are others."""
    network = unet(SHAPE, 0, widths=[4, 4], blocks=1, attention=[False, True], groups=2).eval()
    for _ in range(2):
        drawn = []
        for capturable in (True, False):
            monkeypatch.setattr(graphed, "is_capturable", lambda network, capturable=capturable: capturable)
            drawn.append(torch.cat(list(draw(SAMPLERS[name](), network, SHAPE, 5, 3, batch_size=3))))
        assert drawn[0].float().std() > 0 and torch.equal(*drawn)
        torch.nn.init.normal_(network.head.weight)
    sampler = SAMPLERS[name]().scheduler
    sampler.set_timesteps(6)
    assert Graph.replayed == 2 * 2 * (len(sampler.timesteps) - 1)


@pytest.mark.usefixtures("graphs")
def test_a_network_that_cannot_be_captured_is_launched_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a line says so."""
    network = unet(SHAPE, 0, widths=[4, 4], blocks=1, attention=[False, True], groups=2).eval()
    plain = torch.cat(list(draw(SAMPLERS["ddim"](), network, SHAPE, 3)))

    @contextmanager
    def refusing(graph: Graph, **_: str) -> Iterator[None]:
        yield
        raise RuntimeError("no memory\nwhich is a long story")

    states: list[str] = []
    monkeypatch.setattr(torch.cuda, "graph", refusing)
    generator = SimpleNamespace(clone_state=lambda: "a new state", graphsafe_set_state=states.append)
    monkeypatch.setattr(torch.cuda, "default_generators", {None: generator})
    monkeypatch.setattr(graphed, "is_capturable", lambda network: True)
    assert torch.equal(torch.cat(list(draw(SAMPLERS["ddim"](), network, SHAPE, 3))), plain)
    assert capsys.readouterr().err == "drawing: launched kernel by kernel: no memory\n"
    assert Graph.replayed == 0 and states == ["a new state"]


def test_what_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that say so, whose weights all are on a GPU: here, none."""

    class Reads(nn.Module):
        """A network of somebody's, which looks at a value."""

        capturable = False

    ours = unet(SHAPE, 0, widths=[4, 4], blocks=1, attention=[False, False], groups=2)
    assert not graphed.is_capturable(ours)
    monkeypatch.setattr(nn.Parameter, "is_cuda", True, raising=False)
    assert (
        graphed.is_capturable(ours)
        and not graphed.is_capturable(Reads())
        and not graphed.is_capturable(nn.Linear(1, 1))
    )
    ours.backbone.early.other = type("Divided", (nn.Parameter,), {})(torch.zeros(1))
    assert not graphed.is_capturable(ours)
