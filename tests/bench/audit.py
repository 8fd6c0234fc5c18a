"""Planted wrong labels: how far up `catcli audit` ranks them, beside cleanlab's `find_label_issues` on the same probabilities.

    python tests/bench/audit.py ../shared/data [--cleanlab ../cleanlab/bin/python] [--rows 2000] [--seeds 3]

cleanlab is in an environment of its own (``pip install cleanlab``), whose Python ``--cleanlab`` names. For each data set, share of wrong
labels, kind of them (to any category, or to the one that a category is most confused with) and draw of ``train.parquet``: out-of-fold
probabilities of linear models, as `audit` has them, the average precision of the ranking, and its precision among as many rows as were
planted. What cleanlab does not list comes last.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from accuracy import load_peers
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score

from catcli.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from catcli.data.dataset.columns import choose_columns
from catcli.data.dataset.examples import Examples, category_name_examples
from catcli.data.dataset.split import assign_folds, product_keys
from catcli.data.dataset.text import row_texts
from catcli.evaluation.blend import calibrate
from catcli.evaluation.calibration import fit_calibration
from catcli.evaluation.label_errors import find_label_errors
from catcli.training.linear import out_of_fold_logits

FOLDS = 5

CLEANLAB = """
import sys, numpy as np
from cleanlab.filter import find_label_issues
stored = np.load(sys.argv[1])
for by in ("self_confidence", "normalized_margin"):
    np.save(sys.argv[2] + by, find_label_issues(stored["labels"], stored["probabilities"], return_indices_ranked_by=by, n_jobs=1))
"""
RANKED_BY = ("self_confidence", "normalized_margin")


@dataclass(frozen=True)
class Products:
    """Labeled rows: texts, class numbers and product keys, and the categories' names."""

    texts: list[str]
    labels: IntArray
    keys: list[str]
    names: list[str]

    @classmethod
    def read(cls, folder: Path, rows: int, seed: int, peers: Path) -> Products:
        """A draw of the training rows."""
        frame = pl.read_parquet(folder / "train.parquet")
        columns = choose_columns(frame, "category", (), None, folder.name)
        frame = frame[load_peers(peers).draw(frame["category"].to_numpy(), min(rows, len(frame)), seed)]
        texts, names = row_texts(frame, columns.text, columns.prices), sorted(set(frame["category"]))
        numbers = {name: number for number, name in enumerate(names)}
        return cls(texts, np.array([numbers[name] for name in frame["category"]]), product_keys(texts, None), names)

    def out_of_fold(self, labels: IntArray) -> tuple[FloatArray, IntArray]:
        """Logits of models of other folds' rows, whose labels are these, and the numbers of the rows."""
        folds = assign_folds(self.keys, labels, FOLDS, 0)
        return out_of_fold_logits(Examples.of(self.texts, labels), folds, category_name_examples(self.names), len(self.names), 0)

    def with_errors(self, share: float, confused: bool, seed: int) -> IntArray:
        """The labels, so large a share of them wrong."""
        random, labels, count = np.random.default_rng(100 + seed), self.labels.copy(), len(self.names)
        rows = random.choice(len(labels), round(share * len(labels)), replace=False)
        if not confused:
            others = random.integers(0, count - 1, len(rows))
            labels[rows] = others + (others >= labels[rows])
            return labels
        logits, numbers = self.out_of_fold(self.labels)
        logits[np.arange(len(numbers)), self.labels[numbers]] = -np.inf
        table = np.zeros((count, count))
        np.add.at(table, (self.labels[numbers], logits.argmax(1)), 1)
        partner = np.where(table.max(1) > 0, table.argmax(1), (np.arange(count) + 1) % count)
        labels[rows] = partner[labels[rows]]
        return labels


def rankings(logits: FloatArray, probabilities: FloatArray, labels: IntArray, cleanlab: str | None) -> Iterator[tuple[str, DoubleArray]]:
    """Scores *(rows,)* by which errors come first, under the name of what gave them."""
    yield "catcli", find_label_errors(probabilities, labels, logits).scores
    if cleanlab is None:
        return
    present, numbers = np.unique(labels, return_inverse=True)  # it wants every class to have rows
    chosen = probabilities[:, present].astype(np.float64)
    with tempfile.TemporaryDirectory() as folder:
        stored = str(Path(folder) / "stored.npz")
        np.savez(stored, probabilities=chosen / chosen.sum(1, keepdims=True), labels=numbers)
        subprocess.run([cleanlab, "-c", CLEANLAB, stored, f"{folder}/"], check=True, capture_output=True)
        for by in RANKED_BY:
            order = np.load(f"{folder}/{by}.npy")
            scores = np.full(len(labels), -float(len(labels)))
            scores[order] = -np.arange(len(order))
            yield f"cleanlab, {by}", scores


def measure(scores: DoubleArray, wrong: BoolArray) -> tuple[float, float]:
    """The average precision, and the precision among as many as are wrong."""
    first = np.argsort(-scores, kind="stable")[: wrong.sum()]
    return float(average_precision_score(wrong, scores)), float(wrong[first].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="pricerunner,flipkart,amazon_toys")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cleanlab", default=None)
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    options = parser.parse_args()
    table = Table("data", "wrong labels", "ranking", "average precision", "precision at their number")
    for name in options.sets.split(","):
        for share in (0.05, 0.1):
            for confused in (False, True):
                found: dict[str, list[tuple[float, float]]] = {}
                for seed in range(options.seeds):
                    products = Products.read(options.data / name, options.rows, seed, options.peers)
                    labels = products.with_errors(share, confused, seed)
                    logits, rows = products.out_of_fold(labels)
                    probabilities = calibrate(logits, fit_calibration(logits, labels[rows]))
                    wrong = labels[rows] != products.labels[rows]
                    for ranking, scores in rankings(logits, probabilities, labels[rows], options.cleanlab):
                        found.setdefault(ranking, []).append(measure(scores, wrong))
                kind = f"{share:.0%}, {'to the most confused' if confused else 'to any'}"
                for ranking, figures in found.items():
                    table.add_row(name, kind, ranking, *(f"{value:.3f}" for value in np.mean(figures, axis=0)))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
