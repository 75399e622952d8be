"""What differs between the configuration that a run was started with and the one that it goes on with."""

from dataclasses import dataclass, field
from typing import Any

from gvr_lightning.config.lookup import get
from gvr_lightning.config.optimizer import optimizer_node

Config = dict[str, Any]
COMPUTED = ("trainer.precision", "task.channels_last")  # how, which another preset or another CPU may change
OF_HYDRA = ("_partial_", "_convert_", "_recursive_")


@dataclass
class Changes:
    """What differs from the configuration in the checkpoint.

    Args:
        new_optimizer: the class is another one, whose state starts afresh.
        settings: of the optimizer, that have other values.
        new_schedule: the class is another one, which starts afresh, over what remains of the run.
        reschedule: the schedule has another length, other settings or another learning rate.
        ratio: of the learning rates, new to old.
        said: each of these in words.
    """

    new_optimizer: bool = False
    settings: tuple[str, ...] = ()
    new_schedule: bool = False
    reschedule: bool = False
    ratio: float = 1.0
    said: list[str] = field(default_factory=list)


def changes(before: Config, now: Config) -> Changes:
    """Compare two resolved configurations of one run."""
    (optimizer, schedule, epochs), (its, of_it, more) = _parts(before), _parts(now)
    found = Changes(optimizer.get("_target_") != its.get("_target_"))
    if found.new_optimizer:
        found.said.append(f"the optimizer starts afresh, as {its.get('_target_')}")
    else:
        found.settings = _differing(optimizer, its)
        found.said += [f"optimizer.{k}={its.get(k)} instead of {optimizer.get(k)}" for k in found.settings]
    found.new_schedule = schedule.get("_target_") != of_it.get("_target_")
    if found.new_schedule:
        found.said.append(f"the schedule starts afresh over what remains, as {of_it.get('_target_')}")
    else:
        found.said += [
            f"scheduler.{k}={of_it.get(k)} instead of {schedule.get(k)}" for k in _differing(schedule, of_it)
        ]
        found.said += [f"the schedule is that of {more} epochs instead of {epochs}"] if more != epochs else []
    found.said += [
        f"{key}={get(now, key)} instead of {get(before, key)}" for key in COMPUTED if _told(key, before, now)
    ]
    found.reschedule = found.new_optimizer or "lr" in found.settings or schedule != of_it or more != epochs
    if "lr" in found.settings and optimizer.get("lr") and its.get("lr"):
        found.ratio = its["lr"] / optimizer["lr"]
    return found


def _parts(config: Config) -> tuple[Config, Config, Any]:
    made = (optimizer_node(config), config.get("scheduler") or {})
    nodes = ({k: v for k, v in node.items() if k not in OF_HYDRA} for node in made)
    return (*nodes, (config.get("trainer") or {}).get("max_epochs"))  # type: ignore[return-value]


def _told(key: str, before: Config, now: Config) -> bool:
    """Whether both say it, and not the same."""
    return None not in (get(before, key), get(now, key)) and get(before, key) != get(now, key)


def _differing(before: Config, now: Config) -> tuple[str, ...]:
    return tuple(sorted(k for k in before.keys() | now.keys() if k != "_target_" and before.get(k) != now.get(k)))
