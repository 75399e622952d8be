"""What a steady step asks of a device: how many kernels, and that the host never waits for it.

Counted on torch's meta device (on_meta.py), the same on every machine. The numbers in the tables may only fall.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import Callback
from omegaconf import DictConfig, OmegaConf
from on_meta import META, Work, watched
from runs import TINY_UNET

from gvr_lightning.app.build import build_sampler
from gvr_lightning.app.quiet import quiet
from gvr_lightning.app.run import _build, _Parts
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.diffusion.noise import Noise
from gvr_lightning.instantiate import make

REGULARIZERS = sorted(path.stem for path in (conf_folder() / "regularizer").glob("*.yaml"))
WARM = 2  # steps before the first that is counted
NEVER = "trainer.log_every_n_steps=1000000"


def composed(*overrides: str) -> DictConfig:
    """The project's configuration."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", overrides=["name=test", *overrides])


class EnoughError(Exception):
    """All has been counted."""


class Switch(Callback):
    """Some steps of each regularizer, plainly and with ``further`` settings, within one run."""

    def __init__(self, work: Work, nodes: dict[str, Any], further: dict[str, Any]) -> None:
        self.work, self.further = work, further
        rounds = [(name, node, more) for name, node in nodes.items() for more in (False, True)]
        self.todo = [("", rounds[0][1], True)] * WARM + rounds
        self.found: dict[str, tuple[int, list[str]]] = {}

    def on_train_start(self, trainer: Any, task: Any) -> None:
        """The optimizer without wrap, and what the further settings have instead of None."""
        self.plain, self.ema = trainer.optimizers[0], task.ema
        self.noise = trainer.datamodule.batches.true_targets
        self._next(trainer, task)

    def on_train_batch_end(self, trainer: Any, task: Any, *_: Any) -> None:
        """What was done since the step before, also to make the batch."""
        name, _node, more = self.todo.pop(0)
        self.found[f"{name} +" if more else name] = sum(self.work.kernels.values()), self.work.waits[:]
        if not self.todo:
            raise EnoughError
        self._next(trainer, task)

    def _next(self, trainer: Any, task: Any) -> None:
        _name, node, more = self.todo[0]
        task.penalty = make(OmegaConf.create(node["penalty"]), "penalty")
        wrap = make(node["wrap"] and OmegaConf.create(node["wrap"]), "wrap")
        trainer.strategy.optimizers = [wrap(self.plain) if wrap else self.plain]
        trainer.datamodule.batches.views = node["views"]
        if task.kind == "classification":
            task.ema = self.ema if more else None
            trainer.datamodule.batches.true_targets = self.noise if more else None
        for key, value in self.further.items():
            setattr(task, key, value if more else 1 if key == "accumulate" else None)
        self.work.kernels.clear()
        self.work.waits.clear()


def counted(folder: Path, regularizers: list[str], further: dict[str, Any], *overrides: str) -> dict[str, Any]:
    """Kernels and waits of a step of each."""
    quiet()
    parts = built(folder, *overrides)
    nodes = {
        name: OmegaConf.to_container(composed(f"regularizer={name}").regularizer, resolve=True) for name in regularizers
    }
    with watched() as work:
        switch = Switch(work, nodes, further)
        parts.trainer.callbacks.append(switch)  # type: ignore[attr-defined]
        with pytest.raises(EnoughError):
            parts.trainer.fit(parts.task, parts.data)
    return switch.found


def built(folder: Path, *overrides: str) -> _Parts:
    cfg = composed("trainer._target_=on_meta.MetaTrainer", "batch_size=16", NEVER, *overrides)
    return _build(cfg, OmegaConf.to_container(cfg, resolve=True), folder, None)


