"""A progress bar on standard error, where that is a terminal."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn


def progress_bar(*columns: ProgressColumn, quiet: bool = False) -> Progress:
    """A description, a bar, and further columns.

    Args:
        columns: behind the bar; a string would be a format of the task.
        quiet: to show nothing.

    Returns:
        What does nothing where ``disable`` says so: on no terminal, for which a line has to do.
    """
    console = Console(stderr=True)
    shown = console.is_terminal and not quiet
    console.quiet = not shown  # rich before 14.3 ends a bar that is disabled with an empty line
    return Progress(TextColumn("{task.description}"), BarColumn(), *columns, console=console, disable=not shown)
