"""The cascade: rows of which the linear model is so sure that both models together would say the same.

It decides them alone, and only the others pay for the encoder. How sure it has to be follows from rows that neither model has seen: of
the rows with the largest margins between its two best logits, cutoffs of rising share are tested one after the other, each by the exact
bound of the share of all rows that would change category; the first that fails ends it (fixed sequence testing: Angelopoulos et al. 2021,
"Learn then Test", section 2.4; the order is fixed by the margins, which know nothing of what changes). No label takes part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catcli.adapter.manifest import CalibrationParameters, Cascade
from catcli.arrays import BoolArray, FloatArray, IntArray
from catcli.evaluation.blend import calibrate, decided_alone, margins
from catcli.evaluation.bootstrap import Outcomes, lower_bound
from catcli.evaluation.calibration import fit_calibration
from catcli.evaluation.fold_roles import FoldRoles
from catcli.evaluation.metrics import CascadeScores
from catcli.evaluation.selective import RISK, one_row_each

MAX_CHANGES = (0.001, 0.002, 0.005, 0.01, 0.02)
"""Shares of changed rows for which a fit looks for a cascade."""

MARGIN_STEP = 0.01
"""Each cutoff decides so much more of all products."""

MIN_DECIDED_ROWS = 50
"""Rows that the linear model decides, at least, for their confidences to be calibrated by them."""


@dataclass(frozen=True)
class ChangeSample:
    """What cutoffs are tested on, a row of each product: the linear model's ``margin`` and whether both models ``changed`` its category.

    Both have shape *(products,)*, of rows that neither model has seen.
    """

    margin: FloatArray
    changed: BoolArray

    @classmethod
    def of(cls, linear: FloatArray, blend: FloatArray) -> ChangeSample:
        """Of the linear model's logits and of what the blend gives, each *(products, classes)*."""
        return cls(margins(linear), linear.argmax(1) != blend.argmax(1))

    def plus(self, other: ChangeSample) -> ChangeSample:
        """These and others."""
        return ChangeSample(np.concatenate((self.margin, other.margin)), np.concatenate((self.changed, other.changed)))


def find_margin(margin: FloatArray, changed: BoolArray, max_change: float, risk: float = RISK) -> tuple[float, float] | None:
    """The smallest margin for which at most ``max_change`` of rows change, and the share that is decided; None where none is shown.

    ``margin`` *(products,)* is the linear model's, ``changed`` whether both models together say another category.
    """
    count = len(margin)
    order = np.argsort(-margin, kind="stable")
    falling, changes = margin[order], np.cumsum(changed[order])
    counts = np.unique(np.ceil(np.arange(MARGIN_STEP, 1 + MARGIN_STEP / 2, MARGIN_STEP) * count).astype(np.int64).clip(1, count))
    last = None
    for cutoff in np.unique(np.searchsorted(-falling, -falling[counts - 1], side="right")):  # equal margins are decided together
        if 1 - lower_bound(count - int(changes[cutoff - 1]), count, risk) > max_change:
            break
        last = float(falling[cutoff - 1]), cutoff / count
    return last


def fit_cascades(
    linear: FloatArray,
    blend: FloatArray,
    products: npt.NDArray[np.integer[Any]],
    truth: IntArray,
    choosing: BoolArray,
    unlabeled: ChangeSample | None = None,
    targets: Sequence[float] = MAX_CHANGES,
) -> tuple[Cascade, ...]:
    """A cascade for each of ``targets`` that can be shown, without thresholds.

    ``linear`` are its logits and ``blend`` the probabilities of both models, each *(rows, classes)*, of rows that neither has seen; of each
    of the ``products`` *(rows,)* a random row is tested, and with them ``unlabeled`` ones. Rows that are ``choosing`` calibrate, by their
    classes ``truth``.
    """
    rows = one_row_each(products)
    sample = ChangeSample.of(linear[rows], blend[rows])
    if unlabeled is not None:
        sample = sample.plus(unlabeled)
    cascades = []
    for target in targets:
        shown = find_margin(sample.margin, sample.changed, target)
        if shown is None:
            continue
        smallest, share = shown
        confidence = _calibrated(linear, truth, choosing, decided_alone(linear, smallest))
        cascades.append(Cascade(max_change=target, margin=smallest, decided=share, confidence=confidence))
    return tuple(cascades)


def serve(linear: FloatArray, blend: FloatArray, cascade: Cascade, truth: IntArray, roles: FoldRoles | None) -> FloatArray:
    """The probabilities *(rows, classes)* that rows are served with, from the linear model's logits and the blend's probabilities.

    With ``roles`` the rows that it decides are calibrated by those of the other folds (cross-fitting).
    """
    served, decided = blend.copy(), decided_alone(linear, cascade.margin)
    if roles is None:
        served[decided] = calibrate(linear[decided], cascade.confidence)
        return served
    for fold in np.unique(roles.folds):
        inside, others = decided & (roles.folds == fold), roles.choosing & (roles.folds != fold)
        if inside.any() and others.any():
            served[inside] = calibrate(linear[inside], _calibrated(linear, truth, others, decided))
    return served


def measure_cascade(cascade: Cascade, linear: FloatArray, exact: FloatArray, served: Outcomes) -> CascadeScores:
    """What became of it on rows: ``exact`` are the blend's probabilities *(rows, classes)*, ``served`` the outcomes with the cascade."""
    labels = exact.argmax(1)
    return CascadeScores(
        max_change=cascade.max_change,
        decided=float(decided_alone(linear, cascade.margin).mean()),
        changed=float((labels != served.predicted).mean()),
        exact_accuracy=float((labels == served.truth).mean()),
    )


def _calibrated(linear: FloatArray, truth: IntArray, choosing: BoolArray, decided: BoolArray) -> CalibrationParameters:
    """What calibrates the linear model's logits where it decides; with too few such rows, where it does not as well."""
    chosen = choosing & decided
    if chosen.sum() < MIN_DECIDED_ROWS:
        chosen = choosing
    return fit_calibration(linear[chosen], truth[chosen])
