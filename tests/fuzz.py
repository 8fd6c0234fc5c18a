"""Random damage to files of every format and to adapters: success or one sentence, never a traceback, a crash or a hang.

``python tests/fuzz.py [CASES] [SEED]`` runs that many cases and prints a table of what came of them. Each case is made from its number
and the seed alone, so that ``python tests/fuzz.py --case NUMBER [SEED]`` shows one again. Cases run in a process of their own, and another
takes over where one dies.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from attempts import COMMANDS, Command, Tools, attempt, inside
from conftest import FIXTURE
from corpus import ROWS, SHEET, Case, columns, delimited, lines, objects, workbook, zstd
from pyarrow import feather
from rich.console import Console
from rich.table import Table
from test_tampering import signed
from typer.testing import CliRunner

from catcli.cli.main import app
from catcli.config import Recipe
from catcli.data.dataset.prepare import load_training_data
from catcli.data.io.input_options import InputOptions
from catcli.errors import CatcliError

SECONDS, MEMORY = 60, 16 * 2**30
"""What a case may take, and bytes of addresses that its process may have."""

SEED = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a case: ``fault`` is what is wrong with it."""

    kind: str
    succeeded: bool
    fault: str | None


# --- files to damage -----------------------------------------------------------------------------------------------------------------


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


@functools.cache
def files() -> dict[str, bytes]:
    """A small sound file of each format, by name."""
    sheet, table = delimited(ROWS).encode(), columns()
    return {
        "shop.csv": sheet,
        "shop.tsv": delimited(ROWS, delimiter="\t").encode(),
        "shop.csv.gz": gzip.compress(sheet, mtime=0),
        "shop.csv.zst": zstd(sheet),
        "shop.jsonl": lines(objects()).encode(),
        "shop.parquet": _written(lambda file: pq.write_table(table, file)),
        "shop.arrow": _written(lambda file: feather.write_feather(table, file)),
        "shop.xlsx": workbook(SHEET),
    }


