"""Which commit of this code is at work."""

import subprocess
from pathlib import Path
from typing import Any


def git_state() -> dict[str, Any]:
    """Commit of this code and whether it was changed since; nulls outside of a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tracked = git("ls-files", "--error-unmatch", "__init__.py") is not None  # not a checkout that merely holds a venv
    status = git("status", "--porcelain", "--untracked-files=no") if tracked else None
    return {"commit": git("rev-parse", "HEAD") if tracked else None, "dirty": None if status is None else bool(status)}
