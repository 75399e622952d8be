"""Settings of a regularizer that exclude or need each other, or others."""

import math
from collections.abc import Callable

from gvr_lightning.config.declarations import declared
from gvr_lightning.config.folder import chosen_by
from gvr_lightning.config.lookup import Config, get, kind
from gvr_lightning.config.ranges import is_number
from gvr_lightning.config.wording import show


def views(config: Config) -> str | None:
    """As many views as the penalty compares."""
    number, penalty = get(config, "regularizer.views"), get(config, "regularizer.penalty")
    fewest, most = declared(penalty, "fewest", 1), declared(penalty, "most")
    most = math.inf if most is None else most
    if not is_number(number) or fewest <= number <= most:
        return None
    if number > most and penalty.get("split"):
        return f"regularizer.views={number}: regularizer.penalty.split=true divides one view, so views must be 1"
    wanted = f"be {fewest}" if fewest == most else f"be >= {fewest}" if number < fewest else f"be <= {most}"
    instead = declared(penalty, "with_one_view")
    other = f" (or regularizer={instead})" if instead and number == 1 else ""
    return f"regularizer.views={number}: the penalty compares views, so views must {wanted}{other}"


def per_sample(config: Config) -> str | None:
    """A sample is compared with itself, in the head."""
    penalty = get(config, "regularizer.penalty") or {}
    if not penalty.get("per_sample"):
        return None
    key = "regularizer.penalty"
    if penalty.get("layers") != "head":
        return f"{key}.layers={show(penalty.get('layers'))}: {key}.per_sample=true needs layers=head"
    if penalty.get("split"):
        return f"{key}.split=true: {key}.per_sample=true compares two views of each sample; set one of them to false"
    if penalty.get("subset") is not None and not penalty.get("shared"):
        return (
            f"{key}.subset={penalty['subset']}: with {key}.per_sample=true the views share rows; set {key}.shared=true"
        )
    return None


def alpha_schedule(config: Config) -> str | None:
    """A penalty that there is acts for a while, and comes to its alpha."""
    key = "regularizer.alpha"
    given = {name: get(config, f"{key}_{name}") for name in ("from", "until", "ramp")}
    told = [name for name, value in given.items() if value is not None]
    if not told:
        return None
    if declared(get(config, "regularizer.penalty"), "adds_nothing"):
        return f"{key}_{told[0]}={given[told[0]]}: there is no penalty that alpha is the weight of; leave it out"
    start, until, ramp = given["from"] or 0, 1 if given["until"] is None else given["until"], given["ramp"] or 0
    if start >= until:
        return f"{key}_until={until}: must be larger than {key}_from={start}"
    if start + ramp > until + 1e-9:  # sums of such shares are rounded
        return f"{key}_ramp={ramp}: alpha would not be reached between {key}_from={start} and {key}_until={until}"
    return None


def own_loss(config: Config) -> str | None:
    """A loss of a regularizer's own is not smoothed."""
    smoothing = get(config, "task.label_smoothing")
    if not smoothing or not declared(get(config, "regularizer.penalty"), "replaces_loss"):
        return None
    name = chosen_by("regularizer", get(config, "regularizer.penalty")["_target_"])
    return f"task.label_smoothing={smoothing}: {name} has a loss of its own; leave task.label_smoothing out"


def compiled(config: Config) -> str | None:
    """A compiled backbone is differentiated once."""
    penalty = get(config, "regularizer.penalty")
    if not get(config, "task.compile") or not declared(penalty, "double_backward"):
        return None
    layers = penalty.get("layers")
    if layers is None:
        name = chosen_by("regularizer", penalty["_target_"])
        return f"task.compile=true: {name} differentiates the whole network twice; leave task.compile out"
    which = f"regularizer.penalty.layers={show(layers)}"
    return f"task.compile=true: {which} differentiates the whole network twice; use layers=head or last_stage"


def gradient_scaler(config: Config) -> str | None:
    """A gradient scaler has the gradients once."""
    precision, wrap = get(config, "trainer.precision"), get(config, "regularizer.wrap")
    if str(precision) not in ("16-mixed", "16") or not declared(wrap, "calls_twice"):
        return None
    name = kind(config, "regularizer.wrap")
    return f"trainer.precision={precision}: {name} takes gradients twice, its scaler once: use bf16-mixed or 32-true"


REGULARIZER: tuple[Callable[[Config], str | None], ...] = (
    *(views, per_sample, compiled, gradient_scaler, alpha_schedule, own_loss),
)
