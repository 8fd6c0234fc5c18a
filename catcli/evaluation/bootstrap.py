"""Scores and their intervals from one formula: rows weighted by how often a bootstrap drew their product.

A sample of weights gives one replicate of every metric, and weights of 1 give the metric itself. Products are sampled and not rows, since
the variants of one product are right or wrong together: drawing rows would make intervals too narrow (Davison & Hinkley 1997, "Bootstrap
Methods and their Application", section 3.8). Two models that are weighted alike are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse, special

from catcli.arrays import DoubleArray, FloatArray, IntArray
from catcli.evaluation.metrics import Estimate

REPLICATES = 1_000
"""Replicates of a bootstrap: the ends of a 95 % interval then move by about a tenth of its width from seed to seed."""

LEVEL = 0.95

TOP_K = 3

MAX_CELLS = 20_000_000
"""Products times replicates whose weights are held at once: 80 MB."""


@dataclass(frozen=True)
class Outcomes:
    """One model's predictions for rows, each array *(rows,)*.

    ``truth`` and ``predicted`` are class numbers; a row of a category that the model does not know has a number past its own. ``in_top``
    says whether the truth is among the `TOP_K` most probable, ``loss`` is its negative log-probability in nats, NaN where unknown,
    ``confidence`` the probability of what was predicted, and ``product`` numbers the products from 0.
    """

    truth: IntArray
    predicted: IntArray
    in_top: npt.NDArray[np.bool_]
    loss: DoubleArray
    confidence: FloatArray
    product: IntArray

    @classmethod
    def of(cls, probabilities: FloatArray, truth: IntArray, product: npt.NDArray[np.integer[Any]]) -> Outcomes:
        """From probabilities *(rows, classes)*; equal numbers in ``product`` *(rows,)* are one product."""
        rows, known = np.arange(len(truth)), truth < probabilities.shape[1]
        of_truth = np.where(known, probabilities[rows, np.minimum(truth, probabilities.shape[1] - 1)], np.nan)
        with np.errstate(invalid="ignore"):
            in_top = (probabilities > of_truth[:, None]).sum(1) < TOP_K
        loss = -np.log(np.maximum(of_truth.astype(np.float64), np.finfo(np.float32).tiny))
        return cls(
            truth=truth,
            predicted=probabilities.argmax(1),
            in_top=in_top & known,
            loss=loss,
            confidence=probabilities.max(1),
            product=np.unique(product, return_inverse=True)[1],
        )

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each row was labeled right *(rows,)*."""
        is_right: npt.NDArray[np.bool_] = self.predicted == self.truth
        return is_right

    @property
    def errors(self) -> IntArray:
        """Numbers of the rows that were labeled wrong, the most confident first: the errors that a threshold does not catch."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]

    @property
    def products(self) -> int:
        """How many products there are."""
        return int(self.product.max()) + 1

    @property
    def present(self) -> IntArray:
        """Classes that rows are of or were predicted to be, rising."""
        return np.union1d(self.truth, self.predicted)

    @cached_property
    def point(self) -> MetricValues:
        """The metrics of the rows themselves; kept, since a score and every comparison ask for them."""
        return point_metrics(self)

    @cached_property
    def replicates(self) -> MetricValues:
        """The metrics of all replicates; kept for the same reason, a second's work for some thousand rows."""
        return bootstrap_metrics(self)

    def take(self, rows: IntArray) -> Outcomes:
        """Some of the rows."""
        product = np.unique(self.product[rows], return_inverse=True)[1]
        return Outcomes(self.truth[rows], self.predicted[rows], self.in_top[rows], self.loss[rows], self.confidence[rows], product)


@dataclass(frozen=True)
class MetricValues:
    """Metrics by their names, each *(replicates,)*, and the F1 of every class that is `Outcomes.present` *(classes, replicates)*.

    F1 is NaN where a replicate has neither rows nor predictions of the class.
    """

    metrics: Mapping[str, DoubleArray]
    f1: DoubleArray


def compute_metrics(outcomes: Outcomes, weights: FloatArray) -> MetricValues:
    """Every metric of `Scores`, under ``weights`` *(replicates, products)*: 1 for each is the metric as it stands.

    Averages are over the categories that a replicate's rows hold; a precision without predictions counts 0, as in scikit-learn's
    ``precision_recall_fscore_support`` with ``zero_division=0``.
    """

    def total(values: npt.NDArray[np.generic]) -> DoubleArray:
        per_product = np.bincount(outcomes.product, values.astype(np.float64), outcomes.products)
        return np.asarray(weights @ per_product.astype(np.float32), np.float64)

    present = outcomes.present

    def by_class(classes: IntArray, selected: npt.NDArray[np.bool_]) -> DoubleArray:
        places = np.searchsorted(present, classes[selected]), outcomes.product[selected]
        counts = sparse.csr_matrix((np.ones(len(places[0]), np.float32), places), (len(present), outcomes.products))
        return np.asarray(counts @ weights.T, np.float64)

    every = np.ones(len(outcomes.truth), np.bool_)
    hits, truth = by_class(outcomes.truth, outcomes.right), by_class(outcomes.truth, every)
    predicted = by_class(outcomes.predicted, every)
    has_rows = truth > 0
    rows, known = total(every), ~np.isnan(outcomes.loss)
    precision, recall = _divided(hits, predicted), _divided(hits, truth)
    f1 = _divided(2 * hits, truth + predicted)
    shares, among = truth / rows, np.maximum(has_rows.sum(0), 1)
    accuracy = total(outcomes.right) / rows
    metrics = {
        "accuracy": accuracy,
        "balanced_accuracy": (recall * has_rows).sum(0) / among,
        "macro_precision": (precision * has_rows).sum(0) / among,
        "macro_recall": (recall * has_rows).sum(0) / among,
        "macro_f1": (f1 * has_rows).sum(0) / among,
        "weighted_precision": (precision * shares).sum(0),
        "weighted_recall": (recall * shares).sum(0),
        "weighted_f1": (f1 * shares).sum(0),
        "top_3_accuracy": total(outcomes.in_top) / rows,
        "log_loss": _divided(total(np.where(known, outcomes.loss, 0)), total(known)),
    }
    return MetricValues(metrics, np.where(truth + predicted > 0, f1, np.nan))


