"""mixup and CutMix: pairs, weights, pixels and labels, by hand; alike whatever processes there are."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from runs import stop_after, tiny_run, weights
from scipy.stats import beta as beta_distribution
from scipy.stats import chisquare
from test_task import data, task
from test_transforms import Waits
from torch import Tensor

from gvr_lightning import GradientVariance, Penalty
from gvr_lightning.app.build import build_data
from gvr_lightning.config.check import check
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.data import batch_maker
from gvr_lightning.data.mixing import GAMMA_DRAWS, Mixing, beta, log_gamma
from gvr_lightning.data.transforms.recipe import recipe
from gvr_lightning.errors import Interrupted, UserError
from gvr_lightning.methods.penalty import NoPenalty
from gvr_lightning.random import hash_key, uniform

H, W, N = 8, 11, 40

CPU = torch.device("cpu")


class OneLabel(Penalty):
    """A penalty that needs labels."""

    hard_labels = True

    def penalty(self, model: Any, views: Any) -> Tensor:
        return torch.zeros(())


@pytest.mark.parametrize("alpha", [0.4, 1.0, 2.0, 8.0])
def test_weights_are_of_a_beta_distribution(alpha: float) -> None:
    found = beta(uniform(6, torch.arange(40_000), 2 * GAMMA_DRAWS), alpha).double().numpy()
    counts = np.histogram(beta_distribution.cdf(found, alpha, alpha), 20, (0, 1))[0]
    assert chisquare(counts).pvalue > 1e-3


def test_weights_of_a_small_alpha_are_one_or_the_other_and_none_is_lost() -> None:
    u = uniform(6, torch.arange(20_000), 2 * GAMMA_DRAWS)
    found = beta(u, 0.01)
    assert found.isfinite().all() and ((found < 1e-6) | (found > 1 - 1e-6)).float().mean() > 0.85
    assert found.mean() == pytest.approx(0.5, abs=0.02)
    assert log_gamma(torch.zeros(GAMMA_DRAWS, 1).double(), 0.2).isfinite().all()


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.7, 0.0), (0.0, 1.0), (0.5, 2.0)])
def test_pairs_are_mixed_as_by_hand(mixup: float, cutmix: float) -> None:
    """Pixel by pixel, from the draws: torchvision's box, and as weight what is left of the area."""
    index, key = torch.arange(N) * 3 + 1, 9
    mixing = Mixing(mixup, cutmix, prob=0.7)
    pairs = mixing.pairs(key, index, torch.arange(N), (H, W), CPU)
    x, labels = torch.randn(N, 2, H, W), torch.arange(N) % 5
    assert sorted(pairs.partner.tolist()) == list(range(N))
    images, soft = pairs.images(x, x[pairs.partner]), pairs.labels(labels, labels[pairs.partner], 5)
    u = uniform(key, index, 5 + 2 * GAMMA_DRAWS)[1:]
    kinds = set()
    for i, p in enumerate(pairs.partner.tolist()):
        mixed, cuts = u[0, i] < 0.7, u[1, i] < (0.5 if mixup and cutmix else 1.0 if cutmix else 0.0)
        weight = beta(u[4:, i : i + 1], cutmix if cuts else mixup).item() if mixed else 1.0
        expected = x[i] * weight + x[p] * (1 - weight)
        if mixed and cuts:
            y, z = (int(u[2, i] * H), int(u[3, i] * W))
            r = 0.5 * (1 - weight) ** 0.5
            top, bottom = max(y - int(r * H), 0), min(y + int(r * H), H)
            left, right = max(z - int(r * W), 0), min(z + int(r * W), W)
            expected = x[i].clone()
            expected[:, top:bottom, left:right] = x[p][:, top:bottom, left:right]
            weight = 1 - (bottom - top) * (right - left) / (H * W)
        kinds.add((bool(mixed), bool(mixed and cuts)))
        torch.testing.assert_close(images[i], expected)
        shares = weight * F.one_hot(labels[i], 5) + (1 - weight) * F.one_hot(labels[p], 5)
        torch.testing.assert_close(soft[i], shares)
        assert pairs.heavier(labels, labels[pairs.partner])[i] == labels[i if weight >= 0.5 else p]
    assert kinds == {(False, False)} | ({(True, False)} if mixup else set()) | ({(True, True)} if cutmix else set())


def test_pairs_are_drawn_for_each_sample_and_a_device_is_not_waited_for() -> None:
    index = torch.arange(N) * 3 + 1
    whole = Mixing(1.0, 1.0).pairs(4, index, torch.arange(N), (H, W), CPU)
    here = torch.tensor([5, 6, 30])
    with Waits():
        some = Mixing(1.0, 1.0).pairs(4, index, here, (H, W), CPU)
        some.labels(here, here, 40)
    assert all(torch.equal(a, b[here]) for a, b in zip(some, whole, strict=True))
    other = Mixing(1.0, 1.0).pairs(5, index, torch.arange(N), (H, W), CPU)
    assert not torch.equal(other.partner, whole.partner) and not torch.equal(other.weight, whole.weight)


