"""Scored rows → the curves of a page. Thinned to what a screen can show; the numbers of a report do not come from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve, roc_curve

from catcli.arrays import DoubleArray, FloatArray, IntArray
from catcli.evaluation.bootstrap import Outcomes

MAX_POINTS = 100
"""Points of one category's curve."""

MAX_CUTOFFS = 2_000
"""Points of the coverage curve."""


@dataclass(frozen=True)
class CoverageCurve:
    """Coverage and precision of the most confident rows.

    Each array *(cutoffs,)*: the confidence, the rows at or above it, and how many of these are right.
    """

    confidence: FloatArray
    rows: IntArray
    right: IntArray


def coverage_curve(outcomes: Outcomes) -> CoverageCurve:
    """At every confidence that occurs, the highest first; rows of equal confidence are accepted together."""
    order = np.argsort(-outcomes.confidence, kind="stable")
    confidence, hits = outcomes.confidence[order], np.cumsum(outcomes.right[order])
    last = np.flatnonzero(np.append(confidence[1:] != confidence[:-1], True))
    cutoffs = last[_thinned(len(last), MAX_CUTOFFS)]
    return CoverageCurve(confidence[cutoffs], cutoffs + 1, hits[cutoffs].astype(np.int64))


@dataclass(frozen=True)
class CategoryCurves:
    """Of one category against the rest: false and true positive rates, and recall with precision, pairs of arrays *(points,)*."""

    false_positive_rate: DoubleArray
    true_positive_rate: DoubleArray
    recall: DoubleArray
    precision: DoubleArray


def category_curves(probabilities: FloatArray, truth: IntArray, numbers: Sequence[int]) -> dict[int, CategoryCurves]:
    """For those of the classes ``numbers`` that some rows are of and some are not; ``probabilities`` *(rows, classes)*."""
    curves = {}
    for number in numbers:
        is_class = truth == number
        if not 0 < is_class.sum() < len(is_class):
            continue
        false, true, _ = roc_curve(is_class, probabilities[:, number])
        precision, recall, _ = precision_recall_curve(is_class, probabilities[:, number])
        roc, pr = _thinned(len(false), MAX_POINTS), _thinned(len(recall), MAX_POINTS)
        curves[number] = CategoryCurves(false[roc], true[roc], recall[pr], precision[pr])
    return curves


def _thinned(count: int, limit: int) -> npt.NDArray[np.int64]:
    """At most ``limit`` of so many places, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64))
