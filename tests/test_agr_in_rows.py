"""AGR as a GPU has it, the sizes of all tensors in rows of one matrix: on a CPU against plain formulas."""

import pytest
import torch
from test_agr import formula
from torch import Tensor
from torch._subclasses import FakeTensorMode

from gvr_lightning.methods import shrink
from gvr_lightning.methods.layout import part_like
from gvr_lightning.methods.shrink import in_rows_

SHAPES = [(3,), (1024,), (1025,), (7, 300), (5, 4, 3, 3), (2, 1, 3, 3), (40, 60)]


def some(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Among them channels_last, transposed, and every second entry of a vector."""
    torch.manual_seed(0)
    grads = [torch.randn(shape, dtype=dtype) for shape in SHAPES]
    grads[4:6] = [g.to(memory_format=torch.channels_last) for g in grads[4:6]]
    grads[6] = grads[6].t().contiguous().t()
    return [*grads, torch.randn(50, dtype=dtype)[::2]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_each_tensor_by_its_own_sum(dtype: torch.dtype) -> None:
    grads = some(dtype)
    expected = [formula(g.double()) for g in grads]
    in_rows_(grads)
    exact = {"rtol": 1e-14, "atol": 1e-16} if dtype == torch.float64 else {}
    for g, right in zip(grads, expected, strict=True):
        torch.testing.assert_close(g, right.to(dtype), **exact)


def test_what_the_formula_would_break_stays_and_its_neighbours_do_not() -> None:
    inf, largest = torch.inf, torch.finfo(torch.float32).max
    broken = [torch.zeros(5), torch.tensor([1.0, inf, -2.0]), torch.tensor([torch.nan, 1.0]), torch.full((3,), largest)]
    grads = [torch.tensor([1.0, 3.0]), *(g.clone() for g in broken), torch.tensor([3.0, -1.0])]
    in_rows_(grads)
    assert grads[0].tolist() == [0.75, 0.75] and grads[-1].tolist() == [0.75, -0.75]
    for g, before in zip(grads[1:-1], broken, strict=True):
        torch.testing.assert_close(g, before, rtol=0, atol=0, equal_nan=True)


def test_denormal_sums() -> None:
    tiny = torch.tensor([1e-42, -3e-42])
    in_rows_([tiny])
    torch.testing.assert_close(tiny, torch.tensor([0.75e-42, -0.75e-42]), rtol=1e-2, atol=0)


@pytest.mark.parametrize(("entries", "lists"), [(10**6, [8]), (2000, [2, 1, 1, 2, 1, 1]), (1, [1] * 8)])
def test_so_many_at_once(entries: int, lists: list[int]) -> None:
    """A matrix of as many numbers at most, but for a single tensor that has more."""
    found = list(shrink._at_most(entries, some()))
    assert list(map(len, found)) == lists and [g.shape for part in found for g in part] == [g.shape for g in some()]


def test_nothing_fake_is_kept() -> None:
    """An estimate without content, and then the real thing with tensors of the same shapes."""
    shrink._rows_of.cache_clear()
    with FakeTensorMode():
        in_rows_(some())
    assert shrink._rows_of.cache_info().currsize == 0
    for _ in range(2):
        in_rows_(some())
    assert shrink._rows_of.cache_info()[:2] == (1, 1)


def test_a_large_networks_many_lists_are_laid_out_once() -> None:
    shrink._rows_of.cache_clear()
    for _ in range(2):
        for n in range(1, 101):
            in_rows_([torch.ones(n + 1)])
    assert shrink._rows_of.cache_info()[:2] == (100, 100)


def test_a_part_has_its_tensors_own_strides() -> None:
    """Also where a side of one makes them arbitrary; with gaps, the order of its memory."""
    vector = torch.arange(100.0)[3:]
    for t in some():
        if t.numel() < 90:
            part = part_like(vector, 2, t)
            assert part.shape == t.shape and sorted(part.flatten().tolist()) == list(range(5, 5 + t.numel()))
            assert part.stride() == t.stride() or t.stride() == (2,)
    transposed = torch.empty(3, 2).t()
    assert part_like(vector, 0, transposed).tolist() == [[3, 5, 7], [4, 6, 8]]
    odd = torch.empty(18).as_strided((2, 1, 3, 3), (9, 1, 3, 1))
    assert part_like(vector, 0, odd).stride() == (9, 1, 3, 1)
