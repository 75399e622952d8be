"""AugMix: its mixture against torchvision's operations, its views, and its loss against torch's own divergences."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pool import Pool
from scipy.stats import chisquare, kstest
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence
from torchvision.transforms import v2

from gvr_lightning.data.transforms.augmix import AugMix, augmix_largest, mixing_weights, operation
from gvr_lightning.data.transforms.kinds import below
from gvr_lightning.data.transforms.policy import OPERATIONS, Policy
from gvr_lightning.data.transforms.recipe import recipe
from gvr_lightning.distributed.batch import balanced_shard as shard
from gvr_lightning.methods.jensen_shannon import JensenShannon, jensen_shannon
from gvr_lightning.random import hash_key, uniform

H, W, N = 18, 27, 24
THEIRS: Any = v2.AugMix(all_ops=False, interpolation=v2.InterpolationMode.NEAREST)
SPACE = THEIRS._PARTIAL_AUGMENTATION_SPACE
NUMBERS = operation(torch.arange(9.0)).long().tolist()


def pictures(n: int = N) -> Tensor:
    g = torch.Generator().manual_seed(2)
    slope = torch.linspace(20, 200, W) * torch.rand(n, 3, 1, 1, generator=g)
    return (slope + 60 * torch.rand(n, 3, H, W, generator=g)).to(torch.uint8)


def operated(image: Tensor, name: str, level: int, sign: float) -> Tensor:
    """By torchvision, as its AugMix does."""
    table, signed = SPACE[name]
    magnitudes = table(10, H, W)
    m = 0.0 if magnitudes is None else float(magnitudes[level])
    changed: Tensor = THEIRS._apply_image_or_video_transform(
        image, name, m * sign if signed else m, THEIRS.interpolation, THEIRS._fill
    )
    return changed


def test_its_operations_are_torchvision_s_at_every_magnitude() -> None:
    assert {OPERATIONS[i] for i in NUMBERS} == set(SPACE) and len(set(NUMBERS)) == 9
    policy, x = Policy(augmix_largest, bins=9, bits=4), pictures(3)
    for number, level, sign in itertools.product(NUMBERS, (0, 1, 2, 9), (1.0, -1.0)):
        given = (torch.full((3,), float(value)) for value in (number, level, sign))
        expected = torch.stack([operated(image, OPERATIONS[number], level, sign) for image in x])
        apart = (policy.operated(x, *given) != expected).float().mean()
        assert apart <= (0.02 if OPERATIONS[number].startswith("Shear") else 0), (OPERATIONS[number], level, sign)


@pytest.mark.parametrize("severity", [1, 3, 10])
def test_an_image_is_mixed_with_three_chains_of_its_own(severity: int) -> None:
    x, augmix = pictures(), AugMix(severity)
    u = uniform(5, torch.arange(N), augmix.draws)
    found, (own, of_chains), names = augmix(x, u), mixing_weights(u[:4]), set[str]()
    for i, image in enumerate(x):
        mix, used = own[i].double() * image, set[str]()
        for chain in range(3):
            depth, made = 1 + int(below(u[4 + chain, i], 3)), image
            for step in range(depth):
                what, level, sign = u[7:].view(3, 3, 3, N)[step, :, chain, i]
                name = OPERATIONS[NUMBERS[int(below(what, 9))]]
                made = operated(made, name, int(below(level, severity)), 1.0 if sign < 0.5 else -1.0)
                used.add(name)
            mix += of_chains[chain, i].double() * made
        apart = (found[i].int() - mix.to(torch.uint8).int()).abs()
        # a sheared pixel's source may lie half-way between two, and change what another operation makes of all levels
        assert (apart > 2).float().mean() < 0.03 if "Shear" in str(used) else apart.max() == 0, i
        names |= used
    assert len(names) == 9 and not torch.equal(found, x)


def test_weights_are_uniform_on_what_adds_up_to_one() -> None:
    """Beta(1, 1) is uniform, and so is Dirichlet(1, 1, 1), whose parts are each Beta(1, 2)."""
    own, of_chains = mixing_weights(uniform(3, torch.arange(4000), 4))
    assert torch.equal(own + of_chains.sum(0), torch.ones(4000)) and (of_chains >= 0).all()
    assert torch.equal(of_chains * 2**14, (of_chains * 2**14).round())
    inside = own < 0.9
    for part in of_chains / (1 - own):
        assert kstest(part[inside].numpy(), "beta", (1, 2)).pvalue > 1e-3
    assert kstest(own.numpy(), "uniform").pvalue > 1e-3
    depths = below(uniform(4, torch.arange(3000), 1)[0], 3).long().bincount()
    assert chisquare(depths.numpy()).pvalue > 1e-3


def test_the_first_view_is_the_clean_one_and_all_have_its_crop() -> None:
    x, index, keys = pictures(), torch.arange(N), [hash_key(1, view) for view in range(3)]
    mean, std = torch.full((3,), 0.4), torch.full((3,), 0.2)
    settings = {"padding": 2, "flip": True, "crop_scale": (0.3, 0.9)}
    strong = {"policy": "augmix", "cutout": 5, "cutout_prob": 1.0, "erase_prob": 1.0}
    plain = recipe(**settings)(x, mean, std, index, keys)  # type: ignore[arg-type]
    weak = recipe(**settings, **strong, weak_first=True)(x, mean, std, index, keys)  # type: ignore[arg-type]
    apart = recipe(**settings, **strong)(x, mean, std, index, keys)  # type: ignore[arg-type]
    assert torch.equal(weak[0], plain[0]) and not torch.equal(apart[0], plain[0])
    assert all(torch.equal(a, b) for a, b in zip(weak[1:], apart[1:], strict=True)), "the others are as without"
    same = recipe(**settings, same_crop=True)(x, mean, std, index, keys)  # type: ignore[arg-type]
    assert all(torch.equal(view, plain[0]) for view in same) and not torch.equal(plain[1], plain[0])
    alone = recipe(**settings, **strong, weak_first=True)(x, mean, std, index, keys[1:2])  # type: ignore[arg-type]
    assert torch.equal(alone[0], apart[1]), "a single view is no weak one"
    severe = recipe(**settings, **strong, policy_severity=10)(x, mean, std, index, keys)  # type: ignore[arg-type]
    assert not torch.equal(severe[1], apart[1])


# --- the loss --------------------------------------------------------------------------------------------------------


def logits(views: int, rows: int = 7, classes: int = 5, scale: float = 2.0) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [scale * torch.randn(rows, classes, dtype=torch.float64, generator=g) for _ in range(views)]


@pytest.mark.parametrize("views", [2, 3, 4])
def test_the_divergence_and_its_gradient_are_the_closed_forms(views: int) -> None:
    """The derivative by z_v is p_v (log(p_v / m) - KL(p_v || m)) / V: m's own drops out."""
    z = [one.requires_grad_() for one in logits(views)]
    p = [one.softmax(1) for one in z]
    mean = torch.stack(p).mean(0)
    kl = [kl_divergence(Categorical(one), Categorical(mean)) for one in p]
    value = jensen_shannon(z)
    assert value.item() == pytest.approx(torch.stack(kl).mean().item(), rel=1e-10) and value > 0.1
    found = torch.autograd.grad(value, z)
    for one, divergence, gradient in zip(p, kl, found, strict=True):
        expected = one * ((one / mean).log() - divergence.unsqueeze(1)) / views / len(one)
        torch.testing.assert_close(gradient, expected.detach(), rtol=1e-10, atol=1e-14)


