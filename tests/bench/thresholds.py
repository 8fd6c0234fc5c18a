"""Which way of looking for a threshold accepts most while it holds its precision? The linear model alone, on out-of-fold rows.

    python tests/bench/thresholds.py ../shared/data [--rows 2000] [--seeds 8] [--folds 5] [--logits FOLDER] [--sets pricerunner,flipkart]

For each data set and split seed every row is scored by a model of the other folds; a model of all rows scores ``test.parquet``; and each
way looks for a threshold on the first, applied to the second. Logits are kept in ``--logits``, so that ways can be compared again without
fitting. Prints for each way and precision the share of test rows accepted on average and in how many seeds the precision was reached; a
threshold that was not found accepts nothing and holds. The oracle knows the test rows and accepts as many of the most confident as it can.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from accuracy import load_peers
from scipy import stats

from catcli.data.dataset.columns import choose_columns
from catcli.data.dataset.examples import Examples, category_name_examples
from catcli.data.dataset.gather import GatheredRows
from catcli.data.dataset.prepare import select_labeled_rows
from catcli.data.dataset.split import assign_folds
from catcli.data.dataset.text import row_texts
from catcli.evaluation.blend import calibrate
from catcli.evaluation.bootstrap import Outcomes, lower_bound
from catcli.evaluation.calibration import fit_calibration
from catcli.evaluation.selective import RISK, TARGET_PRECISIONS, ProductSample, find_threshold, products_needed
from catcli.training.linear import fit_linear, out_of_fold_logits

Floats = npt.NDArray[np.float64]
Way = Callable[[ProductSample, float], float | None]
"""A sample of rows that no model has seen, and a precision → the confidence from which rows are accepted."""


def logits(data: Path, rows: int, folds: int, seed: int, kept: Path, peers: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Out-of-fold logits, classes and products of the labeled rows, and logits and classes of the test rows."""
    file = kept / f"{data.name}-{rows}-{folds}-{seed}.npz"
    if not file.exists():
        train, test = (pl.read_parquet(data / f"{part}.parquet") for part in ("train", "test"))
        if rows < len(train):
            train = train[load_peers(peers).draw(train["category"].to_numpy(), rows)]
        columns = choose_columns(train, None, (), None, data.name)
        labeled = select_labeled_rows(GatheredRows(train, len(train)), columns, data.name)
        numbers = {name: number for number, name in enumerate(labeled.categories.names)}
        truth = np.array([numbers.get(name, len(numbers)) for name in test["category"].to_list()])
        examples, names = Examples.of(labeled.texts, labeled.classes), category_name_examples(labeled.categories.names)
        fold = assign_folds(labeled.keys, labeled.classes, folds, seed)
        unseen, scored = out_of_fold_logits(examples, fold, names, len(numbers), seed)
        model = fit_linear(examples.plus(names), len(numbers), seed)
        shipped = model.logits(row_texts(test, columns.text, columns.prices))
        arrays = {
            "unseen": unseen,
            "classes": labeled.classes[scored],
            "products": labeled.products(scored),
            "test": shipped,
            "truth": truth,
        }
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stubs take every keyword for allow_pickle
    with np.load(file) as arrays_of_file:
        return dict(arrays_of_file)


# --- ways ----------------------------------------------------------------------------------------------------------------------------


def as_shipped(sample: ProductSample, precision: float) -> float | None:
    return find_threshold(sample, precision).threshold


def _ordered(sample: ProductSample) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], Floats]:
    order = np.argsort(-sample.confidence, kind="stable")
    confidence = sample.confidence[order]
    means = np.cumsum(confidence, dtype=np.float64) / np.arange(1, len(confidence) + 1)
    return confidence, np.cumsum(sample.right[order]).astype(np.int64), means


def _ties(confidence: npt.NDArray[np.float32], counts: npt.NDArray[np.int64]) -> list[int]:
    return [int(count) for count in np.unique(np.searchsorted(-confidence, -confidence[counts - 1], side="right"))]


def sequence(max_first_errors: int, step: float) -> Way:
    """A fixed sequence whose first cutoff is likeliest to pass by the confidences, with room for so many errors at most."""

    def way(sample: ProductSample, precision: float) -> float | None:
        confidence, hits, means = _ordered(sample)
        count = len(confidence)
        starts = [(need, errors) for errors in range(max_first_errors + 1) if (need := products_needed(precision, RISK, errors)) <= count]
        if not starts:
            return None
        start, _ = max(starts, key=lambda tried: stats.poisson.cdf(tried[1], tried[0] * (1 - means[tried[0] - 1])))
        cutoffs = _ties(confidence, np.append(np.arange(start, count, max(1, round(step * count))), count))
        passed = None
        for cutoff in cutoffs:
            if cutoff != cutoffs[0] and means[cutoff - 1] < precision:
                break
            if lower_bound(int(hits[cutoff - 1]), cutoff, RISK) < precision:
                break
            passed = float(confidence[cutoff - 1])
        return passed

    return way


