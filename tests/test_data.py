"""Views: what they are made of, and what they depend on."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gvr_lightning.data.augmentation import Augmentation, PerImage, filled, normalise
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.digits import Digits
from gvr_lightning.data.image_set import ImageSet, Splits, channel_moments
from gvr_lightning.data.index_loader import IndexLoader
from gvr_lightning.errors import UserError
from gvr_lightning.random import hash_key, permutation, uniform

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])


def images(n: int = 64, side: int = 12) -> Tensor:
    return torch.randint(1, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def augment(x: Tensor, keys: list[int], index: Tensor | None = None, **options: object) -> list[Tensor]:
    settings = {"padding": 2, "flip": True, "cutout": 5, "cutout_prob": 0.5} | options
    index = torch.arange(len(x)) if index is None else index
    return Augmentation(**settings)(x, MEAN, STD, index, keys)  # type: ignore[arg-type]


def crops(image: Tensor, padding: int) -> list[Tensor]:
    """Every crop of the zero-padded image and of its mirror image, by slicing."""
    side = image.shape[-1]
    padded = torch.zeros(3, side + 2 * padding, side + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + side, padding : padding + side] = image
    both = (padded, padded.flip(2))
    return [
        p[:, y : y + side, x : x + side] for p in both for y in range(2 * padding + 1) for x in range(2 * padding + 1)
    ]


def test_a_view_is_a_normalised_crop_or_its_mirror_image() -> None:
    x = images()
    seen = set()
    for image, view in zip(x, augment(x, [7], cutout=0)[0], strict=True):
        candidates = normalise(torch.stack(crops(image, 2)), MEAN, STD)
        distance = (candidates - view).abs().amax((1, 2, 3))
        assert distance.min() < 1e-5
        seen.add(int(distance.argmin()))
    assert len(seen) > 30  # of 50, by 64 samples: each has its own draw


def test_cutout_is_a_square_of_the_mean_colour() -> None:
    x = images(400)
    with_hole, without = augment(x, [3])[0], augment(x, [3], cutout=0)[0]
    changed = (with_hole != without).any(1)
    cut = changed.flatten(1).any(1)
    assert 0.4 < cut.float().mean() < 0.6
    assert (with_hole[changed.unsqueeze(1).expand_as(with_hole)] == 0).all()
    for hole in changed[cut]:
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        assert len(rows) <= 5 and len(columns) <= 5
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    sizes = changed[cut].any(2).sum(1)
    # the corner is uniform in [-2, 12 - 2): rows 3, 4, 5 x 6, 4, 3, (2) long
    expected = sum(min(12, first + 5) - max(0, first) for first in range(-2, 10)) / 12
    assert sizes.float().mean() == pytest.approx(expected, abs=0.25)


def test_draws_are_uniform() -> None:
    x = torch.zeros(20000, 1, 3, 3, dtype=torch.uint8)
    x[:, 0, 1, 1] = 255
    aug = Augmentation(padding=1, flip=False, cutout=0)
    view = aug(x, torch.zeros(1), torch.ones(1), torch.arange(20000), [5])[0]
    frequency = view.mean(0).flatten()
    torch.testing.assert_close(frequency, torch.full((9,), 1 / 9), atol=0.01, rtol=0)


def by_hand(image: np.ndarray, draws: list[float], aug: Augmentation, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """A view of one image, pixel after pixel, from its six draws: mirrored?, crop, crop, hole, hole, any hole?"""
    C, H, W = image.shape
    top, left = (int(u * (2 * aug.padding + 1)) - aug.padding for u in draws[1:3])
    hole_top, hole_left = (int(u * n) - aug.cutout // 2 for u, n in zip(draws[3:5], (H, W), strict=True))
    view = np.zeros((C, H, W))
    for y, x in itertools.product(range(H), range(W)):
        row, column = y + top, (W - 1 - x if aug.flip and draws[0] < 0.5 else x) + left
        black = not (0 <= row < H and 0 <= column < W)
        view[:, y, x] = ((0 if black else image[:, row, column] / 255) - mean) / std
        in_hole = hole_top <= y < hole_top + aug.cutout and hole_left <= x < hole_left + aug.cutout
        if draws[5] < aug.cutout_prob and in_hole:
            view[:, y, x] = 0
    return view


SETTINGS: list[dict[str, Any]] = [
    {"padding": 0, "flip": False, "cutout": 0},
    {"padding": 0, "flip": True, "cutout": 0},
    {"padding": 2, "flip": False, "cutout": 0},
    {"padding": 1, "flip": True, "cutout": 3},
    {"padding": 7, "flip": True, "cutout": 2, "cutout_prob": 1.0},  # more than the image
    {"padding": 0, "flip": False, "cutout": 1, "cutout_prob": 1.0},
    {"padding": 0, "flip": False, "cutout": 4, "cutout_prob": 0.2},
    {"padding": 0, "flip": True, "cutout": 30, "cutout_prob": 0.7},
    {"padding": 1, "flip": False, "cutout": 5, "cutout_prob": 0.0},
    {},  # as published: 4, true, 16, 0.5
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("shape", [(3, 5, 9), (1, 9, 4), (3, 6, 6)])
def test_views_are_those_made_pixel_by_pixel(settings: dict[str, Any], shape: tuple[int, int, int]) -> None:
    x = torch.randint(0, 256, (9, *shape), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    index, keys, given = torch.arange(9) * 5 + 2, [3, -8], x.clone()
    mean, std = MEAN[: shape[0]], STD[: shape[0]]
    aug = Augmentation(**settings)
    views = aug(x, mean, std, index, keys)
    assert torch.equal(x, given) and len(views) == 2
    for key, view in zip(keys, views, strict=True):
        assert view.shape == x.shape and view.dtype == torch.float32
        draws = uniform(key, index, 6).T.tolist()
        for image, u, got in zip(x.numpy(), draws, view, strict=True):
            np.testing.assert_allclose(got, by_hand(image, u, aug, mean.numpy(), std.numpy()), atol=2e-6)


def test_the_usual_augmentation_is_the_published_one() -> None:
    x, index = images(20, side=24), torch.arange(20)
    published = Augmentation(padding=4, flip=True, cutout=16, cutout_prob=0.5)
    assert torch.equal(Augmentation()(x, MEAN, STD, index, [5])[0], published(x, MEAN, STD, index, [5])[0])


def test_every_crop_and_hole_is_drawn_equally_often_along_both_axes() -> None:
    n, (H, W) = 20_000, (3, 5)
    x = torch.arange(1, H * W + 1, dtype=torch.uint8).view(1, 1, H, W).expand(n, 1, H, W)
    zero, one = torch.zeros(1), torch.ones(1) / 255  # views keep their bytes
    crop = Augmentation(padding=1, flip=True, cutout=0)(x, zero, one, torch.arange(n), [1])[0]
    kinds, counts = crop.round().view(n, -1).unique(dim=0, return_counts=True)
    assert len(kinds) == 2 * 3 * 3 and (counts / n - 1 / 18).abs().max() < 0.01
    hole = Augmentation(padding=0, flip=False, cutout=1, cutout_prob=0.75)(x, zero, one, torch.arange(n), [1])[0] == 0
    torch.testing.assert_close(hole.float().mean((0, 1)), torch.full((H, W), 0.75 / 15), atol=0.006, rtol=0)


def test_a_view_depends_on_its_sample_and_its_key_alone() -> None:
    x, index = images(), torch.arange(64) * 17 + 3
    view1, view2 = augment(x, [1, 2], index)
    assert (view1 != view2).flatten(1).any(1).float().mean() > 0.9
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))[:10]
    again = augment(x[order], [2], index[order])[0]
    assert torch.equal(again, view2[order])


def splitmix64(x: int) -> int:
    """Of Steele, Lea and Flood (2014), by Python's integers: the output of a generator whose state has become ``x``."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


