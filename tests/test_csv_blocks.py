"""CSV by polars: the rows that Python's csv reads, whatever the file; and which blocks polars reads."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catcli.data.io import csv_reader
from catcli.data.io.batch import BadRowPolicy
from catcli.data.io.csv_blocks import parse_block
from catcli.data.io.csv_reader import CsvOptions, read_rows
from catcli.errors import CatcliError
from catcli.logs import LOGGER

POLICIES: tuple[BadRowPolicy, ...] = ("stop", "skip", "null")


def read(file: Path, options: CsvOptions) -> object:
    """All batches as Python objects, or the sentence that ends the reading."""
    try:
        batches = list(read_rows(file, options, 7))
    except CatcliError as error:
        return str(error)
    return [(batch.select(batch.columns).to_dicts(), batch.columns, batch.short, batch.bad, batch.nulls) for batch in batches]


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, str]:
    """The text of a file, often nearly a table, and its delimiter."""
    delimiter, end = draw(st.sampled_from(",;\t|")), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    width = draw(st.integers(1, 4))
    letters = draw(st.sampled_from(["ab é'-0\u2028", 'a é"\n\r\x1a\x00\ufeff' + delimiter]))
    plain = st.text(st.sampled_from(list(letters)), max_size=5)
    quoted = plain.map(lambda cell: '"' + cell.replace('"', '""') + '"')
    with_ends = st.sampled_from(["\n", "\r\n", "\r", delimiter, '""', "a"]).map(lambda cell: f'"{cell}"')
    odd = st.sampled_from(['55" TV', '"13 inch" TV', '"tv 32" lcd"', '"', '""x', '"', ' "a"'])
    cell = draw(st.sampled_from([plain, quoted | plain, quoted | with_ends | plain, quoted | plain | odd]))
    row = st.lists(cell, min_size=width, max_size=width)
    some = st.lists(row | st.lists(cell, max_size=5) if draw(st.booleans()) else row, max_size=12)
    header = delimiter.join(f"h{number}" for number in range(width))
    return end.join([header, *map(delimiter.join, draw(some))]) + draw(st.sampled_from([end, ""])), delimiter


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(tables(), st.sampled_from(POLICIES), st.sampled_from([3, 20, 100, 2**18]))
def test_blocks_give_the_rows_that_csv_gives(tmp_path: Path, table: tuple[str, str], policy: BadRowPolicy, size: int) -> None:
    text, delimiter = table
    (tmp_path / "in.csv").write_bytes(text.encode())
    options = CsvOptions(delimiter, "utf-8-sig", policy)
    with mock.patch.object(csv_reader, "BLOCK_CHARACTERS", size):
        by_blocks = read(tmp_path / "in.csv", options)
        with mock.patch.object(csv_reader, "parse_block", return_value=None):
            assert by_blocks == read(tmp_path / "in.csv", options)


@pytest.mark.parametrize(
    ("text", "rows", "rest"),
    [
        ("a,b\n1,\n", [("a", "b"), ("1", None)], ""),
        ("a,b\r\n1,2\r\n", [("a", "b"), ("1", "2")], ""),
        ('"a, ""x""",b\n"",2\n', [('a, "x"', "b"), (None, "2")], ""),
        ('"a\nb\r\n",c\nd,"e', [("a\nb\r\n", "c")], 'd,"e'),
        ('55" TV,a\nb,4"\n', [('55" TV', "a"), ("b", '4"')], ""),
        ("a,b\nc", [("a", "b")], "c"),
    ],
)
def test_polars_reads_what_is_regular(text: str, rows: list[tuple[str | None, ...]], rest: str) -> None:
    parsed = parse_block(text, ",", 2)
    assert parsed is not None
    assert (parsed[0].rows(), parsed[1]) == (rows, rest)


@pytest.mark.parametrize(
    "text",
    [
        "a,b\nc\n",  # a cell short
        "a,b\nc,d,e\n",
        "a,b\n\nc,d\n",  # a blank line
        '"13 inch" TV,b\n',
        '"a,b\n',  # not closed
        "a\rb,c\n",
        "a,\x1a\n",
        "a,\udce9\n",  # a byte that is not of the encoding
        "\ufeffa,b\n",
        "a,b",
    ],
)
def test_what_is_irregular_is_left_to_csv(text: str) -> None:
    assert parse_block(text, ",", 2) is None


@pytest.mark.parametrize("cell", ["x\x016", "xڪ", "x\u0680"])
def test_what_looks_compressed_to_polars_is_left_to_csv(tmp_path: Path, cell: str) -> None:
    assert parse_block(f"{cell},b\n", ",", 2) is None
    (tmp_path / "in.csv").write_text(f"title,b\n{cell},1\n", encoding="utf-8")
    (batch,) = read_rows(tmp_path / "in.csv", CsvOptions(",", "utf-8-sig", "stop"), 7)
    assert batch.select(["title"])["title"].to_list() == [cell]


def test_a_delimiter_that_is_no_byte_is_left_to_csv() -> None:
    assert parse_block("a\u00a6b\n", "\u00a6", 2) is None
    assert parse_block("a\nb\n", ",", 1) is not None
    assert parse_block("a\n\nb\n", ",", 1) is None


def test_one_odd_row_leaves_few_others_to_csv(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"mug {number},Mugs" for number in range(60_000)]
    rows[30_000] = '"13 inch" TV,TVs'
    (tmp_path / "in.csv").write_text("title,category\n" + "\n".join(rows) + "\n")
    with caplog.at_level("DEBUG", LOGGER.name):
        batches = list(read_rows(tmp_path / "in.csv", CsvOptions(), 16_384))
    assert sum(map(len, batches)) == 60_000
    assert batches[1].select(["title"])["title"][30_000 - 16_384] == '"13 inch" TV'
    (said,) = [record.message for record in caplog.records if "polars read" in record.message]
    assert 40_000 < int(said.split("polars read ")[1].split()[0].replace(",", "")) < 60_000
