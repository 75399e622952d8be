"""How many processes a run has on this machine, and what they talk by: from its configuration."""

import torch
from omegaconf import DictConfig

from gvr_lightning.errors import UserError


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
