"""Images that stay encoded: what they are read as, ahead of the steps, and on how many threads and processes."""

import json
import shutil
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from equality import assert_equal_rows, in_process, rows
from handed_out import Handed, assert_same, handed_out
from PIL import Image
from pool import Pool
from runs import stop_after, tiny_run, weights
from torch import Tensor

from gvr_lightning.data import ahead, crops, encoded, keep, transform_workers
from gvr_lightning.data.ahead import ReadAhead
from gvr_lightning.data.augmentation import Augmentation, PerImage
from gvr_lightning.data.crops import decode_crops, reduction
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.encoded import EncodedImages
from gvr_lightning.data.image_folder import ImageFolder
from gvr_lightning.data.image_set import channel_moments
from gvr_lightning.data.transforms.box import DRAWS, crop_box, crop_boxes
from gvr_lightning.data.transforms.colour import Greyscale
from gvr_lightning.data.transforms.resample import ResizedCrop
from gvr_lightning.errors import Interrupted, UserError
from gvr_lightning.random import hash_key, uniform

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
CROP = ResizedCrop(SCALE, RATIO)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small photographs of every size: smooth, so that a JPEG file loses little of them."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.RandomState(0)
    for part, count in (("train", 12), ("test", 4)):
        for label in ("a", "b"):
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                few = random.randint(0, 256, (5, 5, 3)).astype(np.uint8)
                size = tuple(random.randint(20, 50, 2).tolist())
                smooth = Image.fromarray(few).resize(size, Image.Resampling.BICUBIC)
                smooth.save(folder / part / label / f"{number:02d}.jpg", quality=95)
    return folder


def load(root: Path, cache: Path, **settings: Any) -> Any:
    return ImageFolder(root, cache_dir=str(cache), **{"image_size": 16, **settings})()


def module(
    root: Path, cache: Path, augmentation: Any = None, transform_workers: int = 0, **settings: Any
) -> ViewsDataModule:
    """A data module of the photographs, set up."""
    source, augmentation = (lambda: load(root, cache, **settings)), augmentation or Augmentation(0, True, 0, 0.0)
    data = ViewsDataModule(source, augmentation, 2, batch_size=8, seed=3, transform_workers=transform_workers)
    data.setup()
    return data


# --- what is read


@pytest.mark.parametrize("share", [1.0, 0.8])
@pytest.mark.parametrize("size", [16, [12, 20]])
def test_without_a_crop_encoded_images_are_decoded_ones(root: Path, tmp_path: Path, size: Any, share: float) -> None:
    one, other = (load(root, tmp_path, image_size=size, crop_pct=share, keep=how) for how in ("decoded", "encoded"))
    for a, b in ((one.train, other.train), (one.test, other.test)):
        assert isinstance(b.images, EncodedImages) and b.images.shape == a.images.shape
        assert torch.equal(a.images, b.images[:]) and torch.equal(a.targets, b.targets)
        assert torch.equal(a.images[[5, 0, 5]], b.images[torch.tensor([5, 0, 5])])
    assert one.classes == other.classes and one.hash != other.hash


@pytest.mark.parametrize("share", [1.0, 0.875, 0.7])
def test_an_image_s_centre_is_torchvision_s(root: Path, tmp_path: Path, share: float) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    chain = transforms.Compose([transforms.Resize(int(16 / share)), transforms.CenterCrop(16)])
    images = load(root, tmp_path, keep="encoded", crop_pct=share).train.images
    for file, found in zip(images.images, images[:], strict=True):
        expected = np.asarray(chain(Image.open(file).convert("RGB")))
        np.testing.assert_array_equal(found.permute(1, 2, 0), expected)


