"""Writes the tables of pages/keys.md from what the files of conf/ say of each key: python docs/keys.py."""

import re
from collections.abc import Iterator
from pathlib import Path

from gvr_lightning.config.schema import Key, schema

PAGE = Path(__file__).parent / "pages" / "keys.md"
SECTIONS = (
    *("task", "data", "label_noise", "mix", "regularizer", "model", "optimizer", "scheduler"),
    *("sampler", "extractor", "generation", "trainer", "logger"),
)


def tables() -> str:
    """A table for the keys of the run itself, and one for each group."""
    sections = {"The run": [key for key in _shown() if key.path.partition(".")[0] not in SECTIONS]}
    sections |= {f"`{name}`": [key for key in _shown() if key.path.partition(".")[0] == name] for name in SECTIONS}
    return "\n\n".join(f"## {title}\n\n{_table(keys)}" for title, keys in sections.items())


def page(text: str) -> str:
    """The page with its tables as they are now."""
    return re.sub(r"(?ms)^## The run$.*\Z", lambda _: tables() + "\n", text)


def _shown() -> Iterator[Key]:
    for key in schema().values():
        if (
            key.defaults
            and key.path not in SECTIONS
            and not key.repeats
            and not next(iter(key.defaults.values())).startswith("${")
        ):
            yield key


def _table(keys: list[Key]) -> str:
    rows = [f"| `{key.path}` | {_defaults(key)} | {_escaped(key.range)} | {_escaped(key.help)} |" for key in keys]
    return "\n".join(["| key | default | values | meaning |", "|---|---|---|---|", *rows])


def _defaults(key: Key) -> str:
    """The default, and what other options have instead; an option has no default where a value is missing."""
    first, *others = key.defaults.items()
    different: dict[str, list[str]] = {}
    for option, value in others:
        if value != first[1]:
            different.setdefault(value, []).append(option)
    told = "; ".join(f"`{value}`: {', '.join(options)}" for value, options in different.items() if value != "???")
    return f"`{first[1]}`" + (f" ({told})" if told else "")


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_").replace("{", "&#123;")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
