"""Transforms of whole batches: torchvision's of the same parameters, image by image, and what is drawn."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2

from gvr_lightning.data.transforms import kinds
from gvr_lightning.data.transforms.affine import Rotation
from gvr_lightning.data.transforms.augmix import AugMix
from gvr_lightning.data.transforms.box import Erasing, crop_boxes
from gvr_lightning.data.transforms.colour import ColourJitter, Greyscale
from gvr_lightning.data.transforms.kinds import Transform, between
from gvr_lightning.data.transforms.policy import BLENDS, OPERATIONS, Policy, rand_largest, trivial_largest
from gvr_lightning.data.transforms.recipe import recipe
from gvr_lightning.data.transforms.resample import CROP, GaussianBlur, ResizedCrop, interpolation, resampled
from gvr_lightning.errors import UserError
from gvr_lightning.random import hash_key, uniform

H, W, N = 13, 18, 24
SCALE, RATIO = (0.1, 0.9), (0.5, 2.0)
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
EVERYTHING: dict[str, Any] = {"padding": 1, "flip": True, "cutout": 3, "cutout_prob": 0.5, "crop_scale": SCALE}
EVERYTHING |= {"degrees": 20.0, "policy": "trivial", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
EVERYTHING |= {"jitter_prob": 0.8, "grey_prob": 0.2, "blur_prob": 0.5, "erase_prob": 0.5}


def pictures(channels: int = 3, n: int = N) -> Tensor:
    """Noise on slopes; among them a flat one, a grey one and one of two levels."""
    g = torch.Generator().manual_seed(2)
    slope = torch.linspace(20, 200, W) * torch.rand(n, channels, 1, 1, generator=g)
    x = (slope + 60 * torch.rand(n, channels, H, W, generator=g)).to(torch.uint8)
    x[1], x[2], x[3] = 77, x[2, :1], (x[3] > 90) * 200
    return x


def drawn(transform: Transform, n: int = N, key: int = 5) -> Tensor:
    return uniform(key, torch.arange(n), transform.draws)


def one_by_one(images: Tensor, function: Callable[..., Tensor], *parameters: Any) -> Tensor:
    rows = zip(images, *(p.tolist() if isinstance(p, Tensor) else p for p in parameters), strict=True)
    return torch.stack([function(*row) for row in rows])


def jittered(image: Tensor, factors: list[float], order: list[int]) -> Tensor:
    steps = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    for kind in order:
        image = steps[kind](image, factors[kind])
    return image


def cropped(x: Tensor, u: Tensor) -> Tensor:
    boxes = [side.long() for side in crop_boxes(u, (H, W), SCALE, RATIO)]
    return one_by_one(x, lambda i, *box: F.resized_crop(i, *box, [H, W], antialias=True), *boxes)


def turned(x: Tensor, u: Tensor) -> Tensor:
    return one_by_one(x, F.rotate, between(u[0], -40, 40))


def blurred(x: Tensor, u: Tensor) -> Tensor:
    return one_by_one(x, lambda i, s: F.gaussian_blur(i, [5, 5], [s, s]), between(u[0].double(), 0.3, 2))


def shaken(x: Tensor, u: Tensor) -> Tensor:
    spans = [(0.5, 1.5), (0.2, 1.8), (0, 2.2), (-0.3, 0.3)]
    factors = torch.stack([between(draw, *span) for draw, span in zip(u[:4], spans, strict=True)], 1)
    return one_by_one(x, jittered, factors, u[4:8].argsort(0).T)


def alone(kind: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Of jitter one kind, between 0.4 and 1.6, or a third of the circle of hues."""
    steps = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    span = (-1 / 3, 1 / 3) if kind == 3 else (0.4, 1.6)
    return lambda x, u: one_by_one(x, steps[kind], between(u[kind], *span))


