"""Scores on a tree of categories: how far down labels are right, and how far from the truth the wrong ones are.

Hierarchical precision, recall and F1 are those of Kiritchenko et al. (2005, "Functional Annotation of Genes Using Hierarchical Text
Categorization"), in their micro average: a category stands for itself and all nodes above it, precision is the share of the predicted ones
that are true, recall that of the true ones that are predicted (also Silla & Freitas 2011, "A survey of hierarchical classification across
different application domains", section 6).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from catcli.adapter.manifest import Threshold
from catcli.arrays import BoolArray, FloatArray, IntArray
from catcli.data.dataset.taxonomy import CategoryTree
from catcli.evaluation.bootstrap import Outcomes, bootstrap_ratios
from catcli.evaluation.metrics import BranchCoverage, BranchScores, LevelScores, TreeScores

NOWHERE = -1
"""In a lineage: a node that the tree does not have, or a level below the category's own."""


def lineage(tree: CategoryTree, names: Sequence[str], numbers: IntArray) -> IntArray:
    """The nodes of each row's category at each level *(rows, depth)*: `NOWHERE` below its own, and where the tree does not have them.

    ``names`` are those of the tree's classes and of more categories, which the adapter does not know; ``numbers`` *(rows,)* say which of
    them each row is of. Of an unknown category the tree may know the first levels.
    """
    nodes = {tree.key(path): number for number, path in reversed(list(enumerate(tree.paths)))}
    used, place = np.unique(numbers, return_inverse=True)
    found = np.full((len(used), tree.depth), NOWHERE, np.int64)
    for row, number in enumerate(used.tolist()):
        if number < tree.classes:
            level = int(tree.levels[number])
            found[row, :level] = tree.ancestors[number, :level]
        else:
            path = tree.key(names[number])
            for level in range(1, min(len(path), tree.depth) + 1):
                found[row, level - 1] = nodes.get(path[:level], NOWHERE)
    return found[place]


def path_lengths(tree: CategoryTree, names: Sequence[str], numbers: IntArray) -> IntArray:
    """The level *(rows,)* of each row's category, known or not."""
    used, place = np.unique(numbers, return_inverse=True)
    lengths = [int(tree.levels[n]) if n < tree.classes else len(tree.key(names[n])) for n in used.tolist()]
    return np.array(lengths, np.int64)[place]


def score_tree(tree: CategoryTree, outcomes: Outcomes, names: Sequence[str], thresholds: Sequence[Threshold] = ()) -> TreeScores:
    """The scores of labeled rows on the tree; ``names`` has every class of the rows, known or not.

    ``thresholds`` are those that ``predict --precision`` accepts rows by: each node tells how many of its rows that are.
    """
    truth = lineage(tree, names, outcomes.truth)
    predicted = lineage(tree, names, outcomes.predicted)
    true_length, predicted_length = path_lengths(tree, names, outcomes.truth), tree.levels[outcomes.predicted]
    shared = ((truth == predicted) & (truth != NOWHERE)).sum(1)
    levels = [level for level in range(1, tree.depth + 1) if (true_length >= level).any()]
    right = [(truth[:, level - 1] == predicted[:, level - 1]) & (truth[:, level - 1] != NOWHERE) for level in levels]
    has_level = [true_length >= level for level in levels]
    ratios = [(shared, predicted_length), (shared, true_length), (2 * shared, predicted_length + true_length)]
    precision, recall, f1, *accuracies = bootstrap_ratios(outcomes, [*ratios, *zip(right, has_level, strict=True)])
    (distance,) = bootstrap_ratios(outcomes, [(true_length + predicted_length - 2 * shared, np.ones(len(shared)))], shares=False)
    return TreeScores(
        separator=tree.separator,
        levels=tuple(
            LevelScores(level=level, rows=int(there.sum()), accuracy=accuracy)
            for level, there, accuracy in zip(levels, has_level, accuracies, strict=True)
        ),
        hierarchical_precision=precision,
        hierarchical_recall=recall,
        hierarchical_f1=f1,
        distance=distance,
        branches=_branches(tree, truth, predicted, outcomes.confidence, thresholds),
    )


def _branches(
    tree: CategoryTree, truth: IntArray, predicted: IntArray, confidence: FloatArray, thresholds: Sequence[Threshold]
) -> tuple[BranchScores, ...]:
    """The scores of every node above the categories that rows are of or were labeled with, parents before children."""
    scores = []
    order = sorted(
        np.unique(np.concatenate((truth.ravel(), predicted.ravel()))).tolist(),
        key=lambda node: tree.key(tree.paths[node]),
    )
    for node in order:
        if node == NOWHERE:
            continue
        level = int(tree.levels[node]) - 1
        of_node, labeled = truth[:, level] == node, predicted[:, level] == node
        hits = int((of_node & labeled).sum())
        scores.append(
            BranchScores(
                path=tree.paths[node],
                level=level + 1,
                support=int(of_node.sum()),
                precision=hits / int(labeled.sum()) if labeled.any() else None,
                recall=hits / int(of_node.sum()) if of_node.any() else None,
                coverage=_coverage(confidence[labeled], of_node[labeled], thresholds),
            )
        )
    return tuple(scores)


def _coverage(confidence: FloatArray, right: BoolArray, thresholds: Sequence[Threshold]) -> tuple[BranchCoverage, ...]:
    """What each threshold accepts of some rows, whose labels are ``right`` or not; each array is *(rows,)*."""
    if not len(confidence):
        return ()
    coverage = []
    for single in thresholds:
        if single.threshold is not None:
            accepted = confidence >= np.float32(single.threshold)
            right_share = float(right[accepted].mean()) if accepted.any() else None
            coverage.append(BranchCoverage(precision=single.precision, accepted=float(accepted.mean()), right=right_share))
    return tuple(coverage)
