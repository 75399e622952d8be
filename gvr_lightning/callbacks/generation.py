"""Generated images while a diffusion model is trained: grids, a denoising strip, FID and IS."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from gvr_lightning.callbacks.progress import RunProgress
from gvr_lightning.data.image_set import Images
from gvr_lightning.diffusion.progress import shown
from gvr_lightning.diffusion.sampler import Sampler, draw, to_bytes
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.distributed.strategies import divide_parameters, share_statistics
from gvr_lightning.metrics.scoring import Scoring
from gvr_lightning.random import hash_key, permutation
from gvr_lightning.recording.csv import trackers
from gvr_lightning.recording.epoch_row import epoch_row
from gvr_lightning.recording.images import evenly, save_grid

REAL = 0  # the draw of real images is the same in every run
STRIP = 8, 12  # images on their way, and pictures of each


class Generation(Callback):
    """Draws images: every few epochs, and at the end with the checkpoint that is tested.

    Image number i of a run starts from the same noise in every epoch, whatever the batch size.

    Args:
        sampler: how images are drawn.
        scoring: FID and IS; None for none.
        test_images: real held-out ones, uint8 (N, C, H, W), to score beside the generated ones.
        shape: (C, H, W).
        folder: the run's; pictures go to samples/ in it.
        progress: the run's bar.
        seed: of the images.
        num_images: to score.
        grid: images in a grid.
        every_n_epochs: a grid, 0 for none but the last.
        score_every_n_epochs: FID and IS, 0 for none but the last; a list: after these epochs.
        batch_size: images drawn at a time.
        bf16: the network's forward passes in bfloat16.
        weights: the "average", the "raw" weights, or "both": then figures of the latter have names with raw/.
    """

    def __init__(
        self,
        sampler: Sampler,
        scoring: Scoring | None,
        test_images: Images,
        shape: tuple[int, ...],
        folder: Path,
        progress: RunProgress,
        seed: int = 0,
        num_images: int = 360,
        grid: int = 64,
        every_n_epochs: int = 0,
        score_every_n_epochs: int | Sequence[int] = 0,
        batch_size: int = 500,
        bf16: bool = False,
        weights: str = "average",
    ) -> None:
        self.sampler, self.scoring, self.test_images, self.shape = sampler, scoring, test_images, shape
        self.folder, self.progress, self.seed = Path(folder) / "samples", progress, seed
        self.num_images, self.grid, self.batch_size, self.bf16 = num_images, grid, batch_size, bf16
        self.grid_every, self.score_every, self.weights = every_n_epochs, score_every_n_epochs, weights
        self.final: dict[str, Any] = {}  # of the weights that were tested

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the real images before the work begins."""
        if self.scoring is not None:
            self.scoring.prepare(pl_module.device)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise."""
        self.on_fit_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A grid and scores, where it is time; those of the last epoch come with the test."""
        epoch, task = trainer.current_epoch + 1, pl_module
        if epoch == trainer.max_epochs:
            return
        scored = _is_time(self.score_every, epoch)
        if scored or _is_time(self.grid_every, epoch):
            share_statistics(trainer.strategy)
            epoch_row(task).add(self._generate(task, f"epoch_{epoch:04d}", scored))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The final grid, strip and scores, beside the scores of real images that were held out."""
        self._strip(pl_module)
        found = self._generate(pl_module, "final", scored=True)
        if self.scoring is not None:
            # a random part: a folder's first images are of one class
            rows = permutation(hash_key(REAL), len(self.test_images))[: self.num_images]
            real = self.scoring.of([self.test_images[rows]])
            found |= {f"real/{name}": value for name, value in real.items()}
            row: dict[str, Any] = {"epoch": epoch_row(pl_module).last["epoch"], **found}
            for logger in trainer.loggers:
                logger.log_metrics(row, step=trainer.global_step)
            self.final = found | self.scoring.extractor_name

    def _networks(self, task: Any) -> dict[str, nn.Module]:
        """What images are drawn with, by the beginning of their figures' names."""
        average, raw = task.averaged, task.model
        return {"average": {"": average}, "raw": {"": raw}, "both": {"": average, "raw/": raw}}[self.weights]

    def _generate(self, task: Any, picture: str, scored: bool) -> dict[str, float]:
        """The pictures and figures of each network."""
        found: dict[str, float] = {}
        for prefix, network in self._networks(task).items():
            name = f"{picture}{'_raw' if prefix else ''}.png"
            figures = self._drawn(task, network, f"samples/{prefix}grid", name, scored)
            found |= {f"{prefix}{key}": value for key, value in figures.items() if not prefix or key != "num_images"}
        return found

    def _drawn(self, task: Any, network: nn.Module, shown_as: str, picture: str, scored: bool) -> dict[str, float]:
        """Draw images; the first are a grid, and all of them are scored."""
        scores = self.scoring.scores() if self.scoring is not None and scored else None
        number, grid = self.num_images if scores else self.grid, torch.empty(0, *self.shape, dtype=torch.uint8)
        batches = draw(self.sampler, network, self.shape, number, self.seed, self.batch_size, self.bf16)
        for batch in shown(batches, number, self.progress.bar):
            grid = torch.cat([grid, batch[: self.grid - len(grid)].cpu()])
            if scores is not None:
                scores.update(batch)
        _rest(task)
        self._show(task, shown_as, picture, grid)
        return scores.compute() if scores is not None else {}

    def _strip(self, task: Any) -> None:
        """Some images on their way from noise, one a row."""
        images, pictures = STRIP
        steps: list[Tensor] = []
        index = torch.arange(images)
        network, training = self._networks(task)[""], task.model.training
        self.sampler(network.eval(), self.shape, index, self.seed, watch=lambda x: steps.append(to_bytes(x).cpu()))
        task.model.train(training)
        _rest(task)
        chosen = evenly(steps, pictures)
        self._show(task, "samples/denoising", "denoising.png", torch.stack(chosen, 1).flatten(0, 1), len(chosen))

    def _show(self, task: Any, name: str, picture: str, images: Tensor, columns: int | None = None) -> None:
        """A picture to samples/ and to the loggers that take one."""
        if rank_and_size()[0] == 0:
            save_grid(images, self.folder / picture, columns)
            for logger in trackers(task.trainer.loggers):
                logger.log_picture(name, self.folder / picture)


def _rest(task: Any) -> None:
    """What follows passes through the raw weights that no training step has made."""
    task.rest()
    divide_parameters(task.trainer.strategy)


def _is_time(every: int | Sequence[int], epoch: int) -> bool:
    """Whether it is a multiple of a number, 0 having none, or one of some."""
    return bool(every) and epoch % every == 0 if isinstance(every, int) else epoch in every
