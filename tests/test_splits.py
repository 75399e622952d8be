"""Which images are trained on, held out and tested, in which order and batches, and what is computed from which."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from gvr_lightning.app.build import build_data
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.data.augmentation import Augmentation, PerImage
from gvr_lightning.data.batch import Batch, rows_here
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.image_set import ImageSet, Splits, channel_moments, content_hash, divide, held_out
from gvr_lightning.data.label_noise import PairFlip, Symmetric
from gvr_lightning.distributed.batch import Shard
from gvr_lightning.errors import UserError
from gvr_lightning.random import uniform

TEST = 30_000  # test images are numbered from here on


def noise_images(channels: int = 3, seed: int = 0) -> Splits:
    """60 for training, 23 to test, not square; two pixels are an image's number, its class is the number modulo 4."""
    random, parts = np.random.RandomState(seed), []
    for first, n in ((0, 60), (TEST, 23)):
        numbers = first + np.arange(n)
        images = random.randint(0, 120, (n, channels, 5, 7)) + 60 * np.arange(channels)[None, :, None, None]
        images[:, 0, 0, 0], images[:, 0, 0, 1] = numbers // 256, numbers % 256
        parts.append(ImageSet(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(numbers % 4)))
    train, test = parts
    return Splits(train, test, ("a", "b", "c", "d"), content_hash(train, test))


PLAIN = Augmentation(padding=0, flip=False, cutout=0)


def module(source: Callable[[], Splits] = noise_images, augmentation: Any = PLAIN, **options: Any) -> ViewsDataModule:
    """Set up; images arrive as they are, in [0, 1], unless told otherwise."""
    data = ViewsDataModule(source, augmentation, **{"mean": [0.0], "std": [1.0], "batch_size": 16, **options})
    data.setup()
    return data


def numbers(images: Tensor) -> list[int]:
    """The numbers that are in the images, of whatever part they are."""
    high, low = ((images[:, 0, 0, i].double() * 255).round().long() for i in (0, 1))
    return (256 * high + low).tolist()


