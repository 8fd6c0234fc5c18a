"""A very small adapter that is really fitted, in seconds: 120 made-up products on a random BERT of two blocks.

``python tests/tiny.py FOLDER`` writes one; tests/fixtures/adapter-format-4 was made so, by the catcli whose format is 4.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import polars as pl
from conftest import fit
from small_bases import save_base

from catcli.config import Recipe
from catcli.training.fit import FitResult

SHELVES = {"Mugs": "coffee mug", "Drills": "cordless drill", "Shampoo": "hair shampoo", "Coffee": "espresso beans"}
COLORS, SIZES = ("blue", "red", "dark green", "steel", "black"), ("500 ml", "18V", "250 g", "XL", "2.0Ah", "small")


def tiny_products() -> pl.DataFrame:
    """Titles and their categories, in a mixed order."""
    rows = [(f"{color} {thing} {size}", shelf) for color, size, (shelf, thing) in itertools.product(COLORS, SIZES, SHELVES.items())]
    return pl.DataFrame(rows, schema=["title", "category"], orient="row").sample(fraction=1, shuffle=True, seed=0)


def tiny_fit(folder: Path) -> FitResult:
    """An adapter ``folder/adapters/tiny``, its products and its base beside it; base and products are named by relative paths."""
    folder.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        tiny_products().write_csv("products.csv")
        save_base("bert", Path("tiny-bert"))
        recipe = Recipe(base="tiny-bert", epochs=1, max_tokens=16, rank=2, device="cpu", refit=False)
        return fit(["products.csv"], recipe=recipe, output=folder.absolute() / "adapters" / "tiny")
    finally:
        os.chdir(before)


if __name__ == "__main__":
    print(tiny_fit(Path(sys.argv[1])).adapter.folder)
