"""The tables of results as plain text, so that a remote shell is enough."""

from collections.abc import Sequence

from gvr_lightning.report.metrics import NONE
from gvr_lightning.report.tables import Cell, Table

COLUMNS = {  # of the result table, as they stand here
    0: "method",
    2: "mean ± sd",
    3: "interval",
    1: "n",
    4: "difference",
    5: "interval",
    8: "compared with",
}
PLAIN = str.maketrans({"±": "+-", NONE: "-", "…": "..."})
STAR = "* its interval excludes zero"


def result_text(table: Table) -> list[str]:
    """Lines of the result table: method, mean ± sd, interval, n, and the difference to its control."""
    rows = [[row[i] for i in COLUMNS] for row in table.rows]
    return [table.caption, *_aligned(list(COLUMNS.values()), rows), *_star(rows)]


def plain_text(table: Table) -> list[str]:
    """Lines of any other table; none where it has no rows."""
    return [table.caption, *_aligned(table.columns, table.rows), *_star(table.rows)] if table.rows else []


def printable(text: str, encoding: str) -> str:
    """The text for a terminal that lacks some of its signs."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(PLAIN).encode(encoding, "replace").decode(encoding)
    return text


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Columns two blanks apart, numbers to the right; a star behind what the page has in bold."""
    lines = [list(columns), *([f"{cell.text}{' *' if cell.strong else ''}" for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = [i == 0 or i == len(columns) - 1 for i in range(len(columns))]
    cells = [
        [text.ljust(n) if first else text.rjust(n) for text, n, first in zip(line, widths, left, strict=True)]
        for line in lines
    ]
    return ["  ".join(line).rstrip() for line in cells]


def _star(rows: Sequence[Sequence[Cell]]) -> list[str]:
    return [STAR] if any(cell.strong for row in rows for cell in row) else []
