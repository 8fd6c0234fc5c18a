"""Do thresholds and intervals of a fit hold on rows that nobody chose by? Over many draws and split seeds.

    python tests/bench/contract.py ../shared/data/pricerunner --rows 2000 [--seeds 20] [--first-seed 0] [--folds 3] [--peers FOLDER]
    python tests/bench/contract.py ../shared/data/pricerunner --rows 2000 --seeds 2 --fit [flags of catcli fit]

For each seed another draw of ``train.parquet``, split by that seed. Without ``--fit`` the linear model alone: thresholds, calibration and
scores from its out-of-fold rows (``--folds 0``: from the validation rows of a holdout), and a model of all rows labels ``test.parquet`` as
``predict --precision`` would. With ``--fit`` the adapter of a ``catcli fit`` of the draw, by the variant that serves. Prints a JSON line a
seed, and at the end for each precision in how many seeds a threshold was found, in how many the accepted rows reached the precision (one
without a threshold accepts none), the mean share accepted and that of an oracle that knows the test rows; then the calibration error on the
test file, in how many seeds a cascade changes no more labels than it may, and in how many the expected accuracy and macro F1 of a fresh
file cover the test file's (without folds the intervals of the scores).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from accuracy import fit, load_peers
from sklearn.metrics import f1_score

from catcli.adapter.folder import load_adapter
from catcli.adapter.manifest import Threshold
from catcli.arrays import FloatArray, IntArray
from catcli.config import DEFAULT_MAX_CHANGE, Recipe
from catcli.data.dataset.columns import choose_columns
from catcli.data.dataset.gather import GatheredRows
from catcli.data.dataset.prepare import TrainingData, select_labeled_rows
from catcli.data.dataset.split import FoldSplit, split_into_folds, split_rows
from catcli.data.dataset.text import row_texts
from catcli.evaluation.blend import calibrate
from catcli.evaluation.bootstrap import Outcomes, estimate_interval
from catcli.evaluation.calibration import fit_calibration
from catcli.evaluation.catalog_scores import estimate_catalog_scores
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.evaluation.fold_roles import FoldRoles
from catcli.evaluation.learning_curve import LearningCurve, find_rows_needed
from catcli.evaluation.metrics import Estimate, RowsNeeded
from catcli.evaluation.reliability import calibration_error
from catcli.evaluation.selective import TARGET_PRECISIONS, ProductSample, find_thresholds
from catcli.inference.labeler import Labeler
from catcli.training.linear_training import LinearTraining
from catcli.training.setup import Setup


@dataclass(frozen=True)
class Claims:
    """What is said of a catalog, and the probabilities *(rows, classes)* and classes *(rows,)* of the test file."""

    thresholds: Sequence[Threshold]
    rows_needed: Sequence[RowsNeeded]
    scores: dict[str, Estimate]
    probabilities: FloatArray
    truth: IntArray
    seconds: float
    cascade: dict[str, float] = field(default_factory=dict)


def of_linear(train: pl.DataFrame, test: pl.DataFrame, name: str, folds: int, seed: int) -> Claims:
    """Of the linear model alone."""
    start = time.perf_counter()
    columns = choose_columns(train, None, (), None, name)
    labeled = select_labeled_rows(GatheredRows(train, len(train)), columns, name)
    keys, classes = labeled.keys, labeled.classes
    parts = split_into_folds(keys, classes, folds, seed) if folds else split_rows(keys, classes, (80, 10, 10), seed)
    setup = Setup.of(TrainingData(labeled, parts, columns, Recipe(split_seed=seed)), time.perf_counter())
    linear = LinearTraining(setup).train()
    logits, truth = linear.logits, classes[parts.held_out]
    choosing, scored, fold = np.isin(parts.held_out, parts.choosing), np.isin(parts.held_out, parts.test), np.zeros(len(truth), np.int64)
    if isinstance(parts, FoldSplit):
        fold = parts.fold[parts.held_out]
    else:  # the validation rows choose
        scored = choosing
    confidence, unseen = fit_calibration(logits[choosing], truth[choosing]), np.empty_like(logits)
    for number in np.unique(fold):
        others = (fold != number) & choosing
        unseen[fold == number] = calibrate(
            logits[fold == number], fit_calibration(logits[others], truth[others]) if others.any() else confidence
        )
    products = labeled.products(parts.held_out)
    needed: Sequence[RowsNeeded] = ()
    if isinstance(parts, FoldSplit):
        curve = LearningCurve.of(linear.by_share, truth, products, FoldRoles(fold, scored, choosing), len(classes))
        tested = Outcomes.of(unseen, truth, products)
        catalog = estimate_catalog_scores(curve, tested, folds)
        assert catalog is not None
        needed, scores = find_rows_needed(curve, tested), {"accuracy": catalog.accuracy, "macro_f1": catalog.macro_f1}
    else:
        tested = Outcomes.of(unseen[scored], truth[scored], products[scored])
        scores = {
            metric: estimate_interval(float(tested.point.metrics[metric][0]), tested.replicates.metrics[metric], tested.products)
            for metric in ("accuracy", "macro_f1")
        }
    numbers = {category: number for number, category in enumerate(labeled.categories.names)}
    known = np.array([numbers.get(category, len(numbers)) for category in test["category"].to_list()])
    shipped = calibrate(linear.model.logits(row_texts(test, columns.text, columns.prices)), confidence)
    return Claims(find_thresholds(ProductSample.of(tested)), needed, scores, shipped, known, time.perf_counter() - start)


def of_fit(train: pl.DataFrame, test: pl.DataFrame, seed: int, flags: Sequence[str]) -> Claims:
    """Of the adapter of a fit."""
    with tempfile.TemporaryDirectory() as folder:
        products, output = Path(folder) / "products.parquet", Path(folder) / "adapter"
        train.write_parquet(products)
        seconds, _ = fit(products, output, [*flags, "--split-seed", str(seed)])
        adapter = load_adapter(output)
        metrics, manifest, labeler = FitMetrics.of(adapter), adapter.manifest, Labeler(adapter, "cpu")
        numbers = {category: number for number, category in enumerate(manifest.categories)}
        known = np.array([numbers.get(category, len(numbers)) for category in test["category"].to_list()])
        texts = row_texts(test, manifest.text, manifest.prices)
        probabilities, cascade = labeler.probabilities(texts), {}
        if labeler.cascade is not None:
            exact = Labeler(adapter, "cpu", labeler.variant, max_change=0).probabilities(texts).argmax(1)
            decided, changed = labeler.decided(texts), probabilities.argmax(1) != exact
            cascade = {
                "decided": float(decided.mean()),
                "changed": float((changed & decided).mean()),
                "changed_by_batches": float((changed & ~decided).mean()),  # int8 scales its numbers by the batch
                "exact_accuracy": float((exact == known).mean()),
            }
        said = metrics.catalog or metrics.blend
        scores = {"accuracy": said.accuracy, "macro_f1": said.macro_f1}
        thresholds = (labeler.cascade or manifest.variants[labeler.variant]).thresholds
        return Claims(thresholds, metrics.rows_needed, scores, probabilities, known, seconds, cascade)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    options, flags = parser.parse_known_args()
    whole, test = (pl.read_parquet(options.data / f"{part}.parquet") for part in ("train", "test"))
    found: dict[float, list[tuple[float, float]]] = {target: [] for target in TARGET_PRECISIONS}
    oracle: dict[float, list[float]] = {target: [] for target in TARGET_PRECISIONS}
    errors, covered, changed = [], {"accuracy": 0, "macro_f1": 0}, list[float]()
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        train = whole
        if options.rows < len(whole):
            train = whole[load_peers(options.peers).draw(whole["category"].to_numpy(), options.rows, seed)]
        claims = of_fit(train, test, seed, flags) if options.fit else of_linear(train, test, options.data.name, options.folds, seed)
        confidence, guessed, truth = claims.probabilities.max(1), claims.probabilities.argmax(1), claims.truth
        right = guessed == truth
        order = np.argsort(-confidence, kind="stable")
        share_right = np.cumsum(right[order]) / np.arange(1, len(right) + 1)
        errors.append(calibration_error(confidence, right))
        reached = {
            "accuracy": float(right.mean()),
            "macro_f1": float(f1_score(truth, guessed, average="macro", labels=np.unique(truth), zero_division=0)),
        }
        line: dict[str, object] = {"seed": seed, "seconds": round(claims.seconds), "calibration_error": round(errors[-1], 4)}
        for metric, claimed in claims.scores.items():
            covered[metric] += claimed.low <= reached[metric] <= claimed.high
            line[metric] = [round(value, 4) for value in (reached[metric], claimed.value, claimed.low, claimed.high)]
        line["cascade"] = {name: round(value, 5) for name, value in claims.cascade.items()}
        changed += [claims.cascade["changed"]] if claims.cascade else []
        line["rows_more"] = {str(needed.precision): [needed.rows, needed.low, needed.high] for needed in claims.rows_needed}
        for threshold in claims.thresholds:
            attainable = np.flatnonzero(share_right >= threshold.precision)
            oracle[threshold.precision].append((attainable[-1] + 1) / len(right) if len(attainable) else 0.0)
            if threshold.threshold is not None:
                accepted = confidence >= np.float32(threshold.threshold)
                precision = float(right[accepted].mean()) if accepted.any() else 1.0
                found[threshold.precision].append((float(accepted.mean()), precision))
                line[str(threshold.precision)] = [round(value, 4) for value in found[threshold.precision][-1]]
        print(json.dumps(line), flush=True)
    print(f"{options.data.name}, {options.rows:,} rows, {options.seeds} seeds")
    for target, kept in found.items():
        held = options.seeds - sum(precision < target for _, precision in kept)
        share, best = sum(accepted for accepted, _ in kept) / options.seeds, float(np.mean(oracle[target]))
        print(f"{target}: found in {len(kept)}, held in {held}, {share:.3f} of rows accepted on average, an oracle {best:.3f}")
    print(f"calibration error on the test file: {np.mean(errors):.3f} on average, at most {max(errors):.3f}")
    if changed:
        within = sum(share <= DEFAULT_MAX_CHANGE for share in changed)
        print(f"cascade: in {len(changed)}; changed labels at most {DEFAULT_MAX_CHANGE} in {within} of them, the most {max(changed):.4f}")
    print(f"intervals that cover the test file: accuracy {covered['accuracy']}, macro F1 {covered['macro_f1']}")


if __name__ == "__main__":
    main()
