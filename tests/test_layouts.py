"""Image folders in the usual layouts: which folder is which part, and Tiny-ImageNet as it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gvr_lightning.data.image_folder import ImageFolder
from gvr_lightning.data.image_set import Splits
from gvr_lightning.errors import UserError

NUMBERS = ["n02", "n07", "n11"]
WORDS = "n02\tcrane, bird\nn07\tcrane, machine\nn11\tgoldfish, Carassius auratus\nn99\tnothing"
TINY_VAL = {"val_0.JPEG": "n11", "val_1.JPEG": "n02", "val_2.JPEG": "n11", "val_10.JPEG": "n07"}


def draw(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), level).save(path, "PNG")


def folders(root: Path, *parts: str) -> Path:
    """Two classes of two images in each part; an image's level is 10 times its part's number, and its own."""
    for number, part in enumerate(parts):
        for i, name in enumerate(("a/0.png", "a/1.png", "b/0.png", "b/1.png")):
            draw(root / part / name, 10 * number + i)
    return root


def tiny(root: Path) -> Path:
    """Tiny-ImageNet as it is published, smaller."""
    for i, name in enumerate(NUMBERS):
        draw(root / "train" / name / "images" / f"{name}_0.JPEG", i)
        (root / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t1\t1\n")
    for i, name in enumerate(TINY_VAL):
        draw(root / "val" / "images" / name, 100 + i)
    lines = [f"{name}\t{label}\t0\t0\t1\t1" for name, label in TINY_VAL.items()]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    draw(root / "test" / "images" / "test_0.JPEG", 200)
    (root / "wnids.txt").write_text("\n".join(NUMBERS[::-1]))
    (root / "words.txt").write_text(WORDS)
    return root


def load(root: Path, **options: Any) -> Splits:
    return ImageFolder(root, channels=1, cache_dir=str(root.parent / "cache"), **options)()


def levels(splits: Splits) -> list[list[int]]:
    """Those of training, test and validation, in order."""
    return [part.images[:, 0, 0, 0].tolist() if part else [] for part in (splits.train, splits.test, splits.val)]


def error_of(call: Any) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("parts", "options", "tens", "said"),
    [
        (["train", "test"], {}, "01", ""),
        (["Train", "TEST"], {}, "01", ""),
        (["training", "testing"], {}, "01", ""),
        (["train", "val", "test"], {}, "021", ""),
        (["train", "valid", "test"], {}, "021", ""),
        (["train", "Validation", "test"], {}, "021", ""),
        (["train", "val"], {}, "01", "data: there is no test folder, so that the images of val are tested on"),
        (["train", "validation"], {}, "01", "the images of validation are tested on"),
        (["train", "val", "test"], {"test_folder": "val"}, "01", ""),
        (["train", "val", "test", "photos"], {"test_folder": "photos"}, "031", ""),
    ],
)
@pytest.mark.parametrize("below", ["", "archive"])
def test_parts_are_found_by_their_usual_names(
    below: str, parts: list[str], options: Any, tens: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path / "set" / below, *parts)
    (tmp_path / "set" / "__MACOSX").mkdir()
    splits = load(tmp_path / "set", **options)
    expected = [[10 * int(number) + i for i in range(4)] for number in tens]
    assert levels(splits) == [*expected, []][:3] and splits.classes == ("a", "b")
    err = capsys.readouterr().err
    assert said in err and ("tested on" in err) == bool(said)


def test_a_validation_part_belongs_to_the_data_s_hash_and_changes_with_its_files(tmp_path: Path) -> None:
    plain = load(folders(tmp_path / "plain", "train", "test"))
    more = load(folders(tmp_path / "more", "train", "test", "val"))
    assert plain.hash != more.hash and levels(plain)[:2] == levels(more)[:2]
    (tmp_path / "more" / "val" / "a" / "0.png").unlink()
    assert levels(load(tmp_path / "more"))[2] == [21, 22, 23]


def test_broken_images_are_left_out_of_every_part(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", "train", "test", "val")
    names = ["train/a/1.png", "test/b/0.png", "val/a/0.png"]
    for name in names:
        (root / name).write_bytes(b"")
    splits = load(root, skip_broken=True)
    assert levels(splits) == [[0, 2, 3], [10, 11, 13], [21, 22, 23]] and splits.left_out == tuple(names)
    assert splits.val is not None and splits.val.targets.tolist() == [0, 1, 1]


def test_tiny_imagenet_is_read_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tiny(tmp_path / "tiny-imagenet-200")
    splits = load(root)
    assert splits.classes == ("crane (n02)", "crane (n07)", "goldfish") and splits.val is None
    assert levels(splits)[0] == [0, 1, 2] and splits.train.targets.tolist() == [0, 1, 2]
    assert splits.test.targets.tolist() == [0, 1, 2, 2] and levels(splits)[1] == [101, 103, 100, 102]
    assert "the test images have no classes, so that the images of val are tested on" in capsys.readouterr().err
    same = load(root, test_folder="val")
    assert same.hash == splits.hash and np.array_equal(same.test.images, splits.test.images)


def test_tiny_imagenet_s_classes_belong_to_the_data_s_hash(tmp_path: Path) -> None:
    """Also where another class leaves the files in their order."""
    root = tiny(tmp_path / "tiny")
    before = load(root)
    list_ = root / "val" / "val_annotations.txt"
    list_.write_text(list_.read_text().replace("val_10.JPEG\tn07", "val_10.JPEG\tn02"))
    after = load(root)
    assert levels(after)[1] == levels(before)[1] and after.test.targets.tolist() == [0, 0, 2, 2]
    assert after.hash != before.hash


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("val_1.JPEG\tn02", "val_1.JPEG\tn05", "line 2 is not a file and one of the classes"),
        ("val_1.JPEG", "../val_1.JPEG", "line 2 is not a file and one of the classes"),
        ("val_1.JPEG", "val_9.JPEG", "val_1.JPEG is not in val_annotations.txt"),
        ("val_0.JPEG\tn11", "val_0.JPEG\tn11\nval_00.JPEG\tn11", "val_00.JPEG is missing, which it names"),
    ],
)
def test_a_list_that_does_not_fit_is_told(old: str, new: str, words: str, tmp_path: Path) -> None:
    root = tiny(tmp_path / "tiny")
    list_ = root / "val" / "val_annotations.txt"
    list_.write_text(list_.read_text().replace(old, new))
    assert words in error_of(lambda: load(root))


def test_words_name_the_classes_only_where_they_name_all(tmp_path: Path) -> None:
    root = tiny(tmp_path / "tiny")
    (root / "words.txt").write_text(WORDS.replace("n07", "n08"))
    assert load(root).classes == tuple(NUMBERS)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (["train", "Train", "test"], "Train and train, which are one part"),
        (["train", "test", "val", "valid"], "val and valid, which are one part"),
        (
            ["train", "holdout"],
            "no folder {root}/test: to test on the images of another one, set data.test_folder=holdout",
        ),
        (["images"], "no folder {root}/train: an image folder has train/<class>/"),
    ],
)
def test_parts_that_are_missing_or_there_twice_are_told(parts: list[str], words: str, tmp_path: Path) -> None:
    root = folders(tmp_path / "set", *parts)
    assert words.format(root=root) in error_of(lambda: load(root))


def test_test_images_without_classes_are_told_with_the_way_out(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", "train", "val")
    draw(root / "test" / "0.png", 1)
    assert f"no class folder in {root / 'test'}" in (line := error_of(lambda: load(root)))
    assert line.endswith("set data.test_folder=val")
    draw(root / "test" / "images" / "0.png", 1)
    assert "data.test_folder=val" in error_of(lambda: load(root)) and levels(load(root, test_folder="val"))[2] == []
