"""Settings that exclude or need each other."""

import re
from collections.abc import Callable

from gvr_lightning.config.augmentation import AUGMENTATION
from gvr_lightning.config.corruption import corruption
from gvr_lightning.config.declarations import declared
from gvr_lightning.config.generation import GENERATION
from gvr_lightning.config.lookup import Config, get, kind
from gvr_lightning.config.optimizer import fused_and_scaled
from gvr_lightning.config.ranges import is_number
from gvr_lightning.config.regularizer import REGULARIZER
from gvr_lightning.config.schedule import SCHEDULE
from gvr_lightning.config.wording import show
from gvr_lightning.errors import UserError

INSTEAD = {"images": "unet_small", "classes": "resnet18"}  # models, by what they give
OURS = "gvr_lightning."  # before the names of classes whose settings are known here


def check_relations(config: Config) -> None:
    """Check a resolved configuration whose single values are right.

    Raises:
        UserError: for the first relation that does not hold.
    """
    for relation in RELATIONS:
        complaint = relation(config)
        if complaint is not None:
            raise UserError(complaint)


def name(config: Config) -> str | None:
    """The name is part of a folder's, below outputs/."""
    text = get(config, "name")
    if not isinstance(text, str) or "${" in text:
        return None
    complaint = folder_complaint(text) or ("be longer than 200 characters" if len(text) > 200 else "")
    return f"name={show(text)}: it is part of the run's folder, and must not {complaint}" if complaint else None


def folder_complaint(text: str) -> str:
    """What a folder must not do, "" for one as it should be."""
    if not text.strip() or not text.isprintable():
        return "be empty or of several lines"
    return "climb (..); give an absolute path instead" if ".." in re.split(r"[/\\]", text) else ""


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


def norm_groups(config: Config) -> str | None:
    """GroupNorm's groups are of one size."""
    groups, width = get(config, "model.groups"), get(config, "model.width")
    ours = str(get(config, "model._target_")).startswith(OURS)
    if not (ours and is_number(groups) and is_number(width)) or width % groups == 0:
        return None
    return f"model.groups={groups} must divide model.width={width}"


def blocks(config: Config) -> str | None:
    """A number of blocks for each stage of a resnet."""
    numbers, widths = get(config, "model.blocks"), get(config, "model.widths")
    if not (isinstance(numbers, list) and isinstance(widths, list)):
        return None
    if kind(config, "model") != "resnet":
        return f"model.blocks={show(numbers)}: a list is of a resnet's stages; give one number"
    return (
        None
        if len(numbers) == len(widths)
        else (f"model.blocks={show(numbers)}: needs one entry for each of model.widths={show(widths)}")
    )


def depth(config: Config) -> str | None:
    """Three stages of blocks of two convolutions, and four layers more."""
    layers = get(config, "model.depth")
    ours = str(get(config, "model._target_")).startswith(OURS)
    if not ours or not is_number(layers) or (layers - 4) % 6 == 0:
        return None
    return f"model.depth={layers}: must be 6 n + 4, such as 10, 16, 22, 28, 34 or 40"


def nesterov(config: Config) -> str | None:
    """Nesterov's momentum is a momentum."""
    sgd = get(config, "optimizer") or {}
    if not sgd.get("nesterov") or "momentum" not in sgd:
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


def image_size(config: Config) -> str | None:
    """One side of a square, or height and width."""
    size = get(config, "data.image_size")
    if not isinstance(size, list) or len(size) == 2:
        return None
    return f"data.image_size={show(size)}: one number, or two, the height and the width"


def kept(config: Config) -> str | None:
    """Images that stay encoded are brought to a size, and broken ones among them are not known."""
    data = get(config, "data") or {}
    if data.get("keep") == "encoded" and data.get("skip_broken"):
        why = "which images are broken is known once all are decoded"
        return f"data.skip_broken=true: not with data.keep=encoded, as {why}"
    if "image_size" not in data or data["image_size"] is not None:
        return None
    if data.get("keep") == "encoded":
        return "data.keep=encoded: set data.image_size, as images that stay encoded need not be of one size"
    if is_number(data.get("crop_pct")) and data["crop_pct"] < 1:
        return f"data.crop_pct={data['crop_pct']}: is of resized images; set data.image_size"
    return None


def network(config: Config) -> str | None:
    """A network that gives what the task needs."""
    task, model = get(config, "task"), get(config, "model")
    needs, gives = declared(task, "needs"), declared(model, "gives")
    if None in (needs, gives) or needs == gives:
        return None
    name = kind(config, "model")
    return (
        f"task={declared(task, 'kind')} needs a network that gives {needs}, which {name} does not:"
        f" choose model={INSTEAD[needs]}"
    )


def labels(config: Config) -> str | None:
    """Noise in labels that are used."""
    task = get(config, "task")
    if get(config, "label_noise") is None:
        return None
    if declared(task, "needs", "classes") == "classes":
        noisy = get(config, "label_noise.validation") == "noisy" and get(config, "data.val_fraction") == 0
        return "label_noise.validation=noisy: there are no images validated on (data.val_fraction=0)" if noisy else None
    return f"label_noise: task={declared(task, 'kind')} learns without labels; leave label_noise out"


def stops_early(config: Config) -> str | None:
    """Where validation decides, there is one."""
    patience = get(config, "early_stopping.patience")
    if patience is None or get(config, "data.val_fraction") != 0:
        return None
    return f"early_stopping.patience={patience}: goes by validation, which data.val_fraction=0 leaves out"


RELATIONS: tuple[Callable[[Config], str | None], ...] = (
    *(name, clipping, shares, norm_groups, blocks, depth, nesterov, channels),
    *(image_size, kept, network, labels, stops_early),
    *(corruption, fused_and_scaled),
    *(*REGULARIZER, *SCHEDULE, *AUGMENTATION, *GENERATION),
)
