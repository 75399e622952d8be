"""Objects from a configuration, for a run and from its checkpoints. Nothing below this file sees a configuration."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import nn

from gvr_lightning.callbacks.early_stopping import EarlyStopping
from gvr_lightning.callbacks.generation import Generation
from gvr_lightning.callbacks.progress import RunProgress
from gvr_lightning.config.corruption import chosen
from gvr_lightning.config.optimizer import optimizer_node
from gvr_lightning.config.wording import suggest
from gvr_lightning.data.augmentation import PerImage
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.mixing import Mixing
from gvr_lightning.diffusion.noise import Noise
from gvr_lightning.diffusion.sampler import Sampler
from gvr_lightning.distributed.sync_batchnorm import synchronise
from gvr_lightning.errors import UserError
from gvr_lightning.instantiate import calling, guarded, make
from gvr_lightning.methods.penalty import Penalty
from gvr_lightning.metrics.extractor import Extractor
from gvr_lightning.metrics.scoring import Scoring
from gvr_lightning.tasks.base import BaseTask
from gvr_lightning.tasks.diffusion import DiffusionTask
from gvr_lightning.tasks.groups import ParameterGroups
from gvr_lightning.tasks.strength import AlphaSchedule

CALL: Any = Callable
SCORED = {"average": "average", "raw": "raw", "both": "average"}  # whose figures have plain names
DATA_KEYS = (
    *("val_fraction", "max_train", "subset_seed", "mean", "std"),
    *("eval_batch_size", "on_device", "transform_workers"),
)


def build_data(cfg: DictConfig) -> ViewsDataModule:
    """The data module, with its images read."""
    options = {key: cfg.data[key] for key in DATA_KEYS if key in cfg.data}  # a file of one's own may leave some out
    if options.get("subset_seed") == "run":
        options["subset_seed"] = cfg.seed
    asked: Any = OmegaConf.to_container(cfg.data, resolve=True)
    transform, eval_transform = (
        make(cfg.data.get(key), f"data.{key}", CALL) for key in ("transform", "eval_transform")
    )
    data = ViewsDataModule(
        source=make(cfg.data.source, "data.source", CALL),
        augmentation=PerImage(transform) if transform else make(cfg.data.augmentation, "data.augmentation", CALL),
        eval_augmentation=PerImage(eval_transform) if eval_transform else None,
        views=cfg.regularizer.views,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        label_noise=make(cfg.label_noise, "label_noise", CALL),
        mixing=make(cfg.get("mix"), "mix", Mixing),
        corruptions=chosen(asked.get("corruption")),
        **options,
    )
    with guarded("data"):
        data.setup()
    return data


def build_task(cfg: DictConfig, data: ViewsDataModule) -> BaseTask:
    """The task, with its model, penalty, optimizer and schedule."""
    model = make(cfg.model, "model", nn.Module, image_shape=data.image_shape, num_classes=data.num_classes)
    if cfg.trainer.get("sync_batchnorm"):
        synchronise(model)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    optimizer = optimizer_node(config)
    parts = {
        "model": model,
        "penalty": make(cfg.regularizer.penalty, "regularizer.penalty", Penalty),
        "wrap": calling(make(cfg.regularizer.wrap, "regularizer.wrap", CALL), "regularizer.wrap"),
        "optimizer": calling(make(optimizer, "optimizer", CALL), "optimizer"),
        "schedule": calling(make(cfg.scheduler, "scheduler", CALL), "scheduler"),
        "groups": ParameterGroups(**cfg.parameters),
        "alpha_schedule": build_alpha_schedule(cfg.regularizer),
    }
    task: BaseTask = make(cfg.task, "task", BaseTask, num_classes=data.num_classes, seed=cfg.seed, **parts)
    return task


def build_alpha_schedule(node: DictConfig) -> AlphaSchedule | None:
    """When the penalty acts; None for always."""
    keys = {"start": "alpha_from", "until": "alpha_until", "ramp": "alpha_ramp"}
    given = {name: node[key] for name, key in keys.items() if node.get(key) is not None}
    return AlphaSchedule(**given) if given else None


def build_early_stopping(cfg: DictConfig, data: ViewsDataModule, task: BaseTask) -> EarlyStopping:
    """What ends the training where validation gets no better, if it is to.

    Raises:
        UserError: for a figure that validation does not give, or data without a validation part.
    """
    options: Any = OmegaConf.to_container(cfg.early_stopping, resolve=True)
    monitor, modes = options.pop("monitor") or task.monitor, task.validated
    if monitor not in modes:
        raise UserError(f"early_stopping.monitor={monitor}: validation does not give it; {suggest(monitor, modes)}")
    if options["patience"] is not None and not len(data.val_index):
        raise UserError(
            f"early_stopping.patience={options['patience']}: goes by validation, and there are no images for it"
        )
    return EarlyStopping(monitor, modes[monitor], **options)


def build_sampler(node: DictConfig, noise: Noise) -> Sampler:
    """A sampler for networks that were trained with this noise: any diffusers scheduler, by ``_target_``.

    Raises:
        UserError: for settings that the scheduler does not take.
    """
    options: Any = OmegaConf.to_container(node, resolve=True)
    target, steps, eta, spacing = (options.pop(key, None) for key in ("_target_", "steps", "eta", "spacing"))
    if spacing is not None:
        options["timestep_spacing"] = spacing
    options["trained_betas"] = noise.scheduler.betas.tolist()  # themselves: not every scheduler knows every schedule
    try:
        kind: Any = get_class(target)
        clip = bool(options.get("clip_sample"))
        if "clip_sample" not in inspect.signature(kind).parameters:  # then the sampler does it
            options.pop("clip_sample", None)
        scheduler = kind.from_config(noise.scheduler.config, **options)
        return Sampler(scheduler, steps, eta or 0.0, clip)
    except (AttributeError, ImportError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"sampler: {target}: {' '.join(str(error).split())}") from error


def build_generation(
    cfg: DictConfig, data: ViewsDataModule, task: BaseTask, folder: Path, progress: RunProgress
) -> Generation | None:
    """What draws and scores images during the run; None for a task that generates none."""
    if not isinstance(task, DiffusionTask):
        return None
    options: Any = OmegaConf.to_container(cfg.generation, resolve=True)
    splits, allow_few = options.pop("splits"), options.pop("allow_few")
    sampler = build_sampler(cfg.sampler, task.noise)
    extractor, scoring = make(cfg.extractor, "extractor", Extractor, data=data), None
    if extractor is not None:
        kept = cfg.extractor.get("cache_dir")
        further = {"sampler": sampler.settings, "bf16": options["bf16"], "weights": SCORED[options["weights"]]}
        scoring = Scoring(extractor, data, options["num_images"], splits, allow_few, sampler.words, kept, further)
    return Generation(sampler, scoring, data.test_images, data.image_shape, folder, progress, seed=cfg.seed, **options)
