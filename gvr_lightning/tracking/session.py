"""W&B opened and left: quietly, without a question, and with nothing that leaks into the next job."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gvr_lightning.errors import UserError

if TYPE_CHECKING:
    from wandb import Run

CONNECT, UPLOAD = 15.0, 120.0  # seconds to wait for the server: at the start, and for the rest of the data at the end


def begin(mode: str, on_error: str, commit: str | None, options: dict[str, Any]) -> "Run":
    """Open a W&B run; where it cannot be online, say so.

    Args:
        mode: "online" or "offline".
        on_error: what to do if online is not possible: go on "offline", or "stop".
        commit: of the code.
        options: further ones of ``wandb.init``.

    Raises:
        UserError: if W&B refuses the options, or cannot be reached and ``on_error`` is "stop".
    """
    try:
        run = _open(mode, commit, options)
        if mode == "online":
            say(run.url)
        return run
    except Exception as error:
        if mode == "offline":
            raise UserError(f"logger=wandb: {line(error)}") from error
        if on_error == "stop":
            ways = "log in with `wandb login`, or set logger.mode=offline"
            raise UserError(f"logger=wandb: {line(error)}; {ways}") from error
        run = begin("offline", on_error, commit, options)
        say(f"{line(error)}; logging offline: send it later with `wandb sync {Path(run.dir).parent}`")
        return run


def _open(mode: str, commit: str | None, options: dict[str, Any]) -> "Run":
    """A run that is nobody's default: ``wandb.run`` stays None, and so the next job gets its own."""
    import wandb

    quiet: Any = {"mode": mode, "silent": True, "console": "off"}
    hooks = sys.exit, sys.excepthook
    try:
        wandb.setup(wandb.Settings(**quiet))
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise wandb.errors.AuthenticationError("there is no API key here")
        limits: Any = {"init_timeout": CONNECT, "finish_timeout": UPLOAD, "finish_timeout_raises": True}
        ours: Any = {"disable_git": True, "git_commit": commit}  # W&B would look in the working directory
        settings = wandb.Settings(**quiet, **limits, **ours)
        return wandb.init(**options, reinit="create_new", resume="allow", allow_val_change=True, settings=settings)
    except BaseException:
        leave()
        raise
    finally:
        sys.exit, sys.excepthook = hooks  # W&B has put its own in place, to see what `close` tells it


def leave() -> None:
    """End W&B's own process and forget its settings: the environment is as it was before."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()


def line(error: Exception) -> str:
    """What an exception says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def say(text: str | None) -> None:
    """One line on standard error."""
    print(f"W&B: {text}", file=sys.stderr)
