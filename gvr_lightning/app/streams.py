"""Output that nobody reads any more ends no run: a closed pipe, a terminal that is gone."""

import contextlib
import os
import sys
from typing import Any


class Unbreakable:
    """A stream that, once it is broken, takes what is written to it and forgets it.

    Args:
        stream: of the process's own.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write, or not."""
        with self._forgiving():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Likewise."""
        with self._forgiving():
            self.stream.flush()

    @contextlib.contextmanager
    def _forgiving(self) -> Any:
        try:
            yield
        except (OSError, ValueError):  # a broken pipe; a file that is closed
            with contextlib.suppress(Exception):  # what Python flushes at its end has to go somewhere
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def unbreakable() -> None:
    """Make standard output and standard error such streams."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # started without one
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif not isinstance(stream, Unbreakable):
            setattr(sys, name, Unbreakable(stream))
