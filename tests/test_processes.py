"""One process, two or four: the same losses, penalties, gradients and scores; in float64, so that nothing hides."""

import contextlib
import copy
import io
import itertools
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from equality import assert_equal_rows, in_process
from hydra import compose, initialize_config_dir
from lightning.pytorch import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment
from omegaconf import OmegaConf
from pool import Pool
from runs import TINY, TINY_CNN, TINY_DDPM, stop_after, tiny_run, weights
from test_any_network import B as ROWS
from test_any_network import made
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gvr_lightning import GradientVariance, gradient_variance, last_layer_variance
from gvr_lightning.app.build import build_data, build_task
from gvr_lightning.app.processes import backend, processes_wanted
from gvr_lightning.app.quiet import quiet
from gvr_lightning.app.train import main
from gvr_lightning.app.trainer import build_trainer
from gvr_lightning.callbacks.checkpoint_files import AtomicCheckpointIO
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.data.batch import rows_here
from gvr_lightning.distributed.batch import Shard, gather_rows
from gvr_lightning.distributed.batch import balanced_shard as shard
from gvr_lightning.distributed.batch import equal_shard as even_shard
from gvr_lightning.distributed.strategies import DataParallel, FullySharded
from gvr_lightning.distributed.sync_batchnorm import SyncBatchNorm, synchronise
from gvr_lightning.errors import UserError
from gvr_lightning.models.resnet import resnet
from gvr_lightning.models.split import Pool as PoolLayer
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.tasks.means import RunningMeans

# The closed forms of other penalties on the head are those of tests/test_closed_forms.py, on two processes there.
EXACT = ["trainer.precision=64-true", "trainer.log_every_n_steps=1", "data.val_fraction=0.2", "epochs=2"]
ODD = ["data.max_train=65"]  # the last batch is one sample: most processes have none
PENALTY = ["alpha=0.5"]
RUNS = {
    "none": ["regularizer=none"],
    "two_view": ["regularizer=two_view"],
    "gvr": ["regularizer=gvr", "regularizer.penalty.subset=5"],
    "gvr_last_stage": ["regularizer=gvr_last_stage"],
    "gvr_published": ["regularizer=gvr_published"],
    "gvr_split": ["regularizer=gvr_split"],
    "gvr_per_sample": ["regularizer=gvr_per_sample"],
    "feature_norm": ["regularizer=feature_norm"],
    "agr": ["regularizer=agr", "task.clip_norm=0.5"],
    "gvr_agr": ["regularizer=gvr_agr", "optimizer=adam", "regularizer.wrap.granularity=row"],
    "sam": ["regularizer=sam"],
    "sam_agr": ["regularizer=sam_agr", "regularizer.wrap.adaptive=true", "task.clip_norm=0.5"],
    "consistency": ["regularizer=consistency"],
    "augmix": ["regularizer=augmix", "augmentation=augmix"],
    "gce": ["regularizer=gce", "label_noise=symmetric"],
    "label_smoothing": ["regularizer=label_smoothing"],
    "three views, other layers": [
        "regularizer=gvr",
        "regularizer.views=3",
        "regularizer.penalty.layers=[head*,*early*]",
    ],
    "accumulated": [
        *("regularizer=gvr", "regularizer.penalty.subset=5", "task.accumulate=2"),
        "data.corruption=[shot_noise,defocus_blur]",
    ],
    "mixed": [
        *("regularizer=gvr", "augmentation=trivial", "mix=both", "mix.independent=true"),
        *("label_noise=symmetric", "task.accumulate=2"),
    ],
    "all layers": ["regularizer=gvr", "regularizer.penalty.layers=all"],
}
DDPM = {"ddpm": ["regularizer=none"], "ddpm, gvr_agr": ["regularizer=gvr_agr"]}
STRATEGIES = {"ddp": [], "fsdp": ["trainer=fsdp", "trainer.accelerator=cpu"]}
NORMS = ["model=resnet20", "model.widths=[4,4,8]", "model.blocks=1"]


Finished = Callable[..., Path]


# below, with weights sharded
ON_TWO_ONLY = ("two_view", "sam", "consistency", "label_smoothing", "all layers", "gce", "feature_norm", "augmix")


