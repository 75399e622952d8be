"""The command line of ``gvr-sample``: its settings, what they must be, and what its help says."""

from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gvr_lightning.config.check import check
from gvr_lightning.config.columns import page_width, row
from gvr_lightning.config.folder import conf_folder, group_options
from gvr_lightning.config.overrides import parse
from gvr_lightning.config.ranges import FLAG, NULL, TEXT, WORDS, one_of, whole
from gvr_lightning.config.settings import FLAGS, Table, read_settings, setting_lines

SETTINGS: Table = {
    "ckpt": (None, TEXT | NULL, "a .ckpt file, a run's folder, or the folder of a diffusers pipeline"),
    "out": ("samples.png", TEXT, "a .png: one grid; anything else: a folder, one PNG an image"),
    "n": (64, whole(1), "images"),
    "seed": (0, whole(0), "image i is a function of (seed, i)"),
    "weights": ("ema", one_of("ema", "raw"), "the moving average, or the weights themselves"),
    "batch_size": (100, whole(1), "images drawn at a time"),
    "bf16": (False, FLAG, "the network in bfloat16"),
    "device": ("auto", TEXT, "cpu, cuda, ...; auto: a GPU if there is one"),
    "trust": (None, TEXT | WORDS | NULL, "a network of somebody else's that the checkpoint names, if you trust it"),
    "export": (None, TEXT | NULL, "a folder, to write the network to as a diffusers pipeline; then out is not written"),
}
NEEDED = {"ckpt": "a run's folder, a .ckpt file, or a diffusers pipeline's folder"}
SHORT = ("steps", "eta", "spacing")  # sampler.steps and so on
INTRO = """\
Draws images from a trained diffusion model.

Usage: gvr-sample ckpt=outputs/<name>/<time> [n=64] [sampler=ddim] [steps=50]
                  [out=grid.png] [key=value ...]
"""


def sample_help() -> str:
    """The page of ``--help``."""
    named = ", ".join(option for option in group_options()["sampler"] if option != "ddim")
    group = row("  sampler=ddim", f"or {named}; steps, eta, spacing and sampler.<key> as in training", 25, page_width())
    return "\n".join([INTRO, "Settings and their defaults", *setting_lines(SETTINGS), group, f"\n{FLAGS}"])


def read_sample_line(arguments: Sequence[str]) -> tuple[dict[str, Any], Any]:
    """The settings, and the sampler's configuration.

    Raises:
        UserError: for the first mistake.
    """
    own: list[str] = []
    overrides: list[str] = []
    for text in arguments:
        key = parse(text).key_or_group
        if key in SHORT:
            overrides.append(f"sampler.{text}")
        else:
            (overrides if key == "sampler" or key.startswith("sampler.") else own).append(text)
    return read_settings(own, SETTINGS, NEEDED, ["sampler", *SHORT]), _sampler(overrides)


def _sampler(overrides: list[str]) -> Any:
    """The sampler as a training run would have it."""
    texts = ["task=ddpm", "task.noise.timesteps=1000000", *overrides]  # the checkpoint says how many there are
    check(texts, multirun=False)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        node = compose("config", overrides=texts).sampler
    return OmegaConf.create(OmegaConf.to_container(node, resolve=True))
