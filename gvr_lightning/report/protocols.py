"""What generated images were scored by: figures by unlike protocols are no repetitions of each other."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from gvr_lightning.config.identity import leaves

FORMER = {("protocol.weights", "ema"): "average"}  # what earlier summaries say, as it is said now
IN_WORDS = ("protocol.drawn",)  # says again what other entries say


def protocol(summary: dict[str, Any]) -> dict[str, Any]:
    """A run's, by dotted names; empty where nothing was scored."""
    found = leaves({"protocol": summary.get("protocol") or {}})
    return {
        name: FORMER.get((name, value), value) if isinstance(value, str) else value
        for name, value in found.items()
        if name not in IN_WORDS
    }


def unlike(keys: Sequence[str], protocols: Sequence[dict[str, Any]]) -> list[str]:
    """What has several values in runs of one configuration; that a run has not recorded it is no value.

    Args:
        keys: of each run its configuration, as text.
        protocols: of each run.
    """
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key, one in zip(keys, protocols, strict=True):
        for name, value in one.items():
            values[key, name].add(repr(value))
    return list(dict.fromkeys(name for (_, name), several in values.items() if len(several) > 1))