# ours, torchvision's, how many pixels in 10,000 may be one level beside, and how many further
SAME: dict[str, tuple[Transform, Callable[[Tensor, Tensor], Tensor], int, int]] = {
    "crop": (ResizedCrop(SCALE, RATIO), cropped, 0, 0),
    "rotation": (Rotation(40), turned, 0, 0),
    "brightness": (ColourJitter(0.6, 0, 0, 0), alone(0), 0, 0),
    "contrast": (ColourJitter(0, 0.6, 0, 0), alone(1), 0, 0),
    "saturation": (ColourJitter(0, 0, 0.6, 0), alone(2), 300, 0),  # a grey pixel stays; torchvision rounds it
    "hue": (ColourJitter(0, 0, 0, 1 / 3), alone(3), 2, 0),
    "jitter": (ColourJitter(0.5, 0.8, 1.2, 0.3), shaken, 200, 10),  # the hue of what is nearly grey
    "grey": (Greyscale(1.0), lambda x, u: one_by_one(x, lambda i: F.rgb_to_grayscale(i, 3)), 2, 0),
    "blur": (GaussianBlur(1.0, (0.3, 2), 2), blurred, 200, 0),  # no float32 noise decides what is half a level
}


@pytest.mark.parametrize("name", SAME)
def test_a_transform_is_torchvision_s_of_the_same_parameters(name: str) -> None:
    transform, reference, near, far = SAME[name]
    x, u = pictures(), drawn(transform)
    given = x.clone()
    ours, theirs = transform(x, u), reference(x, u)
    apart = (ours.int() - theirs.int()).abs()
    assert ours.dtype == torch.uint8 and torch.equal(x, given) and (ours != x).float().mean() > 0.2
    assert (apart > 0).float().mean() <= near / 1e4 and (apart > 1).float().mean() <= far / 1e4


@pytest.mark.parametrize("name", ["crop", "rotation", "contrast", "saturation", "hue", "blur"])
def test_one_channel_is_as_torchvision_has_it(name: str) -> None:
    transform, reference, near, _ = SAME[name]
    x, u = pictures(1), drawn(transform)
    apart = (transform(x, u).int() - reference(x, u).int()).abs()
    assert apart.max() <= min(near, 1)
    assert torch.equal(transform(x, u), x) == (name in ("saturation", "hue"))


def by_operation(image: Tensor, name: str, m: float) -> Tensor:
    """As torchvision's policies call its functions; the magnitude is exact."""
    move = {"ShearX": (0, 0), "ShearY": (0, 0), "TranslateX": (int(m), 0), "TranslateY": (0, int(m))}
    if name in move:
        shear = [math.degrees(math.atan(m)) if name == f"Shear{axis}" else 0.0 for axis in "XY"]
        centre = [0, 0] if "Shear" in name else None
        return F.affine(image, angle=0.0, translate=list(move[name]), scale=1.0, shear=shear, center=centre)
    factor = {"Brightness": F.adjust_brightness, "Color": F.adjust_saturation, "Contrast": F.adjust_contrast}
    factor["Sharpness"] = F.adjust_sharpness
    if name in factor:
        return factor[name](image, 1 + m)
    others: dict[str, Callable[[Tensor], Tensor]] = {
        "Identity": lambda i: i,
        "Rotate": lambda i: F.rotate(i, m),
        "Posterize": lambda i: F.posterize(i, int(m)),
        "Solarize": lambda i: F.solarize(i, m),
        "AutoContrast": F.autocontrast,
        "Equalize": F.equalize,
    }
    return others[name](image)


def magnitude(name: str, policy: Any, bin_: int) -> float:
    """Of the policies' own tables, by exact arithmetic, and near what torchvision's have."""
    table, _ = policy._AUGMENTATION_SPACE[name]
    ends = table(31, H, W)
    if ends is None:
        return 0.0
    if name in ("Posterize", *BLENDS):
        return float(ends[bin_])
    first, last = (255 * float(e) if name == "Solarize" else round(float(e), 5) for e in (ends[0], ends[-1]))
    if name.startswith("Translate") and last != 32:
        last = 150 / 331 * (W if name[-1] == "X" else H)
    return first + bin_ * ((last - first) / 30)


