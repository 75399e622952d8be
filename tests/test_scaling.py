"""What the processes send each other in a real training step is what docs/pages/scaling.md says, to the byte.

Seen where torch dispatches it, so that DDP's buckets, FSDP's gathers and Lightning's own messages are all counted.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import Callback
from omegaconf import DictConfig, OmegaConf
from pool import Pool
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from gvr_lightning.app.build import build_data, build_task
from gvr_lightning.app.quiet import quiet
from gvr_lightning.app.trainer import build_trainer
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.instantiate import make

sys.path.append(str(Path(__file__).parents[1] / "experiments" / "benchmarks"))
from scaling_cost import VARIANTS, Network, Sent, Variant, penalty, replicas, shards, statistics

BATCH, WARM = 16, 3  # rows of all processes; steps after which DDP's buckets stay as they are
KINDS = {
    "c10d.allreduce_": "all_reduce",
    "_c10d_functional.all_reduce": "all_reduce",
    "c10d.allgather_": "all_gather",
    "c10d._allgather_base_": "all_gather",
    "c10d._reduce_scatter_base_": "reduce_scatter",
    "c10d.broadcast_": "broadcast",
}
SILENT = ("wait_tensor", "_wrap_tensor_autograd")  # of c10d's operations, those that send nothing
SMALL = ["model.width=8", "model.groups=4"]
NORMS = ["model=resnet20", "model.widths=[4,8,8]", "model.blocks=1"]


class Collectives(TorchDispatchMode):
    """Notes every collective, whoever starts it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Sent] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again as what it sends
        name = func.name().partition(".")[0].replace("::", ".")
        if func.namespace in ("c10d", "_c10d_functional") and not name.endswith(SILENT):
            self.seen.append(Sent(KINDS[name], max(size(argument) for argument in args)))
        return func(*args, **(kwargs or {}))


def size(argument: Any) -> int:
    """The bytes of a tensor, or of a list of them."""
    if isinstance(argument, list | tuple):
        return sum(map(size, argument))
    return argument.numel() * argument.element_size() if isinstance(argument, Tensor) else 0


class Switch(Callback):
    """After some steps, one step of each regularizer."""

    def __init__(self, nodes: dict[str, dict[str, Any]]) -> None:
        self.nodes = dict.fromkeys(f"warm {i}" for i in range(WARM)) | nodes
        self.todo, self.found, self.mode = list(self.nodes), {}, Collectives()

    def on_train_start(self, trainer: Any, task: Any) -> None:
        """Watch from here on, also between the steps."""
        self.views, self.examples = 2, task.examples
        task.examples = lambda batch: self.examples(batch._replace(views=batch.views[: self.views]))
        self.plain = trainer.optimizers[0]
        self.mode.__enter__()

    def on_train_batch_start(self, trainer: Any, task: Any, *_: Any) -> None:
        """The next one's penalty, views and optimizer."""
        if (node := self.nodes[self.todo[0]]) is not None:
            task.penalty, self.views = make(OmegaConf.create(node["penalty"]), "penalty"), node["views"]
            wrap = make(node["wrap"] and OmegaConf.create(node["wrap"]), "wrap")
            trainer.strategy.optimizers = [wrap(self.plain) if wrap else self.plain]

    def on_train_batch_end(self, *_: Any) -> None:
        """What its step sent."""
        self.found[self.todo.pop(0)] = list(self.mode.seen)
        self.mode.seen.clear()
        if not self.todo:
            self.mode.__exit__(None, None, None)


def composed(*overrides: str) -> DictConfig:
    """The project's configuration."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", overrides=["name=test", f"batch_size={BATCH}", "epochs=1", *overrides])


def steps(config: dict[str, Any], nodes: dict[str, Any], folder: Path) -> tuple[dict[str, list[Sent]], Network]:
    """In a process: train, and return what each regularizer's step sent, and what the network is."""
    quiet()
    torch.manual_seed(0)
    cfg = OmegaConf.create(config)
    data = build_data(cfg)
    task, switch = build_task(cfg, data), Switch(nodes)
    network = Network.of(task.model)
    build_trainer(cfg, folder, [switch]).fit(task, data)
    return {name: sent for name, sent in switch.found.items() if name in nodes}, network


