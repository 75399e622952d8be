"""What FID and IS keep in the cache folder, and that another thing under the same name is never taken for it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numbered import Numbered
from runs import TINY_DDPM
from torch import Tensor, nn

from gvr_lightning.data.augmentation import Augmentation
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.image_set import ImageSet, Splits, content_hash
from gvr_lightning.errors import UserError
from gvr_lightning.metrics import classifier as classifier_module
from gvr_lightning.metrics.auto import auto
from gvr_lightning.metrics.classifier import classifier
from gvr_lightning.metrics.extractor import Extractor
from gvr_lightning.metrics.reference import Statistics
from gvr_lightning.metrics.scoring import Scoring
from gvr_lightning.models.small_cnn import small_cnn
from gvr_lightning.random import hash_key, permutation

CPU = torch.device("cpu")
UPDATES = 5


def module(
    splits: Splits | None = None, channels: int = 1, height: int = 8, width: int = 8, **options: Any
) -> ViewsDataModule:
    """Of 90 training images and 40 of test."""
    given = splits or Numbered(channels=channels, height=height, width=width)()
    data = ViewsDataModule(lambda: given, Augmentation(0, False, 0), mean=[0.5], std=[0.5], **options)
    data.setup()
    return data


def changed(part: str, images: bool = False, targets: bool = False) -> Splits:
    """The numbered images with those of a part negative, or its labels others."""
    splits = Numbered()()
    its: ImageSet = getattr(splits, part)
    other = ImageSet(255 - its.images if images else its.images, (its.targets + targets) % 4)
    train, test = (other, splits.test) if part == "train" else (splits.train, other)
    return replace(splits, train=train, test=test, hash=content_hash(train, test))


# --- statistics of the real images


class Levels(nn.Module):
    """Two features: the mean and the largest pixel."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.float().flatten(1) * self.scale
        found = torch.stack([pixels.mean(1), pixels.max(1).values], 1)
        return found, found


def reference(
    data: ViewsDataModule, folder: Path, scale: float = 1.0, resize: str = "none", name: str = "levels"
) -> Statistics:
    scoring = Scoring(Extractor(Levels(scale), name, 2, resize), data, 50, 10, False, "DDIM", str(folder))
    scoring.prepare(CPU)
    assert scoring.reference is not None
    return scoring.reference


def test_the_reference_is_all_training_images_whatever_a_run_trains_on(tmp_path: Path) -> None:
    found = reference(module(max_train=20), tmp_path)
    pixels = Numbered()().train.images.double().flatten(1)
    features = torch.stack([pixels.mean(1), pixels.max(1).values], 1).numpy()
    assert found.count == 90
    np.testing.assert_allclose(found.total, features.sum(0), rtol=1e-6)
    np.testing.assert_allclose(found.outer, features.T @ features, rtol=1e-6)
    assert found.variance() == pytest.approx(np.cov(features.T).trace(), rel=1e-6)


def test_statistics_are_kept_and_taken_from_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = reference(module(), tmp_path)
    (path,) = (tmp_path / "statistics").iterdir()
    assert str(path) in capsys.readouterr().err
    again = reference(module(max_train=20), tmp_path)
    assert torch.equal(first.outer, again.outer) and torch.equal(first.total, again.total) and again.count == 90
    assert capsys.readouterr().err == ""
    np.savez(path, total=np.array([1.0, 2.0]), outer=np.eye(2))
    assert reference(module(), tmp_path).total.tolist() == [1, 2]


def test_other_images_and_other_extractors_have_statistics_of_their_own(tmp_path: Path) -> None:
    """Also where the test images alone, or the labels, are others: the key is the whole data set's."""
    found = [
        reference(module(), tmp_path),
        reference(module(changed("train", images=True)), tmp_path),
        reference(module(changed("test", images=True)), tmp_path),
        reference(module(Numbered(seed=1)()), tmp_path),
        reference(module(Numbered(train=80)()), tmp_path),
        reference(module(), tmp_path, scale=2.0),
        reference(module(), tmp_path, resize="8x8"),
        reference(module(), tmp_path, name="others"),
    ]
    assert len(list((tmp_path / "statistics").iterdir())) == len(found)
    assert torch.equal(found[0].total, found[2].total) and torch.equal(found[0].total, found[6].total)
    assert not any(torch.equal(found[0].total, found[i].total) for i in (1, 3, 4, 5))
    assert torch.equal(2 * found[0].total, found[5].total)


