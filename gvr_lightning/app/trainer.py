"""Lightning's trainer from the configuration, in each of a run's processes."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from omegaconf import DictConfig, OmegaConf

from gvr_lightning.callbacks.checkpoint_files import AtomicCheckpointIO
from gvr_lightning.callbacks.idle import pass_over, profile_nothing
from gvr_lightning.config import cpu  # noqa: F401 (a resolver of conf/trainer/cpu.yaml)
from gvr_lightning.config.relations import uneven_batch
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.distributed.strategies import DataParallel, FullySharded, OneStatistics
from gvr_lightning.errors import UserError
from gvr_lightning.instantiate import make


def use_tf32(what: str | None) -> None:
    """Which float32 products a GPU may round to ten bits: ``none``, ``convolutions`` or ``all``; None: convolutions."""
    torch.set_float32_matmul_precision("high" if what == "all" else "highest")
    torch.backends.cudnn.allow_tf32 = what != "none"


def build_trainer(cfg: DictConfig, folder: Path, callbacks: list[Callback]) -> Trainer:
    """Lightning's trainer with this project's callbacks, for the processes that have met.

    Raises:
        UserError: for a batch that the processes cannot share evenly, or settings that exclude each other.
    """
    strategy: Any
    node: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    use_tf32(node.pop("tf32", None))
    for own_key in ("sync_batchnorm", "timeout", "fused"):  # of the network, the processes and the optimizer
        node.pop(own_key, None)
    chosen, strategy = node.pop("strategy", "auto"), "auto"
    plugins: list[Any] = [AtomicCheckpointIO()]
    processes = rank_and_size()[1]
    among_several = DataParallel() if chosen == "auto" else make(chosen, "trainer.strategy", OneStatistics)
    if processes > 1:
        if complaint := uneven_batch(cfg.batch_size, processes * cfg.task.accumulate):
            raise UserError(complaint)
        strategy = among_several
        plugins.append(LightningEnvironment())
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        node["num_nodes"] = processes // here
        if not isinstance(node["devices"], list):
            node["devices"] = here
    if isinstance(strategy, FullySharded) and str(node["precision"]) in ("16-mixed", "16"):
        raise UserError(f"trainer.precision={node['precision']}: with trainer=fsdp use bf16-mixed or 32-true")
    # else every new tensor is filled before use, a debugging aid that takes a tenth of an epoch
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    own: dict[str, Any] = {"default_root_dir": folder, "num_sanity_val_steps": 0, "enable_model_summary": False}
    own |= {"callbacks": callbacks, "logger": False, "plugins": plugins, "strategy": strategy}
    trainer: Trainer = make(node, "trainer", **own)
    _leave_signals_alone(trainer)
    for callback in callbacks:
        pass_over(callback)
    profile_nothing(trainer)
    return trainer


def _leave_signals_alone(trainer: Trainer) -> None:
    """Signals are the run's own affair (``callbacks/interruption.py``).

    So nothing asks all processes at every step whether one of Lightning's handlers was called, for which a GPU waits.
    """
    if isinstance(trainer, Trainer):
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