@pytest.mark.parametrize("case", [case for case in RUNS if case not in ON_TWO_ONLY])
def test_four_processes_compute_what_one_does(four: Pool, finished: Finished, tmp_path: Path, case: str) -> None:
    overrides = [*EXACT, *ODD, *PENALTY, *RUNS[case]]
    four(in_process, tmp_path, [*overrides, "trainer.devices=4"])
    assert_equal_rows(finished(*overrides), tmp_path)
    assert (tmp_path / "confusion.csv").read_text() == (finished(*overrides) / "confusion.csv").read_text()


@pytest.mark.parametrize("case", [*RUNS, "ddpm, gvr_agr"])
def test_sharded_weights_compute_what_whole_ones_do(two: Pool, finished: Finished, tmp_path: Path, case: str) -> None:
    overrides = [*EXACT, *ODD, *(PENALTY + RUNS[case] if case in RUNS else TINY_DDPM + DDPM[case])]
    two(in_process, tmp_path, [*overrides, *STRATEGIES["fsdp"], "trainer.devices=2"])
    assert_equal_rows(finished(*overrides), tmp_path)


@pytest.mark.parametrize("case", DDPM)
def test_generation_is_the_same_in_four_processes(four: Pool, finished: Finished, tmp_path: Path, case: str) -> None:
    overrides = [*EXACT, *ODD, *TINY_DDPM, *DDPM[case]]
    four(in_process, tmp_path, [*overrides, "trainer.devices=4"])
    alone = finished(*overrides)
    assert_equal_rows(alone, tmp_path)
    one, many = (json.loads((f / "summary.json").read_text())["metrics"] for f in (alone, tmp_path))
    assert many["num_images"] == one["num_images"] == 70 and many["fid"] == pytest.approx(one["fid"], rel=1e-6)
    image = Path("samples", "final.png")
    assert (tmp_path / image).read_bytes() == (alone / image).read_bytes()


@pytest.mark.parametrize("case", ["gvr", "gvr_last_stage", "gvr_published", "accumulated"])
def test_synchronised_batchnorm_is_that_of_one_process(two: Pool, tmp_path: Path, case: str) -> None:
    overrides = [*EXACT, *ODD, *PENALTY, *RUNS[case], *NORMS]
    tiny_run(tmp_path / "one", *overrides, cnn=False)
    two(batchnorm_run, tmp_path / "many", [*overrides, "trainer.devices=2", "trainer.sync_batchnorm=true"])
    assert_equal_rows(tmp_path / "one", tmp_path / "many", rounding=1e-10)


def batchnorm_run(folder: Path, overrides: list[str]) -> None:
    tiny_run(folder, *overrides, cnn=False)


def test_float32_stays_within_its_rounding(two: Pool, tmp_path: Path) -> None:
    overrides = ["trainer.log_every_n_steps=1", "regularizer=gvr_agr", "alpha=0.5"]
    tiny_run(tmp_path / "one", *overrides)
    two(in_process, tmp_path / "many", [*overrides, "trainer.devices=2"])
    assert_equal_rows(tmp_path / "one", tmp_path / "many", rounding=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_goes_on_with_another_number_of_processes(
    two: Pool, finished: Finished, tmp_path: Path, strategy: str
) -> None:
    overrides = [*EXACT, *PENALTY, "regularizer=gvr_agr", "optimizer=adam"]
    several = [*STRATEGIES[strategy], "trainer.devices=2"]
    whole, folder = finished(*overrides, "epochs=4", "scheduler=constant"), tmp_path / "many"
    for epochs, pooled in ((1, False), (2, True), (3, False), (4, True)):
        now = [*overrides, f"epochs={epochs}", "scheduler=constant"]
        now += [f"resume='{folder}'"] if epochs > 1 else []
        two(in_process, folder, [*now, *several]) if pooled else tiny_run(folder, *now)
    # the test at the end of every part is logged, and belongs to no later one
    assert_equal_rows(whole, folder)
    one, many = weights(whole), weights(folder)
    assert one.keys() == many.keys() and all(torch.allclose(one[n], many[n], rtol=1e-10, atol=1e-13) for n in one)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_statistics_that_are_not_shared_survive_a_resume(two: Pool, tmp_path: Path, strategy: str) -> None:
    overrides = [
        *NORMS,
        "scheduler=constant",
        "trainer.log_every_n_steps=1",
        "data.val_fraction=0.2",
        *STRATEGIES[strategy],
        "trainer.devices=2",
    ]
    two(batchnorm_run, tmp_path / "one", [*overrides, "epochs=3"])
    two(batchnorm_run, tmp_path / "two", [*overrides, "epochs=1"])
    two(batchnorm_run, tmp_path / "two", [*overrides, "epochs=3", f"resume='{tmp_path / 'two'}'"])
    assert_equal_rows(tmp_path / "one", tmp_path / "two", rounding=0)
    one, many = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[n], many[n]) for n in one)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Linear(6, 9), nn.Tanh())
    model.head = nn.Linear(9, 40)
    return model.double()


