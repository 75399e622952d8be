"""Copies what gvr-study and gvr-report read of a study's finished runs, some KiB each, so that they can be committed.

    python experiments/finished_runs.py outputs/my_study experiments/my_study/runs

No checkpoints, no pictures, and of Hydra's own settings only the options that were chosen, without the paths of a
machine. A run that has not ended is left out. The study goes on from the copy as it would in its own folder.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from gvr_lightning.files import read_json, read_yaml

OF_STUDY = ("study.json", "study.md")
OF_ROW = "machine.txt"
OF_RUN = ("summary.json", "metrics.csv", "config.yaml", ".hydra/overrides.yaml", ".hydra/started.json")
OPTIONS = ".hydra/hydra.yaml"


def main() -> None:
    """Says how many runs were copied, and how many have not ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", type=Path, help="a study's folder")
    parser.add_argument("copy", type=Path, help="where the copy goes; what is there already is replaced")
    given = parser.parse_args()
    study, copy = given.study, given.copy
    if not (study / OF_STUDY[0]).exists():
        parser.error(f"{study} is no study's folder: it has no {OF_STUDY[0]}")
    runs = sorted({path.parent.relative_to(study) for path in study.glob("**/config.yaml")})
    runs = [run for run in runs if not any(part.startswith(".") for part in run.parts)]
    ended = [run for run in runs if _has_ended(study / run)]
    _copy(study, copy, OF_STUDY)
    for run in ended:
        _copy(study / run.parent, copy / run.parent, [OF_ROW])
        _copy(study / run, copy / run, OF_RUN)
        _copy_options(study / run / OPTIONS, copy / run / OPTIONS)
    print(f"{copy}: {len(ended)} runs; {len(runs) - len(ended)} have not ended")


def _has_ended(run: Path) -> bool:
    summary = run / OF_RUN[0]
    return summary.exists() and read_json(summary)["status"] != "interrupted"


def _copy(source: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        if (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def _copy_options(source: Path, target: Path) -> None:
    if source.exists():
        chosen = {"hydra": {"runtime": {"choices": read_yaml(source)["hydra"]["runtime"]["choices"]}}}
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(yaml.safe_dump(chosen, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
