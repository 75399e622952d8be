"""U-Nets: equal to diffusers' own, there and back, and every penalty on them against a plain loop."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.utils import logging
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gvr_lightning import GradientVariance
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.methods.gvr.penalty import PublishedGradientVariance
from gvr_lightning.methods.penalty import NoPenalty, Penalty
from gvr_lightning.models.small_cnn import small_cnn
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.models.unet import from_diffusers, to_diffusers, unet

TINY: dict[str, Any] = {"widths": [4, 8], "blocks": 1, "attention": [False, True], "groups": 4}
SMALL: dict[str, dict[str, Any]] = {  # each configuration with few channels, and its images
    "unet_small": {"widths": [4, 8], "groups": 4},
    "unet_cifar10_small": {"widths": [4, 8, 8], "groups": 4},
    "unet_cifar10": {"widths": [4, 8, 8, 8], "groups": 4},
}
SHAPES = {"unet_small": (1, 8, 8), "unet_cifar10_small": (3, 32, 32), "unet_cifar10": (3, 32, 32)}
B = 6


def configured(name: str) -> dict[str, Any]:
    """What conf/model says, as the factory's arguments."""
    settings = yaml.safe_load((conf_folder() / "model" / f"{name}.yaml").read_text())
    assert settings.pop("_target_") == "gvr_lightning.models.unet.unet"
    return settings


def tiny(**options: Any) -> SplitNetwork:
    torch.manual_seed(0)
    return unet((1, 8, 8), 10, **(TINY | options))


def inputs(shape: tuple[int, ...], n: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, dtype=dtype, generator=g), torch.randint(0, 1000, (n,), generator=g)


def of_diffusers(settings: dict[str, Any], shape: tuple[int, int, int]) -> UNet2DModel:
    """Another way to the same: the constructor of diffusers, its settings written out."""
    flags = settings["attention"]
    return UNet2DModel(
        sample_size=shape[1],
        in_channels=shape[0],
        out_channels=shape[0],
        block_out_channels=tuple(settings["widths"]),
        layers_per_block=settings["blocks"],
        down_block_types=tuple(["DownBlock2D", "AttnDownBlock2D"][flag] for flag in flags),
        up_block_types=tuple(["UpBlock2D", "AttnUpBlock2D"][flag] for flag in flags[::-1]),
        attention_head_dim=settings["head_dim"],
        norm_num_groups=settings["groups"],
        norm_eps=1e-6,
        act_fn="silu",
        dropout=settings["dropout"],
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )


@pytest.mark.parametrize("name", SMALL)
def test_every_configuration_equals_diffusers(name: str) -> None:
    settings, shape = configured(name) | SMALL[name], SHAPES[name]
    network, theirs = unet(shape, 10, **settings), of_diffusers(settings, shape)
    theirs.load_state_dict(to_diffusers(network).state_dict())
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        x, t = inputs(shape, dtype=dtype)
        ours, expected = network.to(dtype).eval()((x, t)), theirs.to(x).eval()(x, t).sample
        assert ours.shape == x.shape
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SMALL)
def test_every_configuration_has_the_parameters_that_it_says(name: str) -> None:
    with torch.device("meta"):
        network = unet(SHAPES[name], 10, **configured(name))
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    first_line = (conf_folder() / "model" / f"{name}.yaml").read_text().splitlines()[0]
    assert first_line.endswith((f": {millions:.2f} M parameters", f": {millions:.1f} M parameters"))
    if name == "unet_cifar10":
        assert round(millions * 1e6) == 35_746_307
    ours, theirs = (dict(net.config) for net in (to_diffusers(network), of_diffusers(configured(name), SHAPES[name])))
    for config in (ours, theirs):  # diffusers keeps lists and tuples as they came
        config.pop("_use_default_values")
    assert {n: str(v) for n, v in ours.items()} == {
        n: str(list(v) if isinstance(v, tuple) else v) for n, v in theirs.items()
    }


