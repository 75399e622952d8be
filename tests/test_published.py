"""gvr_published against a plain loop that does what the published code does, over 20 steps with BatchNorm."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvr_lightning.methods.gvr.penalty import PublishedGradientVariance
from gvr_lightning.models.resnet import resnet
from gvr_lightning.models.split import SplitNetwork

ALPHA, SUBSET, STEPS = 0.5, 4, 20


def network() -> SplitNetwork:
    torch.manual_seed(0)
    return resnet((3, 8, 8), 5, [4, 6, 8], 1).double()


def batches() -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    draw = lambda: torch.randn(10, 3, 8, 8, dtype=torch.float64, generator=g)  # noqa: E731
    return [
        (draw(), draw(), torch.randint(0, 5, (10,), generator=g), torch.rand(2, 10, generator=g)) for _ in range(STEPS)
    ]


def plain_loop(model: nn.Module) -> list[float]:
    """Momentum 0 in four forward passes, then an accuracy pass in training mode that moves the statistics."""
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    target_layers = [p for n, p in model.named_parameters() if n.startswith(("backbone.last_stage", "head"))]
    history = []
    for x1, x2, y, keys in batches():
        sgd.zero_grad()
        for norm in norms:
            norm.momentum = 0.0
        chosen = sorted(range(len(y)), key=lambda i, k=keys: float(k[0, i]))[:SUBSET]
        g1 = torch.autograd.grad(F.cross_entropy(model(x1[chosen]), y[chosen]), target_layers, create_graph=True)
        g2 = torch.autograd.grad(F.cross_entropy(model(x2[chosen]), y[chosen]), target_layers, create_graph=True)
        penalty = sum(((a - b) ** 2).sum() for a, b in zip(g1, g2, strict=True))
        loss = F.cross_entropy(model(x1), y) + F.cross_entropy(model(x2), y) + ALPHA * penalty
        loss.backward()
        for norm in norms:
            norm.momentum = 0.1
        sgd.step()
        with torch.no_grad():
            model(x1)
        history.append(loss.item())
    return history


def with_ours(model: nn.Module) -> list[float]:
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    gvr = PublishedGradientVariance(ALPHA, SUBSET)
    history = []
    for x1, x2, y, keys in batches():
        sgd.zero_grad()
        loss = gvr(model, F.cross_entropy, (x1, x2), y, keys)
        loss.total.backward()
        sgd.step()
        gvr.after_step(model, (x1, x2))
        history.append(loss.total.item())
    return history


def test_published_behaviour_over_twenty_steps() -> None:
    theirs, ours = network(), network()
    assert with_ours(ours) == pytest.approx(plain_loop(theirs), rel=1e-10)
    statistics = 0
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        if "num_batches_tracked" not in name:  # a counter that nothing reads: theirs also counts the frozen passes
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)
            statistics += name.endswith("running_var") and not torch.equal(a, torch.ones_like(a))
    assert statistics > 5  # they have moved