# kernels of a step, and of one with label noise, the moving average, clipping and two micro-batches
SMALL_CNN = {
    "agr": (86, 193),
    "augmix": (231, 497),
    "consistency": (177, 389),
    "consistency_target": (173, 381),
    "feature_norm": (91, 217),
    "gce": (93, 221),
    "gvr": (199, 433),
    "gvr_agr": (213, 447),
    "gvr_label_free": (210, 455),
    "gvr_last_stage": (760, 1554),
    "gvr_normalised": (296, 627),
    "gvr_one_view": (140, 327),
    "gvr_per_sample": (278, 591),
    "gvr_published": (847, 1728),
    "gvr_split": (149, 379),
    "label_smoothing": (83, 201),
    "none": (72, 179),
    "sam": (137, 329),
    "sam_agr": (151, 343),
    "two_view": (149, 333),
}
RESNET18 = {"none": (182, 442), "sam": (337, 814)}
DIFFUSION = {"none": (327, 764), "gvr": (779, 1668), "agr": (342, 778), "sam": (639, 1500)}
MIXED = {"none": (105, 221), "gvr": (260, 507)}  # each view for itself
TRANSFORMED = {"none": (934, 1043)}  # by everything there is; a flip alone is of two more, and a ninth of the bytes
NOISE = ["label_noise=symmetric", "label_noise.rate=0.3", "task.ema_decay=0.9"]
EVERY_TRANSFORM = ["augmentation=imagenet", "data.augmentation.policy=rand", "data.augmentation.degrees=10"]
EVERY_TRANSFORM += [f"data.augmentation.{key}=0.1" for key in ("brightness", "contrast", "saturation", "hue")]
EVERY_TRANSFORM += [f"data.augmentation.{key}_prob=0.5" for key in ("grey", "blur", "erase")]
RUNS = {
    "small_cnn": (SMALL_CNN, NOISE),
    "mixed": (MIXED, ["mix=both", "mix.independent=true", *NOISE]),
    "transformed": (TRANSFORMED, [*EVERY_TRANSFORM, *NOISE]),
    "resnet18": (RESNET18, ["model=resnet18", *NOISE]),
    "ddpm": (DIFFUSION, ["task=ddpm", "extractor=none", *TINY_UNET]),
}


def test_every_regularizer_has_its_row() -> None:
    assert list(SMALL_CNN) == REGULARIZERS


@pytest.mark.parametrize("name", RUNS)
def test_a_steady_step_waits_for_nothing_and_takes_no_more_kernels(name: str, tmp_path: Path) -> None:
    table, overrides = RUNS[name]
    found = counted(tmp_path, list(table), {"accumulate": 2, "clip_norm": 1.0}, *overrides)
    assert {case: waits for case, (_, waits) in found.items() if waits} == {}
    kernels = {case: (found[case][0], found[f"{case} +"][0]) for case in table}
    assert {case: n for case, n in kernels.items() if n[0] > table[case][0] or n[1] > table[case][1]} == {}


@pytest.mark.parametrize(
    ("overrides", "kernels"), [([], 100), (["task.ema_decay=0.9"], 147), (["task=ddpm", *TINY_UNET], 167)], ids=str
)
def test_a_batch_of_validation(overrides: list[str], kernels: int, tmp_path: Path) -> None:
    quiet()
    parts = built(tmp_path, "data.eval_batch_size=16", "extractor=none", *overrides)
    with watched() as work:
        parts.trainer.callbacks.append(third := Third(work))  # type: ignore[attr-defined]
        with pytest.raises(EnoughError):
            parts.trainer.validate(parts.task, parts.data, verbose=False)
    assert third.found[1] == [] and third.found[0] <= kernels


class Third(Callback):
    """Counts the third batch."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.found: tuple[int, list[str]] = 0, []

    def on_validation_batch_end(
        self, trainer: Any, task: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """The third, or forget what was."""
        self.found = sum(self.work.kernels.values()), self.work.waits[:]
        if batch_idx == 2:
            raise EnoughError
        self.work.kernels.clear()
        self.work.waits.clear()


SAMPLERS = {"ddim": (6, 0), "ddim sampler.eta=0.5": (7, 0), "ddpm": (7, 0)}  # kernels, waits


@pytest.mark.parametrize("options", SAMPLERS)
def test_a_step_of_drawing_images(options: str) -> None:
    """Beside what the network takes."""
    cfg = composed("task=ddpm", *TINY_UNET, *f"sampler={options} sampler.steps=4".split())
    network = make(cfg.model, "model", image_shape=(1, 8, 8), num_classes=10).to(META).eval()
    sampler, found = build_sampler(cfg.sampler, Noise()), list[tuple[int, list[str]]]()
    with watched() as work, torch.inference_mode():
        network((torch.empty(8, 1, 8, 8, device=META), torch.empty(8, device=META)))
        own = sum(work.kernels.values())

        def watch(x: torch.Tensor) -> None:
            found.append((sum(work.kernels.values()), work.waits[:]))
            work.kernels.clear()
            work.waits.clear()

        sampler(network, (1, 8, 8), torch.arange(8), watch=watch)
    most, waiting = SAMPLERS[options]
    assert all(kernels - own <= most and len(waits) <= waiting for kernels, waits in found[1:-1])
