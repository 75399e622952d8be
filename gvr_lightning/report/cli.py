"""``gvr-report``: a page over the runs in a folder."""

import sys

from gvr_lightning.errors import UserError
from gvr_lightning.report.settings import read_report_line, report_help


def main(args: list[str] | None = None) -> None:
    """Check the command line, then write the report and print where it is; exit status 2 for a mistake.

    Args:
        args: the arguments; None for those of this process.
    """
    arguments = sys.argv[1:] if args is None else args
    if not arguments or {"--help", "-h"} & set(arguments):
        print(report_help())
        return
    try:
        settings = read_report_line(arguments)
        from gvr_lightning.report.write import write_report  # scipy and jinja2, half a second

        print(write_report(settings))
    except UserError as error:
        sys.exit(_complain(error))
    except OSError as error:
        sys.exit(_complain(f"cannot read or write: {error}"))
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(error: object) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