def test_a_network_is_its_three_parts() -> None:
    network, x = tiny(), inputs((1, 8, 8))
    entering = network.backbone.early(x)
    assert len(entering) == 2 + 2 and all(len(t) == 3 for t in entering)  # sample, embedding, blocks + 1 residuals
    torch.testing.assert_close(network.head(network.backbone.last_stage(entering)), network(x))
    parts = [network.backbone.early, network.backbone.last_stage, network.head]
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert min(counts) > 0 and sum(counts) == sum(p.numel() for p in to_diffusers(network).parameters())
    assert isinstance(network.head, nn.Conv2d) and network.training


def test_init_published_is_glorot_s_with_output_layers_of_nearly_nothing() -> None:
    """Uniform up to gain sqrt(6 / (inputs + outputs)), of all pixels; the published first prediction is 8e-6."""
    torch.manual_seed(0)
    model = unet((3, 32, 32), 10, widths=[32, 64], blocks=1, attention=[False, True], groups=8, init="published")
    outputs = 0
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            pixels = layer.weight[0, 0].numel()
            fans, weight = (layer.weight.shape[0] + layer.weight.shape[1]) * pixels, layer.weight.detach()
            last = name.endswith("conv2") or name == "head"
            outputs += last
            bound = (1e-5 if last else 1.0) * (6 / fans) ** 0.5
            assert 0.9 * bound < float(weight.abs().max()) <= bound, name
            assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.1), name
            assert layer.bias is None or not layer.bias.any(), name
    assert outputs == 2 + 3 + 3 + 1 + 1 - 1  # blocks down, up, at the bottom and the last convolution
    x = inputs((3, 32, 32))
    with torch.no_grad():
        assert 1e-6 < float(model(x).square().mean().sqrt()) < 1e-4
        assert float(unet((3, 32, 32), 10, [32, 64], 1, [False, True], groups=8)(x).square().mean().sqrt()) > 0.1


def test_samples_do_not_mix() -> None:
    network, (x, t) = tiny().double(), inputs((1, 8, 8), 5, torch.float64)
    torch.testing.assert_close(network((x, t))[:2], network((x[:2], t[:2])), rtol=1e-12, atol=1e-12)


def test_there_and_back() -> None:
    network, x = tiny(dropout=0.5).to(memory_format=torch.channels_last), inputs((1, 8, 8))
    expected, drawn = network.eval()(x), torch.get_rng_state()
    theirs = to_diffusers(network)
    assert torch.equal(torch.get_rng_state(), drawn) and not theirs.training and theirs.config.dropout == 0.5
    assert all(p.requires_grad and p.is_contiguous() for p in theirs.parameters())
    torch.testing.assert_close(theirs(*x).sample, expected)
    back = from_diffusers(theirs)
    assert list(back.state_dict()) == list(network.state_dict()) and not back.training
    assert back.head.weight is theirs.conv_out.weight  # shared
    torch.testing.assert_close(theirs(*x).sample, back(x))
    assert to_diffusers(network.train().double()).dtype == torch.float64 and to_diffusers(network).training
    with torch.no_grad():
        theirs.conv_in.weight.zero_()
    assert network.backbone.early.net.conv_in.weight.abs().sum() > 0  # a copy


def test_copies_and_loaded_weights_are_whole() -> None:
    network, x = tiny(), inputs((1, 8, 8))
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        with torch.no_grad():
            other.head.weight.add_(1)
            other.backbone.early.net.conv_in.weight.mul_(2)
        assert not torch.allclose(other(x), network(x))
        torch.testing.assert_close(to_diffusers(other)(*x).sample, other(x))
        other.load_state_dict(network.state_dict())
        assert torch.equal(other(x), network(x))
        torch.testing.assert_close(to_diffusers(other)(*x).sample, network(x))