def test_equal_views_extreme_logits_and_half_precision() -> None:
    z = logits(1)[0]
    assert jensen_shannon([z, z + 3.0, z]).item() == pytest.approx(0, abs=1e-15)
    far = [torch.tensor([[1e4, 0.0]], requires_grad=True), torch.tensor([[0.0, 1e4]], requires_grad=True)]
    value = jensen_shannon(far)
    assert value.item() == pytest.approx(torch.tensor(2.0).log().item())  # its largest, of two views
    assert all(g.isfinite().all() for g in torch.autograd.grad(value, far))
    low = [one.bfloat16() for one in logits(3)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = jensen_shannon(low)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(jensen_shannon([one.double() for one in low]).item(), rel=1e-5)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()


def batch(rows: int) -> tuple[list[Tensor], Tensor]:
    g = torch.Generator().manual_seed(1)
    x = [torch.randn(rows, 6, dtype=torch.float64, generator=g) for _ in range(3)]
    return x, torch.randint(0, 4, (rows,), generator=g)


def test_the_loss_is_the_first_view_s_and_the_published_divergence() -> None:
    model, (x, y) = network(), batch(8)
    loss = JensenShannon(alpha=12)(model, F.cross_entropy, x, y)
    p = [model(view).softmax(1) for view in x]
    mixture = torch.clamp(sum(p) / 3, 1e-7, 1).log()  # type: ignore[arg-type]
    divergence = torch.stack([F.kl_div(mixture, one, reduction="batchmean") for one in p]).mean()
    expected = F.cross_entropy(model(x[0]), y) + 12 * divergence
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-12)
    assert len(loss.losses) == len(loss.logits) == 1 and loss.penalty.item() == pytest.approx(divergence.item())
    ours, theirs = (torch.autograd.grad(value, list(model.parameters())) for value in (loss.total, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    with pytest.raises(ValueError, match="two or more"):
        JensenShannon()(model, F.cross_entropy, x[:1], y)


def in_parts(rows: int) -> tuple[float, list[Tensor]]:
    """The mean over the processes of total and gradients."""
    model, (x, y) = network(), batch(rows)
    here = shard(rows, torch.distributed.get_rank(), torch.distributed.get_world_size())
    mine = slice(here.start, here.stop)
    loss = JensenShannon(alpha=2.0)(model, F.cross_entropy, [v[mine] for v in x], y[mine], shard=here)
    loss.total.backward()
    total, grads = loss.total.detach().clone(), [p.grad for p in model.parameters() if p.grad is not None]
    for tensor in (total, *grads):
        torch.distributed.all_reduce(tensor)
        tensor.div_(2)
    return total.item(), grads


@pytest.mark.parametrize("rows", [8, 7, 1])
def test_two_processes_compute_what_one_does(two: Pool, rows: int) -> None:
    model, (x, y) = network(), batch(rows)
    loss = JensenShannon(alpha=2.0)(model, F.cross_entropy, x, y)
    loss.total.backward()
    for total, grads in two(in_parts, rows):
        assert total == pytest.approx(loss.total.item(), rel=1e-12)
        for ours, p in zip(grads, model.parameters(), strict=True):
            torch.testing.assert_close(ours, p.grad, rtol=1e-10, atol=1e-14)
