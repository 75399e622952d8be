"""Settings that exclude or need each other."""

from collections.abc import Callable

from gvr_lightning.config.generation import GENERATION
from gvr_lightning.config.lookup import Config, get, kind
from gvr_lightning.config.rules import is_number
from gvr_lightning.config.wording import show
from gvr_lightning.errors import UserError

CLASSIFIERS = ("small_cnn", "resnet", "wide_resnet", "timm_network")
VARIANCE = ("GradientVariance", "PublishedGradientVariance")
COMPARE = (*VARIANCE, "Consistency")  # these compare views
CALL_TWICE = ("SAM", "sam_agr")


def check_relations(config: Config) -> None:
    """Check a resolved configuration whose single values are right.

    Raises:
        UserError: for the first relation that does not hold.
    """
    for relation in RELATIONS:
        complaint = relation(config)
        if complaint is not None:
            raise UserError(complaint)


def clipping(config: Config) -> str | None:
    """One kind of clipping."""
    norm, value = get(config, "task.clip_norm"), get(config, "task.clip_value")
    if norm is None or value is None:
        return None
    return f"task.clip_norm={norm} and task.clip_value={value} exclude each other: set one of them to null"


def shares(config: Config) -> str | None:
    """A batch that processes and micro-batches divide evenly; more is known once devices have been counted."""
    size, accumulate, devices = (get(config, key) for key in ("batch_size", "task.accumulate", "trainer.devices"))
    processes = devices if is_number(devices) and devices > 0 else 1
    parts = processes * accumulate if is_number(accumulate) else processes
    return uneven_batch(size, parts) if is_number(size) else None


def uneven_batch(size: int, parts: int) -> str | None:
    """What to say of a batch that is not a multiple of ``parts``."""
    if size % parts == 0:
        return None
    near = [n for n in (size // parts * parts, -(-size // parts) * parts) if n]
    return (
        f"batch_size={size}: it is divided by the number of processes times task.accumulate, {parts},"
        f" so it must be a multiple of that: {' or '.join(map(str, near))}"
    )


def views(config: Config) -> str | None:
    """As many views as the penalty compares."""
    number, split = get(config, "regularizer.views"), bool(get(config, "regularizer.penalty.split"))
    penalty = kind(config, "regularizer.penalty")
    if penalty not in COMPARE or not is_number(number):
        return None
    if split and number != 1:
        return f"regularizer.views={number}: regularizer.penalty.split=true divides one view, so views must be 1"
    if not split and number < 2:
        other = " (or regularizer=gvr_split)" if penalty in VARIANCE else ""
        return f"regularizer.views={number}: the penalty compares views, so views must be >= 2{other}"
    return None


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


def compiled(config: Config) -> str | None:
    """A compiled backbone is differentiated once."""
    layers = get(config, "regularizer.penalty.layers")
    penalty = kind(config, "regularizer.penalty")
    inner = layers in (None, "head", "last_stage")
    twice = penalty == "PublishedGradientVariance" or (penalty in VARIANCE and not inner)
    if not get(config, "task.compile") or not twice:
        return None
    which = f"regularizer.penalty.layers={show(layers)}" if layers is not None else "regularizer=gvr_published"
    return f"task.compile=true: {which} differentiates the whole network twice; use layers=head or last_stage"


def norm_groups(config: Config) -> str | None:
    """GroupNorm's groups are of one size."""
    groups, width = get(config, "model.groups"), get(config, "model.width")
    if kind(config, "model") != "small_cnn" or not (is_number(groups) and is_number(width)) or width % groups == 0:
        return None
    return f"model.groups={groups} must divide model.width={width}"


def depth(config: Config) -> str | None:
    """Three stages of blocks of two convolutions, and four layers more."""
    layers = get(config, "model.depth")
    if kind(config, "model") != "wide_resnet" or not is_number(layers) or (layers - 4) % 6 == 0:
        return None
    return f"model.depth={layers}: must be 6 n + 4, such as 10, 16, 22, 28, 34 or 40"


def nesterov(config: Config) -> str | None:
    """Nesterov's momentum is a momentum."""
    sgd = get(config, "optimizer") or {}
    if kind(config, "optimizer") != "SGD" or not sgd.get("nesterov"):
        return None
    if sgd.get("momentum") and not sgd.get("dampening"):
        return None
    return "optimizer.nesterov=true: needs optimizer.momentum > 0 and no optimizer.dampening"


def channels(config: Config) -> str | None:
    """One entry a channel."""
    lengths = {f"data.{name}": get(config, f"data.{name}") for name in ("mean", "std")}
    known = {key: len(value) for key, value in lengths.items() if isinstance(value, list) and len(value) > 1}
    if is_number(get(config, "data.channels")):
        known["data.channels"] = get(config, "data.channels")
    if len(set(known.values())) < 2:
        return None
    return "one entry a channel is needed: " + ", ".join(f"{key} says {n}" for key, n in known.items())


def network(config: Config) -> str | None:
    """A network that gives what the task needs."""
    task, model = kind(config, "task"), kind(config, "model")
    if task == "DiffusionTask" and model in CLASSIFIERS:
        return f"task=ddpm needs a network that gives images, which {model} does not: choose model=unet_small"
    if task == "ClassificationTask" and model == "unet":
        return "task=classification needs a network that gives classes, which a U-Net does not: choose model=resnet18"
    return None


def labels(config: Config) -> str | None:
    """Noise in labels that are used."""
    if kind(config, "task") != "DiffusionTask" or get(config, "label_noise") is None:
        return None
    return "label_noise: task=ddpm learns without labels; leave label_noise out"


def gradient_scaler(config: Config) -> str | None:
    """A gradient scaler has the gradients once."""
    precision, wrap = get(config, "trainer.precision"), kind(config, "regularizer.wrap")
    if str(precision) not in ("16-mixed", "16") or wrap not in CALL_TWICE:
        return None
    return f"trainer.precision={precision}: SAM takes the gradients twice, its scaler once: use bf16-mixed or 32-true"


RELATIONS: tuple[Callable[[Config], str | None], ...] = (
    *(clipping, shares, views, per_sample, compiled, norm_groups, depth, nesterov, channels),
    *(network, labels, gradient_scaler, *GENERATION),
)
