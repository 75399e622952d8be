"""``gvr-report``: a page over the runs in a folder."""

import sys

from gvr_lightning.app.command import command
from gvr_lightning.report.settings import read_report_line, report_help


def main(args: list[str] | None = None) -> None:
    """Check the command line, then write the report and print where it is; exit status 2 for a mistake.

    Args:
        args: the arguments; None for those of this process.
    """
    command(sys.argv[1:] if args is None else args, report_help, _report)


def _report(arguments: list[str]) -> object:
    settings = read_report_line(arguments)
    from gvr_lightning.report.terminal import printable
    from gvr_lightning.report.write import write_report  # scipy and jinja2, half a second

    return printable(write_report(settings), sys.stdout.encoding)


if __name__ == "__main__":
    main()
