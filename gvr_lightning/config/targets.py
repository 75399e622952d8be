"""Whether nodes with a ``_target_`` hold what it takes, and nothing else was added."""

import ast
from typing import Any

from gvr_lightning.config.keys import FREE, suggest_key
from gvr_lightning.config.signatures import signature
from gvr_lightning.config.source_code import Signature
from gvr_lightning.config.values import is_open
from gvr_lightning.config.wording import nearest, show
from gvr_lightning.errors import UserError

Tree = dict[str, Any]

HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
GIVEN = {  # arguments that the run passes itself, and what to set instead
    "extractor": {"data": "choose data=..."},
    "sampler": {
        **dict.fromkeys(("num_train_timesteps", "beta_start", "beta_end", "beta_schedule"), "set task.noise"),
        "prediction_type": "set task.noise.prediction",
        "timestep_spacing": "set sampler.spacing",
    },
    "model": {"image_shape": "it comes from the data", "num_classes": "it comes from the data"},
    "task": {
        "num_classes": "it comes from the data",
        "seed": "set seed",
        "model": "choose model=...",
        "penalty": "choose regularizer=...",
        "wrap": "choose regularizer=...",
        "optimizer": "choose optimizer=...",
        "schedule": "choose scheduler=...",
        "alpha_schedule": "set regularizer.alpha_from, regularizer.alpha_until or regularizer.alpha_ramp",
        "groups": "set parameters.freeze, parameters.lr_scale or parameters.no_decay",
    },
    "optimizer": {"params": "they come from the model"},
    "regularizer.wrap": {"optimizer": "choose optimizer=..."},
    "scheduler": {
        "optimizer": "choose optimizer=...",
        "steps": "they come from epochs and batch_size",
        "epochs": "set epochs",
    },
    "logger": {
        "folder": "set hydra.run.dir",
        "step": "it comes from resume",
        "rows": "it comes from resume",
        "config": "it is the run's own",
    },
    "trainer": {
        "gradient_clip_val": "set task.clip_norm or task.clip_value",
        "gradient_clip_algorithm": "set task.clip_norm or task.clip_value",
        "accumulate_grad_batches": "set task.accumulate",
        "callbacks": "the run has its own",
        "logger": "choose logger=...",
        "plugins": "the run has its own",
        "default_root_dir": "set hydra.run.dir",
        "num_sanity_val_steps": "the run has its own",
        "enable_model_summary": "the run has its own",
        "use_distributed_sampler": "the run has its own",
    },
}
NOT_HERE = {  # arguments that Lightning knows and this project's loaders, checkpoints and figures do not
    "trainer": {
        "fast_dev_run": "set epochs=1 and data.max_train",
        "limit_train_batches": "set data.max_train",
        "limit_val_batches": "set data.val_fraction",
        "limit_test_batches": "the test is on all test images",
        "limit_predict_batches": "nothing is predicted",
        "overfit_batches": "set data.max_train and data.val_fraction=0",
        "max_steps": "set epochs",
        "min_steps": "set epochs",
        "min_epochs": "set epochs",
        "max_time": "SIGUSR1 or SIGTERM ends a run so that it can be resumed",
        "val_check_interval": "validation is after every epoch, or never with data.val_fraction=0",
        "enable_checkpointing": "set checkpoint.every_n_epochs, every_n_steps or every_n_minutes",
        "enable_progress_bar": "the run has its own, and none where its output is no terminal",
        "reload_dataloaders_every_n_epochs": "the loaders know the epoch",
        "barebones": "a run has its figures and checkpoints",
        "model_registry": "checkpoints are in the run's folder",
        "enable_autolog_hparams": "the configuration is in config.yaml",
    },
}
OWN = {
    "trainer": {"sync_batchnorm", "timeout", "tf32", "fused"},
    "sampler": {"steps", "eta", "spacing", "clip_sample"},
}  # of a node, for the run itself and not for its target
PRIMITIVES = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "None": (type(None),)}


