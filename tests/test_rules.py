"""Every rule of one value and every relation of several: just outside is refused, just inside is not."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest
from composed import composed_once  # noqa: F401 (a fixture)
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gvr_lightning.config.check import check
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.ranges import read_range
from gvr_lightning.config.relations import RELATIONS
from gvr_lightning.config.schema import ADDED, Key, _files, _lines, rule_of, schema
from gvr_lightning.config.values import resolve
from gvr_lightning.errors import UserError

pytestmark = pytest.mark.usefixtures("composed_once")

LARGEST = 9223372036854775807
SEEDS = 4294967295
FLOAT = "1.7976931348623157e308"


class Row(NamedTuple):
    """What a key's value must be, in words, and values of the command line on both sides of that."""

    words: str
    refused: tuple[str, ...]
    passes: tuple[str, ...]
    other_types: tuple[str, ...] = ()  # refused as well; every other key tries one of them

    def or_null(self) -> "Row":
        refused = tuple(value for value in self.refused if value != "null")
        return Row(f"{self.words} or null", refused, (*self.passes, "null"), self.other_types)


def whole(low: int, high: int = LARGEST) -> Row:
    words = f"a whole number >= {low}" if high == LARGEST else f"a whole number from {low} to {high}"
    beyond = (str(low - 1), str(high + 1), "null")
    return Row(words, beyond, (str(low), str(high)), (f"{low}.0", "true", f"{low + 1}e0", "nan", "abc", "[1]"))


def one_of(*names: str) -> Row:
    others = (names[0].title(), f"[{names[0]}]", "''", "1.5", "true")
    return Row(f"one of {', '.join(names)}", (f"{names[0]}x", "null"), names, others)


def a_list(words: str, refused: Iterable[str], passes: Iterable[str]) -> Row:
    return Row(f"a list [a, b, ...], each {words}", ("[]", "null", *refused), tuple(passes), ("1", "abc"))


OTHER = ("nan", "inf", "abc", "true", "[1]")  # than a finite number
POSITIVE = Row("a finite number > 0", ("0", "-1e-300", "null"), ("1e-300", FLOAT), OTHER)
NOT_NEGATIVE = Row("a finite number >= 0", ("-1e-300", "inf", "null"), ("0", FLOAT), OTHER)
SHARE = Row("a number in [0, 1]", ("-1e-9", "1.000001", "null"), ("0", "1"), OTHER)
BELOW_ONE = Row("a number in [0, 1)", ("-1e-9", "1", "null"), ("0", "0.999999"), OTHER)
HALF = Row("a number in [0, 0.5]", ("-1e-9", "0.500001", "null"), ("0", "0.5"), OTHER)
UPPER_HALF = Row("a number in [0.5, 1]", ("0.499999", "1.000001", "null"), ("0.5", "1"), OTHER)
FLAG = Row("true or false", ("1", "null"), ("true", "false"), ("yes", "'true'"))
TEXT = Row("text (quote what looks like a number: \"'123'\")", ("", "3", "null"), ("a", "'12'"), ("1.5", "true", "[a]"))
NODE = Row("settings with a _target_", ("{size:3}",), ())
SETTINGS = Row("settings {key: value}", ("3", "abc", "[a]", "null"), ("{a:b}",))

SIZE = Row(
    "a whole number >= 1 or a list [a, b, ...], each a whole number >= 1 or null",
    ("0", "1.5", "abc", "true", "[]", "[0,8]", "[8,null]"),
    ("1", "[48,64]", "null"),
)

BLOCKS = "a whole number >= 1 or a list [a, b, ...], each a whole number >= 1"
HALVES = ("per_sample", "shared", "split")
COLUMNS = ("image_column", "label_column")