@pytest.mark.parametrize("pipeline", [True, False])
def test_weights_from_a_folder(pipeline: bool, tmp_path: Path) -> None:
    network, x = tiny(head_dim=4), inputs((1, 8, 8))
    net = to_diffusers(network)
    (DDPMPipeline(net, DDPMScheduler()) if pipeline else net).save_pretrained(tmp_path)
    loaded = tiny(weights=str(tmp_path), dropout=0.25)
    assert loaded.training and loaded.backbone.early.net.config.dropout == 0.25
    torch.testing.assert_close(loaded.eval()(x), network(x))  # head_dim too is the folder's
    larger = unet((1, 16, 12), 10, **TINY, weights=str(tmp_path))
    assert larger.backbone.early.net.config.sample_size == [16, 12]
    assert larger(inputs((1, 16, 12))).shape == (3, 1, 16, 12)


@pytest.fixture
def quiet() -> Iterator[None]:
    """What diffusers logs about broken folders is not what is tested."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    yield
    logging.set_verbosity(before)


@pytest.mark.usefixtures("quiet")
def test_bad_settings_say_what_is_wrong(tmp_path: Path) -> None:
    for options, message in (
        ({"groups": 3}, r"groups=3 must divide every one of widths=\[4, 8\]"),
        ({"head_dim": 3}, r"head_dim=3 must divide every one of widths=\[4, 8\]"),
        ({"attention": [False]}, r"attention=\[False\] must have one flag for each of widths=\[4, 8\]"),
        ({"widths": [4] * 5, "attention": [False] * 5}, "8x8 images cannot be halved 4 times .* 16 divides, or fewer"),
        ({"weights": str(tmp_path / "none")}, "none: no config.json"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny(**options)


@pytest.mark.usefixtures("quiet")
def test_bad_folders_say_what_is_wrong(tmp_path: Path) -> None:
    to_diffusers(tiny()).save_pretrained(tmp_path)
    for options, message in (
        ({"widths": [8, 8]}, r"it has block_out_channels=\[4, 8\] \(not \[8, 8\]\)$"),
        ({"blocks": 2}, r"it has layers_per_block=1 \(not 2\)$"),
        ({"attention": [True, True]}, "it has down_block_types="),
    ):
        with pytest.raises(ValueError, match=f"weights=.*not the network .* describe: {message}") as caught:
            tiny(**options, weights=str(tmp_path))
        assert "\n" not in str(caught.value)
    of_classes = UNet2DModel.from_config(to_diffusers(tiny()).config, num_class_embeds=3)
    of_classes.save_pretrained(tmp_path / "classes")
    weights = to_diffusers(tiny()).state_dict()
    torch.save({n: w for n, w in weights.items() if n != "conv_in.bias"}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="it has other layers"):
        tiny(weights=str(tmp_path / "classes"))
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"its weights lack conv_in\.bias"):
        tiny(weights=str(tmp_path))
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"weights=.*diffusion_pytorch_model.bin"):
        tiny(weights=str(tmp_path))


def test_what_cannot_be_cut_says_so() -> None:
    config = dict(to_diffusers(tiny()).config)
    for change, message in (
        ({"num_class_embeds": 3}, "num_class_embeds=3 cannot be cut"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type='fourier' cannot be cut"),
        (
            {"up_block_types": ["AttnUpBlock2D", "SkipUpBlock2D"], "block_out_channels": [64, 64]},
            "skip blocks cannot be cut",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            from_diffusers(UNet2DModel.from_config(config, **change))
    with pytest.raises(ValueError, match="only a U-Net"):
        to_diffusers(small_cnn((1, 8, 8), 10, width=8))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch hides it
def test_compiled_parts_give_the_same() -> None:
    network, x = tiny(), inputs((1, 8, 8))
    expected, keys = network(x), list(network.state_dict())
    network.compile_backbone(backend="aot_eager")
    assert list(network.state_dict()) == keys
    ours = network(x)
    torch.testing.assert_close(ours, expected)
    ours.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    torch.testing.assert_close(to_diffusers(network)(*x).sample, expected)
    gvr = GradientVariance(layers="last_stage", subset=2)
    assert gvr(network, F.mse_loss, [x, inputs((1, 8, 8), seed=1)], torch.zeros_like(x[0])).penalty > 0


# -- the penalties --


def batch(views: int) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor], Tensor]:
    """The views (x_t, t), each view's noise, and the keys of the subsets."""
    noises = [inputs((1, 8, 8), B, torch.float64, seed=10 + v)[0] for v in range(views)]
    keys = torch.rand(views, B, generator=torch.Generator().manual_seed(1))
    return [inputs((1, 8, 8), B, torch.float64, seed=v) for v in range(views)], noises, keys


