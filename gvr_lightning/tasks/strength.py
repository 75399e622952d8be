"""When a penalty acts: its weight as a function of how far training has come."""


class AlphaSchedule:
    """Alpha from one share of the updates until another, and a linear rise to it; outside it is 0.

    A function of the update alone, so a run that goes on needs to know nothing else.

    Args:
        start: share of the updates before which alpha is 0.
        until: share of the updates from which alpha is 0 again.
        ramp: share of the updates in which alpha rises linearly from 0, from ``start`` on; 0 for a step.

    Raises:
        ValueError: for shares in which alpha would never be reached.
    """

    def __init__(self, start: float = 0.0, until: float = 1.0, ramp: float = 0.0) -> None:
        rounding = 1e-9
        if not (0 <= start < until <= 1 and 0 <= ramp <= until - start + rounding):
            given = f"start={start}, until={until}, ramp={ramp}"
            raise ValueError(f"{given}: needs 0 <= start < until <= 1 and 0 <= ramp <= until - start")
        self.start, self.until, self.ramp = start, until, ramp

    def factor(self, update: int, updates: int) -> float:
        """Of alpha in an update, the first is 0, of so many."""
        now = update / updates
        if not self.start <= now < self.until:
            return 0.0
        return min(1.0, (now - self.start) / self.ramp) if self.ramp else 1.0