# options of the command line -> key -> what it must be
RULED: dict[str, dict[str, Row]] = {
    "": {
        "name": TEXT,
        "seed": whole(0, SEEDS),
        "epochs": whole(1),
        "batch_size": whole(1),
        "lr": POSITIVE,
        "alpha": NOT_NEGATIVE,
        "resume": TEXT.or_null(),
        "test_on": one_of("last", "best"),
        "test_every_n_epochs": whole(1).or_null(),
        "trust": Row(f"{TEXT.words} or a list of words or null", ("3", "[3]"), ("a.B", "[a.B,c.D]")),
        "checkpoint.every_n_epochs": whole(1),
        "checkpoint.in_background": FLAG.or_null(),
        "checkpoint.every_n_steps": whole(1).or_null(),
        "checkpoint.every_n_minutes": POSITIVE.or_null(),
        "parameters.freeze": Row(
            "a pattern of parameters' names or a list [a, b, ...], each a pattern of parameters' names or null",
            ("3", "[]", "[3]", "true", "{a:b}"),
            ("backbone", "[backbone.early,*.bias]", "null"),
        ),
        "parameters.lr_scale": Row(
            "settings {name: value}, each a finite number > 0 or null",
            ("3", "abc", "[1]", "{}", "{a:0}", "{a:1,b:-1}", "{a:x}", "{a:null}"),
            ("{backbone:0.1,head:2}", "null"),
        ),
        "parameters.no_decay": one_of("norm_bias").or_null(),
        "mix": Row(f"{NODE.words} or null", NODE.refused, ()),
        "early_stopping.monitor": TEXT.or_null(),
        "early_stopping.min_delta": NOT_NEGATIVE,
        "task.label_smoothing": BELOW_ONE,
        "task.calibration_bins": whole(1),
        "task.views_loss": one_of("sum", "mean"),
        "task.clip_norm": POSITIVE.or_null(),
        "task.non_finite": one_of("stop", "skip"),
        "task.max_skipped": whole(0),
        "data.augmentation.padding": whole(0),
        "data.augmentation.cutout": whole(0),
        "data.augmentation.cutout_prob": SHARE,
        "data.val_fraction": BELOW_ONE,
        "data.max_train": whole(2).or_null(),
        "data.subset_seed": Row(
            "a whole number from 0 to 4294967295 or one of run or null",
            ("-1", "4294967296", "1.5", "true", "runs", "[1]"),
            ("0", "4294967295", "run", "null"),
        ),
        "data.mean": a_list("a number in [0, 1]", ("[-0.1]", "[1.1]", "[0.5,nan]", "[true]"), ("[0]", "[1]")).or_null(),
        "data.std": a_list("a finite number > 0", ("[0]", "[-1]", "[1,inf]"), ("[1e-300]", f"[{FLOAT}]")).or_null(),
        "data.transform": NODE.or_null(),
        "data.transform_workers": whole(0).or_null(),
        "data.eval_transform": NODE.or_null(),
        "data.eval_batch_size": whole(1),
        "data.corruption": Row(
            f"{TEXT.words} or a list of words or null",
            ("3", "true", "[3]", "{all: 1}"),
            ("all", "contrast", "[contrast,pixelate]", "null"),
        ),
        "label_noise": Row(f"{NODE.words} or null", NODE.refused, ()),
        "regularizer.views": whole(1),
        "regularizer.wrap": NODE.or_null(),
        "optimizer.lr": POSITIVE,
        "optimizer.momentum": BELOW_ONE,
        "+optimizer.dampening": NOT_NEGATIVE,
        "+trainer.check_val_every_n_epoch": whole(1),
        "trainer.timeout": POSITIVE,
        "optimizer.weight_decay": NOT_NEGATIVE,
        "scheduler.interval": one_of("epoch", "step"),
        "scheduler.min_lr": NOT_NEGATIVE,
        "trainer.max_epochs": whole(1),
        "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
        "trainer.devices": Row(
            "a whole number >= 1 or one of auto, -1 or a list [a, b, ...], each a whole number >= 0",
            ("0", "-2", "1.0", "two", "true", "null", "[]", "[-1]", "[0,x]"),
            ("1", "auto", "-1", "[0]"),
        ),
        "trainer.num_nodes": whole(1),
        "trainer.strategy": Row(
            "settings with a _target_ or one of auto",
            ("ddp", "{a:1}", "null", "1"),
            ("auto",),
        ),
        "trainer.sync_batchnorm": FLAG,
        "trainer.precision": one_of(
            *("32-true", "16-mixed", "bf16-mixed", "64-true", "16-true", "bf16-true", "32", "16", "bf16", "64"),
            *("transformer-engine", "transformer-engine-float16"),
        ),
        "trainer.log_every_n_steps": whole(1),
        "trainer.deterministic": Row(
            "true or false or one of warn", ("1", "warning", "null", "'true'"), ("true", "false", "warn")
        ),
        "trainer.benchmark": FLAG.or_null(),
        "task.cuda_graphs": FLAG.or_null(),
        "trainer.tf32": one_of("none", "convolutions", "all").or_null(),
        "trainer.fused": FLAG,
        # by the default's type, where no rule is written
        "task.compile": FLAG,
        "task.channels_last": FLAG,
        "optimizer.nesterov": Row(FLAG.words, FLAG.refused, ("false",)),
        "data.on_device": FLAG,
        "data.augmentation.flip": FLAG,
        "data.augmentation": Row(NODE.words, ("3", "abc", "null", "[1]"), ()),
        "checkpoint": Row(SETTINGS.words, ("3", "abc", "null"), ()),
    },
    "augmentation=none mix=both": {
        "mix.mixup": NOT_NEGATIVE,
        "mix.cutmix": Row(NOT_NEGATIVE.words, NOT_NEGATIVE.refused, ("1e-300", FLOAT), OTHER),
        "mix.prob": SHARE,
        "mix.independent": FLAG,
        "data.augmentation.crop_scale": a_list("a finite number > 0", ("[0,1]",), ("[0.1,1]",)).or_null(),
        **{
            f"data.augmentation.{name}": a_list("a finite number > 0", ("[0,1]", "[1,inf]"), ("[0.1,2]",))
            for name in ("crop_ratio", "blur_sigma", "erase_scale", "erase_ratio")
        },
        **{f"data.augmentation.{name}": NOT_NEGATIVE for name in ("degrees", "brightness", "contrast", "saturation")},
        **{f"data.augmentation.{name}_prob": SHARE for name in ("jitter", "grey", "blur", "erase")},
        "data.augmentation.hue": HALF,
        "data.augmentation.policy": one_of("trivial", "rand", "augmix").or_null(),
        "data.augmentation.policy_ops": whole(1),
        "data.augmentation.policy_magnitude": whole(0, 30),
        "data.augmentation.policy_severity": whole(1, 10),
        **{f"data.augmentation.{name}": FLAG for name in ("weak_first", "same_crop")},
        "data.augmentation.blur_radius": whole(1),
    },
    "data.val_fraction=0.5": {"early_stopping.patience": whole(1).or_null()},
    "task.clip_value=1": {"task.clip_value": POSITIVE.or_null()},
    f"batch_size={LARGEST}": {"task.accumulate": whole(1)},
    "data=image_folder data.root=x model=wide_resnet regularizer=gvr optimizer=rmsprop scheduler=warmup": {
        "data.root": TEXT,
        "data.image_size": SIZE,
        "data.channels": Row("1 or 3", ("0", "2", "4", "1.0", "true", "null", "rgb"), ("1", "3")),
        "data.cache_dir": TEXT.or_null(),
        "data.workers": whole(1).or_null(),
        "model.depth": Row("a whole number >= 10", ("4", "9", "10.0", "true", "abc", "null"), ("10", "40", "1000")),
        "model.widen": whole(1),
        "model.dropout": BELOW_ONE,
        "regularizer.penalty.alpha": NOT_NEGATIVE,
        "regularizer.penalty.layers": Row(
            "one of head, last_stage, all or a list [a, b, ...], each a pattern of parameters' names",
            ("foo", "Head", "3", "null", "[]", "[3]", "[a,'']"),
            ("head", "last_stage", "all", "[head.*]"),
        ),
        "regularizer.penalty.subset": whole(1).or_null(),
        **{f"regularizer.penalty.{name}": Row(FLAG.words, FLAG.refused, ("false",)) for name in HALVES},
        "optimizer.alpha": BELOW_ONE,
        "scheduler.warmup_steps": Row("a whole number >= 1 or null", ("0", "1.5", "abc"), ("1", "null")),
        "scheduler.cosine": Row(FLAG.words, FLAG.refused, ("false", "true")),
        "scheduler.cosine_from": Row("one of warmup, start", ("begin", "null", "1"), ("warmup",)),
        # these repeat others
        "data.source.root": TEXT,
        "data.source.image_size": SIZE,
        "data.skip_broken": FLAG,
        "data.source.skip_broken": FLAG,
        "data.source.channels": Row("1 or 3", ("0", "2", "null"), ("1", "3")),
        "data.source.cache_dir": TEXT.or_null(),
        "data.source.workers": whole(1).or_null(),
        "data.source.test_folder": TEXT.or_null(),
        "data.source.value_range": a_list("a finite number", ("[inf]", "[a,1]"), ("[0,1]", "[-1,1]")).or_null(),
        "data.test_folder": TEXT.or_null(),
        "data.value_range": a_list("a finite number", ("[inf]", "[a,1]"), ("[0,1]", "[-1,1]")).or_null(),
    },
    "data=image_folder data.root=x data.image_size=8": {
        **dict.fromkeys(("data.keep", "data.source.keep"), one_of("auto", "decoded", "encoded")),
        **dict.fromkeys(("data.crop_pct", "data.source.crop_pct"), UPPER_HALF),
    },
    "data=huggingface data.path=x": {
        f"data{source}.{name}": TEXT.or_null() if name != "path" else TEXT
        for source in ("", ".source")
        for name in ("path", "subset", "revision", *(f"{part}_split" for part in ("train", "val", "test")), *COLUMNS)
    },
    "label_noise=file label_noise.path=x": {"label_noise.path": TEXT, "label_noise.labels": TEXT.or_null()},
    "label_noise=asymmetric logger=wandb model=timm optimizer=adam regularizer=sam scheduler=onecycle": {
        "label_noise.rate": SHARE,
        "label_noise.seed": whole(0, SEEDS),
        "label_noise.validation": one_of("clean", "noisy"),
        "label_noise.map": SETTINGS.or_null(),
        "logger.project": TEXT,
        "logger.entity": TEXT.or_null(),
        "logger.mode": one_of("online", "offline", "disabled").or_null(),
        "logger.on_error": one_of("offline", "stop"),
        "logger.group": TEXT.or_null(),
        "logger.job_type": TEXT.or_null(),
        "logger.tags": Row("a list of words", ("a", "3", "null", "[3]", "[a,'']"), ("[]", "[a,b]")),
        "logger.sweep": TEXT.or_null(),
        "model.options": SETTINGS.or_null(),
        "model.pretrained": FLAG,
        "model.name": TEXT,
        "optimizer.betas": a_list(
            "a number in [0, 1)", ("[1,0.9]", "[0.9,1]", "[-0.1,0.9]"), ("[0,0]", "[0.999999,0.999999]")
        ),
        "optimizer.eps": POSITIVE,
        "regularizer.wrap.rho": POSITIVE,
        "regularizer.wrap.adaptive": FLAG,
        "scheduler.warmup_fraction": SHARE.or_null(),
    },
    "data=cifar10 optimizer=acprop trainer=ddp": {
        "data.download": FLAG,
        "data.source.download": FLAG,
        **{f"optimizer.{name}": FLAG for name in ("decoupled", "degenerate_to_sgd", "momentum_update", "rectify")},
        "trainer.strategy.find_unused_parameters": FLAG,
    },
    "optimizer=adan": {"optimizer.no_prox": FLAG},
    "scheduler=multistep": {
        "scheduler.milestones": a_list(POSITIVE.words, ("[0]", "[1,-1]", "[a]"), ("[1e-300]", "[0.5,60,200]")),
        "scheduler.gamma": Row("a number in (0, 1)", ("0", "1", "null"), ("1e-300", "0.999999"), OTHER),
        "scheduler.warmup_epochs": POSITIVE.or_null(),
    },
    "scheduler=warmup": {"scheduler.warmup_start": BELOW_ONE.or_null()},
    "regularizer=agr": {"regularizer.wrap.granularity": one_of("tensor", "row"), "regularizer.wrap.compile": FLAG},
    "regularizer=gce": {
        "regularizer.penalty.q": Row("a number in (0, 1]", ("0", "1.000001", "null"), ("1e-300", "1"), OTHER)
    },
    "regularizer=gvr_normalised": {"regularizer.penalty.whole_batch": FLAG, "regularizer.penalty.eps": POSITIVE},
    "regularizer=gvr_label_free": {"regularizer.penalty.detach": FLAG, "regularizer.alpha_ramp": SHARE.or_null()},
    "regularizer=gvr_one_view": {
        "regularizer.penalty.fisher": FLAG,
        "regularizer.alpha_from": BELOW_ONE.or_null(),
        "regularizer.alpha_until": Row(f"{SHARE.words} or null", ("-1e-9", "1.000001"), ("1", "null"), OTHER),
    },
    "regularizer=label_smoothing": {"regularizer.penalty.smoothing": BELOW_ONE},
    "model=resnet50": {"model.blocks": Row(BLOCKS, ("0",), ("[1,2,3,4]",)), "model.bottleneck": FLAG},
    "model=vgg11": {"model.hidden": whole(1)},
    "model.groups=1": {"model.width": whole(1)},
    f"model.width={LARGEST}": {"model.groups": Row("a whole number >= 1", whole(1).refused, ("1", str(LARGEST)))},
    "task=ddpm extractor=classifier": {
        "task.noise.beta_schedule": one_of("linear", "cosine", "sigmoid", "sigmoid_published"),
        "task.noise.scale_betas": Row(FLAG.words, FLAG.refused, ("false",)),
        "task.noise.beta_range": a_list(
            "a number in (0, 1)", ("[0,0.5]", "[0.5,1]", "[-1,0.5]", "[nan,0.5]"), ("[1e-300,0.999999]",)
        ),
        "task.noise.prediction": one_of("epsilon", "v", "sample"),
        "task.noise.timesteps": Row("a whole number >= 2", whole(2).refused, ("50", str(LARGEST))),
        "task.ema_decay": BELOW_ONE,
        "task.ema_warmup": FLAG,
        "generation.num_images": whole(2),
        "generation.grid": whole(1),
        "generation.every_n_epochs": whole(0),
        "generation.score_every_n_epochs": Row(
            "a whole number >= 0 or a list [a, b, ...], each a whole number >= 1",
            ("-1", "1.5", "null", "[]", "[0,3]", "[a]"),
            ("0", str(LARGEST), "[10,400]"),
        ),
        "generation.weights": one_of("raw", "average", "both"),
        "generation.batch_size": whole(1),
        "generation.splits": whole(2),
        "generation.bf16": FLAG,
        "generation.allow_few": FLAG,
        "extractor.cache_dir": TEXT.or_null(),
        "extractor.checkpoint": TEXT.or_null(),
        "extractor.trust": Row(f"{TEXT.words} or a list of words or null", ("3", "[3]"), ("a.B", "[a.B,c.D]")),
        "sampler.eta": NOT_NEGATIVE,
        "sampler.spacing": one_of("trailing", "linspace", "leading", "quadratic"),
        "sampler.clip_sample": FLAG,
        "model.widths": a_list("a whole number >= 1", ("[0]", "[8,0]", "[8.0]", "[true]"), ("[1]", f"[{LARGEST}]")),
        "model.blocks": Row(BLOCKS, ("0", "1.5", "null", "[]", "[0,1]"), ("1", str(LARGEST))),
        "model.attention": a_list("true or false", ("[1]", "[true,0]"), ("[true]", "[false,true]")),
        "model.head_dim": whole(1).or_null(),
        "model.weights": TEXT.or_null(),
        "model.init": Row("one of default, published", ("xavier", "null", "1"), ("default",)),
    },
    "task=ddpm sampler=ddim_published task.noise.beta_schedule=linear model.weights=null": {
        "sampler.steps_offset": Row(whole(0).words, whole(0).refused, ("0", str(LARGEST))),
        "sampler.set_alpha_to_one": FLAG,
        "task.noise.scale_betas": FLAG,
        "model.init": one_of("default", "published"),
    },
    "task=ddpm task.noise.timesteps=2 sampler.steps=1": {"task.noise.timesteps": whole(2)},
    f"task=ddpm task.noise.timesteps={LARGEST}": {"sampler.steps": whole(1).or_null()},
    "task=ddpm extractor=inception": {
        "extractor.weights": TEXT.or_null(),
        "extractor.resize": one_of("tensorflow", "pytorch_fid"),
    },
    "task=ddpm extractor=efficientnet": {"extractor.size": whole(32)},
}
ROWS = [(options, key, row) for options, rows in RULED.items() for key, row in rows.items()]
# of a group that is not there, which only + can bring
BROUGHT = {"sampler": "+sampler={steps:3}", "extractor": "+extractor={size:32}"}


