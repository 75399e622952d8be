"""What the commands have in common: help, one line for a mistake, exit statuses."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from gvr_lightning import __version__
from gvr_lightning.app.memory import keep_memory
from gvr_lightning.errors import UserError

TRACEBACK = "traceback.txt"


def command(arguments: list[str], help_page: Callable[[], str], work: Callable[[list[str]], object]) -> None:
    """Print the help, the version, or what ``work(arguments)`` returns; a mistake ends in one line and status 2."""
    if not arguments or {"--help", "-h"} & set(arguments):
        print(help_page())
        return
    if "--version" in arguments:
        print(f"gvr_lightning {__version__}")
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in training
    keep_memory()
    try:
        print(work(arguments))
    except UserError as error:
        _stop(f"{error}{keep_details(error, Path(tempfile.gettempdir()))}")
    except OSError as error:
        _stop(f"cannot read or write: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def keep_details(error: UserError, folder: Path) -> str:
    """Write what a mistake's line leaves out, if anything, into the folder; returns what the line has to say of it."""
    path = folder / TRACEBACK
    try:
        if error.details:
            path.write_text(error.details, encoding="utf-8")
    except OSError:  # the line counts
        return ""
    return f"; the traceback is in {path}" if error.details else ""


def _stop(error: object) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
