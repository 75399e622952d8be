"""Every constant of a published recipe beside the published one: where the two differ, why.

Sources: code and logs of Habibu-Ahmad/Gradient-Variance-Regularization; code of hjiang24/AGR-method, branch master,
Image_generation/main_ddpm.py and Image_classification/{cifar100,TinyViT,Swin_Transformer,ConvNeXt}.
"""

from typing import Any, NamedTuple

import pytest
import yaml
from composed import composed_once  # noqa: F401 (a fixture)
from test_recipes import composed

from gvr_lightning.config.folder import conf_folder, group_options
from gvr_lightning.config.identity import leaves

pytestmark = pytest.mark.usefixtures("composed_once")


class Constant(NamedTuple):
    """One of a recipe's."""

    key: str  # the option that has it
    ours: Any
    published: Any = "the same"
    why: str = ""  # where they differ


def of(why: str = "", published: Any = "the same", **ours: Any) -> list[Constant]:
    """Several; two underscores are a dot."""
    return [Constant(key.replace("__", "."), value, published, why) for key, value in ours.items()]


GVR = [
    *of(epochs=200, batch_size=128, lr=0.05, seed=42, model__widths=[64, 128, 256, 512], model__blocks=2),
    *of(optimizer__momentum=0.9, optimizer__weight_decay=5e-4, scheduler__interval="epoch", scheduler__min_lr=0.0),
    *of(data__augmentation__padding=4, data__augmentation__flip=True, data__augmentation__cutout=16),
    *of(data__augmentation__cutout_prob=0.5, data__val_fraction=0.0, alpha=0.01),
    *of("there after every epoch, and its last is reported", "each epoch", test_on="last"),
]
SUBSET = [*of(regularizer__penalty__subset=32, regularizer__views=2)]
NOT_RECORDED = "not recorded: the code's default is SGD's"
CIFAR100 = [
    *of(epochs=200, batch_size=128, optimizer__weight_decay=5e-4, optimizer__betas=[0.9, 0.999], optimizer__eps=1e-8),
    *of(NOT_RECORDED, 0.1, lr=0.001),
    *of("epochs count from 1 there, and fall at their start", [60, 120, 160], scheduler__milestones=[59, 119, 159]),
    *of(scheduler__gamma=0.2, scheduler__warmup_epochs=1, scheduler__warmup_start=0.0, data__val_fraction=0.0),
    *of(data__mean=[0.5070751592371323, 0.48654887331495095, 0.4409178433670343]),
    *of(data__std=[0.2673342858792401, 0.2564384629170883, 0.27615047132568404]),
    *of(data__augmentation__padding=4, data__augmentation__flip=True, data__augmentation__cutout=0),
    *of(data__augmentation__degrees=15.0, task__label_smoothing=0.0, task__clip_norm=None),
]
IMAGENET = [
    *of(epochs=300, optimizer__weight_decay=0.05, optimizer__betas=[0.9, 0.999], optimizer__eps=1e-8),
    *of("relative positions, too, there", "norms, biases", parameters__no_decay="norm_bias"),
    *of(scheduler__warmup_steps=None, scheduler__warmup_epochs=20, scheduler__cosine=True),
    *of(task__label_smoothing=0.1, data__image_size=224, data__val_fraction=0.0),
    *of(data__mean=[0.485, 0.456, 0.406], data__std=[0.229, 0.224, 0.225]),
    *of("where it lies", "", data__root="data/tiny-imagenet-200", data__test_folder="val"),
    *of(data__augmentation__crop_scale=[0.08, 1.0], data__augmentation__crop_ratio=[0.75, 1.3333333333333333]),
    *of(data__augmentation__flip=True, data__augmentation__erase_prob=0.25, data__augmentation__padding=0),
    *of("an increasing and a varying magnitude", "rand-m9-mstd0.5-inc1", data__augmentation__policy="rand"),
    *of(data__augmentation__policy_ops=2, data__augmentation__policy_magnitude=9),
    *of("set there, and left out by timm beside a policy", 0.4, data__augmentation__brightness=0.0),
    *of("alike for a whole batch there", 0.8, mix__mixup=0.8),
    *of("alike for a whole batch there", 1.0, mix__cutmix=1.0),
    *of(mix__prob=1.0),
    *of("half precision for TinyViT and Swin there", "16-mixed", trainer__precision="32-true"),
]
TWO_GPUS = [
    *of("128 on each of two GPUs", 128, batch_size=256),
    *of("0.0005 for 512 images", 0.0005, lr=0.00025),
    *of("5e-6 for 512 images", 5e-6, scheduler__min_lr=2.5e-6),
    *of("5e-7 of 5e-4", 5e-7, scheduler__warmup_start=0.001),
    *of(task__clip_norm=5.0, task__ema_decay=0.0),
]
DDPM = [
    *of(epochs=2000, batch_size=128, lr=2e-4, seed=42, data__val_fraction=0.0, task__clip_norm=1.0),
    *of(task__noise__beta_schedule="linear", task__noise__beta_range=[1e-4, 0.02], task__noise__timesteps=1000),
    *of(task__noise__prediction="epsilon", task__ema_decay=0.9999, task__ema_warmup=False),
    *of("1000 / T is 1 at T = 1000", True, task__noise__scale_betas=False),
    *of(model__widths=[128, 256, 256, 256], model__blocks=2, model__attention=[False, True, False, False]),
    *of(model__dropout=0.1, model__init="published", model__groups=32, extractor__resize="pytorch_fid"),
    *of(scheduler__warmup_steps=200, scheduler__warmup_start=0.0, scheduler__cosine=False),
    *of(sampler__steps=100, sampler__eta=0.0, sampler__set_alpha_to_one=False, sampler__clip_sample=False),
    *of(sampler__steps_offset=1),
    *of("another name", "linear", sampler__spacing="leading"),
    *of(generation__num_images=50000, generation__weights="raw", generation__splits=10),
    *of("one epoch later there; the columns say these", [401, 801, 1201, 1601], generation__score_every_n_epochs=[
        10, 400, 800, 1200, 1600]),
    *of("pictures alone", 200, generation__every_n_epochs=200),
    *of("changes nothing", 128, generation__batch_size=500),
]  # fmt: skip
ROWS: dict[str, list[Constant]] = {
    **{f"{row}_{data}": GVR for row in ("sgd", "two_view") for data in ("cifar10", "cifar100")},
    **{f"gvr_{data}": GVR + SUBSET for data in ("cifar10", "cifar100")},
    **{f"ddpm_cifar10_{name}": DDPM for name in ("acprop", "adam", "adamw", "adan", "rmsprop")},
    "agr_ddpm_cifar10": [*DDPM, *of(optimizer__betas=[0.98, 0.92, 0.99], optimizer__no_prox=False)],
    "agr_resnet18_cifar100": [*CIFAR100, *of(model__widths=[64, 128, 256, 512], model__blocks=2)],
    "agr_vgg11_cifar100": [*CIFAR100, *of(model__width=64, model__hidden=4096, model__dropout=0.5)],
    "agr_tinyvit_tiny_imagenet": [
        *(*IMAGENET, *TWO_GPUS, *of(model__name="tiny_vit_5m_224", model__options=None, scheduler__cosine_from="start"))
    ],
    "agr_swin_tiny_imagenet": [
        *(*IMAGENET, *TWO_GPUS, *of(model__name="swin_tiny_patch4_window7_224", scheduler__cosine_from="warmup")),
        *of(model__options__drop_path_rate=0.2),
    ],
    "agr_convnext_tiny_imagenet": [
        *(*IMAGENET, *of(model__name="convnext_tiny", scheduler__cosine_from="warmup", scheduler__min_lr=1e-6)),
        *of("128 on each of two GPUs, times 4", 128, batch_size=1024),
        *of(lr=0.004, scheduler__warmup_start=0.0, task__clip_norm=None, task__ema_decay=0.9999),
        *of(model__options__drop_path_rate=0.1, task__accumulate=4, task__ema_warmup=False),
    ],
}  # fmt: skip
OWN = ("_noise", "_small", "digits")  # the project's own studies


def test_every_published_recipe_is_in_the_table() -> None:
    published = [name for name in group_options()["experiment"] if not any(word in name for word in OWN)]
    assert sorted(ROWS) == sorted(published)


@pytest.mark.parametrize("name", ROWS)
def test_a_recipe_s_constants_are_those_published(name: str) -> None:
    tree, _ = composed(f"experiment={name}")
    flat = leaves(tree)
    for constant in ROWS[name]:
        assert flat[constant.key] == constant.ours, constant
        assert constant.published == "the same" or constant.why, constant
    assert len({constant.key for constant in ROWS[name]}) == len(ROWS[name])
    told = {constant.key for constant in ROWS[name]} | {"name"}
    assert set_by(name) <= told


def set_by(name: str) -> set[str]:
    """The keys that a recipe's file sets, and those of the recipes that it starts from."""
    file = yaml.safe_load((conf_folder() / "experiment" / f"{name}.yaml").read_text())
    bases = [base for base in file.pop("defaults", []) if isinstance(base, str)]
    return set(leaves(file)).union(*map(set_by, bases))
