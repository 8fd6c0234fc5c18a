"""Suggestions of ``catcli migrate`` beside published mappings, and on renamed shelves with their rows.

    python tests/bench/migrate.py ../shared/taxonomy --data ../shared/data [--half 0|1]

The mappings are divided in halves by a hash of the old path: what the measures count was chosen on half 0. ``Google to Shopify`` is the
published mapping read backwards, where any of the categories that go to a Google one is right. The last lines are amazon_toys, 2,000 rows:
half of the categories are renamed by rules (words turned around, a level left out, moved below another first level) or merged into the node
above, and the share of rows that get what the script did is counted, with and without the rows' texts; and with codes as old names.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from catcli.data.dataset.taxonomy_file import Taxonomy
from catcli.inference.migration import MAX_TEXTS, suggest

TASKS = (
    ("Shopify 2022 to 2025", "shopify-2022-02_to_shopify-2025-08.csv", "shopify-2025-08.txt", False),
    ("Shopify to Google", "shopify-2025-08_to_google-2021-09-21.csv", "google-2021-09-21.txt", False),
    ("Google to Shopify", "shopify-2025-08_to_google-2021-09-21.csv", "shopify-2025-08.txt", True),
)


def half(path: str) -> int:
    """Which half a path belongs to."""
    return hashlib.sha256(path.encode()).digest()[0] % 2


def mapping(file: Path, backwards: bool) -> dict[str, set[str]]:
    """The new paths of each old one."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    with file.open(newline="") as rows:
        for row in csv.DictReader(rows):
            old, new = (row["new"], row["old"]) if backwards else (row["old"], row["new"])
            found[old].add(new)
    return found


def measure(olds: Sequence[str], truth: dict[str, set[str]], taxonomy: Taxonomy, texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Whether the first suggestion is right, whether one of three is, and the confidence *(olds, 3)*."""
    results = []
    for old, (news, confidence) in zip(olds, suggest(olds, texts, " > ", taxonomy), strict=True):
        results.append((news[0] in truth[old], bool(set(news) & truth[old]), confidence))
    return np.array(results, float).reshape(-1, 3)


def renamed(path: str, number: int) -> str:
    """A category's new path, by one of four rules."""
    parts = path.split(" > ")
    if number == 0:
        return " > ".join((*parts[:-1], " ".join(reversed(parts[-1].replace("&", "and").split()))))
    if number == 1 and len(parts) > 2:
        return " > ".join((parts[0], *parts[2:]))
    if number == 2:
        return " > ".join(("Play", *parts[1:])) if len(parts) > 1 else f"Play > {path}"
    return " > ".join(parts[:-1]) or path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("taxonomies", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--half", type=int, default=1)
    options = parser.parse_args()
    table = Table(
        "mapping", "old paths", "other names", "first right", "among three", "of other names: first", "three", "confidence, right"
    )
    for title, file, new, backwards in TASKS:
        taxonomy = Taxonomy.read(str(options.taxonomies / new))
        known, truth = set(taxonomy.paths), mapping(options.taxonomies / file, backwards)
        olds = [old for old in truth if truth[old] & known and half(old) == options.half]
        scores = measure(olds, truth, taxonomy, [()] * len(olds))
        other = np.array([old not in truth[old] for old in olds])
        bands = [(scores[:, 2] >= low) & (scores[:, 2] < high) & other for low, high in ((0, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1.01))]
        calibration = " ".join(f"{scores[band, 2].mean():.2f}:{scores[band, 0].mean():.2f}({band.sum()})" for band in bands if band.any())
        shares = [f"{value:.3f}" for value in (*scores[:, :2].mean(0), *scores[other, :2].mean(0))]
        table.add_row(title, f"{len(olds):,}", f"{other.sum():,}", *shares, calibration)
    Console(width=160).print(table)
    if options.data:
        frame = pl.read_parquet(options.data / "amazon_toys" / "train.parquet").sample(2_000, seed=0)
        names = sorted(set(frame["category"].to_list()))
        random = np.random.default_rng(0)
        changed = set(random.choice(names, len(names) // 2, replace=False).tolist())
        truth = {name: {renamed(name, int(random.integers(4))) if name in changed else name} for name in names}
        taxonomy = Taxonomy("new", tuple(sorted(set().union(*truth.values()))), " > ")
        titles = {name: frame.filter(pl.col("category") == name)["title"].fill_null("").to_list() for name in names}
        rows = np.array([len(titles[name]) for name in names])
        for way, texts in (("names alone", [()] * len(names)), ("names and rows", [titles[name][:MAX_TEXTS] for name in names])):
            right = measure(names, truth, taxonomy, texts)
            of_changed = np.array([truth[name] != {name} for name in names])
            share = (right[:, :2] * rows[:, None])[of_changed].sum(0) / rows[of_changed].sum()
            whole = (right[:, :2] * rows[:, None]).sum(0) / rows.sum()
            codes = [f"shelf {number}" for number, _ in enumerate(names)]
            coded = measure(codes, dict(zip(codes, ({name} for name in names), strict=True)), Taxonomy("same", tuple(names), " > "), texts)
            of_codes = (coded[:, :2] * rows[:, None]).sum(0) / rows.sum()
            print(f"amazon_toys, {way}, old names that are codes: rows right {of_codes[0]:.3f} (three: {of_codes[1]:.3f})")
            print(f"amazon_toys, {way}: rows right {whole[0]:.3f} (three: {whole[1]:.3f}), of renamed ones {share[0]:.3f} ({share[1]:.3f})")


if __name__ == "__main__":
    main()
