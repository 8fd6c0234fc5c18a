"""Accuracy of `catcli fit` with no tuning flag, on the rows and test files on which shared/peers/accuracy.py measures its peers.

    python tests/bench/accuracy.py ../shared/data/amazon_toys --rows 2000 [--seeds 1] [--peers ../shared/peers]

Learns from the same draw of ``train.parquet`` (the peers' own function makes it; without ``--rows`` from all) and labels all rows of
``test.parquet``. Prints one JSON line a seed: accuracy and macro F1 over the categories of the test file, of the blend, LoRA alone and the
linear model alone, with the seconds and the peak memory of the fit.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import psutil
from sklearn.metrics import f1_score

from catcli import adapter as adapters
from catcli.products.text import compose
from catcli.runtime.blend import mix
from catcli.runtime.labeler import Labeler


def load_peers(folder: Path) -> ModuleType:
    """The peers' script as a module: its draw decides which rows a cell of the table has."""
    spec = importlib.util.spec_from_file_location("peers", folder / "accuracy.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(folder / "accuracy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fit(products: Path, output: Path, seed: int) -> tuple[float, int]:
    """Seconds and peak bytes of a fit in a process of its own."""
    command = [sys.executable, "-m", "catcli", "fit", str(products), "-o", str(output), "--seed", str(seed), "-q"]
    start, peak = time.perf_counter(), 0
    running = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while running.poll() is None:
        try:
            peak = max(peak, running.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.2)
    if running.wait():
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    options = parser.parse_args()
    train, test = (pl.read_parquet(options.data / f"{part}.parquet") for part in ("train", "test"))
    truth = test["category"].to_numpy()
    if options.rows and options.rows < len(train):
        train = train[load_peers(options.peers).draw(train["category"].to_numpy(), options.rows)]
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            products = Path(folder) / "products.parquet"
            train.write_parquet(products)
            seconds, peak = fit(products, Path(folder) / "adapter", seed)
            made = adapters.load(Path(folder) / "adapter")
            labeler = Labeler(made, "cpu")
            voices = labeler.voices(compose(test, made.manifest.text))
        scores = {"blend": mix(voices.lora, voices.linear, made.manifest.blend), "lora": voices.lora, "linear": voices.linear}
        line: dict[str, object] = {"data": options.data.name, "rows": len(train), "seed": seed, "variant": labeler.variant}
        for name, values in scores.items():
            guessed = np.array(labeler.categories)[values.argmax(1)]
            macro = f1_score(truth, guessed, average="macro", labels=np.unique(truth), zero_division=0)
            line[name] = [round(float((guessed == truth).mean()), 4), round(float(macro), 4)]
        print(json.dumps(line | {"fit_s": round(seconds), "peak_mib": round(peak / 2**20)}), flush=True)


if __name__ == "__main__":
    main()
