"""Labels from files: read as plain data, held to the training set, and given to the samples that they are of."""

import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import write_cifar
from runs import tiny_run

from gvr_lightning.config.check import check
from gvr_lightning.data.augmentation import Augmentation
from gvr_lightning.data.cifar import Cifar10
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.digits import Digits
from gvr_lightning.data.noise_file import FromFile
from gvr_lightning.errors import UserError

N = 1437  # training images of the digits
TRUE = Digits()().train.targets.numpy()
WRONG = np.where(np.arange(N) % 3 == 0, (TRUE + 1 + np.arange(N) % 9) % 10, TRUE)
OTHER = (TRUE + 1) % 10
CLASSES = tuple("0123456789")


def human(**more: Any) -> dict[str, Any]:
    """As CIFAR-10N is: several columns, int64."""
    return {"clean_label": TRUE, "worse_label": WRONG, "aggre_label": OTHER, **more}


def as_numpy_1(path: Path, content: Any) -> None:
    """With numpy's names of before version 2, as the published files have them."""
    torch.save(content, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, raw in parts.items():
            file.writestr(name, raw.replace(b"cnumpy._core.", b"cnumpy.core."))


def legacy(path: Path, content: Any) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def table(path: Path, columns: dict[str, Any]) -> None:
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")


FORMS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "numpy 2": ("a.pt", lambda path: torch.save(human(), path)),
    "numpy 1": ("a.pt", lambda path: as_numpy_1(path, human())),
    "before zip": ("a.pt", lambda path: legacy(path, human())),
    "bytes": ("a.pt", lambda path: torch.save({k: v.astype("u1") for k, v in human().items()}, path)),
    "tensors": ("a.pt", lambda path: torch.save({k: torch.from_numpy(v) for k, v in human().items()}, path)),
    "lists": ("a.pt", lambda path: torch.save({k: v.tolist() for k, v in human().items()}, path)),
    "csv": ("a.csv", lambda path: table(path, human())),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_columns_are_read_from_every_form(form: str, tmp_path: Path) -> None:
    name, write = FORMS[form]
    write(tmp_path / name)
    index = torch.tensor([5, 0, 1400])
    for labels, expected in (("worse_label", WRONG), ("aggre_label", OTHER), ("clean_label", TRUE)):
        noise = FromFile(tmp_path / name, labels)
        noise.require(torch.from_numpy(TRUE), CLASSES)
        assert noise(torch.from_numpy(TRUE)[index], index, CLASSES).tolist() == expected[index.numpy()].tolist()
        validated = noise.of_validation(torch.from_numpy(TRUE)[index], index, CLASSES, own=False)
        assert validated.tolist() == expected[index.numpy()].tolist()
        with pytest.raises(UserError, match=r"label_noise\.validation=noisy: the file has labels of"):
            noise.of_validation(torch.from_numpy(TRUE)[index], index, CLASSES, own=True)
    with pytest.raises(UserError, match="has worse_label, aggre_label: set it to the one"):
        FromFile(tmp_path / name)
    with pytest.raises(UserError, match=r"labels=worst: .* has clean_label, worse_label, aggre_label"):
        FromFile(tmp_path / name, "worst")


def test_the_only_column_needs_no_name(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", WRONG)
    torch.save(WRONG, tmp_path / "b.pt")
    (tmp_path / "c.csv").write_text("\n".join(map(str, WRONG)))
    torch.save({"clean_label": TRUE, "noisy_label": WRONG}, tmp_path / "d.pt")
    table(tmp_path / "e.csv", {"noisy": [f"digit {label}" for label in WRONG]})
    for name in ("a.npy", "b.pt", "c.csv", "d.pt", "e.csv"):
        noise, classes = FromFile(tmp_path / name), tuple(f"digit {i}" for i in range(10))
        noise.require(torch.from_numpy(TRUE), classes)
        assert noise(torch.from_numpy(TRUE), torch.arange(N), classes).tolist() == WRONG.tolist()


def digits(noise: FromFile, **options: Any) -> ViewsDataModule:
    module = ViewsDataModule(Digits(), Augmentation(), label_noise=noise, **options)
    module.setup()
    return module


@pytest.mark.parametrize("options", [{}, {"val_fraction": 0.3, "max_train": 200, "seed": 3}, {"val_fraction": 0.0}])
def test_labels_are_of_the_training_set_s_own_order_whatever_is_held_out(options: Any, tmp_path: Path) -> None:
    torch.save(human(), tmp_path / "a.pt")
    module = digits(FromFile(tmp_path / "a.pt", "worse_label"), **options)
    index = module.train_index.numpy()
    assert module.splits is not None
    assert module.splits.train.targets.numpy()[index].tolist() == WRONG[index].tolist()
    held = module.val_index.numpy()
    assert module.splits.train.targets.numpy()[held].tolist() == TRUE[held].tolist(), "validation has true labels"
    assert torch.equal(module.splits.test.targets, Digits()().test.targets)
    wrong = int((WRONG != TRUE)[index].sum())
    assert module.noise_record == {
        "kind": "file",
        "file": "a.pt",
        "labels": "worse_label",
        "wrong": wrong,
        "of": len(index),
        "actual_rate": wrong / len(index),
        "hash": hashlib.sha256(WRONG[index].astype("<i8").tobytes()).hexdigest(),
    }


def test_cifar_s_order_is_that_of_its_files(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", n_per_file=8)
    true = np.array([(file + i) % 10 for file in range(5) for i in range(8)])
    torch.save({"clean_label": true, "worse_label": (true + np.arange(40)) % 10}, tmp_path / "human.pt")
    module = ViewsDataModule(Cifar10(tmp_path), Augmentation(), label_noise=FromFile(tmp_path / "human.pt"))
    module.setup()
    assert module.splits is not None
    index = module.train_index
    assert torch.equal(module.splits.train.targets[index], (torch.from_numpy(true)[index] + index) % 10)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"noisy": WRONG[:-1]}, "noisy has 1,436 labels for 1,437 training images"),
        ({"noisy": np.where(np.arange(N) == 7, 10, WRONG)}, "noisy: label 7 is 10, where 10 classes are 0 to 9"),
        ({"noisy": np.where(np.arange(N) == 3, -1, WRONG)}, "noisy: label 3 is -1, where"),
        ({"noisy": WRONG, "clean_label": OTHER}, "clean_label is not the training images' label 1,437 times"),
        ({"noisy": WRONG, "clean_label": TRUE[::-1].copy()}, "or in another order than its files"),
        ({"noisy": WRONG, "clean_label": TRUE[:5]}, "clean_label is not the training images' label 1,437 times"),
    ],
)
def test_labels_that_do_not_fit_the_training_set_are_told(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError) as caught:
        digits(FromFile(tmp_path / "a.pt"))
    assert words in str(caught.value) and str(tmp_path / "a.pt") in str(caught.value)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def forged(path: Path, raw: bytes) -> None:
    """A torch file whose pickle is this."""
    torch.save({"noisy": WRONG}, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, part in parts.items():
            file.writestr(name, raw if name.endswith("data.pkl") else part)


BAD: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a call": ("a.pt", lambda path: torch.save({"noisy": Evil()}, path), "refused, as it could run any code"),
    "a call in a plain pickle": ("a.pt", lambda path: path.write_bytes(pickle.dumps({"noisy": Evil()})), "a.pt: "),
    "objects": ("a.pt", lambda path: torch.save({"noisy": np.array([{}, 1], object)}, path), "a.pt: "),
    "a forged type": ("a.pt", lambda path: forged(path, pickle.dumps({"n": WRONG}, 2).replace(b"i8", b"O8")), "a.pt: "),
    "numbers with a point": ("a.pt", lambda path: torch.save({"noisy": WRONG / 2}, path), "a.pt: "),
    "two dimensions": ("a.pt", lambda path: torch.save({"noisy": torch.zeros(3, 2).long()}, path), "has no labels"),
    "nothing": ("a.pt", lambda path: path.write_bytes(b""), "is damaged"),
    "half a file": ("a.pt", lambda path: (torch.save(human(), path), os.truncate(path, 900)), "is damaged"),
    "objects in npy": ("a.npy", lambda path: np.save(path, np.array([Evil()], object)), "no array of"),
    "floats in npy": ("a.npy", lambda path: np.save(path, WRONG / 2), "has no labels"),
    "no npy": ("a.npy", lambda path: path.write_bytes(b"x"), "is no array of whole numbers"),
    "an uneven table": ("a.csv", lambda path: path.write_text("a,b\n1,2\n3\n"), "row 3 has 1 cells"),
    "an empty table": ("a.csv", lambda path: path.write_text(""), "has no labels"),
    "no text": ("a.csv", lambda path: path.write_bytes(b"\xff\xfe\x00"), "no table of text"),
    "another kind": ("a.txt", lambda path: path.write_text("1"), "a file of labels ends in .pt, .npy, .csv"),
    "no file": ("a.pt", lambda path: None, "cannot be read: No such file"),
    "a folder": ("a.csv", Path.mkdir, "cannot be read: Is a directory"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_file_of_labels_is_refused_in_one_line(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, write, words = BAD[what]
    write(tmp_path / name)
    with pytest.raises(UserError) as caught:
        FromFile(tmp_path / name)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


def test_words_that_are_no_classes_are_told(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", {"noisy": ["seven" if i == 4 else label for i, label in enumerate(WRONG)]})
    with pytest.raises(UserError, match="label 4, 'seven', is neither a class nor the number of one"):
        digits(FromFile(tmp_path / "a.csv"))


def test_a_run_trains_on_them_and_goes_on_with_no_others(tmp_path: Path) -> None:
    torch.save(human(), tmp_path / "a.pt")
    chosen = ["label_noise=file", f"label_noise.path={tmp_path / 'a.pt'}", "label_noise.labels=worse_label"]
    summary = tiny_run(tmp_path / "run", *chosen, "epochs=1")
    told = summary["label_noise"]
    assert told["kind"] == "file" and told["of"] == 80 and 15 < told["wrong"] < 40
    torch.save(human(worse_label=OTHER), tmp_path / "a.pt")
    with pytest.raises(UserError, match="label_noise differs"):
        tiny_run(tmp_path / "run", *chosen, "epochs=2", f"resume={tmp_path / 'run'}")
    with pytest.raises(UserError, match=r"label_noise\.path is missing: add label_noise\.path="):
        check(["label_noise=file"])
