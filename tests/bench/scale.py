"""How far predict scales: reading and writing alone, the driver's cost by engine, kills and changed files, and a simulated cluster.

    python tests/bench/scale.py read ADAPTER CATALOG...             a labeler that answers at once: rows/s, CPU, memory, by shape of catalog
    python tests/bench/scale.py driver ADAPTER CATALOG              CPU seconds of the driver per million rows, by engine
    python tests/bench/scale.py kills ADAPTER CATALOG [--kills 10]  killed and resumed by any engine; a row mended, a file added between
    python tests/bench/scale.py bucket ADAPTER CATALOG...           requests and bytes of objects on an S3 server of this machine
    python tests/bench/scale.py simulate --rows 1e9 --speed 18000   hours and driver load on 1 to 1,000 workers, from measured costs

CATALOG is a Parquet file with the columns that the adapter reads. ``simulate`` takes the costs that the other parts print.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import psutil
from rich.console import Console
from rich.table import Table

from catcli.adapter.store import find_adapter
from catcli.data.io.source import SPAN_ROWS
from catcli.evaluation.label_choice import LabelChoice
from catcli.inference.engines import ThreadEngine
from catcli.inference.labeler import Labels
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.paths import hidden_path

Shape = Callable[[pl.DataFrame, Path], Path]


def one_group(frame: pl.DataFrame, folder: Path) -> Path:
    """Parquet with all rows in one row group."""
    frame.write_parquet(folder / "one.parquet", row_group_size=len(frame))
    return folder / "one.parquet"


def many_groups(frame: pl.DataFrame, folder: Path) -> Path:
    """Parquet with row groups of 100,000 rows."""
    frame.write_parquet(folder / "groups.parquet", row_group_size=100_000)
    return folder / "groups.parquet"


def small_files(frame: pl.DataFrame, folder: Path) -> Path:
    """Files of 100 rows, at most 10,000 of them."""
    (folder / "many").mkdir()
    for number in range(min(10_000, len(frame) // 100)):
        frame[100 * number : 100 * (number + 1)].write_parquet(folder / "many" / f"{number:06}.parquet")
    return folder / "many"


def csv(frame: pl.DataFrame, folder: Path) -> Path:
    """CSV."""
    frame.write_csv(folder / "catalog.csv")
    return folder / "catalog.csv"


def json_lines(frame: pl.DataFrame, folder: Path) -> Path:
    """JSON Lines."""
    frame.write_ndjson(folder / "catalog.jsonl")
    return folder / "catalog.jsonl"


def arrow(frame: pl.DataFrame, folder: Path) -> Path:
    """Arrow IPC."""
    frame.write_ipc(folder / "catalog.arrow")
    return folder / "catalog.arrow"


SHAPES: dict[str, tuple[Shape, str]] = {
    "Parquet, one row group": (one_group, "parquet"),
    "Parquet, row groups of 100,000": (many_groups, "parquet"),
    "files of 100 rows": (small_files, "parquet"),
    "CSV": (csv, "csv"),
    "JSON Lines": (json_lines, "jsonl"),
    "Arrow": (arrow, "arrow"),
}


def read_and_write(adapter: str, catalog: str, output: str) -> None:
    """In a process of its own: label by what answers at once, and print what that took."""
    categories = find_adapter(adapter).manifest.categories

    def label(texts: Sequence[str], _: LabelChoice) -> Labels:
        return Labels(np.zeros((len(texts), 1), np.int64), np.ones((len(texts), 1), np.float32))

    labeler = SimpleNamespace(
        categories=categories, notes=[], variant="fp32", provider="none", texts_per_call=1024, cascade=None, workers=2, label=label
    )
    options = PredictOptions(output, adapter, dedupe=False, allow_missing=True)
    started, cpu = time.perf_counter(), time.process_time()
    rows = predict([catalog], options, engine=ThreadEngine(labeler)).rows  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "cpu": time.process_time() - cpu, "memory": memory}))


def read(adapter: str, catalogs: Sequence[str]) -> None:
    """Reading and writing alone, by the shape of the catalog."""
    table = Table("shape", "output", "rows", "rows/s", "CPU s per million rows", "peak MiB")
    for catalog in catalogs:
        frame = pl.read_parquet(catalog)
        for name, (shape, ending) in SHAPES.items():
            with tempfile.TemporaryDirectory() as scratch:
                source = shape(frame, Path(scratch))
                line = [sys.executable, __file__, "stub", adapter, str(source), str(Path(scratch) / f"out.{ending}")]
                runs = [json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout) for _ in range(3)]
            best = min(runs, key=lambda run: float(run["seconds"]))
            rows = best["rows"]
            figures = (f"{rows:,}", f"{rows / best['seconds']:,.0f}", f"{best['cpu'] / rows * 1e6:.2f}", f"{best['memory'] / 2**20:,.0f}")
            table.add_row(name, ending, *figures)
    Console().print(table)


ENGINES = {
    "threads": (),
    "2 processes": ("--engine", "processes", "--workers", "2"),
    "2 Ray workers": ("--engine", "ray", "--workers", "2"),
}


def command(adapter: str, catalog: Path | str, output: Path, engine: str, *more: str) -> list[str]:
    """The line of a run."""
    wanted = ["-m", "catcli", "predict", str(catalog), "-o", str(output), "--adapter", adapter, "--device", "cpu", "--allow-missing"]
    return [sys.executable, *wanted, *ENGINES[engine], *more]


def driver(adapter: str, catalog: str) -> None:
    """CPU seconds of the process that the user starts, by engine: from when its workers are there to its last part, and after that.

    What comes after it, putting the parts together and ending the workers, is little of a long run.
    """
    rows = pl.scan_parquet(catalog).select(pl.len()).collect().item()
    table = Table("engine", "rows/s", "CPU s of the driver per million rows", "CPU s after the last part", "in all")
    for engine in ENGINES:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "out.parquet"
            journal = hidden_path(out, "catcli-parts") / "journal.jsonl"
            run = psutil.Popen([*command(adapter, catalog, out, engine, "--json")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            before = last = after = 0.0
            size = 0
            while run.poll() is None:
                if run.status() != psutil.STATUS_ZOMBIE:
                    times = run.cpu_times()
                    after = times.user + times.system
                    before = before if size else after
                    with suppress(FileNotFoundError):
                        last = last if journal.stat().st_size == size else after
                        size = journal.stat().st_size
                time.sleep(0.02)
            told = json.loads(run.stdout.read())
        table.add_row(
            engine, f"{told['rows_per_second']:,.0f}", f"{(last - before) / rows * 1e6:.2f}", f"{after - last:.2f}", f"{after:.1f} s"
        )
    Console().print(table)


def kills(adapter: str, catalog: str, count: int, seed: int) -> None:
    """Runs that are killed and go on, by other engines, while files change: is the output that of one run over the files as they are?"""
    chosen, frame = random.Random(seed), pl.read_parquet(catalog)
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "in", Path(scratch) / "out.csv"
        folder.mkdir()
        cut = len(frame) // 6
        for number in range(6):
            frame[number * cut : (number + 1) * cut].write_parquet(folder / f"{number}.parquet")
        journal = hidden_path(out, "catcli-parts") / "journal.jsonl"

        def kept() -> int:
            if not journal.exists():
                return 0
            return sum(json.loads(line)["counts"]["rows"] for line in journal.read_text().splitlines()[1:] if line.endswith("}"))

        done, lost = 0, 0
        for number in range(count):
            engine = chosen.choice(list(ENGINES))
            run = psutil.Popen(command(adapter, folder, out, engine), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            before = done
            while run.poll() is None and kept() <= before:
                time.sleep(0.05)
            time.sleep(chosen.random())
            stop = chosen.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            run.send_signal(stop)
            said = run.communicate()[1]
            done = kept()
            lost += done < before
            print(f"{engine}: {stop.name} after {done - before:,} rows more, {done:,} in all", flush=True)
            if run.returncode == 0:
                print("it was done before the kill", said)
                break
            if number == count // 3:
                mended = pl.read_parquet(folder / "1.parquet").with_columns(title=pl.col("title") + " mended")
                mended.write_parquet(folder / "1.parquet")
                done = min(done, kept() - cut)
                print("the rows of 1.parquet were mended")
            if number == 2 * count // 3:
                frame[: cut // 2].write_parquet(folder / "00.parquet")
                print("00.parquet was added")
        engine = chosen.choice(list(ENGINES))
        ended = subprocess.run(command(adapter, folder, out, engine, "--json"), capture_output=True, text=True, check=True)
        subprocess.run(command(adapter, folder, out.with_name("whole.csv"), "threads"), capture_output=True, check=True)
        told = json.loads(ended.stdout)
        alike = out.read_bytes() == out.with_name("whole.csv").read_bytes()
        print(
            f"{engine}: {told['rows']:,} rows, {told['resumed']:,} of them kept; lost from a journal {lost} times; the same bytes: {alike}"
        )


def bucket(adapter: str, catalogs: Sequence[str]) -> None:
    """Requests and bytes read of each object, by its format."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from s3 import server

    table = Table("format", "MiB", "GET and HEAD requests", "bytes read for a byte of the object")
    with server() as running, tempfile.TemporaryDirectory() as scratch:
        for catalog in catalogs:
            frame = pl.read_parquet(catalog)
            for name, (shape, ending) in SHAPES.items():
                if name == "files of 100 rows":
                    continue
                source = shape(frame, Path(scratch))
                running.put(source.name, source.read_bytes())
                running.faults.requests.clear()
                before = running.faults.sent
                line = [sys.executable, __file__, "stub", adapter, f"s3://shop/{source.name}", str(Path(scratch) / f"out.{ending}")]
                subprocess.run(line, capture_output=True, check=True, env={**os.environ, **running.environment})
                size, sent = source.stat().st_size, running.faults.sent - before
                table.add_row(name, f"{size / 2**20:,.1f}", f"{len(running.faults.requests)}", f"{sent / size:.2f}")
    Console().print(table)