class Keeps(LightningModule):
    """Trains nothing and keeps the batches that it is given."""

    def __init__(self, accumulate: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.accumulate, self.weight = accumulate, nn.Parameter(torch.zeros(1))
        self.train_batches: list[tuple[int, Batch]] = []  # with their epochs
        self.val_batches: list[Batch] = []
        self.test_batches: list[Batch] = []

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.train_batches.append((self.current_epoch, batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.val_batches.append(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.test_batches.append(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def epoch(self, epoch: int) -> list[Batch]:
        return [batch for of, batch in self.train_batches if of == epoch]


def fitted(data: ViewsDataModule, epochs: int = 2, accumulate: int = 1) -> Keeps:
    """What Lightning hands out in some epochs, then in a test."""
    keeps = Keeps(accumulate)
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", devices=1, num_sanity_val_steps=0, **off)  # type: ignore[arg-type]
    trainer.fit(keeps, data)
    trainer.test(keeps, data, verbose=False)
    return keeps


def shown(batches: Sequence[Batch], view: int = 0) -> list[int]:
    return [n for batch in batches for n in numbers(batch.views[view])]


# --- held out


@pytest.mark.parametrize(("n", "fraction", "val"), [(90, 0.1, 9), (33, 0.25, 8), (10, 0.5, 5), (7, 0.0, 0)])
def test_a_part_is_held_out_and_the_rest_is_trained_on(n: int, fraction: float, val: int) -> None:
    train, held = (part.tolist() for part in held_out(n, fraction, None))
    assert len(held) == val and sorted(train + held) == list(range(n))
    assert train == sorted(train) and held == sorted(held)


@pytest.mark.parametrize("most", [2, 5, 80, 81, 500])
def test_max_train_takes_of_the_rest_and_moves_nothing(most: int) -> None:
    (train, held), (all_of_it, same_held) = held_out(90, 0.1, most), held_out(90, 0.1, None)
    assert torch.equal(held, same_held)
    assert len(train) == min(most, 81) and set(train.tolist()) <= set(all_of_it.tolist())
    assert train.tolist() == sorted(train.tolist())
    more = held_out(90, 0.1, most + 1)[0]
    assert set(train.tolist()) <= set(more.tolist()), "a larger training set contains the smaller one"


def test_what_is_held_out_is_drawn_once_and_for_all() -> None:
    """Figures of different versions are of the same split."""
    train, held = held_out(12, 0.25, 4)
    assert (train.tolist(), held.tolist()) == ([3, 5, 9, 11], [1, 2, 10])


def test_a_seed_of_its_own_draws_another_choice_of_both() -> None:
    usual, one, again, other = (held_out(90, 0.2, 30, seed) for seed in (None, 0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    for first, second in ((usual, one), (usual, other), (one, other)):
        assert all(not torch.equal(a, b) and len(a) == len(b) for a, b in zip(first, second, strict=True))
    everywhere = [held_out(90, 0.2, 30, seed)[0] for seed in range(200)]
    counts = torch.bincount(torch.cat(everywhere), minlength=90)  # 200 x 30 / 90 = 67 of each, deviation 7
    assert counts.min() > 67 - 5 * 7 and counts.max() < 67 + 5 * 7


@pytest.mark.parametrize(("given", "seed"), [("null", None), ("3", 3), ("run", 5)])
def test_the_subset_is_that_of_the_key_or_of_the_run(given: str, seed: int | None) -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", overrides=["seed=5", "data.max_train=40", f"data.subset_seed={given}"])
    data = build_data(cfg)
    expected = held_out(1437, 0.1, 40, seed)
    assert torch.equal(data.train_index, expected[0]) and torch.equal(data.val_index, expected[1])


def test_what_is_held_out_is_spread_over_the_set() -> None:
    held = held_out(1000, 0.2, None)[1]
    thirds = torch.bincount(held // 334, minlength=3)
    assert thirds.min() > 45 and thirds.max() < 90


@pytest.mark.parametrize(
    ("n", "fraction", "most"), [(1, 0.0, None), (2, 0.5, None), (4, 0.1, None), (10, 0.9, None), (10, 0.1, 1)]
)
def test_fewer_than_two_to_train_on_or_none_to_hold_out_are_refused(n: int, fraction: float, most: int | None) -> None:
    with pytest.raises(UserError, match=f"{n} training images are too few for data.val_fraction={fraction}"):
        held_out(n, fraction, most)


@pytest.mark.parametrize(("n", "fraction", "most"), [(2, 0.0, None), (3, 0.34, None), (10, 0.8, None), (10, 0.1, 2)])
def test_two_images_are_enough_to_train_on(n: int, fraction: float, most: int | None) -> None:
    train, held = held_out(n, fraction, most)
    assert len(train) == 2 and (len(held) > 0) == (fraction > 0)


@pytest.mark.parametrize("options", [{}, {"max_train": 20}, {"val_fraction": 0.3, "max_train": 30}])
@pytest.mark.parametrize("seed", [0, 5])
def test_every_image_is_in_one_part(options: dict[str, Any], seed: int) -> None:
    keeps = fitted(module(seed=seed, **options), epochs=1)
    train, val, test = (set(shown(b)) for b in (keeps.epoch(0), keeps.val_batches, keeps.test_batches))
    assert not train & val and train | val <= set(range(60)) and test == set(range(TEST, TEST + 23))
    count = round(options.get("val_fraction", 0.1) * 60)
    assert len(val) == count and len(train) == min(options.get("max_train") or 60, 60 - count)
    assert sorted(val) == module(val_fraction=count / 60).val_index.tolist()


def test_images_are_read_once_and_can_be_looked_at() -> None:
    calls = []

    def source() -> Splits:
        calls.append(1)
        return noise_images()

    data = module(source, val_fraction=0.25, max_train=10)
    for stage in ("fit", "test"):
        data.setup(stage)
    assert calls == [1]
    assert data.train_images.dtype == torch.uint8 and data.num_classes == 4 and data.image_shape == (3, 5, 7)
    assert numbers(data.train_images / 255) == list(range(60)), "the official training images, all of them"
    assert numbers(data.test_images / 255) == list(range(TEST, TEST + 23))
    assert data.data_hash == noise_images().hash and data.test_index.tolist() == list(range(23))


def test_what_is_not_given_is_as_documented() -> None:
    part = ImageSet((torch.arange(1400) % 251).to(torch.uint8).view(700, 1, 1, 2), torch.arange(700) % 3)
    splits = Splits(part, part, ("a", "b", "c"), "")
    keeps = fitted(ViewsDataModule(lambda: splits, PLAIN), epochs=1)
    given = ViewsDataModule(lambda: splits, PLAIN, 1, 128, 0, 0.1, None, None, None, None, None, 500, True, None, None)
    again = fitted(given, epochs=1)
    assert [len(batch.samples) for batch in keeps.epoch(0)] == [128] * 4 + [118]
    assert [len(batch.samples) for batch in (*keeps.val_batches, *keeps.test_batches)] == [70, 500, 200]
    for name in ("train_batches", "val_batches", "test_batches"):
        for a, b in zip(getattr(keeps, name), getattr(again, name), strict=True):
            a, b = (batch[1] if name == "train_batches" else batch for batch in (a, b))
            assert torch.equal(a.samples, b.samples) and len(a.views) == 1 and torch.equal(a.views[0], b.views[0])


@pytest.mark.parametrize("fraction", [0.0, 0.1])
def test_without_held_out_images_there_is_nothing_to_validate(fraction: float) -> None:
    assert (module(val_fraction=fraction).val_dataloader() == []) == (fraction == 0)


def with_validation() -> Splits:
    """Seven images of its own to validate on, numbered from 200 on."""
    splits, numbers_of = noise_images(), 200 + np.arange(7)
    images = splits.test.images[:7].clone()
    images[:, 0, 0, 0], images[:, 0, 0, 1] = 0, torch.from_numpy(numbers_of).to(torch.uint8)
    return dataclasses.replace(splits, val=ImageSet(images, torch.from_numpy(numbers_of % 4)))


@pytest.mark.parametrize("most", [None, 20])
def test_a_set_s_own_validation_part_is_validated_on_and_nothing_held_out(most: int | None) -> None:
    data = module(with_validation, val_fraction=0.3, max_train=most, label_noise=Symmetric(0.5))
    keeps = fitted(data, epochs=1)
    assert shown(keeps.val_batches) == list(range(200, 207))
    assert torch.cat([batch.target for batch in keeps.val_batches]).tolist() == [n % 4 for n in range(200, 207)]
    assert len(set(shown(keeps.epoch(0)))) == (most or 60) and shown(keeps.test_batches) == list(range(TEST, TEST + 23))
    assert [n for batch in data.held_out(torch.device("cpu")) for n in numbers(batch.views[0])] == list(range(200, 207))
    assert data.sizes == {"train": most or 60, "val": 7, "test": 23}


def test_without_validation_a_set_s_own_part_is_left_alone() -> None:
    data = module(with_validation, val_fraction=0)
    assert data.val_dataloader() == [] and data.sizes == {"train": 60, "val": 0, "test": 23}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": torch.full((7,), 4)}, "val.targets run from 4 to 4"),
        ({"images": torch.zeros(7, 3, 5, 6, dtype=torch.uint8)}, r"the validation images \(3, 5, 6\)"),
    ],
)
def test_a_validation_part_that_does_not_fit_is_told(change: dict[str, Tensor], words: str) -> None:
    splits = with_validation()
    assert splits.val is not None
    with pytest.raises(UserError, match=words):
        module(lambda: dataclasses.replace(splits, val=dataclasses.replace(splits.val, **change)))


# --- sets without official parts


@pytest.mark.parametrize("every", [2, 3, 5])
def test_every_so_manyth_sample_is_a_test_s_class_after_class(every: int) -> None:
    random = np.random.RandomState(0)
    targets = random.randint(0, 3, 31).astype(np.int64)
    images = np.arange(31, dtype=np.uint8).repeat(2).reshape(31, 1, 1, 2)
    order = random.permutation(31)
    tested = {n for k, n in enumerate(n for c in range(3) for n in order if targets[n] == c) if k % every == 0}
    train, test = divide(images, targets, order, every)
    assert test.images[:, 0, 0, 0].tolist() == sorted(tested)
    assert train.images[:, 0, 0, 0].tolist() == sorted(set(range(31)) - tested)
    for part in (train, test):
        assert torch.equal(part.targets, torch.from_numpy(targets)[part.images[:, 0, 0, 0].long()])
    for label, count in enumerate(np.bincount(targets)):
        assert abs(int((test.targets == label).sum()) - count / every) < 1, "each class gives its share, to within one"


def test_a_hash_is_of_shapes_pixels_targets_and_which_part_they_are_in() -> None:
    base = noise_images()
    images, targets = base.train.images, base.train.targets
    pixel, label = images.clone(), targets.clone()
    pixel[59, 2, 4, 6] ^= 1
    label[59] ^= 1
    split = ImageSet(images[:30], targets[:30]), ImageSet(images[30:], targets[30:])
    variants = [
        (base.train, base.test),
        (base.test, base.train),
        (base.train,),
        (ImageSet(pixel, targets), base.test),
        (ImageSet(images, label), base.test),
        (ImageSet(images.transpose(2, 3).contiguous(), targets), base.test),
        (ImageSet(images.view(60, 3, 7, 5), targets), base.test),  # the same bytes
        (*split, base.test),
    ]
    assert len({content_hash(*parts) for parts in variants}) == len(variants)
    turned = images.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)  # the same pixels, elsewhere in memory
    assert content_hash(ImageSet(turned, targets.clone()), base.test) == base.hash
    expected = hashlib.sha256()
    for part in (base.train, base.test):
        expected.update(repr(tuple(part.images.shape)).encode() + part.images.numpy().tobytes())
        expected.update(repr(tuple(part.targets.shape)).encode() + part.targets.numpy().tobytes())
    assert base.hash == expected.hexdigest(), "runs are continued on data of the same hash, with later versions too"


# --- moments


def expected_moments(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    pixels = images.numpy().astype(np.float64) / 255
    return pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))


@pytest.mark.parametrize("options", [{}, {"max_train": 7}, {"val_fraction": 0.4, "seed": 3}, {"val_fraction": 0.0}])
def test_moments_are_those_of_exactly_the_images_trained_on(options: dict[str, Any]) -> None:
    data = module(mean=None, std=None, **options)
    trained = shown(fitted(module(**options), epochs=1).epoch(0))
    mean, std = expected_moments(data.train_images[sorted(trained)])
    np.testing.assert_allclose(data.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(data.std, std, rtol=1e-6)
    assert data.mean.dtype == data.std.dtype == torch.float32


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (None, None),
        ([0.3], None),
        (None, [0.2]),
        ([0.3, 0.4, 0.5], None),
        (None, [0.2, 0.3, 0.4]),
        ([0.3], [0.2]),
        ([0.3], [0.2, 0.3, 0.4]),
        ([0.3, 0.4, 0.5], [0.2]),
        ([0.3, 0.4, 0.5], [0.2, 0.3, 0.4]),
        ([0.0], [1.0]),
    ],
)
def test_given_moments_are_taken_and_missing_ones_computed(mean: list[float] | None, std: list[float] | None) -> None:
    data = module(mean=mean, std=std)
    computed = expected_moments(data.train_images[data.train_index])
    m, s = (np.array(given or own) for given, own in zip((mean, std), computed, strict=True))
    np.testing.assert_allclose(data.mean, m, rtol=1e-6)
    np.testing.assert_allclose(data.std, s, rtol=1e-6)
    index = data.train_index[:4]
    expected = (data.train_images[index].numpy() / 255 - m.reshape(1, -1, 1, 1)) / s.reshape(1, -1, 1, 1)
    for batch in (data.batches.training(index, 0), data.batches.as_it_is(index, data._splits.train)):
        np.testing.assert_allclose(batch.views[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [
        (3, [0.5, 0.5], [0.5]),
        (3, [0.5], [0.5, 0.5]),
        (3, [0.5] * 4, None),
        (3, None, [0.5] * 2),
        (1, [0.5] * 3, [0.5] * 3),
        (1, [0.5], [0.5] * 3),
    ],
)
def test_moments_for_another_number_of_channels_are_refused(
    channels: int, mean: list[float] | None, std: list[float] | None
) -> None:
    with pytest.raises(UserError, match=rf"data\.mean and data\.std .* {channels} channels"):
        module(lambda: noise_images(channels), mean=mean, std=std)


def test_moments_of_many_images_are_exact() -> None:
    """More than are counted at once, and in float32 sums too many pixels."""
    images = torch.full((9000, 2, 2, 3), 255, dtype=torch.uint8)
    images[::3, 0] = 10
    images[8999, 1] = 0
    mean, std = channel_moments(images, torch.arange(9000))
    expected = expected_moments(images)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-7)
    np.testing.assert_allclose(std, expected[1], rtol=1e-6)


def test_a_constant_channel_is_divided_by_one() -> None:
    images = noise_images().train.images.clone()
    images[:, 1] = 200
    mean, std = channel_moments(images, torch.arange(60))
    assert std[1] == 1 and mean[1] == pytest.approx(200 / 255) and 0 < std[0] < 1 and 0 < std[2] < 1


# --- label noise


class Notes(Symmetric):
    """Keeps what it is called with."""

    def __call__(self, targets: Tensor, index: Tensor, classes: Sequence[str]) -> Tensor:
        self.called = (targets.clone(), index.clone(), tuple(classes))
        return super().__call__(targets, index, classes)


@pytest.mark.parametrize("max_train", [None, 20])
def test_noise_is_given_the_true_labels_numbers_and_names(max_train: int | None) -> None:
    noise = Notes(0.5)
    data = module(max_train=max_train, label_noise=noise)
    true, index, classes = noise.called
    assert index.tolist() == data.train_index.tolist() and true.tolist() == (index % 4).tolist()
    assert classes == ("a", "b", "c", "d")
    renamed = dataclasses.replace(noise_images(), usual_names=("p", "q", "r", "s"))
    module(lambda: renamed, label_noise=noise)
    assert noise.called[2] == ("p", "q", "r", "s")


@pytest.mark.parametrize("max_train", [None, 20])
def test_only_labels_trained_on_are_wrong_and_the_true_ones_come_along(max_train: int | None) -> None:
    data = module(max_train=max_train, label_noise=PairFlip(0.5))
    keeps = fitted(data, epochs=2)
    n = len(data.train_index)
    for epoch in range(2):
        pairs = [p for b in keeps.epoch(epoch) for p in zip(numbers(b.views[0]), b.target.tolist(), strict=True)]
        wrong = {number: label for number, label in pairs if label != number % 4}
        assert len(wrong) == round(0.5 * n) and all(label == (number + 1) % 4 for number, label in wrong.items())
        for batch in keeps.epoch(epoch):
            assert batch.true is not None and batch.true.tolist() == (batch.samples % 4).tolist()
    for batch in (*keeps.val_batches, *keeps.test_batches):
        assert batch.target.tolist() == [number % 4 for number in numbers(batch.views[0])] and batch.true is None
    assert all(batch.true is None for _, batch in fitted(module(), 1).train_batches)


def test_what_noise_did_is_recorded() -> None:
    data = module(label_noise=PairFlip(0.25, seed=3))
    labels = data.batches.training(data.train_index, 0).target
    told = {"kind": "pairflip", "rate": 0.25, "seed": 3, "wrong": 14, "of": 54, "actual_rate": 14 / 54}
    assert data.noise_record == told | {"hash": hashlib.sha256(labels.numpy().astype("<i8").tobytes()).hexdigest()}
    assert module().noise_record is None


# --- orders and batches


def test_every_epoch_has_an_order_of_its_own_by_seed_and_epoch() -> None:
    orders = {}
    for seed in (0, 1, 2):
        keeps = fitted(module(seed=seed, val_fraction=0.25), epochs=3)
        for epoch in range(3):
            orders[seed, epoch] = shown(keeps.epoch(epoch))
            assert sorted(orders[seed, epoch]) == held_out(60, 0.25, None)[0].tolist(), "each image once an epoch"
            assert [b.samples.tolist() for b in keeps.epoch(epoch)] == [
                shown([b]) for b in keeps.epoch(epoch)
            ]  # samples are the images' numbers
    for first, second in itertools.combinations([*orders.values(), sorted(orders[0, 0])], 2):
        assert sum(a == b for a, b in zip(first, second, strict=True)) < 10, "45 in common, in other places"
    again = fitted(module(seed=1, val_fraction=0.25, batch_size=7, views=2), epochs=2)
    assert [shown(again.epoch(e)) for e in range(2)] == [orders[1, 0], orders[1, 1]], "by seed and epoch alone"


def test_an_order_is_the_same_in_every_version() -> None:
    data = module(seed=2, val_fraction=0.0, max_train=8)
    trainer = SimpleNamespace(current_epoch=3, fit_loop=None)
    data.trainer = trainer  # type: ignore[assignment]
    assert data.train_dataloader().order().tolist() == [12, 49, 14, 58, 45, 26, 9, 59]


@pytest.mark.parametrize(("batch_size", "sizes"), [(16, [16, 16, 16, 6]), (18, [18] * 3), (100, [54]), (53, [53, 1])])
def test_the_last_batch_has_what_is_left(batch_size: int, sizes: list[int]) -> None:
    data = module(batch_size=batch_size)
    assert [len(batch.samples) for batch in fitted(data, 1).epoch(0)] == sizes
    assert len(data.train_dataloader()) == len(sizes)


def test_an_epoch_goes_on_at_the_batch_where_a_run_stopped() -> None:
    def rest(ready: int) -> list[list[int]]:
        data = module()
        loop = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=ready)))
        data.trainer = SimpleNamespace(current_epoch=1, fit_loop=SimpleNamespace(epoch_loop=loop))  # type: ignore[assignment]
        return [index.tolist() for index in data.train_dataloader()]

    whole = rest(0)
    assert len(whole) == 4
    for ready in range(5):
        assert rest(ready) == whole[ready:]