def plain_loop(network: nn.Module, views: list, noises: list[Tensor], rows: list[Any], prefixes: tuple) -> Tensor:
    """Double backward through the whole network, view by view, and the mean over the pairs."""
    params = [p for name, p in network.named_parameters() if name.startswith(prefixes)]
    gradients = []
    with sdpa_kernel(SDPBackend.MATH):
        for (x, t), noise, r in zip(views, noises, rows, strict=True):
            loss = F.mse_loss(network((x[r], t[r])), noise[r])
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, params, create_graph=True)]))
    pairs = [(u - v).square().sum() for i, u in enumerate(gradients) for v in gradients[:i]]
    return torch.stack(pairs).mean()


def assert_same(ours: Tensor, theirs: Tensor, network: nn.Module) -> None:
    """Value and the gradient of every parameter."""
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    assert theirs > 0
    params = list(network.parameters())
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    found, expected = (torch.autograd.grad(p, params, **options) for p in (ours, theirs))
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= 1e-8 * b.norm() + 1e-13


STAGE = ("backbone.last_stage", "head")
SCOPES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "head": ("head", ("head",)),
    "last_stage": ("last_stage", STAGE),
    "all": ("all", ("",)),
    "named": (["*.up_blocks.*", "head.*"], ("backbone.early.net.up_blocks", "head")),
}


@pytest.mark.parametrize("subset", [None, "shared", "independent"])
@pytest.mark.parametrize("scope", SCOPES)
def test_penalties_equal_a_plain_loop(scope: str, subset: str | None) -> None:
    layers, prefixes = SCOPES[scope]
    views = 3 if scope == "last_stage" else 2
    network, (x, noises, keys) = tiny().double(), batch(views)
    rows: list[Any] = [slice(None)] * views
    if subset:
        rows = [keys[0 if subset == "shared" else v].argsort()[:4] for v in range(views)]
    gvr = GradientVariance(0.3, layers, 4 if subset else None, shared=subset == "shared")
    gvr.check(network)
    ours = gvr(network, F.mse_loss, x, noises, keys)
    expected = plain_loop(network, x, noises, rows, prefixes)
    assert_same(ours.penalty, expected, network)
    losses = [F.mse_loss(network(v), noise) for v, noise in zip(x, noises, strict=True)]
    assert_same(ours.total, sum(losses) + 0.3 * plain_loop(network, x, noises, rows, prefixes), network)


