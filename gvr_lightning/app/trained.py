"""A trained classifier from a run's folder or a checkpoint, for what comes after training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvr_lightning.checkpoint import Loaded, load_checkpoint, load_network
from gvr_lightning.checkpoint_names import BEST, LAST
from gvr_lightning.config.trust import HARMLESS, names, require_own, targets_in
from gvr_lightning.data.augmentation import PerImage, normalise
from gvr_lightning.errors import UserError
from gvr_lightning.instantiate import make

CALL: Any = Callable


def trained_classifier(run: str, which: str | None, weights: str, trust: Any) -> tuple[Path, Loaded]:
    """A network and the checkpoint that it is from.

    Args:
        run: a run's folder, or a .ckpt file.
        which: "last" or "best" of a folder; None for the one that the run tested.
        weights: "ema" or "raw".
        trust: dotted names of networks of others that the checkpoint may name.

    Raises:
        UserError: for what is no checkpoint of a classification run.
    """
    path = _checkpoint(Path(run).expanduser(), which)
    loaded = load_network(path, weights, names(trust))
    if loaded.kind != "classification":
        raise UserError(f"run={path}: the checkpoint of a {loaded.kind} run, which has no classes; see gvr-sample")
    return path, loaded


def _checkpoint(run: Path, which: str | None) -> Path:
    if not run.is_dir():
        if which is not None:
            raise UserError(f"which={which}: chooses within a run's folder, and run={run} is none")
        return run
    folder = run / "checkpoints"
    if not (folder / LAST).exists():
        raise UserError(f"run={run}: there is no checkpoints/{LAST} in it, so it is no run's folder")
    config = load_checkpoint(folder / LAST).get("config") if which is None else None
    tested = which or (config.get("test_on") if isinstance(config, dict) else None)
    return folder / (BEST if tested == "best" else LAST)


def preparation(loaded: Loaded, path: Path, trust: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """What is done to test images before the network: the run's own transform, normalisation.

    Returns:
        uint8 images (N, C, H, W) and their numbers -> what enters the network.

    Raises:
        UserError: for a transform that is neither torchvision's nor trusted.
    """
    node = (loaded.config.get("data") or {}).get("eval_transform")
    if node is None:
        return lambda images, _: normalise(images, loaded.mean, loaded.std)
    known = [target for target in targets_in(node) if HARMLESS.fullmatch(target)]
    own = require_own(node, "data.eval_transform", f"checkpoint {path}", "data", [*names(trust), *known])
    transform = PerImage(make(own, "data.eval_transform", CALL))
    return lambda images, index: transform(images, loaded.mean, loaded.std, index, [0])[0]


def device_named(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one.

    Raises:
        UserError: for one that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name}: {str(error).split(' at start of')[0].splitlines()[0]}") from error