@pytest.mark.parametrize(("eval_batch_size", "val", "test"), [(500, [6], [23]), (5, [5, 1], [5, 5, 5, 5, 3])])
def test_evaluation_is_in_order_unaugmented_and_in_its_own_batches(
    eval_batch_size: int, val: list[int], test: list[int]
) -> None:
    strong = Augmentation(padding=3, flip=True, cutout=4, cutout_prob=1.0)
    data = module(augmentation=strong, views=2, eval_batch_size=eval_batch_size, mean=[0.25], std=[0.5])
    keeps = fitted(data, epochs=1)
    parts = (
        (keeps.val_batches, val, data.train_images[data.val_index], 0),
        (keeps.test_batches, test, data.test_images, TEST),
    )
    for batches, sizes, images, first in parts:
        assert [len(b.samples) for b in batches] == [b.total for b in batches] == sizes
        assert all(len(b.views) == 1 and b.keys is None and b.shards == () for b in batches)
        views = torch.cat([b.views[0] for b in batches])
        torch.testing.assert_close(views, (images.float() / 255 - 0.25) / 0.5)
        found = numbers(images / 255)
        assert [n for b in batches for n in b.samples.tolist()] == [n - first for n in found]
        assert [n for b in batches for n in b.target.tolist()] == [n % 4 for n in found]