GAMMA = 0x9E3779B97F4A7C15


def unsigned_hash(*coordinates: int) -> int:
    key = 0
    for c in coordinates:
        key = splitmix64(((key ^ c % 2**64) + GAMMA) % 2**64)
    return key


def test_random_numbers_are_splitmix64_s() -> None:
    assert splitmix64(1234567 + GAMMA) == 6457827717110365317 and splitmix64(0) == 0  # the published test value
    for coordinates in ((1234567,), (0,), (-1,), (3, -7, 2**40), (2**63, 1), (1, 0, 0, 5)):
        assert hash_key(*coordinates) % 2**64 == unsigned_hash(*coordinates)
        assert -(2**63) <= hash_key(*coordinates) < 2**63
    index = [0, 1, 17, 59_999, 2**40]
    for key in (0, 5, -1, hash_key(1, 2)):
        expected = [
            [splitmix64((splitmix64((i * GAMMA + key) % 2**64) + k * GAMMA) % 2**64) >> 40 for i in index]
            for k in (1, 2, 3)
        ]
        found = uniform(key, torch.tensor(index), 3)
        assert found.dtype == torch.float32 and (found * 2**24).tolist() == expected


def test_an_order_is_by_its_key_alone() -> None:
    state = torch.random.get_rng_state()
    orders = [permutation(key, 40) for key in (0, 1, -1, hash_key(1), hash_key(2))]
    assert torch.equal(state, torch.random.get_rng_state())
    assert len({tuple(order.tolist()) for order in orders}) == 5
    torch.rand(3)
    assert torch.equal(permutation(-1, 40), orders[2]) and orders[0].dtype == torch.int64
    assert permutation(3, 6).tolist() == [4, 0, 3, 2, 1, 5]  # in every version


