"""What checkpoints and determinism add to an epoch, and what two processes gain over two threads.

python experiments/benchmarks/processes.py --repeats 7        # a quarter of an hour on two cores
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from timing import interleave, report

from gvr_lightning import GradientVariance
from gvr_lightning.app.quiet import quiet
from gvr_lightning.callbacks.checkpoint_files import AtomicCheckpointIO
from gvr_lightning.callbacks.checkpoints import Checkpoints
from gvr_lightning.data.augmentation import Augmentation
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.models.resnet import resnet
from gvr_lightning.optim.schedules import cosine
from gvr_lightning.tasks.classification import ClassificationTask

TRAIN = Path(__file__).parents[2] / "train.py"


def epoch(data: ViewsDataModule, folder: Path, careful: bool) -> None:
    """An epoch of ResNet-20 with GVR; ``careful``: deterministic, with a checkpoint at its end."""
    torch.manual_seed(0)
    task = ClassificationTask(
        model=resnet((3, 32, 32), 10, [16, 32, 64], 3),
        penalty=GradientVariance(1.0),
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        schedule=cosine,
        num_classes=10,
    )
    callbacks: list[Callback] = [Checkpoints(folder, task.monitor)] if careful else []
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        deterministic=careful,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=careful,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, data)
    torch.use_deterministic_algorithms(False)


def images(number: int) -> ViewsDataModule:
    """Noise in the shape of CIFAR-10."""
    g = torch.Generator().manual_seed(0)
    train = ImageSet(torch.randint(0, 256, (number, 3, 32, 32), generator=g).to(torch.uint8), torch.arange(number) % 10)
    splits = Splits(train, ImageSet(train.images[:10], train.targets[:10]), tuple("abcdefghij"), "")
    return ViewsDataModule(lambda: splits, Augmentation(), views=2, batch_size=128, val_fraction=0.0)


def processes(folder: Path, number: int) -> None:
    """An epoch of ResNet-20 on 4,500 digits of 28x28, two threads in all; the start does not count."""
    where = folder / f"{number}-{len(list(folder.iterdir()))}"
    settings = ["data=mnist_5k", "model=resnet20", "regularizer=gvr", "epochs=1", f"trainer.devices={number}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(2 // number)}
    command = [sys.executable, str(TRAIN), *settings, "trainer.accelerator=cpu", f"hydra.run.dir={where}"]
    subprocess.run(command, env=environment, check=True, capture_output=True)


def throughput(folder: Path, number: int) -> list[float]:
    """Images a second of every repetition."""
    summaries = sorted(folder.glob(f"{number}-*/summary.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text())["train"]["images_per_second"] for path in summaries]


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--images", type=int, default=5000, help="of the epoch that is saved at its end")
    arguments = parser.parse_args()
    quiet()
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    data = images(arguments.images)
    with tempfile.TemporaryDirectory() as scratch:
        jobs = {
            "plain": partial(epoch, data, Path(scratch), False),
            "careful": partial(epoch, data, Path(scratch), True),
        }
        print(f"an epoch of {arguments.images:,} images, two views")
        report(interleave(jobs, arguments.repeats), {"careful": "plain"})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        starts = {f"{n} process(es)": partial(processes, folder, n) for n in (1, 2)}
        interleave(starts, arguments.repeats, warmup=0)
        rates = {f"{n} process(es)": [1 / rate for rate in throughput(folder, n)] for n in (1, 2)}
        print("seconds an image, two threads in all")
        report(rates, {"2 process(es)": "1 process(es)"}, unit="ms", scale=1000)


if __name__ == "__main__":
    main()
