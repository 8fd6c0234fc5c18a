"""SIGKILL, SIGTERM and Ctrl-C at random moments of every command that writes: what stood there stands, or the new is whole; no row is lost.

``python tests/faults.py [MOMENTS] [SEED]`` strikes each command so many times and prints a table.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from conftest import FIXTURE
from rich.console import Console
from rich.table import Table
from small_bases import save_base
from tiny import tiny_products

from catcli.adapter.folder import load_adapter
from catcli.adapter.seal import SEAL_FILE
from catcli.errors import AdapterError

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ROWS = 60_000


@dataclass(frozen=True)
class Victim:
    """A command that is struck in a folder.

    ``line`` is run in a copy of the folder and struck; ``again`` is run after it and has to succeed, but for what can be done ``once``.
    ``wrong`` says what is wrong with the folder after the blow, and after ``again``, where it is given true; ``rows`` counts those that
    came out then.
    """

    line: Sequence[object]
    again: Sequence[object]
    wrong: Callable[[Path, bool], str | None]
    rows: Callable[[Path], int] | None = None
    once: bool = False


@dataclass
class Tally:
    """What came of the blows to a command."""

    struck: int = 0
    whole: int = 0
    lost: int = 0
    finished: int = 0
    faults: list[str] = field(default_factory=list)


def catcli(line: Sequence[object], folder: Path) -> subprocess.Popen[str]:
    """The command, begun."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "catcli", *map(str, line)]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def made(folder: Path) -> Path:
    """What all commands find: products, a catalog, a base, an adapter and a page."""
    folder.mkdir(parents=True)
    tiny_products().write_csv(folder / "products.csv")
    chosen = random.Random(0)
    words = [f"word{number}" for number in range(4000)]
    titles = [" ".join(chosen.choices(words, k=chosen.randint(1, 12))) for _ in range(ROWS)]
    pl.DataFrame({"title": titles}).write_csv(folder / "catalog.csv")
    save_base("bert", folder / "base")
    shutil.copytree(FIXTURE, folder / "adapters" / "old")
    shutil.copytree(FIXTURE, folder / "copy")
    (folder / "page.html").write_text("an old page</html>")
    (folder / "labeled.csv").write_text("an old file\n")
    return folder


def sound(folder: Path) -> str | None:
    """What is wrong with an adapter."""
    try:
        load_adapter(folder).verify()
    except AdapterError as error:
        return str(error)
    return None


def victims(folder: Path) -> dict[str, Victim]:
    """The commands that write, in a folder that `made` made."""
    labeling = ("predict", "catalog.csv", "-o", "labeled.csv", "--adapter", "adapters/old", "--device", "cpu")
    catcli(labeling, folder).communicate()
    labels = (folder / "labeled.csv").read_bytes()
    (folder / "labeled.csv").write_text("an old file\n")

    def labeled(place: Path, done: bool) -> str | None:
        found = (place / "labeled.csv").read_bytes()
        return None if found == labels or (found == b"an old file\n" and not done) else f"labeled.csv has {len(found):,} bytes"

    def fitted(place: Path, _: bool) -> str | None:
        return sound(place / "adapters" / "old")

    def paged(place: Path, done: bool) -> str | None:
        found = (place / "page.html").read_text()
        old = found == "an old page</html>"
        return None if found.rstrip().endswith("</html>") and not (old and done) else f"page.html has {len(found):,} characters"

    def removed(place: Path, done: bool) -> str | None:
        there = (place / "adapters" / "old").exists()
        return ("it is still there" if done else sound(place / "adapters" / "old")) if there else None

    fitting = ("fit", "products.csv", "-o", "adapters/old", "--force", "--base", "base", "--rank", "2", "--epochs", "3", "--device", "cpu")
    paging = ("report", "adapters/old", "--html", "page.html")
    copying = ("adapters", "export", "adapters/old", "-o", "copy", "--force", "--without-rows")
    removing = ("adapters", "remove", "old")
    return {
        "predict": Victim(labeling, (*labeling, "--resume"), labeled, lambda place: (place / "labeled.csv").read_bytes().count(b"\n") - 1),
        "fit": Victim(fitting, (*fitting, "--resume"), fitted),
        "report --html": Victim(paging, paging, paged),
        "adapters export": Victim(copying, copying, lambda place, _: sound(place / "copy")),
        "adapters remove": Victim(removing, removing, removed, once=True),
    }


def duration(victim: Victim, folder: Path) -> float:
    """Seconds that a command takes when nobody strikes."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(shutil.copytree(folder, Path(scratch) / "folder"))
        start = time.perf_counter()
        run = catcli(victim.line, place)
        said = run.communicate()[1]
        assert run.returncode == 0, said
        return time.perf_counter() - start


def strike(victim: Victim, folder: Path, moment: float, blow: signal.Signals, tally: Tally) -> None:
    """Begin the command in a copy of the folder, send the signal after ``moment`` seconds, look, and run it again."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(shutil.copytree(folder, Path(scratch) / "folder"))
        run = catcli(victim.line, place)
        time.sleep(moment)
        run.send_signal(blow)
        said = run.communicate()[1]
        tally.struck += 1
        tally.finished += run.returncode == 0
        about = f"{blow.name} after {moment:.3f} s"
        # Before Python has read a line of ours a signal ends it without a word, which is all that can be had.
        if run.returncode not in (0, -blow, 128 + blow) or "Traceback" in said:
            tally.faults.append(f"{about}: exit code {run.returncode}: {said[-1500:]}")
        wrong = victim.wrong(place, False)
        tally.whole += wrong is None
        if wrong:
            tally.faults.append(f"{about}: {wrong}")
        over = run.returncode == 0
        again = catcli(victim.line if over and "--resume" in victim.again else victim.again, place)
        said = again.communicate()[1]
        wrong = victim.wrong(place, True)
        if again.returncode and not victim.once:
            wrong = said[-1500:]
        if wrong:
            tally.faults.append(f"{about}, and again: {wrong}")
        if victim.rows is not None:
            tally.lost += ROWS - victim.rows(place)
        left = [path for path in place.rglob(".*") if not path.name.endswith("lock") and path.name != SEAL_FILE]
        if left:
            tally.faults.append(f"{about}: it left {left[0].name} behind")


def strikes(moments: int, seed: int, folder: Path, names: Sequence[str] = ()) -> dict[str, Tally]:
    """Strike each command so many times, with the three signals in turn."""
    chosen, tallies = random.Random(seed), {}
    for name, victim in victims(made(folder / "shop")).items():
        if names and name not in names:
            continue
        tallies[name] = Tally()
        took = duration(victim, folder / "shop")
        for number in range(moments):
            strike(victim, folder / "shop", chosen.uniform(0.1, took), SIGNALS[number % len(SIGNALS)], tallies[name])
    return tallies


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    with tempfile.TemporaryDirectory() as scratch:
        moments, seed = [*map(int, arguments[:2]), *(30, 0)[len(arguments[:2]) :]]
        found = strikes(moments, seed, Path(scratch), arguments[2:])
    table = Table("command", "moments", "of them after its end", "outputs whole", "rows lost", "faults")
    for name, tally in found.items():
        lost = f"{tally.lost:,}" if name == "predict" else "–"
        table.add_row(name, str(tally.struck), str(tally.finished), str(tally.whole), lost, str(len(tally.faults)))
    console = Console()
    console.print(table)
    for name, tally in found.items():
        for fault in tally.faults:
            console.print(f"{name}, {fault}", markup=False)
    return int(any(tally.faults for tally in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