def test_random_numbers_are_uniform_and_do_not_repeat() -> None:
    u = uniform(hash_key(1, 2), torch.arange(100_000), 3)
    assert u.min() >= 0 and u.max() < 1
    for row in u:
        counts = torch.histc(row, 20, 0, 1)
        assert ((counts - 5000).square() / 5000).sum() < 50  # chi-square, 19 degrees of freedom: p < 1e-4
    assert (
        torch.corrcoef(torch.cat([u, uniform(hash_key(2, 1), torch.arange(100_000), 1)])).fill_diagonal_(0).abs().max()
        < 0.02
    )
    many = uniform(torch.tensor([[hash_key(1, 2)], [9]]), torch.arange(100), 3)
    assert torch.equal(many[:, 0], u[:, :100]) and not torch.equal(many[:, 1], u[:, :100])
    assert len({hash_key(a, b) for a in range(50) for b in range(50)}) == 2500
    assert sorted(permutation(3, 50).tolist()) == list(range(50))


def test_a_transform_of_ones_own_gets_a_draw_for_each_image() -> None:
    from torchvision.transforms import v2

    x, index = images(16), torch.arange(16)
    per_image = PerImage(v2.Compose([v2.RandomCrop(12, padding=2), v2.RandomHorizontalFlip()]))
    state = torch.random.get_rng_state()
    view = per_image(x, MEAN, STD, index, [4])[0]
    assert torch.equal(state, torch.random.get_rng_state())
    same = torch.equal(view[1:], per_image(x[1:], MEAN, STD, index[1:], [4])[0])
    assert same and not torch.equal(view, per_image(x, MEAN, STD, index, [5])[0])
    found = []
    for image, got in zip(x, view, strict=True):
        distance = (normalise(torch.stack(crops(image, 2)), MEAN, STD) - got).abs().amax((1, 2, 3))
        assert distance.min() < 1e-5
        found.append(int(distance.argmin()))
    assert len(set(found)) > 8


def test_a_transform_of_ones_own_is_seeded_by_key_and_number() -> None:
    per_image = PerImage(lambda image: torch.rand(3, 2, 4))
    index = torch.tensor([4, 0])
    views = per_image(images(2), torch.zeros(3), torch.ones(3), index, [7, -9])
    for key, view in zip((7, -9), views, strict=True):
        for i, got in zip((4, 0), view, strict=True):
            assert torch.equal(got, torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(hash_key(key, i))))
    (none,) = per_image(images(2)[:0], MEAN, STD, index[:0], [7])
    assert none.shape == (0, 3, 2, 4) and none.dtype == torch.float32
    assert all(view.shape == (0, 3, 12, 12) for view in augment(images(2)[:0], [7, 8]))