def test_the_extractor_goes_to_the_run_s_device_and_looks_at_the_real_images_once(tmp_path: Path) -> None:
    extractor = Extractor(Levels(), "levels", 2, "none")
    scoring = Scoring(extractor, module(), 50, 10, False, "DDIM", str(tmp_path))
    scoring.prepare(CPU)
    found = scoring.reference
    scoring.prepare(torch.device("meta"))
    assert scoring.reference is found and extractor.device.type == extractor.network.scale.device.type == "meta"


def test_a_folder_that_is_not_named_is_in_the_user_s_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    scoring = Scoring(classifier(module()), module(), 70, 10, False, "DDIM")
    scoring.prepare(CPU)
    for folder in ("extractors", "statistics"):
        assert len(list((tmp_path / "gvr_lightning" / folder).iterdir())) == 1


# --- the classifier


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of a few updates."""
    monkeypatch.setattr(classifier_module, "UPDATES", UPDATES)


def kept(folder: Path) -> list[dict[str, Tensor]]:
    """The weights of every entry."""
    return [torch.load(path, weights_only=True)["weights"] for path in sorted((folder / "extractors").iterdir())]


@pytest.mark.usefixtures("quick")
def test_the_classifier_is_of_the_training_images_and_their_labels_alone(tmp_path: Path) -> None:
    """All official ones; the test images make another entry of the same weights."""
    first = classifier(module(), cache_dir=str(tmp_path)).hash
    alike = [module(changed("test", images=True)), module(changed("test", targets=True))]
    others = [module(changed("train", images=True)), module(changed("train", targets=True))]
    assert {classifier(data, cache_dir=str(tmp_path)).hash for data in alike} == {first}
    assert len({first} | {classifier(data, cache_dir=str(tmp_path)).hash for data in others}) == 3
    assert len(kept(tmp_path)) == 5
    for part in (module(max_train=20), module(val_fraction=0.5), module(seed=3)):
        assert classifier(part, cache_dir=str(tmp_path)).hash == first
    assert classifier(module(max_train=20), cache_dir=str(tmp_path / "new")).hash == first


@pytest.mark.usefixtures("quick")
def test_a_classifier_that_is_there_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = classifier(module(changed("train", targets=True)), cache_dir=str(tmp_path / "other")).hash
    own = classifier(module(), cache_dir=str(tmp_path)).hash
    (source,), (path,) = ((folder / "extractors").iterdir() for folder in (tmp_path / "other", tmp_path))
    path.write_bytes(source.read_bytes())
    capsys.readouterr()
    assert classifier(module(), cache_dir=str(tmp_path)).hash == other != own
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("quick")
def test_the_classifier_normalises_by_the_moments_of_all_training_images(tmp_path: Path) -> None:
    data = module(channels=3, width=12, max_train=20)
    extractor = classifier(data, cache_dir=str(tmp_path))
    (weights,) = kept(tmp_path)
    network = small_cnn((3, 8, 12), 4, 16).eval()
    network.load_state_dict({n.removeprefix("network."): w for n, w in weights.items() if n.startswith("network.")})
    levels = data.train_images.double() / 255
    mean, std = levels.mean((0, 2, 3)), levels.std((0, 2, 3), correction=0)
    std[std == 0] = 1  # of a channel that is the same everywhere
    features, logits = extractor(data.test_images)
    with torch.no_grad():
        x = (data.test_images / 255 - mean.float().view(3, 1, 1)) / std.float().view(3, 1, 1)
        torch.testing.assert_close(features, network.backbone(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, network(x), rtol=1e-4, atol=1e-5)
    assert extractor.num_features == features.shape[1] == 64 and extractor.name == "classifier"
    assert extractor.resize == "none (8x12 in, as trained)"


@pytest.mark.usefixtures("quick")
def test_the_classifier_s_training_is_the_one_that_its_entries_names_stand_for(tmp_path: Path) -> None:
    """Written down once more: whoever changes it has to give the entries another version, or old ones are taken."""
    part = Numbered()().train
    torch.manual_seed(0)
    network = small_cnn((1, 8, 8), 4, 16)
    levels = part.images / 255
    moments = levels.mean().view(1), levels.std(correction=0).view(1)
    optimizer = torch.optim.SGD(network.parameters(), 0.03, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.03, total_steps=UPDATES, cycle_momentum=False)
    shift = Augmentation(1, False, 0)
    for update in range(UPDATES):
        epoch, within = divmod(update, 2)  # 64 and 26 images
        rows = permutation(hash_key(1, epoch), 90)[64 * within :][:64]
        (x,) = shift(part.images[rows], *moments, rows, [hash_key(2, epoch)])
        loss = F.cross_entropy(network(x), part.targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    classifier(module(), cache_dir=str(tmp_path))
    (weights,) = kept(tmp_path)
    for name, expected in network.state_dict().items():
        torch.testing.assert_close(weights[f"network.{name}"], expected, rtol=1e-5, atol=1e-7)


# --- of a checkpoint


def test_a_run_s_network_is_taken_with_the_moments_it_was_trained_with(
    finished: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished()
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    network = small_cnn((1, 8, 8), 10, 8, 4).eval()
    network.load_state_dict({n.removeprefix("model."): w for n, w in checkpoint["state_dict"].items()})
    mean, std = (float(checkpoint["ViewsDataModule"][name][0]) for name in ("mean", "std"))
    data = module()  # of other images, with other moments
    monkeypatch.setenv("HOME", str(folder))
    extractor = classifier(data, "~/checkpoints/last.ckpt")
    features, logits = extractor(data.test_images)
    with torch.no_grad():
        x = (data.test_images.float() / 255 - mean) / std
        torch.testing.assert_close(features, network.backbone(x))
        torch.testing.assert_close(logits, network(x))
    assert (extractor.name, extractor.num_features, features.shape) == ("classifier", 32, (40, 32))
    assert extractor.resize == "none (8x8 in, as trained)"


def test_a_checkpoint_that_does_not_fit_is_refused(finished: Callable[..., Path]) -> None:
    of_digits, of_images = (
        str(finished(*overrides) / "checkpoints" / "last.ckpt") for overrides in ((), (*TINY_DDPM, "extractor=none"))
    )
    with pytest.raises(UserError, match=r"last\.ckpt is for images 1x8x8, and the data's are 3x8x12 \(CxHxW\)"):
        classifier(module(channels=3, width=12), of_digits)
    with pytest.raises(UserError, match=r"last\.ckpt is of task=ddpm: it must be of task=classification"):
        classifier(module(), of_images)
    with pytest.raises(UserError, match="there is no checkpoint"):
        classifier(module(), "nowhere.ckpt")


# --- which extractor


@pytest.mark.parametrize(
    ("shape", "published"),
    [((3, 32, 32), True), ((3, 32, 40), True), ((3, 40, 31), False), ((3, 31, 40), False), ((1, 32, 32), False)],
)
@pytest.mark.usefixtures("quick")
def test_colour_images_of_32_pixels_and_more_are_for_inception(
    shape: tuple[int, int, int], published: bool, tmp_path: Path
) -> None:
    pytest.importorskip("torch_fidelity")
    path = tmp_path / "extractors" / "weights-inception-2015-12-05-6726825d.pth"
    path.parent.mkdir()
    path.write_bytes(b"no weights")
    data = module(channels=shape[0], height=shape[1], width=shape[2])
    if published:
        with pytest.raises(UserError, match=f"{path} is damaged"):
            auto(data, str(tmp_path))
    else:
        assert auto(data, str(tmp_path)).name == "classifier"
    assert len(list(path.parent.iterdir())) == 2 - published
