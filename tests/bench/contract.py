"""Does the precision contract hold on rows that nobody chose by? The linear model alone, over many split seeds.

    python tests/bench/contract.py ../shared/data/pricerunner --rows 2000 [--seeds 20] [--peers ../shared/peers]

For each split seed: thresholds from the validation rows of that split, then the linear model refitted on all rows labels
``test.parquet``, as ``predict --precision`` would. Prints a JSON line a seed, and at the end for each precision in how many seeds a
threshold was found, in how many the accepted rows reached the precision (one without a threshold accepts none), and the mean share
accepted.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import polars as pl
from accuracy import load_peers

from catcli.config import Recipe
from catcli.data.dataset.columns import choose_columns
from catcli.data.dataset.gather import GatheredRows
from catcli.data.dataset.prepare import TrainingData, select_labeled_rows
from catcli.data.dataset.split import split_rows
from catcli.data.dataset.text import row_texts
from catcli.evaluation.blend import calibrate
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.calibration import fit_calibration
from catcli.evaluation.reliability import calibration_error
from catcli.evaluation.selective import TARGET_PRECISIONS, ProductSample, find_threshold
from catcli.training.linear_training import LinearTraining
from catcli.training.setup import Setup


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    options = parser.parse_args()
    train, test = (pl.read_parquet(options.data / f"{part}.parquet") for part in ("train", "test"))
    if options.rows < len(train):
        train = train[load_peers(options.peers).draw(train["category"].to_numpy(), options.rows)]
    columns = choose_columns(train, None, (), None, options.data.name)
    labeled = select_labeled_rows(GatheredRows(train, len(train)), columns, options.data.name)
    names = labeled.categories.names
    numbers = {name: number for number, name in enumerate(names)}
    truth = np.array([numbers.get(name, len(names)) for name in test["category"].to_list()])
    texts = row_texts(test, columns.text, columns.prices)
    found: dict[float, list[tuple[float, float]]] = {target: [] for target in TARGET_PRECISIONS}
    errors = []
    for seed in range(options.seeds):
        parts = split_rows(labeled.keys, labeled.classes, (80, 10, 10), seed)
        setup = Setup.of(TrainingData(labeled, parts, columns, Recipe(split_seed=seed)), time.perf_counter())
        choosing = parts.validation
        linear = LinearTraining(setup).train()
        model, logits = linear.model, linear.logits[: len(choosing)]
        confidence = fit_calibration(logits, labeled.classes[choosing])
        judged = ProductSample.of(Outcomes.of(calibrate(logits, confidence), labeled.classes[choosing], labeled.products(choosing)))
        shipped = calibrate(model.logits(texts), confidence)
        sure, right = shipped.max(1), shipped.argmax(1) == truth
        errors.append(calibration_error(sure, right))
        line: dict[str, object] = {"seed": seed, "products": len(judged.right), "calibration_error": round(errors[-1], 4)}
        for target in TARGET_PRECISIONS:
            made = find_threshold(judged, target)
            if made.threshold is not None:
                accepted = sure >= np.float32(made.threshold)
                found[target].append((float(accepted.mean()), float(right[accepted].mean())))
                line[str(target)] = [round(value, 4) for value in found[target][-1]]
        print(json.dumps(line), flush=True)
    for target, kept in found.items():
        held = options.seeds - sum(precision < target for _, precision in kept)
        share = sum(accepted for accepted, _ in kept) / options.seeds
        print(f"{target}: found in {len(kept)} of {options.seeds}, held in {held}, {share:.3f} of rows accepted on average")
    print(f"calibration error on the test file: {np.mean(errors):.3f} on average, at most {max(errors):.3f}")


if __name__ == "__main__":
    main()
