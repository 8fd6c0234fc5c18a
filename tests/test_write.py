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
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import add_part, part_inputs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catcli import private_folder
from catcli.data.io.batch import Batch
from catcli.data.io.csv_cells import flatten_cells
from catcli.data.io.output import FileFormat, OutputFormat, file_format, write_errors
from catcli.data.io.part_file import PartFile, PartOptions
from catcli.data.io.parts import Parts, PartsInput
from catcli.data.io.source import open_source
from catcli.data.io.writers import open_pipe
from catcli.errors import OutputError, UsageError

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


NOTHING = pl.DataFrame()


def parts_of(path: Path, form: OutputFormat | None = None, *, mark: str = "a", resume: bool = False) -> Parts:
    return Parts(str(path), file_format(str(path), form), part_inputs("in-0.csv"), {"the options": mark}, resume=resume).__enter__()


def write(path: Path, form: OutputFormat, *frames: pl.DataFrame) -> None:
    """Write a file of as many parts as there are frames."""
    parts = parts_of(path, form)
    try:
        for number, frame in enumerate(frames):
            add_part(parts, Batch(frame, 1.0, index=number))
        parts.finish(Batch(frames[0].clear(), 1.0))
    finally:
        parts.close()


def test_parquet_keeps_every_type_over_several_frames(tmp_path: Path) -> None:
    write(tmp_path / "out.parquet", "parquet", FRAME, FRAME.clear(), FRAME)
    assert open_source([str(tmp_path / "out.parquet")]).read().frame.equals(pl.concat([FRAME, FRAME]))
    assert pl.read_parquet(tmp_path / "out.parquet").schema == FRAME.schema


@pytest.mark.parametrize("name", ["out.csv", "out.tsv.gz", "out.jsonl.zst", "out.parquet", "out.arrow"])
def test_parts_are_put_together_as_if_they_were_one(tmp_path: Path, name: str) -> None:
    frame = FRAME.select("sku", "n", "tags", "since")
    form = file_format(name, None).format
    write(tmp_path / f"one.{name}", form, pl.concat([frame, frame]))
    write(tmp_path / f"two.{name}", form, frame, frame)
    one, two = (open_source([str(tmp_path / f"{count}.{name}")]).read().frame for count in ("one", "two"))
    assert two.equals(one)
    assert len(two) == 2 * len(frame)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"one.{name}", f"two.{name}"]


def test_a_table_comes_out_with_types_that_polars_has_no_name_for(tmp_path: Path) -> None:
    table = pa.table(
        {
            "sku": pa.array(["1"], pa.string()),
            "at": pa.array([5], pa.time32("s")),
            "tags": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
        }
    )
    table = table.replace_schema_metadata({"made by": "a test"})
    pq.write_table(table, tmp_path / "in.parquet")
    batch = next(open_source([str(tmp_path / "in.parquet")]).batches())
    parts = parts_of(tmp_path / "out.parquet")
    add_part(parts, batch)
    parts.finish(batch.slice(0, 0))
    table, out = pq.read_table(tmp_path / "in.parquet"), pq.read_table(tmp_path / "out.parquet")
    assert out.schema.equals(table.schema, check_metadata=True)
    assert out.equals(table)


