"""The command lines of ``gvr-export`` and ``gvr-predict``: settings, what they must be, and what help says."""

from collections.abc import Sequence
from typing import Any

from gvr_lightning.config.ranges import FLAG, NULL, TEXT, WORDS, one_of, whole
from gvr_lightning.config.settings import FLAGS, Table, read_settings, setting_lines

NETWORK: Table = {  # which network
    "which": (None, one_of("last", "best") | NULL, "checkpoint of a run's folder; null: the one that the run tested"),
    "weights": ("ema", one_of("ema", "raw"), "the moving average, where the run has one, or the weights themselves"),
    "trust": (None, TEXT | WORDS | NULL, "a network of somebody else's that the checkpoint names, if you trust it"),
}
RUN: Table = {"run": (None, TEXT | NULL, "a run's folder, or a .ckpt file")}
EXPORT: Table = {
    **RUN,
    "out": ("model.pt", TEXT, ".pt: the weights by the plain network's own names; .onnx: the network as ONNX"),
    **NETWORK,
}
PREDICT: Table = {
    **RUN,
    "images": (None, TEXT | NULL, "a folder of images, at any depth"),
    "out": ("predictions.csv", TEXT, "a .csv: path, class, probability; an image a row, by path"),
    "top": (1, whole(1), "so many of the most probable classes, each with its probability"),
    "skip_broken": (False, FLAG, "leave out images that cannot be decoded, instead of ending with their names"),
    "batch_size": (500, whole(1), "images in memory at a time"),
    "workers": (None, whole(1) | NULL, "decoding threads; null: one a core"),
    "device": ("auto", TEXT, "cpu, cuda, ...; auto: a GPU if there is one"),
    **NETWORK,
}
NEEDED = {"run": "a run's folder, or a .ckpt file"}
EXPORT_INTRO = """\
Writes the trained network of a classification run to a file that needs nothing
of this project; beside it <out>.json with the classes and what is done to an
image before it enters.

Usage: gvr-export run=outputs/<name>/<time> [out=model.pt] [which=best]
                  [key=value ...]
"""
PREDICT_INTRO = """\
Predicts the class of every image in a folder with the network of a
classification run; the images are resized and normalised as the run's test
images were.

Usage: gvr-predict run=outputs/<name>/<time> images=<folder>
                   [out=predictions.csv] [top=3] [key=value ...]
"""


def export_help() -> str:
    """The page of ``gvr-export --help``."""
    return "\n".join([EXPORT_INTRO, "Settings and their defaults", *setting_lines(EXPORT), f"\n{FLAGS}"])


def predict_help() -> str:
    """The page of ``gvr-predict --help``."""
    return "\n".join([PREDICT_INTRO, "Settings and their defaults", *setting_lines(PREDICT), f"\n{FLAGS}"])


def read_export_line(arguments: Sequence[str]) -> dict[str, Any]:
    """The settings; raises UserError for the first mistake."""
    return read_settings(arguments, EXPORT, NEEDED)


def read_predict_line(arguments: Sequence[str]) -> dict[str, Any]:
    """Likewise."""
    return read_settings(arguments, PREDICT, NEEDED | {"images": "a folder"})
