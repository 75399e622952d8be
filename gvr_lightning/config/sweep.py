"""How the jobs of a sweep ended."""

import json
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback


class Outcome(Callback):
    """Remembers where the sweep's jobs are, which Hydra knows only while it runs."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Called where the sweep was started, whatever launches its jobs."""
        HydraConfig.instance().set_config(config)  # the folder's name needs it, and some sweepers ask before a job does
        Outcome.folder = Path(config.hydra.sweep.dir).absolute()


def unfinished(sweep: Path) -> list[tuple[Path, str]]:
    """The folders of jobs that did not finish, and what is known of that."""
    found = []
    for hydra in sorted(sweep.rglob(".hydra")):
        folder = hydra.parent
        try:
            summary = json.loads((folder / "summary.json").read_text())
        except (OSError, ValueError):
            summary = {"status": "ended without a summary"}
        if summary["status"] != "finished":
            found.append(
                (folder, f"{summary['status']}: {summary['error']}" if "error" in summary else summary["status"])
            )
    return found
