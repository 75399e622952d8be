"""``gvr-sample``: images from a checkpoint, a run, or a diffusers pipeline. Loads torch once its settings are right."""

import os
import sys

from gvr_lightning.config.sampling import read_sample_line, sample_help
from gvr_lightning.errors import UserError


def main() -> None:
    """Check the command line, then draw; exit status 2 for a mistake."""
    arguments = sys.argv[1:]
    if not arguments or {"--help", "-h"} & set(arguments):
        print(sample_help())
        return
    try:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in training
        settings, sampler = read_sample_line(arguments)
        from gvr_lightning.drawing import draw_images  # torch, two seconds

        print(draw_images(sampler=sampler, **settings))
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
