"""A training step of this project, data and loop included, beside one by hand; the two take turns within one run."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from augmentation import MEAN, STD, Cutout
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from training_step import Turns

from gvr_lightning.app.build import build_data, build_task
from gvr_lightning.app.memory import keep_memory
from gvr_lightning.app.quiet import quiet
from gvr_lightning.app.trainer import build_trainer
from gvr_lightning.config.cpu import cpu_precision
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.instantiate import make
from gvr_lightning.methods.penalty import Penalty

ByHand = Callable[[ViewsDataModule, nn.Module, Penalty, int], Callable[[], None]]


def compare_loops(by_hand: ByHand, repeats: int, *overrides: str) -> dict[str, list[float]]:
    """Seconds of each step.

    Args:
        by_hand: what makes the step to compare with, of its own network.
        repeats: steps that count.
        overrides: of this project's run.
    """
    quiet()
    keep_memory()  # as a run does; the loop by hand gains as much
    fixed = ["name=loop", "data.val_fraction=0", f"+trainer.max_steps={repeats + 2}", "epochs=1000"]
    fixed += ["+trainer.enable_progress_bar=false"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", overrides=[*fixed, "trainer.accelerator=cpu", *overrides])
    data = build_data(cfg)
    task = build_task(cfg, data)
    other = make(cfg.model, "model", nn.Module, image_shape=data.image_shape, num_classes=data.num_classes)
    turns = Turns(by_hand(data, other, make(cfg.regularizer.penalty, "penalty", Penalty), cfg.batch_size))
    with TemporaryDirectory() as folder:
        trainer = build_trainer(cfg, Path(folder), [turns])
        trainer.loggers = make(cfg.logger, "logger", Callable)(Path(folder), step=0, rows=0, config={})  # type: ignore[arg-type]
        trainer.fit(task, data)
    return {"by hand": turns.theirs[1:], "this project": turns.ours[1:]}


def same_data(data: ViewsDataModule, model: nn.Module, penalty: Penalty, batch: int) -> Callable[[], None]:
    """The same batches of the same data module, the same penalty, SGD, and nothing else."""
    sgd = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        part = data.batches.training(data.train_index[torch.randperm(len(data.train_index))[:batch]], 0)
        sgd.zero_grad()
        penalty(model, F.cross_entropy, part.views, part.target, part.keys).total.backward()
        sgd.step()

    return step


def same_passes(data: ViewsDataModule, model: nn.Module, penalty: Penalty, batch: int) -> Callable[[], None]:
    """The same passes over images that lie ready, in trainer=cpu's layout and in bf16 where the CPU has it."""
    views = [torch.randn(batch, *data.image_shape).to(memory_format=torch.channels_last) for _ in range(data.views)]
    target = torch.arange(batch) % data.num_classes
    model.to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        sgd.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_precision() != "32-true"):
            loss = penalty(model, F.cross_entropy, views, target)
        loss.total.backward()
        sgd.step()

    return step


def published(data: ViewsDataModule, model: nn.Module, penalty: Penalty, batch: int) -> Callable[[], None]:
    """In float32, each image of each view by torchvision's transforms, one at a time, as published code does it."""
    from PIL import Image
    from torchvision import transforms as T

    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in data.train_images[:]]
    targets, chain = data._splits.train.targets, [T.RandomHorizontalFlip(), T.RandomCrop(32, 4), T.ToTensor()]
    transform = T.Compose([*chain, T.Normalize(MEAN, STD), Cutout()])
    sgd = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        rows = torch.randperm(len(pictures))[:batch].tolist()
        views: list[Tensor] = [torch.stack([transform(pictures[i]) for i in rows]) for _ in range(data.views)]
        sgd.zero_grad()
        penalty(model, F.cross_entropy, views, targets[rows]).total.backward()
        sgd.step()

    return step


def noise_images(images: int = 2000, side: int = 32) -> Splits:
    """A data set of noise in colour."""
    generator = torch.Generator().manual_seed(0)

    def some(n: int) -> ImageSet:
        pixels = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)
        return ImageSet(pixels, torch.randint(0, 10, (n,), generator=generator))

    return Splits(some(images), some(100), tuple("0123456789"), "none")


COLOUR: list[Any] = ["data=cifar10", "~data.source", "+data.source={_target_: loop_cost.noise_images, _partial_: true}"]