def plain_loop(rows: int, subset: int | None, keys: Tensor | None) -> tuple[float, list[Tensor]]:
    """A user's own loop: DDP's mean of the gradients by hand, nothing said about processes."""
    model, (views, target) = network(), batch(rows)
    processes = torch.distributed.get_world_size()
    rank, here = torch.distributed.get_rank(), rows // processes
    mine = slice(rank * here, (rank + 1) * here)
    penalty = GradientVariance(alpha=2.0, subset=subset)
    loss = penalty(model, F.cross_entropy, [v[mine] for v in views], target[mine], keys)
    loss.total.backward()
    value = loss.total.detach().clone()
    for tensor in (value, *(p.grad for p in model.parameters())):
        torch.distributed.all_reduce(tensor)
        tensor.div_(processes)
    return float(value), [p.grad for p in model.parameters()]


def batch(rows: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(rows, 6, dtype=torch.float64, generator=generator) for _ in range(2)]
    return views, torch.randint(0, 40, (rows,), generator=generator)


@pytest.mark.parametrize("rows", [4, 64], ids=["inner products", "matrix"])
@pytest.mark.parametrize("subset", [None, 3])
def test_in_a_plain_loop_the_penalty_is_the_global_batch_s(two: Pool, rows: int, subset: int | None) -> None:
    keys = torch.rand(2, rows)
    model, (views, target) = network(), batch(rows)
    loss = GradientVariance(alpha=2.0, subset=subset)(model, F.cross_entropy, views, target, keys)
    loss.total.backward()
    for value, grads in two(plain_loop, rows, subset, keys):
        assert value == pytest.approx(loss.total.item(), rel=1e-12)
        for ours, p in zip(grads, model.parameters(), strict=True):
            torch.testing.assert_close(ours, p.grad, rtol=1e-10, atol=1e-14)


def own_functions(rows: int) -> tuple[list[float], list[Tensor]]:
    """A user's own loop with the functions alone: their values here, and DDP's mean of the gradients."""
    model, (views, target) = network(), batch(rows)
    here = rows // torch.distributed.get_world_size()
    mine = slice(torch.distributed.get_rank() * here, (torch.distributed.get_rank() + 1) * here)
    features = [model.backbone(view[mine]) for view in views]
    logits = [model.head(h) for h in features]
    losses = [F.cross_entropy(z, target[mine]) for z in logits]
    values = [gradient_variance(losses, model.head.parameters()), last_layer_variance(losses, logits, features)]
    (values[0] + 2 * values[1]).backward()
    means = [values[1].detach().clone(), *(p.grad for p in model.parameters())]
    for tensor in means:
        torch.distributed.all_reduce(tensor)
        tensor.div_(torch.distributed.get_world_size())
    return [values[0].item(), means[0].item()], means[1:]


@pytest.mark.parametrize("rows", [4, 64], ids=["inner products", "matrix"])
def test_in_a_plain_loop_the_functions_are_the_global_batch_s(two: Pool, rows: int) -> None:
    model, (views, target) = network(), batch(rows)
    losses = [F.cross_entropy(model.head(model.backbone(view)), target) for view in views]
    penalty = gradient_variance(losses, model.head.parameters())
    (3 * penalty).backward()
    for values, grads in two(own_functions, rows):
        assert values == pytest.approx([penalty.item()] * 2, rel=1e-12)
        for ours, p in zip(grads, model.parameters(), strict=True):
            torch.testing.assert_close(ours, p.grad, rtol=1e-10, atol=1e-14)


