"""Which process this is, among those of a run: started by this program, by torchrun, or by SLURM's srun.

Imports neither torch nor Lightning, so that a mistake in the command shows at once.
"""

import os
from dataclasses import dataclass

from gvr_lightning.errors import UserError

LOCALHOST = "127.0.0.1"
AGAIN = "start all processes with torchrun or srun, or none of them and set trainer.devices"
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Place:
    """A process of a run; ``port`` is that of the store where the processes meet."""

    rank: int
    processes: int
    local_rank: int
    local_processes: int
    address: str = LOCALHOST
    port: int = 0
    serves: bool = True  # whether process 0 keeps the store


def external_place() -> Place | None:
    """The place that torchrun or srun gave this process; None if neither started it, or it is the only one.

    Raises:
        UserError: for an environment that says half of it.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        rank, processes, local, here = (_number(name, "torchrun") for name in TORCHRUN)
        served = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        address, port = _text("MASTER_ADDR", "torchrun"), _number("MASTER_PORT", "torchrun")
        place = Place(rank, processes, local, here, address, port, not served)
    elif "SLURM_STEP_ID" in env and "SLURM_PROCID" in env:  # of a step; the batch script itself has none
        from lightning.pytorch.plugins.environments import SLURMEnvironment

        processes, nodes = (_number(name, "srun") for name in ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"))
        nodelist = env.get("SLURM_STEP_NODELIST") or _text("SLURM_NODELIST", "srun")
        address = SLURMEnvironment.resolve_root_node_address(nodelist)
        own = "MASTER_PORT" in env and env["MASTER_PORT"] != ""
        port = (
            _number("MASTER_PORT", "srun") if own else 15_000 + _number("SLURM_JOB_ID", "srun") % 10_000
        )  # Lightning's
        rank, local = _number("SLURM_PROCID", "srun"), _number("SLURM_LOCALID", "srun")
        place = Place(rank, processes, local, processes // max(1, nodes), address, port)
    else:
        return None
    if place.processes <= 1:
        return None
    if not (0 <= place.rank < place.processes and 0 <= place.local_rank < place.local_processes):
        raise UserError(f"the environment says process {place.rank} of {place.processes}: {AGAIN}")
    return place


def _text(name: str, launcher: str) -> str:
    if not os.environ.get(name):
        raise UserError(f"{launcher} has set no {name}: {AGAIN}")
    return os.environ[name]


def _number(name: str, launcher: str) -> int:
    try:
        return int(_text(name, launcher))
    except ValueError as error:
        raise UserError(f"{launcher}: {name}={os.environ[name]} is no whole number: {AGAIN}") from error
