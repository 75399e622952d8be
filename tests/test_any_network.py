"""GVR in one line on networks of others: the last layer is found, and the closed form is double backward's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from gvr_lightning import AGR, GradientVariance, agr_, gradient_variance
from gvr_lightning.methods.last_layer import candidates

B, C = 6, 5


@dataclass
class Output:
    """As Hugging Face's."""

    logits: Tensor
    hidden_states: Any = None


class OfItsOwn(nn.Module):
    """Its last layer has no usual name, and is not the last that it registers."""

    def __init__(self, gives: Callable[[Tensor], Any] = lambda z: z) -> None:
        super().__init__()
        self.gives = gives
        self.out = nn.Linear(8, C)
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.Tanh())

    def forward(self, x: Tensor) -> Any:
        return self.gives(self.out(self.stem(x)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "torchvision resnet18": lambda: torchvision.models.resnet18(num_classes=C),
    "torchvision mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=C, dropout=0.2),
    "timm vit": lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2, num_classes=C
    ),
    "timm convnext": lambda: timm.create_model(
        "convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=C
    ),
    "an object with .logits": lambda: OfItsOwn(Output),
    "a dictionary with logits": lambda: OfItsOwn(lambda z: {"hidden": z.tanh(), "logits": z}),
    "its own": OfItsOwn,
}


def made(name: str) -> tuple[nn.Module, list[Tensor], Tensor]:
    torch.manual_seed(0)
    model = NETWORKS[name]().double()
    views = [torch.randn(B, 3, 32, 32, dtype=torch.float64) for _ in range(2)]
    return model, views, torch.randint(0, C, (B,))


def expected(model: nn.Module, views: list[Tensor], target: Tensor) -> tuple[Tensor, list[Tensor]]:
    """By double backward through the last layer, and its gradients."""
    torch.manual_seed(1)  # dropout
    outputs = [model(x) for x in views]
    logits = [o if isinstance(o, Tensor) else o["logits"] if isinstance(o, dict) else o.logits for o in outputs]
    losses = [F.cross_entropy(z, target) for z in logits]
    head = [p for name, p in model.named_parameters() if p.shape in ((C,), (C, p.shape[-1]))]
    assert [p.ndim for p in head] == [2, 1]
    return with_gradients(gradient_variance(losses, head), model)


def with_gradients(value: Tensor, model: nn.Module) -> tuple[Tensor, list[Tensor]]:
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    pairs = zip(model.parameters(), found, strict=True)
    return value.detach(), [torch.zeros_like(p) if g is None else g for p, g in pairs]


def assert_same(ours: tuple[Tensor, list[Tensor]], theirs: tuple[Tensor, list[Tensor]]) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-10, atol=0)
    assert theirs[0] > 0
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm() + 1e-15


@pytest.mark.parametrize("name", NETWORKS)
def test_the_closed_form_is_double_backward_s(name: str) -> None:
    model, views, target = made(name)
    theirs = expected(model, views, target)
    torch.manual_seed(1)
    found = GradientVariance()(model, F.cross_entropy, views, target)
    assert_same(with_gradients(found.penalty, model), theirs)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("its own", True),
        ("an object with .logits", False),
        ("an object with .logits", True),
    ],
)
def test_a_compiled_network(name: str, before: bool) -> None:
    """Also where it has been compiled before it was known that somebody would look."""
    model, views, target = made(name)
    theirs = expected(model, views, target)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    if before:
        compiled(views[0])
    for _ in range(2):
        found = GradientVariance()(compiled, F.cross_entropy, views, target)
        assert_same(with_gradients(found.penalty, model), theirs)


def test_a_part_that_is_compiled_in_place() -> None:
    model, views, target = made("its own")
    theirs = expected(model, views, target)
    model.compile(backend="aot_eager")
    assert_same(with_gradients(GradientVariance()(model, F.cross_entropy, views, target).penalty, model), theirs)


def test_the_layer_by_its_name_or_itself() -> None:
    model, views, target = made("its own")
    theirs = expected(model, views, target)
    for head in ("out", model.out, None):
        assert_same(
            with_gradients(GradientVariance(head=head)(model, F.cross_entropy, views, target).penalty, model), theirs
        )
    for layers in ("out", ["out"], ["out.*"], ["out.weight", "out.b*"]):
        found = GradientVariance(layers=layers)(model, F.cross_entropy, views, target).penalty
        assert_same(with_gradients(found, model), theirs)
    both, whole = (
        GradientVariance(layers=layers)(model, F.cross_entropy, views, target).penalty
        for layers in (["stem", "out"], "all")
    )
    assert_same(with_gradients(both, model), with_gradients(whole, model))