def drawn_together() -> float:
    """The mean penalty of a subset that is drawn without keys, by generators that differ between the processes."""
    model, (views, target) = network(), batch(8)
    rank = torch.distributed.get_rank()
    mine = slice(4 * rank, 4 * rank + 4)
    torch.manual_seed(rank)
    loss = GradientVariance(subset=3, shared=True)(model, F.cross_entropy, [v[mine] for v in views], target[mine])
    penalty = loss.penalty.detach().clone()
    torch.distributed.all_reduce(penalty)
    return float(penalty) / 2


def test_processes_draw_one_subset_together(two: Pool) -> None:
    value, same = two(drawn_together)
    keys = []
    for rank in range(2):
        torch.manual_seed(rank)
        keys.append(torch.rand(2, 4))
    views, target = batch(8)
    penalty = GradientVariance(subset=3, shared=True)
    expected = penalty(network(), F.cross_entropy, views, target, torch.cat(keys, 1)).penalty
    assert value == same == pytest.approx(expected.item(), rel=1e-12)


def statistics(rows: int) -> dict[str, Tensor]:
    """A BatchNorm over unequal parts of some rows, differentiated twice."""
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    layer = synchronise(nn.BatchNorm1d(3).double())
    assert isinstance(layer, SyncBatchNorm)
    x = torch.randn(rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 50
    part = shard(rows, rank, processes)
    mine = x[part.start : part.stop].requires_grad_()
    y = layer(mine)
    (grad,) = torch.autograd.grad(y.pow(3).sum(), mine, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), mine)
    return {"y": y.detach(), "grad": grad.detach(), "second": second, "var": layer.running_var}


def test_batchnorm_over_processes_and_its_second_derivative(four: Pool) -> None:
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 50
    layer = nn.BatchNorm1d(3).double()
    x.requires_grad_()
    y = layer(x)
    (grad,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), x)
    found = four(statistics, 7)
    for name, expected in (("y", y), ("grad", grad), ("second", second)):
        torch.testing.assert_close(torch.cat([f[name] for f in found]), expected, rtol=1e-9, atol=1e-10)
    for f in found:
        torch.testing.assert_close(f["var"], layer.running_var, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["resnet", "tf_efficientnet_lite0"])  # timm's BatchNorms have activations in them
def test_synchronised_networks_are_the_same_in_one_process(name: str) -> None:
    torch.manual_seed(0)
    model = resnet((3, 32, 32), 10, [4, 8], 1) if name == "resnet" else timm.create_model(name, num_classes=10)
    twin, x = synchronise(copy.deepcopy(model)), torch.randn(4, 3, 32, 32)
    for training in (True, False):
        torch.testing.assert_close(twin.train(training)(x), model.train(training)(x))
    ours, theirs = twin.state_dict(), model.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[n], theirs[n]) for n in ours)
    norms = [m for m in twin.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(m, SyncBatchNorm) for m in norms)


@pytest.mark.parametrize("rows", [1, 3, 7, 32])
@pytest.mark.parametrize("micro", [1, 2, 3])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_row_is_somewhere_once(rows: int, micro: int, processes: int) -> None:
    index = torch.randperm(rows)
    parts = [rows_here(index, micro, rank, processes) for rank in range(processes)]
    assert torch.cat([mine for mine, _ in parts]).sort().values.tolist() == list(range(rows))
    for shards in zip(*(s for _, s in parts), strict=True):
        assert sum(s.row_count.weight for s in shards) == pytest.approx(processes)
        assert shards[0].start == 0 and shards[-1].stop == shards[-1].total
    assert len(parts[0][0]) > 0, "the first process is never without rows"


