"""Bad inputs by each command: success or one sentence, never a traceback, a partial output or a changed input.

tests/attempts.py runs every command on every case; here those that take long, and succeed, are tried on a part of them.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from attempts import COMMANDS, Tools, attempt, inside, rows_in, seen
from conftest import FIXTURE, catcli
from corpus import CASES, columns, delimited
from pyarrow import feather

from catcli.data.io.source import open_source
from catcli.errors import ChangedError
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions

pytestmark = pytest.mark.slow

FORMATS = ("predict, Parquet", "predict, Arrow", "predict, JSON Lines")
LEARNED = [about for number, about in enumerate(CASES) if CASES[about].read or CASES[about].learn or number % 8 == 0]
"""Cases that are fitted: those that end in a sentence, and one in eight of the others."""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return Tools.make(tmp_path_factory.mktemp("tools"))


def test_there_are_enough_cases_and_no_two_are_alike(tmp_path: Path) -> None:
    made = set()
    for number, case in enumerate(CASES.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with inside(folder):
            case.make(folder)
            made.add((str([(name, state.split()[0], state.split()[2:]) for name, state in seen(folder).items()]), case.name, case.options))
    assert len(made) == len(CASES) >= 150


@pytest.mark.parametrize("about", CASES)
def test_labeling_and_scoring_keep_what_the_case_promises(tools: Tools, tmp_path: Path, about: str) -> None:
    case = CASES[about]
    other = FORMATS[list(CASES).index(about) % len(FORMATS)]
    for number, name in enumerate(("predict", other, "report --on", "diff")):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert attempt(COMMANDS[name], case, tools, folder) is None
        if name.startswith("predict") and case.rows is not None and not COMMANDS[name].promises(case):
            assert rows_in(folder / COMMANDS[name].writes) == case.rows


@pytest.mark.parametrize("about", LEARNED)
def test_fit_keeps_what_the_case_promises(tools: Tools, tmp_path: Path, about: str) -> None:
    assert attempt(COMMANDS["fit"], CASES[about], tools, tmp_path) is None


@pytest.mark.parametrize("name", ["tune", "bench"])
def test_other_commands_keep_it_too(tools: Tools, tmp_path: Path, name: str) -> None:
    for number, about in enumerate(("UTF-32", "a quote that is never closed", "no such file", "one category", "Parquet cut short")):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert attempt(COMMANDS[name], CASES[about], tools, folder) is None


# --- files that change ----------------------------------------------------------------------------------------------------------------

MANY = [(f"blue coffee mug {number}", "Mugs") for number in range(30_000)]


@pytest.mark.parametrize("change", ["grows", "is cut", "is replaced", "is gone"])
def test_a_file_that_changes_while_it_is_read_stops_the_run_and_leaves_nothing(tmp_path: Path, change: str) -> None:
    catalog = tmp_path / "catalog.csv"
    catalog.write_text(delimited(MANY))

    def meddle() -> None:
        while not list(tmp_path.glob(".out.csv.*/journal.jsonl")):
            time.sleep(0.01)
        if change == "grows":
            with catalog.open("a") as file:
                file.write("one more,Mugs\n")
        elif change == "is cut":
            os.truncate(catalog, 900_000)
        elif change == "is replaced":
            (tmp_path / "new.csv").write_text(delimited(MANY))
            (tmp_path / "new.csv").rename(catalog)
        else:
            catalog.unlink()

    thread = threading.Thread(target=meddle)
    thread.start()
    with pytest.raises(ChangedError, match=r"catalog\.csv was changed while it was read; run the same command again once it is finished\."):
        predict([str(catalog)], PredictOptions(str(tmp_path / "out.csv"), str(FIXTURE), device="cpu"))
    thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ([] if change == "is gone" else ["catalog.csv"])


def test_a_mapped_file_that_is_cut_ends_in_a_sentence_and_not_in_a_crash(tmp_path: Path) -> None:
    feather.write_feather(columns(), tmp_path / "shop.arrow", compression="uncompressed", chunksize=16)
    batches = open_source([str(tmp_path / "shop.arrow")]).batches(4)
    assert len(next(batches)) == 4
    os.truncate(tmp_path / "shop.arrow", 100)
    with pytest.raises(ChangedError, match=r"shop\.arrow was changed while it was read; run the same command again once it is finished\."):
        list(batches)


def test_what_fails_to_be_written_is_in_no_part_that_counts_as_done(tmp_path: Path) -> None:
    """A column that a format cannot hold stops the first write; what came after it was once noted as finished."""
    from decimal import Decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    table = columns(aside=pa.array([Decimal("1.23")] * 48, pa.decimal256(76, 10)))
    pq.write_table(table, tmp_path / "shop.parquet")
    ran = catcli("predict", "shop.parquet", "-o", "out.csv", "--adapter", FIXTURE, cwd=tmp_path)
    assert ran.returncode == 1
    assert "rows are kept" not in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["shop.parquet"]
