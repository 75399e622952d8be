"""AGR: the formula against plain loops, its edge cases, and the wrapper against a plain optimizer."""

import copy
import io
import os
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import torch
from pool import Pool
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR, SequentialLR

from gvr_lightning.methods import agr
from gvr_lightning.methods.agr import AGR, agr_, agr_statistics
from gvr_lightning.methods.sam import sam_agr

F32_LARGE = agr._LARGE  # from this size on, a float32 tensor takes the blocked path on a CPU

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": partial(Adam, lr=0.01),
    "adamw": partial(AdamW, lr=0.01, weight_decay=0.1),
    "rmsprop": partial(RMSprop, lr=0.01, momentum=0.5),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


with_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile takes a C++ compiler"
)


@pytest.fixture(params=[pytest.param(False, id="as it is"), pytest.param(True, id="compiled", marks=with_compiler)])
def compiled(request: pytest.FixtureRequest) -> bool:
    """For large tensors, which ``compile=True`` is about."""
    return bool(request.param)


def formula(g: Tensor) -> Tensor:
    """The method, entry by entry in Python floats; a single entry stays."""
    if g.numel() == 1:
        return g.clone()
    values = g.flatten().tolist()
    total = sum(abs(v) for v in values)
    return torch.tensor([v * (1 - abs(v) / total) for v in values], dtype=g.dtype).view(g.shape)