def test_a_box_is_that_of_the_same_numbers_on_the_device() -> None:
    u = uniform(5, torch.arange(3000), DRAWS)
    for size, ratio in (((40, 50), RATIO), ((300, 17), RATIO), ((9, 200), (0.5, 0.6))):
        expected = torch.stack(crop_boxes(u, size, SCALE, ratio)).T.int().tolist()
        assert [list(crop_box(one, size, SCALE, ratio)) for one in u.T.tolist()] == expected


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_torchvision_s_to_a_grey_level(root: Path, channels: int) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    files = sorted(root.rglob("*.jpg"))
    index, keys = torch.arange(len(files)), [7, 8]
    found = EncodedImages(files, channels, (16, 20)).read(index, CROP, keys)
    assert found.shape == (2, len(files), channels, 16, 20)
    for view, key in zip(found, keys, strict=True):
        u = uniform(hash_key(key, ResizedCrop.number), index, DRAWS).T.tolist()
        for file, pixels, draws in zip(files, view, u, strict=True):
            image = Image.open(file).convert("L" if channels == 1 else "RGB")
            expected = functional.resized_crop(image, *CROP.box(draws, (image.height, image.width)), [16, 20])
            expected = torch.from_numpy(np.array(expected)).view(16, 20, channels).permute(2, 0, 1)
            assert (pixels.int() - expected.int()).abs().max() <= 1
    assert not torch.equal(found[0], found[1])


def test_large_files_are_decoded_no_finer_than_all_their_crops_need(tmp_path: Path) -> None:
    assert [reduction([(0, 0, h, w)], (10, 10)) for h, w in ((9, 90), (40, 40), (39, 90), (80, 99), (999, 160))] == [
        *(1, 2, 1, 4, 8)
    ]
    assert reduction([(0, 0, 400, 400), (0, 0, 45, 400)], (10, 10)) == 2
    few = np.random.RandomState(1).randint(0, 256, (6, 6, 3)).astype(np.uint8)
    Image.fromarray(few).resize((403, 305), Image.Resampling.BICUBIC).save(tmp_path / "x.jpg", quality=95)
    sizes, real = [], crops.upright

    def noted(file: Any, *rest: Any) -> Any:
        sizes.append(file.size)
        return real(file, *rest)

    boxes = [(3, 5, 300, 390), (100, 200, 85, 85)]
    out = torch.empty(2, 3, 10, 10, dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crops, "upright", noted)
        decode_crops(tmp_path / "x.jpg", lambda size: boxes if size == (305, 403) else [], out, None)
    assert sizes == [(101, 77)]
    image = Image.open(tmp_path / "x.jpg")
    for (top, left, height, width), pixels in zip(boxes, out, strict=True):
        cut = image.crop((left, top, left + width, top + height)).resize((10, 10), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(cut).astype(int) - pixels.permute(1, 2, 0).numpy()).max() <= 6


@pytest.mark.parametrize("turned", [1, 6])
@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK", "P"])
def test_files_of_every_kind_are_cropped_upright(tmp_path: Path, kind: str, turned: int) -> None:
    pixels = np.random.RandomState(2).randint(0, 256, (12, 30, 3)).astype(np.uint8)
    image, exif = Image.fromarray(pixels).convert(kind), Image.Exif()
    exif[0x0112] = turned
    file = tmp_path / ("x.png" if kind == "P" else "x.jpg")
    image.save(file, exif=exif)
    plain = Image.open(file).convert("RGB")
    plain = plain.transpose(Image.Transpose.ROTATE_270) if turned == 6 else plain
    out = torch.empty(1, 3, 8, 6, dtype=torch.uint8)
    asked: list[tuple[int, int]] = []
    decode_crops(file, lambda size: asked.append(size) or [(2, 3, 8, 6)], out, None)  # type: ignore[func-returns-value]
    assert asked == [(plain.height, plain.width)]
    np.testing.assert_array_equal(out[0].permute(1, 2, 0), np.asarray(plain)[2:10, 3:9])


def test_the_crop_is_made_while_decoding_and_the_rest_on_the_device(root: Path, tmp_path: Path) -> None:
    grey = Greyscale(0.5)
    data = module(root, tmp_path, Augmentation(0, True, 4, 1.0, [CROP, grey]), keep="encoded")
    images, index = data.train_images, torch.tensor([4, 1, 9])
    batch = data.batches.training(index, epoch=2)
    keys = data.batches.keys(2)
    assert isinstance(images, EncodedImages)
    boxed = images.read(index, CROP, keys)
    for view, key, own in zip(batch.views, keys, boxed, strict=True):
        (expected,) = Augmentation(0, True, 4, 1.0, [grey])(own, data.mean, data.std, index, [key])
        assert torch.equal(view, expected)
    (alone,) = data.batches.training(index[1:2], epoch=2).views[1]
    assert torch.equal(alone, batch.views[1][1])
    assert not torch.equal(alone, data.batches.training(index[1:2], epoch=3).views[1][0])


