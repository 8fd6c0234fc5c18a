"""Selective prediction: the confidence threshold above which rows hold a precision, shown by an exact test.

Cutoffs that are fixed in advance, as counts of the most confident products, are tested one after the other, each by an exact bound at the
whole risk; the first that fails ends it, and the last that held is the threshold. Since a later test only takes place where all before it
held, the chance that any of them holds wrongly is the risk (Geifman & El-Yaniv 2017, "Selective Classification for Deep Neural Networks",
section 3; Angelopoulos et al. 2021, "Learn then Test", section 2.4, fixed sequence testing). The confidences come from a blend and a
calibration whose handful of parameters the same rows chose; what that costs is measured over 20 splits in tests/bench/README.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import stats

from catcli.adapter.manifest import CategoryThresholds, Threshold
from catcli.arrays import BoolArray, FloatArray, IntArray
from catcli.evaluation.bootstrap import Outcomes, estimate_interval, lower_bound
from catcli.evaluation.fold_roles import FoldRoles
from catcli.evaluation.metrics import MeasuredCategoryThresholds, MeasuredThreshold

TARGET_PRECISIONS = (0.90, 0.95, 0.98, 0.99)
"""Precisions for which a fit looks for thresholds."""

RISK = 0.05
"""The risk: how often a threshold may not hold its precision."""

MAX_FIRST_ERRORS = 40
"""Errors that the first cutoff allows, at most: with none, one mislabeled row among the most confident would end the search.