class Net(nn.Module):
    """Three-, two-, one- and zero-dimensional parameters, the last with a single element."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(3, 2, 2))
        self.out = nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(x.view(-1, 1, 2, 2) * self.mix).sum(-1).flatten(1)) * self.scale


def network() -> nn.Module:
    torch.manual_seed(0)
    return Net().double()


def loss_of(model: nn.Module, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    return (model(x) - x[:, :2] ** 2).square().mean()


def backward(model: nn.Module, seed: int = 0) -> Tensor:
    model.zero_grad()
    loss = loss_of(model, seed)
    loss.backward()
    return loss


def regularize_by_loop(model: nn.Module) -> None:
    for p in model.parameters():
        p.grad = formula(p.grad)


def train(optimizer: Optimizer, model: nn.Module, steps: range, with_closure: bool = False) -> None:
    for step in steps:
        if with_closure:
            optimizer.step(closure=lambda seed=step: backward(model, seed))
        else:
            backward(model, step)
            optimizer.step()


def same(a: nn.Module, b: nn.Module, rtol: float = 0.0) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=rtol)


# --- the formula -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2,), (7,), (3, 5), (4, 3, 2, 2)])
def test_formula(shape: tuple[int, ...]) -> None:
    g = torch.randn(shape, dtype=torch.float64)
    expected, pointer = formula(g), g.data_ptr()
    assert agr_([g]) is None
    torch.testing.assert_close(g, expected, rtol=1e-14, atol=0)
    assert g.data_ptr() == pointer
    assert not torch.equal(g, torch.zeros_like(g))


def test_many_tensors_of_several_kinds_from_a_generator() -> None:
    kinds = [torch.float64, torch.float32, torch.bfloat16]
    grads = [torch.randn(n, dtype=torch.float64).to(kinds[n % 3]) for n in range(2, 40)]
    expected = [formula(g.double()).to(g.dtype) for g in grads]
    agr_(g for g in grads)
    for g, e in zip(grads, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=0.01 if g.dtype == torch.bfloat16 else 1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_many_of_one_shape_are_each_by_itself(dtype: torch.dtype) -> None:
    """Treated together on a CPU: one of zeros, one without bounds, one with its entries in another order in memory."""
    grads = [torch.randn(2, 3, 4, 5, dtype=dtype) * 10.0**i for i in range(5)]
    grads[1].zero_()
    grads[2][1, 0, 2, 3] = INF
    grads[3] = grads[3].contiguous(memory_format=torch.channels_last)
    grads.insert(2, torch.randn(2, 3, 4, 6, dtype=dtype))
    same = [grads[1].clone(), grads[3].clone()]
    expected = [g * (1 - g.abs() / g.abs().sum()) for g in grads]
    strides = [g.stride() for g in grads]
    agr_(grads)
    assert torch.equal(grads[1], same[0]) and torch.equal(grads[3], same[1])
    for i in (0, 2, 4, 5):
        torch.testing.assert_close(grads[i], expected[i], rtol=1e-13, atol=0)
    assert [g.stride() for g in grads] == strides


def test_a_single_tensor_and_none() -> None:
    g = torch.tensor([3.0, -1.0])
    agr_(g)
    assert g.tolist() == [0.75, -0.75]
    agr_([None, g, None])
    assert g.tolist() == [0.375, -0.375]
    agr_([])


@pytest.mark.parametrize("wrong", [nn.Linear(2, 2), [nn.Linear(2, 2)], [1.0], "ab"])
def test_what_is_no_gradient_raises(wrong: object) -> None:
    with pytest.raises(TypeError, match="gradients"):
        agr_(wrong)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize(
    "values", [[], [0.0, 0.0], [-0.0, 0.0], [5.0], [0.0], [INF], [INF, 1.0, -2.0], [-INF, INF], [NAN, 1.0], [NAN, INF]]
)
def test_what_the_formula_would_break_stays(values: list[float], dtype: torch.dtype, compiled: bool) -> None:
    neighbour = torch.tensor([3.0, -1.0], dtype=dtype)
    for n in (1, F32_LARGE):  # small, and so large that it takes the blocked path
        if n > 1 and len(values) < 2:
            continue
        g = torch.tensor(values, dtype=dtype).repeat(n)
        before = g.clone()
        agr_([torch.ones(2), g, neighbour.clone()], compile=compiled)
        torch.testing.assert_close(g, before, rtol=0, atol=0, equal_nan=True)
        signs = [(torch.view_as_real(t) if t.is_complex() else t).nan_to_num().signbit() for t in (g, before)]
        assert torch.equal(*signs)  # of the zeros
    agr_([g, neighbour])
    assert neighbour.tolist() == [0.75, -0.75]


def test_a_zero_dimensional_tensor_stays() -> None:
    g = torch.tensor(2.0)
    agr_([g])
    assert g.item() == 2.0


def test_an_only_nonzero_entry_becomes_zero_exactly() -> None:
    for value in range(1, 120):
        g = torch.tensor([0.0, float(value), 0.0])
        agr_([g])
        assert g.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("n", [4, F32_LARGE])
@pytest.mark.parametrize("value", [1e-45, 1e-43, 1e-35, 1e-25, 1e25, 3e38])
def test_denormal_and_huge_entries(value: float, n: int, compiled: bool) -> None:
    g = torch.full((n,), value)
    g[0] = -value
    expected = g.double() * (1 - g.double().abs() / g.double().abs().sum())
    agr_([g], compile=compiled)
    torch.testing.assert_close(g, expected.float(), rtol=3e-7, atol=2e-45)


@pytest.mark.parametrize("layout", ["contiguous", "strided"])
def test_sums_of_a_million_float32_entries_are_accurate(layout: str, compiled: bool) -> None:
    """One entry holds about half of the sum, so its factor shows an error of the sum."""
    g = torch.rand(1_500_001)
    g[777] = 7.5e5
    if layout == "strided":
        g = torch.stack([g, g], 1)[:, 0]
    exact = g.double() * (1 - g.double().abs() / g.double().abs().sum())
    agr_([g], compile=compiled)
    torch.testing.assert_close(g.double(), exact, rtol=1e-6, atol=0)
    assert 0.49 < g[777] / 7.5e5 < 0.51


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [50, 100_000])
def test_half_precision_computes_in_float32(dtype: torch.dtype, n: int, compiled: bool) -> None:
    g = (torch.randn(n) * 10).to(dtype)  # the sum is beyond float16
    g[0] = 30_000
    wide = g.float()
    expected = (wide * (1 - wide.abs() / wide.abs().sum())).to(dtype)
    agr_([g], compile=compiled)
    assert torch.equal(g, expected)


@pytest.mark.parametrize("size", [4, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_memory_format_and_views(size: int, dtype: torch.dtype, compiled: bool) -> None:
    plain = torch.randn(size, 3 * size, 3, 5, dtype=dtype)
    expected = plain * (1 - plain.abs() / plain.abs().sum())
    rtol = 1e-6 if dtype == torch.float32 else 1e-14
    layouts = [
        plain.contiguous(memory_format=torch.channels_last),
        plain.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0),
    ]
    layouts += [
        torch.stack([plain] * 2, -1)[..., 1],
        torch.cat([plain, plain])[size:],
        torch.cat([plain, plain], -1)[..., 5:],
    ]
    for g in layouts:
        strides = g.stride()
        agr_([g], compile=compiled)
        torch.testing.assert_close(g, expected, rtol=rtol, atol=0)
        assert g.stride() == strides


def test_a_view_leaves_the_rest_of_its_storage_alone() -> None:
    whole = torch.ones(4 * F32_LARGE)
    agr_([whole[: 2 * F32_LARGE], whole[2 * F32_LARGE : 2 * F32_LARGE + 2]])
    assert whole[0] < 1
    assert whole[2 * F32_LARGE].item() == 0.5
    assert torch.equal(whole[2 * F32_LARGE + 2 :], torch.ones(2 * F32_LARGE - 2))


@pytest.mark.parametrize("block", [1000, 3000])
def test_blocks_that_do_not_divide_the_tensor(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(agr, "_BLOCK", block)
    for n in (F32_LARGE, F32_LARGE + 1, 20_000):
        g = torch.randn(n, generator=torch.Generator().manual_seed(n))
        g[-1] = 1e4
        exact = g.double() * (1 - g.double().abs() / g.double().abs().sum())
        agr_([g])
        torch.testing.assert_close(g.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("together", [64, 64 * 7, agr._TOGETHER])
def test_small_tensors_of_one_shape_are_each_by_itself_however_many_go_together(
    monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(agr, "_TOGETHER", together)
    random = torch.Generator().manual_seed(0)
    grads = [torch.randn((8, 8) if i % 3 else (64,), generator=random, dtype=torch.float64) for i in range(900)]
    expected = [g * (1 - g.abs() / g.abs().sum()) for g in grads]
    agr_(grads)
    for g, formula in zip(grads, expected, strict=True):
        torch.testing.assert_close(g, formula, rtol=1e-13, atol=0)


@with_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_compiled_code_is_made_once_for_all_lengths(dtype: torch.dtype) -> None:
    """Of whole rows, and with what is left over."""
    graphs = Counter()
    rtol = {torch.float32: 3e-7, torch.float64: 1e-15, torch.bfloat16: 0.01}[dtype]
    for n in (F32_LARGE, *(F32_LARGE + i for i in (1, 2, 511, 1023, 1024, 1025)), 1_500_001):
        g = torch.randn(n, dtype=torch.float64).to(dtype)
        g[-1] = 1e3  # a good part of the sum
        exact = g.double() * (1 - g.double().abs() / g.double().abs().sum())
        agr_([g], compile=True)
        torch.testing.assert_close(g.double(), exact, rtol=rtol, atol=0)
        graphs[counters["stats"]["unique_graphs"]] += 1
    assert len(graphs) == 1


def test_complex_entries_shrink_by_their_modulus() -> None:
    g = torch.tensor([3 + 4j, -5j, 0, 10], dtype=torch.complex128)
    expected = g * torch.tensor([0.75, 0.75, 1, 0.5])
    for view in (g.clone(), g.clone().conj(), torch.stack([g, g], 1)[:, 0]):
        conjugate = view.is_conj()
        agr_([view])
        torch.testing.assert_close(view.resolve_conj(), expected.conj().resolve_conj() if conjugate else expected)


@pytest.mark.parametrize("indices", [[1, 0, 3], [3, 0, 3], [2, 2, 2], []])
def test_sparse_equals_dense(indices: list[int]) -> None:
    values = torch.randn(len(indices), 2, dtype=torch.float64)
    g = torch.sparse_coo_tensor([indices], values, (5, 2), check_invariants=True)
    expected = g.to_dense()
    if indices:
        expected *= 1 - expected.abs() / expected.abs().sum()
    for sparse in (g.clone().coalesce(), g):
        agr_([sparse])
        assert sparse.is_sparse
        torch.testing.assert_close(sparse.to_dense(), expected, rtol=1e-14, atol=1e-16)


def test_a_sparse_gradient_with_one_entry_equals_dense_too() -> None:
    g = torch.sparse_coo_tensor([[1]], [2.0], (5,), check_invariants=True)
    agr_([g])
    assert g.to_dense().tolist() == [0.0] * 5


def test_sparse_embedding_trains_like_a_dense_one() -> None:
    tables = [nn.Embedding(6, 2, sparse=sparse, dtype=torch.float64) for sparse in (True, False)]
    tables[1].load_state_dict(tables[0].state_dict())
    for table in tables:
        optimizer = AGR(SGD(table.parameters(), lr=0.1))
        for _ in range(3):
            optimizer.zero_grad()
            (table(torch.tensor([1, 4, 1])) ** 3).sum().backward()
            optimizer.step()
    same(*tables, rtol=1e-14)


def test_nothing_is_read_back_from_a_gpu() -> None:
    """A fake GPU tensor has no values: reading one raises."""
    with FakeTensorMode():
        grads = [torch.empty(300, 300, device="cuda"), torch.empty(5, device="cuda", dtype=torch.bfloat16)]
        grads += [torch.empty(4, device="cuda", dtype=torch.complex64), torch.empty(7, device="cuda")]
        with pytest.raises(DataDependentOutputException):
            grads[0].sum().item()
        agr_(grads)
        for value in agr_statistics(grads).values():
            assert value.device.type == "cuda"


def test_gradients_with_a_graph_are_changed_without_recording() -> None:
    x = torch.tensor([1.0, 3.0], requires_grad=True)
    (g,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    node = g.grad_fn
    agr_([g])
    assert g.grad_fn is node
    torch.testing.assert_close(g, torch.tensor([3 * 0.9, 27 * 0.1]))


def sharded() -> None:
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    plain = [torch.randn(shape) for shape in ((5, 3), (1, 4), (200, 100))]
    sharded = [distribute_tensor(g, mesh, [Shard(0)]) for g in plain]  # uneven; one process without rows
    statistics = agr_statistics(sharded)
    for key, value in agr_statistics(plain).items():
        torch.testing.assert_close(statistics[key], value)
    agr_(sharded)
    agr_(plain)
    for g, shard in zip(plain, sharded, strict=True):
        assert isinstance(shard, DTensor)
        torch.testing.assert_close(shard.full_tensor(), g, rtol=1e-6, atol=0)


def sharded_by_rows() -> None:
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    plain = [torch.randn(shape) for shape in ((5, 3), (1, 4), (3, 2, 5, 5), (6,))]
    sharded = [distribute_tensor(g, mesh, [Shard(0)]) for g in plain]  # uneven; one process without rows
    statistics = agr_statistics(sharded, "row")
    for key, value in agr_statistics(plain, "row").items():
        torch.testing.assert_close(statistics[key], value)
    agr_(sharded, "row")
    for g, shard in zip(plain, sharded, strict=True):
        torch.testing.assert_close(shard.full_tensor(), by_rows(g), rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="this one is divided within them"):
        agr_([distribute_tensor(plain[0], mesh, [Shard(1)])], "row")


def test_sharded_gradients_have_their_rows_whole(two: Pool) -> None:
    two(sharded_by_rows)


def test_sharded_gradients_use_the_sum_over_all_shards(two: Pool) -> None:
    two(sharded)


# --- the statistics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_statistics_against_a_loop(dtype: torch.dtype) -> None:
    sizes = [2, 99, 50, 100, 9999, 10_000, 12_345, 1]
    grads = [torch.randn(n, dtype=dtype, generator=torch.Generator().manual_seed(n)) for n in sizes]
    grads += [torch.zeros(30, dtype=dtype), torch.full((20,), INF, dtype=dtype), torch.zeros(0, dtype=dtype)]
    before = [g.clone() for g in grads]
    coefs: dict[str, list[float]] = {"2-99": [0.0] * 50, "100-9999": [], "10k+": []}  # the zero and the infinite one
    for g in grads[:7]:
        bucket = "2-99" if len(g) < 100 else "100-9999" if len(g) < 10_000 else "10k+"
        coefs[bucket] += (g.abs().double() / g.abs().double().sum()).tolist()
    statistics = agr_statistics(g for g in grads)
    assert set(statistics) == {f"{kind}_coef/{bucket}" for kind in ("mean", "max") for bucket in coefs}
    for bucket, values in coefs.items():
        assert statistics[f"mean_coef/{bucket}"].item() == pytest.approx(sum(values) / len(values), rel=1e-6)
        assert statistics[f"max_coef/{bucket}"].item() == pytest.approx(max(values), rel=1e-6)
        assert statistics[f"max_coef/{bucket}"].shape == ()
    assert all(torch.equal(a, b) for a, b in zip(grads, before, strict=True))


def test_statistics_leave_out_empty_buckets_and_take_sparse_and_complex() -> None:
    assert agr_statistics([torch.tensor(3.0), None]) == {}
    sparse = torch.sparse_coo_tensor([[1, 1]], [2.0, 2.0], (5,), check_invariants=True)
    complex_ = torch.tensor([3 + 4j, 5])
    assert agr_statistics([complex_])["max_coef/2-99"].item() == 0.5
    assert agr_statistics([complex_, sparse])["max_coef/2-99"].item() == 1.0
    half = torch.full((2000,), 60_000.0, dtype=torch.float16)  # the sum is beyond float16
    assert agr_statistics([half])["max_coef/100-9999"].item() == pytest.approx(1 / 2000)


# --- the wrapper -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_closure", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_equal_a_hand_written_loop(name: str, with_closure: bool) -> None:
    model, reference, untouched = network(), network(), network()
    plain = OPTIMIZERS[name](reference.parameters())
    for step in range(20):
        backward(reference, step)
        regularize_by_loop(reference)
        plain.step()
    train(AGR(OPTIMIZERS[name](model.parameters())), model, range(20), with_closure)
    same(model, reference, rtol=1e-12)
    train(OPTIMIZERS[name](untouched.parameters()), untouched, range(20))
    assert not torch.allclose(model.out.weight, untouched.out.weight, rtol=1e-3)


def test_every_group_is_regularized_tensor_by_tensor() -> None:
    model, reference = network(), network()
    groups, plain = (
        [{"params": [m.mix]}, {"params": [m.out.weight], "lr": 0.5}, {"params": [m.out.bias, m.scale]}]
        for m in (model, reference)
    )
    backward(reference)
    regularize_by_loop(reference)
    SGD(plain, lr=0.1).step()
    train(AGR(SGD(groups, lr=0.1)), model, range(1))
    same(model, reference, rtol=1e-13)


def test_the_loss_of_the_closure_is_returned() -> None:
    model = network()
    optimizer = AGR(SGD(model.parameters(), lr=0.1))
    loss = optimizer.step(closure=lambda: backward(model))
    torch.testing.assert_close(loss, loss_of(network()))
    assert optimizer.step() is None


def test_the_closure_has_gradients_enabled_even_for_a_base_that_forgets() -> None:
    class Forgetful(SGD):
        @torch.no_grad()
        def step(self, closure: Callable[[], Tensor]) -> Tensor:
            return closure()

    model = network()
    AGR(Forgetful(model.parameters(), lr=0.1)).step(lambda: backward(model))
    reference = network()
    backward(reference)
    regularize_by_loop(reference)
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("with_closure", [False, True])
def test_clipping_comes_before(with_closure: bool) -> None:
    def clipped(model: nn.Module) -> Tensor:
        loss = backward(model)
        clip_grad_norm_(model.parameters(), 0.1)
        return loss

    model, reference, other_way = network(), network(), network()
    optimizer = AGR(SGD(model.parameters(), lr=1.0))
    if with_closure:
        optimizer.step(lambda: clipped(model))
    else:
        clipped(model)
        optimizer.step()
    clipped(reference)
    regularize_by_loop(reference)
    SGD(reference.parameters(), lr=1.0).step()
    same(model, reference, rtol=1e-13)

    backward(other_way)
    regularize_by_loop(other_way)
    clip_grad_norm_(other_way.parameters(), 0.1)
    SGD(other_way.parameters(), lr=1.0).step()
    assert not torch.allclose(model.out.weight, other_way.out.weight, rtol=1e-6)


@pytest.mark.parametrize("with_closure", [False, True])
def test_accumulated_gradients_are_regularized_once_as_a_sum(with_closure: bool) -> None:
    def accumulated(model: nn.Module) -> Tensor:
        model.zero_grad()
        return sum(((loss := loss_of(model, seed) / 3).backward(), loss)[1] for seed in range(3))

    model, reference = network(), network()
    optimizer = AGR(SGD(model.parameters(), lr=1.0))
    if with_closure:
        optimizer.step(closure=lambda: accumulated(model))
    else:
        accumulated(model)
        optimizer.step()
    accumulated(reference)
    regularize_by_loop(reference)
    SGD(reference.parameters(), lr=1.0).step()
    same(model, reference, rtol=1e-13)


@pytest.mark.parametrize("with_closure", [False, True])
def test_the_update_uses_what_the_transform_leaves(monkeypatch: pytest.MonkeyPatch, with_closure: bool) -> None:
    def zero(grads: list[Tensor], granularity: str, compile: bool) -> None:
        for g in grads:
            g.zero_()

    monkeypatch.setattr(agr, "agr_", zero)
    model = network()
    train(AGR(SGD(model.parameters(), lr=0.1)), model, range(3), with_closure)
    same(model, network())


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_sees_every_evaluation_regularized_once(line_search: str | None) -> None:
    calls = []

    def evaluate(model: nn.Module, by_loop: bool) -> Tensor:
        loss = backward(model)
        if by_loop:
            regularize_by_loop(model)
        else:
            calls.append(loss)
        return loss

    model, reference = network(), network()
    optimizer = AGR(torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4, line_search_fn=line_search))
    plain = torch.optim.LBFGS(reference.parameters(), lr=0.1, max_iter=4, line_search_fn=line_search)
    for _ in range(2):
        optimizer.step(lambda: evaluate(model, False))
        plain.step(lambda: evaluate(reference, True))
    assert len(calls) > 4
    same(model, reference, rtol=1e-10)


def test_parameters_without_gradient_and_single_elements() -> None:
    model = network()
    model.mix.requires_grad_(False)
    train(AGR(SGD(model.parameters(), lr=0.1)), model, range(3))
    assert torch.equal(model.mix, network().mix)
    assert model.scale.item() != 1.0


def test_it_is_an_optimizer_that_owns_nothing() -> None:
    model = network()
    base = SGD([{"params": [model.mix], "lr": 0.5}], lr=0.1, momentum=0.9)
    optimizer = AGR(base)
    assert isinstance(optimizer, Optimizer)
    assert optimizer.param_groups is base.param_groups
    assert optimizer.state is base.state
    assert optimizer.defaults is base.defaults
    assert set(vars(optimizer)) == {"base", "granularity", "compile"}
    optimizer.add_param_group({"params": model.out.parameters()})
    assert [group["lr"] for group in base.param_groups] == [0.5, 0.1]
    backward(model)
    optimizer.zero_grad(set_to_none=False)
    assert model.out.weight.grad.abs().sum() == 0
    optimizer.zero_grad()
    assert model.out.weight.grad is None
    groups, state, defaults = base.param_groups[:1], type(base.state)(dict), {"lr": 1.0}
    optimizer.param_groups, optimizer.state, optimizer.defaults = groups, state, defaults
    assert base.param_groups is groups
    assert base.state is state
    assert base.defaults is defaults
    base.extra = 3
    assert optimizer.extra == 3
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = optimizer.nothing_like_it


def test_a_base_with_its_own_methods_is_asked() -> None:
    class Own(SGD):
        def state_dict(self) -> dict[str, object]:
            return super().state_dict() | {"own": 1}

        def zero_grad(self, set_to_none: bool = True) -> None:
            raise NotImplementedError

    optimizer = AGR(Own(network().parameters(), lr=0.1))
    assert optimizer.state_dict()["own"] == 1
    with pytest.raises(NotImplementedError):
        optimizer.zero_grad()


def test_repr_and_errors() -> None:
    base = SGD(network().parameters(), lr=0.1)
    assert repr(AGR(base)) == f"AGR({base!r})"
    for wrong in (network(), SGD, None, network().parameters()):
        with pytest.raises(TypeError, match=r"^AGR wraps an instance of torch\.optim\.Optimizer, not \w+$"):
            AGR(wrong)


def test_wrapping_twice_applies_it_once() -> None:
    models = [network(), network()]
    train(AGR(SGD(models[0].parameters(), lr=0.1)), models[0], range(5))
    train(AGR(AGR(SGD(models[1].parameters(), lr=0.1))), models[1], range(5))
    same(*models)


def _cosine(optimizer: Optimizer) -> LRScheduler:
    return CosineAnnealingLR(optimizer, 6)


def _one_cycle(optimizer: Optimizer) -> LRScheduler:
    return OneCycleLR(optimizer, max_lr=0.1, total_steps=10)


def _sequential(optimizer: Optimizer) -> LRScheduler:
    return SequentialLR(optimizer, [ConstantLR(optimizer, 0.1, 3), CosineAnnealingLR(optimizer, 5)], [3])


@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")  # an old torch's own SequentialLR
@pytest.mark.parametrize("scheduler", [_cosine, _one_cycle, _sequential])
@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("with_closure", [False, True])
def test_schedulers(scheduler: Callable[[Optimizer], LRScheduler], name: str, with_closure: bool) -> None:
    histories = []
    for wrap in (AGR, lambda optimizer: optimizer):
        model = network()
        optimizer = wrap(OPTIMIZERS[name](model.parameters()))
        schedule = scheduler(optimizer)
        history = []
        for step in range(9):
            train(optimizer, model, range(step, step + 1), with_closure)
            schedule.step()
            (group,) = optimizer.param_groups
            history.append((group["lr"], group.get("momentum"), group.get("betas")))
        histories.append(history)
    assert histories[0] == histories[1]
    assert len({h[0] for h in histories[0]}) > 3
    if scheduler is _one_cycle:
        assert len({h[1:] for h in histories[0]}) > 3  # momentum or betas move too


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("with_scheduler", [False, True])
def test_deepcopy_and_pickle(copy_of: Callable, with_scheduler: bool) -> None:
    model = network()
    optimizer = AGR(SGD(model.parameters(), lr=0.1, momentum=0.9))
    schedule = CosineAnnealingLR(optimizer, 20) if with_scheduler else None
    train(optimizer, model, range(3))
    twin_model, twin = copy_of((model, optimizer))
    assert type(twin) is AGR
    assert twin.base is not optimizer.base
    assert twin.param_groups[0]["params"][0] is next(twin_model.parameters())
    before = copy.deepcopy(model)
    train(twin, twin_model, range(3, 6))
    same(model, before)  # the copy's steps leave the original alone,
    train(optimizer, model, range(3, 6))
    same(model, twin_model)  # and do what the original does
    assert not torch.equal(model.out.weight, before.out.weight)
    if schedule is not None:
        schedule.step()
        assert optimizer.param_groups[0]["lr"] < 0.1 == twin.param_groups[0]["lr"]
        CosineAnnealingLR(twin, 20)


def test_deepcopy_of_a_base_that_copies_itself_stays_wrapped() -> None:
    class Own(SGD):
        def __deepcopy__(self, memo: dict) -> "Own":
            return Own([torch.ones(2)], lr=0.5)

    twin = copy.deepcopy(AGR(Own([torch.ones(3)], lr=0.1)))
    assert type(twin) is AGR
    assert twin.param_groups[0]["lr"] == 0.5


def test_a_bare_instance_does_not_recurse() -> None:
    with pytest.raises(AttributeError):
        _ = AGR.__new__(AGR).anything
    assert copy.copy(AGR(base := SGD(network().parameters(), lr=0.1))).base is base


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_dict_is_the_bases_and_resumes_bit_for_bit(name: str) -> None:
    through, model = network(), network()
    whole, optimizer = (AGR(OPTIMIZERS[name](m.parameters())) for m in (through, model))
    train(whole, through, range(8))
    train(optimizer, model, range(4))

    def flat(state: dict, prefix: str = "") -> set[str]:
        return {
            key
            for k, v in state.items()
            for key in (flat(v, f"{prefix}{k}/") if isinstance(v, dict) else {prefix + str(k)})
        }

    plain_model = network()
    plain = OPTIMIZERS[name](plain_model.parameters())
    train(plain, plain_model, range(4))
    assert flat(optimizer.state_dict()) == flat(plain.state_dict())

    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed_model = Net().double()
    resumed_model.load_state_dict(saved["model"])
    resumed = AGR(OPTIMIZERS[name](resumed_model.parameters()))
    resumed.load_state_dict(saved["optimizer"])
    train(resumed, resumed_model, range(4, 8))
    same(resumed_model, through)


def test_checkpoints_move_between_wrapped_and_plain() -> None:
    model = network()
    wrapped, plain = AGR(Adam(model.parameters(), lr=0.01)), Adam(model.parameters(), lr=0.5)
    train(wrapped, model, range(3))
    plain.load_state_dict(wrapped.state_dict())
    assert plain.param_groups[0]["lr"] == 0.01
    torch.testing.assert_close(plain.state[model.scale]["exp_avg"], wrapped.state[model.scale]["exp_avg"])
    train(plain, model, range(2))
    wrapped.load_state_dict(plain.state_dict())
    assert wrapped.state[model.scale]["step"] == 5
    torch.testing.assert_close(wrapped.state[model.scale]["exp_avg"], plain.state[model.scale]["exp_avg"])


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler_unscales_first_and_skips_overflows(fused: bool) -> None:
    model, reference = network().float(), network().float()
    optimizer = AGR(SGD(model.parameters(), lr=0.1, fused=fused))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x = torch.randn(6, 4)
    for factor in (1.0, INF, 2.0):
        for m, scale in ((model, scaler.scale), (reference, lambda loss: loss)):
            m.zero_grad()
            scale(m(x).square().mean() * factor).backward()
        if factor < INF:
            for p in reference.parameters():
                p.grad = formula(p.grad)
            SGD(reference.parameters(), lr=0.1).step()
        scaler.step(optimizer)
        scaler.update()
        same(model, reference, rtol=1e-6)
    assert scaler.get_scale() == 512.0


def test_hooks_registered_on_the_wrapper_run_once_a_step() -> None:
    model = network()
    optimizer = AGR(SGD(model.parameters(), lr=0.1))
    seen: list[str] = []
    handles = [
        optimizer.register_step_pre_hook(lambda opt, args, kwargs: seen.append("pre")),
        optimizer.register_step_post_hook(lambda opt, args, kwargs: seen.append("post")),
        optimizer.register_state_dict_pre_hook(lambda opt: seen.append("saving")),
        optimizer.register_state_dict_post_hook(lambda opt, state: seen.append("saved")),
        optimizer.register_load_state_dict_pre_hook(lambda opt, state: seen.append("loading")),
        optimizer.register_load_state_dict_post_hook(lambda opt: seen.append("loaded")),
    ]
    train(optimizer, model, range(1))
    train(optimizer, model, range(1), with_closure=True)
    assert seen == ["pre", "post"] * 2
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen[4:] == ["saving", "saved", "loading", "loaded"]
    for handle in handles:
        handle.remove()
    train(optimizer, model, range(1))
    assert len(seen) == 8


def by_rows(g: Tensor) -> Tensor:
    """The method on each output unit; of a vector every entry is a row by itself, and stays."""
    return torch.stack([formula(row) for row in g]) if g.dim() > 1 else g.clone()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex128])
@pytest.mark.parametrize("shape", [(4, 6), (3, 2, 5, 5), (5,), (1, 7), (4, 1), (0, 3)], ids=str)
def test_by_rows(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    g = torch.randn(shape, dtype=torch.complex128 if dtype.is_complex else torch.float64).to(dtype)
    expected = by_rows(g if dtype.is_complex else g.double()) if g.numel() else g.clone()
    agr_(ours := g.clone(), granularity="row")
    tolerance = {torch.bfloat16: 1e-2, torch.float32: 1e-6}.get(dtype, 1e-14)
    torch.testing.assert_close(ours, expected.to(dtype), rtol=tolerance, atol=tolerance)


def test_a_row_of_zeros_or_without_bounds_stays_and_the_others_do_not() -> None:
    g = torch.randn(5, 8)
    g[1], g[2, 3], g[3, 0] = 0.0, INF, NAN
    big = torch.full((1, 8), 3e38)  # whose sum is beyond float32
    before = g.clone()
    agr_([g, big], granularity="row")
    assert torch.equal(g[1], before[1]) and torch.equal(g[2], before[2])
    assert torch.equal(g[3].nan_to_num(9.0), before[3].nan_to_num(9.0))
    torch.testing.assert_close(g[[0, 4]], by_rows(before[[0, 4]]))
    torch.testing.assert_close(big, torch.full((1, 8), 3e38 * 7 / 8))


def test_the_granularity_of_an_optimizer() -> None:
    models = [network() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizer = AGR(SGD(models[0].parameters(), lr=1.0), granularity="row")
    assert repr(optimizer) == f"AGR({optimizer.base!r}, granularity='row')"
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)), AGR(optimizer, "row")):
        assert again.granularity == "row"
    for model in models:
        model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    for p, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, other - by_rows(other.grad) if other.grad.dim() else other - other.grad)
    for make in (lambda: AGR(optimizer.base, "layer"), lambda: agr_([torch.ones(3)], "layer")):
        with pytest.raises(ValueError, match="granularity must be tensor or row, got 'layer'"):
            make()
    with pytest.raises(ValueError, match="granularity='row' takes dense gradients"):
        agr_([torch.eye(3).to_sparse()], "row")


def test_an_optimizer_with_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """By tensor its large gradients go there; a copy's, and what is made of the bytes, too."""
    seen = list[int]()
    monkeypatch.setattr(agr, "in_two_passes_", lambda g: seen.append(g.numel()))
    p = nn.Parameter(torch.zeros(F32_LARGE))
    optimizer = AGR(SGD([p], lr=1.0), compile=True)
    assert repr(optimizer) == f"AGR({optimizer.base!r}, compile=True)"
    for again in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        again.param_groups[0]["params"][0].grad = torch.ones(F32_LARGE)
        again.step()
    assert seen == [F32_LARGE] * 3
    assert sam_agr(optimizer.base, compile=True).base.compile


def test_the_statistics_of_rows() -> None:
    g, bias = torch.randn(4, 200), torch.randn(4)
    found = agr_statistics([g, bias], "row")
    coefs = g.abs() / g.abs().sum(1, keepdim=True)
    assert set(found) == {"mean_coef/100-9999", "max_coef/100-9999"}
    torch.testing.assert_close(found["mean_coef/100-9999"], coefs.mean())
    torch.testing.assert_close(found["max_coef/100-9999"], coefs.max())
