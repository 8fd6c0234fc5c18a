"""Rows a second: catcli's n-gram features against scikit-learn's, on the same texts, one after the other.

    python tests/bench/ngrams.py ../shared/data/flipkart/train.parquet --text title,description,brand [--rows 8000] [--repeats 5]

Both learn the vocabulary of all rows, then transform them; one run of each to warm up, then alternating runs. Prints the median and the
range of rows a second for each, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import polars as pl
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_union

from catcli.data.dataset.text import row_texts
from catcli.inference.ngrams import Ngrams


def rates(runs: dict[str, Callable[[], object]], rows: int, repeats: int) -> dict[str, list[float]]:
    """Rows a second of every run, ``repeats`` times, in turn, after one round that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                found[name].append(rows / (time.perf_counter() - start))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows_file")
    parser.add_argument("--text", required=True)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    texts = row_texts(pl.read_parquet(options.rows_file).head(options.rows), options.text.split(","))
    ours = Ngrams.fit(texts)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    theirs = make_union(words, characters).fit(texts)
    batches = [texts[start : start + 1024] for start in range(0, len(texts), 1024)]
    runs: dict[str, Callable[[], object]] = {
        "catcli": lambda: [ours.transform(batch) for batch in batches],
        "scikit-learn": lambda: [theirs.transform(batch) for batch in batches],
    }
    found = rates(runs, len(texts), options.repeats)
    for name, values in found.items():
        print(f"{name:<14} {statistics.median(values):8,.0f} rows/s  ({min(values):,.0f} to {max(values):,.0f})")
    print(f"ratio          {statistics.median(found['catcli']) / statistics.median(found['scikit-learn']):8.1f}")


if __name__ == "__main__":
    main()