# --- threads, and reading ahead


def test_one_crop_and_a_weak_view_are_so_while_decoding_too(root: Path, tmp_path: Path) -> None:
    grey, index = Greyscale(1.0), torch.tensor([4, 1, 9, 0, 2, 7])
    data = module(root, tmp_path, Augmentation(0, True, 4, 1.0, [CROP, grey], None, True, True), keep="encoded")
    images, keys = data.train_images, data.batches.keys(0)
    assert isinstance(images, EncodedImages)
    boxed = images.read(index, CROP, [keys[0]] * 2)
    expected = Augmentation(0, True, 4, 1.0, [grey], None, True, True)(boxed, data.mean, data.std, index, keys)
    views = data.batches.training(index, 0).views
    for view, those in zip(views, expected, strict=True):
        assert torch.equal(view, those)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_images_are_decoded_at_a_time_than_there_are_workers(root: Path, workers: int) -> None:
    files, real, lock = sorted(root.rglob("*.jpg")), encoded.decode_crops, threading.Lock()
    now, most = [0], [0]

    def counted(*arguments: Any) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        real(*arguments)
        with lock:
            now[0] -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoded, "decode_crops", counted)
        found = EncodedImages(files, 3, (16, 16), workers=workers).read(torch.arange(len(files)), CROP, [1])
    assert most[0] <= workers
    assert torch.equal(found, EncodedImages(files, 3, (16, 16)).read(torch.arange(len(files)), CROP, [1]))


def test_batches_are_read_in_order_and_so_many_ahead() -> None:
    begun: list[int] = []

    def read(index: Tensor) -> Tensor:
        begun.append(int(index))
        return index * 10

    asked: list[int] = []

    def batches() -> Any:
        for number in range(9):
            asked.append(number)
            yield torch.tensor(number)

    readings = ReadAhead().through(batches(), read)
    first = next(readings)
    assert asked == list(range(ahead.AHEAD + 1))  # those that it may have begun
    rest = list(readings)
    assert [int(r.numbers) for r in (first, *rest)] == list(range(9))
    assert [int(r.images.result()) for r in (first, *rest)] == [10 * n for n in range(9)] and begun == list(range(9))


