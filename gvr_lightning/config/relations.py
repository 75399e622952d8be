"""Settings that exclude or need each other."""

from collections.abc import Callable
from typing import Any

from gvr_lightning.config.rules import is_number
from gvr_lightning.config.wording import show
from gvr_lightning.errors import UserError

Config = dict[str, Any]
CLASSIFIERS = ("small_cnn", "resnet", "wide_resnet", "timm_network")
VARIANCE = ("GradientVariance", "PublishedGradientVariance")  # these compare views


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
    if _kind(config, "regularizer.penalty") not in VARIANCE or not is_number(number):
        return None
    if split and number != 1:
        return f"regularizer.views={number}: regularizer.penalty.split=true divides one view, so views must be 1"
    if not split and number < 2:
        return (
            f"regularizer.views={number}: the penalty compares views, so views must be >= 2 (or regularizer=gvr_split)"
        )
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
    kind = _kind(config, "regularizer.penalty")
    twice = kind == "PublishedGradientVariance" or (kind in VARIANCE and layers not in (None, "head", "last_stage"))
    if not get(config, "task.compile") or not twice:
        return None
    which = f"regularizer.penalty.layers={show(layers)}" if layers is not None else "regularizer=gvr_published"
    return f"task.compile=true: {which} differentiates the whole network twice; use layers=head or last_stage"


def norm_groups(config: Config) -> str | None:
    """GroupNorm's groups are of one size."""
    groups, width = get(config, "model.groups"), get(config, "model.width")
    if _kind(config, "model") != "small_cnn" or not (is_number(groups) and is_number(width)) or width % groups == 0:
        return None
    return f"model.groups={groups} must divide model.width={width}"


def depth(config: Config) -> str | None:
    """Three stages of blocks of two convolutions, and four layers more."""
    layers = get(config, "model.depth")
    if _kind(config, "model") != "wide_resnet" or not is_number(layers) or (layers - 4) % 6 == 0:
        return None
    return f"model.depth={layers}: must be 6 n + 4, such as 10, 16, 22, 28, 34 or 40"


def nesterov(config: Config) -> str | None:
    """Nesterov's momentum is a momentum."""
    sgd = get(config, "optimizer") or {}
    if _kind(config, "optimizer") != "SGD" or not sgd.get("nesterov"):
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
    task, model = _kind(config, "task"), _kind(config, "model")
    if task == "DiffusionTask" and model in CLASSIFIERS:
        return f"task=ddpm needs a network that gives images, which {model} does not: choose model=unet_small"
    if task == "ClassificationTask" and model == "unet":
        return "task=classification needs a network that gives classes, which a U-Net does not: choose model=resnet18"
    return None


def generates(config: Config) -> str | None:
    """Only a diffusion model is sampled."""
    for group in ("sampler", "extractor"):
        if _kind(config, "task") == "ClassificationTask" and get(config, group) is not None:
            return f"{group}: images are generated with task=ddpm only; leave {group} out, or add task=ddpm"
    return None


def pixels(config: Config) -> str | None:
    """Images are drawn in [-1, 1], so they are trained on in [-1, 1]."""
    if _kind(config, "task") != "DiffusionTask":
        return None
    for name in ("mean", "std"):
        value = get(config, f"data.{name}")
        if value is None or (isinstance(value, list) and any(v != 0.5 for v in value)):
            return f"data.{name}={show(value)}: task=ddpm draws images in [-1, 1], so data.mean and data.std are [0.5]"
    return None


def sampling_steps(config: Config) -> str | None:
    """No more steps than timesteps."""
    steps, timesteps = get(config, "sampler.steps"), get(config, "task.noise.timesteps")
    if not (is_number(steps) and is_number(timesteps)) or steps <= timesteps:
        return None
    return f"sampler.steps={steps}: there are task.noise.timesteps={timesteps}, so steps must be <= that"


def beta_range(config: Config) -> str | None:
    """From less noise to more."""
    betas = get(config, "task.noise.beta_range")
    if not isinstance(betas, list) or len(betas) != 2 or betas[0] <= betas[1]:
        return None
    return f"task.noise.beta_range={show(betas)}: the first must not be larger than the second"


RELATIONS: tuple[Callable[[Config], str | None], ...] = (
    *(clipping, shares, views, per_sample, compiled, norm_groups, depth, nesterov, channels),
    *(network, generates, pixels, sampling_steps, beta_range),
)


def get(config: Config, path: str) -> Any:
    """The value at a path, None if there is none."""
    node: Any = config
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _kind(config: Config, path: str) -> str:
    """The name of a node's target, without its module."""
    return str(get(config, f"{path}._target_")).rpartition(".")[2]
