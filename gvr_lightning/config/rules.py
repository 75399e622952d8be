"""What each value must be: a table by the key's path."""

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
STRICT_SHARE = Rule("a number in (0, 1)", lambda v: is_number(v) and 0 < v < 1)
NODE = Rule("settings with a _target_", lambda v: isinstance(v, dict) and "_target_" in v)
SETTINGS = Rule("settings {key: value}", lambda v: isinstance(v, dict))
ANYTHING = Rule("anything", lambda v: True)

RULES = {
    "name": TEXT,
    "seed": whole(0, 2**32 - 1),
    "epochs": whole(1),
    "batch_size": whole(1),
    "lr": POSITIVE,
    "alpha": NOT_NEGATIVE,
    "resume": TEXT | NULL,
    "test_on": one_of("last", "best"),
    "task.label_smoothing": BELOW_ONE,
    "task.calibration_bins": whole(1),
    "task.clip_norm": POSITIVE | NULL,
    "task.clip_value": POSITIVE | NULL,
    "task.accumulate": whole(1),
    "task.non_finite": one_of("stop", "skip"),
    "task.max_skipped": whole(0),
    "checkpoint.every_n_steps": whole(1) | NULL,
    "checkpoint.every_n_minutes": POSITIVE | NULL,
    "task.noise.timesteps": whole(2),
    "task.noise.beta_schedule": one_of("linear", "cosine", "sigmoid"),
    "task.noise.beta_range": list_of(STRICT_SHARE),
    "task.noise.prediction": one_of("epsilon", "v", "sample"),
    "task.ema_decay": BELOW_ONE,
    "generation.num_images": whole(2),
    "generation.grid": whole(1),
    "generation.every_n_epochs": whole(0),
    "generation.score_every_n_epochs": whole(0),
    "generation.batch_size": whole(1),
    "generation.splits": whole(2),
    "sampler": NODE | NULL,
    "extractor": NODE | NULL,
    "extractor.cache_dir": TEXT | NULL,
    "extractor.weights": TEXT | NULL,
    "extractor.size": whole(32),
    "extractor.checkpoint": TEXT | NULL,
    "sampler.steps": whole(1) | NULL,
    "sampler.eta": NOT_NEGATIVE,
    "sampler.spacing": one_of("trailing", "linspace", "leading"),
    "data.root": TEXT,
    "data.image_size": whole(1) | NULL,
    "data.channels": Rule("1 (grey) or 3 (colour)", lambda v: type(v) is int and v in (1, 3)),
    "data.cache_dir": TEXT | NULL,
    "data.workers": whole(1) | NULL,
    "data.augmentation.padding": whole(0),
    "data.augmentation.cutout": whole(0),
    "data.augmentation.cutout_prob": SHARE,
    "data.val_fraction": BELOW_ONE,
    "data.max_train": whole(2) | NULL,
    "data.mean": list_of(SHARE) | NULL,
    "data.std": list_of(POSITIVE) | NULL,
    "data.transform": NODE | NULL,
    "data.eval_transform": NODE | NULL,
    "data.eval_batch_size": whole(1),
    "label_noise": NODE | NULL,
    "label_noise.rate": SHARE,
    "label_noise.seed": whole(0, 2**32 - 1),
    "label_noise.map": SETTINGS | NULL,
    "logger.project": TEXT,
    "logger.entity": TEXT | NULL,
    "logger.mode": one_of("online", "offline"),
    "logger.on_error": one_of("offline", "stop"),
    "logger.group": TEXT | NULL,
    "logger.job_type": TEXT | NULL,
    "logger.tags": Rule("a list of words", lambda v: isinstance(v, list) and all(map(TEXT.holds, v))),
    "logger.sweep": TEXT | NULL,
    "model.width": whole(1),
    "model.groups": whole(1),
    "model.widths": list_of(whole(1)),
    "model.blocks": whole(1),
    "model.depth": whole(10),
    "model.widen": whole(1),
    "model.dropout": BELOW_ONE,
    "model.attention": list_of(FLAG),
    "model.head_dim": whole(1) | NULL,
    "model.weights": TEXT | NULL,
    "model.options": SETTINGS | NULL,
    "regularizer.views": whole(1),
    "regularizer.wrap": NODE | NULL,
    "regularizer.wrap.rho": POSITIVE,
    "regularizer.penalty.alpha": NOT_NEGATIVE,
    "regularizer.penalty.smoothing": BELOW_ONE,
    "regularizer.penalty.layers": one_of("head", "last_stage", "all") | list_of(PATTERN),
    "regularizer.penalty.subset": whole(1) | NULL,
    "optimizer.lr": POSITIVE,
    "optimizer.momentum": BELOW_ONE,
    "optimizer.dampening": NOT_NEGATIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.betas": list_of(BELOW_ONE),
    "optimizer.eps": POSITIVE,
    "optimizer.alpha": BELOW_ONE,
    "scheduler.interval": one_of("epoch", "step"),
    "scheduler.min_lr": NOT_NEGATIVE,
    "scheduler.warmup_steps": whole(1),
    "scheduler.warmup_fraction": SHARE,
    "trainer.max_epochs": whole(1),
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
    "trainer.devices": whole(1) | one_of("auto", "-1") | list_of(whole(0)),
    "trainer.num_nodes": whole(1),
    "trainer.strategy": NODE | Rule("auto (choose trainer=ddp or trainer=fsdp)", lambda v: v == "auto"),
    "trainer.sync_batchnorm": FLAG,
    "trainer.precision": one_of(
        *("32-true", "16-mixed", "bf16-mixed", "64-true", "16-true", "bf16-true", "32", "16", "bf16", "64"),
        *("transformer-engine", "transformer-engine-float16"),
    ),
    "trainer.log_every_n_steps": whole(1),
    "trainer.deterministic": FLAG | one_of("warn"),
    "trainer.benchmark": FLAG | NULL,
}
