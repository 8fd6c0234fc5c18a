"""What ``catcli predict`` does at size: speed against its own kernels and the transformers pipeline, memory, kills, delta runs.

    python tests/bench/predict.py speed    ADAPTER DATA [--rows 50000] [--repeats 2] [--device cuda]
    python tests/bench/predict.py memory   ADAPTER DATA [--rows 10000000]
    python tests/bench/predict.py kill     ADAPTER DATA [--rows 20000] [--kills 10]
    python tests/bench/predict.py previous ADAPTER DATA [--rows 20000]

DATA is the folder of one dataset of shared/data, or several with commas between; the titles of all are taken, each once. Every part runs
the command itself, as a process of its own, but for ``speed``, which leaves start-up out.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import polars as pl

from catcli.adapter.folder import Adapter, load_adapter
from catcli.cli.run.bench import TRANSFORMERS_ROWS, pipeline_of
from catcli.inference.engines import ThreadEngine
from catcli.inference.labeler import Labeler
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.inference.result_columns import PREDICTED


def distinct(data: str, wanted: list[str]) -> pl.DataFrame:
    """The text columns of all files, every text once, in an order of no meaning."""
    frames = []
    for folder in data.split(","):
        for file in ("train.parquet", "test.parquet"):
            frame = pl.read_parquet(Path(folder) / file)
            there = [name for name in wanted if name in frame.columns]
            frames.append(
                frame.select(pl.col(there).cast(pl.String)) if there else frame.select(pl.col(pl.String).first().alias(wanted[0]))
            )
    return pl.concat(frames, how="diagonal").unique(maintain_order=True).sample(fraction=1, shuffle=True, seed=0)


def speed(adapter: Adapter, texts: pl.DataFrame, rows: int, repeats: int, folder: Path, device: str) -> None:
    texts = texts.head(rows)
    texts.write_parquet(folder / "in.parquet")
    labeler = Labeler(adapter, device)
    strings = texts.select(pl.concat_str(pl.all(), separator=" ", ignore_nulls=True))[:, 0].fill_null("").to_list()
    tokens = labeler.tokenize(sorted(strings, key=len))
    asked = PredictOptions(str(folder / "out.parquet"), str(adapter.folder), dedupe=False, allow_missing=True)
    to_compare, exact = replace(asked, output=str(folder / "exact.parquet"), exact=True), Labeler(adapter, device, max_change=0)
    few = strings[:TRANSFORMERS_ROWS]
    peer = pipeline_of(adapter, labeler, few)
    labeler.lora(tokens[:512]), labeler.linear(strings[:512]), peer()  # warm-up
    size = labeler.texts_per_call
    spans = [strings[start : start + size] for start in range(0, len(strings), size)]

    def linear_on_all_cores() -> None:
        with ThreadPoolExecutor(labeler.workers) as pool:
            list(pool.map(labeler.linear, spans))

    took: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, count, run in (
            ("session alone", len(strings), lambda: labeler.lora(tokens)),
            ("linear alone, one core", len(strings), lambda: [labeler.linear(span) for span in spans]),
            ("linear alone, all cores", len(strings), linear_on_all_cores),
            ("from file to file", len(strings), lambda: predict([str(folder / "in.parquet")], asked, engine=ThreadEngine(labeler))),
            ("the same, --exact", len(strings), lambda: predict([str(folder / "in.parquet")], to_compare, engine=ThreadEngine(exact))),
            ("transformers pipeline", len(few), peer),
        ):
            start = time.perf_counter()
            run()
            took.setdefault(name, []).append((time.perf_counter() - start) / count)
    print(
        f"{len(strings):,} distinct texts, {labeler.variant}, {labeler.workers} workers, {repeats} rounds; rows/s: median (least to most)"
    )
    for name, seconds in took.items():
        speeds = sorted(1 / second for second in seconds)
        print(f"  {name:26} {statistics.median(speeds):8,.0f} ({speeds[0]:,.0f} to {speeds[-1]:,.0f})")
    middle = {name: statistics.median(seconds) for name, seconds in took.items()}
    for linear in ("one core", "all cores"):
        alone = middle["session alone"] + middle[f"linear alone, {linear}"]
        print(f"  of session, then linear on {linear}, --exact: {alone / middle['the same, --exact']:.2f}")
    for way in ("from file to file", "the same, --exact"):
        print(f"  times the transformers pipeline, {way}: {middle['transformers pipeline'] / middle[way]:.1f}")
    labels, exactly = (pl.read_parquet(folder / name)[PREDICTED] for name in ("out.parquet", "exact.parquet"))
    if labeler.cascade is None:
        return
    decided = labeler.decided(strings)
    changed = (labels != exactly).to_numpy()
    print(f"  decided by the linear model alone: {decided.mean():.1%}; labels changed of these {(changed & decided).mean():.3%} of all")
    # Others change, too: int8 scales its numbers by the batch, and here a batch holds other rows.
    print(f"  of those that both models labeled: {(changed & ~decided).mean():.3%} of all")


def measured(*arguments: str) -> tuple[int, float, float, str]:
    """A run of the command: exit code, seconds, peak MiB, what it said."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "catcli", "predict", *arguments], stderr=subprocess.PIPE, text=True)
    said = process.stderr.read() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    return os.waitstatus_to_exitcode(status), time.perf_counter() - start, usage.ru_maxrss / 1024, said


