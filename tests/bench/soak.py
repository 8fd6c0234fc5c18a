"""predict over many files, one after the other in one process: does memory or the number of open files grow?

``python tests/bench/soak.py [MINUTES]``, 15 minutes unless told; prints what the first and the last minute had.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import psutil
from rich.console import Console
from rich.table import Table

from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions

FIXTURE = Path(__file__).parents[1] / "fixtures" / "adapter-format-4"
ROWS = 20_000
Write = Callable[[pl.DataFrame, Path], object]
FORMATS: dict[str, Write] = {
    "catalog.csv": pl.DataFrame.write_csv,
    "catalog.csv.gz": lambda frame, file: frame.write_csv(file, compression="gzip"),
    "catalog.parquet": pl.DataFrame.write_parquet,
    "catalog.jsonl": pl.DataFrame.write_ndjson,
    "catalog.arrow": pl.DataFrame.write_ipc,
}
"""What the catalogs are written as, in turn."""


def titles(chosen: random.Random) -> pl.DataFrame:
    """Rows that no catalog before had."""
    return pl.DataFrame({"title": [" ".join(f"word{chosen.randrange(5000)}" for _ in range(chosen.randint(1, 12))) for _ in range(ROWS)]})


def main(minutes: float) -> None:
    """Label catalogs until the time is over."""
    chosen, process = random.Random(0), psutil.Process()
    seen: list[tuple[float, int, int, int]] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        while (now := time.monotonic() - began) < 60 * minutes:
            name = list(FORMATS)[len(seen) % len(FORMATS)]
            FORMATS[name](titles(chosen), folder / name)
            output = str(folder / ("labeled.csv" if len(seen) % 2 else "labeled.parquet"))
            predict([str(folder / name)], PredictOptions(output, str(FIXTURE), device="cpu"))
            seen.append((now, process.memory_info().rss, process.num_fds(), process.num_threads()))
    table = Table("", "files", "MiB of memory, median", "open files, most", "threads, most", title=f"{len(seen):,} files of {ROWS:,} rows")
    for label, part in (
        ("first minute", [one for one in seen if one[0] < 60]),
        ("last minute", [one for one in seen if one[0] >= 60 * (minutes - 1)]),
    ):
        _, memory, files, threads = zip(*part, strict=True)
        table.add_row(label, str(len(part)), f"{statistics.median(memory) / 2**20:,.0f}", str(max(files)), str(max(threads)))
    Console().print(table)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 15)