Of 10, 20, 40 and 80, on the out-of-fold rows of three catalogs, the first three accept as much and 80 less. Where 3 in 100 labels are
wrong, whatever the confidence, 1,000 rows show .95 with 40 alone.
"""

CUTOFF_STEP = 0.025
"""The cutoffs after the first: each accepts so much more of all products."""

MIN_TRIED = 20
"""Products from which the precision is estimated, to say how many more products are needed."""

MAX_NEEDED = 1_000_000
"""Products beyond which "more of them" is not an answer."""


@dataclass(frozen=True)
class ProductSample:
    """One row for each product, each array *(products,)*: its confidence, whether its label was right, and which it was."""

    confidence: FloatArray
    right: BoolArray
    predicted: IntArray

    @classmethod
    def of(cls, outcomes: Outcomes) -> ProductSample:
        """A random row of every product."""
        rows = one_row_each(outcomes.product)
        return cls(outcomes.confidence[rows], outcomes.right[rows], outcomes.predicted[rows])

    def of_class(self, number: int) -> ProductSample:
        """Those labeled with one class."""
        is_class = self.predicted == number
        return ProductSample(self.confidence[is_class], self.right[is_class], self.predicted[is_class])


def one_row_each(products: npt.NDArray[np.integer[Any]]) -> IntArray:
    """A random row of every one of ``products`` *(rows,)*, rising.

    The first in a file may be of another kind than the rest, the shortest title say.
    """
    shuffled = np.random.default_rng(0).permutation(len(products))
    return np.sort(shuffled[np.unique(products[shuffled], return_index=True)[1]])


class RankedProducts(Protocol):
    """Products in the order in which thresholds accept them, and what becomes of the first of them."""

    @property
    def confidence(self) -> FloatArray:
        """The confidence of each *(products,)*, falling."""

    def right(self, count: int) -> int:
        """How many of the first ``count`` products are labeled right, where these are accepted."""

    def mean(self, count: int) -> float:
        """The mean confidence of their labels."""


class _RankedSample:
    """The products of a sample, each with the one label that it has."""

    def __init__(self, sample: ProductSample) -> None:
        order = np.argsort(-sample.confidence, kind="stable")
        self.confidence = sample.confidence[order]
        self._right = np.cumsum(sample.right[order])
        self._means = np.cumsum(self.confidence, dtype=np.float64) / np.arange(1, len(order) + 1)

    def right(self, count: int) -> int:
        return int(self._right[count - 1])

    def mean(self, count: int) -> float:
        return float(self._means[count - 1])


def find_threshold(sample: ProductSample, precision: float, risk: float = RISK) -> Threshold:
    """The lowest threshold that holds ``precision``, or how many products are missing to show one."""
    return search_threshold(_RankedSample(sample), precision, risk)


def search_threshold(ranked: RankedProducts, precision: float, risk: float = RISK) -> Threshold:
    """The same of products whose labels may change with the threshold."""
    count, confidence = len(ranked.confidence), ranked.confidence
    passed, tested = 0, None
    for cutoff in _cutoffs(ranked, precision, risk):
        if lower_bound(ranked.right(cutoff), cutoff, risk) < precision:
            tested = cutoff
            break
        passed = cutoff
    if passed:
        return Threshold(
            precision=precision,
            threshold=float(confidence[passed - 1]),
            accepted=passed / count,
            products=count,
            missing=None,
            best=None,
        )
    best = None if tested is None else ranked.right(tested) / tested
    needed = _estimate_needed(ranked, precision, risk)
    missing = None if needed is None else max(1, needed - count)
    return Threshold(precision=precision, threshold=None, accepted=None, products=count, missing=missing, best=best)


@functools.cache
def products_needed(precision: float, risk: float = RISK, errors: int = 0) -> int:
    """Products, ``errors`` of them wrong, that it takes to show ``precision``; 149 for .98 without errors, 299 for .99."""
    low, high = errors, 64
    while lower_bound(high - errors, high, risk) < precision:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if lower_bound(middle - errors, middle, risk) < precision:
            low = middle
        else:
            high = middle
    return high


def _cutoffs(ranked: RankedProducts, precision: float, risk: float) -> list[int]:
    """The cutoffs: rising counts of the most confident products; equally confident ones are accepted together.

    Right and wrong play no part in it, the confidences may: the first cutoff is the one that is likeliest to pass if they are exact, and
    they end where the mean confidence of what is accepted falls below ``precision``, beyond which it would take luck to be shown right.
    """
    confidence, count = ranked.confidence, len(ranked.confidence)
    starts = [(need, errors) for errors in range(MAX_FIRST_ERRORS + 1) if (need := products_needed(precision, risk, errors)) <= count]
    if not starts:
        return []
    start, _ = max(starts, key=lambda tried: stats.poisson.cdf(tried[1], tried[0] * (1 - ranked.mean(tried[0]))))
    counts = np.append(np.arange(start, count, max(1, round(CUTOFF_STEP * count))), count)
    cutoffs = np.unique(np.searchsorted(-confidence, -confidence[counts - 1], side="right"))
    return [cutoff for cutoff in cutoffs.tolist() if cutoff == cutoffs[0] or ranked.mean(cutoff) >= precision]


def _estimate_needed(ranked: RankedProducts, precision: float, risk: float) -> int | None:
    """Products that would show ``precision`` for some share of the most confident ones, if these stay right as often as now.

    None where no share is right often enough.
    """
    count, estimates = len(ranked.confidence), []
    for tried in sorted({min(count, max(MIN_TRIED, round(share * count))) for share in np.arange(0.1, 1.01, 0.1)}):
        wrong = tried - ranked.right(tried)
        size = tried
        while size <= MAX_NEEDED and lower_bound(size - round(wrong / tried * size), size, risk) < precision:
            size = math.ceil(size * 1.05)
        if size <= MAX_NEEDED:
            estimates.append(math.ceil(size / tried * count))  # the cutoff keeps its share of all products
    return min(estimates, default=None)


def find_thresholds(sample: ProductSample, targets: Sequence[float] = TARGET_PRECISIONS, risk: float = RISK) -> tuple[Threshold, ...]:
    """A threshold for each of ``targets``."""
    return tuple(find_threshold(sample, target, risk) for target in targets)


def find_category_thresholds(sample: ProductSample, names: Sequence[str]) -> tuple[CategoryThresholds, ...]:
    """Thresholds within the rows labeled with one category, for each category labeled often enough.

    All of them hold together at `RISK`: each is found at its share (Bonferroni). How often a category is labeled says nothing of how often
    rightly, so it may decide which are tried: as many as can each be shown at the share that so many leave.
    """
    labeled, counts = np.unique(sample.predicted, return_counts=True)
    rising = np.sort(counts)
    tested_count = next(
        (many for many in range(len(counts), 0, -1) if rising[-many] >= products_needed(min(TARGET_PRECISIONS), RISK / many)), 0
    )
    tried = labeled[np.argsort(-counts, kind="stable")[:tested_count]]
    return tuple(
        CategoryThresholds(category=names[int(number)], thresholds=find_thresholds(sample.of_class(int(number)), risk=RISK / len(tried)))
        for number in tried
    )


def measure_threshold(threshold: Threshold, tested: Outcomes, roles: FoldRoles | None = None, risk: float = RISK) -> MeasuredThreshold:
    """A threshold with what became of it on rows that it was not found by.

    ``tested`` are other rows; or, with ``roles``, the out-of-fold rows that it was found by. Then its coverage is that of the scored ones,
    and its precision is measured on the scored rows of each fold that pass the threshold that the other folds' rows show at ``risk``; it is
    unknown where none of the folds has such a threshold.
    """
    facts = threshold.model_dump()
    if threshold.threshold is None or not len(tested.truth):
        return MeasuredThreshold(**facts)
    scored = np.ones(len(tested.truth), np.bool_) if roles is None else roles.scored
    accepted = tested.confidence >= np.float32(threshold.threshold)
    measured = scored & (accepted if roles is None else _accepted_by_others(threshold.precision, tested, roles.folds, risk))
    reached = None
    if measured.any():
        selected = tested.take(np.flatnonzero(measured))
        reached = estimate_interval(
            float(selected.point.metrics["accuracy"][0]), selected.replicates.metrics["accuracy"], selected.products
        )
    coverage = float(accepted[scored].mean()) if scored.any() else None
    return MeasuredThreshold(**facts, accepted_in_test=coverage, reached_in_test=reached)


def _accepted_by_others(precision: float, tested: Outcomes, folds: IntArray, risk: float) -> BoolArray:
    """Which rows *(rows,)* pass the threshold of the rows of other folds."""
    accepted = np.zeros(len(folds), np.bool_)
    for fold in np.unique(folds):
        others = np.flatnonzero(folds != fold)
        found = find_threshold(ProductSample.of(tested.take(others)), precision, risk).threshold if len(others) else None
        if found is not None:
            accepted |= (folds == fold) & (tested.confidence >= np.float32(found))
    return accepted


def measure_category_thresholds(
    thresholds: Sequence[CategoryThresholds], tested: Outcomes, names: Sequence[str], roles: FoldRoles | None = None
) -> tuple[MeasuredCategoryThresholds, ...]:
    """The same for the thresholds of categories, each on the rows that were labeled with it."""
    numbers = {name: number for number, name in enumerate(names)}
    measured = []
    for category in thresholds:
        rows = np.flatnonzero(tested.predicted == numbers[category.category])
        of_category, its_roles = tested.take(rows), None if roles is None else roles.take(rows)
        promises = (measure_threshold(single, of_category, its_roles, RISK / len(thresholds)) for single in category.thresholds)
        measured.append(MeasuredCategoryThresholds(category=category.category, promises=tuple(promises)))
    return tuple(measured)
