"""What ``catcli report --json`` prints, every name with its meaning. Numbers only, no computing."""

from __future__ import annotations

from datetime import datetime

from catcli.adapter.manifest import Threshold
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.evaluation.metrics import Comparison, Evaluation, Numbers, Scores


class FitReport(FitMetrics):
    """``catcli report ADAPTER --json``: what the fit measured on its held-out rows."""

    adapter: str
    """The adapter's folder."""
    created: datetime
    """When it was made."""


class NewRowsReport(Evaluation):
    """``catcli report ADAPTER --on LABELED --json``: the saved adapter on new labeled rows."""

    adapter: str
    """The adapter's folder."""
    created: datetime
    """When it was made."""
    on: str
    """The file of the rows."""
    unlabeled: int
    """Its rows without a category, which are left out."""
    left_out: int
    """Labeled rows that were not scored, since a sample is enough."""
    recalibrated: tuple[Threshold, ...]
    """Thresholds that these rows show, to be passed as ``predict --min-confidence``."""


class AdapterScores(Numbers):
    """One of several adapters."""

    adapter: str
    """Its folder."""
    test_rows: int
    """Rows that it was scored on when it was fitted."""
    blend: Scores
    """Its scores, of the rows that all share; where they share too few, of its own."""


class AdapterComparison(Numbers):
    """``catcli report A B --json``: several adapters on the test rows that they share."""

    shared_rows: int
    """Test rows that are the same, text and category, for all."""
    adapters: tuple[AdapterScores, ...]
    """Each of them, in the order of the command line."""
    comparisons: tuple[Comparison, ...]
    """Each adapter against the first; none where they share too few rows."""