def test_chosen_rows_are_numbered_as_here() -> None:
    rows = torch.tensor([9, 0, 5, 4])
    here, share = Shard(4, 8, 12, 3).choose(rows)
    assert here.tolist() == [1, 0] and share == (2, 4, 4, 3) and share.weight == pytest.approx(1.5)
    stand_in, none = Shard(10, 12, 12, 3).choose(rows)
    assert stand_in.tolist() == [0] and none.weight == 0
    assert even_shard(5) == Shard(0, 5, 5, 1)


def unequal() -> Tensor:
    rank = torch.distributed.get_rank()
    return gather_rows(torch.full((rank, 2), float(rank)))


def test_rows_of_all_processes(four: Pool) -> None:
    for found in four(unequal):
        assert found[:, 0].tolist() == [1, 2, 2, 3, 3, 3]


# --- how many processes, and what each one's trainer is told


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", overrides=[*TINY, *overrides])


@pytest.mark.parametrize(
    ("devices", "on_cpus", "on_gpus"),
    [(1, 1, 1), (3, 3, 3), ("2", 2, 2), ([0], 1, 1), ([1, 3, 4], 3, 3), ("auto", 1, 6), (-1, 1, 6), ("-1", 1, 6)],
)
def test_a_process_for_each_device(devices: Any, on_cpus: int, on_gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def wanted(accelerator: str) -> tuple[int, str]:
        trainer = OmegaConf.create({"devices": devices, "num_nodes": 1, "accelerator": accelerator})
        return processes_wanted(trainer), backend(trainer)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert {wanted(name) for name in ("cpu", "auto", "gpu")} == {(on_cpus, "gloo")}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 6)
    assert wanted("cpu") == (on_cpus, "gloo")
    assert {wanted(name) for name in ("auto", "gpu", "cuda")} == {(on_gpus, "nccl")}


def test_several_machines_need_a_launcher() -> None:
    with pytest.raises(UserError, match=r"trainer.num_nodes=2: .*torchrun or srun"):
        processes_wanted(OmegaConf.create({"devices": 1, "num_nodes": 2, "accelerator": "cpu"}))
    assert processes_wanted(OmegaConf.create({"devices": 2, "accelerator": "cpu"})) == 2


def recorded(**options: Any) -> dict[str, Any]:
    """In the place of Lightning's trainer: what it would be told."""
    return options


def told(overrides: list[str], here: int = 2) -> dict[str, Any]:
    """What the trainer is told, in a process of a machine that has ``here`` of them."""
    cfg = composed("trainer._target_=test_processes.recorded", *overrides)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    with patch.dict(os.environ, {"LOCAL_WORLD_SIZE": str(here)}):
        found = build_trainer(cfg, Path("folder"), [])
    found["plugins"] = [type(plugin).__name__ for plugin in found["plugins"]]
    found["strategy"] = found["strategy"] if isinstance(found["strategy"], str) else type(found["strategy"]).__name__
    return found | {"filled": torch.utils.deterministic.fill_uninitialized_memory}  # type: ignore[attr-defined]


ALWAYS: dict[str, Any] = {
    "max_epochs": 2,
    "accelerator": "cpu",
    "precision": "32-true",
    "log_every_n_steps": 50,
    "deterministic": False,
    "benchmark": False,
    "default_root_dir": Path("folder"),
    "num_sanity_val_steps": 0,
    "logger": False,
    "enable_model_summary": False,
    "callbacks": [],
    "filled": False,
}
OWN, SHARED = [AtomicCheckpointIO.__name__], [AtomicCheckpointIO.__name__, LightningEnvironment.__name__]


