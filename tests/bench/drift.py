"""Does `predict` warn of catalogs that are unlike the labeled products, and of no others?

    python tests/bench/drift.py ../shared/data adapters/flipkart=flipkart adapters/pricerunner=pricerunner …

Each argument names an adapter and the data set that it learned from. Every data set's ``test.parquet`` is a catalog: its own in ten
random halves, and the others whole. Prints the mean confidence, what was expected, the share of rows in other categories than the labeled
ones, and how many catalogs were warned of.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from catcli.adapter.folder import load_adapter
from catcli.data.dataset.columns import choose_columns
from catcli.data.dataset.text import row_texts
from catcli.evaluation.drift import Drift, measure_drift
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.inference.labeler import Labeler

HALVES = 10


def catalog_texts(folder: Path) -> list[str]:
    """The texts of a data set's test rows."""
    frame = pl.read_parquet(folder / "test.parquet")
    columns = choose_columns(frame, "category", (), None, folder.name)
    return row_texts(frame, columns.text, columns.prices)


def measure(labeler: Labeler, metrics: FitMetrics, texts: list[str]) -> Drift:
    """The drift of a catalog of these texts."""
    labels = labeler.label(texts)
    counted = Counter(labeler.categories[number] for number in labels.classes[:, 0].tolist())
    drift = measure_drift(len(texts), float(labels.confidences[:, 0].sum()), counted, metrics)
    if drift is None:
        raise SystemExit("too few rows")
    return drift


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("adapters", nargs="+", metavar="ADAPTER=SET")
    parser.add_argument("--sets", default="amazon_toys,flipkart,pricerunner,usda_food")
    options = parser.parse_args()
    texts = {name: catalog_texts(options.data / name) for name in options.sets.split(",")}
    table = Table("adapter", "catalog", "confidence", "expected", "moved", "warned")
    for pair in options.adapters:
        folder, _, own = pair.rpartition("=")
        adapter = load_adapter(Path(folder))
        labeler, metrics, random = Labeler(adapter, "cpu"), FitMetrics.of(adapter), np.random.default_rng(0)
        for name, rows in texts.items():
            catalogs = [rows]
            if name == own:
                catalogs = [[rows[row] for row in random.permutation(len(rows))[: len(rows) // 2]] for _ in range(HALVES)]
            drifts = [measure(labeler, metrics, catalog) for catalog in catalogs]
            warned = sum(drift.is_unlike for drift in drifts)
            lowest, moved = min(drift.confidence for drift in drifts), max(drift.moved for drift in drifts)
            figures = f"{lowest:.3f}", f"{drifts[0].expected:.3f}", f"{moved:.2f}"
            table.add_row(Path(folder).name, name, *figures, f"{warned} of {len(drifts)}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
