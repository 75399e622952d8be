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
    """Soft labels, where they are used and can be."""
    name = next((key for key in ("mix.mixup", "mix.cutmix") if get(config, key)), None)
    if name is None:
        return None
    task = get(config, "task")
    if declared(task, "needs", "classes") != "classes":
        return f"{name}={get(config, name)}: task={declared(task, 'kind')} learns without labels; leave it out"
    if declared(get(config, "regularizer.penalty"), "hard_labels"):
        return (
            f"{name}={get(config, name)}: {kind(config, 'regularizer.penalty')} needs one label a sample; leave it out"
        )
    return None


AUGMENTATION: tuple[Callable[[Config], str | None], ...] = (spans, takes_its_place, mixes)