def _divided(numbers: DoubleArray, by: DoubleArray) -> DoubleArray:
    """0 where the divisor is 0."""
    return np.divide(numbers, by, out=np.zeros_like(numbers), where=by > 0)


def bootstrap_weights(products: int, seed: int = 0, count: int = REPLICATES) -> Iterator[FloatArray]:
    """How often each product was sampled in each replicate *(some replicates, products)*, ``count`` replicates in all.

    The same numbers of products and ``seed`` give the same replicates, so models that are weighted by them are paired.
    """
    random = np.random.default_rng(seed)
    step = max(1, min(count, MAX_CELLS // max(products, 1)))
    for start in range(0, count, step):
        replicates = random.integers(0, products, (min(step, count - start), products))
        yield np.stack([np.bincount(row, minlength=products) for row in replicates]).astype(np.float32)


def bootstrap_metrics(outcomes: Outcomes) -> MetricValues:
    """The metrics of all `REPLICATES` replicates."""
    parts = [compute_metrics(outcomes, weights) for weights in bootstrap_weights(outcomes.products)]
    metrics = {name: np.concatenate([part.metrics[name] for part in parts]) for name in parts[0].metrics}
    return MetricValues(metrics, np.concatenate([part.f1 for part in parts], axis=1))


def point_metrics(outcomes: Outcomes) -> MetricValues:
    """The metrics of the rows themselves, one replicate."""
    return compute_metrics(outcomes, np.ones((1, outcomes.products), np.float32))


ROUNDING = 1e-6
"""What sums of float32 may be off by."""


def estimate_interval(value: float, replicates: DoubleArray, products: int) -> Estimate:
    """A value with the percentiles of its replicates ``replicates`` *(replicates,)*, those that are NaN left out.

    Where every replicate gave 0 or every one gave 1 a bootstrap knows no doubt; the end that it cannot see is then that of the exact
    binomial interval for so many ``products`` (Clopper & Pearson 1934).
    """
    tail = (1 - LEVEL) / 2
    low, high = (float(end) for end in np.quantile(replicates[~np.isnan(replicates)], (tail, 1 - tail)))
    if np.allclose((low, high, value), 1, rtol=0, atol=ROUNDING):  # weighted sums of float32 come to 1 but for their last digits
        low = tail ** (1 / max(products, 1))
    if np.allclose((low, high, value), 0, rtol=0, atol=ROUNDING):
        high = 1 - tail ** (1 / max(products, 1))
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def lower_bound(successes: int, trials: int, risk: float) -> float:
    """The one-sided Clopper-Pearson bound: with probability 1 - ``risk`` the true share is not lower."""
    if not successes:
        return 0.0
    return float(special.betaincinv(successes, trials - successes + 1, risk))


def bootstrap_ratios(
    outcomes: Outcomes, pairs: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]], *, shares: bool = True
) -> list[Estimate]:
    """Ratios of sums over the rows of ``outcomes``, each of a pair of numbers *(rows,)*, with intervals by the bootstrap over products.

    Where they are no ``shares``, an end that the bootstrap cannot see is left as it is.
    """
    columns = [np.bincount(outcomes.product, values.astype(np.float64), outcomes.products) for pair in pairs for values in pair]
    totals = np.stack(columns, axis=1).astype(np.float32)
    sums = np.concatenate([weights @ totals for weights in bootstrap_weights(outcomes.products)]).astype(np.float64)
    estimates = []
    for number in range(len(pairs)):
        (above, below), replicates = totals[:, 2 * number : 2 * number + 2].T, sums[:, 2 * number : 2 * number + 2].T
        value = float(above.sum() / max(below.sum(), 1))
        ratios = np.divide(replicates[0], replicates[1], out=np.full(len(sums), np.nan), where=replicates[1] > 0)
        if shares:
            estimates.append(estimate_interval(value, ratios, int((below > 0).sum())))
        else:
            low, high = np.nanquantile(ratios, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
            estimates.append(Estimate(value=value, low=min(float(low), value), high=max(float(high), value)))
    return estimates