def run(pool: Pool, folder: Path, nodes: dict[str, Any], *overrides: str) -> tuple[dict[str, list[Sent]], Network]:
    """In all processes, which send the same."""
    rows = BATCH * (WARM + len(nodes))
    settings = ["data.val_fraction=0", f"data.max_train={rows}", "regularizer=two_view", *overrides]
    settings += ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.log_every_n_steps=1000"]
    settings += ["+trainer.enable_progress_bar=false", "+trainer.enable_checkpointing=false"]
    config = OmegaConf.to_container(composed(*settings))
    answers = pool(steps, config, nodes, folder)
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


@pytest.fixture(scope="module")
def nodes() -> dict[str, Any]:
    """Every regularizer as configured, and one with a subset."""
    names = sorted(path.stem for path in (conf_folder() / "regularizer").glob("*.yaml"))
    found = {name: composed(f"regularizer={name}").regularizer for name in names}
    found["gvr, subset=1"] = composed("regularizer=gvr", "regularizer.penalty.subset=1").regularizer
    return {name: OmegaConf.to_container(node, resolve=True) for name, node in found.items()}


@pytest.fixture(params=["two", "four"])
def pool(request: pytest.FixtureRequest) -> Pool:
    """As many processes."""
    found: Pool = request.getfixturevalue(request.param)
    return found


def variant(name: str) -> Variant:
    """Of the table; the subset is smaller here."""
    return VARIANTS["gvr"]._replace(subset=1) if name == "gvr, subset=1" else VARIANTS[name]


def assert_sent(found: dict[str, list[Sent]], expected: dict[str, list[Sent]]) -> None:
    """The same collectives of the same sizes, in any order."""
    assert {name: Counter(sent) for name, sent in found.items()} == {n: Counter(sent) for n, sent in expected.items()}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_every_regularizer(strategy: str, pool: Pool, nodes: dict[str, Any], tmp_path: Path) -> None:
    found, network = run(pool, tmp_path, nodes, f"trainer={strategy}", *SMALL)
    processes, forms, expected = len(pool.workers), set(), {}
    for name in nodes:
        shape = variant(name)
        of_penalty = penalty(network, shape, BATCH, processes)
        forms |= {sent.kind for sent in of_penalty}
        gradients = replicas(network, shape) if strategy == "ddp" else shards(network, shape, processes, looks=True)
        expected[name] = [*of_penalty, *gradients]
    assert_sent(found, expected)
    assert forms == {"all_reduce", "all_gather"}  # both forms of the head's penalty have been here


def test_batchnorm_over_all_processes(pool: Pool, nodes: dict[str, Any], tmp_path: Path) -> None:
    some = {name: nodes[name] for name in ("none", "gvr", "gvr_last_stage", "gvr_published", "sam")}
    found, network = run(pool, tmp_path, some, "trainer=ddp", *NORMS, "trainer.sync_batchnorm=true")
    expected = {}
    for name in some:
        of_penalty = penalty(network, variant(name), BATCH, len(pool.workers))
        of_norms = statistics(network, variant(name), len(pool.workers))
        expected[name] = [*of_penalty, *of_norms, *replicas(network, variant(name))]
    assert_sent(found, expected)


def test_batchnorm_of_each_process_sends_nothing_in_a_step(two: Pool, nodes: dict[str, Any], tmp_path: Path) -> None:
    found, network = run(two, tmp_path, {"none": nodes["none"]}, "trainer=ddp", *NORMS)
    assert_sent(found, {"none": replicas(network, variant("none"))})
