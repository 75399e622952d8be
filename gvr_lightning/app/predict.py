"""``gvr-predict``: the classes of a folder of images. Loads torch once its settings are right."""

import sys

from gvr_lightning.app.command import command
from gvr_lightning.config.trained import predict_help, read_predict_line


def main() -> None:
    """Check the command line, then do it; exit status 2 for a mistake."""
    command(sys.argv[1:], predict_help, _predict)


def _predict(arguments: list[str]) -> object:
    settings = read_predict_line(arguments)
    from gvr_lightning.app.predictions import predict_images  # torch, two seconds

    return predict_images(**settings)


if __name__ == "__main__":
    main()
