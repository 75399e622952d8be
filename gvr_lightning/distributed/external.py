"""Which process this is, among those of a run: started by this program, by torchrun, or by SLURM's srun.

Imports neither torch nor Lightning, so that a mistake in the command shows at once.
"""

import os
from dataclasses import dataclass

LOCALHOST = "127.0.0.1"
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
    """The place that torchrun or srun gave this process; None if neither started it, or it is the only one."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        rank, processes, local, here = (int(env[name]) for name in TORCHRUN)
        served = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        place = Place(rank, processes, local, here, env["MASTER_ADDR"], int(env["MASTER_PORT"]), not served)
    elif "SLURM_STEP_ID" in env and "SLURM_PROCID" in env:  # of a step; the batch script itself has none
        from lightning.pytorch.plugins.environments import SLURMEnvironment

        processes, nodes = int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_STEP_NUM_NODES"])
        nodelist = env.get("SLURM_STEP_NODELIST") or env["SLURM_NODELIST"]
        address = SLURMEnvironment.resolve_root_node_address(nodelist)
        port = int(env.get("MASTER_PORT") or 15_000 + int(env["SLURM_JOB_ID"]) % 10_000)  # as Lightning's
        rank, local = int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"])
        place = Place(rank, processes, local, processes // nodes, address, port)
    else:
        return None
    return place if place.processes > 1 else None
