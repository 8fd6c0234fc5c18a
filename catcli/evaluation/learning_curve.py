"""The learning curve: how many labeled rows more it takes until most of a catalog can be labeled unseen.

Errors fall with the number n of labeled rows by a power law, a n^-b (Hestness et al. 2017, "Deep Learning Scaling is Predictable,
Empirically", section 2). The exponent b is that of the linear model, fitted to parts of the rows, since that takes a second where LoRA
takes a minute; the level a is the blend's. What counts is the share of errors among the most confident rows, as many as are to be
accepted: they hold a precision where the exact bound of that share, with so many more products, reaches it.

How many rows of the catalog are of categories that no other fold has cannot be known from labeled rows: none, or as many as here. A
replicate counts them by a weight that it draws between 0 and 1, and the estimate itself by 1/2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import special

from catcli.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from catcli.evaluation.blend import calibrate
from catcli.evaluation.bootstrap import LEVEL, Outcomes, bootstrap_weights
from catcli.evaluation.calibration import fit_calibration
from catcli.evaluation.fold_roles import FoldRoles
from catcli.evaluation.metrics import MAX_FACTOR, RowsNeeded
from catcli.evaluation.selective import RISK, TARGET_PRECISIONS

TARGET_COVERAGE = 0.8
"""The share of rows to accept."""

CURVE_REPLICATES = 400

BISECTIONS = 24


@dataclass(frozen=True)
class CurvePoint:
    """The outcomes on all out-of-fold rows of linear models that learned from this ``share`` of the labeled rows."""

    share: float
    outcomes: Outcomes


@dataclass(frozen=True)
class LearningCurve:
    """The linear model's ``points``, two shares at least, which of the rows are ``scored`` *(rows,)*, and how many are ``labeled``."""

    points: Sequence[CurvePoint]
    scored: BoolArray
    labeled: int

    @classmethod
    def of(
        cls,
        logits: Sequence[tuple[float, FloatArray]],
        truth: IntArray,
        products: npt.NDArray[np.integer[Any]],
        roles: FoldRoles,
        labeled: int,
    ) -> Self:
        """From the linear model's ``logits`` *(rows, classes)* by the share of the labeled rows that it learned from."""
        choosing = roles.choosing
        points = [
            CurvePoint(share, Outcomes.of(calibrate(values, fit_calibration(values[choosing], truth[choosing])), truth, products))
            for share, values in logits
        ]
        return cls(points, roles.scored, labeled)

    @cached_property
    def replicates(self) -> Replicates:
        """The same for all that is estimated, so that they are paired."""
        return Replicates.of(self.points[0].outcomes.products)

    def exponent(self, errors: Sequence[DoubleArray]) -> DoubleArray:
        """The exponent b *(replicates,)* for the shares of errors *(replicates,)* of each point, by least squares of their logarithms.

        It is at least 0: more rows never make a model worse.
        """
        logs = np.log(np.array([point.share for point in self.points]))
        sizes = logs - logs.mean()
        slope: DoubleArray = sizes @ np.log(np.stack(errors)) / np.square(sizes).sum()
        return np.maximum(-slope, 0.0)


@dataclass(frozen=True)
class Replicates:
    """Samples of products: ``weights`` *(replicates, products)*, and the weight of unscored rows *(replicates,)*.

    The first is no sample: every product once, unscored rows by half.
    """

    weights: FloatArray
    unscored: DoubleArray

    @classmethod
    def of(cls, products: int) -> Self:
        """`CURVE_REPLICATES` of them; the same number of products gives the same."""
        sampled = np.concatenate(list(bootstrap_weights(products, count=CURVE_REPLICATES)))
        unscored = np.random.default_rng(products).random(len(sampled))
        return cls(np.concatenate((np.ones((1, products), np.float32), sampled)), np.append(0.5, unscored))

    def count(self, outcomes: Outcomes, chosen: BoolArray) -> DoubleArray:
        """How many of the ``chosen`` rows *(rows,)* each replicate has *(replicates,)*."""
        return (self.weights @ np.bincount(outcomes.product, chosen, self.weights.shape[1])).astype(np.float64)


def find_rows_needed(
    curve: LearningCurve, blend: Outcomes, targets: Sequence[float] = TARGET_PRECISIONS, coverage: float = TARGET_COVERAGE
) -> tuple[RowsNeeded, ...]:
    """For each of ``targets`` the labeled rows more that it takes to accept ``coverage`` of all rows.

    ``blend`` are the outcomes of all out-of-fold rows.
    """
    exponent = curve.exponent([_share_wrong(point.outcomes, curve, coverage) for point in curve.points])
    level = _share_wrong(blend, curve, coverage)
    accepted = coverage * blend.products * (1 + curve.scored.mean()) / 2
    needed = []
    for target in targets:
        factors = _factors(level, exponent, accepted, target)
        ends = np.quantile(factors[1:], ((1 - LEVEL) / 2, (1 + LEVEL) / 2), method="nearest")  # between two of them may be infinity
        rows, low, high = (_rows_more(float(factor), curve.labeled) for factor in (factors[0], *ends))
        needed.append(RowsNeeded(precision=target, coverage=coverage, rows=rows, low=low, high=high))
    return tuple(needed)


def _share_wrong(outcomes: Outcomes, curve: LearningCurve, coverage: float) -> DoubleArray:
    """The share of errors *(replicates,)* among the most confident rows, ``coverage`` of all; half an error more, so that it is not 0."""
    order = np.argsort(-outcomes.confidence, kind="stable")
    mass = np.cumsum(np.where(curve.scored, 1.0, 0.5)[order])
    accepted = np.zeros(len(order), np.bool_)
    accepted[order[mass <= coverage * mass[-1]]] = True
    wrong, count = accepted & ~outcomes.right, curve.replicates.count
    in_all, in_wrong = (
        count(outcomes, rows & curve.scored) + curve.replicates.unscored * count(outcomes, rows & ~curve.scored)
        for rows in (accepted, wrong)
    )
    shares: DoubleArray = (in_wrong + 0.5) / (in_all + 1)
    return shares


def _factors(level: DoubleArray, exponent: DoubleArray, accepted: float, target: float) -> DoubleArray:
    """Times the labeled rows *(replicates,)* at which so many times ``accepted`` products show ``target``; infinite past `MAX_FACTOR`."""

    def is_shown(log_factor: DoubleArray) -> BoolArray:
        trials = accepted * np.exp(log_factor)
        wrong = trials * level * np.exp(-exponent * log_factor)
        shown: BoolArray = special.betaincinv(trials - wrong, wrong + 1, RISK) >= target
        return shown

    low, high = np.zeros_like(level), np.full_like(level, math.log(MAX_FACTOR))
    now, ever = is_shown(low), is_shown(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = is_shown(middle)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(now, 1.0, np.where(ever, np.exp(high), np.inf))


def _rows_more(factor: float, rows: int) -> int | None:
    """So many times the rows as rows more, to two digits; None for infinity."""
    if math.isinf(factor):
        return None
    more = (factor - 1) * rows
    return round(more) if more < 100 else int(round(more, 1 - math.floor(math.log10(more))))
