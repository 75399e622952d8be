"""Sets of the ``datasets`` library, from local files and offline: the images, the parts and what is refused."""

import importlib.util
import io
import os
import pickle
import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from handed_out import Handed, assert_same, handed_out
from PIL import Image
from pool import Pool
from runs import tiny_run

from gvr_lightning.data import hub
from gvr_lightning.data.augmentation import Augmentation, PerImage
from gvr_lightning.data.columns import Part, find_parts, image_column, label_column, numbered
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.huggingface import HuggingFace
from gvr_lightning.data.image_set import Splits
from gvr_lightning.data.transforms.resample import ResizedCrop
from gvr_lightning.errors import UserError

datasets = pytest.importorskip("datasets", reason="needs pip install '.[huggingface]'")
pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")
HfApi = pytest.importorskip("huggingface_hub").HfApi
RepositoryNotFoundError = pytest.importorskip("huggingface_hub.errors").RepositoryNotFoundError

# the library leaves metadata.csv open
LEFT_OPEN = ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in LEFT_OPEN]

CLASSES = ["dog", "ant", "cat"]  # in no order
SIZES = {"train": 8, "test": 4, "validation": 3}


def pixels(part: str, i: int) -> np.ndarray:
    """(H, W, C) of an image."""
    return np.random.RandomState(100 * list(SIZES).index(part) + i).randint(0, 256, (5, 6, 3)).astype(np.uint8)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def label(part: str, i: int) -> int:
    return (i + len(part)) % 3


def tables(*parts: str, names: list[str] = CLASSES, turned: int = 0) -> Any:
    """A DatasetDict, with its labels so many classes further."""
    features = datasets.Features({"img": datasets.Image(), "id": datasets.Value("float32")})
    features["kind"] = datasets.ClassLabel(names=names)
    made = {}
    for part in parts or SIZES:
        rows = range(SIZES[part])
        columns = {"img": [{"bytes": png(pixels(part, i)), "path": None} for i in rows], "id": [0.5 * i for i in rows]}
        made[part] = datasets.Dataset.from_dict(
            columns | {"kind": [(label(part, i) + turned) % 3 for i in rows]}, features=features
        )
    return datasets.DatasetDict(made)


def as_parquet(root: Path, *parts: str) -> Path:
    (root / "data").mkdir(parents=True)
    for name, table in tables(*parts).items():
        table.to_parquet(root / "data" / f"{name}-00000-of-00001.parquet")
    return root


def as_saved(root: Path, *parts: str) -> Path:
    tables(*parts).save_to_disk(root)
    return root


def as_folders(root: Path) -> Path:
    for part, n in SIZES.items():
        for i in range(n):
            folder = root / part / CLASSES[label(part, i)]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.png").write_bytes(png(pixels(part, i)))
    return root


def with_metadata(root: Path) -> Path:
    for part, n in SIZES.items():
        (root / part).mkdir(parents=True)
        lines = ["file_name,kind"]
        for i in range(n):
            (root / part / f"{i}.png").write_bytes(png(pixels(part, i)))
            lines.append(f"{i}.png,{CLASSES[label(part, i)]}")
        (root / part / "metadata.csv").write_text("\n".join(lines))
    return root


FORMATS: dict[str, Callable[[Path], Path]] = {
    "parquet": as_parquet,
    "saved": as_saved,
    "folders": as_folders,
    "metadata": with_metadata,
}


def load(path: Path | str, folder: Path, **options: Any) -> Splits:
    return HuggingFace(str(path), cache_dir=str(folder / "cache"), **options)()