def near_a_tie(name: str, m: float) -> Tensor:
    """(H, W): pixels whose source lies half-way between two, where float32 decides."""
    y, x = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (H, W))
    shift = (m * y).unsqueeze(1).expand(H, W) if name == "ShearX" else (m * x).expand(H, W)
    return ((shift - 0.5) - (shift - 0.5).round()).abs() < 1e-4


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_an_operation_of_a_policy_is_torchvision_s(policy: str, name: str) -> None:
    theirs: Any = v2.TrivialAugmentWide() if policy == "trivial" else v2.RandAugment()
    ours = Policy(trivial_largest if policy == "trivial" else rand_largest)
    x = pictures(n=6)
    if name == "Equalize":  # which leaves images alone that have fewer pixels than levels
        x = x.repeat_interleave(4, 2).repeat_interleave(5, 3) + torch.arange(5 * W).to(torch.uint8) // 9
    _, signed = theirs._AUGMENTATION_SPACE[name]
    for bin_, sign in itertools.product((0, 9, 15, 23, 30), (1.0, -1.0)):
        m = magnitude(name, theirs, bin_) * (sign if signed else 1)
        kind = torch.full((6,), float(OPERATIONS.index(name)))
        found = ours.operated(x, kind, torch.full((6,), float(bin_)), torch.full((6,), sign))
        apart = (found.int() - one_by_one(x, by_operation, [name] * 6, [m] * 6).int()).abs()
        if name.startswith("Shear"):
            apart[..., near_a_tie(name, m)] = 0
        near = {"Color": 0.25, "Brightness": 0.01, "Contrast": 0.01, "Sharpness": 0.01}.get(name, 0)
        assert apart.max() <= (near > 0) and (apart > 0).float().mean() <= near, (bin_, sign)


def test_the_operations_are_those_of_torchvision() -> None:
    for policy in (v2.TrivialAugmentWide(), v2.RandAugment()):
        assert tuple(policy._AUGMENTATION_SPACE) == OPERATIONS


def test_operations_magnitudes_and_signs_are_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 40_000
    seen: list[tuple[Tensor, ...]] = []
    monkeypatch.setattr(Policy, "operated", lambda self, images, *drawn: (seen.append(drawn), images)[1])
    for policy in (Policy(trivial_largest), Policy(rand_largest, 2, 7)):
        policy(torch.zeros(n, 1, 1, 1, dtype=torch.uint8), drawn(policy, n))
    (kind, bin_, sign), *rand = seen
    table = np.zeros((14, 31, 2))
    np.add.at(table, (kind.long().numpy(), bin_.long().numpy(), (sign > 0).long().numpy()), 1)
    assert chisquare(table.ravel()).pvalue > 1e-3  # all 868 of them
    assert len(rand) == 2 and all((bins == 7).all() for _, bins, _ in rand)
    both = np.zeros((14, 14))
    np.add.at(both, tuple(kinds.long().numpy() for kinds, _, _ in rand), 1)
    assert chisquare(both.ravel()).pvalue > 1e-3


def test_crops_are_drawn_as_torchvision_draws_them() -> None:
    """Areas, shapes and places of boxes in a wide image, where trials fail; and what is left if all do."""
    size, n = (40, 90), 2500
    theirs = v2.RandomResizedCrop(8, scale=(0.3, 1.0), ratio=(0.5, 1.5))
    torch.manual_seed(0)
    given = [theirs.make_params([torch.zeros(1, *size)]) for _ in range(n)]
    boxes = np.array([[box[k] for k in ("top", "left", "height", "width")] for box in given])
    ours = torch.stack(crop_boxes(uniform(1, torch.arange(n), 22), size, (0.3, 1.0), (0.5, 1.5)), 1).numpy()
    features = [lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2], lambda b: b[:, 0] / (41 - b[:, 2])]
    for feature in (*features, lambda b: b[:, 1] / (91 - b[:, 3])):
        edges = np.unique(np.quantile(feature(boxes), np.linspace(0, 1, 9)))
        counts = [np.histogram(feature(b), [-1, *edges[1:-1], 1e9])[0] for b in (boxes, ours)]
        assert chi2_contingency(counts).pvalue > 1e-3
    for impossible in ((3.0, 4.0), (0.1, 0.2)):  # no trial fits: the middle, as near to the ratio as can be
        box = [side[0].item() for side in crop_boxes(uniform(1, torch.arange(3), 22), size, (0.9, 1.0), impossible)]
        torch.manual_seed(0)
        params = v2.RandomResizedCrop(8, (0.9, 1.0), impossible).make_params([torch.zeros(1, *size)])
        assert box == [params[k] for k in ("top", "left", "height", "width")]


