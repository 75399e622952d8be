"""Generated images while a diffusion model is trained: grids, a denoising strip, FID and IS."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gvr_lightning.callbacks.progress import RunProgress
from gvr_lightning.diffusion.progress import shown
from gvr_lightning.diffusion.sampler import Sampler, draw, to_bytes
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.metrics.scoring import Scoring
from gvr_lightning.random import hash_key, permutation
from gvr_lightning.recording.csv import trackers
from gvr_lightning.recording.epoch_row import epoch_row
from gvr_lightning.recording.images import evenly, save_grid

REAL = 0  # the draw of real images is the same in every run
STRIP = 8, 12  # images on their way, and pictures of each


class Generation(Callback):
    """Draws images with the averaged weights: every few epochs, and at the end with the weights that are tested.

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
        score_every_n_epochs: FID and IS, 0 for none but the last.
        batch_size: images drawn at a time.
        bf16: the network's forward passes in bfloat16.
    """

    def __init__(
        self,
        sampler: Sampler,
        scoring: Scoring | None,
        test_images: Tensor,
        shape: tuple[int, ...],
        folder: Path,
        progress: RunProgress,
        seed: int = 0,
        num_images: int = 360,
        grid: int = 64,
        every_n_epochs: int = 0,
        score_every_n_epochs: int = 0,
        batch_size: int = 500,
        bf16: bool = False,
    ) -> None:
        self.sampler, self.scoring, self.test_images, self.shape = sampler, scoring, test_images, shape
        self.folder, self.progress, self.seed = Path(folder) / "samples", progress, seed
        self.num_images, self.grid, self.batch_size, self.bf16 = num_images, grid, batch_size, bf16
        self.grid_every, self.score_every = every_n_epochs, score_every_n_epochs
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
        scored = self.score_every and epoch % self.score_every == 0
        if scored or (self.grid_every and epoch % self.grid_every == 0):
            epoch_row(task).add(self._generate(task, f"epoch_{epoch:04d}.png", bool(scored)))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The final grid, strip and scores, beside the scores of real images that were held out."""
        self._strip(pl_module)
        found = self._generate(pl_module, "final.png", scored=True)
        if self.scoring is not None:
            # a random part: a folder's first images are of one class
            rows = permutation(hash_key(REAL), len(self.test_images))[: self.num_images]
            real = self.scoring.of([self.test_images[rows]])
            found |= {f"real/{name}": value for name, value in real.items()}
            row: dict[str, Any] = {"epoch": epoch_row(pl_module).last["epoch"], **found}
            for logger in trainer.loggers:
                logger.log_metrics(row, step=trainer.global_step)
            self.final = found | self.scoring.extractor_name

    def _generate(self, task: Any, picture: str, scored: bool) -> dict[str, float]:
        """Draw images; the first are a grid, and all of them are scored."""
        scores = self.scoring.scores() if self.scoring is not None and scored else None
        number, grid = self.num_images if scores else self.grid, torch.empty(0, *self.shape, dtype=torch.uint8)
        batches = draw(self.sampler, task.averaged, self.shape, number, self.seed, self.batch_size, self.bf16)
        for batch in shown(batches, number, self.progress.bar):
            grid = torch.cat([grid, batch[: self.grid - len(grid)].cpu()])
            if scores is not None:
                scores.update(batch)
        self._show(task, "samples/grid", picture, grid)
        return scores.compute() if scores is not None else {}

    def _strip(self, task: Any) -> None:
        """Some images on their way from noise, one a row."""
        images, pictures = STRIP
        steps: list[Tensor] = []
        index = torch.arange(images)
        self.sampler(task.averaged, self.shape, index, self.seed, watch=lambda x: steps.append(to_bytes(x).cpu()))
        chosen = evenly(steps, pictures)
        self._show(task, "samples/denoising", "denoising.png", torch.stack(chosen, 1).flatten(0, 1), len(chosen))

    def _show(self, task: Any, name: str, picture: str, images: Tensor, columns: int | None = None) -> None:
        """A picture to samples/ and to the loggers that take one."""
        if rank_and_size()[0] == 0:
            save_grid(images, self.folder / picture, columns)
            for logger in trackers(task.trainer.loggers):
                logger.log_picture(name, self.folder / picture)
