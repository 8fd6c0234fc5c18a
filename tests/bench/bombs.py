"""The memory that each small file of tests/test_bombs.py takes: ``python tests/bench/bombs.py`` prints a table.

Bytes of the file, the most memory that the command or its child held at once, its exit code, and the end of what it said.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_bombs import ADAPTERS, CATALOGS, cells, corners, fixed, keys, labeling, many_nulls, measured, prefixes
from test_tampering import copied

TABLES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a workbook's two corners": ("catalog.xlsx", corners),
    "another key in each line": ("catalog.jsonl", keys),
    "rows that lack 5,000 cells": ("catalog.csv", lambda path: cells(path, 5000, 10_000)),
    "3,000 columns of nulls": ("catalog.parquet", many_nulls),
    "cells by their prefixes": ("catalog.parquet", prefixes),
    "bytes of a fixed width": ("catalog.parquet", fixed),
}


def row(name: str, size: int, line: Sequence[object], folder: Path) -> None:
    """Run one and print its row."""
    code, said, peak = measured(*line, cwd=folder)
    sentence = said.strip().splitlines()[-1].replace(str(folder), "…") if code else "done"
    print(f"| {name} | {size:,} | {peak / 2**20:,.0f} | {code} | {sentence[:110]} |", flush=True)


def main() -> None:
    """All of them."""
    print("| what | bytes | MiB at most | exit code | end of what it said |\n|---|--:|--:|--:|---|")
    for name, (file, make, _) in CATALOGS.items():
        with tempfile.TemporaryDirectory() as place:
            make(Path(place) / file)
            row(name, (Path(place) / file).stat().st_size, labeling(file), Path(place))
    for name, (file, make_table) in TABLES.items():
        with tempfile.TemporaryDirectory() as place:
            make_table(Path(place) / file)
            row(name, (Path(place) / file).stat().st_size, [*labeling(file), "--keep", ""], Path(place))
    for name, (attack, _) in ADAPTERS.items():
        with tempfile.TemporaryDirectory() as place:
            folder = copied(Path(place))
            attack(folder)
            (Path(place) / "catalog.csv").write_text("title\nblue coffee mug 500 ml\n")
            line = ["report", folder] if "metrics" in name or "held-out" in name else labeling(adapter=folder)
            size = sum(512 * path.stat().st_blocks for path in folder.iterdir())
            row(name, size, line, Path(place))


if __name__ == "__main__":
    main()
