"""What ``gvr-export`` does: a trained classifier as a file for those who do not have this project."""

import json
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gvr_lightning.app.trained import trained_classifier
from gvr_lightning.checkpoint import STARTS, Loaded
from gvr_lightning.errors import UserError
from gvr_lightning.files import atomic
from gvr_lightning.instantiate import guarded

TIMM = "gvr_lightning.models.timm_network.timm_network"


def export_model(
    run: str, out: str = "model.pt", which: str | None = None, weights: str = "ema", trust: Any = None
) -> Path:
    """Write a run's network, and beside it <out>.json with its classes and what is done to an image before.

    Args:
        run: a run's folder, or a .ckpt file.
        out: a .pt, the weights; or an .onnx, the network.
        which: "last" or "best" of a folder; None for the one that the run tested.
        weights: "ema" or "raw".
        trust: dotted names of networks of others that the checkpoint may name.

    Returns:
        What was written.

    Raises:
        UserError: for what is no classification run, another ending, or a network that cannot be exported.
    """
    path, write = Path(out).expanduser(), WRITERS.get(Path(out).suffix)
    if write is None:
        raise UserError(f"out={out}: the file's name ends in {' or '.join(WRITERS)}")
    if write is _write_onnx:
        _require_onnx(out)
    checkpoint, loaded = trained_classifier(run, which, weights, trust)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(loaded, path)
    about = {"checkpoint": str(checkpoint), "epoch": loaded.epoch, "weights": weights, **description(loaded)}
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    atomic(
        path.with_name(f"{path.name}.json"),
        lambda temporary: temporary.write_text(text, encoding="utf-8", errors="replace"),
    )
    return path


def description(loaded: Loaded) -> dict[str, Any]:
    """What somebody has to know who uses the network."""
    channels, height, width = loaded.image_shape
    data = loaded.config.get("data") or {}
    return {
        "network": _how_it_is_made(loaded),
        "input": "float32 (N, C, H, W): (pixels / 255 - mean) / std",
        "image_shape": [channels, height, width],
        "mean": loaded.mean.expand(channels).tolist(),
        "std": loaded.std.expand(channels).tolist(),
        "resize": "bilinear with antialiasing, to cover the size / crop_pct; then the centre",
        "crop_pct": loaded.crop_pct,
        "source_shape": list(loaded.source_shape),
        "eval_transform": data.get("eval_transform"),
        "output": "logits (N, classes)",
        "classes": list(loaded.classes),
    }


def _how_it_is_made(loaded: Loaded) -> str:
    """The call that makes the network."""
    settings = {k: v for k, v in loaded.config["model"].items() if k not in STARTS}
    target = settings.pop("_target_")
    if target == TIMM:
        name, options = settings.pop("name"), settings.pop("options", None) or {}
        given = {"num_classes": len(loaded.classes), "in_chans": loaded.image_shape[0], **options}
        return f"timm.create_model({', '.join([repr(name), *_arguments(given)])})"
    given = {"image_shape": loaded.image_shape, "num_classes": len(loaded.classes), **settings}
    return f"{target}({', '.join(_arguments(given))})"


def _arguments(given: dict[str, Any]) -> list[str]:
    return [f"{name}={value!r}" for name, value in given.items() if name not in STARTS]


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The weights by the names of the network that was cut, where it was one; else by its own."""
    state, names = network.state_dict(), getattr(network, "plain_names", None)
    return {plain: state[name].clone() for plain, name in names.items()} if names else dict(state)


def _write_weights(loaded: Loaded, path: Path) -> None:
    atomic(path, lambda temporary: torch.save(plain_state(loaded.network), temporary))


def _write_onnx(loaded: Loaded, path: Path) -> None:
    """Any number of images at a time; the names are ``images`` and ``logits``."""

    def write(temporary: Path) -> None:
        torch.onnx.export(
            loaded.network,
            (torch.zeros(2, *loaded.image_shape),),
            temporary,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )

    with guarded(f"out={path}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own parts
        atomic(path, write)


def _require_onnx(out: str) -> None:
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise UserError(f"out={out}: needs {' and '.join(missing)}: pip install {' '.join(missing)}")


WRITERS: dict[str, Callable[[Loaded, Path], None]] = {".pt": _write_weights, ".onnx": _write_onnx}