def refusal(line: Iterable[str]) -> str:
    with pytest.raises(UserError) as caught:
        check(list(line))
    return str(caught.value)


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[f"{key} {options}" for options, key, _ in ROWS])
def test_what_is_just_outside_a_rule_is_refused(number: int) -> None:
    options, key, row = ROWS[number]
    other = [row.other_types[number // 2 % len(row.other_types)]] if row.other_types and number % 2 else []
    for value in (*row.refused, *other):
        said = refusal([*options.split(), f"{key}={value}"])
        assert said.startswith(f"{key.lstrip('+')}=") and said.endswith(f": must be {row.words}"), (value, said)


@pytest.mark.parametrize("options", RULED)
def test_what_is_just_inside_a_rule_passes(options: str) -> None:
    """All keys at once: each value of a sweep is looked at."""
    rows = RULED[options].items()
    check([*options.split(), *(f"{key}={','.join(row.passes)}" for key, row in rows if row.passes)])


@pytest.mark.parametrize("group", BROUGHT)
def test_a_group_that_is_brought_needs_a_target(group: str) -> None:
    said = refusal([BROUGHT[group]])
    assert said.startswith(f"{group}={{") and said.endswith("must be settings with a _target_ or null")


def test_every_key_says_in_one_place_what_it_may_be() -> None:
    for key in schema().values():
        assert bool(key.range and (key.help or key.path in ADDED)) != bool(key.repeats), key
        assert key.rule is None or key.rule.words
    assert rule_of("optimizer.lr") == rule_of("lr") and rule_of("no.such.key") is None


def test_a_range_stands_once_and_a_wrong_one_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = Counter(path for file in _files() for path, _, comment in _lines(file) if " | " in comment)
    assert set(ranges.values()) == {1} and ranges.keys() | ADDED.keys() == {
        k.path for k in schema().values() if k.range
    }
    wrong = Key("model.beta", "small | large", "", "", {"mine": "3"})
    monkeypatch.setitem(schema(), "model.beta", wrong)
    with pytest.raises(UserError, match=r"^mine\.yaml: model\.beta: 'small \| large' is no range .* number >= 0"):
        rule_of.__wrapped__("model.beta")


@pytest.mark.parametrize("words", ["whole", "whole number >= -1", "number > 1", "nul", "list of", "a, b", ""])
def test_words_that_are_no_range_are_told(words: str) -> None:
    with pytest.raises(ValueError, match="is no range of values"):
        read_range(words)


def test_every_rule_has_a_row() -> None:
    ruled = {path for path in schema() if rule_of(path) is not None}
    assert ruled - BROUGHT.keys() <= {key.lstrip("+") for _, key, _ in ROWS}


# relation -> lines that it refuses, what it says of each, and near ones that pass, where no option alone is one
RELATED: dict[str, list[tuple[str, list[str], list[str]]]] = {
    "name": [
        ("name=../up", ["name=../up", "must not climb"], ["name=up/a..b"]),
        ("name=a/../b", ["must not climb"], ["name=a/b"]),
        (f"name={'x' * 201}", ["longer than 200"], [f"name={'x' * 200}"]),
    ],
    "clipping": [("task.clip_norm=1 task.clip_value=2", ["task.clip_norm=1 and task.clip_value=2"], [])],
    "shares": [
        ("batch_size=10 trainer.devices=4", ["batch_size=10", "8 or 12"], ["batch_size=12 trainer.devices=4"]),
        ("task.accumulate=3", ["batch_size=128", "task.accumulate, 3", "126 or 129"], ["task.accumulate=4"]),
        ("batch_size=12 trainer.devices=2 task.accumulate=4", ["accumulate, 8", "8 or 16"], []),
        ("batch_size=3 trainer.devices=4", [": 4"], ["batch_size=4 trainer.devices=4"]),
        (
            "batch_size=7 trainer.devices=-1 task.accumulate=2",
            ["6 or 8"],
            ["batch_size=7 trainer.devices=-1", "batch_size=7 trainer.devices=auto"],
        ),
    ],
    "views": [
        ("regularizer=gvr regularizer.views=1", ["views=1", ">= 2 (or regularizer=gvr_split)"], []),
        (
            "regularizer=gvr_published regularizer.views=1",
            [">= 2 (or regularizer=gvr_split)"],
            ["regularizer=gvr_published regularizer.views=3"],
        ),
        (
            "regularizer=consistency regularizer.views=1",
            ["regularizer.views=1: the penalty compares views, so views must be >= 2"],
            ["regularizer=two_view regularizer.views=1"],
        ),
        ("regularizer=gvr_split regularizer.views=2", ["views=2", "must be 1"], []),
    ],
    "per_sample": [
        (
            "regularizer=gvr_per_sample regularizer.penalty.layers=last_stage",
            ["regularizer.penalty.layers=last_stage", "needs layers=head"],
            ["regularizer=gvr regularizer.penalty.layers=last_stage"],
        ),
        (
            "regularizer=gvr_per_sample regularizer.penalty.split=true regularizer.views=1",
            ["regularizer.penalty.split=true", "false"],
            [],
        ),
        (
            "regularizer=gvr_per_sample regularizer.penalty.subset=8",
            ["regularizer.penalty.subset=8", "shared=true"],
            ["regularizer=gvr_per_sample regularizer.penalty.subset=8 regularizer.penalty.shared=true"],
        ),
    ],
    "alpha_schedule": [
        (
            "regularizer=gvr regularizer.alpha_from=0.5 regularizer.alpha_until=0.5",
            ["regularizer.alpha_until=0.5: must be larger than regularizer.alpha_from=0.5"],
            ["regularizer=gvr regularizer.alpha_from=0.5 regularizer.alpha_until=0.51"],
        ),
        ("regularizer=gvr regularizer.alpha_until=0", ["regularizer.alpha_until=0: must be larger"], []),
        (
            "regularizer=gvr regularizer.alpha_from=0.8 regularizer.alpha_ramp=0.21",
            ["regularizer.alpha_ramp=0.21", "not be reached", "alpha_from=0.8 and regularizer.alpha_until=1"],
            [
                "regularizer=gvr regularizer.alpha_from=0.8 regularizer.alpha_ramp=0.2",
                "regularizer=gvr regularizer.alpha_from=0.1 regularizer.alpha_ramp=0.2 regularizer.alpha_until=0.3",
            ],
        ),
        (
            "regularizer=agr regularizer.alpha_until=0.5",
            ["regularizer.alpha_until=0.5: there is no penalty"],
            ["regularizer=label_smoothing regularizer.alpha_until=0.5"],
        ),
    ],
    "own_loss": [
        (
            "regularizer=gce task.label_smoothing=0.1",
            ["task.label_smoothing=0.1: regularizer=gce has a loss of its own"],
            ["regularizer=label_smoothing task.label_smoothing=0.1"],
        )
    ],
    "compiled": [
        (
            "regularizer=gvr regularizer.penalty.layers=all task.compile=true",
            ["task.compile=true", "regularizer.penalty.layers=all"],
            [
                "regularizer=gvr_last_stage,gvr_split,none task.compile=true",
                "regularizer=consistency task.compile=true",
            ],
        ),
        ("regularizer=gvr regularizer.penalty.layers=[head.*] task.compile=true", ["layers=[head.*]"], []),
        ("regularizer=gvr_published task.compile=true", ["task.compile=true", "regularizer=gvr_published"], []),
    ],
    "norm_groups": [
        ("model.groups=5", ["model.groups=5 must divide model.width=32"], ["model.groups=16"]),
        ("model.width=12", ["model.groups=8 must divide model.width=12"], ["model.width=24"]),
    ],
    "depth": [
        ("model=wide_resnet model.depth=29", ["model.depth=29", "6 n + 4"], ["model=wide_resnet model.depth=34,10"])
    ],
    "blocks": [
        (
            "model=resnet50 model.blocks=[1,2]",
            ["model.blocks=[1, 2]: needs one entry for each of model.widths=[64, 128, 256, 512]"],
            ["model=resnet50 model.blocks=2", "model=resnet18 model.blocks=[1,2,3,4]"],
        ),
        ("task=ddpm model.blocks=[1,2]", ["model.blocks=[1, 2]: a list is of a resnet's stages"], []),
    ],
    "nesterov": [
        ("optimizer.nesterov=true optimizer.momentum=0", ["optimizer.nesterov=true", "optimizer.momentum > 0"], []),
        (
            "optimizer.nesterov=true +optimizer.dampening=0.1",
            ["no optimizer.dampening"],
            ["optimizer.nesterov=true +optimizer.dampening=0"],
        ),
    ],
    "image_size": [
        (
            "data=image_folder data.root=x data.image_size=[48]",
            ["data.image_size=[48]", "the height and the width"],
            ["data=image_folder data.root=x data.image_size=[48,64]"],
        ),
        ("data=image_folder data.root=x data.image_size=[48,64,3]", ["data.image_size=[48, 64, 3]"], []),
    ],
    "kept": [
        (
            "data=image_folder data.root=x data.keep=encoded",
            ["data.keep=encoded", "set data.image_size"],
            ["data=image_folder data.root=x data.keep=encoded data.image_size=8"],
        ),
        (
            "data=huggingface data.path=x data.image_size=8 data.keep=encoded data.skip_broken=true",
            ["data.skip_broken=true", "data.keep=encoded"],
            ["data=huggingface data.path=x data.image_size=8 data.skip_broken=true"],
        ),
        (
            "data=image_folder data.root=x data.crop_pct=0.875",
            ["data.crop_pct=0.875", "set data.image_size"],
            ["data=image_folder data.root=x data.crop_pct=0.875 data.image_size=[8,9]"],
        ),
    ],
    "spans": [
        (
            "augmentation=none data.augmentation.crop_scale=[0.5]",
            ["data.augmentation.crop_scale=[0.5]: must be the least and the most, [a, b] with a <= b"],
            ["augmentation=none data.augmentation.crop_scale=[0.5,0.5]"],
        ),
        ("augmentation=none data.augmentation.blur_sigma=[2,1]", ["data.augmentation.blur_sigma=[2, 1]"], []),
        ("augmentation=none data.augmentation.erase_scale=[0.1,0.2,0.3]", ["erase_scale=[0.1, 0.2, 0.3]"], []),
    ],
    "takes_its_place": [
        (
            "augmentation=trivial data.transform={_target_:torchvision.transforms.v2.RandomRotation,degrees:10}",
            ["data.transform: takes the place of augmentation=..."],
            ["data.transform={_target_:torchvision.transforms.v2.RandomRotation,degrees:10}"],
        )
    ],
    "mixes": [
        ("task=ddpm mix=mixup", ["mix: task=ddpm learns without labels; leave mix out"], ["mix=both regularizer=gvr"]),
        ("mix=mixup mix.mixup=0", ["mix.mixup=0 and mix.cutmix=0 mix nothing"], ["mix=both mix.mixup=0"]),
        ("mix=cutmix mix.cutmix=0", ["mix nothing"], []),
    ],
    "channels": [
        (
            "data.mean=[0.5,0.5] data.std=[0.5,0.5,0.5]",
            ["data.mean says 2", "data.std says 3"],
            ["data.mean=[0.5,0.5,0.5],[0.5] data.std=[0.5,0.5,0.5]"],
        ),
        (
            "data=image_folder data.root=x data.channels=1 data.std=[0.5,0.5,0.5]",
            ["data.std says 3", "data.channels says 1"],
            ["data=image_folder data.root=x data.std=[0.5,0.5,0.5],[0.5]"],
        ),
    ],
    "network": [
        ("task=ddpm model=resnet18", ["gives images, which resnet does not", "model=unet_small"], []),
        ("task=ddpm model=small_cnn", ["gives images, which small_cnn does not"], []),
        ("task=ddpm model=wide_resnet", ["gives images, which wide_resnet does not"], []),
        ("task=ddpm model=timm", ["gives images, which timm_network does not"], []),
        ("model=unet_small", ["gives classes, which unet does not", "model=resnet18"], []),
    ],
    "labels": [
        ("task=ddpm label_noise=pairflip", ["leave label_noise out"], []),
        (
            "label_noise=symmetric label_noise.validation=noisy data.val_fraction=0",
            ["label_noise.validation=noisy: there are no images validated on"],
            ["label_noise=symmetric label_noise.validation=noisy", "label_noise=symmetric data.val_fraction=0"],
        ),
    ],
    "corruption": [
        (
            "data.corruption=contast",
            ["data.corruption=contast", "did you mean contrast?"],
            ["data.corruption=contrast"],
        ),
        ("data.corruption=[pixelate,gausian_noise]", ["did you mean gaussian_noise?"], ["data.corruption=[pixelate]"]),
        ("task=ddpm data.corruption=all", ["leave data.corruption out"], ["task=ddpm data.corruption=null"]),
    ],
    "stops_early": [
        (
            "early_stopping.patience=3 data.val_fraction=0",
            ["early_stopping.patience=3: goes by validation, which data.val_fraction=0 leaves out"],
            ["early_stopping.patience=3 data.val_fraction=0.01", "early_stopping.min_delta=1 data.val_fraction=0"],
        )
    ],
    "gradient_scaler": [
        (
            "regularizer=sam trainer.precision=16-mixed",
            ["trainer.precision=16-mixed", "bf16-mixed"],
            ["regularizer=sam trainer.precision=bf16-mixed", "regularizer=agr trainer.precision=16-mixed"],
        ),
        ("regularizer=sam_agr trainer.precision=16", ["trainer.precision=16:"], []),
    ],
    "fused_and_scaled": [
        (
            "trainer=gpu trainer.precision=16-mixed",
            ["trainer.precision=16-mixed", "trainer.fused=false"],
            ["trainer=gpu trainer.precision=16-mixed optimizer=rmsprop", "trainer=gpu trainer.precision=bf16-mixed"],
        ),
    ],
    "warmup_length": [
        (
            "scheduler=warmup scheduler.warmup_epochs=5",
            ["scheduler.warmup_steps=200 and scheduler.warmup_epochs=5 exclude each other", "to null"],
            [
                "scheduler=warmup scheduler.warmup_epochs=5 scheduler.warmup_steps=null",
                "scheduler=multistep scheduler.warmup_epochs=0.5 scheduler.warmup_start=0",
                "scheduler=warmup scheduler.warmup_steps=null",
            ],
        ),
        (
            "scheduler=multistep scheduler.warmup_start=0",
            ["scheduler.warmup_start=0: there is no warm-up; set one of scheduler.warmup_steps"],
            ["scheduler=multistep scheduler.warmup_fraction=0.1 scheduler.warmup_start=0.5"],
        ),
    ],
    "of_the_cosine": [
        (
            "scheduler=warmup scheduler.min_lr=0.1",
            ["scheduler.min_lr=0.1: is of the cosine; add scheduler.cosine=true"],
            ["scheduler=warmup_cosine scheduler.min_lr=0.1 scheduler.cosine_from=start"],
        ),
        ("scheduler=warmup scheduler.cosine_from=start", ["scheduler.cosine_from=start: is of the cosine"], []),
    ],
    "milestones": [
        (
            "scheduler=multistep scheduler.milestones=[2,1]",
            ["scheduler.milestones=[2, 1]: must rise"],
            ["scheduler=multistep scheduler.milestones=[1,2],[0.5]"],
        ),
        ("scheduler=multistep scheduler.milestones=[1,1]", ["must rise"], []),
    ],
    "class_logits": [
        ("task=ddpm regularizer=consistency", ["regularizer=consistency", "the network gives images"], []),
        ("task=ddpm regularizer=label_smoothing", ["regularizer=label_smoothing"], []),
        ("task=ddpm regularizer=gce", ["regularizer=gce"], []),
    ],
    "generates": [
        ("sampler=ddim", ["sampler: ", "leave sampler out, or add task=ddpm"], []),
        ("extractor=auto", ["extractor: ", "leave extractor out"], []),
    ],
    "pixels": [
        ("task=ddpm data.mean=[0.4]", ["data.mean=[0.4]", "are [0.5]"], ["data.mean=[0.4]"]),
        ("task=ddpm data.mean=null", ["data.mean=null"], []),
        (
            "task=ddpm data=cifar10 data.std=[0.5,0.5,0.6]",
            ["data.std=[0.5, 0.5, 0.6]"],
            ["task=ddpm data=cifar10 data.std=[0.5,0.5,0.5]"],
        ),
    ],
    "sampling_steps": [
        (
            "task=ddpm task.noise.timesteps=100 sampler.steps=101",
            ["sampler.steps=101", "task.noise.timesteps=100"],
            ["task=ddpm task.noise.timesteps=100 sampler.steps=100"],
        )
    ],
    "scaled_betas": [
        (
            "task=ddpm task.noise.scale_betas=true",
            ["task.noise.scale_betas=true: is of linear betas; add task.noise.beta_schedule=linear"],
            ["task=ddpm task.noise.scale_betas=true task.noise.beta_schedule=linear task.noise.timesteps=51"],
        ),
        (
            "task=ddpm task.noise.scale_betas=true task.noise.beta_schedule=linear task.noise.timesteps=20"
            " sampler.steps=9",
            ["with task.noise.timesteps=20 the last beta would be 1 or more"],
            [],
        ),
    ],
    "quadratic": [
        (
            "task=ddpm sampler=ddpm sampler.spacing=quadratic",
            ["sampler.spacing=quadratic: DDPM does not have it; choose sampler=ddim_published"],
            ["task=ddpm sampler=ddim_published sampler.spacing=quadratic"],
        )
    ],
    "tested_epochs": [
        (
            "task=ddpm test_every_n_epochs=2",
            ["test_every_n_epochs=2: task=ddpm has no accuracy; set generation.score_every_n_epochs"],
            ["task=ddpm test_every_n_epochs=null"],
        )
    ],
    "first_weights": [
        (
            "task=ddpm model.init=published model.weights=folder",
            ["model.init=published: the first weights are those of model.weights=folder"],
            ["task=ddpm model.weights=folder", "task=ddpm model.init=published"],
        )
    ],
    "beta_range": [
        (
            "task=ddpm task.noise.beta_range=[0.02,0.01]",
            ["task.noise.beta_range=[0.02, 0.01]", "must not be larger"],
            ["task=ddpm task.noise.beta_range=[0.01,0.01],[0.01,0.02]"],
        )
    ],
}
REFUSED = [(name, line, says) for name, cases in RELATED.items() for line, says, _ in cases]
NEAR = sorted({line for cases in RELATED.values() for _, _, near in cases for line in near})


@pytest.mark.parametrize(("relation", "line", "says"), REFUSED, ids=[line for _, line, _ in REFUSED])
def test_what_excludes_each_other_is_refused(relation: str, line: str, says: list[str]) -> None:
    said = refusal(line.split())
    assert all(words in said for words in says), said


@pytest.mark.parametrize("relation", RELATED)
def test_a_relation_is_the_only_one_that_refuses_its_lines(relation: str) -> None:
    line = RELATED[relation][0][0]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        tree: Any = OmegaConf.to_container(compose("config", line.split(), return_hydra_config=True), resolve=False)
    config = resolve({key: value for key, value in tree.items() if key != "hydra"})
    assert [one.__name__ for one in RELATIONS if one(config)] == [relation]


@pytest.mark.parametrize("line", NEAR)
def test_what_is_near_passes(line: str) -> None:
    check(line.split())


def test_every_relation_has_a_row() -> None:
    assert [relation.__name__ for relation in RELATIONS if relation.__name__ not in RELATED] == []
