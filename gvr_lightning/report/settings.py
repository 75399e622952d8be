"""The command line of ``gvr-report``: folders, settings, and what its help says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gvr_lightning.config.columns import page_width, paragraph, row
from gvr_lightning.config.wording import suggest
from gvr_lightning.errors import UserError

SETTINGS = {  # name: its default in words, what it is
    "out": ("DIR/report", "the folder to write to"),
    "metric": ("by task", "what is compared: test/acc, or fid of task=ddpm; any name of summary.json's metrics"),
    "baseline": (
        "control",
        "what all are compared with: a label, or key=value, such as regularizer=none",
    ),
    "published": (
        "",
        "a CSV of published figures by epoch, drawn dashed; may be given again; fid:FILE, is:FILE: of what",
    ),
    "title": ("Comparison", "the page's title"),
}
WHAT = "Compares the runs in one or more folders: a page, its tables as Markdown and CSV, its figures as PNG."
USAGE = """\
Usage: gvr-report DIR [DIR ...] [out=DIR/report] [metric=test/acc]
                  [baseline=KEY=VALUE] [published=FILE] [title=TEXT]"""
HOW = """\
A folder is looked through at any depth. What differs between its runs makes the groups; means, 95% intervals and
differences, paired by seed, are over the seeds. Each group is compared with its control, which sees as many views of a
sample and adds nothing, if baseline= says no other. Runs that did not finish are listed, not averaged."""
FLAGS = "Flags: --help, this page; --version, the project's"


@dataclass(frozen=True)
class Settings:
    """What was asked for."""

    folders: tuple[Path, ...]
    out: Path
    metric: str | None = None
    baseline: str | None = None
    published: tuple[Path, ...] = ()
    title: str = "Comparison"
    arguments: tuple[str, ...] = field(default=())  # as typed, to say how the page is made again


def report_help() -> str:
    """The page of ``--help``."""
    width = page_width()
    told = {name: f"{words} [{default}]" if default else words for name, (default, words) in SETTINGS.items()}
    rows = "\n".join(row(f"  {name}=", words, 15, width) for name, words in told.items())
    parts = [paragraph(WHAT, width), USAGE, paragraph(HOW, width), f"Settings and their defaults\n{rows}", FLAGS]
    return "\n\n".join(parts)


def read_report_line(arguments: Sequence[str]) -> Settings:
    """The settings.

    Raises:
        UserError: for the first mistake.
    """
    folders: list[Path] = []
    values: dict[str, list[str]] = {}
    for text in arguments:
        name, equals, value = text.partition("=")
        if text.startswith("-"):
            raise UserError(f"{text}: there is no such flag; settings are given as key=value, --help shows them")
        if equals and re.fullmatch(r"\w+", name) and not Path(text).exists():  # a folder's name may hold a =
            values.setdefault(_known(text, name, value), []).append(value)
        else:
            folders.append(_folder(text))
    if not folders:
        raise UserError("no folder is given: gvr-report DIR, such as gvr-report outputs")
    once = {name: given[-1] for name, given in values.items()}
    return Settings(
        folders=tuple(folders),
        out=Path(once["out"]).expanduser() if "out" in once else folders[0] / "report",
        metric=once.get("metric"),
        baseline=once.get("baseline"),
        published=tuple(Path(path).expanduser() for path in values.get("published", [])),
        title=once.get("title", SETTINGS["title"][0]),
        arguments=tuple(arguments),
    )


def _known(text: str, name: str, value: str) -> str:
    if name not in SETTINGS:
        raise UserError(f"{text}: there is no such setting; {suggest(name, SETTINGS)}")
    if not value:
        raise UserError(f"{text}: a value is missing")
    return name


def _folder(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise UserError(f"{text}: {'is not a folder' if path.exists() else 'there is no such folder'}")
    return path