def check_targets(before: Tree, now: Tree, tree: Tree, path: str = "") -> None:
    """Check what overrides added, removed or gave another target.

    Args:
        before: the resolved node before the overrides of keys, {} for a new one.
        now: the same node with them.
        tree: the whole configuration.
        path: of the node.

    Raises:
        UserError: for a target that cannot be imported, or an argument that it does not take or lacks.
    """
    added, removed = now.keys() - before.keys(), before.keys() - now.keys()
    target = now.get("_target_")
    if "_target_" in now and not isinstance(target, str):
        raise UserError(f"{path}._target_={show(target)}: must be the dotted name of a class or function")
    if isinstance(target, str) and not is_open(target):
        changed = target != before.get("_target_")
        suspects = now.keys() if changed else added
        if changed or suspects or removed:
            _check_arguments(
                target, path, before, now, suspects - HYDRA_KEYS - OWN.get(path, set()), set() if changed else removed
            )
        if before and "_partial_" in before.keys() | added and now.get("_partial_") != before.get("_partial_"):
            raise UserError(f"{path}._partial_={show(now.get('_partial_'))}: must stay {show(before.get('_partial_'))}")
    elif added and (before or not path) and path not in FREE:
        name = min(added)
        key = f"{path}.{name}".lstrip(".")
        raise UserError(f"{key}={show(now[name])}: there is no such key; {suggest_key(key, now, tree)}")
    for name, value in now.items():
        old = before.get(name)
        for i, inner in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(inner, dict):
                below = f"{path}.{name}.{i}" if isinstance(value, list) else f"{path}.{name}"
                check_targets(old if isinstance(old, dict) else {}, inner, tree, below.lstrip("."))


def _check_arguments(target: str, path: str, before: Tree, now: Tree, names: set[str], removed: set[str]) -> None:
    try:
        takes = signature(target)
    except ImportError as error:
        raise UserError(f"{path}._target_={target}: cannot be imported: {error}") from error
    given = GIVEN.get(path, {})
    for name in sorted(names):
        key = f"{path}.{name}"
        if name in given:
            raise UserError(f"{key}={show(now[name])}: the run passes this itself; {given[name]}")
        if name in NOT_HERE.get(path, {}):
            raise UserError(f"{key}={show(now[name])}: has no meaning here; {NOT_HERE[path][name]}")
        if name in takes.arguments:
            _check_type(takes.arguments[name], key, now[name])
        elif name in before and not takes.open:
            raise UserError(f"{key}: {target} takes no argument {name!r}; remove it with ~{key}")
        elif name not in before:
            _check_name(target, takes, path, name, now[name])
    for name in sorted(removed & takes.required):
        raise UserError(f"~{path}.{name}: {target} needs it")


def _check_name(target: str, takes: Signature, path: str, name: str, value: Any) -> None:
    """A new argument must be known; where ``**kwargs`` take any, it must not look like a known one's misspelling."""
    known = sorted(set(takes.arguments) - set(GIVEN.get(path, {})))
    near = nearest(name, known, cutoff=0.8 if takes.open else 0.6)
    if near is None and takes.open:
        return
    hint = f"did you mean {path}.{near}?" if near else f"it takes {', '.join(known) or 'none'}"
    raise UserError(f"{path}.{name}={show(value)}: {target} takes no argument {name!r}; {hint}")


def _check_type(annotation: str, key: str, value: Any) -> None:
    """Compare a value with an annotation of int, float, bool, str and None; any other is the target's own business."""
    try:
        nodes = [*ast.walk(ast.parse(annotation, mode="eval"))]
    except SyntaxError:
        return
    names = [n.id for n in nodes if isinstance(n, ast.Name)] + [n.attr for n in nodes if isinstance(n, ast.Attribute)]
    names += [str(n.value) for n in nodes if isinstance(n, ast.Constant)]
    kinds = [name for name in names if name not in ("Optional", "Union", "typing")]
    if "Optional" in names:
        kinds.append("None")
    if not kinds or is_open(value) or any(kind not in PRIMITIVES for kind in kinds):
        return
    if not any(type(value) in PRIMITIVES[kind] for kind in kinds):
        raise UserError(f"{key}={show(value)}: must be {' or '.join(dict.fromkeys(kinds)).replace('None', 'null')}")
