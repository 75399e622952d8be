"""What a data module hands out in an epoch, in one process and in several."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from gvr_lightning.data.datamodule import ViewsDataModule

Handed = dict[tuple[str, int], list[np.ndarray]]  # (part, sample number) -> views and label


def handed_out(data: ViewsDataModule, first: int = 0, micro_batches: int = 1, epoch: int = 1) -> Handed:
    """Of the training images from a batch on, and of the test images, those of this process."""
    done = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=first)))
    task = SimpleNamespace(accumulate=micro_batches, device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(current_epoch=epoch, training=True, testing=True, lightning_module=task)
    trainer.fit_loop = SimpleNamespace(epoch_loop=done)
    data.trainer = trainer
    found = _rows(data, "train", data.train_dataloader())
    trainer.training = False
    data.teardown("fit")
    return found | _rows(data, "test", data.test_dataloader())


def _rows(data: ViewsDataModule, part: str, batches: Iterable[Any]) -> Handed:
    found: Handed = {}
    for each in batches:
        batch = data.on_after_batch_transfer(each, 0)
        for row, number in enumerate(batch.samples.tolist()):
            found[part, number] = [view[row].numpy() for view in (*batch.views, batch.target)]
    return found


def assert_same(whole: Handed, *parts: Handed) -> None:
    """Every bit of what one process hands out is what several do, each sample in one of them."""
    merged = {name: rows for part in parts for name, rows in part.items()}
    assert sum(map(len, parts)) == len(merged) and merged.keys() == whole.keys()
    for name, rows in whole.items():
        assert all(np.array_equal(a, b) for a, b in zip(rows, merged[name], strict=True)), name
