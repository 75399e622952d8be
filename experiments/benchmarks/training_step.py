"""A diffusion training step of this project beside the loop that one would write by hand."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gvr_lightning.app.quiet import quiet
from gvr_lightning.data.augmentation import Augmentation
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.diffusion.noise import Noise
from gvr_lightning.methods.penalty import NoPenalty
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.models.unet import to_diffusers
from gvr_lightning.optim.schedules import constant
from gvr_lightning.recording.csv import csv
from gvr_lightning.tasks.diffusion import DiffusionTask

EMA = 0.999


def compare_steps(network: SplitNetwork, shape: tuple[int, ...], batch: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each step, the two taking turns within one run of Lightning, of which all counts but the other's."""
    quiet()
    images = torch.randint(0, 256, (batch * (repeats + 2), *shape), dtype=torch.uint8)
    by_hand = bare_step(to_diffusers(network), images, batch)
    turns = Turns(by_hand)
    labels = torch.zeros(len(images), dtype=torch.int64)
    splits = Splits(ImageSet(images, labels), ImageSet(images[:2], labels[:2]), ("all",), "random")
    flips = Augmentation(padding=0, flip=True, cutout=0)
    data = ViewsDataModule(lambda: splits, flips, batch_size=batch, val_fraction=0.0, mean=[0.5], std=[0.5])
    data.setup()
    task = DiffusionTask(
        model=copy.deepcopy(network),
        penalty=NoPenalty(),
        noise=Noise(),
        ema_decay=EMA,
        optimizer=torch.optim.AdamW,
        schedule=constant,
        clip_norm=1.0,
    )
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            callbacks=[turns],
            logger=csv(Path(folder)),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, data)
    return {"bare loop": turns.theirs[1:], "this project": turns.ours[1:]}


class Turns(Callback):
    """After every step of Lightning's one by hand; each is timed from the other's end."""

    def __init__(self, by_hand: Callable[[], None]) -> None:
        self.by_hand = by_hand
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.mark: float | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """The end of ours, and then one by hand."""
        end = time.perf_counter()
        if self.mark is not None:
            self.ours.append(end - self.mark)
        self.by_hand()
        self.mark = time.perf_counter()
        if self.ours:
            self.theirs.append(self.mark - end)


def bare_step(net: Any, images: Tensor, batch: int) -> Callable[[], None]:
    """The same update on diffusers' network: flips, noise, loss, clipping, AdamW, moving average."""
    noise, optimizer = Noise().scheduler, torch.optim.AdamW(net.parameters())
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(EMA))

    def step() -> None:
        x = images[torch.randint(len(images), (batch,))]
        x = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, x, x.flip(3)).float() / 127.5 - 1
        eps, t = torch.randn_like(x), torch.randint(1000, (batch,))
        loss = F.mse_loss(net(noise.add_noise(x, eps, t), t).sample, eps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(net)

    return step
