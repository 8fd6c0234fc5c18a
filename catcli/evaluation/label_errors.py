"""Labeled rows whose label is probably wrong, by confident learning over out-of-fold probabilities.

Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels" (JAIR 70): a row counts as one of category j
where its probability of j reaches the mean that rows labeled j have, and the table of labels and such categories, scaled to the labels'
counts, says how many labels are wrong. Which rows these are is ranked by a score of its own; see tests/bench/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from catcli.arrays import DoubleArray, FloatArray, IntArray

DOUBT = 0.01
"""What is added to probabilities before their logarithms are compared: below it a calibration says little."""

MIN_PAIR_ROWS = 5
"""Rows of either category, at least, for two to be called one."""

MIN_OVERLAP = 0.5
"""From which overlap on two categories are named: half of what tells them apart is missing."""


@dataclass(frozen=True)
class LabelErrors:
    """How likely each label is wrong: ``scores`` *(rows,)*, of which the highest come first, and how many ``expected`` there are."""

    scores: DoubleArray
    suggested: IntArray
    expected: int

    @property
    def order(self) -> IntArray:
        """All rows, the likeliest error first."""
        return np.argsort(-self.scores, kind="stable")

    @property
    def suspects(self) -> IntArray:
        """The rows whose labels are probably wrong, the likeliest first: as many as are expected, and not labeled as suggested."""
        return self.order[: self.expected]


def find_label_errors(probabilities: FloatArray, labels: IntArray, logits: FloatArray | None = None) -> LabelErrors:
    """Rank rows by how likely their ``labels`` *(rows,)* are wrong: by how far another category's logit is above the label's.

    ``probabilities`` *(rows, classes)* are of models that have not seen the rows, and so are the ``logits``, which tell more than
    calibrated probabilities near 0 and 1; without them the logarithms of the probabilities stand for them.
    """
    rows = np.arange(len(labels))
    values = np.log(probabilities + np.float32(DOUBT)) if logits is None else logits
    others = values.astype(np.float64)
    own = others[rows, labels]
    others[rows, labels] = -np.inf
    suggested = others.argmax(1)
    scores = others[rows, suggested] - own
    return LabelErrors(scores, suggested, min(_expected_errors(probabilities, labels), int((scores > 0).sum())))


def _expected_errors(probabilities: FloatArray, labels: IntArray) -> int:
    """The number of wrong labels: the off-diagonal of the confident joint, each label's row of it scaled to the label's count."""
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    own = probabilities[np.arange(len(labels)), labels]
    thresholds = np.where(counts > 0, np.bincount(labels, own, classes) / np.maximum(counts, 1), np.inf)
    reached = probabilities >= thresholds.astype(np.float32)
    confident = reached.any(1)
    counted = np.where(reached, probabilities, -1).argmax(1)[confident]
    pairs, times = np.unique(labels[confident] * classes + counted, return_counts=True)
    label, category = np.divmod(pairs, classes)
    sums = np.bincount(label, times, classes)
    scaled = times * counts[label] / np.maximum(sums[label], 1)
    return round(float(scaled[label != category].sum()))


@dataclass(frozen=True)
class OverlappingPair:
    """Two categories, by number: ``overlap`` is 0 where their rows are told apart without an error, and 1 where by no more than chance."""

    first: int
    second: int
    rows: int
    overlap: float


def find_overlaps(probabilities: FloatArray, labels: IntArray) -> list[OverlappingPair]:
    """Categories that a model of other rows hardly tells apart, the least first.

    Of the rows of two categories, those of which it says the right one of the two: the overlap is twice their mean share of errors.
    """
    predicted, found = probabilities.argmax(1), list[OverlappingPair]()
    wrong = predicted != labels
    ends = np.sort(np.stack((labels[wrong], predicted[wrong]), axis=1), axis=1)
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    for first, second in np.unique(ends, axis=0).tolist():
        if min(counts[first], counts[second]) < MIN_PAIR_ROWS:
            continue
        shares = []
        for own, other in ((first, second), (second, first)):
            rows = labels == own
            shares.append(float((probabilities[rows, own] <= probabilities[rows, other]).mean()))
        overlap = min(1.0, sum(shares))
        if overlap >= MIN_OVERLAP:
            found.append(OverlappingPair(first, second, int(counts[first] + counts[second]), overlap))
    return sorted(found, key=lambda pair: (-pair.overlap, -pair.rows, pair.first, pair.second))
