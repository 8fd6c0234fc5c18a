"""Accuracy of `catcli fit`, on the rows and test files on which shared/peers/accuracy.py measures its peers.

    python tests/bench/accuracy.py ../shared/data/amazon_toys --rows 2000 [--seeds 1] [--draws 1] [--peers ../shared/peers]
    python tests/bench/accuracy.py ../shared/data/amazon_toys --rows 2000 --kill --method dora --no-refit

Learns from the same draw of ``train.parquet`` (the peers' own function makes it; without ``--rows`` from all) and labels all rows of
``test.parquet``. Prints one JSON line a draw and seed: accuracy and macro F1 over the categories of the test file, of the blend, LoRA alone
and the linear model alone, with the seconds and the peak memory of the fit and the bytes that were learned. Options that are not its own
are handed to ``catcli fit``; without any, no flag tunes it. With ``--kill`` the fit is killed by SIGKILL once it has kept a pass, and
resumed; its seconds are those of both parts.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import psutil
from sklearn.metrics import f1_score

from catcli.adapter.folder import load_adapter
from catcli.data.dataset.text import row_texts
from catcli.evaluation.blend import blend_logits
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.inference.labeler import Labeler


def load_peers(folder: Path) -> ModuleType:
    """The peers' script as a module: its draw decides which rows a cell of the table has."""
    spec = importlib.util.spec_from_file_location("peers", folder / "accuracy.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(folder / "accuracy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fit(products: Path, output: Path, flags: Sequence[str]) -> tuple[float, int]:
    """Seconds and peak bytes of a fit in a process of its own."""
    command = [sys.executable, "-m", "catcli", "fit", str(products), "-o", str(output), "-q", *flags]
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


def killed(products: Path, output: Path, flags: Sequence[str]) -> float:
    """Seconds of a fit until it has kept a pass, when it is killed."""
    command = [sys.executable, "-m", "catcli", "fit", str(products), "-o", str(output), "-q", *flags]
    kept = output.with_name(f".{output.name}.catcli-resume")
    start = time.perf_counter()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not any(kept.glob("*.safetensors")):
        time.sleep(0.05)
    running.kill()
    running.wait()
    if (output / "adapter.json").exists():
        raise SystemExit("the fit had ended before it was killed")
    return time.perf_counter() - start


def scored(folder: Path, test: pl.DataFrame) -> dict[str, object]:
    """Accuracy and macro F1 on the rows of ``test`` of the blend, LoRA alone and the linear model alone of an adapter, and its size."""
    made = load_adapter(folder)
    labeler = Labeler(made, "cpu")
    voices = labeler.logits(row_texts(test, made.manifest.text, made.manifest.prices))
    logits = {"blend": blend_logits(voices.lora, voices.linear, made.manifest.blend), "lora": voices.lora, "linear": voices.linear}
    truth = test["category"].to_numpy()
    found: dict[str, object] = {"variant": labeler.variant}
    for name, values in logits.items():
        guessed = np.array(labeler.categories)[values.argmax(1)]
        macro = f1_score(truth, guessed, average="macro", labels=np.unique(truth), zero_division=0)
        found[name] = [round(float((guessed == truth).mean()), 4), round(float(macro), 4)]
    return found | {"learned_bytes": FitMetrics.of(made).training.learned_bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    options, flags = parser.parse_known_args()
    whole, test = (pl.read_parquet(options.data / f"{part}.parquet") for part in ("train", "test"))
    for draw, seed in itertools.product(range(options.draws), range(options.seeds)):
        train = whole
        if options.rows and options.rows < len(whole):
            train = whole[load_peers(options.peers).draw(whole["category"].to_numpy(), options.rows, draw)]
        told = [*flags, "--seed", str(seed)]
        with tempfile.TemporaryDirectory() as folder:
            products = Path(folder) / "products.parquet"
            train.write_parquet(products)
            before = killed(products, Path(folder) / "adapter", told) if options.kill else 0.0
            seconds, peak = fit(products, Path(folder) / "adapter", [*told, *(["--resume"] if options.kill else [])])
            line = {"data": options.data.name, "rows": len(train), "draw": draw, "seed": seed} | scored(Path(folder) / "adapter", test)
        line |= {"flags": " ".join(flags), "fit_s": round(before + seconds), "peak_mib": round(peak / 2**20)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
