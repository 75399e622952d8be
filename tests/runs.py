"""Small whole runs, composed from the project's own configuration."""

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from painting import blank

from gvr_lightning.app.run import run
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.data.datamodule import ViewsDataModule

TINY = [
    "name=test",
    "trainer.accelerator=cpu",
    "epochs=2",
    "batch_size=32",
    "data.max_train=80",
    "data.val_fraction=0.05",
]
TINY_CNN = ["model.width=8", "model.groups=4"]
TINY_UNET = ["model.widths=[8,8]", "model.groups=4", "model.attention=[false,false]"]
TINY_DDPM = ["task=ddpm", *TINY_UNET, "sampler.steps=3", "generation.num_images=70", "generation.grid=4"]


def tiny_run(
    folder: Path, *overrides: str, cnn: bool = True, pictures: Callable[[], AbstractContextManager[None]] = blank
) -> dict[str, Any]:
    """A run of a few updates in ``folder``; returns its summary. ``pictures``: how much is made of them."""
    cnn = cnn and "task=ddpm" not in overrides  # a U-Net has other keys
    folder.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", overrides=[*TINY, *(TINY_CNN if cnn else []), *overrides])
    with pictures():
        return run(cfg, folder)


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int, signum: int) -> None:
    """Send the signal while the n-th training batch is made."""
    count = [0]
    original = ViewsDataModule.on_after_batch_transfer

    def counting(self: ViewsDataModule, batch: torch.Tensor, dataloader_idx: int) -> Any:
        if self.trainer.training:  # type: ignore[union-attr]
            count[0] += 1
            if count[0] == batches:
                signal.raise_signal(signum)
        return original(self, batch, dataloader_idx)

    monkeypatch.setattr(ViewsDataModule, "on_after_batch_transfer", counting)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The state dict of a run's last checkpoint."""
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