def batches(processes: int, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[Any]:
    """Each process's part of one global batch of 21 in 2 micro-batches, with label noise."""
    source = data(48, views=2)
    maker = source.batches
    maker.mixing, maker.augmentation = Mixing(**settings), recipe(padding=1, policy="trivial")
    maker.true_targets = (maker.train.targets + 1) % 4
    parts = []
    for rank in range(processes):
        with monkeypatch.context() as patch:
            patch.setattr(batch_maker, "rank_and_size", lambda rank=rank: (rank, processes))
            parts.append(source.batches.training(torch.arange(21) * 2, 3, 2))
    return parts


@pytest.mark.parametrize("independent", [False, True])
def test_several_processes_have_the_pixels_and_labels_of_one(
    independent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"mixup": 0.5, "cutmix": 1.0, "independent": independent}
    (one,) = batches(1, monkeypatch, **settings)
    rows = {int(s): i for i, s in enumerate(one.samples)}
    for processes in (2, 4):
        parts = batches(processes, monkeypatch, **settings)
        assert sorted(int(s) for part in parts for s in part.samples) == sorted(rows)
        for part in parts:
            at = [rows[int(s)] for s in part.samples]
            for v in range(2):
                assert torch.equal(part.views[v], one.views[v][at])
                for name in ("target", "true"):
                    theirs, ours = (getattr(b, name)[v] if independent else getattr(b, name) for b in (part, one))
                    assert torch.equal(theirs, ours[at])
            halves = part.divided()
            assert [len(half.samples) for half in halves] == [shard.row_count.rows for shard in part.shards]
            first = halves[0].target[0] if independent else halves[0].target
            assert torch.equal(first, (part.target[0] if independent else part.target)[: len(first)])


def test_views_share_partner_and_weight_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    (shared,) = batches(1, monkeypatch, mixup=1.0)
    assert isinstance(shared.target, Tensor) and shared.target.sum(1) == pytest.approx(1.0)
    key = hash_key(batch_maker.MIX, 0, 3, 0)
    pairs = Mixing(1.0).pairs(key, torch.arange(21) * 2, torch.arange(21), (8, 8), CPU)
    (plain,) = batches(1, monkeypatch, prob=0.0)
    for view, own in zip(shared.views, plain.views, strict=True):
        torch.testing.assert_close(view, pairs.images(own, own[pairs.partner]))
    (apart,) = batches(1, monkeypatch, mixup=1.0, independent=True)
    assert torch.equal(apart.target[0], shared.target) and not torch.equal(apart.target[1], shared.target)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("penalty", [{}, {"per_sample": True}, {"layers": "last_stage"}], ids=str)
def test_soft_labels_reach_loss_and_penalty(penalty: dict[str, Any], smoothing: float) -> None:
    """Cross-entropy is linear in the label, so it is that of shares of hard labels; in gradients of gradients too."""
    module = task(label_smoothing=smoothing).double()
    x = [torch.randn(6, 1, 8, 8, dtype=torch.float64) for _ in range(2)]
    y, z, share = torch.arange(6) % 4, (torch.arange(6) * 2 + 1) % 4, torch.linspace(0, 1, 6)
    soft = share.unsqueeze(1) * F.one_hot(y, 4) + (1 - share).unsqueeze(1) * F.one_hot(z, 4)

    def both(logits: Tensor, rows: Tensor) -> Tensor:
        each = [F.cross_entropy(logits, labels[rows], label_smoothing=smoothing, reduction="none") for labels in (y, z)]
        return (share[rows] * each[0] + (1 - share[rows]) * each[1]).mean()

    ours = GradientVariance(0.1, **penalty)(module.model, module.criterion, x, soft)
    theirs = GradientVariance(0.1, **penalty)(module.model, both, x, torch.arange(6))
    assert ours.total.item() == pytest.approx(theirs.total.item(), rel=1e-6) and ours.penalty > 0


def test_accuracy_is_against_the_label_with_the_larger_share() -> None:
    module, logits = task(), torch.eye(4)
    soft = torch.tensor([[0.6, 0.4, 0, 0], [0.7, 0.3, 0, 0], [0, 0, 1.0, 0], [0, 0.1, 0, 0.9]])
    batch = SimpleNamespace(views=[0], true=torch.tensor([0, 1, 2, 3]))
    loss = NoPenalty()(torch.nn.Identity(), module.criterion, [logits], soft)
    found = module.measure(batch, loss)  # type: ignore[arg-type]
    assert found["acc"] == 0.75 and found["clean"] == 0.75 and found["right_noisy_true"] == 0.25
    assert module.measure(SimpleNamespace(views=[0], true=[batch.true]), loss) == found  # type: ignore[arg-type]


def test_a_penalty_that_needs_one_label_a_sample_is_refused() -> None:
    line = ["mix=cutmix", "regularizer.penalty._target_=test_mixing.OneLabel"]
    with pytest.raises(UserError, match=r"^mix: OneLabel needs one label a sample; leave mix out$"):
        check(line)
    check(line[1:])


def test_the_keys_arrive() -> None:
    def made(*line: str) -> Any:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            source = build_data(compose("config", [*line, "name=x"]))
        source.setup()
        return source.batches.mixing

    assert made() is None
    keys = {"mixup": 0.3, "cutmix": 0.7, "prob": 0.6, "independent": True}
    assert vars(made("mix=mixup", *(f"mix.{key}={value}" for key, value in keys.items()))) == keys


def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["mix=both", "mix.mixup=0.4", "mix.independent=true", "regularizer=gvr", "augmentation=trivial"]
    line += ["alpha=0.1", "label_noise=symmetric"]
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 3, signal.SIGINT)
        tiny_run(tmp_path, *line)
    tiny_run(tmp_path, *line, f"resume={tmp_path}")
    ours, theirs = weights(tmp_path), weights(finished(*line))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    metrics = [json.loads((run / "summary.json").read_text())["metrics"] for run in (tmp_path, finished(*line))]
    assert all(row.pop("train/seconds") and "train/acc_noisy" in row for row in metrics) and metrics[0] == metrics[1]