def error_of(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows_of(splits: Splits) -> list[tuple[str, bytes, str]]:
    """Part, pixels and class of every image, in any order."""
    parts = (("train", splits.train), ("test", splits.test), ("validation", splits.val))
    return sorted(
        (name, image.numpy().tobytes(), splits.classes[int(target)])
        for name, part in parts
        if part is not None
        for image, target in zip(part.images, part.targets, strict=True)
    )


EXPECTED = sorted(
    (part, pixels(part, i).transpose(2, 0, 1).tobytes(), CLASSES[label(part, i)])
    for part, n in SIZES.items()
    for i in range(n)
)


@pytest.mark.parametrize("form", FORMATS)
def test_images_parts_and_classes_are_the_same_in_every_format(
    form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = FORMATS[form](tmp_path / "set")
    capfd.readouterr()
    splits = load(path, tmp_path)
    assert rows_of(splits) == EXPECTED
    assert splits.classes == (tuple(CLASSES) if form in ("parquet", "saved") else ("ant", "cat", "dog"))
    column, labels = ("img", "kind") if form in ("parquet", "saved") else ("image", "label")
    labels = "kind" if form == "metadata" else labels
    told = "data: train: train (8), test: test (4), val: validation (3);"
    told += f" images in the column {column}, labels in {labels}"
    printed = capfd.readouterr()
    assert not printed.out and printed.err.splitlines() == [told, "reading 15 images", "decoding 15 images"]
    again = load(path, tmp_path)
    assert again.hash == splits.hash and rows_of(again) == EXPECTED and "decoding" not in capfd.readouterr().err


def test_the_same_bytes_labels_and_classes_are_one_set_whatever_their_format(tmp_path: Path) -> None:
    assert load(as_parquet(tmp_path / "a"), tmp_path).hash == load(as_saved(tmp_path / "b"), tmp_path).hash
    tables(names=["dog", "ant", "bee"]).save_to_disk(tmp_path / "c")
    tables(turned=1).save_to_disk(tmp_path / "d")
    others = [load(tmp_path / name, tmp_path) for name in "bcd"]
    assert len({splits.hash for splits in others}) == 3
    assert others[2].train.targets.tolist() == [(label("train", i) + 1) % 3 for i in range(8)]


def test_a_single_file_or_split_is_divided_by_slices(tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "set", "train") / "data" / "train-00000-of-00001.parquet"
    arrow = next(Path(as_saved(tmp_path / "saved", "train")).rglob("*.arrow"))
    for file in (path, arrow):
        line = error_of(lambda file=file: load(file, tmp_path))  # type: ignore[misc]
        assert "set data.train_split='train[:80%]' data.test_split='train[80%:]'" in line
        asked = {"train_split": "train[:4]", "test_split": "train[75%:]", "val_split": "train[4:6]"}
        splits = load(file, tmp_path, **asked)
        assert splits.val is not None
        found = [part.targets.tolist() for part in (splits.train, splits.val, splits.test)]
        assert found == [[label("train", i) for i in rows] for rows in (range(4), range(4, 6), range(6, 8))]
        np.testing.assert_array_equal(splits.test.images[0], pixels("train", 6).transpose(2, 0, 1))


def test_columns_without_the_library_s_types_are_found(tmp_path: Path) -> None:
    """As pyarrow or pandas write them: bytes, or bytes with a path; names or numbers of the classes."""
    for name, image in (("bare", lambda raw: raw), ("struct", lambda raw: {"bytes": raw, "path": "a.png"})):
        for part in ("train", "test"):
            values = [image(png(pixels(part, i))) for i in range(4)]
            table = pa.table({"content": values, "name": [CLASSES[i % 3] for i in range(4)]})
            (tmp_path / name).mkdir(exist_ok=True)
            pq.write_table(table, tmp_path / name / f"{part}.parquet")
        splits = load(tmp_path / name, tmp_path)
        assert splits.classes == ("ant", "cat", "dog") and splits.train.targets.tolist() == [2, 0, 1, 2]
        np.testing.assert_array_equal(splits.test.images[3], pixels("test", 3).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("names", "asked", "found"),
    [
        (["train", "test"], {}, {"train": "train", "test": "test"}),
        (["Train", "TEST", "Dev"], {}, {"train": "Train", "test": "TEST", "val": "Dev"}),
        (["train", "valid", "test"], {}, {"train": "train", "test": "test", "val": "valid"}),
        (["train", "validation"], {"test": "validation"}, {"train": "train", "test": "validation"}),
        (["train", "val", "test"], {"train": "test", "test": "val"}, {"train": "test", "test": "val"}),
        (["train", "extra", "test"], {"train": "extra"}, {"train": "extra", "test": "test"}),
    ],
)  # fmt: skip
def test_splits_are_found_or_named(names: list[str], asked: dict[str, str], found: dict[str, str]) -> None:
    given = [asked.get(part) for part in ("train", "test", "val")]
    assert find_parts(dict.fromkeys(names, 7), *given) == {part: Part(name, 0, 7) for part, name in found.items()}


@pytest.mark.parametrize(
    ("names", "asked", "words"),
    [
        (["train", "validation"], {}, "no split test, but train, validation: set data.test_split=validation"),
        (["a", "b"], {}, "data.train_split: there is no split train, but a, b"),
        (["train", "test"], {"test": "tset"}, "data.test_split=tset: there is no such split: set it to one of train"),
        (["train", "test"], {"test": "train[80%"}, "data.test_split=train[80%: there is no such split"),
        (["train", "test"], {"test": "test+train"}, "data.test_split=test+train: there is no such split"),
        (["train", "test"], {"test": "test[5:5]"}, "there is no image in it"),
        (["train", "test"], {"test": "train[6:]"}, "data.train_split=train and data.test_split=train[6:] have images"),
        (["train", "test"], {"val": "test"}, "data.test_split=test and data.val_split=test have images in common"),
    ],
)  # fmt: skip
def test_splits_that_are_missing_or_overlap_are_refused(names: list[str], asked: dict[str, str], words: str) -> None:
    given = [asked.get(part) for part in ("train", "test", "val")]
    assert words in error_of(lambda: find_parts(dict.fromkeys(names, 7), *given))


IMAGE, NAMED, NUMBER = datasets.Image(), datasets.ClassLabel(names=["a", "b"]), datasets.Value("int64")
TEXT, NONE = datasets.Value("string"), (None, None)


@pytest.mark.parametrize(
    ("features", "asked", "found"),
    [
        ({"img": IMAGE, "y": NAMED, "id": NUMBER, "file": TEXT}, NONE, ("img", "y")),
        ({"img": IMAGE, "y": NUMBER, "score": datasets.Value("float32")}, NONE, ("img", "y")),
        ({"a": IMAGE, "b": IMAGE, "fine": NAMED, "coarse": NAMED, "n": NUMBER}, ("b", "n"), ("b", "n")),
        ({"img": IMAGE, "fine": NAMED, "coarse": NAMED, "third": NAMED}, NONE, "labels, fine, coarse, third: set"),
        ({"img": IMAGE, "id": NUMBER, "file": TEXT}, NONE, "several columns may be the labels, id, file"),
        ({"a": IMAGE, "b": IMAGE, "y": NAMED}, NONE, "data.image_column: several columns may be"),
        ({"text": NUMBER, "y": NAMED}, NONE, "data.image_column: no column has images; there is text, y"),
        ({"img": IMAGE, "box": [NUMBER]}, NONE, "data.label_column: no column has labels; there is img, box"),
        ({"img": IMAGE, "y": NAMED}, ("img", "z"), "data.label_column=z: there is no such column, but img, y"),
        ({"img": IMAGE, "y": NAMED}, ("y", None), "data.image_column=y: that column has no images; img may"),
    ],
)  # fmt: skip
def test_columns_are_found_by_what_they_hold(features: Any, asked: Any, found: Any) -> None:
    def both() -> tuple[str, str]:
        return image_column(features, asked[0]), label_column(features, asked[1])

    if isinstance(found, str):
        assert found in error_of(both)
    else:
        assert both() == found


def test_labels_become_numbers_of_classes() -> None:
    classes, targets = numbered("k", NUMBER, {"train": [10, 2, 30, 2], "test": [30]})
    assert (
        classes == ("2", "10", "30") and targets["train"].tolist() == [1, 0, 2, 0] and targets["test"].tolist() == [2]
    )
    assert numbered("k", NAMED, {"train": [1, 1], "test": [0]})[0] == ("a", "b"), "a class may have no image"
    for feature, labels, words in (
        (NAMED, {"train": [0, 1], "test": [1, -1]}, "image 1 of data.test_split has no label: set data.test_split to"),
        (NAMED, {"train": [None, 1], "test": [1]}, "image 0 of data.train_split has no label"),
        (NUMBER, {"train": [3, 4], "test": [4, 5]}, "image 1 of data.test_split has the label 5, which no training"),
    ):
        assert words in error_of(lambda feature=feature, labels=labels: numbered("k", feature, labels))  # type: ignore[misc]


def test_splits_whose_classes_are_in_another_order_are_refused(tmp_path: Path) -> None:
    both = tables("train") | {"test": tables("test", names=CLASSES[::-1])["test"]}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "set")
    assert "the split test has other classes" in error_of(lambda: load(tmp_path / "set", tmp_path))


@pytest.mark.parametrize("form", FORMATS)
def test_changed_files_are_seen(form: str, tmp_path: Path) -> None:
    """Also where their time has been set back and their size is the same."""
    path = FORMATS[form](tmp_path / "set")
    before = load(path, tmp_path)
    file = next(file for file in sorted(path.rglob("*.*")) if file.suffix in (".parquet", ".arrow", ".png"))
    raw, times = bytearray(file.read_bytes()), file.stat()
    at = raw.index(b"\x89PNG")
    whole = png(pixels("train", 100))
    old = np.frombuffer(bytes(raw[at : at + len(whole)]), np.uint8)
    assert raw[at + 8 : at + 16] == whole[8:16] and len(old) == len(whole)
    raw[at + 29] ^= 1  # of the checksum of the image's header, which Pillow tells
    file.write_bytes(bytes(raw))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "cannot be decoded" in error_of(lambda: load(path, tmp_path))
    after = load(path, tmp_path, skip_broken=True)
    assert after.hash != before.hash and len(after.left_out) == 1


def test_broken_and_empty_rows_are_named_or_left_out(tmp_path: Path) -> None:
    made = tables("train", "test")
    raw = [b"no image" if i == 2 else None if i == 4 else png(pixels("train", i)) for i in range(8)]
    broken = datasets.Dataset.from_dict(
        {"img": raw, "kind": made["train"]["kind"]},
        features=datasets.Features({"img": datasets.Value("binary"), "kind": made["train"].features["kind"]}),
    )
    datasets.DatasetDict(train=broken, test=made["test"]).save_to_disk(tmp_path / "set")
    line = error_of(lambda: load(tmp_path / "set", tmp_path))
    assert "row 2 of the split train cannot be decoded (cannot identify image file), nor can 1 other image" in line
    splits = load(tmp_path / "set", tmp_path, skip_broken=True)
    assert splits.left_out == ("row 2 of the split train", "row 4 of the split train")
    assert (
        splits.train.targets.tolist() == [label("train", i) for i in (0, 1, 3, 5, 6, 7)]
        and len(splits.test.targets) == 4
    )


def test_rows_that_name_files_open_regular_ones_only(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for strange in ("/dev/zero", "https://example.com/a.png", "a.png"):
        table = pa.table({"img": pa.array([{"bytes": None, "path": strange}] * 2, IMAGE.pa_type), "y": [0, 1]})
        for part in ("train", "test"):
            pq.write_table(table, tmp_path / "set" / f"{part}.parquet")
        assert f"cannot read {strange}: there is no such file" in error_of(lambda: load(tmp_path / "set", tmp_path))


def of_a_process(root: Path, folder: Path, keep: str, how: str) -> Handed:
    """In one of several: cropped by the augmentation or a transform of one's own, or no more than flipped."""
    augmentation: Any = Augmentation(1, True, 2, 0.5)
    if how == "crop":  # nothing that decoded images go through before it
        augmentation = Augmentation(0, False, 2, 0.5, [ResizedCrop((0.3, 1.0), (0.75, 1.33))])
    if how == "own":
        augmentation = PerImage(pytest.importorskip("torchvision.transforms.v2").RandomResizedCrop(4, antialias=True))
    rows = partial(load, root, folder, keep=keep, image_size=[5, 6])  # their own size, where boxes are the same
    data = ViewsDataModule(rows, augmentation, 2, 3, 5)
    data.setup()
    assert data.keep == keep
    return handed_out(data)


@pytest.mark.parametrize("how", ["plain", "crop", "own"])
def test_rows_that_stay_encoded_give_the_pixels_of_decoded_ones(how: str, two: Pool, tmp_path: Path) -> None:
    """In training and evaluation, on one process and two; a crop's to one grey level, as it is made by other code."""
    root = as_parquet(tmp_path / "set")
    encoded, decoded = (of_a_process(root, tmp_path, keep, how) for keep in ("encoded", "decoded"))
    assert len(encoded) == SIZES["train"] + SIZES["test"]
    assert_same(encoded, *two(of_a_process, root, tmp_path, "encoded", how))
    if how != "crop":
        assert_same(decoded, encoded)
    assert encoded.keys() == decoded.keys()
    for name, rows in encoded.items():
        for a, b in zip(rows, decoded[name], strict=True):
            np.testing.assert_allclose(a, b, atol=1.01 / 255 / 0.25 if name[0] == "train" else 0)


def test_images_are_resized_and_deep_ones_keep_their_levels(tmp_path: Path) -> None:
    deep = np.random.RandomState(0).randint(0, 4096, (5, 6)).astype(np.uint16)
    deep[0, 0] = 4095
    rows = {"img": [png(deep)] * 2, "y": [0, 1]}
    features = datasets.Features({"img": datasets.Image(), "y": NUMBER})
    table = datasets.Dataset.from_dict(
        {"img": [{"bytes": raw, "path": None} for raw in rows["img"]], "y": rows["y"]}, features=features
    )
    datasets.DatasetDict(train=table, test=table).save_to_disk(tmp_path / "set")
    splits = load(tmp_path / "set", tmp_path, channels=1)
    np.testing.assert_array_equal(splits.train.images[0, 0], deep >> 4)
    assert splits.value_range == (0.0, 4095.0)
    assert load(tmp_path / "set", tmp_path, image_size=3).train.images.shape == (2, 3, 3, 3)


# --- what is refused, and nothing that is run


def test_no_code_of_a_set_is_run_and_no_pickle_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script"
    script.mkdir()
    (script / "script.py").write_text(f"open({str(tmp_path / 'evil')!r}, 'w')")
    assert "code of its own, which is never run" in error_of(lambda: load(script, tmp_path))
    shutil.copy(script / "script.py", as_parquet(tmp_path / "both") / "both.py")
    assert "never run" in error_of(lambda: load(tmp_path / "both", tmp_path))
    for form, make in FORMATS.items():
        made = make(tmp_path / form)
        with monkeypatch.context() as patch:
            for name in ("load", "loads"):
                patch.setattr(pickle, name, None)
            assert rows_of(load(made, tmp_path)) == EXPECTED
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        ({}, {}, "doesn't contain any data files"),
        ({"train.csv": "a,b\n1,2"}, {}, "its files are csv, not images, parquet or arrow"),
        ({"train.parquet": "no parquet"}, {}, "cannot be read"),
        ({"train/a/0.png": "x", "test/a/0.png": "x"}, {"revision": "main"}, "is a local set, which has none"),
        ({"train/a/0.png": "x", "test/a/0.png": "x"}, {"subset": "big"}, "set data.subset to one of 'default'"),
        ({"train/a/0.png": "x", "train/b/0.png": "x", "test/a/0.png": "x"}, {}, "train/a/0.png) cannot be decoded"),
        (
            {"train/a/0.png": "x", "train/b/0.png": "x", "test/a/0.png": "x"},
            {"skip_broken": "true", "image_size": 4},
            "no image of the class a can be",
        ),
    ],
)
def test_what_is_no_set_of_images_is_told(
    files: dict[str, str], options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "set").mkdir()
    for name, text in files.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(text)
    line = error_of(lambda: load(tmp_path / "set", tmp_path, **options))
    assert words in line


