"""Label noise: exact rates, the right labels, the same everywhere, and what a run says of it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from equality import in_process, rows
from fakes import write_cifar
from pool import Pool
from runs import tiny_run
from torch import Tensor

from gvr_lightning.data.augmentation import Augmentation
from gvr_lightning.data.cifar import Cifar10, Cifar100
from gvr_lightning.data.confusions import CIFAR10, CIFAR100, SUPERCLASSES
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.digits import Digits
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.data.label_noise import Asymmetric, LabelNoise, PairFlip, Symmetric, SymmetricInclusive
from gvr_lightning.errors import UserError
from gvr_lightning.report.groups import compare
from gvr_lightning.report.provenance import warnings
from gvr_lightning.report.runs import find_runs

N = 10_000
TEN = tuple("abcdefghij")
OFFICIAL_COARSE_LABELS = [  # of CIFAR-100's classes, as its files number both
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1),
    *(10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12),
    *(12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0),
    *(17, 8, 14, 13),
]


def noisy(noise: LabelNoise, classes: Sequence[str] = TEN) -> tuple[Tensor, Tensor]:
    """True and noisy labels of N samples whose classes are not equally frequent."""
    true = (torch.arange(N).double().sqrt() * 7).long() % len(classes)
    return true, noise(true, torch.arange(N), classes)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.4321, 1.0])
@pytest.mark.parametrize("kind", [Symmetric, PairFlip])
def test_exactly_so_many_labels_are_wrong(kind: type[LabelNoise], rate: float) -> None:
    true, labels = noisy(kind(rate))
    assert int((true != labels).sum()) == round(rate * N)
    assert int(labels.min()) >= 0 and int(labels.max()) <= 9


def test_symmetric_noise_draws_every_other_class_equally_often() -> None:
    true, labels = noisy(Symmetric(1.0))
    counts = torch.bincount((labels - true) % 10, minlength=10)
    assert counts[0] == 0
    expected = N / 9
    chi2 = float(((counts[1:] - expected) ** 2 / expected).sum())
    assert chi2 < 26.1  # 99.9% quantile with 8 degrees of freedom


def test_inclusive_noise_draws_every_class_equally_often() -> None:
    true, labels = noisy(SymmetricInclusive(1.0))
    for part in (labels, labels[true == 9]):
        counts, expected = torch.bincount(part, minlength=10), len(part) / 10
        assert len(counts) == 10 and float(((counts - expected) ** 2 / expected).sum()) < 27.9  # 99.9%, 9 degrees


def test_inclusive_noise_may_draw_the_true_class() -> None:
    true, labels = noisy(SymmetricInclusive(0.5))
    wrong = int((true != labels).sum())
    assert abs(wrong - 0.45 * N) < 4 * (N * 0.05 * 0.9) ** 0.5  # 5,000 draws, a tenth of which is right by chance


def test_pairflip_is_the_next_class() -> None:
    true, labels = noisy(PairFlip(0.3))
    changed = true != labels
    assert torch.equal(labels[changed], (true[changed] + 1) % 10)


def test_asymmetric_noise_has_the_usual_pairs_of_cifar10() -> None:
    true, labels = noisy(Asymmetric(0.4), CIFAR10)
    pairs = {(CIFAR10[a], CIFAR10[b]) for a, b in zip(true.tolist(), labels.tolist(), strict=True) if a != b}
    assert pairs == {
        *(("truck", "automobile"), ("bird", "airplane"), ("deer", "horse"), ("cat", "dog"), ("dog", "cat"))
    }
    may = sum(int((true == CIFAR10.index(name)).sum()) for name in ("truck", "bird", "deer", "cat", "dog"))
    assert int((true != labels).sum()) == round(0.4 * may)


def test_asymmetric_noise_stays_within_the_superclasses_of_cifar100() -> None:
    assert len(SUPERCLASSES) == 20 and len(set(CIFAR100)) == 100
    assert CIFAR100[:3] == ("apple", "aquarium_fish", "baby") and CIFAR100[-1] == "worm"
    true, labels = noisy(Asymmetric(1.0), CIFAR100)
    becomes = {CIFAR100[a]: CIFAR100[b] for a, b in zip(true.tolist(), labels.tolist(), strict=True)}
    assert becomes["beaver"] == "dolphin" and becomes["whale"] == "beaver" and becomes["apple"] == "mushroom"
    coarse = [next(i for i, superclass in enumerate(SUPERCLASSES) if name in superclass) for name in CIFAR100]
    assert coarse == OFFICIAL_COARSE_LABELS
    for superclass in SUPERCLASSES:  # one cycle through all five
        assert all(becomes[a] == b for a, b in zip(sorted(superclass), sorted(superclass)[1:], strict=False))
        seen, name = [], superclass[0]
        for _ in range(5):
            seen.append(name)
            name = becomes[name]
        assert sorted(seen) == sorted(superclass) and name == superclass[0]


def test_any_data_set_by_a_map_of_names_or_numbers() -> None:
    true, labels = noisy(Asymmetric(0.5, map={"a": "c", 4: "b", "7": 7}))
    changed = true != labels
    assert int(changed.sum()) == round(0.5 * int(((true == 0) | (true == 4)).sum()))
    assert set(zip(true[changed].tolist(), labels[changed].tolist(), strict=True)) == {(0, 2), (4, 1)}


def test_its_seed_is_its_own_and_lower_rates_are_contained() -> None:
    true, few = noisy(Symmetric(0.2, seed=3))
    _, more = noisy(Symmetric(0.4, seed=3))
    _, other = noisy(Symmetric(0.2, seed=4))
    wrong = few != true
    assert torch.equal(few[wrong], more[wrong])
    assert not torch.equal(few, other)
    assert int(((other != true) & wrong).sum()) < 0.3 * int(wrong.sum())  # a fifth by chance


def test_what_a_label_becomes_depends_on_the_sample_and_the_seed() -> None:
    true, labels = noisy(Symmetric(1.0))
    some = torch.randperm(N, generator=torch.Generator().manual_seed(0))[:500]
    assert torch.equal(Symmetric(1.0)(true[some], some, TEN), labels[some]), "whatever else is trained on"
    other = noisy(Symmetric(1.0, seed=1))[1]
    assert abs(int((other == labels).sum()) - N / 9) < 4 * (N * 8 / 81) ** 0.5  # equal by chance


def test_labels_are_drawn_as_they_always_were() -> None:
    """Figures of different versions are of the same wrong labels."""
    true, index, four = torch.arange(8) % 4, torch.arange(10, 18), TEN[:4]
    kinds = (Symmetric, SymmetricInclusive, PairFlip)
    found = [kind(0.5, seed=2)(true, index, four).tolist() for kind in kinds]
    assert found == [[0, 1, 1, 3, 2, 1, 3, 0], [0, 1, 3, 3, 2, 1, 0, 0], [0, 1, 3, 3, 1, 1, 3, 0]]


def test_usual_pairs_go_by_the_classes_names_in_any_order() -> None:
    names = tuple(reversed(CIFAR10))
    true, labels = noisy(Asymmetric(1.0), names)
    pairs = {(names[a], names[b]) for a, b in zip(true.tolist(), labels.tolist(), strict=True) if a != b}
    assert pairs == {
        *(("truck", "automobile"), ("bird", "airplane"), ("deer", "horse"), ("cat", "dog"), ("dog", "cat"))
    }


def test_a_map_s_names_go_before_its_numbers() -> None:
    true, labels = noisy(Asymmetric(1.0, map={"2": "1", "x": 0}), ("1", "2", "x", "3"))
    becomes = dict(zip(true.tolist(), labels.tolist(), strict=True))
    assert becomes == {0: 0, 1: 0, 2: 0, 3: 3}  # "0" names no class: it is the first, which is x's partner


@pytest.mark.parametrize("kind", [Symmetric, SymmetricInclusive, PairFlip])
def test_one_class_has_no_wrong_labels(kind: type[LabelNoise]) -> None:
    with pytest.raises(UserError, match="one class has no wrong labels"):
        kind(0.4)(torch.zeros(5, dtype=torch.int64), torch.arange(5), ("a",))
    assert kind(1.0)(torch.tensor([0, 1]), torch.arange(2), ("a", "b")).shape == (2,)


@pytest.mark.parametrize(
    ("noise", "kind"),
    [
        (Symmetric(), "symmetric"),
        (SymmetricInclusive(), "symmetric_inclusive"),
        (PairFlip(), "pairflip"),
        (Asymmetric(map={"a": "b"}), "asymmetric"),
    ],
)
def test_what_it_did_is_told(noise: LabelNoise, kind: str) -> None:
    true, labels = noisy(noise)
    told, wrong = noise.record(true, labels), int((true != labels).sum())
    expected = {"kind": kind, "rate": 0.4, "seed": 0, "wrong": wrong, "of": N, "actual_rate": wrong / N}
    assert told == expected | {"hash": hashlib.sha256(labels.numpy().astype("<i8").tobytes()).hexdigest()}


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (Asymmetric(0.4), "label_noise.map"),
        (Asymmetric(0.4, map={"a": "zebra"}), "'zebra'.*classes are a, b"),
        (Asymmetric(0.4, map={10: "a"}), "no class 10"),
        (Asymmetric(0.4, map={"a": -1}), "no class -1"),
        (Asymmetric(0.4, map={"a": 9, "k": "b"}), "no class 'k'"),
    ],
)
def test_a_map_that_does_not_fit_is_named(noise: LabelNoise, words: str) -> None:
    with pytest.raises(UserError, match=words):
        noisy(noise)


def test_a_rate_out_of_range_is_named() -> None:
    for kind in (Symmetric, SymmetricInclusive, PairFlip, Asymmetric):
        for rate in (1.2, -0.1):
            with pytest.raises(UserError, match=rf"label_noise.rate={rate}"):
                kind(rate)


def digits(noise: LabelNoise | None, **options: int) -> ViewsDataModule:
    module = ViewsDataModule(Digits(), Augmentation(), label_noise=noise, **options)  # type: ignore[arg-type]
    module.setup()
    return module


def test_only_labels_that_are_trained_on_change() -> None:
    clean, module = digits(None), digits(Symmetric(0.4))
    assert module.splits and clean.splits
    train, was = module.splits.train.targets, clean.splits.train.targets
    index = module.train_index
    assert int((train[index] != was[index]).sum()) == round(0.4 * len(index))
    assert torch.equal(train[module.val_index], was[module.val_index])
    assert torch.equal(module.splits.test.targets, clean.splits.test.targets)
    assert module.data_hash == clean.data_hash
    record = module.noise_record
    assert record is not None and record["wrong"] == round(0.4 * len(index)) and record["of"] == len(index)
    assert record["actual_rate"] == record["wrong"] / record["of"]


def test_validation_labels_are_as_wrong_by_option_and_nothing_else_moves() -> None:
    clean, module = digits(Symmetric(0.4)), digits(Symmetric(0.4, validation="noisy"))
    assert module.splits and clean.splits and module.noise_record and clean.noise_record
    now, was, held = module.splits.train.targets, clean.splits.train.targets, module.val_index
    expected = round(0.4 * len(held))
    assert int((now != was).sum()) == int((now[held] != was[held]).sum()) == expected
    assert torch.equal(module.splits.test.targets, clean.splits.test.targets)
    told = module.noise_record.pop("validation")
    assert module.noise_record == clean.noise_record
    assert (told["wrong"], told["of"]) == (expected, len(held)) and len(told["hash"]) == 64


@pytest.mark.parametrize("kind", [Symmetric, SymmetricInclusive, PairFlip])
def test_validation_s_noise_is_independent_of_that_of_training(kind: type[LabelNoise]) -> None:
    """For the very same samples: which are chosen, and what they become."""
    true, index, noise = torch.zeros(N, dtype=torch.int64), torch.arange(N), kind(0.4)
    one, other = noise(true, index, TEN), noise.of_validation(true, index, TEN, own=True)
    both, share = (one != 0) & (other != 0), float((one != 0).double().mean())
    assert float(both.double().mean()) == pytest.approx(share**2, abs=0.02)
    alike = float((one[both] == other[both]).double().mean())
    assert alike == (1 if kind is PairFlip else pytest.approx(1 / 9, abs=0.035))
    assert torch.equal(other, noise.of_validation(true, index, TEN, own=False))


class WithValidation:
    """Digits with a validation part of its own."""

    def __call__(self) -> Splits:
        splits = Digits()()
        return replace(splits, val=ImageSet(splits.test.images[:50], splits.test.targets[:50]))


def test_the_set_s_own_validation_part_is_meant_where_there_is_one() -> None:
    module = ViewsDataModule(WithValidation(), Augmentation(), label_noise=PairFlip(0.5, validation="noisy"))
    module.setup()
    assert module.splits and module.splits.val and module.noise_record
    true = module.splits.test.targets
    assert int((module.splits.val.targets != true[:50]).sum()) == module.noise_record["validation"]["wrong"] == 25
    assert module.noise_record["of"] == len(module.splits.train.targets)


def test_a_run_s_validation_goes_by_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = [*NOISE, "label_noise.rate=1", "data.val_fraction=0.1", "epochs=1"]
    clean = tiny_run(tmp_path / "clean", *noise)
    told = tiny_run(tmp_path / "noisy", *noise, "label_noise.validation=noisy")
    assert "144 of 144 validation labels are wrong" in capsys.readouterr().err
    assert told["metrics"]["val/loss"] != clean["metrics"]["val/loss"]
    assert told["metrics"]["test/loss"] == clean["metrics"]["test/loss"]
    (comparison,) = compare(find_runs([tmp_path / "noisy"]), None)
    (warning,) = [text for text in warnings(comparison) if "validation labels" in text]
    assert warning.startswith("Label noise is in the validation labels, too")
    (comparison,) = compare(find_runs([tmp_path / "clean"]), None)
    assert not [text for text in warnings(comparison) if "validation labels" in text]


def test_the_run_s_seed_does_not_move_it_and_its_hash_tells_noises_apart() -> None:
    hashes = [
        digits(noise, seed=seed).noise_record["hash"]  # type: ignore[index]
        for noise, seed in ((Symmetric(0.4), 0), (Symmetric(0.4), 5), (Symmetric(0.4, seed=1), 0), (PairFlip(0.4), 0))
    ]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


@pytest.mark.parametrize(("source", "name"), [(Cifar10, "cifar10"), (Cifar100, "cifar100")])
def test_cifar_s_classes_are_known_by_number(tmp_path: Path, source: type, name: str) -> None:
    write_cifar(tmp_path, name, n_per_file=200)  # its classes are called "class 0", ...
    module = ViewsDataModule(source(tmp_path), Augmentation(), label_noise=Asymmetric(1.0))
    module.setup()
    assert module.splits and module.noise_record and module.noise_record["wrong"] > 50
    names = CIFAR10 if name == "cifar10" else CIFAR100
    true, labels = (t[module.train_index].tolist() for t in (module.batches.true_targets, module.splits.train.targets))
    pairs = {(names[a], names[b]) for a, b in zip(true, labels, strict=True) if a != b}
    assert ("dog", "cat") in pairs if name == "cifar10" else ("beaver", "dolphin") in pairs


NOISE = ["label_noise=symmetric", "label_noise.rate=0.4", "data.max_train=65", "trainer.precision=64-true"]
CASES = {"none": [], "gvr_split": ["regularizer=gvr_split"], "two_view": ["regularizer=two_view", "task.accumulate=2"]}
LOGGED = ("train/acc_clean", "train/acc_noisy", "train/acc_noisy_true")


def test_accuracy_on_the_clean_and_on_the_noisy_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gvr_lightning.tasks.classification import ClassificationTask

    counts = torch.zeros(5, dtype=torch.int64)  # clean, right on them; noisy, as labelled, truly
    measure = ClassificationTask.measure

    def counting(task: ClassificationTask, batch: object, loss: object) -> dict[str, Tensor]:
        true, target, said = batch.true, batch.target, loss.logits[0].argmax(1)  # type: ignore[attr-defined]
        for t, y, p in zip(true.tolist(), target.tolist(), said.tolist(), strict=True):
            counts[:2] += torch.tensor([y == t, y == t == p])
            counts[2:] += torch.tensor([y != t, y != t and p == y, y != t and p == t])
        return measure(task, batch, loss)  # type: ignore[arg-type]

    monkeypatch.setattr(ClassificationTask, "measure", counting)
    tiny_run(tmp_path / "run", *NOISE, "epochs=1", "lr=0.1")
    clean, right, wrong, learnt, truly = counts.tolist()
    assert (clean, wrong) == (39, 26)
    row = next(row for row in rows(tmp_path / "run") if row["train/loss"])
    expected = (right / clean, learnt / wrong, truly / wrong)
    assert [float(row[name]) for name in LOGGED] == pytest.approx(expected, abs=1e-6)


def test_the_wrong_labels_are_memorised_in_the_end(tmp_path: Path) -> None:
    long = ["epochs=150", "optimizer=adam", "lr=0.03", "batch_size=65", "data.augmentation.padding=0"]
    tiny_run(tmp_path / "run", *NOISE, *long)
    last = [row for row in rows(tmp_path / "run") if row["train/loss"]][-1]
    assert float(last["train/acc_noisy"]) > 0.9 and float(last["train/acc_noisy_true"]) < 0.1


@pytest.mark.parametrize("case", CASES)
def test_two_processes_see_the_same_noise(two: Pool, tmp_path: Path, case: str) -> None:
    overrides = [*NOISE, *CASES[case]]
    one = tiny_run(tmp_path / "one", *overrides)
    two(in_process, tmp_path / "many", [*overrides, "trainer.devices=2"])
    many = json.loads((tmp_path / "many" / "summary.json").read_text())
    assert many["label_noise"] == one["label_noise"] and one["label_noise"]["wrong"] == 26
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "many"), strict=True):
        for name in LOGGED:
            assert float(a[name] or 0) == pytest.approx(float(b[name] or 0), abs=1e-6)


def test_a_resumed_run_sees_the_same_noise_and_refuses_another(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first = tiny_run(whole, *NOISE, "epochs=4", "scheduler=constant")
    tiny_run(parts, *NOISE, "epochs=2", "scheduler=constant")
    second = tiny_run(parts, *NOISE, "epochs=4", "scheduler=constant", f"resume={parts}")
    assert second["label_noise"] == first["label_noise"]
    assert [row["train/acc_noisy"] for row in rows(parts) if row["train/loss"]] == [
        row["train/acc_noisy"] for row in rows(whole) if row["train/loss"]
    ]
    with pytest.raises(UserError, match=r"cannot change: label_noise\.seed"):
        tiny_run(parts, *NOISE, "label_noise.seed=1", "epochs=5", f"resume={parts}")