def test_a_transform_of_one_s_own_may_change_the_size_and_has_its_own_for_evaluation() -> None:
    def corner(image: Tensor) -> Tensor:
        assert image.shape == (3, 5, 7) and image.dtype == torch.uint8
        return image[:, :4, :6]

    def inverted(image: Tensor) -> Tensor:
        return 255 - image[:, :4, :6]

    data = module(augmentation=PerImage(corner), eval_augmentation=PerImage(inverted), mean=[0.5], std=[0.5])
    assert data.image_shape == (3, 4, 6)
    keeps = fitted(data, epochs=1)
    for batches, images, sign in (
        (keeps.epoch(0), data.train_images, 1),
        (keeps.val_batches, data.train_images, -1),
        (keeps.test_batches, data.test_images, -1),
    ):
        for batch in batches:
            expected = sign * (images[batch.samples][:, :, :4, :6].float() / 255 - 0.5) / 0.5
            torch.testing.assert_close(batch.views[0], expected)
            assert batch.target.tolist() == [n % 4 for n in batch.samples.tolist()]


class Called:
    """An augmentation that keeps what it is called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, images: Tensor, mean: Tensor, std: Tensor, index: Tensor, keys: Sequence[int]) -> list[Tensor]:
        self.calls.append({"numbers": numbers(images / 255), "index": index.tolist(), "keys": list(keys)})
        return [images.float() / 255 for _ in keys]


@pytest.mark.parametrize("views", [1, 2, 3])
def test_there_are_as_many_views_as_asked_for(views: int) -> None:
    called = Called()
    keeps = fitted(module(augmentation=called, views=views), epochs=1)
    assert {len(call["keys"]) for call in called.calls} == {views}
    for batch in keeps.epoch(0):
        assert len(batch.views) == views and batch.keys is not None and batch.keys.shape == (views, len(batch.samples))
    assert all(call["numbers"] == call["index"] for call in called.calls)


def test_no_random_number_is_used_twice() -> None:
    """Views, subsets and epochs of all seeds have keys of their own, and their numbers are independent."""
    index, view_keys, subsets = torch.arange(60), {}, {}
    for seed, epoch in itertools.product(range(3), repeat=2):
        called = Called()
        data = module(augmentation=called, views=3, seed=seed, val_fraction=0.0)
        subsets[seed, epoch] = data.batches.training(index, epoch).keys
        view_keys[seed, epoch] = called.calls[-1]["keys"]
    keys = [key for some in view_keys.values() for key in some]
    assert len(set(keys)) == 27
    draws = [uniform(key, index, 6) for key in keys]
    rows = torch.cat([*draws, *(some for some in subsets.values() if some is not None)])
    assert len(rows) == 27 * 6 + 27 and rows.min() >= 0 and rows.max() < 1
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.65  # of 60 numbers: chance alone stays below


def test_evaluation_draws_the_same_whatever_the_seed_and_epoch() -> None:
    keys = set()
    for seed in (0, 1):
        called = Called()
        fitted(module(eval_augmentation=called, seed=seed), epochs=2)
        keys |= {tuple(call["keys"]) for call in called.calls}
        assert [n for call in called.calls[-1:] for n in call["index"]] == list(range(23))
    assert len(keys) == 1 and len(*keys) == 1


# --- parts of a batch


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_micro_batches_hold_the_same_rows_of_everything(rank: int) -> None:
    index = torch.arange(100, 111)
    mine, shards = rows_here(index, 3, rank, 3)  # micro-batches of 4, 4 and 3 rows, of which 2 or 1, and 1, are here
    rows = [[100, 101, 104, 105, 108], [102, 106, 109], [103, 107, 110]][rank]
    counts = [(2, 2, 1), (1, 1, 1), (1, 1, 1)][rank]
    assert mine.tolist() == rows and [s.row_count.rows for s in shards] == list(counts)
    views = [mine.view(-1, 1, 1, 1).float() + 0.5 * v for v in range(2)]
    keys = torch.stack([index + 0.25, index + 0.75])
    parts = Batch(views, mine % 7, mine, keys, shards, mine % 5).divided()
    firsts = [0, counts[0], counts[0] + counts[1]]
    for part, first, count, of, whole in zip(parts, firsts, counts, ((0, 4), (4, 8), (8, 11)), shards, strict=True):
        here = mine[first : first + count]
        assert part.samples.tolist() == here.tolist()
        assert [v.flatten().tolist() for v in part.views] == [here.tolist(), [n + 0.5 for n in here.tolist()]]
        assert part.target.tolist() == (here % 7).tolist()
        assert part.true is not None and part.true.tolist() == (here % 5).tolist()
        assert part.keys is not None and torch.equal(part.keys, keys[:, of[0] : of[1]])
        assert part.shards == (whole,) and part.total == of[1] - of[0]


def test_a_batch_without_keys_or_noise_is_divided_too() -> None:
    index = torch.arange(5)
    _, shards = rows_here(index, 2, 0, 1)
    parts = Batch([index], index, index, None, shards, None).divided()
    assert [p.samples.tolist() for p in parts] == [[0, 1, 2], [3, 4]]
    assert all(p.keys is None and p.true is None for p in parts)
    one = Batch([index], index, index, None, (Shard(0, 5, 5),), None)
    assert one.divided() == [one] and one.total == 5
    assert Batch([index], index, index, None, (Shard(2, 5, 9, 2), Shard(0, 1, 4, 2))).total == 13


def test_accumulation_divides_the_batches_of_training_alone() -> None:
    data = module(views=2, label_noise=Symmetric(0.5), batch_size=26)
    keeps = fitted(data, epochs=1, accumulate=4)
    assert [[len(p.samples) for p in batch.divided()] for batch in keeps.epoch(0)] == [[7, 7, 6, 6]] * 2 + [[1, 1]]
    for batch in keeps.epoch(0):
        assert batch.total == len(batch.samples)
        for name in ("samples", "target", "true"):
            assert torch.equal(torch.cat([getattr(p, name) for p in batch.divided()]), getattr(batch, name))
        joined = torch.cat([p.keys for p in batch.divided() if p.keys is not None], 1)
        assert batch.keys is not None and torch.equal(joined, batch.keys)
    assert all(batch.shards == () for batch in (*keeps.val_batches, *keeps.test_batches))


@contextmanager
def as_process(rank: int, processes: int) -> Iterator[None]:
    """As one of several, whose others do nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=processes)
    try:
        yield
    finally:
        dist.destroy_process_group()