def test_a_file_of_another_format_and_a_name_that_is_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a")
    assert "a file is a .parquet or .arrow" in error_of(lambda: load(tmp_path / "a.csv", tmp_path))
    assert "no such file, and it is no name on the hub" in error_of(lambda: load("a/b/c", tmp_path))


def test_without_a_network_the_hub_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def unreachable(host: Any, *rest: Any, **options: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    line = error_of(lambda: load("owner/photos", tmp_path))
    assert line.startswith("data.path=owner/photos: there is no such file, and the hub cannot be reached (")
    assert line.endswith("check the network, or give a local folder or file") and len(asked) <= 2
    assert not datasets.config.HF_HUB_OFFLINE, "the next set is looked for"


def test_without_a_network_what_was_downloaded_before_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **o: (_ for _ in ()).throw(socket.gaierror(-2, "no")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    commit = "a" * 40
    builder = datasets.load_dataset_builder(str(as_parquet(tmp_path / "photos")), cache_dir=str(tmp_path / "made"))
    builder.download_and_prepare()
    shutil.copytree(builder.cache_dir, tmp_path / "hub" / "owner___photos" / "default" / "0.0.0" / commit)
    for revision in (None, commit):
        assert rows_of(load("owner/photos", tmp_path, revision=revision)) == EXPECTED
        assert "what was downloaded of owner/photos before is used" in capsys.readouterr().err
    assert "cannot be reached" in error_of(lambda: load("owner/photos", tmp_path, revision="b" * 40))


def test_a_set_of_the_hub_is_opened_at_the_revision_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local, build, asked = str(as_parquet(tmp_path / "photos")), datasets.load_dataset_builder, []

    def builder(path: str, name: str | None, revision: str | None) -> Any:
        asked.append((path, name, revision))
        return build(local, cache_dir=str(tmp_path / "made"))

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    monkeypatch.setattr(HfApi, "dataset_info", lambda *a, **o: SimpleNamespace(sha="c" * 40))
    assert rows_of(load("owner/photos", tmp_path, subset="small", revision="v1")) == EXPECTED
    assert asked == [("owner/photos", "small", "v1")]
    assert f"data: owner/photos of the hub, revision {'c' * 40}" in capsys.readouterr().err

    def unknown(*arguments: Any, **options: Any) -> Any:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError, "404 Client Error")

    monkeypatch.setattr(HfApi, "dataset_info", unknown)
    assert "the hub has no such set at data.revision=v1" in error_of(lambda: load("a/b", tmp_path, revision="v1"))


def test_without_the_library_the_command_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(hub, "find_spec", lambda name: None if name == "datasets" else find(name))
    assert error_of(lambda: HuggingFace("x")) == "data=huggingface needs datasets: pip install datasets"


def test_a_run_validates_on_the_set_s_own_part(tmp_path: Path) -> None:
    path = as_saved(tmp_path / "set")
    source = ["data=huggingface", f"data.path={path}", f"data.cache_dir={tmp_path / 'cache'}"]
    rest = ["batch_size=4", "data.val_fraction=0.5", "epochs=1", "data.augmentation.cutout=0"]
    summary = tiny_run(tmp_path / "run", *source, *rest)
    assert summary["data_size"] == {"train": 8, "val": 3, "test": 4} and summary["classes"] == CLASSES
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["ViewsDataModule"]["data_hash"]
