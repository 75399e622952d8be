"""One process, two or four: the same losses, penalties, gradients and scores; in float64, so that nothing hides."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from equality import assert_equal_rows, compare, in_process
from pool import Pool
from runs import TINY_DDPM, tiny_run, weights
from torch import Tensor, nn

from gvr_lightning import GradientVariance
from gvr_lightning.data.batch import my_part
from gvr_lightning.distributed.shards import Shard, even_shard, gather_rows, shard
from gvr_lightning.distributed.sync_batchnorm import SyncBatchNorm, synchronise
from gvr_lightning.models.resnet import resnet

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
    "agr": ["regularizer=agr", "task.clip_norm=0.5"],
    "gvr_agr": ["regularizer=gvr_agr", "optimizer=adam"],
    "sam": ["regularizer=sam"],
    "sam_agr": ["regularizer=sam_agr", "regularizer.wrap.adaptive=true", "task.clip_norm=0.5"],
    "consistency": ["regularizer=consistency"],
    "label_smoothing": ["regularizer=label_smoothing"],
    "three views, other layers": [
        "regularizer=gvr",
        "regularizer.views=3",
        "regularizer.penalty.layers=[head*,*early*]",
    ],
    "accumulated": ["regularizer=gvr", "regularizer.penalty.subset=5", "task.accumulate=2"],
    "all layers": ["regularizer=gvr", "regularizer.penalty.layers=all"],
}
DDPM = {"ddpm": ["regularizer=none"], "ddpm, gvr_agr": ["regularizer=gvr_agr"]}


@pytest.fixture(scope="module")
def two() -> Iterator[Pool]:
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def four() -> Iterator[Pool]:
    pool = Pool(4)
    yield pool
    pool.close()


@pytest.mark.parametrize("case", RUNS)
def test_four_processes_compute_what_one_does(four: Pool, tmp_path: Path, case: str) -> None:
    compare(four, tmp_path, [*EXACT, *ODD, *PENALTY, *RUNS[case]], ["trainer.devices=4"])


@pytest.mark.parametrize("case", [*RUNS, *DDPM])
def test_sharded_weights_compute_what_whole_ones_do(two: Pool, tmp_path: Path, case: str) -> None:
    overrides = [*EXACT, *ODD, *PENALTY, *(RUNS.get(case) or [*TINY_DDPM, *DDPM[case]])]
    compare(two, tmp_path, overrides, ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2"])


@pytest.mark.parametrize("case", DDPM)
def test_generation_is_the_same_in_four_processes(four: Pool, tmp_path: Path, case: str) -> None:
    compare(four, tmp_path, [*EXACT, *ODD, *TINY_DDPM, *DDPM[case]], ["trainer.devices=4"])
    one, many = (json.loads((tmp_path / n / "summary.json").read_text())["metrics"] for n in ("one", "many"))
    assert many["num_images"] == one["num_images"] == 70 and many["fid"] == pytest.approx(one["fid"], rel=1e-6)
    assert (tmp_path / "many" / "samples" / "final.png").read_bytes() == (
        tmp_path / "one" / "samples" / "final.png"
    ).read_bytes()


@pytest.mark.parametrize("case", ["gvr", "gvr_last_stage", "gvr_published", "accumulated"])
def test_synchronised_batchnorm_is_that_of_one_process(two: Pool, tmp_path: Path, case: str) -> None:
    model = ["model=resnet20", "model.widths=[4,4,8]", "model.blocks=1"]
    overrides = [*EXACT, *ODD, *PENALTY, *RUNS[case], *model]
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


@pytest.mark.parametrize("strategy", [[], ["trainer=fsdp", "trainer.accelerator=cpu"]], ids=["ddp", "fsdp"])
def test_a_run_goes_on_with_another_number_of_processes(two: Pool, tmp_path: Path, strategy: list[str]) -> None:
    overrides = [*EXACT, *PENALTY, "regularizer=gvr_agr", "optimizer=adam"]
    several = [*strategy, "trainer.devices=2"]
    folder = tmp_path / "many"
    tiny_run(tmp_path / "one", *overrides, "epochs=4", "scheduler=constant")
    for epochs, pooled in ((1, False), (2, True), (3, False), (4, True)):
        now = [*overrides, f"epochs={epochs}", "scheduler=constant"]
        now += [f"resume='{folder}'"] if epochs > 1 else []
        two(in_process, folder, [*now, *several]) if pooled else tiny_run(folder, *now)
    # the test at the end of every part is logged, and belongs to no later one
    assert_equal_rows(tmp_path / "one", folder)
    one, many = weights(tmp_path / "one"), weights(folder)
    assert one.keys() == many.keys() and all(torch.allclose(one[n], many[n], rtol=1e-10, atol=1e-13) for n in one)


@pytest.mark.parametrize("strategy", [[], ["trainer=fsdp", "trainer.accelerator=cpu"]], ids=["ddp", "fsdp"])
def test_statistics_that_are_not_shared_survive_a_resume(two: Pool, tmp_path: Path, strategy: list[str]) -> None:
    model = ["model=resnet20", "model.widths=[4,4,8]", "model.blocks=1", "scheduler=constant"]
    overrides = [*model, "trainer.log_every_n_steps=1", "data.val_fraction=0.2", *strategy, "trainer.devices=2"]
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
    parts = [my_part(index, micro, rank, processes) for rank in range(processes)]
    assert torch.cat([mine for mine, _ in parts]).sort().values.tolist() == list(range(rows))
    for shards in zip(*(s for _, s in parts), strict=True):
        assert sum(s.share.weight for s in shards) == pytest.approx(processes)
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
