"""Configurations as flat tables of what defines a run."""

import json
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

from gvr_lightning.report.runs import Run

Flat = dict[str, Any]

# Settings that change where and how a run is computed or shown, not what it computes: runs that differ in these alone
# are repetitions. What changes the figures (trainer.precision, trainer.sync_batchnorm, generation.num_images) or what a
# reader may want to time (task.compile, task.channels_last, data.on_device) is not among them.
BOOKKEEPING = (
    *("name", "seed", "resume", "checkpoint.*", "logger", "logger.*", "*._partial_", "*._convert_", "*._recursive_"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.strategy.*"),
    *("trainer.benchmark", "trainer.deterministic", "trainer.log_every_n_steps"),
    *("data.eval_batch_size", "*.cache_dir", "*.download", "*.workers"),
    *("generation.grid", "generation.every_n_epochs", "generation.score_every_n_epochs", "generation.batch_size"),
)
CUT = 12  # characters of a hash that are shown
PLACES = ("*.root",)  # where the data lies, which says nothing if each source has given the same data
# Top-level keys that act through another alone: that one counts, so that alpha splits no runs without a penalty.
TAKERS = {"alpha": "regularizer.penalty.alpha", "lr": "optimizer.lr", "epochs": "trainer.max_epochs"}
SHORT = {path: short for short, path in TAKERS.items()}


def flatten(config: dict[str, Any], path: str = "") -> Flat:
    """One entry a leaf, by its dotted path; lists are leaves."""
    flat: Flat = {}
    for key, value in config.items():
        below = f"{path}.{key}" if path else str(key)
        flat |= flatten(value, below) if isinstance(value, dict) else {below: value}
    return flat


def defining(runs: Sequence[Run]) -> list[Flat]:
    """What defines each run, its seed left out: equal for repetitions."""
    flats = [flatten(run.config) for run in runs]
    data = {
        (flat.get("data.source._target_"), run.summary.get("data_hash")) for run, flat in zip(runs, flats, strict=True)
    }
    same_data = len(data) == len({source for source, _ in data})
    if not same_data:  # one source has given several data sets
        for flat, run in zip(flats, runs, strict=True):
            flat["data.hash"] = str(run.summary.get("data_hash"))[:CUT]
    patterns = (*BOOKKEEPING, *TAKERS, *(PLACES if same_data else ()))
    names = dict.fromkeys(name for flat in flats for name in flat)
    dropped = {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}
    dropped |= {name for name in names if name.endswith(".seed") and _is_the_seed(name, flats)}
    return [{name: value for name, value in flat.items() if name not in dropped} for flat in flats]


def differing(flats: Sequence[Flat]) -> list[str]:
    """The names whose values are not all equal; one that is absent equals null."""
    names = dict.fromkeys(name for flat in flats for name in flat)
    return [name for name in names if len({frozen(flat.get(name)) for flat in flats}) > 1]


def frozen(value: Any) -> str:
    """A value that can be compared and hashed: 1 and 1.0 are one."""
    whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if whole else value, sort_keys=True, default=str)


def _is_the_seed(name: str, flats: Sequence[Flat]) -> bool:
    """Whether a seed of a part's own follows that of the run everywhere."""
    return all(flat[name] == flat.get("seed") for flat in flats if name in flat)
