"""The page that ``--help`` prints, read off the configs."""

import re
from collections.abc import Sequence
from pathlib import Path

from gvr_lightning.config.columns import page_width, paragraph, row
from gvr_lightning.config.folder import conf_folder, first_comment, group_options
from gvr_lightning.config.schema import schema

INTRO = """\
Trains image classifiers and diffusion models with gradient regularizers (GVR, AGR) and controls.

Usage: python train.py [flags] [group=option ...] [key=value ...]
       gvr-train ... is the same, installed

A group's option is a whole part of the configuration; a key is one value of it. A mistake in either ends at once, in
one line."""
KEYS_INSIDE = """\
Keys inside a group are set as group.key=value, such as optimizer.momentum=0.8; docs/pages/keys.md lists them all. An
argument that the configuration does not list is added with +, such as +trainer.detect_anomaly=true; ~ removes one."""
FLAGS = {
    "-m": "a sweep: one run for every combination of the values given as a,b,c",
    "--cfg job": "print the whole configuration that the rest of the line makes, with every key that can be set"
    " (--resolve: the references ${...} filled in); nothing runs",
    "--config-dir <folder>": "a folder with options of your own, <group>/<option>.yaml; as hydra.searchpath=[...]"
    " does, and with either --help shows them, too",
    "--help, --version": "this page; the project's version",
    "--hydra-help": "the flags of Hydra, which reads the command line",
}
LEAVES = {
    "summary.json": "final figures",
    "metrics.csv": "every logged value",
    "curves.png": "accuracy and loss",
    "config.yaml": "everything that was configured",
    "checkpoints/": "last.ckpt, best.ckpt",
    "samples/": "image grids (task=ddpm)",
}
EXAMPLES = """\
Examples
  GVR on the bundled digits, in seconds:
    python train.py regularizer=gvr alpha=0.01
  a comparison over three seeds, then its report:
    python train.py -m regularizer=none,two_view,gvr seed=0,1,2 name=study
    gvr-report outputs/study
  your own images, one folder a class:
    python train.py data=image_folder data.root=photos data.image_size=32 \\
        model=resnet20
  a diffusion model, with FID and IS:
    python train.py task=ddpm regularizer=agr optimizer=adan
  a published row, whole recipe:
    python train.py experiment=gvr_cifar100
  continue a run that was stopped:
    python train.py resume=outputs/<name>/<time>"""


def help_page(own: Sequence[Path] = (), width: int | None = None) -> str:
    """The page of ``--help``, plain text.

    Args:
        own: folders of the user's own options.
        width: columns; None: those of the terminal.
    """
    width = width or page_width()
    config = (conf_folder() / "config.yaml").read_text(encoding="utf-8")
    mine = ", + of your own" if own else ""
    return "\n\n".join(
        [
            *(part if part.startswith("Usage") else paragraph(part, width) for part in INTRO.split("\n\n")),
            f"Groups and their options (* is the default{mine})\n" + _groups(config, own, width),
            "Keys and their defaults\n" + _keys(width),
            "Flags\n" + _rows(FLAGS, 26, width),
            paragraph(KEYS_INSIDE, width),
            "A run leaves, in outputs/<name>/<time>/ (printed last)\n" + _rows(LEAVES, 26, width),
            EXAMPLES,
        ]
    )


def _groups(config: str, own: Sequence[Path], width: int) -> str:
    defaults = dict(re.findall(r"^  - (\w+): (\w+)", config, re.MULTILINE))
    options, ours = group_options(own), group_options()
    lines = []
    for group in [*(g for g in defaults if g in options), *(g for g in options if g not in defaults)]:
        lines.append(f"  {group}")
        for option in options[group]:
            mark = "*" if option == defaults.get(group) else "" if option in ours[group] else "+"
            lines.append(row(f"    {mark}{option}", first_comment(group, option, own), 26, width))
    return "\n".join(lines)


def _keys(width: int) -> str:
    """The keys of the run itself, one a line."""
    rows = {}
    for key in schema().values():
        if "config" in key.defaults and key.path not in group_options():
            value = re.sub(r"\$\{hydra:runtime\.choices\.(\w+)\}", r"<\1>", key.defaults["config"])
            rows[f"{key.path}={value.partition('${')[0]}"] = f"{key.help} ({key.range})"
    return _rows(rows, 32, width)


def _rows(rows: dict[str, str], column: int, width: int) -> str:
    return "\n".join(row(f"  {left}", right, column, width) for left, right in rows.items())