def test_a_subset_is_drawn_from_the_rows_of_all_processes() -> None:
    index = torch.arange(10)
    whole = module(views=2).batches.training(index, 0)
    for rank, rows in ((0, slice(0, 4)), (1, slice(4, 7)), (2, slice(7, 10))):
        with as_process(rank, 3):
            batch = module(views=2).batches.training(index, 0)
        assert torch.equal(batch.samples, index[rows]) and torch.equal(batch.target, whole.target[rows])
        assert all(torch.equal(a, b[rows]) for a, b in zip(batch.views, whole.views, strict=True))
        assert batch.keys is not None and whole.keys is not None and torch.equal(batch.keys, whole.keys)
        assert batch.total == 10 and batch.shards[0].row_count.rows == len(batch.samples)


def test_processes_share_out_an_evaluation() -> None:
    data, index = module(), torch.arange(10)
    for stage, first in (("validating", 0), ("testing", TEST)):
        state = {"training": False, "validating": False, "testing": False, stage: True}
        data.trainer = SimpleNamespace(**state)  # type: ignore[assignment]
        for rank, rows in ((0, slice(0, 4)), (1, slice(4, 7)), (2, slice(7, 10))):
            with as_process(rank, 3):
                batch = data.on_after_batch_transfer(index, 0)
            assert torch.equal(batch.samples, index[rows])
            assert numbers(batch.views[0]) == [first + n for n in index[rows].tolist()]


