"""Every type that a catalog in Arrow or Parquet can have goes through predict, or gets a sentence that names the column."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FIXTURE, small_shards

from catcli.data.io.arrow_types import decode_dictionaries, plain_types
from catcli.errors import CatcliError
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions

WORDS = ["blue", "red", None, "größe"]


def encoded(words: list[str | None], kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(words, kind).dictionary_encode()


COLUMNS: dict[str, pa.Array] = {
    "dictionary": encoded(WORDS),
    "dictionary of views": pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 1], pa.uint32()), pa.array(["a", "b"], pa.string_view())),
    "list of dictionary": pa.ListArray.from_arrays(pa.array([0, 1, 2, 2, 3]), encoded(["a", "b", "a"])),
    "struct of dictionary": pa.StructArray.from_arrays([encoded(WORDS)], ["x"]),
    "view": pa.array(WORDS, pa.string_view()),
    "bytes in views": pa.array([b"a", None, b"\xff", b""], pa.binary_view()),
    "large list of views": pa.array([["a"], None, [], ["b", None]], pa.large_list(pa.string_view())),
    "list of views": pa.array([["a"], None, [], ["b", "c"]], pa.list_(pa.string_view())),
    "fixed list of views": pa.array([["a", "b"], None, ["c", "d"], ["e", "f"]], pa.list_(pa.string_view(), 2)),
    "struct of views": pa.array([{"x": "a"}, None, {"x": None}, {"x": "b"}], pa.struct([("x", pa.string_view())])),
    "map": pa.array([[("a", 1)], None, [], [("b", 2)]], pa.map_(pa.string(), pa.int64())),
    "map of views": pa.array([[("a", "x")], None, [], [("b", "y")]], pa.map_(pa.string(), pa.string_view())),
    "list view": pa.array([[1], None, [], [2, 3]], pa.list_view(pa.int64())),
    "large list view": pa.array([["1"], None, [], ["2"]], pa.large_list_view(pa.string_view())),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2, 4], pa.int32()), pa.array(["a", "b"])),
    "decimal": pa.array([decimal.Decimal("1.5"), None, decimal.Decimal("2.25"), None], pa.decimal128(20, 2)),
    "wide decimal": pa.array([decimal.Decimal("1.5")] * 4, pa.decimal256(50, 2)),
    "interval": pa.array([pa.MonthDayNano([1, 2, 3])] * 4),
    "union": pa.UnionArray.from_sparse(pa.array([0, 1, 0, 1], pa.int8()), [pa.array([1, 2, 3, 4]), pa.array(["a", "b", "c", "d"])]),
    "null": pa.nulls(4),
    "fixed bytes": pa.array([b"ab", b"cd", None, b"ef"], pa.binary(2)),
    "half": pa.array(np.array([1, 2, 3, 4], np.float16)),
    "time": pa.array([datetime.time(1, 2), None, datetime.time(3, 4), None], pa.time32("s")),
    "duration": pa.array([datetime.timedelta(days=1), None, None, datetime.timedelta(seconds=2)], pa.duration("ms")),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16] * 4, pa.binary(16))),
}


def catalog(path: Path, column: pa.Array) -> pa.Table:
    """Ten batches of four rows, each with dictionaries of its own where the column has some."""
    other = column
    if pa.types.is_dictionary(column.type):
        words = pa.array(["green", "blue"], column.type.value_type)
        other = pa.DictionaryArray.from_arrays(pa.array([1, None, 0, 0], column.type.index_type), words)
    columns = [{"title": [f"mug {number} {row}" for row in range(4)], "odd": (column, other)[number % 2]} for number in range(10)]
    batches = list(map(pa.record_batch, columns))
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_batches(batches), path)
        return pq.read_table(path)
    with pa.ipc.new_stream(path, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return pa.Table.from_batches(batches)


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("ending", ["arrow", "parquet", "jsonl", "csv"])
def test_a_column_of_any_type_passes_or_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, ending: str) -> None:
    small_shards(monkeypatch, 12)  # several parts, and spills of the review
    try:
        came = catalog(tmp_path / ("catalog.parquet" if ending == "parquet" else "catalog.arrow"), COLUMNS[kind])
    except pa.ArrowNotImplementedError:
        pytest.skip(f"Parquet has no {kind}")
    source = next(tmp_path.glob("catalog.*"))
    out, review = tmp_path / f"out.{ending}", tmp_path / f"review.{ending}"
    asked = PredictOptions(str(out), str(FIXTURE), device="cpu", min_confidence=0.999, review=str(review))
    try:
        done = predict([str(source)], asked)
    except CatcliError as error:
        assert ending in ("jsonl", "csv", "parquet"), str(error)
        assert "'odd'" in str(error)
        assert {path.name for path in tmp_path.iterdir()} == {source.name}
        return
    assert (done.rows, done.below) == (40, 40)
    if ending in ("arrow", "parquet"):
        went = pa.ipc.open_file(out).read_all() if ending == "arrow" else pq.read_table(out)
        assert went.column("odd").to_pylist() == came.column("odd").to_pylist()
        reviewed = pa.ipc.open_file(review).read_all() if ending == "arrow" else pq.read_table(review)
        by_title = dict(zip(came.column("title").to_pylist(), came.column("odd").to_pylist(), strict=True))
        assert [by_title[title] for title in reviewed.column("title").to_pylist()] == reviewed.column("odd").to_pylist()
    else:
        assert len(out.read_text().splitlines()) == 40 + (ending == "csv")


def test_what_polars_writes_of_lists_and_categories_goes_out_again(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "title": ["mug", "drill", "coffee"],
            "color": pl.Series(["blue", None, "red"], dtype=pl.Categorical),
            "tags": [["a", "b"], [], None],
        }
    )
    frame.write_ipc(tmp_path / "catalog.arrow")
    asked = PredictOptions(
        str(tmp_path / "out.arrow"), str(FIXTURE), device="cpu", min_confidence=0.999, review=str(tmp_path / "review.arrow")
    )
    predict([str(tmp_path / "catalog.arrow")], asked)
    went = pl.read_ipc(tmp_path / "out.arrow")
    assert went.select(frame.columns).equals(frame.with_columns(pl.col("color").cast(pl.String)))
    assert len(pl.read_ipc(tmp_path / "review.arrow")) == 3


def test_plain_types_are_those_of_which_rows_can_be_taken() -> None:
    for name, column in COLUMNS.items():
        table = pa.table({"odd": column})
        assert plain_types(table).take(pa.array([3, 0])).column(0).to_pylist() == [column.to_pylist()[3], column.to_pylist()[0]], name
        assert decode_dictionaries(table).column(0).to_pylist() == column.to_pylist(), name