def test_the_trainer_of_a_process_alone() -> None:
    alone = ALWAYS | {"devices": 1, "num_nodes": 1, "plugins": OWN, "strategy": "auto"}
    sharded = [*STRATEGIES["fsdp"], "trainer.devices=1"]
    assert told([]) == told(["trainer.sync_batchnorm=true"]) == told(sharded) == alone
    chosen = {"deterministic": True, "benchmark": True, "log_every_n_steps": 7, "gradient_clip_val": 2}
    assert told([f"++trainer.{key}={value}" for key, value in chosen.items()]) == alone | chosen


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"devices": 2, "strategy": DataParallel.__name__}),
        (["trainer=ddp"], {"devices": 2, "strategy": DataParallel.__name__}),
        (["trainer=fsdp"], {"devices": 2, "strategy": FullySharded.__name__}),
        (["trainer=fsdp", "trainer.precision=bf16-mixed"], {"devices": 2, "precision": "bf16-mixed"}),
        (["trainer=ddp", "trainer.precision=16-mixed"], {"devices": 2, "precision": "16-mixed"}),
        (["trainer=ddp", "trainer.devices=[1,2]"], {"devices": [1, 2]}),
    ],
)
def test_the_trainer_of_a_process_among_others(four: Pool, overrides: list[str], expected: dict[str, Any]) -> None:
    for found in four(told, [*overrides, "trainer.accelerator=cpu"]):
        assert found == found | ALWAYS | {"num_nodes": 2, "plugins": SHARED} | expected


@pytest.mark.parametrize("overrides", [["batch_size=34"], ["batch_size=36", "task.accumulate=2"]])
def test_a_batch_that_the_processes_cannot_share(four: Pool, overrides: list[str]) -> None:
    assert told(overrides)["devices"] == 1
    with pytest.raises(AssertionError, match=r"UserError: batch_size=3\d: it is divided by .*processes times task"):
        four(told, overrides)


@pytest.mark.parametrize("precision", ["16-mixed", "16"])
def test_no_gradient_scaler_for_sharded_weights(two: Pool, precision: str) -> None:
    with pytest.raises(AssertionError, match=f"UserError: trainer.precision={precision}: with trainer=fsdp use"):
        two(told, ["trainer=fsdp", f"trainer.precision={precision}"])


def any_network_in_ddp() -> tuple[float, list[Tensor]]:
    """Half of a batch, through DDP round a network of its own."""
    model, views, target = made("its own")
    rows = slice(dist.get_rank() * ROWS // 2, (dist.get_rank() + 1) * ROWS // 2)
    parallel = DistributedDataParallel(model)
    loss = GradientVariance(alpha=3.0)(parallel, F.cross_entropy, [v[rows] for v in views], target[rows])
    loss.total.backward()
    return loss.penalty.item(), [p.grad for p in model.parameters()]  # type: ignore[misc]


def test_in_a_plain_ddp_loop_it_is_the_global_batch_s(two: Pool) -> None:
    model, views, target = made("its own")
    whole = GradientVariance(alpha=3.0)(model, F.cross_entropy, views, target)
    whole.total.backward()
    found = two(any_network_in_ddp)
    assert sum(penalty for penalty, _ in found) / 2 == pytest.approx(whole.penalty.item(), rel=1e-12)
    for _, grads in found:
        for ours, p in zip(grads, model.parameters(), strict=True):
            torch.testing.assert_close(ours, p.grad, rtol=1e-10, atol=1e-14)


# --- figures


def means_in_two_parts(steps: int, stop: int) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """The means of an epoch: undisturbed, gone on with in mid-epoch, and gone on with by one process more."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    values = torch.rand(steps, generator=generator)

    def added(means: RunningMeans, some: Tensor) -> RunningMeans:
        for value in some:
            means.add({"a": value, "b": 3 * value}, 7)
        return means

    state = added(RunningMeans(), values[:stop]).state_dict()
    again, fewer = RunningMeans(), RunningMeans()
    again.load_state_dict(state, torch.device("cpu"))
    fewer.load_state_dict(
        {**state, "by_process": {k: v[:1] for k, v in state["by_process"].items()}}, torch.device("cpu")
    )
    return tuple(added(m, values[n:]).compute() for m, n in ((RunningMeans(), 0), (again, stop), (fewer, stop)))


def test_the_figures_of_an_epoch_go_on_to_the_last_bit(two: Pool) -> None:
    for whole, again, fewer in two(means_in_two_parts, 100, 37):
        assert again == whole
        assert fewer == pytest.approx(whole, rel=1e-5)


# --- strategies


class Look(Callback):
    """Keeps what it finds at some moments of a training."""

    def __init__(self) -> None:
        self.strategy: dict[str, Any] = {}
        self.seen: list[tuple[str, list[float]]] = []
        self.norm: Any = None

    def on_train_start(self, trainer: Any, task: Any) -> None:
        """DDP's settings; from here on, what BatchNorm has when images come."""
        ddp = trainer.strategy.model
        names = ("find_unused_parameters", "bucket_bytes_cap", "gradient_as_bucket_view", "broadcast_buffers")
        self.strategy = {name: getattr(ddp, name, None) for name in names}
        self.strategy["forward_sync_buffers"] = getattr(ddp, "forward_sync_buffers", False)
        self.norm = next((m for m in task.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)), None)
        if self.norm is not None:
            self.norm.register_forward_pre_hook(lambda norm, _: self.note("train" if norm.training else "val"))

    def note(self, moment: str) -> None:
        """The running mean."""
        self.seen.append((moment, self.norm.running_mean.tolist()))

    def on_train_batch_end(self, *_: Any) -> None:
        """After the update each process has its own."""
        if self.norm is not None:
            self.note("after")


