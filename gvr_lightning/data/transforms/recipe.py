"""An augmentation from the values of its keys: see conf/augmentation/none.yaml for what each means."""

from collections.abc import Sequence

from gvr_lightning.data.augmentation import Augmentation
from gvr_lightning.data.transforms.affine import Rotation
from gvr_lightning.data.transforms.augmix import AugMix
from gvr_lightning.data.transforms.box import Erasing
from gvr_lightning.data.transforms.colour import ColourJitter, Greyscale
from gvr_lightning.data.transforms.kinds import Transform
from gvr_lightning.data.transforms.policy import Policy, rand_largest, trivial_largest
from gvr_lightning.data.transforms.resample import GaussianBlur, ResizedCrop


def recipe(
    padding: int = 0,
    flip: bool = False,
    cutout: int = 0,
    cutout_prob: float = 0.0,
    crop_scale: Sequence[float] | None = None,
    crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
    degrees: float = 0.0,
    policy: str | None = None,
    policy_ops: int = 2,
    policy_magnitude: int = 9,
    policy_severity: int = 3,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    jitter_prob: float = 1.0,
    grey_prob: float = 0.0,
    blur_prob: float = 0.0,
    blur_sigma: Sequence[float] = (0.1, 2.0),
    blur_radius: int = 1,
    erase_prob: float = 0.0,
    erase_scale: Sequence[float] = (0.02, 0.33),
    erase_ratio: Sequence[float] = (0.3, 3.3),
    weak_first: bool = False,
    same_crop: bool = False,
) -> Augmentation:
    """Those of the transforms that do something, in the order of the arguments; Cutout and erasing come last."""
    policies: dict[str, Transform] = {
        "trivial": Policy(trivial_largest),
        "rand": Policy(rand_largest, policy_ops, policy_magnitude),
        "augmix": AugMix(policy_severity),
    }
    wanted: dict[Transform, object] = {
        ResizedCrop(crop_scale or (1, 1), crop_ratio): crop_scale,
        Rotation(degrees): degrees,
        **{transform: policy == name for name, transform in policies.items()},
        ColourJitter(brightness, contrast, saturation, hue, jitter_prob): brightness or contrast or saturation or hue,
        Greyscale(grey_prob): grey_prob,
        GaussianBlur(blur_prob, blur_sigma, blur_radius): blur_prob,
    }
    transforms = [transform for transform, does in wanted.items() if does]
    erasing = Erasing(erase_prob, erase_scale, erase_ratio) if erase_prob else None
    return Augmentation(padding, flip, cutout, cutout_prob, transforms, erasing, weak_first, same_crop)