def simulate(rows: float, speed: float, driver_cost: float, span_cost: float, start: float) -> None:
    """List scheduling of spans over workers: the driver hands out one after the other, a worker labels one at a time."""
    table = Table("workers", "hours", "rows/s", "driver at work", "worker at work", title=f"{rows:,.0f} rows, {speed:,.0f} rows/s a worker")
    for workers in (1, 2, 4, 10, 100, 1_000):
        spans = int(np.ceil(rows / SPAN_ROWS))
        chosen = np.random.default_rng(0)
        # A span takes longer or shorter by what its rows are: 15 % at one standard deviation was seen.
        labeling = SPAN_ROWS / speed * np.maximum(0.2, chosen.normal(1.0, 0.15, spans))
        free = [start] * workers
        handed, busy, end = start, 0.0, 0.0
        for seconds in labeling.tolist():
            begins = max(heapq.heappop(free), handed)
            handed = max(handed, begins - seconds) + span_cost + driver_cost * SPAN_ROWS
            busy += seconds
            end = max(end, begins + seconds)
            heapq.heappush(free, begins + seconds)
        load = (span_cost + driver_cost * SPAN_ROWS) * spans / end
        table.add_row(f"{workers:,}", f"{end / 3600:.2f}", f"{rows / end:,.0f}", f"{load:.1%}", f"{busy / workers / end:.1%}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["read", "stub", "driver", "kills", "bucket", "simulate"])
    parser.add_argument("adapter", nargs="?", default="")
    parser.add_argument("catalogs", nargs="*")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=float, default=1e9)
    parser.add_argument("--speed", type=float, default=18_000.0, help="rows/s of a worker")
    parser.add_argument("--driver-cost", type=float, default=1e-7, help="CPU seconds of the driver for a row")
    parser.add_argument("--span-cost", type=float, default=2e-3, help="CPU seconds of the driver for a span")
    parser.add_argument("--start", type=float, default=15.0, help="seconds until a worker is ready")
    options = parser.parse_args()
    if options.part == "read":
        read(options.adapter, options.catalogs)
    elif options.part == "stub":
        read_and_write(options.adapter, *options.catalogs)
    elif options.part == "driver":
        driver(options.adapter, options.catalogs[0])
    elif options.part == "bucket":
        bucket(options.adapter, options.catalogs)
    elif options.part == "kills":
        kills(options.adapter, options.catalogs[0], options.kills, options.seed)
    else:
        simulate(options.rows, options.speed, options.driver_cost, options.span_cost, options.start)


if __name__ == "__main__":
    main()
