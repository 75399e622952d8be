"""The loss as one graph (task.compile=true): the eager values and gradients in float64, and no graph made twice."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from omegaconf import OmegaConf
from runs import tiny_run
from test_steps import REGULARIZERS, composed
from test_task import data, fit, resnet, task
from torch import Tensor, nn

import gvr_lightning.tasks.base as base
from gvr_lightning.errors import UserError
from gvr_lightning.instantiate import make
from gvr_lightning.methods.penalty import NoPenalty, Penalty
from gvr_lightning.methods.sam import SAM
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.tasks.compiled import CompiledLoss
from gvr_lightning.tasks.strength import AlphaSchedule

EAGER = "aot_eager"  # the graphs and their derivatives as compiled, without the code generator's half a minute
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),  # dynamo looks at every input's
    pytest.mark.skipif(not hasattr(torch._dynamo.config, "trace_autograd_ops"), reason="torch ends the graph there"),
]


def penalty_of(name: str) -> tuple[Penalty, int]:
    node: Any = OmegaConf.to_container(composed(f"regularizer={name}", "alpha=0.1").regularizer, resolve=True)
    return make(node["penalty"], "penalty", Penalty), node["views"]


def network() -> SplitNetwork:
    torch.manual_seed(0)
    early = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    last = nn.Sequential(nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(45, 7))
    return SplitNetwork(early, last, nn.Linear(7, 4)).double()


def graphs_counted(found: list[int]) -> Any:
    """A backend that notes how many operations each graph has."""

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        found.append(len(graph.graph.nodes))
        return torch._dynamo.lookup_backend(EAGER)(graph, inputs)

    return backend


@pytest.mark.parametrize("name", sorted({*REGULARIZERS} - {"agr", "gvr_agr", "sam", "sam_agr"}))  # others' penalties
def test_one_graph_gives_the_eager_values_and_gradients(name: str) -> None:
    """Every regularizer that is allowed: losses, penalty, logits, gradients and BatchNorm's statistics."""
    penalty, views = penalty_of(name)
    if penalty.double_backward:
        pytest.skip("is refused with task.compile")
    torch.compiler.reset()
    g = torch.Generator().manual_seed(1)
    x = [torch.randn(6, 3, 5, 5, dtype=torch.float64, generator=g) for _ in range(views)]
    y, keys = torch.arange(6) % 4, torch.rand(views, 6, dtype=torch.float64, generator=g)
    eager, compiled, graphs = network(), network(), list[int]()
    expected = penalty(eager, F.cross_entropy, x, y, keys)
    expected.total.backward()
    loss = CompiledLoss(penalty, backend=graphs_counted(graphs))
    found = loss(compiled, F.cross_entropy, x, y, keys)
    found.total.backward()
    assert loss.is_whole and len(graphs) == 1
    same = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-14)
    same(found.total, expected.total)
    same([found.penalty, *found.losses, *found.logits], [expected.penalty, *expected.losses, *expected.logits])
    assert not any(t.requires_grad for t in (found.penalty, *found.losses, *found.logits))
    same([p.grad for p in compiled.parameters()], [p.grad for p in eager.parameters()])
    same(compiled.state_dict(), eager.state_dict())
    assert penalty.adds_nothing or not torch.equal(expected.total, sum(expected.losses, torch.zeros(())))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Those that runs of the test make of their losses; their backbones are compiled eagerly, too."""
    found: list[int] = []
    monkeypatch.setattr(base, "CompiledLoss", partial(CompiledLoss, backend=graphs_counted(found)))
    compile_backbone = SplitNetwork.compile_backbone
    monkeypatch.setattr(SplitNetwork, "compile_backbone", partial_method(compile_backbone, backend=EAGER))
    torch.compiler.reset()
    return found


def partial_method(method: Any, **options: Any) -> Any:
    return lambda self: method(self, **options)


@pytest.mark.parametrize("wrap", [None, partial(SAM, rho=0.05)], ids=["plain", "sam"])
def test_a_run_makes_a_graph_for_each_number_of_rows_and_ends_with_the_eager_weights(
    tmp_path: Path, graphs: list[int], wrap: Any
) -> None:
    """Two epochs of 16, 16 and 8 rows. SAM's second pass leaves BatchNorm's statistics alone."""
    runs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        runs.append(task(resnet((1, 8, 8), 4, [4, 4], 1).double(), compile=compiled, wrap=wrap))
        fit(runs[-1], data(n=40), tmp_path, precision="64-true")
        assert (runs[-1].compiled is not None) == compiled
    assert len(graphs) == (2 if wrap is None else 4)
    for (name, eager), found in zip(
        runs[0].model.state_dict().items(), runs[1].model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(found, eager, rtol=1e-10, atol=1e-12, msg=name)


class Looks(NoPenalty):
    """Of what the graph cannot hold: the value of a loss decides."""

    def penalty(self, model: nn.Module, views: Any) -> Tensor:
        return views[0].loss * (2.0 if views[0].loss.item() > 0 else 3.0)


def test_what_cannot_be_one_graph_is_said_once_and_computed_eagerly(
    tmp_path: Path, graphs: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        runs.append(task(resnet((1, 8, 8), 4, [4, 4], 1), penalty=Looks(), compile=compiled))
        fit(runs[-1], data(), tmp_path)
    assert not graphs and runs[1].compiled is not None and not runs[1].compiled.is_whole
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("task.compile")]
    assert len(said) == 1 and said[0].startswith("task.compile: the backbone alone is compiled, since the loss cannot")
    for (name, eager), found in zip(
        runs[0].model.state_dict().items(), runs[1].model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(found, eager, msg=name)


def test_without_a_compiler_a_run_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch says it, and what to do; what the loss alone was refused for is said before."""

    def none(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found in [g++]")

    compile_backbone = SplitNetwork.compile_backbone
    monkeypatch.setattr(base, "CompiledLoss", partial(CompiledLoss, backend=none))
    monkeypatch.setattr(SplitNetwork, "compile_backbone", partial_method(compile_backbone, backend=none))
    torch.compiler.reset()
    with pytest.raises(UserError) as told:
        tiny_run(tmp_path, "task.compile=true")
    line = str(told.value)
    assert "No working C++ compiler found in [g++]" in line and "task.compile=false" in line and "\n" not in line
    assert "Traceback" in told.value.details
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed" and summary["error"] == line


def test_an_alpha_that_changes_leaves_the_backbone_alone_compiled(tmp_path: Path, graphs: list[int]) -> None:
    """A graph holds one alpha: with a schedule there would be one for each update."""
    run = task(resnet((1, 8, 8), 4, [4, 4], 1), compile=True, alpha_schedule=AlphaSchedule(ramp=0.5))
    fit(run, data(), tmp_path)
    assert run.compiled is None and not graphs and run.model.is_compiled


def test_cuda_graphs_are_asked_for_by_their_mode_and_an_update_begins_where_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What they compute and what they save is seen on a GPU, test_gpu.py."""
    begun, modes = list[int](), list[Any]()
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(len(modes)))

    def backend(graph: torch.fx.GraphModule, inputs: Any, **given: Any) -> Any:
        modes.append(given.get("mode"))
        return torch._dynamo.lookup_backend(EAGER)(graph, inputs)

    for cuda_graphs in (True, False):
        torch.compiler.reset()
        loss = CompiledLoss(NoPenalty(), cuda_graphs, backend=backend)
        loss.start_update()
        loss(network(), F.cross_entropy, [torch.randn(6, 3, 5, 5).double()], torch.arange(6) % 4).total.backward()
    assert modes == ["reduce-overhead", None] and begun == [0]


@pytest.mark.parametrize("wrap", [None, partial(SAM, rho=0.05)], ids=["plain", "sam"])
def test_each_update_begins_once_and_a_cpu_has_no_cuda_graphs(
    tmp_path: Path,
    graphs: list[int],
    wrap: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun = []
    monkeypatch.setattr(CompiledLoss, "start_update", lambda self: begun.append(self.cuda_graphs))
    fit(task(resnet((1, 8, 8), 4, [4, 4], 1), compile=True, cuda_graphs=True, wrap=wrap), data(n=40), tmp_path)
    assert begun == [False] * 6
    assert "task.cuda_graphs: there are none: it takes task.compile=true" in capsys.readouterr().err


def test_cuda_graphs_without_a_compiled_loss_are_said_once_to_be_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for wanted, first in ((False, True), (None, True), (True, True), (True, False)):
        monkeypatch.setattr(Trainer, "is_global_zero", first)  # of several processes the first one speaks
        fit(task(resnet((1, 8, 8), 4, [4, 4], 1), cuda_graphs=wanted), data(), tmp_path / f"{wanted} {first}")
        assert capsys.readouterr().err.count("task.cuda_graphs: there are none") == (wanted is True and first)


@pytest.mark.parametrize("wanted", [True, None, False])
def test_a_gpu_has_cuda_graphs_unless_they_are_not_wanted(
    wanted: bool | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = task(resnet((1, 8, 8), 4, [4, 4], 1), compile=True, cuda_graphs=wanted)
    run.trainer = Trainer(accelerator="cpu", logger=False)
    monkeypatch.setattr(type(run), "device", torch.device("cuda"))
    monkeypatch.setattr(Trainer, "estimated_stepping_batches", 1)
    run.on_train_start()
    assert run.compiled is not None and run.compiled.cuda_graphs == (wanted is not False)
    assert "task.cuda_graphs" not in capsys.readouterr().err
