"""A person decides once, from end to end on real rows; the person is played by the true labels, and each command is killed once midway.

    python tests/bench/loop.py ../shared/data [--set flipkart] [--rows 500] [--budget 100] [--seed 0] [--work FOLDER]

fit on a draw of ``train.parquet`` → predict its other rows with ``--review … .xlsx --review-budget N`` → the column `category` is filled in
by another library → predict ``--apply`` → fit ``--corrections`` → diff → report of both adapters on ``test.parquet``. Prints what each step
came to.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
from accuracy import load_peers

PRECISION = "0.95"


def catcli(*words: object, folder: Path, killed_at: str = "") -> str:
    """Run a command, and its standard output; with ``killed_at`` kill it first as soon as such a file is there, and begin it again."""
    line = [sys.executable, "-m", "catcli", *map(str, words)]
    if killed_at:
        running = subprocess.Popen(line, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while running.poll() is None and not any(folder.rglob(killed_at)):
            time.sleep(0.01)
        state = "killed midway" if running.poll() is None else "was done before it could be killed"
        running.kill()
        running.wait()
        print(f"  {words[0]}: {state}, and run again", flush=True)
    return subprocess.run(line, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def fill_in(review: Path, filled: Path, truth: dict[str, str]) -> tuple[int, int]:
    """Write the true category of most of its rows beside the first row of each group; how many groups and rows there are."""
    frame = pl.read_excel(review, sheet_name="review", infer_schema_length=None)
    true = pl.col("row_number").cast(pl.String).replace_strict(truth).mode().sort().first().over("group")
    decided = frame.with_columns(category=pl.when(pl.col("group").is_first_distinct()).then(true))
    decided.write_excel(filled)
    return decided["group"].n_unique(), len(decided)


def scores(adapter: str, test: Path, folder: Path) -> str:
    report = json.loads(catcli("report", adapter, "--on", test, "--label", "category", "--device", "cpu", "--json", folder=folder))
    accepted = next((held["accepted_in_test"] for held in report["promises"] if held["precision"] == float(PRECISION)), None)
    share = "no threshold" if accepted is None else f"{accepted:.3f} accepted"
    return (
        f"accuracy {report['blend']['accuracy']['value']:.3f}, macro F1 {report['blend']['macro_f1']['value']:.3f}, {share} at {PRECISION}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", default="flipkart")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    options = parser.parse_args()
    folder, test = options.work or Path(tempfile.mkdtemp()), (options.data / options.set / "test.parquet").resolve()
    frame = pl.read_parquet(options.data / options.set / "train.parquet").with_row_index("row_number")
    drawn = load_peers(options.peers).draw(frame["category"].to_numpy(), options.rows, options.seed)
    frame[drawn].drop("row_number").write_parquet(folder / "products.parquet")
    rest = frame.filter(~pl.col("row_number").is_in(drawn.tolist()))
    rest.drop("category").write_parquet(folder / "catalog.parquet")
    truth = {str(number): category for number, category in rest.select("row_number", "category").iter_rows()}
    (folder / "all.txt").write_text("\n".join(sorted(set(frame["category"]))) + "\n")  # a person may name one that no labeled row has
    label = ("--label", "category", "--taxonomy", "all.txt", "--device", "cpu", "-q")
    catcli("fit", "products.parquet", "-o", "first", *label, folder=folder, killed_at="fold-0-logits.safetensors")
    print("first adapter:", scores("first", test, folder))
    line = ("predict", "catalog.parquet", "--adapter", "first", "--device", "cpu", "-q", "--min-confidence", "0.95")
    catcli(
        *line,
        "-o",
        "labeled.parquet",
        "--review",
        "doubt.xlsx",
        "--review-budget",
        options.budget,
        folder=folder,
        killed_at="journal.jsonl",
    )
    decisions, rows = fill_in(folder / "doubt.xlsx", folder / "done.xlsx", truth)
    print(f"{decisions} groups of {rows} rows decided")
    catcli(*line, "-o", "applied.parquet", "--apply", "done.xlsx", folder=folder, killed_at="journal.jsonl")
    before, after = (pl.read_parquet(folder / f"{name}.parquet") for name in ("labeled", "applied"))
    changed = int((before["predicted_category"].fill_null("") != after["predicted_category"].fill_null("")).sum())
    print(f"{changed} rows of the output changed")
    catcli(
        "fit",
        "products.parquet",
        "-o",
        "second",
        "--corrections",
        "done.xlsx",
        *label,
        folder=folder,
        killed_at="fold-0-logits.safetensors",
    )
    print("second adapter:", scores("second", test, folder))
    compared = json.loads(catcli("diff", "first", "second", "catalog.parquet", "--device", "cpu", "--json", folder=folder))
    print(f"{compared['changed']:,} of {compared['rows']:,} rows of the catalog would change category")


if __name__ == "__main__":
    main()
