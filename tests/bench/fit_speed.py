"""Training rows a second of catcli's loop, beside the usual way to fine-tune the same backbone, on the same rows.

    python tests/bench/fit_speed.py ../shared/data/pricerunner/train.parquet --text title [--rows 640] [--repeats 3] [--device cuda]

One epoch over the rows, as `catcli fit` trains by default (dropout, clipping and optimizer included), after one to warm up: the median of
the repeats and their range. "with reading" counts the one pass of the base over every text, which all epochs and the refit share, as if
there were one epoch only. Several batch sizes and data types are measured one after the other. Where ``--peers`` holds fit_speed.py, it is
run afterwards on as many rows of the same draw.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from catcli.config import Recipe
from catcli.data.dataset.categories import Categories
from catcli.data.dataset.examples import Examples
from catcli.data.dataset.text import row_texts
from catcli.models.bases import MINILM
from catcli.models.device import use_bf16
from catcli.training.base_features import compute_base_features
from catcli.training.checkpoint import Checkpoint
from catcli.training.loop import train_classifier
from catcli.training.schedule import choose_tokenizer
from catcli.training.task import TrainingTask


def measured(recipe: Recipe, examples: Examples, classes: int, repeats: int) -> dict[str, list[float]]:
    """Rows a second of so many epochs, after one to warm up."""
    base, device = MINILM, torch.device(recipe.device)
    bf16, tokenizer, nothing = use_bf16(recipe.dtype, device), choose_tokenizer(base, examples.texts), np.empty(0, np.int64)
    trained, with_reading = [], []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        reading = compute_base_features(base, tokenizer, examples.texts, device, bf16=bf16, advance=lambda *_: None)
        seconds = time.perf_counter() - start
        task = TrainingTask(reading, examples, np.arange(len(examples)), nothing, classes)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Checkpoint(Path(folder) / "checkpoint.safetensors", "bench")
            epochs = train_classifier(task, base, recipe, checkpoint).history.epochs
        if repeat:
            trained.append(len(examples) / epochs[0].seconds)
            with_reading.append(len(examples) / (epochs[0].seconds + seconds))
    return {"catcli": trained, "catcli, with reading": with_reading}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("--text", required=True)
    parser.add_argument("--label", default="category")
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default=["auto"], nargs="+", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--batch-size", type=int, default=[32], nargs="+")
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    options = parser.parse_args()
    frame = pl.read_parquet(options.train).drop_nulls(options.label).sample(options.rows, seed=0)
    texts, labels = row_texts(frame, options.text.split(",")), frame[options.label].to_list()
    categories = Categories.of(labels)
    for dtype, batch_size in itertools.product(options.dtype, options.batch_size):
        recipe = Recipe(epochs=1, device=options.device, dtype=dtype, batch_size=batch_size)
        for name, rates in measured(recipe, Examples.of(texts, categories.numbers(labels)), len(categories), options.repeats).items():
            spread = f"({min(rates):.1f} to {max(rates):.1f})"
            print(f"{f'{name}, {dtype}, batches of {batch_size}':<48} {statistics.median(rates):9.1f} rows/s  {spread}", flush=True)
    peer = options.peers / "fit_speed.py"
    if peer.exists():
        arguments = [
            options.train,
            "--text",
            options.text,
            "--label",
            options.label,
            "--rows",
            str(options.rows),
            "--device",
            options.device,
        ]
        subprocess.run([sys.executable, str(peer), *arguments], check=True)


if __name__ == "__main__":
    main()
