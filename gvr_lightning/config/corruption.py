"""The corruptions that test images may be scored under, by name. Loads no torch."""

from gvr_lightning.config.declarations import declared
from gvr_lightning.config.lookup import Config, get
from gvr_lightning.config.wording import show, suggest

KINDS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur"),
    *("brightness", "contrast", "pixelate", "jpeg_compression"),
)
SEVERITIES = (1, 3, 5)  # of the published five
ALL = "all"


def chosen(value: str | list[str] | None) -> tuple[str, ...]:
    """The kinds that a value of ``data.corruption`` means, in the order of ``KINDS``."""
    names = [value] if isinstance(value, str) else value or []
    return KINDS if ALL in names else tuple(kind for kind in KINDS if kind in names)


def corruption(config: Config) -> str | None:
    """Kinds that there are, for a task that is scored by labels."""
    value, task = get(config, "data.corruption"), get(config, "task")
    if value is None:
        return None
    if declared(task, "needs", "classes") != "classes":
        return f"data.corruption: task={declared(task, 'kind')} has no accuracy to lose; leave data.corruption out"
    names = value if isinstance(value, list) else [value]
    unknown = next((name for name in names if name not in (ALL, *KINDS)), None)
    if unknown is None:
        return None
    return f"data.corruption={show(value)}: there is no corruption {unknown}; {suggest(unknown, (ALL, *KINDS))}"
