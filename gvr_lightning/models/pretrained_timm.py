"""A timm network's weights from a file."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gvr_lightning.errors import UserError


def from_file(path: Path, name: str, **options: Any) -> nn.Module:
    """``timm.create_model`` with pretrained weights that are read from a file; nothing in it is executed.

    timm adapts the first layer to the number of channels and positions to the image's size, and leaves a classifier of
    another number of classes out. It is silent about all else that a file lacks, which is found here: what was not
    loaded is what two networks from different random numbers do not have in common.

    Raises:
        UserError: for a file that holds no weights, or those of another network.
    """
    import timm

    key = f"model.weights={path}"
    weights = _read(path, key)

    def build() -> Any:
        try:
            return timm.create_model(name, True, pretrained_cfg_overlay={"state_dict": dict(weights)}, **options)
        except (AttributeError, KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
            raise UserError(f"{key}: not the weights of {name!r}: {reason}") from error

    net = build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + 1)
        other = dict(build().named_parameters())
    head = next(n for n, module in net.named_modules() if module is net.get_classifier())
    lacking = [n for n, p in net.named_parameters() if not torch.equal(p, other[n])]
    lacking += [n for n in net.state_dict() if _beside_others(n, weights)]  # constants, such as running statistics
    lacking = [n for n in dict.fromkeys(lacking) if n.rpartition(".")[0] != head]
    if lacking:
        more = f" and {len(lacking) - 1} more" * (len(lacking) > 1)
        raise UserError(f"{key}: not the weights of {name!r}: it lacks {lacking[0]}{more}")
    return net  # type: ignore[no-any-return]


def _beside_others(name: str, weights: dict[str, Tensor]) -> bool:
    """Whether a file has the weight of a layer, and not this tensor of it."""
    layer, _, what = name.rpartition(".")
    return name not in weights and f"{layer}.weight" in weights and what != "num_batches_tracked"


def _read(path: Path, key: str) -> dict[str, Tensor]:
    """A file's tensors, by their names in the network."""
    from timm.models import load_state_dict

    if not path.is_file():
        raise UserError(f"{key}: there is no such file")
    try:
        found = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # torch and safetensors raise whatever their readers met
        raise UserError(f"{key}: holds no weights that can be read ({type(error).__name__})") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{key}: holds something else than the tensors of a network")
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Without the hub's own lines about each attempt, and timm's about what it left out: these are told in one."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
