"""Exceptions that the command line prints as one line, and the signals behind one of them."""

import signal

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # signals that ask a run to save and end


class UserError(Exception):
    """A mistake in the command, the configuration or the data, in one line that names it and the way out.

    The command line prints it without a traceback and exits with status 2.
    """

    details = ""  # the traceback of what somebody else's code raised; it goes to a file, which the line then names


class TrainingError(Exception):
    """Training cannot go on, through no mistake that could be seen before; exit status 1."""


class DivergedError(TrainingError):
    """Losses, gradients, weights or figures that are infinite or no number."""


class Interrupted(BaseException):
    """Ctrl-C, SIGTERM or SIGUSR1; exit status 128 + signal number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
