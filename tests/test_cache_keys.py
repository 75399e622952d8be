"""Decoded images are found again for the same files and settings, and for no others."""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import write_image_folder
from PIL import Image

from gvr_lightning.data.cache import Cache
from gvr_lightning.data.decode import decode_image
from gvr_lightning.data.image_folder import ImageFolder
from gvr_lightning.data.image_set import Splits
from gvr_lightning.data.listing import list_images
from gvr_lightning.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "set", classes=2, train=3, test=2)


def load(root: Path, **options: Any) -> Splits:
    options.setdefault("cache_dir", str(root.parent / "cache"))
    return ImageFolder(root, **options)()


def entries(root: Path) -> list[str]:
    return sorted(path.parent.name for path in (root.parent / "cache").glob("*/meta.json"))


def same_images(a: Splits, b: Splits) -> bool:
    parts = ((a.train, b.train), (a.test, b.test))
    return a.classes == b.classes and all(
        torch.equal(x.images, y.images) and torch.equal(x.targets, y.targets) for x, y in parts
    )


def change_a_pixel(root: Path) -> None:
    path = root / "test" / "class_1" / "0001.png"
    with Image.open(path) as image:
        changed = np.array(image)
    changed[3, 4, 2] ^= 1
    Image.fromarray(changed).save(path)


def move(old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / new).parent.mkdir(exist_ok=True)
        (root / old).rename(root / new)

    return change


def swap(root: Path) -> None:
    """Two files' contents: the same names and the same contents, put together otherwise."""
    a, b = root / "train" / "class_0" / "0000.png", root / "train" / "class_1" / "0000.png"
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def rename_class(root: Path) -> None:
    for part in ("train", "test"):
        (root / part / "class_1").rename(root / part / "class_9")


def copy_of(root: Path) -> None:
    shutil.copyfile(root / "train" / "class_0" / "0000.png", root / "train" / "class_0" / "0100.png")


CHANGES: dict[str, Callable[[Path], None]] = {
    "a pixel": change_a_pixel,
    "a name": move("train/class_0/0002.png", "train/class_0/0009.png"),
    "a folder in a class": move("train/class_0/0002.png", "train/class_0/more/0002.png"),
    "an image's class": move("train/class_0/0002.png", "train/class_1/0002a.png"),
    "an image's part": move("train/class_0/0002.png", "test/class_0/0002.png"),
    "two contents": swap,
    "a class's name": rename_class,
    "one more": copy_of,
    "one less": lambda root: (root / "train" / "class_1" / "0002.png").unlink(),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "image_size": {"image_size": 12},  # the size that they have
    "another image_size": {"image_size": 8},
    "channels": {"channels": 1},
    "both": {"image_size": 8, "channels": 1},
}


@pytest.mark.parametrize("what", CHANGES)
def test_other_files_are_another_entry(root: Path, what: str) -> None:
    before = load(root)
    images = before.train.images.clone()
    CHANGES[what](root)
    after = load(root)
    assert after.hash != before.hash and entries(root) == sorted({before.hash, after.hash})
    assert same_images(after, load(root, cache_dir=str(root.parent / "another cache")))
    assert torch.equal(before.train.images, images), "what has been read stays as it was"


