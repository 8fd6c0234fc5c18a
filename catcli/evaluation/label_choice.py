"""Probabilities of the categories → the labels of a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from catcli.arrays import FloatArray, IntArray
from catcli.evaluation.climb import BackOffRule, climb


@dataclass(frozen=True)
class LabelChoice:
    """Which labels a row gets: its ``top_k`` most probable classes, the most probable first.

    With a ``back_off`` the first label is the deepest node of the tree that is sure enough, and the classes, where there are several,
    come behind it.
    """

    top_k: int = 1
    back_off: BackOffRule | None = None

    def width(self, classes: int) -> int:
        """The labels of a row, of so many classes."""
        k = min(self.top_k, classes)
        if self.back_off is None:
            return k
        return 1 + k if self.top_k > 1 else 1

    def choose(self, probabilities: FloatArray) -> tuple[IntArray, FloatArray]:
        """The labels by probabilities *(rows, classes)*, and their confidences, each *(rows, width)*."""
        if self.back_off is None:
            return _most_probable(probabilities, self.top_k)
        nodes, confidences = climb(self.back_off, probabilities)
        if self.top_k == 1:
            return nodes[:, None], confidences[:, None]
        classes, of_classes = _most_probable(probabilities, self.top_k)
        return np.column_stack((nodes, classes)), np.column_stack((confidences, of_classes))


MOST_PROBABLE = LabelChoice()

MAX_PASSES = 8
"""Classes that are found one after the other; more are sorted."""


def _most_probable(probabilities: FloatArray, top_k: int) -> tuple[IntArray, FloatArray]:
    k = min(top_k, probabilities.shape[1])
    if k > MAX_PASSES:
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
        return best, np.take_along_axis(probabilities, best, axis=1)
    # One pass for each is many times faster than to sort, and of equal ones finds the first, too.
    rows, left = np.arange(len(probabilities)), probabilities if k == 1 else probabilities.copy()
    classes, confidences = np.empty((len(rows), k), np.int64), np.empty((len(rows), k), np.float32)
    for place in range(k):
        classes[:, place] = left.argmax(1)
        confidences[:, place] = left[rows, classes[:, place]]
        if place + 1 < k:
            left[rows, classes[:, place]] = -1
    return classes, confidences
