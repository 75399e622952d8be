"""A run's processes from its configuration: how many, where they meet, and Lightning's trainer in each of them."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from omegaconf import DictConfig, OmegaConf

from gvr_lightning.callbacks.checkpoints import AtomicCheckpointIO
from gvr_lightning.callbacks.idle import pass_over
from gvr_lightning.config import cpu  # noqa: F401 (a resolver of conf/trainer/cpu.yaml)
from gvr_lightning.config.relations import uneven_batch
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.distributed.strategies import DataParallel, FullySharded, OneStatistics
from gvr_lightning.errors import UserError
from gvr_lightning.instantiate import make


def processes_wanted(trainer: DictConfig) -> int:
    """How many processes this machine is to run: one for each device.

    Raises:
        UserError: for more machines than one, on which a launcher has to start the processes.
    """
    if trainer.get("num_nodes", 1) > 1:
        raise UserError(f"trainer.num_nodes={trainer.num_nodes}: start the processes of several machines with torchrun"
                        " or srun (docs/pages/scaling.md), and leave trainer.num_nodes out")  # fmt: skip
    devices = trainer.devices
    if str(devices) in ("auto", "-1"):
        return max(1, torch.cuda.device_count()) if backend(trainer) == "nccl" else 1
    return int(devices) if isinstance(devices, int | str) else len(devices)


def backend(trainer: DictConfig) -> str:
    """What the processes talk by."""
    return "nccl" if trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "gloo"


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
    for callback in callbacks:
        pass_over(callback)
    return trainer