def repeat(texts: pl.DataFrame, count: int, file: Path) -> None:
    """So many rows, all in one row group."""
    numbers = pl.int_range(count, eager=True)
    columns = [texts[name].gather(numbers % len(texts)) for name in texts.columns]
    pl.DataFrame([numbers.cast(pl.String).alias("sku"), *columns]).write_parquet(file, row_group_size=count)


def memory(adapter: Adapter, texts: pl.DataFrame, rows: int, folder: Path) -> None:
    out, file = folder / "out.parquet", folder / "in.parquet"
    for count, extra in ((500_000, ()), (rows, ()), (200_000, ("--no-dedupe",))):
        # In a process of its own: Linux counts a parent's memory as the peak of the child that it starts.
        maker = multiprocessing.get_context("spawn").Process(target=repeat, args=(texts, count, file))
        maker.start()
        maker.join()
        code, seconds, peak, said = measured(str(file), "-o", str(out), "--adapter", str(adapter.folder), "--allow-missing", *extra)
        told = f"exit {code}, {seconds:.0f} s, peak {peak:,.0f} MiB; {said.strip().splitlines()[0]}"
        print(f"{count:,} rows {' '.join(extra)}: {told}", flush=True)


def kill(adapter: Adapter, texts: pl.DataFrame, rows: int, kills: int, folder: Path) -> None:
    source, whole, out = folder / "in.csv", folder / "whole.csv", folder / "out.csv"
    texts.head(rows).with_row_index("sku").write_csv(source)
    options = ["--adapter", str(adapter.folder), "--allow-missing"]
    code, seconds, _, _ = measured(str(source), "-o", str(whole), *options)
    print(f"undisturbed: exit {code}, {seconds:.0f} s", flush=True)
    chance = random.Random(0)
    for _ in range(kills):
        moment = chance.uniform(0, 0.9 * seconds)
        process = subprocess.Popen(
            [sys.executable, "-m", "catcli", "predict", str(source), "-o", str(out), *options], stderr=subprocess.DEVNULL
        )
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        early = out.exists()
        code, took, _, said = measured(str(source), "-o", str(out), "--resume", *options)
        going = next((line for line in said.splitlines() if "going on" in line or "nothing to resume" in line), said)
        told = f"{out.name} {'there' if early else 'absent'}; resumed: {going.strip()}; exit {code}, {took:.0f} s"
        print(f"killed after {moment:.0f} s: {told}, the same bytes: {out.read_bytes() == whole.read_bytes()}", flush=True)
        out.unlink()


def previous(adapter: Adapter, texts: pl.DataFrame, rows: int, folder: Path) -> None:
    first, second = folder / "monday.parquet", folder / "tuesday.parquet"
    kept = rows - rows // 20
    texts.head(rows).write_parquet(first)
    texts.slice(rows // 20, kept).vstack(texts.slice(rows, rows // 20)).write_parquet(second)
    options = ["--adapter", str(adapter.folder), "--allow-missing"]
    labeled = folder / "labeled.parquet"
    for file, extra in ((first, []), (second, ["--previous", str(labeled)]), (second, [])):
        code, seconds, _, said = measured(str(file), "-o", str(labeled), *options, *extra)
        print(f"{file.stem}{' with --previous' if extra else ''}: exit {code}, {seconds:.1f} s; {' '.join(said.split())}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory", "kill", "previous"))
    parser.add_argument("adapter")
    parser.add_argument("data")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="of the part speed")
    asked = parser.parse_args()
    adapter = load_adapter(Path(asked.adapter))
    texts = distinct(asked.data, list(adapter.manifest.text))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if asked.what == "speed":
            speed(adapter, texts, asked.rows or 50_000, asked.repeats, folder, asked.device)
        elif asked.what == "memory":
            memory(adapter, texts, asked.rows or 10_000_000, folder)
        elif asked.what == "kill":
            kill(adapter, texts, asked.rows or 20_000, asked.kills, folder)
        else:
            previous(adapter, texts, asked.rows or 20_000, folder)


if __name__ == "__main__":
    main()
