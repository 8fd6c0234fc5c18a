"""Labels at any level of a category tree (`predict --back-off`) beside categories alone, by the linear model, on rows that nobody chose by.

    python tests/bench/tree.py ../shared/data [--sets amazon_toys,flipkart] [--rows 2000] [--seeds 20] [--logits FOLDER]

For each data set and seed another draw of ``train.parquet``, split by that seed: every row is scored by a model of the other folds, which
shows a threshold of each kind, as a fit does; a model of all rows labels ``test.parquet`` by it. Prints the share of test rows labeled on
average, how often rightly, and in how many seeds the precision was reached; then the same by level. ``per level`` looks for one threshold
after the other, from the deepest level up, among the rows that have no label yet.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from accuracy import load_peers
from rich.console import Console
from rich.table import Table

from catcli.config import Recipe
from catcli.data.dataset.columns import choose_columns
from catcli.data.dataset.gather import GatheredRows
from catcli.data.dataset.prepare import TrainingData, select_labeled_rows
from catcli.data.dataset.split import split_into_folds
from catcli.data.dataset.taxonomy import CategoryTree, find_separator
from catcli.data.dataset.text import row_texts
from catcli.evaluation.back_off import LevelLabels, find_back_off_threshold, fit_levels, level_labels
from catcli.evaluation.blend import calibrate
from catcli.evaluation.calibration import fit_calibration
from catcli.evaluation.hierarchy import lineage
from catcli.evaluation.selective import ProductSample, find_threshold, one_row_each
from catcli.training.linear_training import LinearTraining
from catcli.training.setup import Setup

PRECISIONS, FOLDS = (0.90, 0.95), 3

Levels = npt.NDArray[np.int64]
"""The index of the level at which each row is labeled *(rows,)*; -1 where it is not."""


def leaves(sample: LevelLabels, tested: LevelLabels, precision: float) -> Levels:
    """Categories alone, as without ``--back-off``."""
    found = find_threshold(ProductSample(sample.confidence[:, -1], sample.right[:, -1], sample.nodes[:, -1]), precision).threshold
    accepted = tested.confidence[:, -1] >= np.float32(np.inf if found is None else found)
    return np.where(accepted, tested.confidence.shape[1] - 1, -1)


def any_level(sample: LevelLabels, tested: LevelLabels, precision: float) -> Levels:
    """One threshold for all levels together, which ships."""
    found = find_back_off_threshold(sample, precision).threshold
    return np.full(len(tested.nodes), -1) if found is None else tested.chosen(found)


def per_level(sample: LevelLabels, tested: LevelLabels, precision: float) -> Levels:
    """A threshold for each level, from the deepest up, among the rows without a label."""
    waiting, chosen = np.arange(len(sample.nodes)), np.full(len(tested.nodes), -1)
    for level in reversed(range(sample.nodes.shape[1])):
        rows = ProductSample(sample.confidence[waiting, level], sample.right[waiting, level], sample.nodes[waiting, level])
        found = find_threshold(rows, precision).threshold
        if found is not None:
            waiting = waiting[rows.confidence < np.float32(found)]
            chosen[(chosen < 0) & (tested.confidence[:, level] >= np.float32(found))] = level
    return chosen


def probabilities(folder: Path, train: pl.DataFrame, test: pl.DataFrame, seed: int, kept: Path) -> dict[str, npt.NDArray[Any]]:
    """Out-of-fold and test probabilities *(rows, classes)* of the linear model, calibrated by other folds' rows; classes and products."""
    file = kept / f"tree-{folder.name}-{len(train)}-{seed}.npz"
    if not file.exists():
        columns = choose_columns(train, None, (), None, folder.name)
        labeled = select_labeled_rows(GatheredRows(train, len(train)), columns, folder.name)
        split = split_into_folds(labeled.keys, labeled.classes, FOLDS, seed)
        training = LinearTraining(Setup.of(TrainingData(labeled, split, columns, Recipe(split_seed=seed)), time.perf_counter()))
        trained = training.train()
        scores, model = trained.logits, trained.model
        truth, folds, choosing = labeled.classes[split.held_out], split.fold[split.held_out], np.isin(split.held_out, split.choosing)
        unseen = np.empty_like(scores)
        for fold in range(FOLDS):
            others = (folds != fold) & choosing
            unseen[folds == fold] = calibrate(scores[folds == fold], fit_calibration(scores[others], truth[others]))
        shipped = calibrate(model.logits(row_texts(test, columns.text, columns.prices)), fit_calibration(scores[choosing], truth[choosing]))
        names = np.array(labeled.categories.names)
        products = labeled.products(split.held_out)
        np.savez(file, unseen=unseen, classes=truth, products=products, test=shipped, names=names)
    with np.load(file) as arrays:
        return dict(arrays)


WAYS = {"categories alone": leaves, "per level": per_level, "any level": any_level}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="amazon_toys,flipkart")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--logits", type=Path, default=Path("logits"))
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    options = parser.parse_args()
    options.logits.mkdir(exist_ok=True)
    table = Table("data", "precision", "way", "labeled", "right", "held", "by level: labeled, right")
    for name in options.sets.split(","):
        folder = options.data / name
        whole, test = (pl.read_parquet(folder / f"{part}.parquet") for part in ("train", "test"))
        results: dict[tuple[float, str], list[tuple[float, float, list[tuple[float, float]]]]] = {}
        for seed in range(options.seeds):
            train = whole
            if options.rows < len(whole):
                train = whole[load_peers(options.peers).draw(whole["category"].to_numpy(), options.rows, seed)]
            found = probabilities(folder, train, test, seed, options.logits)
            known = found["names"].tolist()
            names = [*known, *sorted(set(test["category"].to_list()) - set(known))]
            numbers = {category: number for number, category in enumerate(names)}
            truth = np.array([numbers[category] for category in test["category"].to_list()])
            tree = CategoryTree.of(known, find_separator(known) or " > ")
            nodes = lineage(tree, names, found["classes"])
            levels = fit_levels(tree, found["unseen"], nodes)
            sample = level_labels(tree, found["unseen"], nodes, levels).take(one_row_each(found["products"]))
            new = level_labels(tree, found["test"], lineage(tree, names, truth), levels)
            for precision in PRECISIONS:
                for way, label in WAYS.items():
                    chosen = label(sample, new, precision)
                    rows = np.flatnonzero(chosen >= 0)
                    right, depth = new.right[rows, chosen[rows]], tree.levels[new.nodes[rows, chosen[rows]]]
                    by_level = [((depth == level).sum() / len(truth), right[depth == level].sum() / len(truth)) for level in range(1, 6)]
                    labeled = len(rows) / len(truth)
                    results.setdefault((precision, way), []).append((labeled, float(right.mean()) if len(rows) else 1.0, by_level))
        for (precision, way), runs in results.items():
            held = sum(right >= precision for _, right, _ in runs)
            share_labeled, correct = (np.mean([run[index] for run in runs]) for index in (0, 1))
            by_level = np.mean([run[2] for run in runs], axis=0)
            shown = "  ".join(f"{level}: {share:.3f} {hit / share:.3f}" for level, (share, hit) in enumerate(by_level, 1) if share > 0)
            table.add_row(name, f"{precision:g}", way, f"{share_labeled:.3f}", f"{correct:.3f}", f"{held}/{len(runs)}", shown)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
