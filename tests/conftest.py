"""What several tests share: one small adapter that is really trained, and the commands as a user calls them."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from catcli.config import Recipe
from catcli.data.io import parts, source
from catcli.data.io.batch import Batch
from catcli.data.io.part_file import PartFile, PartOptions
from catcli.data.io.parts import Parts, PartsInput
from catcli.reporting.model_card import model_card
from catcli.training.fit import FitResult
from catcli.training.fit import fit as fit_adapter

fit = partial(fit_adapter, model_card=model_card)
"""A fit as ``catcli fit`` makes it, without its console."""

FIXTURE = Path(__file__).parent / "fixtures" / "adapter-format-4"
"""A very small adapter, as the catcli whose format was 4 wrote it: see tests/tiny.py."""

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes test side by side. With all cores each they would wait for one another's threads: OpenMP spins.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

DEMO = Path(__file__).parents[1] / "catcli" / "data" / "demo"
for _name, _handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    # A shell has what it starts in the background (pytest &, nohup pytest) ignore these, and so would the commands that are tested.
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _name), _handler)

SHELVES = ("Grocery > Drinks > Coffee", "Beauty > Hair > Shampoo", "Tools > Power Tools > Drills", "Home > Kitchen > Mugs & Cups")


@dataclass(frozen=True)
class Shop:
    """A store with one small adapter, the rows it learned from, and a catalog."""

    folder: Path
    fitted: FitResult
    products: Path
    catalog: Path

    @property
    def adapter(self) -> str:
        """The adapter's folder, as options take it."""
        return str(self.fitted.adapter.folder)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Four shelves of the demo, one epoch of real training. Tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("shop")
    frame = pl.read_csv(DEMO / "products.csv", infer_schema=False).filter(pl.col("category").is_in(SHELVES))
    products, catalog = folder / "products.csv", folder / "catalog.csv"
    frame.write_csv(products)
    pl.read_csv(DEMO / "catalog.csv", infer_schema=False).write_csv(catalog)
    recipe = Recipe(epochs=1, max_tokens=24, device="cpu", refit=False)
    return Shop(folder, fit([str(products)], recipe=recipe, output=folder / "adapters" / "small"), products, catalog)


@pytest.fixture(autouse=True)
def _info_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """``caplog`` gets what a user sees without -v."""
    caplog.set_level(logging.INFO, "catcli")


def catcli(*arguments: str | Path, cwd: Path, check: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as a shell would."""
    command: Sequence[str] = [sys.executable, "-m", "catcli", *map(str, arguments)]
    settings = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environment}
    return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, check=check, timeout=600)


def killed_once(kept: Path, *arguments: str | Path, cwd: Path) -> None:
    """Run the command, and kill it by SIGKILL as soon as the file ``kept`` is there."""
    command = [sys.executable, "-m", "catcli", *map(str, arguments)]
    running = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for _ in range(2400):
        if kept.exists() or running.poll() is not None:
            break
        time.sleep(0.05)  # a poll, not a wait for luck: the file is what ends it
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert kept.exists()


def stopped_after(times: int) -> Callable[..., None]:
    """In the place of `Parts.commit`: the same, and Ctrl-C once parts were committed so many times."""
    commit, calls = Parts.commit, itertools.count(1)

    def stopped(parts: Parts) -> None:
        commit(parts)
        if next(calls) == times:
            raise KeyboardInterrupt

    return stopped


def small_shards(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Shards of so many rows, each noted in the journal as soon as it is done."""
    monkeypatch.setattr(source, "SHARD_ROWS", rows)
    monkeypatch.setattr(parts, "COMMIT_ROWS", 1)


def part_inputs(*places: str) -> tuple[PartsInput, ...]:
    """Inputs of an output, by their places."""
    return tuple(PartsInput(Path(place), f"{number:012x}", place) for number, place in enumerate(places))


def add_part(parts: Parts, rows: Batch, keep: Sequence[str] | None = None, added: pl.DataFrame | None = None) -> None:
    """Write a part and note it; ``rows`` say of which input and shard it is."""
    options = PartOptions(parts.out, parts.folder, parts.form, [f"{number:012x}" for number in range(9)])
    path = options.path(rows.part, rows.span, rows.index)
    with PartFile(path, options) as part:
        part.write(rows, rows.columns if keep is None else keep, pl.DataFrame() if added is None else added)
    parts.add(path.name, {"rows": len(rows)})