def looked(overrides: list[str]) -> tuple[dict[str, Any], list[tuple[str, list[float]]]]:
    """A training in a process of the pool."""
    quiet()
    cfg, look = (
        composed("+trainer.enable_progress_bar=false", "+trainer.enable_checkpointing=false", *overrides),
        Look(),
    )
    torch.manual_seed(0)
    data = build_data(cfg)
    build_trainer(cfg, Path("unused"), [look]).fit(build_task(cfg, data), data)
    return look.strategy, look.seen


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_have_the_first_process_s_statistics_in_validation(two: Pool, strategy: str) -> None:
    overrides = [*NORMS, *STRATEGIES[strategy], "epochs=1", "data.val_fraction=0.2", "data.eval_batch_size=150"]
    (_, first), (_, second) = two(looked, overrides)
    assert [moment for moment, _ in first] == [*("train", "after") * 3, "val", "val"]
    for i, ((moment, mean), (same, other)) in enumerate(zip(first, second, strict=True)):
        assert moment == same and (mean == other) == (i == 0 or moment == "val")
    means = [mean for _, mean in first]
    assert means[1] == means[2] and means[3] == means[4] and means[5] == means[6] == means[7] != means[4]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"find_unused_parameters": False, "bucket_bytes_cap": 25 << 20, "gradient_as_bucket_view": True}),
        (
            [
                "trainer.strategy.find_unused_parameters=true",
                "+trainer.strategy.bucket_cap_mb=2",
                "+trainer.strategy.gradient_as_bucket_view=false",
            ],
            {"find_unused_parameters": True, "bucket_bytes_cap": 2 << 20, "gradient_as_bucket_view": False},
        ),
    ],
)
def test_ddp_is_what_the_configuration_says(two: Pool, overrides: list[str], expected: dict[str, Any]) -> None:
    settings = ["trainer=ddp", "trainer.accelerator=cpu", "epochs=1", "data.max_train=32", *TINY_CNN, *overrides]
    for found, _ in two(looked, settings):
        assert found == found | expected and not found["forward_sync_buffers"]


def frozen_start(image_shape: tuple[int, int, int], num_classes: int) -> SplitNetwork:
    """A network whose first part is not trained, nor the head's bias."""
    early = nn.Sequential(nn.Conv2d(image_shape[0], 4, 3), nn.Tanh())
    nn.init.constant_(early[0].weight, 0.125)
    head = nn.Linear(6, num_classes)
    network = SplitNetwork(early, nn.Sequential(nn.Conv2d(4, 6, 3), nn.Tanh(), PoolLayer()), head)
    for p in (*early.parameters(), head.bias):
        p.requires_grad_(False)
    return network


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_frozen_parameters_stay_and_the_others_train_as_in_one_process(
    two: Pool, finished: Finished, tmp_path: Path, strategy: str
) -> None:
    overrides = [*EXACT, *ODD, *PENALTY, "regularizer=gvr_agr", "task.accumulate=2"]
    overrides += ["model._target_=test_processes.frozen_start", "~model.width", "~model.groups"]
    two(batchnorm_run, tmp_path / "many", [*overrides, *STRATEGIES[strategy], "trainer.devices=2"])
    tiny_run(tmp_path / "one", *overrides, cnn=False)
    assert_equal_rows(tmp_path / "one", tmp_path / "many")
    for folder in (tmp_path / "one", tmp_path / "many"):
        assert (weights(folder)["model.backbone.early.0.weight"] == 0.125).all()


