"""Probabilities of categories that are paths → the deepest node of the tree whose confidence reaches a threshold.

A node's probability is the sum of those of the categories below it (Goren et al. 2024, "Hierarchical Selective Classification", section 3:
from the most probable leaf up to the first node that is sure enough). Here each level has a calibration of its own, by which confidences of
several levels can be compared with one threshold, and the most probable node of a level need not lie above the most probable category.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from catcli.adapter.manifest import BackOff, LevelCalibration
from catcli.arrays import FloatArray, IntArray
from catcli.data.dataset.taxonomy import CategoryTree
from catcli.errors import AdapterError
from catcli.evaluation.blend import log_odds


@dataclass(frozen=True)
class BackOffRule:
    """The tree of an adapter's categories, the calibration of each of its levels, and the threshold that a node has to reach.

    The last ``without_rows`` categories are known by name alone: no row says how sure they are, so a row gets what stands above them.
    """

    tree: CategoryTree
    levels: tuple[LevelCalibration, ...]
    threshold: float
    without_rows: int = 0


def level_calibrations(tree: CategoryTree, back_off: BackOff) -> tuple[LevelCalibration, ...]:
    """The calibrations of the tree's levels.

    Raises:
        AdapterError: they are of another tree.
    """
    if len(back_off.levels) != tree.depth:
        raise AdapterError(
            f"adapter.json calibrates {len(back_off.levels)} levels and its categories have {tree.depth}; copy the adapter again, or fit a "
            "new one."
        )
    return back_off.levels


def top_nodes(tree: CategoryTree, ordered: FloatArray, level: int) -> tuple[IntArray, FloatArray]:
    """The most probable nodes *(rows,)* where ``level`` cuts the tree, and their probabilities *(rows,)*.

    ``ordered`` *(rows, classes)* is what `CategoryTree.ordered` gives.
    """
    nodes, sums = tree.sums(ordered, level)
    best = sums.argmax(1)
    return nodes[best], np.minimum(sums[np.arange(len(sums)), best], np.float32(1))


def calibrate_level(probabilities: FloatArray, calibration: LevelCalibration) -> FloatArray:
    """The confidences *(rows,)* of nodes of one level: Platt's correction of their log-odds, as in `catcli.evaluation.blend.calibrate`."""
    odds = np.clip(calibration.slope * log_odds(probabilities) + calibration.shift, -80, 80)
    return np.asarray(1 / (1 + np.exp(-odds)), np.float32)


def climb(rule: BackOffRule, probabilities: FloatArray) -> tuple[IntArray, FloatArray]:
    """The deepest node of each row *(rows,)* that reaches the threshold, and its confidence *(rows,)*.

    ``probabilities`` are those of the categories, *(rows, classes)*. A row of which no node does so has its most probable category and the
    confidence of that, which is below the threshold.
    """
    nodes, confidences = np.zeros(len(probabilities), np.int64), np.zeros(len(probabilities), np.float32)
    waiting, ordered = np.arange(len(probabilities)), rule.tree.ordered(probabilities)
    for level in range(rule.tree.depth, 0, -1):
        best, top = top_nodes(rule.tree, ordered, level)
        confidence = calibrate_level(top, rule.levels[level - 1])
        by_name = (best >= rule.tree.classes - rule.without_rows) & (best < rule.tree.classes)
        reached = (confidence >= np.float32(rule.threshold)) & ~by_name
        taken = np.ones(len(waiting), np.bool_) if level == rule.tree.depth else reached
        confidence[by_name] = np.minimum(confidence[by_name], np.nextafter(np.float32(rule.threshold), np.float32(0)))
        nodes[waiting[taken]], confidences[waiting[taken]] = best[taken], confidence[taken]
        waiting, ordered = waiting[~reached], ordered[~reached]
        if not len(waiting):
            break
    return nodes, confidences
