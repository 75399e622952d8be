"""A stage's rows handed to a Hydra launcher: the jobs of an ordinary sweep over the numbers of the rows."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import hydra

from gvr_lightning.files import atomic
from gvr_lightning.study.job import row
from gvr_lightning.study.plan import digest
from gvr_lightning.study.trials import Trial

JOBS = "jobs"  # below the study's folder
QUIET = ("hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")


def launch(study: Path, rows: Sequence[Sequence[Trial]], metric: str, launcher: Sequence[str]) -> None:
    """Run the rows, each as one job; how their runs ended is in their folders."""
    content = {"metric": metric, "rows": [[asdict(trial) for trial in several] for several in rows]}
    file = study.absolute() / JOBS / f"{digest(content)[:16]}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic(file, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"))
    swept = [f"+row=range(0,{len(rows)})", f"+jobs={_quoted(file)}", f"hydra.sweep.dir={_quoted(file.with_suffix(''))}"]
    before = sys.argv
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions as they are
    logging.getLogger("hydra").setLevel(logging.WARNING)
    try:
        sys.argv = [before[0], "-m", *swept, *QUIET, *launcher]
        hydra.main(config_path=None, config_name=None, version_base="1.3")(row)()
    finally:
        sys.argv = before


def _quoted(path: Path) -> str:
    where = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{where}'"
