"""Seconds of the linear models of a fit: one after another, and in several processes, in turn.

    python tests/bench/linear.py ../shared/data/flipkart --rows 2000 [--repeats 3] [--peers ../shared/peers]

The models are those of `catcli fit` on a draw of ``train.parquet``: of the folds, of halves and quarters of the rows, and of all rows. Both
ways have to give the same logits. The first of each is a warm-up; the others are printed, with the memory that each way took at most.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import polars as pl
from accuracy import load_peers

from catcli.config import Recipe
from catcli.data.dataset.columns import choose_columns
from catcli.data.dataset.gather import GatheredRows
from catcli.data.dataset.prepare import TrainingData, select_labeled_rows
from catcli.data.dataset.split import split_into_folds
from catcli.training import linear
from catcli.training.linear_training import LinearResult, LinearTraining
from catcli.training.setup import Setup

WAYS = {"one after another": float("inf"), "in processes": linear.MIN_PARALLEL_SECONDS}
"""From how many seconds on processes are started."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    options = parser.parse_args()
    frame = pl.read_parquet(options.data / "train.parquet")
    frame = frame[load_peers(options.peers).draw(frame["category"].to_numpy(), options.rows, 0)]
    columns = choose_columns(frame, None, (), None, options.data.name)
    labeled = select_labeled_rows(GatheredRows(frame, len(frame)), columns, options.data.name)
    split = split_into_folds(labeled.keys, labeled.classes, options.folds, 0)
    setup = Setup.of(TrainingData(labeled, split, columns, Recipe()), time.perf_counter())
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    memory: dict[str, int] = {}
    results: dict[str, LinearResult] = {}
    for _ in range(options.repeats + 1):
        for way, bound in WAYS.items():
            linear.MIN_PARALLEL_SECONDS = bound
            start = time.perf_counter()
            results[way] = LinearTraining(setup).train()
            seconds[way].append(time.perf_counter() - start)
            memory[way] = results[way].peak_memory
    first, second = results.values()
    if not np.array_equal(first.logits, second.logits) or (first.model.weights != second.model.weights).nnz:
        raise SystemExit("the two ways give different models")
    for way, took in seconds.items():
        shown = " ".join(f"{one:.1f}" for one in took[1:])
        print(f"{options.data.name}, {len(frame):,} rows, {way}: {shown} s, {memory[way] / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