def test_erased_boxes_are_torchvision_s() -> None:
    n, size = 2500, (20, 30)
    erasing = Erasing(0.6, (0.1, 0.5), (0.4, 2.0))
    mask = erasing.outside(drawn(erasing, n), size)[:, 0] == 0  # type: ignore[arg-type]
    hit = mask.flatten(1).any(1)
    assert abs(hit.float().mean().item() - 0.6) < 0.04
    heights, widths = mask.any(2).sum(1)[hit], mask.any(1).sum(1)[hit]
    assert torch.equal(heights * widths, mask.sum((1, 2))[hit])  # whole boxes
    torch.manual_seed(0)
    theirs = v2.RandomErasing(1.0, (0.1, 0.5), (0.4, 2.0))
    boxes = [theirs.make_params([torch.zeros(1, *size)]) for _ in range(1200)]
    for ours, name in ((heights, "h"), (widths, "w")):
        edges = [0, *np.quantile([b[name] for b in boxes], [0.2, 0.4, 0.6, 0.8]), 99]
        counts = [np.histogram(sides, np.unique(edges))[0] for sides in (ours, [b[name] for b in boxes])]
        assert chi2_contingency(counts).pvalue > 1e-3
    found = recipe(erase_prob=1.0)(pictures(), MEAN, STD, torch.arange(N), [1])[0]
    plain = recipe()(pictures(), MEAN, STD, torch.arange(N), [1])[0]
    assert (found[found != plain] == 0).all() and (found != plain).any(1).flatten(1).any(1).all()


def test_jitter_is_uniform_in_factor_and_order() -> None:
    n = 24_000
    jitter = ColourJitter(0.5, 0, 0, 0)
    order = drawn(jitter, n)[4:8].argsort(0).T.tolist()
    counts = [sum(1 for one in order if tuple(one) == p) for p in itertools.permutations(range(4))]
    assert chisquare(counts).pvalue > 1e-3
    level = jitter(torch.full((n, 3, 1, 1), 100, dtype=torch.uint8), drawn(jitter, n))[:, 0, 0, 0]
    assert (level.min(), level.max()) == (50, 149) and chisquare(np.bincount(level.numpy())[50:]).pvalue > 1e-3
    often = ColourJitter(0.5, 0, 0, 0, 0.3)(torch.full((n, 3, 1, 1), 200, dtype=torch.uint8), drawn(jitter, n))
    assert (often != 200).float().mean() == pytest.approx(0.3, abs=0.02)


ALL: dict[str, Transform] = {
    **{name: row[0] for name, row in SAME.items()},
    "at times jittered": ColourJitter(0.5, 0.8, 1.2, 0.3, 0.5),
    "at times blurred": GaussianBlur(0.5, (1, 2), 1),
    "trivial": Policy(trivial_largest),
    "rand": Policy(rand_largest, 3, 20),
    "augmix": AugMix(5),
}


class Waits(TorchDispatchMode):
    """Refuses what a GPU is waited for: a value that is read, a shape that depends on values, numbers sent over."""

    names = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "lift_fresh",
        "equal",
        "is_nonzero",
        "unique",
        "_unique2",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put") and any(i is not None and i.dtype == torch.bool for i in args[1])
        assert name not in self.names and not by_mask, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ALL)
def test_a_device_is_not_waited_for_and_finds_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transform = ALL[name]
    for x in (pictures(), pictures()[:0]):
        u = drawn(transform, len(x))
        by_rows = transform(x, u)
        with monkeypatch.context() as patch, Waits():
            patch.setattr(kinds, "takes_rows", lambda images: False)
            whole = transform(x, u)
        assert torch.equal(by_rows, whole) and whole.shape == x.shape and whole.dtype == torch.uint8


def test_waiting_would_be_noticed() -> None:
    for wait in (lambda x: x.sum().item(), lambda x: x[x > 1], lambda x: x.nonzero(), lambda x: torch.tensor([1, 2])):
        with pytest.raises(AssertionError), Waits():
            wait(torch.arange(3))


def test_sums_are_exact_so_that_their_order_does_not_matter() -> None:
    x, sides = pictures(), torch.full((N,), 11.0).double()
    rows, columns = interpolation(sides * 0 + 1, sides, H), interpolation(sides * 0 + 3, sides - 0.5, W)
    assert torch.equal(rows * CROP, (rows * CROP).round())
    along = torch.einsum("nvw,nchw->nchv", columns.double(), x.double())
    down = torch.einsum("ngh,nchv->ncgv", rows.double(), (along + 0.5).floor())
    assert torch.equal(resampled(x, rows, columns, 1), (down + 0.5).floor().clamp(0, 255).to(torch.uint8))


