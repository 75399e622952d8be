"""How the pages of ``--help`` are laid out: two columns, as wide as the terminal."""

import shutil
import textwrap

NARROWEST, WIDEST = 80, 100  # what a line of text is read well in


def page_width() -> int:
    """Columns that the terminal has (``COLUMNS``), within bounds; where there is none, 80."""
    return min(max(shutil.get_terminal_size((NARROWEST, 24)).columns, NARROWEST), WIDEST)


def row(left: str, right: str, column: int, width: int) -> str:
    """Two columns; the right one is wrapped, and begins on a line of its own where the left one reaches into it."""
    if not right:
        return left
    begins = f"{left:<{column - 1}} " if len(left) < column - 1 else f"{left}\n{' ' * column}"
    indent = " " * column
    text = textwrap.fill(right, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return begins + text[column:]


def paragraph(text: str, width: int) -> str:
    """A paragraph, wrapped."""
    return textwrap.fill(" ".join(text.split()), width, break_on_hyphens=False)
