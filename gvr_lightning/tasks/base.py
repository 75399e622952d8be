"""The one place where loss, penalty, optimizer, clipping and schedule meet.

The order of an update is fixed: backward (over the micro-batches) -> unscale -> clip -> AGR -> update -> schedule ->
zero. Everything up to the gradients happens in one closure, so that an optimizer may call it, wrap it or call it twice.
"""

import sys
from abc import abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from gvr_lightning.data.batch import Batch
from gvr_lightning.distributed.strategies import divide_parameters, keep_parameters
from gvr_lightning.errors import UserError
from gvr_lightning.methods.passes import frozen_statistics
from gvr_lightning.methods.penalty import Penalty, RegularizedLoss, total_of
from gvr_lightning.optim.ema import MovingAverage
from gvr_lightning.optim.schedules import Schedule
from gvr_lightning.random import hash_key, seed_generators
from gvr_lightning.tasks.compiled import CompiledLoss
from gvr_lightning.tasks.finite import is_finite, not_finite, overflow_is_told
from gvr_lightning.tasks.groups import ParameterGroups
from gvr_lightning.tasks.recording import RecordingTask
from gvr_lightning.tasks.strength import AlphaSchedule


class BaseTask(RecordingTask):
    """Regularized training by manual optimization; a subclass says what the loss is and what is measured.

    Args:
        model: the network, with ``.backbone`` and ``.head``.
        penalty: what the loss gains, and how many views it takes.
        optimizer: parameters -> optimizer.
        wrap: optimizer -> optimizer (AGR, SAM); None for none.
        schedule: (optimizer, steps=, epochs=) -> Schedule.
        alpha_schedule: when the penalty acts; None for always.
        views_loss: whether the views' losses are added up, "sum", or averaged, "mean".
        groups: which parameters are trained, and how; None for all of them alike.
        clip_norm: largest norm of all gradients together, None for any.
        clip_value: largest absolute value of a gradient's entry, None for any.
        accumulate: micro-batches that a batch is divided into; the penalty is then that of the micro-batches, averaged.
        compile: compile the backbone; and where one process trains with one alpha, the loss as a whole.
        cuda_graphs: on a GPU, launch the loss that is compiled as a whole as CUDA graphs; True says if there are none.
        channels_last: memory format of images and weights.
        non_finite: whether to "stop" at an update whose gradient is not finite, or to "skip" it.
        max_skipped: updates of a run that may be skipped.
        seed: of what the network itself draws, such as dropout.
        num_classes: of the data.

    Raises:
        UserError: for settings that exclude each other.
        ValueError: for a penalty that does not fit the model.
    """

    kind: str  # the task's name in summary.json
    needs: str  # what the network has to give, "classes" or "images"; with images it is a model that draws some

    def __init__(
        self,
        model: nn.Module,
        penalty: Penalty,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., Schedule],
        wrap: Callable[[Optimizer], Optimizer] | None = None,
        groups: ParameterGroups | None = None,
        alpha_schedule: AlphaSchedule | None = None,
        views_loss: str = "sum",
        clip_norm: float | None = None,
        clip_value: float | None = None,
        accumulate: int = 1,
        compile: bool = False,
        cuda_graphs: bool | None = None,
        channels_last: bool = False,
        non_finite: str = "stop",
        max_skipped: int = 100,
        seed: int = 0,
        num_classes: int = 0,
    ) -> None:
        super().__init__(non_finite, max_skipped)
        if clip_norm is not None and clip_value is not None:
            raise UserError("task.clip_norm and task.clip_value exclude each other: set one of them to null")
        if views_loss not in ("sum", "mean"):
            raise UserError(f"task.views_loss={views_loss}: must be sum or mean")
        if compile and penalty.double_backward:
            raise UserError("task.compile=true rules out a penalty that differentiates the whole network twice")
        self.groups = groups or ParameterGroups()
        self.frozen = self.groups.frozen(model)
        self.groups.named(model)  # a wrong name is told now
        penalty.check(model)
        self.automatic_optimization = False
        self.model, self.penalty = model, penalty
        penalty.views_loss = views_loss
        self.alpha, self.alpha_schedule, self.updates = penalty.alpha, alpha_schedule, 0
        self.records_alpha = alpha_schedule is not None
        self.ema: MovingAverage | None = None  # of the weights, where a subclass keeps one
        self.make_optimizer, self.make_schedule, self.wrap = optimizer, schedule, wrap
        self.clip_norm, self.clip_value, self.accumulate, self.seed = clip_norm, clip_value, accumulate, seed
        self.num_classes = num_classes
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        model.to(memory_format=self.memory_format)
        if compile:
            model.compile_backbone()  # type: ignore[operator]
        self.compiles, self.cuda_graphs = compile, cuda_graphs
        self.compiled: CompiledLoss | None = None
        self.skipped_now = False  # whether this update is
        self.evaluations = 0  # how often this update took the gradients: SAM twice
        self.rest()

    def train(self, mode: bool = True) -> "BaseTask":
        """Frozen modules stay in evaluation mode: BatchNorm's statistics are theirs, dropout is off."""
        super().train(mode)
        self.rest()
        return self

    def rest(self) -> None:
        """Frozen modules do nothing that training would have them do."""
        for module in self.frozen:
            module.eval()

    def examples(self, batch: Batch) -> Batch:
        """What the network gets and is to give: the images and labels themselves, if a subclass does not say else."""
        return batch._replace(views=[self.as_input(view) for view in batch.views])

    @abstractmethod
    def criterion(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of one view, a scalar."""

    def configure_optimizers(self) -> Any:
        """The optimizer, wrapped, and its schedule; Lightning keeps their state in the checkpoints."""
        optimizer = self.plain_optimizer()
        if self.wrap is not None:
            optimizer = self.wrap(optimizer)
        if not isinstance(optimizer, Optimizer):
            raise UserError(f"optimizer: gives a {type(optimizer).__name__}, not a torch.optim.Optimizer")
        return {"optimizer": optimizer, "lr_scheduler": self.scheduled(optimizer)._asdict()}

    def plain_optimizer(self) -> Optimizer:
        """A new one, with its groups, not wrapped."""
        return self.groups.optimizer(self.make_optimizer, self.model)

    def scheduled(self, optimizer: Optimizer, step: int = 0, epoch: int = 0) -> Schedule:
        """The schedule of an optimizer, from an update and an epoch to the end of the run."""
        steps, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs or 1
        schedule: Schedule = self.make_schedule(optimizer, steps=steps - step, epochs=epochs - epoch)
        if not isinstance(schedule, Schedule) or schedule.interval not in ("step", "epoch"):
            raise UserError(
                f"scheduler: gives a {type(schedule).__name__}, not Schedule(scheduler, 'step' or 'epoch') of"
                " gvr_lightning.optim.schedules"
            )
        return schedule

    def on_train_start(self) -> None:
        """How many updates there are; and the loss as one graph, unless processes meet in it or updates change it."""
        self.updates = int(self.trainer.estimated_stepping_batches)
        if self.compiles and self.alpha_schedule is None and isinstance(self.trainer.strategy, SingleDeviceStrategy):
            self.compiled = CompiledLoss(self.penalty, self.cuda_graphs is not False and self.device.type == "cuda")
        none = self.compiled is None or not self.compiled.cuda_graphs
        if self.cuda_graphs and none and self.trainer.is_global_zero:
            takes = "it takes task.compile=true, one process, a GPU, and an alpha that stays"
            print(f"task.cuda_graphs: there are none: {takes}", file=sys.stderr)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update, of the weights and then of their average; ``global_step`` counts these."""
        optimizer: Any = self.optimizers()
        if self.alpha_schedule is not None:
            self.penalty.alpha = self.alpha * self.alpha_schedule.factor(self.global_step, self.updates)
        # dropout: the same after a resume and in every call of the closure, other masks on every process
        seed = hash_key(self.seed, self.global_step, self.global_rank)
        seed_generators(seed, self.device)
        parts = [self.examples(part) for part in batch.divided()]
        compute = self.compiled or self.penalty
        if self.compiled is not None:
            self.compiled.start_update()
        first: list[tuple[Batch, RegularizedLoss]] = []  # of the closure's first call, if there are several
        self.non_finite.remember(self.model)
        self.skipped_now, self.evaluations = False, 0

        def closure() -> Tensor:
            self.evaluations += 1
            # BatchNorm's running statistics move in the first call only: SAM makes another, with other weights
            statistics = partial(frozen_statistics, self.model) if len(first) == len(parts) else nullcontext
            seed_generators(seed, self.device)
            if self.evaluations > 1:  # before the first there are none: they go with each update
                optimizer.zero_grad()
            shares: list[Tensor] = []
            for i, part in enumerate(parts):
                with statistics(), self._synchronised(last=i == len(parts) - 1):
                    shard = part.shards[0] if part.shards else None
                    with keep_parameters(self.trainer.strategy):
                        loss = compute(self.model, self.criterion, part.views, part.target, part.keys, shard)
                    share = loss.total if len(parts) == 1 else loss.total * (part.total / batch.total)
                    self._loss = loss
                    with torch.autocast(self.device.type, enabled=False):  # or its own backward would be in bf16
                        self.manual_backward(share)
                shares.append(share.detach())
                if len(first) < len(parts):
                    first.append((part, loss))
            return total_of(shares)

        with overflow_is_told(self.trainer):
            optimizer.step(closure=closure)
        self.step_schedule("step")
        optimizer.zero_grad()
        for part in parts:
            self.penalty.after_step(self.model, part.views)
        divide_parameters(self.trainer.strategy)  # after a pass without a backward pass
        if not self.skipped_now:
            self.record(first)
            if self.ema is not None:
                self.ema.update_parameters(self.model)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Look whether it is finite, and clip: called after the closure (and after unscaling), before the update.

        A gradient scaler skips such updates itself. On a GPU "stop" looks when values are read, "skip" at every update.
        """
        look = self.device.type == "cpu" or self.non_finite.skips
        trained = (p for group in optimizer.param_groups for p in group["params"])
        if look and self.trainer.scaler is None and not is_finite(trained):
            self.non_finite.skip(self.model, not_finite(self._loss, self.trainer))
            self.skipped_now = True
            return
        if self.clip_norm is not None:
            self.clip_gradients(optimizer, self.clip_norm, "norm")
        if self.clip_value is not None:
            self.clip_gradients(optimizer, self.clip_value, "value")

    def as_input(self, images: Tensor) -> Tensor:
        """Images in the network's memory format, and in its precision where that is not mixed."""
        dtype = next(self.model.parameters()).dtype
        return images.to(dtype=dtype, memory_format=self.memory_format)

    def _synchronised(self, last: bool) -> Any:
        """Whether this backward pass is the one that averages the gradients over the processes."""
        strategy: Any = self.trainer.strategy
        return nullcontext() if last or self.trainer.world_size == 1 else strategy.block_backward_sync()
