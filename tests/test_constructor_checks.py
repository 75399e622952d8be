"""What is built in Python is checked where it is built: the command line's own check is not there to see to it."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from numbered import Numbered
from torch import nn

from gvr_lightning.app.processes import processes_wanted
from gvr_lightning.data.augmentation import Augmentation
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.image_folder import ImageFolder
from gvr_lightning.data.label_noise import Asymmetric, LabelNoise, PairFlip, Symmetric, SymmetricInclusive
from gvr_lightning.diffusion.ddim import DDIM
from gvr_lightning.diffusion.noise import Noise
from gvr_lightning.diffusion.sampler import Sampler
from gvr_lightning.errors import UserError
from gvr_lightning.instantiate import make
from gvr_lightning.methods.agr import AGR, agr_
from gvr_lightning.methods.consistency import Consistency
from gvr_lightning.methods.gvr.penalty import GradientVariance, PublishedGradientVariance
from gvr_lightning.methods.gvr.variance import gradient_variance, last_layer_variance, per_sample_variance
from gvr_lightning.methods.label_smoothing import LabelSmoothing
from gvr_lightning.methods.penalty import NoPenalty
from gvr_lightning.methods.sam import SAM, sam_agr
from gvr_lightning.metrics.extractor import Extractor
from gvr_lightning.metrics.scores import require_enough
from gvr_lightning.models.resnet import resnet, wide_resnet
from gvr_lightning.models.small_cnn import small_cnn
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.models.timm_network import timm_network
from gvr_lightning.models.unet import from_diffusers, unet
from gvr_lightning.optim.acprop import ACProp
from gvr_lightning.optim.schedules import constant
from gvr_lightning.tasks.classification import ClassificationTask
from gvr_lightning.tasks.finite import NonFinite

NAN, INF = math.nan, math.inf
IMAGES = (3, 8, 8)
NOISES: tuple[type[LabelNoise], ...] = (Symmetric, SymmetricInclusive, PairFlip, Asymmetric)
SCHEDULER = DDPMScheduler(num_train_timesteps=100)


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)


acprop = partial(ACProp, [nn.Parameter(torch.ones(2))])
small_unet = partial(unet, IMAGES, 0, widths=[8, 8], blocks=1, attention=[False, False], groups=4)


def network(head: nn.Module | None = None) -> SplitNetwork:
    early = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    return SplitNetwork(early, nn.Sequential(nn.Linear(3, 3)), head or nn.Linear(3, 2))


def task(penalty: Any = None, **settings: Any) -> ClassificationTask:
    parts: dict[str, Any] = {"model": network(), "optimizer": sgd, "schedule": constant, "num_classes": 2}
    return ClassificationTask(penalty=penalty or NoPenalty(), **(parts | settings))


def data(**settings: Any) -> ViewsDataModule:
    plain: dict[str, Any] = {"views": 1, "batch_size": 4, "seed": 0, "val_fraction": 0.1, "max_train": None}
    source = Numbered(train=settings.pop("train", 20), channels=3)
    return ViewsDataModule(source=source, augmentation=Augmentation(0, False, 0, 0.0), **(plain | settings))


def setup(**settings: Any) -> None:
    data(**settings).setup()


def penalised(penalty: Any, views: int, targets: Any = None, model: nn.Module | None = None) -> Any:
    y = torch.tensor([0, 1])
    images = tuple(torch.randn(2, 4) for _ in range(views))
    return penalty(model or network(), F.cross_entropy, images, y if targets is None else [y] * targets)


def extractor(features: int = 4) -> Extractor:
    return Extractor(nn.Identity(), "own", features, "none")


def losses(count: int, shape: tuple[int, ...] = ()) -> list[torch.Tensor]:
    return [torch.ones(shape, requires_grad=True) * 2 for _ in range(count)]


WEIGHT = nn.Parameter(torch.ones(2))

# what is refused: how it is built, and what is said
REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    *((partial(kind, alpha), ValueError, f"alpha must be a finite number >= 0, got {alpha}")
      for kind in (GradientVariance, PublishedGradientVariance, Consistency) for alpha in (-1e-9, -1, INF, NAN)),
    *((partial(kind, 0.1, subset=subset), ValueError, f"subset must be a number of rows >= 1, got {subset}")
      for kind in (GradientVariance, PublishedGradientVariance) for subset in (0, -1)),
    *((partial(GradientVariance(layers=layers).check, network()), ValueError, rf"layers=\['{layers}'\] match none")
      for layers in ("foo", "", "heads", "Head")),
    *((partial(GradientVariance, per_sample=True, **more), ValueError, "needs layers='head', shared rows and no split")
      for more in ({"layers": "all"}, {"layers": "last_stage"}, {"layers": ["head.*"]}, {"split": True},
                   {"subset": 8})),
    *((partial(LabelSmoothing, smoothing), ValueError, rf"smoothing must be in \[0, 1\), got {smoothing}")
      for smoothing in (-1e-9, 1, 1.5, NAN)),
    # how many views and targets
    *((partial(penalised, GradientVariance(**split), views), ValueError, rf"got {views} view\(s\)")
      for split, views in (({}, 1), ({"split": True}, 2), ({"split": True}, 3))),
    (partial(penalised, Consistency(), 1), ValueError, r"got 1 view\(s\): give two or more"),
    *((partial(penalised, penalty, 2, 1), ValueError, r"got 1 targets for 2 view\(s\)")
      for penalty in (NoPenalty(), GradientVariance(), PublishedGradientVariance(), Consistency(), LabelSmoothing())),
    # whether the model fits
    (partial(penalised, GradientVariance(layers="last_stage"), 2, None, nn.Linear(4, 2)), ValueError, "no .backbone"),
    (partial(GradientVariance(layers=["x.*"]).check, network()), ValueError, r"layers=\['x.\*'\] match none .* 6 "),
    (partial(GradientVariance().check, network(nn.Identity())), ValueError, "head has no trainable parameter"),
    (partial(GradientVariance(per_sample=True).check, network(nn.Sequential(nn.Linear(3, 2)))), ValueError,
     "per_sample needs a linear last layer, not Sequential"),
    *((partial(penalty.check, SplitNetwork(nn.Linear(4, 3), nn.Identity(), nn.Linear(3, 2))), ValueError,
       "does not say where its last stage begins")
      for penalty in (GradientVariance(layers="last_stage"), PublishedGradientVariance())),
    # variances by themselves
    *((partial(gradient_variance, losses(count), [WEIGHT]), ValueError, f"two views or more, got {count}")
      for count in (0, 1)),
    (partial(gradient_variance, losses(2, (3,)), [WEIGHT]), ValueError, r"must be a scalar, got shape \(3,\)"),
    (partial(gradient_variance, losses(2), []), ValueError, "at least one parameter"),
    (partial(gradient_variance, losses(2), [WEIGHT]), ValueError, "none of the parameters takes part"),
    (partial(last_layer_variance, losses(1), [], []), ValueError, "two views or more, got 1"),
    (partial(last_layer_variance, losses(2, (2,)), [], []), ValueError, "must be a scalar"),
    (partial(per_sample_variance, F.cross_entropy, [torch.ones(2, 3, requires_grad=True)], [torch.ones(2, 4)],
             [torch.tensor([0, 1])]), ValueError, "two views or more, got 1"),
    # optimizers
    *((partial(AGR, wrong), TypeError, rf"AGR wraps an instance of torch.optim.Optimizer, not {name}")
      for wrong, name in ((3, "int"), (torch.optim.SGD, "type"), ([WEIGHT], "list"))),
    (partial(agr_, nn.Linear(2, 2)), TypeError, r"not on a Linear: agr_\(model.parameters"),
    (partial(agr_, [3.0]), TypeError, r"the tensors p\.grad, not on float"),
    *((partial(SAM, wrong), TypeError, rf"SAM wraps an instance of torch.optim.Optimizer, not {name}")
      for wrong, name in ((3, "int"), (torch.optim.SGD, "type"), (SAM(sgd()), "SAM"))),
    *((partial(kind, sgd(), **{name: value}), ValueError, f"SAM: {name}={value} must be a finite number >= 0")
      for kind in (SAM, sam_agr) for name in ("rho", "eps") for value in (-1e-9, INF, NAN)),
    *((partial(acprop, **{name: value}), ValueError, f"ACProp: {name}={value} must be >= 0")
      for name in ("lr", "eps", "weight_decay") for value in (-1e-9, NAN)),
    *((partial(acprop, betas=betas), ValueError, "two numbers in")
      for betas in ((1, 0.9), (0.9, 1), (-1e-9, 0.9), (0.9, -1e-9), (0.9,), (0.9,) * 3, (NAN, 0.9))),
    # diffusion
    (partial(Noise, beta_schedule="even"), ValueError, "there is no 'even'; there is linear, cosine, sigmoid"),
    (partial(Noise, prediction="noise"), ValueError, "there is no 'noise'; there is epsilon, v, sample"),
    (partial(Noise, 1000, "linear", (0.3, 0.9)), ValueError, "leaves nothing of an image"),
    (partial(Sampler, SCHEDULER, 101), ValueError, "101 steps are more than the 100 timesteps"),
    (partial(Sampler, DPMSolverMultistepScheduler(), 10, 0.5), ValueError, "DPMSolverMultistepScheduler has no eta"),
    (partial(Sampler, DDIMScheduler(timestep_spacing="trailing"), 61), ValueError, "61 steps end at a negative"),
    (partial(Sampler, DDIM(timestep_spacing="linspace"), 1), ValueError, "one step is at t = 0"),
    # data
    *((partial(ImageFolder, "x", channels=channels), UserError, f"data.channels={channels}") for channels in (0, 2, 4)),
    *((partial(ImageFolder, "x", **{name: value}), UserError, rf"data.{name}={value}: a whole number from 1 on")
      for name in ("image_size", "workers") for value in (0, -1, 1.5, "8")),
    *((partial(noise, rate), UserError, rf"label_noise.rate={rate}: a number in \[0, 1\]")
      for noise in NOISES for rate in (-1e-9, 1.0001, NAN)),
    (partial(Symmetric(), torch.tensor([0, 0]), torch.arange(2), ["a"]), UserError, "a data set of one class"),
    (partial(Asymmetric(), torch.tensor([0, 1]), torch.arange(2), ["a", "b"]), UserError, "give label_noise.map="),
    *((partial(Asymmetric(map=pairs), torch.tensor([0, 1]), torch.arange(2), ["a", "b"]), UserError,
       f"there is no class {name!r}; the classes are a, b")
      for pairs, name in (({"a": "c"}, "c"), ({"c": "a"}, "c"), ({2: 1}, 2), ({0: -1}, -1))),
    *((partial(setup, **few), UserError, f"{n} training images are too few for data.val_fraction={fraction}")
      for few, n, fraction in (({"train": 2, "val_fraction": 0.5}, 2, 0.5), ({"train": 4}, 4, 0.1),
                               ({"max_train": 1}, 20, 0.1))),
    *((partial(setup, mean=mean, std=std), UserError, "one entry for each of the 3 channels, or one")
      for mean, std in (([0.5] * 2, [0.5]), ([0.5], [0.5] * 2), ([0.5] * 4, None), (None, [0.5] * 4))),
    # networks
    (partial(small_cnn, IMAGES, 2, 12, 8), ValueError, "groups=8 must divide width=12"),
    *((partial(wide_resnet, IMAGES, 2, depth, 1), ValueError, rf"depth must be 6 n \+ 4 .* got {depth}")
      for depth in (4, 9, 11, 12, 15, 17)),
    (partial(timm_network, IMAGES, 2, "resnet19"), ValueError, "timm has no model 'resnet19'; near ones: "),
    (partial(timm_network, IMAGES, 2, "zzz"), ValueError, "^timm has no model 'zzz'$"),
    (partial(timm_network, IMAGES, 2, "resnet18", options={"x": 1}), ValueError, r"3x8x8 images with .*\{'x': 1\}"),
    (partial(timm_network, (3, 32, 32), 2, "deit_tiny_distilled_patch16_224", options={"img_size": 32}), ValueError,
     "does not end in one classifier layer"),
    (partial(small_unet, attention=[False]), ValueError, r"attention=\[False\] must have one flag for each"),
    (partial(small_unet, groups=3), ValueError, r"groups=3 must divide every one of widths=\[8, 8\]"),
    (partial(small_unet, widths=[8, 12], groups=4, head_dim=8), ValueError, r"head_dim=8 must divide .*\[8, 12\]"),
    *((partial(unet, (3, *size), 0, [8, 8, 8], 1, [False] * 3, groups=4), ValueError, "cannot be halved 2 times")
      for size in ((6, 8), (8, 6), (7, 7))),
    # tasks
    (partial(task, clip_norm=1.0, clip_value=1.0), UserError, "clip_norm and task.clip_value exclude each other"),
    (partial(task, NoPenalty(), views_loss="max"), UserError, "task.views_loss=max: must be sum or mean"),
    *((partial(task, penalty, compile=True), UserError, "task.compile=true rules out")
      for penalty in (GradientVariance(layers="all"), GradientVariance(layers=["*"]), PublishedGradientVariance())),
    (partial(task, non_finite="ask"), ValueError, "non_finite must be stop or skip, got 'ask'"),
    (partial(task, GradientVariance(layers=["x.*"])), ValueError, "match none"),
    *((partial(NonFinite, policy), ValueError, f"must be stop or skip, got '{policy}'") for policy in ("", "Stop")),
    # scores
    *((partial(extractor(), images), ValueError, "images must be uint8")
      for images in (torch.ones(1, 3, 8, 8), torch.ones(3, 8, 8, dtype=torch.uint8))),
    *((partial(require_enough, extractor(), drawn, real, False), UserError, rf"needs 5 .*{drawn} gen.* {real} real")
      for drawn, real in ((4, 100), (100, 4))),
]  # fmt: skip

# the nearest that is taken
TAKEN: list[Callable[[], Any]] = [
    *(partial(kind, alpha) for kind in (GradientVariance, PublishedGradientVariance, Consistency) for alpha in (0, 9)),
    *(partial(kind, subset=1) for kind in (GradientVariance, PublishedGradientVariance)),
    *(partial(GradientVariance, layers=layers) for layers in ("head", "last_stage", "all", ["x.*"])),
    *(partial(GradientVariance, per_sample=True, **more) for more in ({}, {"subset": 8, "shared": True})),
    partial(LabelSmoothing, 0), partial(LabelSmoothing, 0.999),
    partial(penalised, GradientVariance(), 3), partial(penalised, GradientVariance(split=True), 1),
    partial(penalised, Consistency(), 3), partial(penalised, NoPenalty(), 1), partial(penalised, NoPenalty(), 2, 2),
    partial(penalised, NoPenalty(), 2, None, nn.Linear(4, 2)),
    partial(penalised, GradientVariance(layers="all"), 2, None, nn.Linear(4, 2)),
    partial(GradientVariance(layers=["head.*"]).check, network()),
    partial(GradientVariance(layers="last_stage").check, network()),
    partial(GradientVariance().check, network(nn.Sequential(nn.Linear(3, 2)))),
    partial(AGR, sgd()), partial(AGR, AGR(sgd())), partial(AGR, SAM(sgd())), partial(agr_, [torch.ones(3), None]),
    *(partial(SAM, sgd(), **{name: value}) for name in ("rho", "eps") for value in (0, 1e9)), partial(SAM, AGR(sgd())),
    partial(acprop, lr=0, eps=0, weight_decay=0, betas=(0, 0.999999)),
    *(partial(Noise, beta_schedule=name) for name in ("linear", "cosine", "sigmoid")),
    *(partial(Noise, prediction=name) for name in ("epsilon", "v", "sample")),
    partial(Sampler, SCHEDULER, 100), partial(Sampler, SCHEDULER, None), partial(Sampler, SCHEDULER, 1),
    partial(Sampler, DPMSolverMultistepScheduler(), 10, 0.0), partial(Sampler, DDIM(), 10, 0.5),
    partial(Sampler, DDIM(timestep_spacing="trailing"), 61), partial(Sampler, DDIM(timestep_spacing="trailing"), 1),
    *(partial(ImageFolder, "x", channels=channels) for channels in (1, 3)),
    *(partial(ImageFolder, "x", **{name: value}) for name in ("image_size", "workers") for value in (1, None)),
    *(partial(noise, rate) for noise in NOISES for rate in (0, 1)),
    partial(Asymmetric(map={"a": 1}), torch.tensor([0, 1]), torch.arange(2), ["a", "b"]),
    partial(setup, train=2, val_fraction=0.0), partial(setup, max_train=2), partial(setup, train=5, val_fraction=0.2),
    *(partial(setup, mean=mean, std=std) for mean, std in (([0.5], [0.5] * 3), ([0.5] * 3, None), (None, [0.5]))),
    partial(small_cnn, IMAGES, 2, 16, 8), *(partial(wide_resnet, IMAGES, 2, depth, 1) for depth in (10, 16)),
    partial(small_unet, head_dim=8), partial(small_unet, groups=8), partial(resnet, IMAGES, 2, [4], 1),
    partial(unet, (3, 4, 8), 0, [8, 8, 8], 1, [False] * 3, groups=4),
    partial(task, clip_norm=1.0), partial(task, clip_value=1.0), partial(task, non_finite="skip"),
    *(partial(NonFinite, policy) for policy in ("stop", "skip")),
    partial(require_enough, extractor(), 5, 5, False), partial(require_enough, extractor(), 2, 2, True),
]  # fmt: skip


def name(made: Any) -> str:
    if not isinstance(made, partial):
        return ""
    target = getattr(made.func, "__qualname__", type(made.func).__name__)
    values = [*made.args, *(f"{key}={value}" for key, value in made.keywords.items())]
    return " ".join([target, *(str(v) for v in values if isinstance(v, int | float | str))])


@pytest.mark.parametrize(("build", "error", "says"), REFUSED, ids=name)
def test_what_is_out_of_range_is_refused(build: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        build()
    assert type(caught.value) is error and "\n" not in str(caught.value)


@pytest.mark.parametrize("build", TAKEN, ids=name)
def test_what_is_just_in_range_is_taken(build: Callable[[], Any]) -> None:
    build()


def test_a_unet_that_takes_more_than_images_and_steps_is_not_cut() -> None:
    from diffusers.models import UNet2DModel

    kinds: dict[str, Any] = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    kinds |= {"block_out_channels": [8], "norm_num_groups": 4, "layers_per_block": 1}
    from_diffusers(UNet2DModel(**kinds))
    for odd in ({"num_class_embeds": 3}, {"time_embedding_type": "fourier"}, {"up_block_types": ["SkipUpBlock2D"]}):
        with pytest.raises(ValueError, match="cannot be cut"):
            from_diffusers(UNet2DModel(**(kinds | odd)))


def test_few_images_are_marked_where_they_are_allowed() -> None:
    assert [require_enough(extractor(), n, 9, allow_few=True) for n in (4, 5)] == [True, False]
    assert [require_enough(extractor(), 9, n, allow_few=True) for n in (4, 5)] == [True, False]


def test_processes_are_as_many_as_devices() -> None:
    from omegaconf import OmegaConf

    def wanted(devices: Any, **more: Any) -> int:
        return processes_wanted(OmegaConf.create({"devices": devices, "accelerator": "cpu", **more}))

    assert [wanted(d) for d in (1, 3, "2", [0, 2], "auto", -1, "-1")] == [1, 3, 2, 2, 1, 1, 1]
    assert wanted(2, num_nodes=1) == 2
    with pytest.raises(UserError, match=r"trainer\.num_nodes=2: .*torchrun"):
        wanted(2, num_nodes=2)


def test_a_target_that_refuses_its_arguments_is_named_by_the_key() -> None:
    """One line that begins with the key; a mistake of the user's stays as it is said."""
    here = "gvr_lightning.methods.label_smoothing.LabelSmoothing"
    with pytest.raises(UserError, match=r"^regularizer\.penalty: smoothing must be in \[0, 1\), got 2$"):
        make({"_target_": here, "smoothing": 2}, "regularizer.penalty")
    with pytest.raises(UserError, match=r"^regularizer\.penalty: .*unexpected keyword argument 'x'"):
        make({"_target_": here, "x": 2}, "regularizer.penalty")
    with pytest.raises(UserError, match=r"^data\.channels=2: 1 \(grey\) or 3 \(colour\)$"):
        make({"_target_": "gvr_lightning.data.image_folder.ImageFolder", "root": "x", "channels": 2}, "data.source")
    assert make(None, "label_noise") is None
    assert make({"_target_": here}, "regularizer.penalty", smoothing=0.3).alpha == 0.3
