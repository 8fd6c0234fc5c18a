"""Batches → one file, whole or not at all; what goes through a format comes out as it went in."""

from __future__ import annotations

import errno
import json
import os
import string
import threading
from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catcli import places
from catcli.errors import OutputError, UsageError
from catcli.products.read import open_source
from catcli.products.write import OutputFormat, flat, open_output, output_format

FRAME = pl.DataFrame(
    {
        "sku": ["00123", None, 'a "b", c\nd'],
        "n": pl.Series([1, 2, None], dtype=pl.Int16),
        "since": [date(2026, 1, 2), None, date(1999, 12, 31)],
        "at": [datetime(2026, 1, 2, 3, 4, 5), None, None],
        "price": pl.Series(["1.10", None, "2.00"]).cast(pl.Decimal(10, 2)),
        "shelf": pl.Series(["a", "b", None], dtype=pl.Categorical),
        "tags": [["x", None], [], None],
        "box": [{"w": 1.5, "name": "é"}, None, {"w": None, "name": None}],
        "blob": [b"\x00\xff", None, b""],
    }
)


def write(path: Path, form: OutputFormat, *frames: pl.DataFrame) -> None:
    with open_output(str(path), form) as sink:
        for frame in frames:
            sink.write(frame)


def test_parquet_keeps_every_type_over_several_frames(tmp_path: Path) -> None:
    write(tmp_path / "out.parquet", "parquet", FRAME, FRAME.clear(), FRAME)
    assert open_source([str(tmp_path / "out.parquet")]).read().frame.equals(pl.concat([FRAME, FRAME]))
    assert pl.read_parquet(tmp_path / "out.parquet").schema == FRAME.schema


def test_no_rows_are_a_file_with_its_columns(tmp_path: Path) -> None:
    forms: tuple[OutputFormat, ...] = ("parquet", "csv")
    for form in forms:
        write(tmp_path / f"none.{form}", form, FRAME.clear())
        assert open_source([str(tmp_path / f"none.{form}")]).read().frame.columns == FRAME.columns


def test_csv_writes_nested_cells_as_json_and_bytes_as_base64() -> None:
    row = flat(FRAME).row(0, named=True)
    assert (json.loads(row["tags"]), json.loads(row["box"]), row["blob"]) == (["x", None], {"w": 1.5, "name": "é"}, "AP8=")


CELLS = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
NAMES = st.lists(st.text(string.ascii_letters + ' "', min_size=1, max_size=6), min_size=2, max_size=4, unique=True)


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    names = draw(NAMES)
    rows = draw(st.lists(st.tuples(*[CELLS] * len(names)), min_size=1, max_size=8))
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
def test_text_comes_through_every_format_as_it_is(tmp_path: Path, frame: pl.DataFrame) -> None:
    forms: tuple[OutputFormat, ...] = ("csv", "tsv", "jsonl", "parquet")
    for form in forms:
        path = tmp_path / f"table.{form}"
        write(path, form, frame)
        delimiter = {"csv": ",", "tsv": "\t"}.get(form)
        # A JSON Lines column of nulls alone has no type of its own; its cells are what must agree.
        assert open_source([str(path)], delimiter=delimiter).read().frame.cast(pl.String).rows() == frame.rows()


def test_a_run_that_fails_leaves_what_stood_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("mine")
    with pytest.raises(RuntimeError, match="midway"), open_output(str(path), "csv") as sink:
        sink.write(FRAME)
        raise RuntimeError("midway")
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    left = places.beside(tmp_path / "out.csv")
    left.with_name(left.name.replace(f"-{os.getpid()}.", "-999999999.")).write_text("half")
    (tmp_path / ".out.csv.notes.part").write_text("mine")
    write(tmp_path / "out.csv", "csv", FRAME)
    assert {entry.name for entry in tmp_path.iterdir()} == {"out.csv", ".out.csv.notes.part"}


def test_a_full_disk_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"out\.csv: the disk is full; free some space and run the same line again\."):
        with open_output(str(tmp_path / "out.csv"), "csv"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder; name a file in it"), open_output(str(tmp_path), "csv"):
        pass
    with (
        pytest.raises(OutputError, match="there is no folder .*; make it with 'mkdir -p"),
        open_output(str(tmp_path / "no" / "x.csv"), "csv"),
    ):
        pass


def test_a_link_stays_a_link_and_permissions_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    real.write_text("old")
    real.chmod(0o600)
    link.symlink_to(real)
    write(link, "csv", FRAME)
    assert link.is_symlink()
    assert real.read_text().startswith("sku,")
    assert real.stat().st_mode & 0o777 == 0o600


def test_a_pipe_is_written_as_rows_come(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write(pipe, "csv", FRAME.select("n"))
    reader.join()
    assert got == ["n\n1\n2\n\n"]
    assert pipe.is_fifo()


def test_types_that_a_format_does_not_hold_get_a_sentence_or_a_form(tmp_path: Path) -> None:
    huge = pl.DataFrame({"ean": pl.Series([2**64], dtype=pl.Int128)})
    with pytest.raises(OutputError, match=r"Parquet cannot hold one of the columns ean \(Int128\): .*; write JSON Lines or CSV instead"):
        write(tmp_path / "out.parquet", "parquet", huge)
    write(tmp_path / "out.jsonl", "jsonl", FRAME.select("blob"))
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0]) == {"blob": "AP8="}
    assert json.loads(flat(pl.DataFrame({"s": [{"b": b"\xff"}]}))["s"][0]) == {"b": "/w=="}


def test_the_ending_says_the_format() -> None:
    assert [output_format(out, None) for out in ("a.csv", "a.TSV", "a.ndjson", "a.pq", "-")] == ["csv", "tsv", "jsonl", "parquet", "csv"]
    assert output_format("a.txt", "jsonl") == "jsonl"
    for out, asked in (("a.txt", None), ("a.csv", "xls"), ("-", "parquet")):
        with pytest.raises(UsageError):
            output_format(out, asked)
