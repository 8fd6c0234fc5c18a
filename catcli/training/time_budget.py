"""How ``--time-budget`` is shared out."""

from __future__ import annotations

import time

LINEAR_SHARE, FEATURE_SHARE = 0.25, 0.2
"""At most such shares of the time go to the linear models, and to the base's features of the texts."""

EXPORT_SECONDS, SCORED_PER_SECOND = 35.0, 150.0
"""What export takes with the embedded base, and how many rows a second it scores."""


class TimeBudget:
    """The time that a fit may take, and what its parts were measured to take on this machine.

    ``linear_speed`` and ``feature_speed`` are rows a second; ``load_seconds`` is what loading the base takes. The defaults of the latter
    two are the embedded base's; both are measured where there is a budget.
    """

    def __init__(self, seconds: float | None, started: float, held_out: int) -> None:
        """``started`` is when the fit began, by `time.perf_counter`; ``held_out`` rows are scored at its end."""
        self._seconds, self._started, self._held_out = seconds, started, held_out
        self.linear_speed: float | None = None
        self.feature_speed, self.load_seconds = SCORED_PER_SECOND, 1.0

    @property
    def remaining(self) -> float | None:
        """Seconds that training may still take; None without a budget."""
        if self._seconds is None:
            return None
        reserved = EXPORT_SECONDS * max(1.0, self.load_seconds) + self._held_out / min(SCORED_PER_SECOND, self.feature_speed)
        return max(1.0, self._seconds - reserved - (time.perf_counter() - self._started))