def test_json_lines_come_out_as_they_came_in(tmp_path: Path) -> None:
    lines = ['{"id": 1.0, "big": 123456789012345678901234567890, "x": {"b": 1, "a": null}}', '{"id": "one"}', "{}", '{"é": "\\u00e9"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    batch = next(open_source([str(tmp_path / "in.jsonl")]).batches())
    parts = parts_of(tmp_path / "out.jsonl")
    add_part(parts, batch, batch.columns, pl.DataFrame({"ours": [1, 2, 3, None]}))
    parts.finish(batch.slice(0, 0))
    out = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert out == [lines[0][:-1] + ', "ours":1}', '{"id": "one", "ours":2}', '{"ours":3}', '{"é": "\\u00e9", "ours":null}']
    parts = parts_of(tmp_path / "less.jsonl")
    add_part(parts, batch, ["id"], pl.DataFrame({"ours": [1, 2, 3, 4]}))
    parts.finish(batch.slice(0, 0))
    assert json.loads((tmp_path / "less.jsonl").read_text().splitlines()[0]) == {"id": 1.0, "ours": 1}


def test_no_rows_are_a_file_with_its_columns(tmp_path: Path) -> None:
    forms: tuple[OutputFormat, ...] = ("parquet", "csv")
    for form in forms:
        write(tmp_path / f"none.{form}", form, FRAME.clear())
        assert open_source([str(tmp_path / f"none.{form}")]).read().frame.columns == FRAME.columns


def test_csv_writes_nested_cells_as_json_and_bytes_as_base64() -> None:
    row = flatten_cells(FRAME).row(0, named=True)
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
    forms: tuple[OutputFormat, ...] = ("csv", "tsv", "jsonl", "parquet", "arrow")
    for form in forms:
        path = tmp_path / f"table.{form}"
        write(path, form, frame)
        delimiter = {"csv": ",", "tsv": "\t"}.get(form)
        # A JSON Lines column of nulls alone has no type of its own; its cells are what must agree.
        assert open_source([str(path)], delimiter=delimiter).read().frame.cast(pl.String).rows() == frame.rows()


# --- whole or not at all -------------------------------------------------------------------------------------------------------------


def test_a_run_that_fails_leaves_what_stood_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("mine")
    parts = parts_of(path)
    options = PartOptions(str(path), parts.folder, parts.form, ["0" * 12])
    with pytest.raises(KeyboardInterrupt), PartFile(options.path(0, 0), options) as part:
        part.write(Batch(FRAME, 1.0), FRAME.columns, NOTHING)
        raise KeyboardInterrupt
    assert sorted(entry.name for entry in parts.folder.iterdir()) == [".made-by-catcli", "journal.jsonl", "lock"]
    parts.close()
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


def test_finished_parts_survive_and_are_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    parts = parts_of(path)
    add_part(parts, Batch(FRAME, 1.0))
    parts.commit()
    parts.close()
    assert not path.exists()
    with (parts.folder / "journal.jsonl").open("a") as journal:
        journal.write('{"part": "00000')  # as a kill leaves it
    (parts.folder / f"{'0' * 12}-{0:06}-{1:06}.0a1b2c3d.new").write_text("half a part")
    parts_of(path, resume=True).close()
    again = parts_of(path, resume=True)
    assert again.shards() == {(0, 0, 0): 3}
    assert sorted(entry.name for entry in parts.folder.iterdir()) == [
        *(".made-by-catcli", f"{'0' * 12}-{0:06}-{0:06}", "journal.jsonl", "lock")
    ]
    add_part(again, Batch(FRAME, 1.0, index=1))
    again.finish(Batch(FRAME.clear(), 1.0))
    assert len(open_source([str(path)]).read()) == 6
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


def test_parts_of_something_else_are_not_gone_on_from(tmp_path: Path) -> None:
    parts = parts_of(tmp_path / "out.csv")
    add_part(parts, Batch(FRAME, 1.0))
    parts.commit()
    parts.close()
    with pytest.raises(
        OutputError, match="--resume: the options changed since the run that was stopped, so its 3 rows cannot be continued"
    ):
        parts_of(tmp_path / "out.csv", mark="b", resume=True)
    again = parts_of(tmp_path / "out.csv", mark="b")
    assert (again.discarded, again.changed, again.done) == (3, ["the options"], {})
    again.close()
    assert list(tmp_path.iterdir()) == []


def test_of_files_that_changed_the_parts_are_made_again_and_no_others(tmp_path: Path) -> None:
    """A file that was mended, one that came between, and one that is gone: each costs its own parts."""
    before = [PartsInput(Path(name), identity * 12, name) for name, identity in (("a.csv", "a"), ("b.csv", "b"), ("c.csv", "c"))]
    parts = Parts(str(tmp_path / "out.csv"), FileFormat("csv"), before, {}, resume=False).__enter__()
    options = PartOptions(parts.out, parts.folder, parts.form, [entry.identity for entry in before])
    for number in range(3):
        with PartFile(options.path(number, 0), options) as part:
            part.write(Batch(FRAME.select("n"), 1.0), ["n"], NOTHING)
        parts.add(options.path(number, 0).name, {"rows": 3})
    parts.commit()
    parts.close()
    now = [PartsInput(Path(name), identity * 12, name) for name, identity in (("0.csv", "0"), ("a.csv", "a"), ("b.csv", "d"))]
    again = Parts(str(tmp_path / "out.csv"), FileFormat("csv"), now, {}, resume=True).__enter__()
    assert again.shards() == {(1, 0, 0): 3}
    assert (again.discarded, again.changed) == (3, ["b.csv"])
    (again.folder / next(iter(again.done.values())).part).unlink()
    again.close()
    last = Parts(str(tmp_path / "out.csv"), FileFormat("csv"), now, {}, resume=True).__enter__()
    assert (last.shards(), last.discarded, last.changed) == ({}, 3, [])
    last.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "error"), [("_write_journal", OSError(errno.ENOSPC, "full")), ("_read_journal", KeyboardInterrupt())])
