"""Settings of the augmentation that exclude or need each other."""

from collections.abc import Callable

from gvr_lightning.config.declarations import declared
from gvr_lightning.config.lookup import Config, get, kind
from gvr_lightning.config.wording import show

SPANS = ("crop_scale", "crop_ratio", "blur_sigma", "erase_scale", "erase_ratio")


def spans(config: Config) -> str | None:
    """The least and the most."""
    for name in SPANS:
        span = get(config, f"data.augmentation.{name}")
        if isinstance(span, list) and (len(span) != 2 or span[0] > span[1]):
            return f"data.augmentation.{name}={show(span)}: must be the least and the most, [a, b] with a <= b"
    return None


def takes_its_place(config: Config) -> str | None:
    """One augmentation."""
    preset = "crop_scale" in (get(config, "data.augmentation") or {})
    if not preset or get(config, "data.transform") is None:
        return None
    return "data.transform: takes the place of augmentation=..., which would do nothing; leave one of them out"


def mixes(config: Config) -> str | None:
    """Labels that are used, and can be shared out."""
    mix, task, penalty = (get(config, key) for key in ("mix", "task", "regularizer.penalty"))
    if mix is None:
        return None
    if declared(task, "needs", "classes") != "classes":
        return f"mix: task={declared(task, 'kind')} learns without labels; leave mix out"
    if declared(penalty, "hard_labels"):
        return f"mix: {kind(config, 'regularizer.penalty')} needs one label a sample; leave mix out"
    if mix.get("mixup") == 0 and mix.get("cutmix") == 0:
        return "mix.mixup=0 and mix.cutmix=0 mix nothing; leave mix out"
    return None


AUGMENTATION: tuple[Callable[[Config], str | None], ...] = (spans, takes_its_place, mixes)
