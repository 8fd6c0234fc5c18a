"""Every command on every case of the corpus, in this process: what came of it, and whether it is what the case promises.

``python tests/attempts.py`` runs all of it and prints a table; ``python tests/attempts.py fit predict`` runs some.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import FIXTURE
from corpus import CASES, Case
from small_bases import save_base
from typer.testing import CliRunner, Result

from catcli.cli.main import app

LONGEST = 1_500
"""Characters of a sentence, at most: names of files are in it."""


@dataclass(frozen=True)
class Tools:
    """What commands need beside their input: a tiny base, and two adapters."""

    base: Path
    adapter: Path
    second: Path

    @classmethod
    def make(cls, folder: Path) -> Tools:
        """In an empty folder."""
        return cls(save_base("bert", folder / "base"), FIXTURE, Path(shutil.copytree(FIXTURE, folder / "second")))


@dataclass(frozen=True)
class Command:
    """A command on a case: its line, the options of the case that it takes, what it writes, and which promises of the case it keeps.

    ``beside`` is what it writes besides, where it succeeds.
    """

    line: Callable[[str, Tools], Sequence[object]]
    takes: frozenset[str]
    writes: str
    promises: Callable[[Case], str | None]
    beside: str = ""

    @property
    def ending(self) -> str:
        return Path(self.writes).suffix


READING = {"--encoding", "--delimiter", "--input-format"}
LABELED = frozenset({*READING, "--label", "--merge-labels"})
TINY = ("--epochs", "1", "--device", "cpu")


def predicted(ending: str) -> Command:
    def promises(case: Case) -> str:
        return case.read or case.label or {".csv": case.flat, ".jsonl": case.flat, ".parquet": case.pack}.get(ending, "")

    return Command(
        lambda name, tools: ["predict", "-o", f"out{ending}", "--adapter", tools.adapter, "--device", "cpu", "--", name],
        frozenset({*READING, "--replace-columns"}),
        f"out{ending}",
        promises,
    )


COMMANDS: dict[str, Command] = {
    "fit": Command(
        lambda name, tools: ["fit", "-o", "made/new", "--base", tools.base, "--rank", "2", "--no-refit", *TINY, "--", name],
        LABELED,
        "made",
        lambda case: case.read or case.learn,
    ),
    "tune": Command(
        lambda name, tools: ["tune", "-o", "best.json", "--base", tools.base, "--trials", "1", "--folds", "2", "--", name],
        LABELED,
        "best.json",
        lambda case: case.read or case.learn,
        beside="best.study",
    ),
    "compare": Command(
        lambda name, tools: ["compare", "-o", "grid", "--base", tools.base, "--method", "head", "--epochs", "1", "--", name],
        LABELED,
        "grid",
        lambda case: case.read or case.learn,
    ),
    "predict": predicted(".csv"),
    "predict, Parquet": predicted(".parquet"),
    "predict, Arrow": predicted(".arrow"),
    "predict, JSON Lines": predicted(".jsonl"),
    "report --on": Command(
        lambda name, tools: ["report", tools.adapter, "--html", "page.html", "--device", "cpu", f"--on={name}"],
        LABELED,
        "page.html",
        lambda case: case.read or case.score or (case.label if "already" not in case.label else ""),
    ),
    "diff": Command(
        lambda name, tools: ["diff", tools.adapter, tools.second, "-o", "changed.csv", "--device", "cpu", "--", name],
        frozenset(READING),
        "changed.csv",
        lambda case: case.read or None,
    ),
    "bench": Command(
        lambda name, tools: ["bench", "--adapter", tools.adapter, "--rows", "16", "--repeats", "1", "--device", "cpu", "--", name],
        frozenset(),
        "",
        lambda _: None,  # it reads no further than it needs
    ),
}


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def attempt(command: Command, case: Case, tools: Tools, folder: Path) -> str | None:
    """Run a command on a case in an empty folder; returns what is wrong with what came of it."""
    with inside(folder):
        case.make(folder)
        before = seen(folder)
        line = [str(word) for word in command.line(case.name, tools)]
        at = line.index("--") if "--" in line else len(line)
        result = CliRunner().invoke(app, [*line[:at], *options_of(case, command.takes), *line[at:]])
        return fault(result, command, case, before, folder)


def options_of(case: Case, takes: frozenset[str]) -> list[str]:
    """Those of the case's options that a command has."""
    taken: list[str] = []
    words = iter(case.options)
    for word in words:
        value = [] if word in ("--merge-labels", "--replace-columns") else [next(words)]
        taken += [word, *value] if word in takes else []
    return taken


