"""Every key of conf/: its default, what its values must be, and what it is for. All three stand in the files of conf/.

A key's line there is ``key: default  # range | help``, in one of the files that have the key; in others it may have a
remark of its own. A key that repeats another one (``${lr}``) has that one's range.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.ranges import Rule, read_range
from gvr_lightning.errors import UserError

ADDED = {
    "optimizer.dampening": "number >= 0",
    "trainer.check_val_every_n_epoch": "whole number >= 1",
}  # arguments that no file has: they are added with +
NOT_KEYS = ("defaults", "hydra")
NO_GROUPS = ("experiment", "sweep")  # these choose values, and bring no keys
_LINE = re.compile(r"(?P<indent> *)(?:- )?(?P<name>\w+):(?P<value> +[^#\s][^#]*?)? *(?:# *(?P<comment>.*))?")


@dataclass
class Key:
    """A key of the configuration."""

    path: str
    range: str = ""  # in words, "" where only its default says
    help: str = ""
    repeats: str = ""  # the key that it repeats
    defaults: dict[str, str] = field(default_factory=dict)  # by option of its group, as they are written

    @property
    def rule(self) -> Rule | None:
        """Its range as a test of values.

        Raises:
            UserError: for words that are no range, of an option that somebody added.
        """
        try:
            return read_range(self.range) if self.range else None
        except ValueError as error:
            file = next(iter(self.defaults), "")
            raise UserError(
                f"{file}.yaml: {self.path}: {error}; what stands before | in its comment is one, such as"
                " number >= 0 or null"
            ) from error


@cache
def schema() -> dict[str, Key]:
    """Every key by its path."""
    found = {path: Key(path, range) for path, range in ADDED.items()}
    for file in _files():
        for path, value, comment in _lines(file):
            key = found.setdefault(path, Key(path))
            key.defaults.setdefault(file.stem, value)
            range_, bar, help_ = (part.strip() for part in comment.partition(" | "))
            if bar and not key.range:
                key.range, key.help = range_, help_
            elif repeated := re.fullmatch(r"\$\{([\w.]+)\}", value):
                key.repeats = repeated[1]
    return found


@cache
def rule_of(path: str) -> Rule | None:
    """What a key's values must be; None where nothing is said but its default."""
    key = schema().get(path)
    if key is None or key.rule is not None or not key.repeats:
        return key.rule if key else None
    return rule_of(key.repeats)


def options_with(path: str) -> list[str]:
    """The options of groups that have a key."""
    return [f"{f.parent.name}={f.stem}" for f in _files()[1:] if any(found == path for found, _, _ in _lines(f))]


def _files() -> list[Path]:
    """The default options first."""
    first = conf_folder() / "config.yaml"
    chosen = dict(re.findall(r"^  - (\w+): (\w+)", first.read_text(encoding="utf-8"), re.MULTILINE))
    groups = [path for path in sorted(conf_folder().iterdir()) if path.is_dir() and path.name not in NO_GROUPS]
    options = [file for group in groups for file in group.glob("*.yaml")]
    return [first, *sorted(options, key=lambda file: (file.stem != chosen.get(file.parent.name), str(file)))]


def _lines(file: Path) -> Iterator[tuple[str, str, str]]:
    """The path, the default and the comment of each line with a key, without the nodes that hold others."""
    text = file.read_text(encoding="utf-8")
    package = re.search(r"^# @package (\S+)", text)
    place = package[1] if package else file.parent.name
    above: list[tuple[int, str]] = [] if file.name == "config.yaml" or place == "_global_" else [(-1, place)]
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        indent, name, value = len(found["indent"]), found["name"], (found["value"] or "").strip()
        while above and above[-1][0] >= indent:
            above.pop()
        path = ".".join([*(part for _, part in above), name])
        if not value:
            above.append((indent, name))
        elif path.startswith("defaults.") and " | " in (found["comment"] or ""):  # a group that may be left out
            yield name, value, found["comment"]
        elif path.partition(".")[0] not in NOT_KEYS and not name.startswith("_") and not value.startswith("{"):
            yield path, value, found["comment"] or ""
