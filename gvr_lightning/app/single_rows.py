"""Batches that leave a process a single row, on which BatchNorm may have nothing to normalise by."""

import copy

import torch
from omegaconf import DictConfig
from torch.nn.modules.batchnorm import _BatchNorm

from gvr_lightning.data.batch import rows_here
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.errors import UserError
from gvr_lightning.tasks.base import BaseTask


def require_several_rows(cfg: DictConfig, task: BaseTask, data: ViewsDataModule) -> None:
    """Try the network on one row, where a batch of the run has a single one for a process.

    Raises:
        UserError: if it does not take it.
    """
    if not any(isinstance(module, _BatchNorm) for module in task.model.modules()):
        return
    n, size, accumulate = len(data.train_index), cfg.batch_size, cfg.task.accumulate
    processes = 1 if cfg.trainer.get("sync_batchnorm") else rank_and_size()[1]
    batches = {min(n, size), n % size} - {0}
    if not any(_leaves_one(rows, accumulate, processes) for rows in batches):
        return
    network = copy.deepcopy(task.model).train()  # whose running statistics are to stay
    with torch.no_grad():
        try:
            network(task.as_input(torch.zeros(1, *data.image_shape)))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                return
            parts = "" if processes * accumulate == 1 else f", in {processes * accumulate} parts,"
            raise UserError(
                f"batch_size={size}: {n} training images in such batches{parts} leave a single one somewhere, on which"
                f" BatchNorm cannot be trained; choose another batch_size, or data.max_train={n - 1}"
            ) from error


def _leaves_one(rows: int, micro_batches: int, processes: int) -> bool:
    index = torch.arange(rows)
    shards = [s for rank in range(processes) for s in rows_here(index, micro_batches, rank, processes)[1]]
    return any(shard.row_count.rows == 1 for shard in shards)
