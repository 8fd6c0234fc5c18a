"""Categories without rows (`fit --taxonomy`): what becomes of their rows, and what they cost the others.

    python tests/bench/without_rows.py ../shared/data [--set amazon_toys] [--rows 2000] [--seeds 3] [--hidden 20]

For each seed a draw of ``train.parquet`` from which all rows of some categories are taken away; a fit without a taxonomy and one with the
names of all categories of the draw; then both label the rows of ``test.parquet`` that are of these categories, by both models
(``--exact``).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from accuracy import load_peers
from rich.console import Console
from rich.table import Table

from catcli.config import Recipe
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.reporting.model_card import model_card
from catcli.training.fit import fit

MIN_TEST_ROWS = 3
"""Rows in the test file that a category has at least, to be hidden."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", default="amazon_toys")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=20)
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    options = parser.parse_args()
    whole, test = (pl.read_parquet(options.data / options.set / f"{part}.parquet") for part in ("train", "test"))
    counts = dict(test["category"].value_counts().iter_rows())
    table = Table("seed", "hidden rows", "taxonomy", "rank 1", "rank 3", "others right", "others given a hidden one")
    for seed in range(options.seeds):
        draw = whole[load_peers(options.peers).draw(whole["category"].to_numpy(), options.rows, seed)]
        names = sorted(set(draw["category"].to_list()))
        candidates = [name for name in names if counts.get(name, 0) >= MIN_TEST_ROWS]
        hidden = np.random.default_rng(seed).choice(candidates, options.hidden, replace=False).tolist()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            draw.filter(~pl.col("category").is_in(hidden)).write_parquet(folder / "products.parquet")
            (folder / "names.txt").write_text("\n".join(names))
            asked = test.filter(pl.col("category").is_in(names))
            asked.drop("category").write_parquet(folder / "catalog.parquet")
            truth = asked["category"].to_list()
            is_hidden = np.isin(truth, hidden)
            for taxonomy in (None, str(folder / "names.txt")):
                adapter, out = folder / f"adapter-{taxonomy is None}", folder / "out.parquet"
                recipe = Recipe(label="category", device="cpu", taxonomy=taxonomy)
                fit([str(folder / "products.parquet")], recipe=recipe, model_card=model_card, output=adapter)
                predict([str(folder / "catalog.parquet")], PredictOptions(str(out), str(adapter), device="cpu", top_k=3, exact=True))
                tops = [[entry["category"] for entry in row] for row in pl.read_parquet(out)["alternatives"].to_list()]
                first = np.array([row[0] for row in tops])
                right, among = first == truth, np.array([name in row for name, row in zip(truth, tops, strict=True)])
                given = np.isin(first, hidden)[~is_hidden].mean()
                shares = (right[is_hidden].mean(), among[is_hidden].mean(), right[~is_hidden].mean(), given)
                how = "no" if taxonomy is None else "yes"
                table.add_row(f"{seed}", f"{is_hidden.sum()}", how, *(f"{share:.4f}" for share in shares))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