# --- on another device


class Copies(TorchDispatchMode):
    """Counts the images that are copied to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[int] = []
        self.of_any = 0  # that are waited for

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].dtype == torch.uint8 and "device" in (kwargs or {}):
            self.images.append(len(args[0]))
        asked = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu" and "device" in asked:
            self.of_any += not asked.get("non_blocking")
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize(
    ("options", "copied"),
    [({}, [60, 23]), ({"on_device": True}, [60, 23]), ({"on_device": False}, [8, 8, 8, 8])],
)
def test_images_are_kept_on_the_device_or_sent_batch_by_batch(options: dict[str, bool], copied: list[int]) -> None:
    """On tensors without content, which know what may not meet on two devices."""
    noise = Symmetric(0.5)
    data = module(augmentation=Augmentation(2, True, 3), views=2, label_noise=noise, mean=None, std=None, **options)
    with FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
        index, data.batches.device = torch.arange(8), torch.device("cuda")
        for _ in range(2):
            train, test = data.batches.training(index, 0), data.batches.as_it_is(index, data._splits.test)
            assert train.keys is not None and train.true is not None
            tensors = [*train.views, train.target, train.true, *test.views, test.target]
            assert {t.device.type for t in tensors} == {"cuda"}
            assert train.samples.is_cpu and train.keys.is_cpu  # what is drawn for them is drawn there
            assert [tuple(v.shape) for v in (*train.views, *test.views)] == [(8, 3, 5, 7)] * 3
        assert copies.images == copied
        before = copies.of_any
        data.batches.training(index, 1)
        assert copies.of_any == before  # else a step would wait for it
        data.batches.device = torch.device("cpu")
        data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(device=torch.device("cuda")))  # type: ignore[assignment]
        assert [x.device.type for x in data.as_they_are(1)] == ["cuda"]


# --- checkpoints


def test_a_checkpoint_remembers_the_data() -> None:
    data = module(mean=[0.25, 0.5, 0.75], std=[0.5])
    told = {"data_hash": noise_images().hash, "image_shape": [3, 5, 7], "num_classes": 4, "label_noise": None}
    told |= {"classes": list(noise_images().classes), "source_shape": [3, 5, 7], "value_range": None, "keep": "decoded"}
    assert data.state_dict() == told | {"mean": [0.25, 0.5, 0.75], "std": [0.5]}
    noisy = module(label_noise=Symmetric(0.5))
    assert noisy.state_dict()["label_noise"] == noisy.noise_record is not None


SAME: dict[str, Any] = {"seed": 5, "views": 2, "batch_size": 4, "mean": None, "augmentation": Augmentation()}


def test_it_is_continued_with_the_same_data_only() -> None:
    module(**SAME).load_state_dict(module().state_dict())
    with pytest.raises(UserError, match=r"the data set is not the one .* its content differs"):
        module(lambda: noise_images(seed=1)).load_state_dict(module().state_dict())
    old = module().state_dict()
    del old["label_noise"]  # of before there was any
    module().load_state_dict(old)
    with pytest.raises(UserError, match="label_noise differs"):
        module(label_noise=Symmetric(0.5)).load_state_dict(old)


NOISES: dict[str, dict[str, Any]] = {
    "none": {},
    "symmetric": {"label_noise": Symmetric(0.5)},
    "another seed": {"label_noise": Symmetric(0.5, seed=1)},
    "another rate": {"label_noise": Symmetric(0.25)},
    "another kind": {"label_noise": PairFlip(0.5)},
    "other images": {"label_noise": Symmetric(0.5), "max_train": 30},
}


@pytest.mark.parametrize(("then", "now"), list(itertools.product(NOISES, repeat=2)))
def test_it_is_continued_with_the_same_noise_only(then: str, now: str) -> None:
    state = module(**NOISES[then]).state_dict()
    if then == now:
        module(**NOISES[now]).load_state_dict(state)
    else:
        with pytest.raises(UserError, match=r"the noisy labels are not those .* label_noise differs"):
            module(**NOISES[now]).load_state_dict(state)