def test_what_is_read_ahead_is_what_is_read_at_once(root: Path, tmp_path: Path) -> None:
    data = module(root, tmp_path, Augmentation(0, True, 0, 0.0, [CROP]), keep="encoded")
    done = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=1)))
    task = SimpleNamespace(accumulate=2, device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(current_epoch=2, training=True, testing=True, lightning_module=task)
    trainer.fit_loop = SimpleNamespace(epoch_loop=done)
    data.trainer = trainer
    readings = list(data.train_dataloader())
    assert len(readings) == 2  # of three batches one is done
    for reading in readings:
        found, expected = data.on_after_batch_transfer(reading, 0), data.batches.training(reading.numbers, 2, 2)
        assert all(torch.equal(a, b) for a, b in zip(found.views, expected.views, strict=True))
    trainer.training = False
    for reading in data.test_dataloader():
        expected = data.batches.as_it_is(reading.numbers, data._splits.test)
        assert torch.equal(data.on_after_batch_transfer(reading, 0).views[0], expected.views[0])


# --- which way, and what is said


def test_the_way_is_chosen_by_size_and_said(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = 32 * 3 * 16 * 16
    monkeypatch.setattr(keep, "LIMIT", size)
    assert isinstance(load(root, tmp_path).train.images, Tensor)
    assert "data: 32 images are kept decoded" in capsys.readouterr().err
    monkeypatch.setattr(keep, "LIMIT", size - 1)
    assert isinstance(load(root, tmp_path).train.images, EncodedImages)
    assert "32 images would be 2.46e-05 GB decoded, more than 2.4575e-05: they stay encoded" in capsys.readouterr().err
    assert isinstance(load(root, tmp_path, keep="decoded").train.images, Tensor)
    with pytest.raises(UserError, match=r"data\.skip_broken=true: 32 images stay encoded"):
        load(root, tmp_path, skip_broken=True)
    with pytest.raises(UserError, match=r"data\.keep=encoded: set data\.image_size"):
        load(root, tmp_path, keep="encoded", image_size=None)


def test_a_second_start_reads_no_image(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for how in ("decoded", "encoded"):
        first = module(root, tmp_path, keep=how)
        monkeypatch.setattr("gvr_lightning.data.moments.channel_moments", None)
        again = module(root, tmp_path, keep=how)
        assert torch.equal(first.mean, again.mean) and torch.equal(first.std, again.std)
        monkeypatch.undo()
    (moments, *_) = (tmp_path / "index").glob("*-moments")
    assert (moments.parent / moments.name).read_text().count(" ") == 5
    for name in (tmp_path / "index").glob("*-moments"):
        name.write_text("1 2 no")
    assert torch.equal(module(root, tmp_path, keep="encoded").mean, again.mean)


@pytest.mark.parametrize("how", ["decoded", "encoded"])
def test_moments_in_a_cache_are_those_of_the_set_s_own_images(root: Path, tmp_path: Path, how: str) -> None:
    for file in root.rglob("*.jpg"):
        (dark := tmp_path / "dark" / file.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).point(lambda level: level // 2).save(dark, quality=95)
    module(root, tmp_path / "cache", keep=how)
    for _ in range(2):  # worked out, then kept
        data = module(tmp_path / "dark", tmp_path / "cache", keep=how)
        mean, std = channel_moments(data.train_images, data.train_index)
        assert torch.equal(data.mean, mean) and torch.equal(data.std, std)


def test_moments_of_many_encoded_images_are_those_of_some(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = module(root, tmp_path, keep="encoded")
    assert torch.equal(exact.mean, module(root, tmp_path, keep="decoded").mean)
    monkeypatch.setattr("gvr_lightning.data.moments.MOST", 5)
    some = module(root, tmp_path, keep="encoded")
    assert not torch.equal(some.mean, exact.mean)
    assert torch.equal(module(root, tmp_path, keep="encoded").std, some.std)


def test_a_broken_file_is_named_when_it_is_read(root: Path, tmp_path: Path) -> None:
    files = sorted(root.rglob("*.jpg"))
    half = tmp_path / "half.jpg"
    half.write_bytes(files[0].read_bytes()[:400])
    for images in (
        EncodedImages([*files[:4], half], 3, (8, 8)),
        EncodedImages([half, half.with_name("gone")], 3, (8, 8)),
    ):
        for crop in (None, CROP):
            with pytest.raises(UserError, match=rf"{half} cannot be decoded \(.*replace or remove") as caught:
                images.read(torch.arange(len(images)), crop, [1, 2])
            assert "\n" not in str(caught.value)


# --- whole runs


WHOLE = ["data=image_folder", "augmentation=imagenet", "regularizer=gvr", "batch_size=4", "data.val_fraction=0.1"]
WHOLE += ["data.image_size=16", "data.max_train=14", "data.keep=encoded", "trainer.precision=64-true"]


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images that stay encoded, read by one worker."""
    folder = tmp_path_factory.mktemp("runs")
    tiny_run(folder / "whole", *WHOLE, f"data.root={root}", f"data.cache_dir={folder / 'cache'}", "data.workers=1")
    return folder / "whole"


def test_a_run_tells_how_long_its_steps_waited(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["status"] == "finished" and 0 <= summary["train"]["data_wait"] <= 1
    last = rows(whole)[-2]
    assert last["train/data_wait"] and float(last["train/data_wait"]) == summary["train"]["data_wait"]


def test_a_run_that_was_stopped_ends_with_the_same_weights_whoever_reads(
    root: Path, whole: Path, tmp_path: Path
) -> None:
    overrides = [*WHOLE, f"data.root={root}", f"data.cache_dir={tmp_path / 'cache'}", "data.workers=3"]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 6, 15)
        with pytest.raises(Interrupted):
            tiny_run(tmp_path / "run", *overrides)
    tiny_run(tmp_path / "run", *overrides, f"resume={tmp_path / 'run'}")
    a, b = weights(whole), weights(tmp_path / "run")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_two_processes_see_the_same_pixels(two: Pool, root: Path, whole: Path, tmp_path: Path) -> None:
    overrides = [*WHOLE, f"data.root={root}", f"data.cache_dir={tmp_path / 'cache'}", "trainer.devices=2"]
    two(in_process, tmp_path / "run", overrides)
    assert_equal_rows(whole, tmp_path / "run")


def of_a_process(root: Path, cache: Path, own: bool, micro_batches: int, **settings: Any) -> Handed:
    """In one of several: the random resized crop, or a transform of one's own."""
    v2 = pytest.importorskip("torchvision.transforms.v2")
    chain = [v2.RandomResizedCrop(12, antialias=True), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, hue=0.2)]
    augmentation = PerImage(v2.Compose(chain)) if own else Augmentation(0, True, 4, 0.5, [CROP])
    return handed_out(module(root, cache, augmentation, **settings), 0, micro_batches)


@pytest.mark.parametrize("own", [False, True])
def test_one_two_and_four_processes_are_handed_the_same_pixels(
    two: Pool, four: Pool, root: Path, tmp_path: Path, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three batches in two micro-batches, in the last of which a fourth process has no rows."""
    monkeypatch.setattr(transform_workers, "LEAST", 2)
    whole = of_a_process(root, tmp_path, own, 1, keep="encoded")
    assert len(whole) == 22 + 8
    for pool, micro_batches in ((two, 1), (four, 2)):
        several = partial(of_a_process, root, tmp_path, own, micro_batches, transform_workers=1, keep="encoded")
        assert_same(whole, *pool(several))
    if own:
        assert_same(whole, of_a_process(root, tmp_path, own, 1, transform_workers=3, keep="encoded"))


def test_a_transform_of_one_s_own_sees_decoded_images_wherever_it_is_called(root: Path, tmp_path: Path) -> None:
    for file in root.rglob("*.jpg"):  # as images of 16 bits, of which the set's lowest and highest levels count
        (deep := tmp_path / "deep" / file.relative_to(root).with_suffix(".png")).parent.mkdir(
            parents=True, exist_ok=True
        )
        Image.fromarray(np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 90).save(deep)
    for place, further in ((root, {}), (tmp_path / "deep", {"channels": 1, "value_range": (100, 20_000)})):
        settings = {"crop_pct": 0.8, **further}
        found = [
            of_a_process(place, tmp_path, True, 1, transform_workers=workers, keep=keep, **settings)
            for workers, keep in ((0, "decoded"), (0, "encoded"), (2, "encoded"))
        ]
        assert_same(found[0], found[1])
        assert_same(found[0], found[2])


def test_a_run_with_a_transform_of_one_s_own_ends_with_the_same_weights_when_stopped(
    root: Path, tmp_path: Path
) -> None:
    own = "data.transform={_target_: torchvision.transforms.v2.RandomCrop, size: 16, padding: 3}"
    overrides = [own, *(setting for setting in WHOLE if setting != "augmentation=imagenet")]
    overrides += [f"data.root={root}", f"data.cache_dir={tmp_path / 'cache'}"]
    tiny_run(tmp_path / "whole", *overrides, "data.transform_workers=0")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 6, 15)
        with pytest.raises(Interrupted):
            before = ["data.transform_workers=1", "~data.transform_workers"]  # there was the key
            tiny_run(tmp_path / "run", *overrides, *before)
    tiny_run(tmp_path / "run", *overrides, "data.transform_workers=2", f"resume={tmp_path / 'run'}")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_broken_file_is_named_by_a_process_that_transforms(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "photos")
    data = module(tmp_path / "photos", tmp_path, PerImage(lambda image: image), 1, keep="encoded")
    (broken := tmp_path / "photos" / "train" / "a" / "03.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=rf"^{broken} cannot be decoded"):
        handed_out(data)


def test_a_run_goes_on_with_images_as_it_had_them(root: Path, tmp_path: Path) -> None:
    state = module(root, tmp_path, keep="encoded").state_dict()
    with pytest.raises(UserError, match=r"images that are encoded: set data\.keep=encoded"):
        module(root, tmp_path, keep="decoded").load_state_dict(state)
    before = {key: value for key, value in module(root, tmp_path).state_dict().items() if key != "keep"}
    module(root, tmp_path).load_state_dict(before)  # of a version that had no choice