def test_a_view_with_every_transform_depends_on_its_sample_and_key_alone() -> None:
    x, index = pictures(), torch.arange(N) * 7 + 1
    augmented = recipe(**EVERYTHING)
    keys = [hash_key(1, 2, view) for view in range(2)]
    first, second = augmented(x, MEAN, STD, index, keys)
    assert first.shape == x.shape and first.dtype == torch.float32
    assert (first != second).flatten(1).any(1).all()
    some = torch.tensor([9, 4, 17])
    assert torch.equal(augmented(x[some], MEAN, STD, index[some], keys[1:])[0], second[some])


def test_no_transform_changes_the_draws_of_another() -> None:
    x, index = pictures(), torch.arange(N)
    numbers = [
        t.number
        for t in (*(row[0] for row in SAME.values()), Policy(trivial_largest), Erasing(1, SCALE, RATIO), AugMix(1))
    ]
    kinds_of = {type(row[0]).__name__ for row in SAME.values()}
    assert len(set(numbers)) == len(kinds_of) + 3
    u = torch.stack([uniform(hash_key(3, number), torch.arange(20_000), 1)[0] for number in sorted(set(numbers))])
    views = torch.cat([u, uniform(hash_key(4, min(numbers)), torch.arange(20_000), 1)])
    assert torch.corrcoef(views).fill_diagonal_(0).abs().max() < 0.03
    boxes = recipe(crop_scale=SCALE, grey_prob=1.0)(x, MEAN, STD, index, [5])[0]
    first = recipe(crop_scale=SCALE)
    alone = Greyscale(1.0)(first.transforms[0](x, uniform(hash_key(5, 1), index, 22)), torch.zeros(1, N))
    assert torch.equal(boxes, recipe()(alone, MEAN, STD, index, [5])[0])


def test_the_recipe_without_further_transforms_is_the_plain_augmentation() -> None:
    from gvr_lightning.data.augmentation import Augmentation

    x, index = pictures(), torch.arange(N)
    for settings in ((4, True, 16, 0.5), (1, False, 0, 0.0), (0, False, 0, 0.0)):
        ours, plain = recipe(*settings), Augmentation(*settings)
        assert torch.equal(ours(x, MEAN, STD, index, [8])[0], plain(x, MEAN, STD, index, [8])[0])
        assert list(ours.transforms) == [] and ours.erasing is None


def test_every_setting_of_the_recipe_arrives() -> None:
    x, index = pictures(), torch.arange(N)
    base = EVERYTHING | {"policy": "rand", "erase_prob": 1.0, "blur_prob": 1.0}
    changes: dict[str, Any] = {"crop_scale": (0.5, 1), "crop_ratio": (1, 1), "degrees": 40.0, "policy": None}
    changes |= {
        "policy_ops": 1,
        "policy_magnitude": 20,
        "brightness": 0.9,
        "contrast": 0.9,
        "saturation": 0.9,
        "hue": 0.5,
    }
    changes |= {
        "hue": 0.5,
        "jitter_prob": 0.1,
        "grey_prob": 1.0,
        "blur_prob": 0.0,
        "blur_sigma": (1, 1),
        "blur_radius": 3,
    }
    changes |= {"erase_prob": 0.0, "erase_scale": (0.3, 0.5), "erase_ratio": (1, 1)}
    before = recipe(**base)(x, MEAN, STD, index, [4])[0]
    for name, value in changes.items():
        assert not torch.equal(recipe(**base | {name: value})(x, MEAN, STD, index, [4])[0], before), name


def test_images_that_a_transform_cannot_change_are_refused() -> None:
    two = torch.zeros(2, 2, 5, 5, dtype=torch.uint8)
    for settings in ({"hue": 0.1}, {"grey_prob": 1.0}, {"policy": "trivial"}):
        with pytest.raises(UserError, match="need images of 1 or 3 channels, not 2"):
            recipe(**settings)(two, torch.zeros(1), torch.ones(1), torch.arange(2), [1])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="blur_radius=5: must be less than the images' side"):
        recipe(blur_prob=0.5, blur_radius=5)(two, torch.zeros(1), torch.ones(1), torch.arange(2), [1])