def grid(cutoffs: int) -> Way:
    """So many cutoffs, evenly over the rows whose mean confidence reaches the precision, each at its share of the risk (Bonferroni)."""

    def way(sample: ProductSample, precision: float) -> float | None:
        confidence, hits, means = _ordered(sample)
        end = int(np.flatnonzero(means >= precision)[-1]) + 1 if (means >= precision).any() else 0
        if not end:
            return None
        counts = np.unique(np.linspace(end / cutoffs, end, cutoffs).round().astype(np.int64))
        tried = _ties(confidence, counts[counts > 0])
        passing = [cutoff for cutoff in tried if lower_bound(int(hits[cutoff - 1]), cutoff, RISK / len(tried)) >= precision]
        return float(confidence[max(passing) - 1]) if passing else None

    return way


def several_sequences(starts: int, step: float) -> Way:
    """Fixed sequences from several first cutoffs, each at its share of the risk; the lowest threshold of all.

    Angelopoulos et al. 2021, "Learn then Test", section 2.4: fixed sequence testing with several starts.
    """

    def way(sample: ProductSample, precision: float) -> float | None:
        confidence, hits, means = _ordered(sample)
        count = len(confidence)
        end = int(np.flatnonzero(means >= precision)[-1]) + 1 if (means >= precision).any() else 0
        first = products_needed(precision, RISK / starts)
        if first > count:
            return None
        passed: list[int] = []
        for start in _ties(confidence, np.unique(np.geomspace(first, max(first, end), starts).round().astype(np.int64))):
            counts = np.append(np.arange(start, max(end, start), max(1, round(step * count))), max(end, start))
            for cutoff in _ties(confidence, counts):
                if lower_bound(int(hits[cutoff - 1]), cutoff, RISK / starts) < precision:
                    break
                passed.append(cutoff)
        return float(confidence[max(passed) - 1]) if passed else None

    return way


WAYS: dict[str, Way] = {
    "as shipped": as_shipped,
    **{f"sequence, {errors} errors, step {step}": sequence(errors, step) for errors in (10, 20, 40) for step in (0.01, 0.025, 0.05)},
    **{f"grid of {cutoffs}": grid(cutoffs) for cutoffs in (5, 10, 20)},
    **{f"{starts} sequences, step {step}": several_sequences(starts, step) for starts in (2, 3, 5) for step in (0.025, 0.05)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--sets", default="pricerunner,flipkart,amazon_toys,usda_food")
    parser.add_argument("--logits", type=Path, default=Path("/tmp/catcli-thresholds"))
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    options = parser.parse_args()
    options.logits.mkdir(exist_ok=True)
    for name in options.sets.split(","):
        results: dict[tuple[str, float], list[tuple[float, bool]]] = {}
        for seed in range(options.seeds):
            arrays = logits(options.data / name, options.rows, options.folds, seed, options.logits, options.peers)
            classes, unseen = arrays["classes"].astype(np.int64), arrays["unseen"].astype(np.float32)
            calibration = fit_calibration(unseen, classes)
            sample = ProductSample.of(Outcomes.of(calibrate(unseen, calibration), classes, arrays["products"].astype(np.uint64)))
            shipped = calibrate(arrays["test"].astype(np.float32), calibration)
            confidence, right = shipped.max(1), shipped.argmax(1) == arrays["truth"]
            order = np.argsort(-confidence, kind="stable")
            share_right = np.cumsum(right[order]) / np.arange(1, len(right) + 1)
            for precision in TARGET_PRECISIONS:
                reached = np.flatnonzero(share_right >= precision)
                best = (reached[-1] + 1) / len(right) if len(reached) else 0.0
                results.setdefault(("oracle", precision), []).append((float(best), True))
                for way, look in WAYS.items():
                    threshold = look(sample, precision)
                    accepted = confidence >= np.float32(2.0 if threshold is None else threshold)
                    held = not accepted.any() or float(right[accepted].mean()) >= precision
                    results.setdefault((way, precision), []).append((float(accepted.mean()), held))
        print(f"\n{name}, {options.rows:,} rows, {options.seeds} seeds")
        for way in ("oracle", *WAYS):
            cells = [results[way, precision] for precision in TARGET_PRECISIONS]
            shown = (f"{np.mean([share for share, _ in cell]):.3f} ({sum(held for _, held in cell)})" for cell in cells)
            print(f"  {way:34}", "  ".join(shown), flush=True)


if __name__ == "__main__":
    main()
