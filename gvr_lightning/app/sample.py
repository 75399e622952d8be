"""``gvr-sample``: images from a checkpoint, a run, or a diffusers pipeline. Loads torch once its settings are right."""

import sys

from gvr_lightning.app.command import command
from gvr_lightning.config.sampling import read_sample_line, sample_help


def main() -> None:
    """Check the command line, then draw; exit status 2 for a mistake."""
    command(sys.argv[1:], sample_help, _sample)


def _sample(arguments: list[str]) -> object:
    settings, sampler = read_sample_line(arguments)
    from gvr_lightning.app.draw import draw_images  # torch, two seconds

    return draw_images(sampler=sampler, **settings)


if __name__ == "__main__":
    main()
