"""Is a catalog like the labeled products? What its labels say of it, beside what the fit measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from catcli.evaluation.fit_metrics import FitMetrics

MIN_ROWS = 100
"""Rows below which a catalog says nothing of what it is like."""

MAX_CONFIDENCE_DROP = 0.1
"""How far the mean confidence may be below what was expected. Of catalogs that are alike it was at most .01 below, of others .28 and more;
see tests/bench/README.md."""

MAX_MOVED = 0.45
"""Share of rows in other categories than the labeled rows were, up to which a catalog is alike: of such ones at most .30 were, of others
.55 and more."""

MAX_NAMES = 3
"""Categories that a sentence names, those whose shares differ most."""


@dataclass(frozen=True)
class Drift:
    """A catalog beside the labeled products.

    ``confidence`` is its rows' mean confidence and ``expected`` what out-of-fold or test rows had. ``moved`` is the share of rows that
    would have to change category for categories to be as frequent as among the labeled rows (total variation distance), and ``shares``
    has for the categories that differ most their share of the catalog and of the labeled rows.
    """

    confidence: float
    expected: float
    moved: float
    shares: Mapping[str, tuple[float, float]]

    @property
    def is_unlike(self) -> bool:
        """Whether the models are so unsure of the catalog that it is none of the kind that they learned."""
        return self.confidence < self.expected - MAX_CONFIDENCE_DROP


def measure_drift(rows: int, confidence: float, categories: Mapping[str, int], metrics: FitMetrics) -> Drift | None:
    """The drift of a catalog of so many ``rows``, the sum of whose confidences is ``confidence``; None where they are few.

    ``categories`` are its most probable categories and how many rows have each.
    """
    if rows < MIN_ROWS:
        return None
    bins = metrics.calibration[metrics.variant].bins
    expected = sum(single.confidence * single.rows for single in bins) / max(sum(single.rows for single in bins), 1)
    support = {category.category: category.support for category in metrics.blend.categories}
    labeled, counted = max(sum(support.values()), 1), max(sum(categories.values()), 1)
    shares = {name: (categories.get(name, 0) / counted, support.get(name, 0) / labeled) for name in sorted({*categories, *support})}
    differing = sorted(shares, key=lambda name: -abs(shares[name][0] - shares[name][1]))[:MAX_NAMES]
    moved = sum(abs(now - before) for now, before in shares.values()) / 2
    return Drift(confidence / rows, expected, moved, {name: shares[name] for name in differing})