@pytest.mark.parametrize("scope", ["head", "last_stage"])
def test_split_equals_a_plain_loop_over_the_halves(scope: str) -> None:
    network, (x, noises, keys) = tiny().double(), batch(1)
    order = keys[0].argsort()
    ours = GradientVariance(layers=SCOPES[scope][0], split=True)(network, F.mse_loss, x, noises, keys)
    expected = plain_loop(network, x * 2, noises * 2, [order[: B // 2], order[B // 2 :]], SCOPES[scope][1])
    assert_same(ours.penalty, expected, network)


def test_published_equals_a_plain_loop() -> None:
    network, (x, noises, keys) = tiny().double(), batch(2)
    gvr = PublishedGradientVariance(0.3, subset=4)
    gvr.check(network)
    ours = gvr(network, F.mse_loss, x, noises, keys)
    assert_same(ours.penalty, plain_loop(network, x, noises, [keys[0].argsort()[:4]] * 2, STAGE), network)
    gvr.after_step(network, x)
    assert gvr(network, F.mse_loss, x, noises).penalty > 0


def test_without_keys_subsets_are_drawn() -> None:
    network, (x, noises, _) = tiny().double(), batch(2)
    gvr = GradientVariance(subset=2)
    torch.manual_seed(3)
    drawn = torch.rand(2, B)
    torch.manual_seed(3)
    ours, expected = gvr(network, F.mse_loss, x, noises), gvr(network, F.mse_loss, x, noises, drawn)
    assert torch.equal(ours.penalty, expected.penalty)


@pytest.mark.parametrize(
    "penalty",
    [NoPenalty(), GradientVariance(), GradientVariance(layers="last_stage"), PublishedGradientVariance()],
    ids=lambda p: f"{type(p).__name__}-{type(getattr(p, 'layers', None)).__name__}",
)
def test_each_view_has_its_own_target(penalty: Penalty) -> None:
    network, (x, noises, keys) = tiny().double(), batch(2)
    ours, swapped, shared = (penalty(network, F.mse_loss, x, y, keys) for y in (tuple(noises), noises[::-1], noises[0]))
    for v in range(2):
        torch.testing.assert_close(ours.losses[v], F.mse_loss(network(x[v]), noises[v]))
        torch.testing.assert_close(swapped.losses[v], F.mse_loss(network(x[v]), noises[1 - v]))
        torch.testing.assert_close(shared.losses[v], F.mse_loss(network(x[v]), noises[0]))
        assert torch.equal(ours.targets[v], noises[v])
    if not isinstance(penalty, NoPenalty):
        assert len({float(p.penalty.detach()) for p in (ours, swapped, shared)}) == 3
    with pytest.raises(ValueError, match="1 targets for 2 view"):
        penalty(network, F.mse_loss, x, noises[:1], keys)


def test_per_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="per_sample needs a linear last layer, not Conv2d"):
        GradientVariance(per_sample=True).check(tiny())


@pytest.mark.parametrize("layers", ["head", "last_stage"])
def test_float32_under_autocast(layers: str) -> None:
    """Half precision in the network; the last stage runs again in float32, on what entered it."""
    network = tiny()
    x, noises = (
        [inputs((1, 8, 8), B, seed=v) for v in range(2)],
        [inputs((1, 8, 8), B, seed=9 - v)[0] for v in range(2)],
    )
    with torch.autocast("cpu", torch.bfloat16):
        ours = GradientVariance(layers=layers)(network, F.mse_loss, x, noises)
        entering = [tuple(t.float() for t in network.backbone.early(v)) for v in x]
    assert ours.penalty.dtype == torch.float32 and ours.logits[0].dtype == torch.float32
    if layers == "last_stage":
        params = [*network.backbone.last_stage.parameters(), *network.head.parameters()]
        outputs = [network.head(network.backbone.last_stage(e)) for e in entering]
        gradients = [torch.autograd.grad(F.mse_loss(o, n), params) for o, n in zip(outputs, noises, strict=True)]
        expected = sum((a - b).square().sum() for a, b in zip(*gradients, strict=True))
        torch.testing.assert_close(ours.penalty.detach(), expected, rtol=1e-5, atol=0)
    ours.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


class _Labelled(nn.Module):
    """A last stage that gets features and integer labels."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 64)

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return x[0].flatten(1) + self.embedding(x[1])


def test_integers_that_enter_the_last_stage_stay_integers() -> None:
    torch.manual_seed(0)
    network = SplitNetwork(nn.Identity(), _Labelled(), nn.Linear(64, 5)).double()
    x, y = [inputs((1, 8, 8), B, torch.float64, seed=v) for v in range(2)], torch.arange(B) % 5
    by_name = ["backbone.last_stage.*", "head.*"]
    ours, theirs = (GradientVariance(layers=n)(network, F.cross_entropy, x, y) for n in ("last_stage", by_name))
    assert_same(ours.penalty, theirs.penalty, network)
