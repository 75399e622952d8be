"""Settings of a schedule that exclude or need each other."""

from gvr_lightning.config.lookup import Config, get
from gvr_lightning.config.wording import show

LENGTHS = ("warmup_steps", "warmup_epochs", "warmup_fraction")
OURS = "gvr_lightning.optim.schedules."


def ours(config: Config, *names: str) -> bool:
    """Whether the schedule is this project's, one of these."""
    return get(config, "scheduler._target_") in [OURS + name for name in names]


def warmup_length(config: Config) -> str | None:
    """A warm-up has one length, and a start only if it has one."""
    given = [f"scheduler.{name}={show(value)}" for name in LENGTHS
             if (value := get(config, f"scheduler.{name}")) is not None]  # fmt: skip
    if not ours(config, "warmup", "multistep"):
        return None
    if len(given) > 1:
        return f"{' and '.join(given)} exclude each other: set all but one of them to null"
    start = get(config, "scheduler.warmup_start")
    if start is None or given:
        return None
    return f"scheduler.warmup_start={show(start)}: there is no warm-up; set one of scheduler.{', '.join(LENGTHS)}"


def of_the_cosine(config: Config) -> str | None:
    """A constant rate has neither end nor beginning."""
    if not ours(config, "warmup") or get(config, "scheduler.cosine") is not False:
        return None
    for name, plain in (("min_lr", 0), ("cosine_from", "warmup")):
        value = get(config, f"scheduler.{name}")
        if value is not None and value != plain:
            return f"scheduler.{name}={show(value)}: is of the cosine; add scheduler.cosine=true"
    return None


def milestones(config: Config) -> str | None:
    """The rate falls once at a time."""
    found = get(config, "scheduler.milestones")
    if not ours(config, "multistep") or not isinstance(found, list) or found == sorted(set(found)):
        return None
    return f"scheduler.milestones={show(found)}: must rise"


SCHEDULE = (warmup_length, of_the_cosine, milestones)
