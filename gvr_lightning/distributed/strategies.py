"""How the gradients of several processes meet: DDP, and FSDP2 (``fully_shard``), as Lightning's strategies."""

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from gvr_lightning.distributed.sync_batchnorm import SyncBatchNorm
from gvr_lightning.errors import UserError


def keep_parameters(strategy: object) -> AbstractContextManager[None]:
    """While a penalty differentiates, the weights stay together."""
    return strategy.keep_parameters() if isinstance(strategy, FullySharded) else nullcontext()


def divide_parameters(strategy: object) -> None:
    """The weights are divided again, where they are."""
    if isinstance(strategy, FullySharded):
        strategy.reshard()


def share_statistics(strategy: object) -> None:
    """All processes have the first's running statistics, where they do not share them anyway."""
    if isinstance(strategy, OneStatistics):
        strategy._share_statistics()


class OneStatistics(DDPStrategy):
    """Validation is by the first process's running statistics of BatchNorm, which checkpoints hold.

    Where the processes do not share them anyway (``trainer.sync_batchnorm``). No step of training looks at them, and
    the first's follow from its own rows alone, so they need not be sent before.
    """

    def validation_step(self, *arguments: Any, **named: Any) -> Any:
        """Share before the first batch, then validate."""
        if arguments[1] == 0:
            self._share_statistics()
        return super().validation_step(*arguments, **named)

    @torch.no_grad()
    def _share_statistics(self) -> None:
        assert self.lightning_module is not None
        own = [m for m in self.lightning_module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        buffers = [b for m in own if not isinstance(m, SyncBatchNorm) for b in (m.running_mean, m.running_var)]
        if buffers:
            flat = torch.cat(buffers)  # type: ignore[arg-type]
            dist.broadcast(flat, 0)
            for buffer, first in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):  # type: ignore[union-attr]
                buffer.copy_(first)  # type: ignore[union-attr]


class DataParallel(OneStatistics):
    """DDP: every process has the whole model.

    Args:
        find_unused_parameters: for networks whose loss does not reach all parameters.
        bucket_cap_mb: size of the parts in which gradients are averaged; None: torch's.
        gradient_as_bucket_view: gradients lie in these parts, and are copied neither there nor back.
        **options: others of Lightning's strategy and of ``torch.nn.parallel.DistributedDataParallel``.
    """

    def __init__(
        self,
        find_unused_parameters: bool = False,
        bucket_cap_mb: int | None = None,
        gradient_as_bucket_view: bool = True,
        **options: Any,
    ) -> None:
        options |= {"bucket_cap_mb": bucket_cap_mb} if bucket_cap_mb else {}
        options |= {"gradient_as_bucket_view": gradient_as_bucket_view}
        super().__init__(find_unused_parameters=find_unused_parameters, **options)

    def _setup_model(self, model: nn.Module) -> Any:
        newer = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.14's name
        self._ddp_kwargs["forward_sync_buffers" if newer else "broadcast_buffers"] = False
        return super()._setup_model(model)


class FullySharded(OneStatistics):
    """FSDP2: gradients and optimizer state are divided among the processes, and weights between the steps.

    A network's parts (early, last stage, head) are its units. Their weights stay together from the forward pass until
    the end of the backward pass, as penalties may read them in between. A checkpoint holds whole tensors, the same as
    without sharding.
    """

    def setup(self, trainer: Trainer) -> None:
        """Shard the network, and its moving average, then make the optimizer.

        Raises:
            UserError: on CPUs with a torch whose FSDP2 works on GPUs only.
        """
        if self.root_device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
            raise UserError(f"trainer=fsdp on a CPU needs a newer torch than {torch.__version__}: use trainer=ddp")
        assert self.accelerator is not None and self.model is not None
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        if trainer.state.fn == TrainerFn.FITTING:
            self._shard(self.model)
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def _shard(self, task: Any) -> None:
        mesh = init_device_mesh(self.root_device.type, (self.num_nodes * self.num_processes,))
        for network, stays in ((task.model, False), (getattr(getattr(task, "ema", None), "module", None), True)):
            if network is None or any(isinstance(m, FSDPModule) for m in network.modules()):
                continue
            network.to(memory_format=torch.contiguous_format)  # all that it takes; images keep theirs
            for part in (network.backbone.early, network.backbone.last_stage, network.head):
                if any(p.numel() for p in part.parameters()):
                    fully_shard(part, mesh=mesh, reshard_after_forward=stays)

    def backward(self, *arguments: Any, **named: Any) -> Tensor:
        """Divide the weights when all views are done, not after each: they would be gathered again for the next."""
        with self._set(sync=getattr(self, "_flags", (True, True))[0], reshard=False):
            loss = super().backward(*arguments, **named)
        self.reshard()
        return loss

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Keep the gradients of a backward pass here, to be averaged with those of a later one."""
        with self._set(sync=False, reshard=True):
            yield

    @contextmanager
    def keep_parameters(self) -> Iterator[None]:
        """While a penalty differentiates: its gradients are no parameter's, and the weights are still needed."""
        with self._set(sync=False, reshard=False):
            yield

    @contextmanager
    def _set(self, sync: bool, reshard: bool) -> Iterator[None]:
        before = getattr(self, "_flags", (True, True))
        self._apply((sync, reshard))
        try:
            yield
        finally:
            self._apply(before)

    def _apply(self, flags: tuple[bool, bool]) -> None:
        self._flags = flags
        for module in _units(self.lightning_module):
            module.set_requires_gradient_sync(flags[0])
            module.set_reshard_after_backward(flags[1])

    def reshard(self) -> None:
        """Divide the weights again after a forward pass without a backward pass."""
        for module in _units(self.lightning_module):
            module.reshard()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole tensors; every process has to ask."""
        return {name: _whole(value) for name, value in super().lightning_module_state_dict().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Likewise."""
        state: dict[str, Any] = dict(super().optimizer_state(optimizer))
        entries = state["state"].items()
        state["state"] = {i: {name: _whole(value) for name, value in entry.items()} for i, entry in entries}
        return state

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Whole tensors, to every process its part."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            params = [p for group in optimizer.param_groups for p in group["params"]]
            entries = {i: {n: _like(v, params[i]) for n, v in e.items()} for i, e in state["state"].items()}
            optimizer.load_state_dict({**state, "state": entries})


def load_whole(task: LightningModule, state: dict[str, Any]) -> None:
    """Load whole tensors into a module, sharded or not."""
    for module in _units(task):
        module.reshard()
    own = task.state_dict()
    task.load_state_dict({name: _like(value, own[name]) if name in own else value for name, value in state.items()})


def _units(module: nn.Module | None) -> list[Any]:
    return [m for m in module.modules() if isinstance(m, FSDPModule)] if module is not None else []


def _whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _like(value: Any, param: Tensor) -> Any:
    """A whole tensor, sharded as a parameter is."""
    if not isinstance(value, Tensor) or not isinstance(param, DTensor) or value.shape != param.shape:
        return value
    return distribute_tensor(value.to(param.device), param.device_mesh, param.placements)
