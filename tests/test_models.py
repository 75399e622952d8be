"""Every network: its cut, its size, and what the penalties need of it."""

import pickle
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir

from gvr_lightning import GradientVariance, gradient_variance
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.instantiate import make
from gvr_lightning.models.resnet import resnet, wide_resnet
from gvr_lightning.models.small_cnn import small_cnn
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.models.timm_network import timm_network
from gvr_lightning.models.vgg import vgg11

VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
CONVNEXT = {"dims": (4, 4, 8, 8), "depths": (1, 1, 1, 1), "patch_size": 2}


def build(name: str) -> SplitNetwork:
    torch.manual_seed(0)
    shape = (3, 8, 8)
    return {
        "small_cnn": lambda: small_cnn(shape, 5, width=8),
        "resnet": lambda: resnet(shape, 5, [4, 8, 8], 1),
        "bottleneck": lambda: resnet(shape, 5, [4, 6], [1, 2], bottleneck=True),
        "wide_resnet": lambda: wide_resnet(shape, 5, depth=10, widen=1),
        "vgg11": lambda: vgg11(shape, 5, width=4, hidden=6, dropout=0.0),
        "vit": lambda: timm_network(shape, 5, "vit_tiny_patch16_224", options=VIT),
        "convnext": lambda: timm_network((3, 32, 32), 5, "convnext_atto", options=CONVNEXT),
        "uncut": lambda: timm_network((3, 32, 32), 5, "mobilenetv3_small_050"),
    }[name]()


