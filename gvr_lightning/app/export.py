"""``gvr-export``: a trained classifier as a file for others. Loads torch once its settings are right."""

import sys

from gvr_lightning.app.command import command
from gvr_lightning.config.trained import export_help, read_export_line


def main() -> None:
    """Check the command line, then do it; exit status 2 for a mistake."""
    command(sys.argv[1:], export_help, _export)


def _export(arguments: list[str]) -> object:
    settings = read_export_line(arguments)
    from gvr_lightning.app.write_model import export_model  # torch, two seconds

    return export_model(**settings)


if __name__ == "__main__":
    main()