def test_other_settings_are_other_entries(root: Path) -> None:
    hashes = {load(root).hash}
    for options in SETTINGS.values():
        found = load(root, **options)
        hashes.add(found.hash)
        size, channels = options.get("image_size") or 12, options.get("channels", 3)
        assert found.train.images.shape == (6, channels, size, size)
        for images, path in (
            (found.train.images[4], "train/class_1/0001"),
            (found.test.images[0], "test/class_0/0000"),
        ):
            with Image.open(root / f"{path}.png") as image:
                small = image.convert("RGB" if channels == 3 else "L").resize((size, size), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(images, np.asarray(small).reshape(size, size, -1).transpose(2, 0, 1))
    assert len(hashes) == 5 and entries(root) == sorted(hashes)


def test_every_way_to_the_same_files_is_the_same_entry(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere, by a link, at another time, with other files beside them, and with any number of workers."""
    first = load(root)
    ways = [root.parent / "copy", root.parent / "link"]
    shutil.copytree(root, ways[0])
    ways[1].symlink_to(root)
    monkeypatch.setenv("HOME", str(root.parent))
    again = [load(way) for way in ways] + [ImageFolder("~/set", cache_dir="~/cache")(), load(root, workers=1)]
    for path in root.rglob("*.png"):
        os.utime(path, (1, 1))
    (root / "train" / "class_0" / "notes.txt").write_text("no image")
    (root / "more").mkdir()
    again.append(load(root))
    assert {splits.hash for splits in again} == {first.hash} == set(entries(root))
    assert all(same_images(first, splits) for splits in again)


def test_an_entry_is_found_by_later_versions(tmp_path: Path) -> None:
    """Its hash is in the checkpoints too, and a run is not continued with another."""
    files = {
        f"{part}/{name}/{number}.ppm": b"P6 2 1 255\n" + bytes([i, 2, 3, 40, 50, 60])
        for i, (part, name, number) in enumerate(itertools.product(("train", "test"), "ab", (1, 10, 2)))
    }
    content = hashlib.sha256()
    for part in ("train", "test"):
        for name in sorted(name for name in files if name.startswith(part)):
            content.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    for name, raw in files.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(raw)
    for image_size, channels in ((None, 3), (1, 1)):
        splits = load(tmp_path / "set", image_size=image_size, channels=channels)
        key = json.dumps([1, content.hexdigest(), image_size, channels])
        assert splits.hash == hashlib.sha256(key.encode()).hexdigest()
    assert load(tmp_path / "set").train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]  # 1, 10, 2


# --- whether files are those of last time


def test_a_stamp_is_of_place_names_sizes_and_times(root: Path) -> None:
    stamps = [list_images(root).stamp()]
    assert list_images(root).stamp() == stamps[0] == list_images(root / ".." / "set").stamp()
    shutil.copytree(root, root.parent / "copy")
    stamps.append(list_images(root.parent / "copy").stamp())
    path = root / "test" / "class_0" / "0001.png"
    for mtime in (10**18, 10**18 + 1):
        os.utime(path, ns=(mtime, mtime))
        stamps.append(list_images(root).stamp())
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(mtime, mtime))
    stamps.append(list_images(root).stamp())
    path.rename(path.with_name("0002.png"))
    stamps.append(list_images(root).stamp())
    assert len(set(stamps)) == len(stamps)


def test_a_stamp_has_every_field_of_every_file(root: Path) -> None:
    listing = list_images(root)
    stamps = {listing.stamp()}
    for i, field in itertools.product((0, len(listing.files) - 1), ("name", "size", "mtime_ns", "ctime_ns")):
        file = listing.files[i]
        value: Any = f"{file.name}x" if field == "name" else getattr(file, field) + 1
        listing.files[i] = file._replace(**{field: value})
        stamps.add(listing.stamp())
        listing.files[i] = file
    assert len(stamps) == 1 + 2 * 4


def test_the_newest_change_counts_whichever_it_is(root: Path) -> None:
    listing = list_images(root)
    assert listing.newest() == max(path.stat().st_ctime_ns for path in root.rglob("*.png"))
    late = max(file.ctime_ns for file in listing.files) + 10**9
    os.utime(root / "train" / "class_0" / "0001.png", ns=(late, late))
    assert list_images(root).newest() == late


def test_a_hash_is_recalled_for_its_stamp_alone(tmp_path: Path) -> None:
    cache, content = Cache(str(tmp_path / "cache")), "0123456789abcdef" * 4
    assert cache.recall("some") is None
    (tmp_path / "cache").mkdir()
    cache.remember("some", content)
    assert cache.recall("some") == content and Cache(str(tmp_path / "cache")).recall("some") == content
    assert cache.recall("other") is None
    assert os.listdir(tmp_path / "cache" / "index") == ["some"]
    cache.remember("some", content[::-1])
    assert cache.recall("some") == content[::-1]
    for damaged in (content[1:], content + "0", content.upper(), "", "\n" + content, content + "\n"):
        (tmp_path / "cache" / "index" / "some").write_text(damaged)
        assert cache.recall("some") is None
    (tmp_path / "cache" / "index" / "some").write_bytes(b"\xff" * 64)
    assert cache.recall("some") is None


def test_an_index_that_cannot_be_written_is_told_and_done_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index").touch()
    Cache(str(tmp_path)).remember("some", "0" * 64)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "index" / "some") in line and "read in full at every start" in line


def test_what_is_noted_is_believed(root: Path, tmp_path: Path) -> None:
    """So that a second start reads no image."""
    content = "a" * 64
    (tmp_path / "cache").mkdir()
    cache, stamp = Cache(str(tmp_path / "cache")), list_images(root).stamp()
    cache.remember(stamp, content)
    assert load(root).hash != (plain := hashlib.sha256(json.dumps([1, content, None, 3]).encode()).hexdigest())
    for top, settings in ((0, []), (4095, [[0.0, 4095.0]])):
        cache.remember(f"{stamp}-top", f"{top:064x}")
        expected = hashlib.sha256(json.dumps([1, content, None, 3, *settings]).encode()).hexdigest()
        assert load(root).hash == expected and (expected == plain) == (top == 0)


# --- entries


IMAGES = np.random.RandomState(0).randint(0, 256, (5, 3, 4, 6)).astype(np.uint8)
TARGETS = np.array([3, 1, 2, 0, 9])


def store(cache: Cache, images: np.ndarray = IMAGES, during: Callable[[], Any] = lambda: None) -> Any:
    def fill(out: np.ndarray) -> None:
        during()
        out[:] = images

    return cache.store("key", images.shape, TARGETS, fill)


@pytest.mark.parametrize("claims", [True, False])
def test_an_entry_is_two_arrays_and_what_checks_them(
    tmp_path: Path, claims: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.RandomState(1).randint(0, 256, (2, 3, 500, 501)).astype(np.uint8)  # more than is claimed at once
    if not claims:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)  # as on some systems
    cache = Cache(str(tmp_path))
    assert cache.load("key") is None
    for found in (store(cache, images), cache.load("key")):
        assert found is not None
        np.testing.assert_array_equal(found[0], images)
        np.testing.assert_array_equal(found[1], TARGETS)
        assert isinstance(found[0], np.memmap) and found[0].flags.writeable
    assert os.listdir(tmp_path) == ["key"]
    meta = json.loads((tmp_path / "key" / "meta.json").read_text())
    for name, array in (("images.npy", images), ("targets.npy", TARGETS)):
        np.save(tmp_path / name, array)
        raw, stat = (tmp_path / "key" / name).read_bytes(), (tmp_path / "key" / name).stat()
        assert raw == (tmp_path / name).read_bytes()
        expected = {"bytes": len(raw), "mtime_ns": stat.st_mtime_ns, "sha256": hashlib.sha256(raw).hexdigest()}
        assert meta[name] == expected
        assert stat.st_ctime_ns - stat.st_mtime_ns > 5 * 10**9, "any later write shows, however soon"


def test_what_is_changed_in_memory_stays_there(tmp_path: Path) -> None:
    store(Cache(str(tmp_path)))[0][:] = 0
    np.testing.assert_array_equal(Cache(str(tmp_path)).load("key")[0], IMAGES)  # type: ignore[index]


@pytest.mark.parametrize("damaged", [False, True])
def test_of_two_processes_the_first_to_end_keeps_its_entry(tmp_path: Path, damaged: bool) -> None:
    other = Cache(str(tmp_path))

    def meanwhile() -> None:
        store(other)
        if damaged:
            os.truncate(tmp_path / "key" / "images.npy", 50)

    images, targets = store(Cache(str(tmp_path)), IMAGES if damaged else 255 - IMAGES, meanwhile)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(targets, TARGETS)
    assert os.listdir(tmp_path) == ["key"]


def test_what_cannot_be_filled_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> None:
        raise UserError("a broken image")

    with pytest.raises(UserError, match="a broken image"):
        store(Cache(str(tmp_path)), during=fails)
    assert os.listdir(tmp_path) == []


def test_an_unusable_folder_is_told_once_and_nothing_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    cache = Cache(str(tmp_path / "file"))
    assert store(cache) is None and not cache.usable
    cache.remember("some", "0" * 64)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'file'} cannot be used" in line


def test_a_folder_of_an_unknown_user_is_named() -> None:
    with pytest.raises(UserError, match=r"set data\.cache_dir"):
        Cache("~no_such_user_here/cache")


# --- which files, and how they are read


@pytest.mark.parametrize(
    "extension", ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "JPG", "gif", "jfif"]
)
def test_images_go_by_their_extension(tmp_path: Path, extension: str) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("L", (2, 2)).save(tmp_path / part / "a" / "0.png")
    Image.new("L", (2, 2)).save(tmp_path / "train" / "a" / f"1.{extension}")
    for other in ("txt", "npy", "TXT"):
        (tmp_path / "test" / "a" / f"x.{other}").touch()
    listing = list_images(tmp_path)
    assert [file.name for file in listing.files] == ["train/a/0.png", f"train/a/1.{extension}", "test/a/0.png"]
    assert listing.left_out == {".txt": 2, ".npy": 1}


@pytest.mark.parametrize("size", [(12, 20), (20, 12), (13, 10), (10, 15), (7, 7), (31, 8), (9, 40)])
@pytest.mark.parametrize("image_size", [4, 5, 10])
def test_the_shorter_side_is_resized_and_the_middle_cut_out(
    tmp_path: Path, size: tuple[int, int], image_size: int
) -> None:
    from torchvision.transforms import v2

    pixels = np.random.RandomState(0).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    expected = v2.Compose([v2.Resize(image_size), v2.CenterCrop(image_size)])(Image.fromarray(pixels))
    found = decode_image(tmp_path / "x.png", 3, image_size)
    np.testing.assert_array_equal(found, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_upright(tmp_path: Path, orientation: int) -> None:
    """As the standard has it: where the first row and the first column of what is stored are."""
    upright = np.random.RandomState(0).randint(0, 256, (4, 6)).astype(np.uint8)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(decode_image(tmp_path / "x.png", 1, None), upright[None])
    np.testing.assert_array_equal(decode_image(tmp_path / "x.png", 3, None), np.stack([upright] * 3))


@pytest.mark.parametrize(
    ("value", "grey"),
    [
        (0, 0),
        (7, 7),
        (255, 255),
        (256, 64),
        (4095, 255),
        (4096, 64),
        (16384, 64),
        (65535, 255),
        (65536, None),
        (-1, None),
    ],
)
def test_deep_grey_is_scaled_and_deeper_refused(tmp_path: Path, value: int, grey: int | None) -> None:
    Image.fromarray(np.full((2, 3), value, dtype=np.int32)).save(tmp_path / "x.tif")
    if grey is not None:
        assert decode_image(tmp_path / "x.tif", 1, None).tolist() == [[[grey] * 3] * 2]
    else:
        with pytest.raises(ValueError, match="more than 16 bits"):
            decode_image(tmp_path / "x.tif", 1, None)


def test_hundreds_of_images_keep_their_order(tmp_path: Path) -> None:
    """More than a thread takes at a time."""
    for part, n in (("train", 150), ("test", 70)):
        (tmp_path / "set" / part / "a").mkdir(parents=True)
        for i in range(n):
            pixels = np.full((1, 2), i, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / part / "a" / f"{i:03}.pgm")
    for workers in (1, 3):
        splits = load(tmp_path / "set", channels=1, workers=workers, cache_dir=str(tmp_path / str(workers)))
        assert splits.train.images[:, 0, 0, 1].tolist() == list(range(150))
        assert splits.test.images[:, 0, 0, 0].tolist() == list(range(70))
