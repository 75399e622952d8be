"""What a value must be: ranges in words, as the files of conf/ have them, and as tests of a value."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOST = sys.float_info.max
LARGEST = 2**63 - 1  # what fits torch's integers


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words and as a test; ``a | b`` is either."""

    words: str
    holds: Callable[[Any], bool]

    def __or__(self, other: "Rule") -> "Rule":
        return Rule(f"{self.words} or {other.words}", lambda v: self.holds(v) or other.holds(v))


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST


def whole(low: int, high: int = LARGEST) -> Rule:
    """A whole number, written as one (1e3 is a float)."""
    words = f"a whole number >= {low}" if high == LARGEST else f"a whole number from {low} to {high}"
    return Rule(words, lambda v: type(v) is int and low <= v <= high)


def one_of(*names: str) -> Rule:
    """One of some words, which may look like numbers."""
    return Rule(f"one of {', '.join(names)}", lambda v: type(v) in (str, int) and str(v) in names)


def list_of(rule: Rule) -> Rule:
    """A list that is not empty."""
    words = f"a list [a, b, ...], each {rule.words}"
    return Rule(words, lambda v: isinstance(v, list) and v != [] and all(map(rule.holds, v)))


def settings_of(rule: Rule) -> Rule:
    """Names with values, at least one."""
    words = f"settings {{name: value}}, each {rule.words}"
    return Rule(words, lambda v: isinstance(v, dict) and v != {} and all(map(rule.holds, v.values())))


NULL = Rule("null", lambda v: v is None)
FLAG = Rule("true or false", lambda v: isinstance(v, bool))
TEXT = Rule("text (quote what looks like a number: \"'123'\")", lambda v: isinstance(v, str) and v != "")
PATTERN = Rule("a pattern of parameters' names", TEXT.holds)
WHOLE = Rule("a whole number", lambda v: type(v) is int)
NUMBER = Rule("a finite number", is_number)
POSITIVE = Rule("a finite number > 0", lambda v: is_number(v) and v > 0)
NOT_NEGATIVE = Rule("a finite number >= 0", lambda v: is_number(v) and v >= 0)
SHARE = Rule("a number in [0, 1]", lambda v: is_number(v) and 0 <= v <= 1)
BELOW_ONE = Rule("a number in [0, 1)", lambda v: is_number(v) and 0 <= v < 1)
HALF = Rule("a number in [0, 0.5]", lambda v: is_number(v) and 0 <= v <= 0.5)
UPPER_HALF = Rule("a number in [0.5, 1]", lambda v: is_number(v) and 0.5 <= v <= 1)
ABOVE_ZERO = Rule("a number in (0, 1]", lambda v: is_number(v) and 0 < v <= 1)
STRICT_SHARE = Rule("a number in (0, 1)", lambda v: is_number(v) and 0 < v < 1)
NODE = Rule("settings with a _target_", lambda v: isinstance(v, dict) and "_target_" in v)
SETTINGS = Rule("settings {key: value}", lambda v: isinstance(v, dict))
ANYTHING = Rule("anything", lambda v: True)
WORDS = Rule("a list of words", lambda v: isinstance(v, list) and all(map(TEXT.holds, v)))

_NAMED = {
    "null": NULL,
    "true or false": FLAG,
    "text": TEXT,
    "pattern": PATTERN,
    "number": NUMBER,
    "anything": ANYTHING,
    "number > 0": POSITIVE,
    "number >= 0": NOT_NEGATIVE,
    "whole number": WHOLE,
    "words": WORDS,
    "number in [0, 1]": SHARE,
    "number in [0, 1)": BELOW_ONE,
    "number in [0, 0.5]": HALF,
    "number in [0.5, 1]": UPPER_HALF,
    "number in (0, 1]": ABOVE_ZERO,
    "number in (0, 1)": STRICT_SHARE,
    "settings with _target_": NODE,
    "settings": SETTINGS,
}
_WHOLE = re.compile(r"whole number (?:>= (\d+)|from (\d+) to (\d+))")


def read_range(text: str) -> Rule:
    """The rule that a range in words is, such as ``whole number >= 1 or null`` or ``list of number > 0``.

    Raises:
        ValueError: for words that are none.
    """
    first, _, others = text.replace("true or false", "flag").partition(" or ")
    first, others = (part.replace("flag", "true or false") for part in (first, others))
    rule = _one(first)
    return rule | read_range(others) if others else rule


def _one(text: str) -> Rule:
    if text in _NAMED:
        return _NAMED[text]
    if found := _WHOLE.fullmatch(text):
        least, low, high = found.groups()
        return whole(int(least)) if least else whole(int(low), int(high))
    if text.startswith("list of "):
        return list_of(_one(text.removeprefix("list of ")))
    if text.startswith("settings of "):
        return settings_of(_one(text.removeprefix("settings of ")))
    if text.startswith("one of "):
        return one_of(*text.removeprefix("one of ").split(", "))
    if re.fullmatch(r"\d+", text):
        return Rule(text, lambda v: type(v) is int and v == int(text))
    raise ValueError(f"{text!r} is no range of values")
