"""What ``catcli tune --json`` and ``catcli compare --json`` print, every name with its meaning. Numbers only, no computing."""

from __future__ import annotations

from collections.abc import Mapping

from catcli.evaluation.metrics import Comparison, Numbers, Scores


class Trial(Numbers):
    """One recipe that was tried."""

    number: int
    """Its place among the trials that have ended, from 1."""
    pruned: bool
    """Whether it was given up after some folds, being worse than the median of the trials before it, or since training diverged."""
    score: float | None
    """Of the blend, over the rows of all folds; null where it was given up."""
    by_fold: tuple[float, ...]
    """The same after each fold, over the rows of those so far."""
    settings: Mapping[str, float]
    """What was tried, by the names of the recipe."""
    seconds: float
    """How long it took."""


class Tuned(Numbers):
    """``catcli tune --json``."""

    metric: str
    """What the trials were ranked by."""
    folds: int
    """Into how many folds the rows were dealt."""
    trials: tuple[Trial, ...]
    """All that have ended. The first is the recipe that the search began with."""
    best: int
    """The number of the best."""
    importances: Mapping[str, float]
    """How much of the scores' variance each setting explains, adding up to 1; empty where too few trials have ended."""
    recipe: str
    """The file with the best recipe."""
    test_rows: int
    """Rows that no trial has seen."""
    test: Scores
    """The best recipe on them: the blend that a fit without a refit would ship."""
    first: Scores | None
    """The recipe that the search began with, on the same rows; null where it is the best."""
    against_first: Comparison | None
    """The best beside the first."""