OPTIONS: list[dict[str, Any]] = [{"per_sample": True}, {"subset": 3}, {"subset": 3, "shared": True}, {"split": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_as_for_a_network_of_parts(options: dict[str, Any]) -> None:
    model, views, target = made("its own")
    parts = nn.Module()
    parts.backbone, parts.head = model.stem, model.out  # type: ignore[assignment]
    views, keys = views[: 1 if "split" in options else 2], torch.rand(2, B)
    ours = GradientVariance(**options)(model, F.cross_entropy, views, target, keys[: len(views)]).penalty
    theirs = GradientVariance(**options)(parts, F.cross_entropy, views, target, keys[: len(views)]).penalty
    assert_same(with_gradients(ours, model), with_gradients(theirs, model))


def test_three_lines_train_it() -> None:
    model, views, target = made("timm convnext")
    gvr, optimizer = GradientVariance(alpha=0.1), torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    for _ in range(8):
        loss = gvr(model, F.cross_entropy, views, target).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def refused(model: nn.Module, words: str, views: Any = None, **options: Any) -> None:
    x = [torch.randn(B, 3, 32, 32) for _ in range(2)] if views is None else views
    with pytest.raises(ValueError, match=words) as caught:
        GradientVariance(**options)(model, F.cross_entropy, x, torch.randint(0, C, (B,)))
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    own = OfItsOwn()
    refused(nn.Sequential(nn.Flatten(), nn.Conv1d(1, 1, 1)), "Sequential has no linear layer: name it, head='fc'")
    refused(own, r"head='fc': OfItsOwn has no such layer; it has out, stem", head="fc")
    refused(own, "head: Linear is no part of this OfItsOwn", head=nn.Linear(8, C))
    refused(OfItsOwn(lambda z: z.softmax(1)), r"what 'out' gives is not what the network gives: name it")
    refused(own, r"what 'stem.1' gives is not what the network gives", head="stem.1")
    refused(OfItsOwn(lambda z: [z]), r"the network gives a list, neither a tensor nor something with .logits")
    refused(
        nn.DataParallel(OfItsOwn()), r"nn.DataParallel runs copies of the network, which cannot be looked into: use DDP"
    )
    refused(own, r"layers=\['haed'\] match none of the model's 4 parameters", layers="haed")
    refused(own, "views is one tensor: give a list of them", torch.randn(2, 3, 32, 32))
    own.unused = nn.Linear(8, C)
    refused(own, "Linear, the last layer, did not run", head="unused")
    with pytest.raises(ValueError, match="head is the last layer of layers='head', not of layers='all'"):
        GradientVariance(layers="all", head="fc")
    with pytest.raises(ValueError, match=r"params is a module: give OfItsOwn's parameters, model.parameters"):
        gradient_variance([own.out.weight.sum(), own.out.weight.sum()], own)  # type: ignore[arg-type]


def test_a_frozen_last_layer_is_told() -> None:
    model = OfItsOwn()
    model.out.requires_grad_(False)
    refused(model, "the model's head has no trainable parameter")


def test_the_last_layer_is_looked_for_where_networks_have_it() -> None:
    classifier = nn.Sequential(nn.Linear(2, 3), nn.Dropout(), nn.Linear(3, 4), nn.ReLU())
    model = nn.Module()
    model.first, model.classifier = nn.Linear(1, 2), classifier  # type: ignore[assignment]
    assert candidates(model, None) == [classifier[2]]
    model.fc = nn.Linear(4, 5)  # type: ignore[assignment]
    assert candidates(model, None) == [model.fc]
    model.get_classifier = lambda: model.first  # type: ignore[assignment]
    assert candidates(model, None) == [model.first]
    assert candidates(nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 3)), None)[1].out_features == 3


def test_agr_takes_parameters_and_says_what_it_does_not_take() -> None:
    model = nn.Linear(3, 2)
    model(torch.randn(4, 3)).square().sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    agr_(grads)
    agr_(model.parameters())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))  # type: ignore[arg-type]
    agr_(nn.Linear(3, 2).parameters())  # without gradients
    with pytest.raises(TypeError, match=r"AGR works on gradients, not on a Linear: agr_\(model.parameters\(\)\)"):
        agr_(model)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"AGR wraps an instance of torch.optim.Optimizer, not Linear"):
        AGR(model)  # type: ignore[arg-type]