# --- by torchrun


def as_torchrun(port: int, restarts: int, cwd: Path, arguments: list[str], stopped: int) -> tuple[int, str, str]:
    """``train.py`` in a process that torchrun started: exit status, output, errors.

    Args:
        port: where torchrun's agent keeps the store.
        restarts: what keeps this start's messages from those before.
        cwd: the working directory.
        arguments: the command line.
        stopped: a process that gets SIGTERM in its first step.
    """
    rank, out, err, status = torch.distributed.get_rank(), io.StringIO(), io.StringIO(), 0
    torch.distributed.destroy_process_group()
    agent = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(port)}
    agent |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    own = cwd / f"temporary {rank}"
    own.mkdir()
    with (
        pytest.MonkeyPatch.context() as changed,
        patch("atexit.register") as at_exit,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        for name, value in (agent | {"TORCHELASTIC_RESTART_COUNT": str(restarts)}).items():
            changed.setenv(name, value)
        changed.chdir(cwd)
        changed.setattr(sys, "argv", ["train.py", *arguments])
        changed.setattr(tempfile, "tempdir", str(own))
        if rank == stopped:
            stop_after(changed, 1, signal.SIGTERM)
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        for call in at_exit.call_args_list:
            call.args[0](*call.args[1:], **call.kwargs)
    own.rmdir()  # there is nothing left in it
    return status, out.getvalue(), err.getvalue()


RESTARTS = itertools.count(1)


def torchrun(pool: Pool, cwd: Path, *arguments: str, stopped: int = -1) -> list[tuple[int, str, str]]:
    return pool(as_torchrun, pool.store.port, next(RESTARTS), cwd, [*TINY, *TINY_CNN, *arguments], stopped)


def test_of_torchrun_s_processes_the_first_writes_and_speaks(two: Pool, finished: Finished, tmp_path: Path) -> None:
    overrides = [*EXACT, *ODD, *PENALTY, *RUNS["gvr"]]
    (status, printed, _), (other, silent, said) = torchrun(two, tmp_path, *overrides)
    assert (status, other, silent, said) == (0, 0, "", "")
    (folder,) = (path.parent for path in tmp_path.rglob("summary.json"))
    assert printed.splitlines()[-1] == str(folder) and folder.parent == tmp_path / "outputs" / "test"
    assert [path.parent for path in tmp_path.rglob(".hydra")] == [folder]
    assert json.loads((folder / "summary.json").read_text())["world_size"] == 2
    assert_equal_rows(finished(*overrides), folder)


def test_torchrun_s_processes_go_on_together(two: Pool, tmp_path: Path) -> None:
    auto = ["resume=auto", f"hydra.run.dir={tmp_path / 'run'}"]
    (first, _, said), (second, _, silent) = torchrun(two, tmp_path, *auto, stopped=1)
    assert first == second == 143 and "resume=" not in silent
    assert said.splitlines()[-1] == f"interrupted; continue with resume={tmp_path / 'run'}"
    halfway = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert halfway["status"] == "interrupted" and halfway["train"]["steps"] < 6
    assert [status for status, _, _ in torchrun(two, tmp_path, *auto)] == [0, 0]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["train"]["steps"] == 6
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").resume == str(tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "status", "words"),
    [(["batch_size=33"], 2, "error: batch_size=33: it is divided by"), (["lr=1e20"], 1, "not finite at step")],
)
def test_how_torchrun_s_processes_fail(
    two: Pool, tmp_path: Path, overrides: list[str], status: int, words: str
) -> None:
    (first, _, said), (second, silent, also_said) = torchrun(two, tmp_path, *overrides)
    assert first == second == status and words in said.splitlines()[-1] and not silent
    assert status == 1 or not also_said  # a mistake is said once
    assert [json.loads(path.read_text())["status"] for path in tmp_path.rglob("summary.json")] == ["failed"]
