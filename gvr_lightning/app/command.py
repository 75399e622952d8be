"""What ``gvr-sample`` and ``gvr-report`` have in common: help, one line for a mistake, exit statuses."""

import sys
from collections.abc import Callable

from gvr_lightning.errors import UserError


def command(arguments: list[str], help_page: Callable[[], str], work: Callable[[list[str]], object]) -> None:
    """Print the help, or what ``work(arguments)`` returns; a mistake ends in one line and exit status 2."""
    if not arguments or {"--help", "-h"} & set(arguments):
        print(help_page())
        return
    try:
        print(work(arguments))
    except UserError as error:
        _stop(error)
    except OSError as error:
        _stop(f"cannot read or write: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _stop(error: object) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
