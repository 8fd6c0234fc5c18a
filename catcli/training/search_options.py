"""How ``catcli tune`` searches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from catcli.config import Flag, parse_seconds
from catcli.errors import UsageError


@dataclass(frozen=True)
class SearchOptions:
    """How many trials to make, how each is scored, and by when the last begins."""

    trials: int = 20
    """Recipes to try, in all; the first is the one that it begins with."""
    folds: int = 3
    """Folds of the cross-validation: each is scored by a training on the others."""
    timeout: Annotated[str | float | None, Flag(metavar="TIME", parsed_as=str)] = None
    """No trial begins after so many seconds, or 10m, or 2h."""
    metric: str = "macro_f1"
    """What ranks the trials: macro_f1, accuracy, log_loss or another score of 'catcli report'."""

    @property
    def timeout_seconds(self) -> float | None:
        """The timeout in seconds; None without one.

        Raises:
            UsageError: it is no time.
        """
        return parse_seconds("--timeout", self.timeout) if isinstance(self.timeout, str) else self.timeout

    def check(self) -> None:
        """Raise `UsageError` for what cannot be searched for."""
        from catcli.evaluation.metrics import TITLES

        if self.trials < 1:
            raise UsageError(f"--trials {self.trials}: a whole number above 0.")
        if not 2 <= self.folds <= 20:
            raise UsageError(f"--folds {self.folds}: a whole number from 2 to 20.")
        if self.metric not in TITLES:
            raise UsageError(f"--metric {self.metric}: choose one of {', '.join(TITLES)}.")
        _ = self.timeout_seconds