def images(name: str, n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    side = 32 if name == "convnext" else 8
    return torch.randn(n, 3, side, side, dtype=dtype)


NAMES = ("small_cnn", "resnet", "bottleneck", "wide_resnet", "vgg11", "vit", "convnext")


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_its_three_parts(name: str) -> None:
    model, x = build(name).eval(), images(name, 4)
    features = model.backbone.last_stage(model.backbone.early(x))
    assert features.ndim == 2
    torch.testing.assert_close(model(x), model.head(features))
    parts = [model.backbone.early, model.backbone.last_stage, model.head]
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert min(counts) > 0 and sum(counts) == sum(p.numel() for p in model.parameters())
    pickle.loads(pickle.dumps(model)).load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_last_stage_penalty_equals_double_backward_through_the_whole_network(name: str) -> None:
    """On all rows in float64 the second run of the last stage changes nothing."""
    model, y = build(name).double().train(), torch.arange(6) % 5
    x = [images(name, 6, torch.float64) for _ in range(2)]
    by_name = ["backbone.last_stage.*", "head.*"]
    ours, theirs = (GradientVariance(layers=layers)(model, F.cross_entropy, x, y) for layers in ("last_stage", by_name))
    torch.testing.assert_close(ours.penalty, theirs.penalty, rtol=1e-9, atol=0)
    params = list(model.parameters())
    for a, b in zip(*(torch.autograd.grad(p.penalty, params, allow_unused=True) for p in (ours, theirs)), strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert (a - b).norm() <= 1e-8 * b.norm() + 1e-12


def test_last_stage_penalty_leaves_the_statistics_alone_and_runs_the_early_part_once() -> None:
    model, x, y = build("resnet"), [torch.randn(8, 3, 8, 8) for _ in range(2)], torch.arange(8) % 5
    calls = []
    model.backbone.early.register_forward_hook(lambda *_: calls.append(1))
    reference = build("resnet")
    for view in x:
        reference(view)
    GradientVariance(layers="last_stage", subset=3)(model, F.cross_entropy, x, y).total.backward()
    assert len(calls) == 2
    for (name, ours), theirs in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_sizes_are_the_published_ones() -> None:
    def millions(model: SplitNetwork) -> float:
        return round(sum(p.numel() for p in model.parameters()) / 1e6, 2)

    assert millions(resnet((3, 32, 32), 100, [64, 128, 256, 512], 2)) == 11.22
    assert millions(resnet((3, 32, 32), 10, [16, 32, 64], 3)) == 0.27
    with torch.device("meta"):
        assert millions(wide_resnet((3, 32, 32), 10)) == 36.48


@pytest.mark.parametrize(
    ("name", "size", "parameters", "last_map"),
    [
        ("resnet34", 32, 21_328_292, (512, 4, 4)),
        ("resnet50", 32, 23_705_252, (2048, 4, 4)),
        ("resnet50", 64, 23_705_252, (2048, 8, 8)),
        ("vgg11", 32, 28_518_244, (512, 2, 2)),
        ("vit_tiny_32", 32, 5_380_132, (65, 192)),  # 64 tokens and that of the class
        ("swin_tiny_32", 32, 27_574_318, (2, 2, 768)),
        ("convnext_32", 32, 27_892_708, (768, 4, 4)),
    ],
)
def test_a_network_for_small_images_keeps_a_map_and_is_cut(
    name: str, size: int, parameters: int, last_map: tuple[int, ...]
) -> None:
    """As conf/model has it, for 100 classes: of a VGG the map before its last pooling."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        node = compose("config", [f"model={name}"]).model
    timms = "timm" in node._target_
    with nullcontext() if timms else torch.device("meta"):
        model = make(node, "model", torch.nn.Module, image_shape=(3, size, size), num_classes=100).eval()
        maps: list[tuple[int, ...]] = []
        stage = model.backbone.last_stage
        last = stage.stage if timms else stage[0][-2] if name == "vgg11" else stage[0]
        last.register_forward_hook(lambda layer, given, output: maps.append(tuple(output.shape[1:])))
        entering = model.backbone.early(torch.zeros(1, 3, size, size))
        assert model(torch.zeros(1, 3, size, size)).shape == (1, 100) and maps == [last_map]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert entering.shape[1:] != last_map or name in ("vgg11", "vit_tiny_32")  # the last stage halves it
    assert all(sum(p.numel() for p in part.parameters()) for part in (model.backbone.early, stage))
    assert isinstance(model.head, torch.nn.Linear)


def test_small_cnn_does_not_mix_samples() -> None:
    model, x = build("small_cnn").train(), torch.randn(6, 3, 8, 8)
    torch.testing.assert_close(model(x)[:2], model(x[:2]))


def test_compiled_and_eager_checkpoints_have_the_same_keys() -> None:
    eager, compiled = build("resnet"), build("resnet")
    compiled.compile_backbone()
    assert list(eager.state_dict()) == list(compiled.state_dict())


def test_a_network_without_a_known_last_stage_says_so() -> None:
    model = build("uncut")
    with pytest.raises(ValueError, match="last stage"):
        GradientVariance(layers="last_stage").check(model)
    GradientVariance(layers="head").check(model)
    with pytest.raises(ValueError, match="match none"):
        GradientVariance(layers=["layer4.*"]).check(model)


def test_a_head_that_is_not_linear_goes_by_double_backward() -> None:
    torch.manual_seed(0)
    model, y = build("resnet").double(), torch.arange(6) % 5
    model.head = torch.nn.Sequential(torch.nn.Linear(8, 7), torch.nn.Tanh(), torch.nn.Linear(7, 5)).double()
    x = [torch.randn(6, 3, 8, 8, dtype=torch.float64) for _ in range(2)]
    losses = [F.cross_entropy(model(v), y) for v in x]
    expected = gradient_variance(losses, model.head.parameters())
    torch.testing.assert_close(GradientVariance()(model, F.cross_entropy, x, y).penalty, expected, rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match="linear"):
        GradientVariance(per_sample=True).check(model)


def test_a_network_without_parts_is_told_the_way_out() -> None:
    plain, x, y = torch.nn.Linear(4, 3), [torch.randn(6, 4) for _ in range(2)], torch.arange(6) % 3
    last_stage = GradientVariance(layers="last_stage")
    for call in (lambda: last_stage(plain, F.cross_entropy, x, y), lambda: last_stage.check(plain)):
        with pytest.raises(ValueError, match=r"no .backbone and .head: .*SplitNetwork.*name patterns"):
            call()
    assert GradientVariance(layers=["weight"])(plain, F.cross_entropy, x, y).penalty > 0


def test_bad_timm_settings_say_what_is_wrong() -> None:
    for name, options, message in (
        ("resnet1", {}, "near ones: .*resnet"),
        ("vit_tiny_patch16_224", {}, "does not take 3x8x8 images"),
        ("resnet18", {"imgsize": 3}, "imgsize"),
        ("deit_tiny_distilled_patch16_224", {"img_size": 8, "patch_size": 4}, "one classifier"),
    ):
        with pytest.raises(ValueError, match=message):
            timm_network((3, 8, 8), 5, name, options=options)
