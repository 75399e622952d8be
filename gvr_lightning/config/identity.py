"""What a run is: which keys make two runs the same, repetitions of each other, comparable, or one that goes on.

A new key is looked for here, and nowhere else. Patterns are of dotted paths. Loads neither torch nor Hydra.
"""

import hashlib
import json
from fnmatch import fnmatch
from typing import Any

# Labels, places and the user's word: with other ones it is the same run, of the same ``config_hash``.
LABELS = ("name", "resume", "trust", "extractor.trust", "logger.sweep")  # the sweep's folder has the time in it

# Where data lies, how it is fetched and held, and what is tested besides: names of keys below ``data``.
MAY_MOVE = (
    *("root", "path", "cache_dir", "workers", "transform_workers", "download"),
    *("on_device", "eval_batch_size", "corruption", "keep"),
)

# Of a run that goes on: with another one of these it would be another run.
FIXED = ("model", "data", "label_noise", "mix", "seed", "batch_size", "task._target_", "task.noise", "parameters")
SWITCHES = ("task.ema_decay",)  # neither from zero nor to it: the checkpoint has an average, or none
ANEW = ("resume", "trust")  # and what counts on the command line alone

# Settings that change where and how a run is computed or shown, not what it computes: runs that differ in these alone
# are repetitions. What changes the figures (trainer.precision, trainer.sync_batchnorm, generation.num_images) or what a
# reader may want to time (task.compile, task.channels_last, data.on_device) is not among them.
BOOKKEEPING = (
    *("name", "seed", "resume", "trust", "*.trust", "checkpoint.*", "logger", "logger.*"),
    *("*._partial_", "*._convert_", "*._recursive_"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.strategy.*"),
    *("trainer.timeout", "trainer.benchmark", "trainer.fused", "trainer.deterministic", "trainer.log_every_n_steps"),
    *("test_every_n_epochs", "data.eval_batch_size", "*.cache_dir", "*.download", "*.workers"),
    "*.transform_workers",
    *("generation.grid", "generation.every_n_epochs", "generation.score_every_n_epochs", "generation.batch_size"),
)
PLACES = (
    "*.root",
    "data.path",
    "data.source.path",
)  # where the data lies, which says nothing if each source has given the same data

# Config groups and keys that methods are compared within.
SETTING = ("task", "data", "model", "label_noise", "batch_size", "protocol")

# Top-level keys that act through another alone: that one counts, so that alpha splits no runs without a penalty.
TAKERS = {"alpha": "regularizer.penalty.alpha", "lr": "optimizer.lr", "epochs": "trainer.max_epochs"}
SHORT = {path: short for short, path in TAKERS.items()}


def config_hash(config: dict[str, Any]) -> str:
    """The sha256 of what defines a run: all of its configuration but labels."""
    return hashlib.sha256(json.dumps(_without_labels(config), sort_keys=True).encode()).hexdigest()


def leaves(config: dict[str, Any], path: str = "") -> dict[str, Any]:
    """One entry a leaf, by its dotted path; lists are leaves."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        below = f"{path}.{key}" if path else str(key)
        flat |= leaves(value, below) if isinstance(value, dict) else {below: value}
    return flat


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a dotted path is meant by one of the patterns."""
    return any(fnmatch(path, pattern) for pattern in patterns)


def _without_labels(config: dict[str, Any], path: str = "") -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if f"{path}{key}" not in LABELS}
    return {k: _without_labels(v, f"{path}{k}.") if isinstance(v, dict) else v for k, v in kept.items()}