def test_a_run_that_ends_as_it_begins_leaves_what_the_one_before_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException
) -> None:
    parts = parts_of(tmp_path / "out.csv")
    add_part(parts, Batch(FRAME, 1.0))
    parts.commit()
    parts.close()

    def stopped(_: Parts) -> None:
        raise error

    with monkeypatch.context() as patch, pytest.raises((OutputError, KeyboardInterrupt)):
        patch.setattr(Parts, name, stopped)
        parts_of(tmp_path / "out.csv")
    again = parts_of(tmp_path / "out.csv", resume=True)
    assert again.shards() == {(0, 0, 0): 3}
    again.close()


def test_nothing_is_kept_of_what_came_through_a_pipe(tmp_path: Path) -> None:
    with Parts(str(tmp_path / "out.csv"), FileFormat("csv"), part_inputs("-"), {}, resume=False, keep=False) as parts:
        add_part(parts, Batch(FRAME, 1.0))
        parts.commit()
        assert parts.kept == 0
    assert list(tmp_path.iterdir()) == []


def test_two_runs_do_not_write_to_one_place(tmp_path: Path) -> None:
    first = parts_of(tmp_path / "out.csv")
    with pytest.raises(OutputError, match=r"out\.csv is being written by another run; wait for it"):
        parts_of(tmp_path / "out.csv")
    first.close()
    parts_of(tmp_path / "out.csv").close()


def test_a_folder_gets_a_file_for_each_input_and_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        places_in = part_inputs("in-0.csv", "below/in-1.csv.gz")
        with Parts(f"{out}/", file_format(f"{out}/", "parquet"), places_in, {}, resume=False) as parts:
            for number in range(2):
                add_part(parts, Batch(FRAME, 1.0, part=number))
            parts.finish(Batch(FRAME.clear(), 1.0))
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.parquet")) == ["below/in-1.parquet", "in-0.parquet"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'mine\.txt', which this run would not write; a folder is replaced whole"):
        Parts(f"{out}/", file_format(f"{out}/", "parquet"), places_in, {}, resume=False)
    assert (out / "mine.txt").exists()


def test_a_folder_that_a_kill_left_aside_comes_back(tmp_path: Path) -> None:
    private_folder.claim(tmp_path / ".out.catcli-parts")
    old = tmp_path / ".out.catcli-parts" / "old"
    old.mkdir()
    (old / "in-0.csv").write_text("mine")
    with Parts(f"{tmp_path / 'out'}/", file_format(f"{tmp_path / 'out'}/", "csv"), part_inputs("in-0.csv"), {}, resume=False):
        pass
    assert (tmp_path / "out" / "in-0.csv").read_text() == "mine"


def test_a_full_disk_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"out\.csv: the disk is full; free some space and run the same command again\."):
        with write_errors(str(tmp_path / "out.csv")):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_places_that_cannot_be_written_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder .*; make it with 'mkdir -p"):
        parts_of(tmp_path / "no" / "x.csv")


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
    with open_pipe(str(pipe), FileFormat("csv")) as sink:
        sink.write(Batch(FRAME.select("n"), 1.0), ["n"], NOTHING)
    reader.join()
    assert got == ["n\n1\n2\n\n"]
    assert pipe.is_fifo()


def test_types_that_a_format_does_not_hold_get_a_sentence_or_a_form(tmp_path: Path) -> None:
    huge = pl.DataFrame({"ean": pl.Series([2**64], dtype=pl.Int128)})
    with pytest.raises(OutputError, match=r"cannot hold one of the columns .*ean.*; write JSON Lines or CSV instead"):
        write(tmp_path / "out.parquet", "parquet", huge)
    write(tmp_path / "out.jsonl", "jsonl", FRAME.select("blob"))
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0]) == {"blob": "AP8="}
    assert json.loads(flatten_cells(pl.DataFrame({"s": [{"b": b"\xff"}]}))["s"][0]) == {"b": "/w=="}


def test_the_ending_says_the_format(tmp_path: Path) -> None:
    outs = ("a.csv", "a.TSV", "a.ndjson", "a.pq", "-", "a.feather", "a.csv.gz")
    found = [file_format(out, None) for out in outs]
    assert [form.format for form in found] == ["csv", "tsv", "jsonl", "parquet", "csv", "arrow", "csv"]
    assert found[-1].packing == ".gz"
    assert file_format("a.txt", "jsonl").format == "jsonl"
    assert file_format(str(tmp_path), None, "parquet").format == "parquet"
    for out, asked in (("a.txt", None), ("a.csv", "xls"), ("-", "parquet"), ("a.parquet.gz", None), ("a.xlsx", None)):
        with pytest.raises(UsageError):
            file_format(out, asked)