def seen(folder: Path) -> dict[str, str]:
    """What lies in a folder: the hash of every file, and the time of its last change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = f"{status.st_mode} {status.st_mtime_ns} {content}"
    return found


def fault(result: Result, command: Command, case: Case, before: Mapping[str, str], folder: Path) -> str | None:
    """What is wrong, or None."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"a traceback: {type(result.exception).__name__}: {result.exception}"
    ours = {command.writes, *([command.beside] if result.exit_code == 0 else [])}
    after = {name: state for name, state in seen(folder).items() if name.split("/")[0] not in ours or name in before}
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name) and not (folder / name).is_dir())
    if changed or set(after) - set(before):
        return f"the folder has changed: {changed or sorted(set(after) - set(before))}"
    written = bool(command.writes) and (folder / command.writes).exists()
    if result.exit_code == 0:
        return "it succeeded and wrote nothing" if command.writes and not written else unexpected(command.promises(case), "")
    if written:
        return "it failed and wrote something"
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    if result.exit_code not in (1, 2) or len(errors) != 1 or len(errors[0]) > LONGEST or not errors[0].endswith((".", "?")):
        return f"exit code {result.exit_code} and no sentence: {[error[:300] for error in errors]}"
    return unexpected(command.promises(case), errors[0])


def unexpected(promised: str | None, said: str) -> str | None:
    """What is wrong with what was said, nothing meaning success; a promise of None is kept by any sentence and by none."""
    if promised is None or (promised in said and bool(promised) == bool(said)):
        return None
    return f"it was to say {promised!r}, and said {said!r}"


def rows_in(file: Path) -> int:
    """How many rows an output has."""
    if file.suffix == ".csv":
        csv.field_size_limit(2**31 - 1)
        with file.open(newline="", encoding="utf-8") as opened:
            return sum(1 for _ in csv.reader(opened)) - 1
    if file.suffix == ".jsonl":
        return file.read_bytes().count(b"\n")
    if file.suffix == ".parquet":
        return int(pq.ParquetFile(file).metadata.num_rows)
    with pa.memory_map(str(file)) as opened:
        return int(pa.ipc.open_file(opened).read_all().num_rows)


def main(names: Sequence[str]) -> int:
    """Run commands on all cases; prints a table of them."""
    os.environ |= {"NO_COLOR": "1", "COLUMNS": "80"}
    faults = 0
    print("| command | cases | as promised | tracebacks | s |\n|---|--:|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory() as root:
        tools = Tools.make(Path(root))
        for name in names or COMMANDS:
            found, start = [], time.perf_counter()
            for about, case in CASES.items():
                with tempfile.TemporaryDirectory(dir=root) as folder:
                    wrong = attempt(COMMANDS[name], case, tools, Path(folder))
                    if wrong is None and name.startswith("predict") and case.rows is not None and not COMMANDS[name].promises(case):
                        rows = rows_in(Path(folder) / COMMANDS[name].writes)
                        wrong = None if rows == case.rows else f"{rows} rows came out of {case.rows}"
                    if wrong:
                        found.append(wrong)
                        print(f"{name}, {about}: {wrong}", file=sys.stderr, flush=True)
            tracebacks = sum(wrong.startswith("a traceback") for wrong in found)
            seconds = time.perf_counter() - start
            print(f"| {name} | {len(CASES)} | {len(CASES) - len(found)} | {tracebacks} | {seconds:.0f} |", flush=True)
            faults += len(found)
    return faults


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) > 0)
