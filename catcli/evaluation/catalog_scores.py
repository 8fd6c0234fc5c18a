"""What a fresh file shows, labeled by the saved model: out-of-fold scores and what they cannot know.

Out-of-fold rows differ from a catalog's in three ways, and each is put into the estimate or its interval:

- The models that score them learned from fewer rows than the saved one. Errors fall with the rows by a power law; its exponent is the
  linear model's (`catcli.evaluation.learning_curve`).
- Categories with products in one fold only are not scored. The saved model knows one of their products; so does the model that scores a
  category with two products, one of which it has not seen. Their scores are taken to be those of the categories with the fewest products
  that are scored (hot-deck imputation: Andridge & Little 2010, "A Review of Hot Deck Imputation for Survey Non-response"). How many of
  them, and of their rows, the catalog has is not known: none to all, a replicate draws it, and the estimate takes half.
- A fresh file is itself a sample. The interval is that of a file of as many products: the deviation of a second, independent replicate is
  added (a bootstrap prediction interval: Davison & Hinkley 1997, section 6.3.3).
"""

from __future__ import annotations

from functools import partial

import numpy as np

from catcli.arrays import BoolArray, DoubleArray, IntArray
from catcli.evaluation.bootstrap import Outcomes, estimate_interval
from catcli.evaluation.learning_curve import LearningCurve, Replicates
from catcli.evaluation.metrics import CatalogScores, Estimate

MIN_SCORED_PRODUCTS = 20
"""Scored products, at least: of fewer, a replicate may have none."""

MIN_DONORS = 5
"""Scored categories, at least, that the scores of the others are taken from: those with the fewest products."""


def estimate_catalog_scores(curve: LearningCurve, blend: Outcomes, folds: int) -> CatalogScores | None:
    """Accuracy and macro F1 of a fresh file; None where too few products are scored.

    ``blend`` are the outcomes of all out-of-fold rows, by models of the other ``folds``.
    """
    if len(np.unique(blend.product[curve.scored])) < MIN_SCORED_PRODUCTS:
        return None
    scored, replicates, truth = curve.scored, curve.replicates, blend.truth
    rows = replicates.count(blend, scored)

    def share_wrong(outcomes: Outcomes) -> DoubleArray:
        wrong: DoubleArray = (replicates.count(outcomes, scored & ~outcomes.right) + 0.5) / (rows + 1)
        return wrong

    # Errors of a model of all rows over those of a model of the other folds.
    factor = (1 - 1 / folds) ** curve.exponent([share_wrong(point.outcomes) for point in curve.points])
    known, unknown = np.unique(truth[scored]), np.unique(truth[~scored])
    donors = _fewest_products(blend, known)
    recall, f1 = _by_class(blend, scored, replicates, known)
    accuracy, macro_f1 = replicates.count(blend, scored & blend.right) / rows, _mean(f1, np.zeros(len(f1)))
    row_odds, class_odds = (~scored).sum() / scored.sum(), len(unknown) / len(known)
    predicted = partial(_predicted, factor=factor, weight=replicates.unscored, products=len(np.unique(blend.product[scored])))
    return CatalogScores(
        accuracy=predicted(accuracy, donors=_mean(recall[:, donors], accuracy), odds=float(row_odds)),
        macro_f1=predicted(macro_f1, donors=_mean(f1[:, donors], macro_f1), odds=class_odds),
        products=blend.products,
        unscored_categories=len(unknown),
    )


def _mean(values: DoubleArray, otherwise: DoubleArray) -> DoubleArray:
    """The mean over the classes that a replicate has *(replicates,)*, of ``values`` *(replicates, classes)*, or ``otherwise``."""
    there = ~np.isnan(values)
    means: DoubleArray = np.where(there.any(1), np.where(there, values, 0).sum(1) / np.maximum(there.sum(1), 1), otherwise)
    return means


def _fewest_products(outcomes: Outcomes, classes: IntArray) -> IntArray:
    """Places in ``classes`` *(classes,)* of those with the fewest products, `MIN_DONORS` or more: all that have as few."""
    pairs = np.unique(np.stack((outcomes.truth, outcomes.product)), axis=1)[0]
    counts = np.bincount(pairs, minlength=int(classes.max()) + 1)[classes]
    return np.flatnonzero(counts <= np.sort(counts)[min(MIN_DONORS, len(counts)) - 1])


def _by_class(outcomes: Outcomes, scored: BoolArray, replicates: Replicates, classes: IntArray) -> tuple[DoubleArray, DoubleArray]:
    """Recall and F1 *(replicates, classes)* of the scored rows; NaN where a replicate has no row of a class."""
    totals = []
    for labels, rows in (
        (outcomes.truth, scored & outcomes.right),
        (outcomes.truth, scored),
        (outcomes.predicted, scored & np.isin(outcomes.predicted, classes)),
    ):
        counts = np.zeros((replicates.weights.shape[1], len(classes)), np.float32)
        np.add.at(counts, (outcomes.product[rows], np.searchsorted(classes, labels[rows])), 1)
        totals.append((replicates.weights @ counts).astype(np.float64))
    right, of_truth, predicted = totals
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = right / of_truth
        f1 = np.where(of_truth > 0, 2 * right / (of_truth + predicted), np.nan)
    return recall, f1


def _predicted(
    scored: DoubleArray, *, factor: DoubleArray, donors: DoubleArray, odds: float, weight: DoubleArray, products: int
) -> Estimate:
    """A score of a fresh file, from replicates *(replicates,)* of which the first is the rows themselves.

    ``scored`` is the score of scored rows or categories, of so many ``products``; its errors are multiplied by ``factor``. ``donors`` is
    the score of those that are not scored, of which there are ``odds`` for each scored one, counted by ``weight``.
    """

    def mixed(factor: DoubleArray | float, weight: DoubleArray | float) -> DoubleArray:
        mean: DoubleArray = (1 - (1 - scored) * factor + weight * odds * donors) / (1 + weight * odds)
        return mean

    replicates, samples = mixed(factor, weight), mixed(factor[0], weight[0])
    fresh = replicates[1:] + np.roll(samples[1:] - samples[0], len(samples) // 2)
    return estimate_interval(float(replicates[0]), np.clip(fresh, 0, 1), products)
