"""The page that ``--help`` prints, read off the configs."""

import re
import textwrap

from gvr_lightning.config.folder import conf_folder, first_comment, group_options
from gvr_lightning.config.schema import schema

WIDTH = 100
INTRO = """\
Trains image classifiers and diffusion models with gradient regularizers (GVR, AGR) and controls.

Usage: python train.py [flags] [group=option ...] [key=value ...]     (installed: gvr-train ...)

A group's option is a whole part of the configuration; a key is one value of it. A mistake in either
ends at once, in one line."""
OUTRO = """\
Flags
  -m              a sweep: one run for every combination of the values given as a,b,c
  --cfg job       print the whole configuration that the rest of the line makes, and every key in it
                  that can be set (--resolve: with the references ${...} filled in); nothing runs
  --hydra-help    the flags of Hydra, which reads the command line

Keys inside a group are set as group.key=value, such as optimizer.momentum=0.8. An argument that the
configuration does not list is added with +, such as +trainer.detect_anomaly=true; ~ removes one.

A run leaves, in outputs/<name>/<time>/ (printed last):
  summary.json    final figures             config.yaml     everything that was configured
  metrics.csv     every logged value        checkpoints/    last.ckpt, best.ckpt
  curves.png      accuracy and loss         samples/        image grids (task=ddpm)

Examples
  python train.py regularizer=gvr alpha=0.01                   GVR on the bundled digits, in seconds
  python train.py task=ddpm regularizer=agr optimizer=adan     a diffusion model, FID and IS
  python train.py experiment=gvr_cifar100                      a published row, whole recipe
  python train.py -m regularizer=none,two_view,gvr seed=0,1,2  a comparison over three seeds
  python train.py data=image_folder data.root=photos data.image_size=32 model=resnet20
                                                               your own images, one folder a class
  python train.py resume=outputs/<name>/<time>                 continue a run that was stopped"""


def help_page() -> str:
    """The page of ``--help``, plain text in at most 100 columns."""
    config = (conf_folder() / "config.yaml").read_text(encoding="utf-8")
    groups = "Groups and their options (* is the default)\n" + _groups(config)
    return "\n\n".join([INTRO, groups, "Keys and their defaults\n" + _keys(), OUTRO])


def _groups(config: str) -> str:
    defaults = dict(re.findall(r"^  - (\w+): (\w+)", config, re.MULTILINE))
    options = group_options()
    lines = []
    for group in [*(g for g in defaults if g in options), *(g for g in options if g not in defaults)]:
        marked = {o: f"*{o}" if o == defaults.get(group) else o for o in options[group]}
        comments = {o: first_comment(group, o) for o in options[group]}
        if any(comments.values()):
            column = max(21, 6 + max(map(len, marked.values())))
            lines += [f"  {group}", *(_row(f"    {marked[o]}", comment, column) for o, comment in comments.items())]
        else:
            lines.append(_row(f"  {group}", ", ".join(marked.values()), 15))
    return "\n".join(lines)


def _keys() -> str:
    """The keys of the run itself, one a line."""
    rows = []
    for key in schema().values():
        if "config" in key.defaults and key.path not in group_options():
            value = re.sub(r"\$\{hydra:runtime\.choices\.(\w+)\}", r"<\1>", key.defaults["config"])
            rows.append(_row(f"  {key.path}={value}", f"{key.help} ({key.range})", 32))
    return "\n".join(rows)


def _row(left: str, right: str, column: int) -> str:
    """Two columns; the right one is wrapped."""
    start = f"{left:<{column - 1}} "
    return textwrap.fill(right, WIDTH, initial_indent=start, subsequent_indent=" " * column) if right else left