def test_bytes_are_normalised_as_numbers_from_0_to_1() -> None:
    x = images(5)
    expected = (x.numpy() / 255 - MEAN.numpy().reshape(3, 1, 1)) / STD.numpy().reshape(3, 1, 1)
    for given in (x, x.double() / 255, x.float() / 255):
        found = normalise(given, MEAN, STD)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_channel_moments_are_those_of_the_chosen_images() -> None:
    x, index = images(50), torch.arange(0, 50, 3)
    mean, std = channel_moments(x, index)
    chosen = x[index].double() / 255
    torch.testing.assert_close(mean.double(), chosen.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(std.double(), chosen.std((0, 2, 3), correction=0), rtol=1e-6, atol=0)
    assert channel_moments(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3))[1] == 1


def module(**options: object) -> ViewsDataModule:
    data = ViewsDataModule(Digits(), Augmentation(1, False, 0), views=2, **options)  # type: ignore[arg-type]
    data.setup()
    return data


def test_validation_is_held_out_of_train_whatever_the_seed() -> None:
    data, other = module(seed=0), module(seed=1)
    assert len(data.train_index) + len(data.val_index) == 1437 and len(data.val_index) == 144
    assert not set(data.train_index.tolist()) & set(data.val_index.tolist())
    assert torch.equal(data.val_index, other.val_index)
    assert data.image_shape == (1, 8, 8) and data.num_classes == 10
    assert len(module(max_train=100).train_index) == 100
    assert module(val_fraction=0.0).val_dataloader() == []


def test_batches_are_pure_functions_of_seed_epoch_and_sample() -> None:
    data, index = module(seed=3), torch.tensor([5, 900, 17])
    batch = data.batches.training(index, epoch=4)
    again = module(seed=3).batches.training(index.flip(0), epoch=4)
    for a, b in zip(batch.views, again.views, strict=True):
        assert torch.equal(a, b.flip(0))
    assert batch.keys is not None and again.keys is not None
    assert torch.equal(batch.keys, again.keys.flip(1)) and batch.keys.shape == (2, 3)
    assert not torch.equal(batch.views[0], batch.views[1])
    assert not torch.equal(batch.views[0], data.batches.training(index, epoch=5).views[0])
    assert not torch.equal(batch.views[0], module(seed=4).batches.training(index, epoch=4).views[0])
    assert torch.equal(batch.target, data.splits.train.targets[index])  # type: ignore[union-attr]


def test_the_loader_goes_on_where_a_run_stopped() -> None:
    whole = list(IndexLoader(lambda: torch.arange(10), 10, 4, lambda: 0))
    rest = list(IndexLoader(lambda: torch.arange(10), 10, 4, lambda: 1))
    assert [b.tolist() for b in whole] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [b.tolist() for b in rest] == [b.tolist() for b in whole[1:]]


def test_too_few_images_and_wrong_moments_are_refused() -> None:
    tiny = ImageSet(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    splits = Splits(tiny, tiny, ("a",), "")
    with pytest.raises(UserError, match="too few"):
        ViewsDataModule(lambda: splits, Augmentation(0, False, 0), val_fraction=0.1).setup()
    with pytest.raises(UserError, match="3 channels"):
        ViewsDataModule(lambda: splits, Augmentation(0, False, 0), val_fraction=0, mean=[0.5, 0.5], std=[0.5]).setup()


def test_one_mean_is_for_every_channel() -> None:
    colour = ImageSet(torch.full((4, 3, 4, 4), 255, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    splits = Splits(colour, colour, ("a",), "")
    augmentation = Augmentation(0, False, 0)
    data = ViewsDataModule(lambda: splits, augmentation, val_fraction=0, mean=[0.5], std=[0.25])
    data.setup()
    assert (data.batches.training(data.train_index, 0).views[0] == 2).all()


def test_keys_are_filled_in_exactly() -> None:
    """Without a copy from the host, on a GPU."""
    keys = [hash_key(3, n) for n in range(4)] + [2**63 - 1, -(2**63), 0]
    assert torch.equal(filled(keys, torch.device("cpu")), torch.tensor(keys).unsqueeze(1))
