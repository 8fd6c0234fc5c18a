"""Thresholds for `catcli.evaluation.climb`: the lowest that holds a precision among all rows that get a category or a node above.

A threshold says which rows are labeled and how deep; a label is right if it is the row's category or lies above it. Thresholds are tested
in a fixed sequence, as those of `catcli.evaluation.selective` are: they are the confidences of so many products, which know nothing of
right and wrong. One test for all levels together accepts more than one for each level; see tests/bench/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from catcli.adapter.manifest import BackOff, LevelCalibration, Threshold
from catcli.arrays import BoolArray, FloatArray, IntArray
from catcli.data.dataset.taxonomy import CategoryTree
from catcli.evaluation.bootstrap import Outcomes, bootstrap_ratios, lower_bound
from catcli.evaluation.calibration import fit_odds
from catcli.evaluation.climb import calibrate_level, top_nodes
from catcli.evaluation.fold_roles import FoldRoles
from catcli.evaluation.metrics import LevelCoverage, MeasuredBackOff
from catcli.evaluation.selective import CUTOFF_STEP, RISK, TARGET_PRECISIONS, one_row_each, search_threshold

USUAL_ODDS = (1.0, 0.0)
"""Slope and shift that few rows are pulled to: sums of calibrated probabilities are about right as they are."""


@dataclass(frozen=True)
class LevelLabels:
    """The most probable node of each level for some rows, its confidence, and whether it is right: each *(rows, levels)*."""

    nodes: IntArray
    confidence: FloatArray
    right: BoolArray

    def take(self, rows: IntArray) -> LevelLabels:
        """Those of some rows."""
        return LevelLabels(self.nodes[rows], self.confidence[rows], self.right[rows])

    def chosen(self, threshold: float) -> IntArray:
        """The index of the deepest level *(rows,)* that reaches the threshold; -1 where none does."""
        reached = self.confidence >= np.float32(threshold)
        deepest = self.confidence.shape[1] - 1 - reached[:, ::-1].argmax(1)
        return np.where(reached.any(1), deepest, -1)

    def outcome(self, threshold: float) -> tuple[int, float]:
        """How many labels are right at a threshold, and the mean of their confidences."""
        chosen = self.chosen(threshold)
        rows = np.flatnonzero(chosen >= 0)
        labels = rows, chosen[rows]
        return int(self.right[labels].sum()), float(self.confidence[labels].mean(dtype=np.float64))


def level_labels(tree: CategoryTree, probabilities: FloatArray, lineage: IntArray, levels: Sequence[LevelCalibration]) -> LevelLabels:
    """The labels of rows at each level, from the probabilities of their categories *(rows, classes)*.

    ``lineage`` *(rows, levels)* are the nodes above each row's true category, and it itself, as `catcli.evaluation.hierarchy.lineage` has
    them.
    """
    ordered = tree.ordered(probabilities)
    tops = [top_nodes(tree, ordered, level) for level in range(1, tree.depth + 1)]
    nodes = np.stack([best for best, _ in tops], axis=1)
    confidence = np.stack([calibrate_level(top, calibration) for (_, top), calibration in zip(tops, levels, strict=True)], axis=1)
    return LevelLabels(nodes, confidence, _is_above(tree, nodes, lineage))


def _is_above(tree: CategoryTree, nodes: IntArray, lineage: IntArray) -> BoolArray:
    """Whether each of ``nodes`` *(rows, levels)* is in the row's lineage at the node's own level."""
    right: BoolArray = np.take_along_axis(lineage, tree.levels[nodes] - 1, axis=1) == nodes
    return right


def fit_levels(tree: CategoryTree, probabilities: FloatArray, lineage: IntArray) -> tuple[LevelCalibration, ...]:
    """The calibration of each level, by rows that no model has seen: their probabilities *(rows, classes)* and `lineage`."""
    calibrations, ordered = [], tree.ordered(probabilities)
    for level in range(1, tree.depth + 1):
        nodes, top = top_nodes(tree, ordered, level)
        right = _is_above(tree, nodes[:, None], lineage)[:, 0]
        slope, shift = fit_odds(top, right, USUAL_ODDS)
        calibrations.append(LevelCalibration(slope=slope, shift=shift))
    return tuple(calibrations)


class _RankedLabels:
    """Products in the order in which falling thresholds label them, at any level."""

    def __init__(self, labels: LevelLabels) -> None:
        self._labels = labels
        best = labels.confidence.max(1)
        self._order = np.argsort(-best, kind="stable")
        self.confidence: FloatArray = best[self._order]
        self._known: dict[int, tuple[int, float]] = {}

    def _at(self, count: int) -> tuple[int, float]:
        if count not in self._known:
            first = self._labels.take(self._order[:count])
            self._known[count] = first.outcome(float(self.confidence[count - 1]))
        return self._known[count]

    def right(self, count: int) -> int:
        return self._at(count)[0]

    def mean(self, count: int) -> float:
        return self._at(count)[1]


def find_back_off_threshold(labels: LevelLabels, precision: float, risk: float = RISK) -> Threshold:
    """The lowest threshold that holds ``precision`` among the labels of all levels together; ``labels`` are of a row for each product.

    Where it labels all products, the sequence goes on with lower ones, which label them deeper.
    """
    found = search_threshold(_RankedLabels(labels), precision, risk)
    if found.threshold is None or found.accepted != 1.0:
        return found
    lower = np.unique(labels.confidence[labels.confidence < np.float32(found.threshold)])[::-1]
    passed = found.threshold
    for place in np.unique(np.linspace(0, len(lower) - 1, round(1 / CUTOFF_STEP)).astype(np.int64)) if len(lower) else ():
        right, mean = labels.outcome(float(lower[place]))
        if mean < precision or lower_bound(right, len(labels.right), risk) < precision:
            break
        passed = float(lower[place])
    return found.model_copy(update={"threshold": passed})


def fit_back_off(
    tree: CategoryTree, probabilities: FloatArray, lineage: IntArray, rows: IntArray, targets: Sequence[float] = TARGET_PRECISIONS
) -> BackOff:
    """Calibrations by all rows, and a threshold for each of ``targets`` by ``rows``, one of each product."""
    levels = fit_levels(tree, probabilities, lineage)
    sample = level_labels(tree, probabilities[rows], lineage[rows], levels)
    return BackOff(levels=levels, thresholds=tuple(find_back_off_threshold(sample, target) for target in targets))


def measure_back_off(
    tree: CategoryTree, threshold: Threshold, labels: LevelLabels, tested: Outcomes, roles: FoldRoles | None, risk: float = RISK
) -> MeasuredBackOff:
    """A threshold with what became of it on ``tested`` rows, whose ``labels`` these are.

    With ``roles`` these are the out-of-fold rows that it was found by: the precision is then measured on the scored rows of each fold by
    the threshold that the rows of the other folds show; the levels' calibrations are those of all rows.
    """
    facts = threshold.model_dump()
    if threshold.threshold is None or not len(tested.truth):
        return MeasuredBackOff(**facts)
    scored = np.ones(len(tested.truth), np.bool_) if roles is None else roles.scored
    rows = np.arange(len(tested.truth))
    chosen = labels.chosen(threshold.threshold)
    by_others = chosen if roles is None else _chosen_by_others(threshold.precision, labels, tested, roles.folds, risk)
    measured = np.flatnonzero(scored & (by_others >= 0))
    reached = None
    if len(measured):
        right = labels.right[measured, by_others[measured]]
        (reached,) = bootstrap_ratios(tested.take(measured), [(right, np.ones(len(measured)))])
    levels = []
    level_of = np.where(chosen >= 0, tree.levels[labels.nodes[rows, chosen]], 0)
    for level in range(1, tree.depth + 1):
        there = scored & (level_of == level)
        share = float(there.sum() / max(scored.sum(), 1))
        right_there = float(labels.right[there, chosen[there]].mean()) if there.any() else None
        levels.append(LevelCoverage(level=level, accepted=share, right=right_there))
    accepted = float((chosen[scored] >= 0).mean()) if scored.any() else None
    return MeasuredBackOff(**facts, accepted_in_test=accepted, reached_in_test=reached, levels=tuple(levels))


def _chosen_by_others(precision: float, labels: LevelLabels, tested: Outcomes, folds: IntArray, risk: float) -> IntArray:
    """`LevelLabels.chosen` *(rows,)* by the threshold of the rows of other folds; -1 where these show none."""
    chosen = np.full(len(folds), -1)
    for fold in np.unique(folds):
        inside, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        sample = labels.take(others[one_row_each(tested.product[others])])
        found = find_back_off_threshold(sample, precision, risk).threshold if len(others) else None
        if found is not None:
            chosen[inside] = labels.take(inside).chosen(found)
    return chosen
