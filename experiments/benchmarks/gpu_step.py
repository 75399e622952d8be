"""What a training step costs on a GPU: kernels, moments at which the host waits, samples a second beside a bare loop.

    python experiments/benchmarks/gpu_step.py
    python experiments/benchmarks/gpu_step.py --accelerator cpu --model small_cnn --steps 30   # to see that it runs

The bare loop makes the same passes in the same precision over images that lie augmented on the device, so it is the
limit; the project's figure holds its data, augmentation, figures and Lightning's loop.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.profiler import ProfilerActivity, profile

from gvr_lightning.app.build import build_data, build_task
from gvr_lightning.app.quiet import quiet
from gvr_lightning.app.trainer import build_trainer
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.instantiate import make

PRESETS = {
    "float32": [],
    "gpu": ["trainer=gpu"],
    "compiled": ["trainer=gpu", "task.compile=true", "task.cuda_graphs=false"],
    "graphs": ["trainer=gpu", "task.compile=true", "task.cuda_graphs=true"],
}
PASSES = {"none": 1, "two_view": 2, "gvr": 2, "gvr_split": 1, "gvr_per_sample": 2, "agr": 1, "sam": 2}
WATCHED = range(8, 12)  # the updates whose kernels and waits are counted; timing begins after them


def random_images(images: int, side: int = 32) -> Splits:
    """A data set of noise."""
    generator = torch.Generator().manual_seed(0)

    def some(n: int) -> ImageSet:
        pixels = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)
        return ImageSet(pixels, torch.randint(0, 10, (n,), generator=generator))

    return Splits(some(images), some(100), tuple("0123456789"), "none")


class Watch(Callback):
    """Counts kernels and waits of some updates, and times the others."""

    def __init__(self, steps: int) -> None:
        self.steps, self.waits, self.kernels = steps, 0.0, 0.0
        self.seconds, self._began, self.where = 0.0, 0.0, list[str]()
        self._warned: list[warnings.WarningMessage] = []
        self._profile: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to count."""
        if batch_idx == WATCHED.start and pl_module.device.type == "cuda":
            self._caught = warnings.catch_warnings(record=True)
            self._warned = self._caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            self._profile = profile(activities=[ProfilerActivity.CUDA])
            self._profile.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop counting, or read the clock."""
        if batch_idx == WATCHED.stop - 1 and pl_module.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
            self._profile.__exit__(None, None, None)
            self._caught.__exit__(None, None, None)
            waits = [w for w in self._warned if "synchronizing" in str(w.message)]
            self.waits = len(waits) / len(WATCHED)
            self.where = sorted({f"{Path(w.filename).name}:{w.lineno}" for w in waits})
            events = [e for e in self._profile.events() if str(e.device_type) == "DeviceType.CUDA"]
            self.kernels = len(events) / len(WATCHED)
        if batch_idx == WATCHED.stop + 8:
            self._began = now(pl_module.device)
        if batch_idx == self.steps - 1:
            self.seconds = (now(pl_module.device) - self._began) / (self.steps - WATCHED.stop - 9)


def now(device: torch.device) -> float:
    """The time once the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def ours(regularizer: str, preset: str, arguments: argparse.Namespace) -> Watch:
    """Train by the project's own configuration."""
    watch = Watch(arguments.steps)
    torch.compiler.reset()  # what other networks of this process were compiled to
    fixed = [
        "name=gpu_step",
        f"model={arguments.model}",
        "data=cifar10",
        "optimizer=sgd",
        f"regularizer={regularizer}",
        "epochs=1",
    ]
    fixed += [f"batch_size={arguments.batch}", "data.val_fraction=0", f"trainer.accelerator={arguments.accelerator}"]
    fixed += ["trainer.log_every_n_steps=1000", "+trainer.enable_progress_bar=false"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", overrides=[*fixed, *PRESETS[preset]])
    images = arguments.batch * arguments.steps
    cfg.data.source = {"_target_": f"{__name__}.random_images", "_partial_": True, "images": images}
    data = build_data(cfg)
    task = build_task(cfg, data)
    with TemporaryDirectory() as folder:
        trainer = build_trainer(cfg, Path(folder), [watch])
        trainer.loggers = make(cfg.logger, "logger", Callable)(Path(folder), step=0, rows=0, config={})  # type: ignore[arg-type]
        trainer.fit(task, data)
    return watch


def bare(passes: int, preset: str, arguments: argparse.Namespace) -> float:
    """Seconds a step of the loop that one would write by hand, images ready on the device."""
    device, fast = torch.device("cuda" if arguments.accelerator == "gpu" else "cpu"), preset != "float32"
    form = torch.channels_last if fast else torch.contiguous_format
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", overrides=[f"model={arguments.model}"])
    network: Any = make(cfg.model, "model", nn.Module, image_shape=(3, 32, 32), num_classes=10)
    net = network.to(device, memory_format=form)
    modes = {"compiled": "default", "graphs": "reduce-overhead"}
    step_of = torch.compile(net, mode=modes[preset]) if preset in modes else net
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, fused=fast)
    x = torch.randn(arguments.batch, 3, 32, 32, device=device).to(memory_format=form)
    y = torch.randint(0, 10, (arguments.batch,), device=device)
    began = 0.0
    for step in range(arguments.steps):
        if step == WATCHED.stop + 9:
            began = now(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            losses = [F.cross_entropy(step_of(x).float(), y) for _ in range(passes)]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    return (now(device) - began) / float(arguments.steps - WATCHED.stop - 9)


def main(given: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", default="gpu")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=PRESETS)
    parser.add_argument("--regularizers", nargs="+", default=list(PASSES), choices=PASSES)
    arguments = parser.parse_args(given)
    quiet()
    torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name() if arguments.accelerator == "gpu" else "CPU"
    print(f"torch {torch.__version__}, {name}, {arguments.model}, batch {arguments.batch}, {arguments.steps} steps")
    print(f"{'':28}{'kernels':>8}{'waits':>7}{'samples/s':>11}{'of the bare loop':>18}", flush=True)
    for preset in arguments.presets:
        limits = {passes: bare(passes, preset, arguments) for passes in {PASSES[r] for r in arguments.regularizers}}
        for regularizer in arguments.regularizers:
            found, limit = ours(regularizer, preset, arguments), limits[PASSES[regularizer]]
            line = f"{preset + ' ' + regularizer:28}{found.kernels:8.0f}{found.waits:7.1f}"
            line += f"{arguments.batch / found.seconds:11.0f}{limit / found.seconds:18.2f}"
            print(line, *found.where, flush=True)


if __name__ == "__main__":
    main()
