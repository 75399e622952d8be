"""The report as one HTML page that opens without a network, and as Markdown."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gvr_lightning.report.figures import Figure, Look
from gvr_lightning.report.tables import Cell, Table

MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|])")  # what Markdown would read as a mark


@dataclass(frozen=True)
class Section:
    """A setting's part of the report."""

    heading: str
    outcome: str
    tables: Sequence[Table]
    figures: list[Figure]
    samples: list[Figure]


@dataclass(frozen=True)
class Part:
    """A comparison's part."""

    heading: str
    common: str
    sections: Sequence[Section]
    differing: Table
    commands: Sequence[str]


@dataclass(frozen=True)
class Page:
    """All that the page shows."""

    title: str
    opening: Sequence[str]
    warnings: Sequence[str]
    parts: Sequence[Part]
    left_out: Table
    versions: Table
    method: Sequence[str]
    again: str
    looks: dict[str, Look]


def html(page: Page) -> str:
    """The page, its figures within it."""
    return _render("page.html", page, autoescape=True)


def markdown(page: Page) -> str:
    """The same for GitHub, its figures as links to files beside it."""
    text = _render("page.md", page, autoescape=False)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _render(template: str, page: Page, autoescape: bool) -> str:
    folder = Path(__file__).parent / "templates"
    environment = Environment(loader=FileSystemLoader(folder), autoescape=autoescape, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    filters: dict[str, Any] = {"inline": _inline, "md": _escaped, "md_table": _md_table}
    environment.filters |= filters
    return environment.get_template(template).render(page=page)


def _inline(figure: Figure) -> str:
    return "data:image/png;base64," + base64.b64encode(figure.file.read_bytes()).decode()


def _escaped(text: str) -> str:
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _md_table(table: Table) -> str:
    lines = [[_escaped(column) for column in table.columns]]
    lines.append(["---" if i == 0 or table.wide else "---:" for i in range(len(table.columns))])
    lines += [[_md_cell(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _md_cell(cell: Cell) -> str:
    return f"**{_escaped(cell.text)}**" if cell.strong else _escaped(cell.text)
