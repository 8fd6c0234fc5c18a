"""Parquet files laid end to end without decoding them: the rows, types and metadata of all, and row groups that readers like."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catcli.data.io import parquet_files
from catcli.data.io.parquet_files import OtherSchemaError, concatenate_parquet

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("title", pa.string(), metadata={"language": "en"}),
        pa.field("tags", pa.list_(pa.struct([("name", pa.string()), ("weight", pa.float32())]))),
        pa.field("shelf", pa.dictionary(pa.int16(), pa.string())),
        pa.field("sold", pa.bool_()),
        pa.field("price", pa.decimal128(12, 2)),
    ],
    metadata={"made by": "a test"},
)


def table(rows: int, start: int = 0) -> pa.Table:
    numbers = range(start, start + rows)
    columns = [
        pa.array(numbers, pa.int64()),
        pa.array([None if number % 7 == 0 else f"title {number % 97}" for number in numbers], pa.string()),
        pa.array([[{"name": "x", "weight": number}] * (number % 3) for number in numbers], SCHEMA.field("tags").type),
        pa.array([f"shelf {number % 5}" for number in numbers], pa.string()).dictionary_encode().cast(SCHEMA.field("shelf").type),
        pa.array([number % 2 == 0 for number in numbers], pa.bool_()),
        pa.array(list(numbers), pa.int64()).cast(pa.decimal128(38, 2)).cast(pa.decimal128(12, 2)),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def parts(folder: Path, *sizes: int) -> list[Path]:
    start, paths = 0, []
    for number, rows in enumerate(sizes):
        paths.append(folder / f"{number:03}")
        pq.write_table(table(rows, start), paths[-1], compression="zstd", row_group_size=40_000)
        start += rows
    return paths


def laid_together(paths: list[Path], max_rows: int = 65_536, max_bytes: int = 2**25) -> bytes:
    packed = io.BytesIO()
    concatenate_parquet(paths, packed, max_rows, max_bytes)
    return packed.getvalue()


@pytest.mark.parametrize("sizes", [(5,), (0,), (100, 200, 300), (20_000, 50, 60, 50_000, 0, 17_000), (3,) * 40, (16_384, 16_383)])
def test_files_laid_together_have_all_rows_types_and_metadata(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    whole = tmp_path / "whole.parquet"
    whole.write_bytes(laid_together(parts(tmp_path, *sizes)))
    expected = table(sum(sizes))
    found = pq.read_table(whole)
    assert found.to_pydict() == expected.to_pydict()
    first = pq.read_table(tmp_path / "000")
    assert found.schema.equals(first.schema, check_metadata=True)
    assert pq.read_metadata(whole).num_rows == sum(sizes)
    # polars trusts the statistics of the footer to leave out row groups.
    lazy = pl.scan_parquet(whole).filter(pl.col("id") >= sum(sizes) - 10).select("id")
    assert lazy.collect()["id"].to_list() == list(range(max(0, sum(sizes) - 10), sum(sizes)))


def test_row_groups_of_large_files_are_copied_and_small_files_share_one(tmp_path: Path) -> None:
    paths = parts(tmp_path, 100, 200, 50_000, 300, 400, 500)
    whole = laid_together(paths)
    metadata = pq.read_metadata(io.BytesIO(whole))
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [300, 40_000, 10_000, 1_200]
    large = paths[2].read_bytes()
    chunk = pq.read_metadata(paths[2]).row_group(0).column(1)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    assert large[start : start + chunk.total_compressed_size] in whole


def test_small_files_of_long_rows_are_not_held_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    encode = parquet_files._encoded

    def counted(tables: list[pa.Table]) -> io.BytesIO:
        held.append(len(tables))
        return encode(tables)  # type: ignore[return-value]

    monkeypatch.setattr(parquet_files, "_encoded", counted)
    paths = parts(tmp_path, *[100] * 20)
    metadata = pq.read_metadata(io.BytesIO(laid_together(paths, max_bytes=3 * table(100).nbytes)))
    assert max(held) <= 4
    assert metadata.num_rows == 2_000


def test_files_of_other_columns_or_metadata_are_not_laid_together(tmp_path: Path) -> None:
    pq.write_table(table(10), tmp_path / "a")
    pq.write_table(table(10).drop_columns(["sold"]), tmp_path / "b")
    pq.write_table(table(20_000).replace_schema_metadata({"made by": "another"}), tmp_path / "c")
    for other in "bc":
        with pytest.raises(OtherSchemaError):
            laid_together([tmp_path / "a", tmp_path / other])


def test_a_footer_is_written_as_it_was_read(tmp_path: Path) -> None:
    frame = pl.DataFrame({f"column {number}": np.arange(200) / 3 for number in range(40)})
    frame.write_parquet(tmp_path / "a.parquet", row_group_size=9, statistics="full")
    content = (tmp_path / "a.parquet").read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    out = bytearray()
    parquet_files._write_struct(out, parquet_files._Reader(content[-8 - length : -8]).struct())
    assert bytes(out) == content[-8 - length : -8]
