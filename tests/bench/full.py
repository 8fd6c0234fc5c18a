"""LoRA against full fine-tuning on the same split, same loop, same passes: accuracy with its interval, seconds, memory, bytes.

    python tests/bench/full.py ../shared/data/amazon_toys/train.parquet --text title,brand [--rows 2000] [--seed 0]

Both start from the same probe and take the passes that the validation rows like best; full fine-tuning trains every parameter of the base,
at ``--full-lr``. Each runs in a process of its own, so that its peak memory is its own. Scores are those of the test rows of the split.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file

from catcli.models.backbones import BACKBONES
from catcli.models.checkpoint import Checkpoint
from catcli.models.classifier import Classifier, parameters
from catcli.models.lora import add_adapters
from catcli.models.probe import fit_probe
from catcli.models.reading import plain_logits, read
from catcli.models.training import Task, Tell, Trainer, default_epochs, fitting_tokenizer
from catcli.products.categories import Categories
from catcli.products.examples import Examples, draw
from catcli.products.split import split, text_key
from catcli.products.text import compose
from catcli.recipe import Recipe


def run(options: argparse.Namespace) -> dict[str, float]:
    """Train one of the two and score it."""
    frame = pl.read_parquet(options.train).drop_nulls(options.label)
    categories = Categories.of(frame[options.label].to_list())
    classes = categories.numbers(frame[options.label].to_list())
    rows = draw(classes, np.arange(len(frame)), options.rows, options.seed)
    texts, classes = compose(frame[rows], options.text.split(",")), classes[rows]
    parts = split([text_key(text) for text in texts], classes, (80, 10, 10), 0)
    base, cpu, full = BACKBONES["minilm"], torch.device("cpu"), options.only == "full"
    tokenizer = fitting_tokenizer(base, texts)
    recipe = Recipe(epochs=default_epochs(len(parts.train)), lr=options.full_lr if full else Recipe().lr, seed=options.seed, device="cpu")
    start = time.perf_counter()
    reading = read(base, tokenizer, texts, cpu, bf16=False, advance=lambda *_: None)
    task = Task(reading, Examples.of(texts, classes), parts.train, parts.validation, len(categories))
    torch.manual_seed(recipe.seed)
    classifier = Classifier(base.load("sdpa"), len(categories))
    if full:  # every block learns: nothing can begin above them
        task = replace(task, reading=replace(reading, trunk=None))
    else:
        add_adapters(classifier, base, recipe)
    classifier.start_head(*fit_probe(reading.vectors[parts.train], task.examples.take(parts.train), len(categories)))
    with tempfile.TemporaryDirectory() as folder:
        epochs, passes, _ = Trainer(classifier, base, recipe, task, cpu, Tell()).train(Checkpoint(Path(folder) / "state", "bench"), None)
        seconds = time.perf_counter() - start
        learned = {name: value.detach() for name, value in classifier.named_parameters() if value.requires_grad}
        save_file(learned, Path(folder) / "learned.safetensors")
        size = (Path(folder) / "learned.safetensors").stat().st_size
    ids = [reading.ids[row] for row in parts.test]
    right = plain_logits(classifier, tokenizer, ids).argmax(1) == classes[parts.test]
    drawn = np.random.default_rng(0).choice(right, (2000, len(right))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"accuracy": right.mean(), "low": low, "high": high, "test_rows": len(right), "seconds": seconds, "passes": passes}
    found |= {"epochs": len(epochs), "peak_bytes": peak, "bytes": size, "trained": parameters(classifier)[0]}
    return {name: float(value) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("--text", required=True)
    parser.add_argument("--label", default="category")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full-lr", type=float, default=1e-4)
    parser.add_argument("--only", choices=["lora", "full"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(run(options)))
        return
    for method in ("lora", "full"):
        told = subprocess.run([sys.executable, *sys.argv, "--only", method], check=True, capture_output=True, text=True)
        found = json.loads(told.stdout.splitlines()[-1])
        print(
            f"{method:<5} accuracy {found['accuracy']:.4f} ({found['low']:.4f} to {found['high']:.4f}; {found['test_rows']:.0f} rows), "
            f"{found['seconds']:.0f} s for {found['epochs']:.0f} passes, peak {found['peak_bytes'] / 2**20:,.0f} MiB, "
            f"{found['bytes'] / 2**20:.1f} MiB, {found['trained']:,.0f} parameters",
            flush=True,
        )


if __name__ == "__main__":
    main()