ODD = (b"\0", b'"', b"\r", b"\n", b",", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\\", b"{", b"[" * 500, b"9" * 400, b"\xe2\x80\xae")
"""What is put in among bytes."""


def damaged(content: bytes, chosen: random.Random) -> bytes:
    """The bytes with up to four things done to them."""
    for _ in range(chosen.choice((1, 1, 1, 2, 4))):
        at = chosen.randint(0, len(content))
        end = min(len(content), at + chosen.choice((1, 2, 8, 64, 512)))
        before, middle, after = content[:at], content[at:end], content[end:]
        done = (
            before + bytes(byte ^ (1 << chosen.randrange(8)) for byte in middle) + after,
            before + chosen.randbytes(len(middle)) + after,
            before + after,
            before + middle + middle + after,
            before + chosen.choice(ODD) + middle + after,
            before,
        )
        (content,) = chosen.choices(done, weights=(6, 2, 2, 1, 3, 1))
    return content


# --- adapters to damage --------------------------------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf")),
    *("", "x", "../x", "/etc/passwd", "x" * 100_000, "\ud800", "\0", "\x1b[31m", "nan"),
    *([], {}, [[]], [None] * 1000, {"": ""}),
)
"""What is put in the place of something in JSON."""


def rearranged(told: Any, chosen: random.Random) -> Any:  # noqa: ANN401  # JSON of any shape
    """Parsed JSON with something in it replaced, left out, or given twice."""
    places = list(_places(told))
    for _ in range(chosen.randint(1, 3)):
        if not places:
            return chosen.choice(VALUES)
        holder, key = chosen.choice(places)
        try:
            match chosen.randrange(4):
                case 0:
                    del holder[key]
                case 1:
                    holder[key] = chosen.choice(places)[0]
                case _:
                    holder[key] = chosen.choice(VALUES)
            json.dumps(told)
        except (KeyError, IndexError):  # gone with what it was in
            continue
        except ValueError:  # it would contain itself
            holder[key] = None
    return told


def _places(told: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    for key, value in told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ():
        yield told, key
        yield from _places(value)


def damage_adapter(folder: Path, chosen: random.Random) -> None:
    """Change a file of an adapter, by its structure or its bytes, and mostly write its new hash."""
    name = chosen.choice(sorted(path.name for path in folder.iterdir()))
    file = folder / name
    if name.endswith(".json") and chosen.random() < 0.8:
        file.write_text(json.dumps(rearranged(json.loads(file.read_text()), chosen)))
    else:
        file.write_bytes(damaged(file.read_bytes(), chosen))
    if name != "adapter.json" and chosen.random() < 0.9:
        signed(folder)


# --- cases ---------------------------------------------------------------------------------------------------------------------------


def run(number: int, seed: int, tools: Tools, folder: Path) -> Outcome:
    """The case of a number."""
    chosen = random.Random(f"{seed} {number}")
    if number % 4 == 3:
        return _with_adapter(chosen, folder)
    made = files()
    name = list(made)[number // 4 % len(made)]
    content = damaged(made[name], chosen)

    def make(place: Path) -> None:
        (place / name).write_bytes(content)

    if number % 4 == 2:
        make(folder)
        return _learned_from(name, folder)
    command = COMMANDS[("predict", "report --on")[number % 4]]
    fault = attempt(_promising_nothing(command), Case(make, name), tools, folder)
    return Outcome(f"{('predict', 'report --on')[number % 4]} {name}", (folder / command.writes).exists(), fault)


def _promising_nothing(command: Command) -> Command:
    return replace(command, promises=lambda _: None)


def _learned_from(name: str, folder: Path) -> Outcome:
    """What fit, tune and compare do before they train."""
    with inside(folder):
        try:
            load_training_data(InputOptions().open([name]), Recipe(base="minilm"))
        except CatcliError as error:
            return Outcome(
                f"fit's rows {name}", succeeded=False, fault=None if str(error).endswith((".", "?")) else f"no sentence: {error}"
            )
        except Exception:  # noqa: BLE001  # any at all is what is looked for
            return Outcome(f"fit's rows {name}", succeeded=False, fault=f"a traceback: {traceback.format_exc()}")
    return Outcome(f"fit's rows {name}", succeeded=True, fault=None)


def _with_adapter(chosen: random.Random, folder: Path) -> Outcome:
    mailed = Path(shutil.copytree(FIXTURE, folder / "mailed"))
    damage_adapter(mailed, chosen)
    if chosen.random() < 0.6:
        what, line = "predict by an adapter", ["predict", "shop.csv", "-o", "out.csv", "--adapter", "mailed", "--device", "cpu"]
    else:
        what, line = "report an adapter", ["report", "mailed", "--html", "page.html"]
    with inside(folder):
        Path("shop.csv").write_bytes(files()["shop.csv"])
        result = CliRunner().invoke(app, line)
    said = [one for one in result.stderr.splitlines() if one.startswith("error: ")]
    fault = None
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        fault = "a traceback: " + "".join(traceback.format_exception(result.exception))
    elif result.exit_code not in (0, 1) or (result.exit_code == 1 and len(said) != 1):
        fault = f"exit code {result.exit_code}, no sentence: {result.stderr[:500]}"
    elif {path.name for path in folder.iterdir()} - {"mailed", "shop.csv", *((line[-1], "out.csv") if result.exit_code == 0 else ())}:
        fault = "it left something behind"
    return Outcome(what, result.exit_code == 0, fault)


def child(first: int, end: int, seed: int, log: Path) -> None:
    """Run cases, and write of each that it begins and what came of it."""
    os.environ |= {"NO_COLOR": "1", "COLUMNS": "80"}
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as root, log.open("a", buffering=1) as told:
        tools = Tools.make(Path(root))
        for number in range(first, end):
            told.write(json.dumps({"number": number}) + "\n")
            signal.alarm(SECONDS)
            with tempfile.TemporaryDirectory(dir=root) as folder:
                outcome = run(number, seed, tools, Path(folder))
            signal.alarm(0)
            told.write(json.dumps({"number": number, **vars(outcome)}) + "\n")


def fuzz(cases: int, seed: int = SEED) -> tuple[Counter[tuple[str, bool]], dict[int, str]]:
    """Run cases; counts of kinds and of whether they succeeded, and what is wrong with those where something is."""
    counts: Counter[tuple[str, bool]] = Counter()
    faults: dict[int, str] = {}
    first = 0
    with tempfile.TemporaryDirectory() as folder:
        while first < cases:
            log = Path(folder) / f"{first}.jsonl"
            log.touch()
            line = [sys.executable, __file__, "--child", str(first), str(cases), str(seed), str(log)]
            ended = subprocess.run(line, capture_output=True, text=True, check=False)
            begun = first
            for told in map(json.loads, log.read_text().splitlines()):
                begun = told["number"]
                if "kind" not in told:
                    continue
                counts[told["kind"], told["succeeded"]] += 1
                if told["fault"]:
                    faults[begun] = told["fault"]
                first = begun + 1
            if first < cases:  # the process died
                faults[begun] = f"the process ended with {ended.returncode}: {ended.stderr[-2000:]}"
                first = begun + 1
    return counts, faults


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    if arguments[:1] == ["--child"]:
        first, end, seed, log = arguments[1:]
        child(int(first), int(end), int(seed), Path(log))
        return 0
    if arguments[:1] == ["--case"]:
        again = int(arguments[2]) if len(arguments) > 2 else SEED
        with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as folder:
            print(run(int(arguments[1]), again, Tools.make(Path(root)), Path(folder)))
        return 0
    cases = int(arguments[0]) if arguments else 2000
    counts, faults = fuzz(cases, int(arguments[1]) if len(arguments) > 1 else SEED)
    table = Table("what is damaged", "cases", "done all the same", "a sentence", title=f"{sum(counts.values()):,} cases")
    for kind in sorted({kind for kind, _ in counts}):
        done, said = counts[kind, True], counts[kind, False]
        table.add_row(kind, str(done + said), str(done), str(said))
    console = Console()
    console.print(table)
    for number, fault in faults.items():
        console.print(f"case {number}: {fault}", markup=False)
    tracebacks = sum(fault.startswith("a traceback") for fault in faults.values())
    console.print(f"{cases:,} cases, {len(faults):,} faults, {tracebacks:,} tracebacks")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
