"""The keys of a plan: default, range and help of each on its line; read by the check and by ``--help``."""

from collections.abc import Mapping
from typing import Any

from gvr_lightning.config.ranges import ANYTHING, SETTINGS, STRICT_SHARE, TEXT, WORDS, Rule, is_number, list_of, whole

NEEDED = "needed"  # instead of a default
SEED = whole(0, 2**32 - 1)
SEEDS = Rule("a list of different whole numbers from 0 to 4294967295 or {first: 0, number: 12}", ANYTHING.holds)
LENGTH = Rule("a number in (0, 1]", lambda v: is_number(v) and 0 < v <= 1)
OPTIONAL = Rule("a finite number > 0 or null", lambda v: v is None or (is_number(v) and v > 0))
OR_NULL = Rule("settings {key: value} or null", lambda v: v is None or SETTINGS.holds(v))
TEXT_OR_NULL = Rule("text or null", lambda v: v is None or TEXT.holds(v))
NAMES = Rule("a list of names of arms, at least one", lambda v: WORDS.holds(v) and v != [])
RUNGS = list_of(SETTINGS)

Keys = Mapping[str, tuple[Any, Rule, str]]  # name: default, what it must be, what it is

PLAN: Keys = {
    "folder": (None, TEXT_OR_NULL, "where everything goes; null: outputs/ and the plan's name"),
    "setting": ([], WORDS, "overrides of every run, as on the command line of gvr-train"),
    "arms": (NEEDED, SETTINGS, "what is compared, by name"),
    "tuning": (None, OR_NULL, "how each arm's configuration is chosen; null: no search"),
    "comparison": (NEEDED, SETTINGS, "what is asked"),
    "confirmation": (NEEDED, SETTINGS, "the runs that answer it"),
    "seed": (0, SEED, "of the plan's own draws: order of the runs, configurations of a large grid"),
    "launcher": ([], WORDS, "Hydra's, such as hydra/launcher=joblib; may differ when a study goes on"),
}
ARM: Keys = {
    "overrides": ([], WORDS, "of this arm's runs"),
    "search": ({}, SETTINGS, "key: [a, b, ...] or {from: a, to: b, number: n}, in equal ratios"),
}
TUNING: Keys = {
    "metric": ("val/acc", TEXT, "what it goes by; never a test figure"),
    "configurations": (NEEDED, whole(2), "of every arm; of a larger grid so many are drawn"),
    "rungs": (NEEDED, RUNGS, "rounds of successive halving"),
    "further": (1, whole(0, 20), "tries of every arm at the end: beyond an edge that its winner is on, or by it"),
}  # fmt: skip
RUNG: Keys = {
    "length": (1, LENGTH, "share of the arm's own epochs"),
    "seeds": (NEEDED, SEEDS, "of the runs of each configuration; their mean counts"),
    "keep": (1, whole(1), "configurations of each arm that stay; of the last rung 1"),
}
COMPARISON: Keys = {
    "metric": ("test/acc", TEXT, "any name of summary.json's metrics with a better direction"),
    "candidates": (NEEDED, NAMES, "arms that may win"),
    "comparators": (NEEDED, NAMES, "arms that a candidate has to beat, every one of them"),
    "difference": (None, OPTIONAL, "the smallest worth finding, in the metric's unit (0.01: a point of accuracy)"),
    "power": (0.8, STRICT_SHARE, "for the numbers of seeds that the report says"),
}  # fmt: skip
CONFIRMATION: Keys = {
    "seeds": (NEEDED, SEEDS, "fresh ones: none of the tuning's"),
    "looks": (None, Rule("a list of {seeds: 6, alpha: 0.005} or null", lambda v: v is None or RUNGS.holds(v)),
              "when it is looked at; null: after half of the seeds at 0.005, after all at 0.048"),
}  # fmt: skip
LOOK: Keys = {
    "seeds": (NEEDED, whole(2), "so many of the confirmation's, in their order"),
    "alpha": (NEEDED, STRICT_SHARE, "the level, two-sided"),
}
SECTIONS: Mapping[str, Keys] = {
    "the plan": PLAN,
    "arms: {name: ...}": ARM,
    "tuning": TUNING,
    "tuning: rungs": RUNG,
    "comparison": COMPARISON,
    "confirmation": CONFIRMATION,
    "confirmation: looks": LOOK,
}
