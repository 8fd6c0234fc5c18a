"""Files of products → batches."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catcli.errors import ProductsError, UsageError
from catcli.products.read import open_source


def read(path: Path, **options: str | None) -> pl.DataFrame:
    return open_source([str(path)], **options).read().frame


def written(folder: Path, content: str | bytes, name: str = "shop.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_unescaped_inch_marks_lose_no_row(tmp_path: Path) -> None:
    path = written(tmp_path, 'title,size\n55" TV,55"\n"40"" TV",40\nplain,1\n')
    assert read(path).rows() == [('55" TV', '55"'), ('40" TV', "40"), ("plain", "1")]


def test_cells_stay_the_text_they_are(tmp_path: Path) -> None:
    assert read(written(tmp_path, "sku,price\n00123,1.50\n1e5,NaN\n")).rows() == [("00123", "1.50"), ("1e5", "NaN")]


def test_an_empty_cell_is_null_and_a_short_row_is_filled(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a,b,c\n1,,3\n4\n\n5,6,7,,\n")).rows() == [("1", None, "3"), ("4", None, None), ("5", "6", "7")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    path = written(tmp_path, f"title{delimiter}category\nmug, blue{delimiter}Home\n" if delimiter != "," else "title,category\nmug,Home\n")
    assert read(path)["category"].to_list() == ["Home"]


@pytest.mark.parametrize(("encoding", "asked"), [("utf-8-sig", None), ("utf-16", None), ("latin-1", "latin-1"), ("utf-8", None)])
def test_encodings_with_a_mark_are_found_and_others_given(tmp_path: Path, encoding: str, asked: str | None) -> None:
    path = written(tmp_path, "title,category\nCafé,Küche\n".encode(encoding))
    assert read(path, encoding=asked).rows() == [("Café", "Küche")]


def test_several_files_are_one(tmp_path: Path) -> None:
    for number in range(3):
        written(tmp_path, f"a,b\n{number},x\n", f"part{number}.csv")
    assert read(tmp_path / "part*.csv")["a"].to_list() == ["0", "1", "2"]


def test_batches_are_bounded_and_in_order(tmp_path: Path) -> None:
    path = written(tmp_path, "n\n" + "".join(f"{number}\n" for number in range(25)))
    batches = list(open_source([str(path)]).batches(10))
    assert [len(batch.frame) for batch in batches] == [10, 10, 5]
    assert [cell for batch in batches for cell in batch.frame["n"]] == [str(number) for number in range(25)]
    assert batches[-1].share == 1.0


def test_a_header_alone_gives_its_columns(tmp_path: Path) -> None:
    assert [batch.frame.columns for batch in open_source([str(written(tmp_path, "a,b\n"))]).batches()] == [["a", "b"]]


def test_json_lines_keep_what_types_they_can(tmp_path: Path) -> None:
    rows = '{"title": "mug", "price": 1.5, "features": ["blue", "big"]}\n' * 150 + '{"title": null, "price": "from 12.00"}\n'
    frame = read(written(tmp_path, rows, "meta.jsonl"))
    assert frame.schema["features"] == pl.List(pl.String)
    assert frame["price"].to_list()[-1] == "from 12.00"


def test_parquet_keeps_its_types_and_a_file_without_rows_its_columns(tmp_path: Path) -> None:
    frame = pl.DataFrame({"n": pl.Series([1, 2], dtype=pl.Int16), "t": ["a", None]})
    frame.write_parquet(tmp_path / "full.parquet")
    frame.clear().write_parquet(tmp_path / "none.parquet")
    assert read(tmp_path / "full.parquet").equals(frame)
    assert read(tmp_path / "none.parquet").schema == frame.schema


def test_standard_input_is_read_as_csv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a,b\n1,2\n")))
    assert open_source(["-"]).read().frame.rows() == [("1", "2")]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("shop.csv", b"", "{path} is empty: a header line with column names has to come first."),
        ("shop.csv", b"\n\n", "{path} is empty: a header line with column names has to come first."),
        ("shop.csv", b"a,b\n1,2,3\n", "{path} line 2 has 3 cells where the header has 2; quote the cell that holds the delimiter, or pass"),
        ("shop.csv", b"a,a\n1,2\n", "{path} has the column 'a' 2 times; give each column a name of its own."),
        (
            "shop.csv",
            b'a,b\n1,2\n3,"open\n5,6\n',
            "{path}: the quote that opens a cell in line 3, '3,\"open', is not closed properly; close it, or",
        ),
        ("shop.csv", b"a,b\ncaf\xe9,2\n", "{path} is not utf-8 (byte 0xe9 after line 0); pass --encoding, often latin-1 or cp1252."),
        ("shop.csv", b"PAR1xxxx", "{path} is a Parquet file, not CSV text; unpack, rename or export it first."),
        ("shop.csv", b"PK\x03\x04xxxx", "{path} is a zip archive or an Excel workbook, not CSV text"),
        ("shop.jsonl", b"", "{path} is empty: it has no JSON Lines in it."),
        ("shop.jsonl", b'{"a": 1}\n{"a": \n', "{path} cannot be read as JSON Lines: "),
        ("shop.parquet", b"", "{path} is empty: it has no Parquet in it."),
        ("shop.parquet", b"a,b\n1,2\n", "{path} is no Parquet file: it does not begin with PAR1; if it is text, pass --input-format csv."),
        ("shop.xyz", b"a,b\n", "{path}: the ending '.xyz' names no format that catcli reads"),
    ],
)
def test_a_file_that_cannot_be_read_gets_a_sentence(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    path = written(tmp_path, content, name)
    with pytest.raises(ProductsError) as raised:
        read(path)
    assert str(raised.value).startswith(sentence.format(path=path))


def test_a_parquet_cut_in_half_gets_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "half.parquet"
    pl.DataFrame({"a": list(range(1000))}).write_parquet(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ProductsError, match=r"half\.parquet cannot be read as Parquet: .*; is it whole\? Export or copy it again\.$"):
        read(path)


def test_a_name_that_is_not_there_says_what_is(tmp_path: Path) -> None:
    written(tmp_path, "a\n1\n", "offers.csv")
    with pytest.raises(ProductsError, match=r"there is no file .*offer\.csv; .* holds 'offers\.csv'\.$"):
        read(tmp_path / "offer.csv")


def test_files_of_different_columns_are_not_mixed(tmp_path: Path) -> None:
    written(tmp_path, "a,b\n1,2\n", "1.csv")
    written(tmp_path, "a,c\n1,2\n", "2.csv")
    with pytest.raises(ProductsError, match="differ in columns 'b', 'c'; give files of one layout a run"):
        read(tmp_path / "*.csv")


@pytest.mark.parametrize(
    "content",
    [
        'id,title,b\n1,"12 inch tv,x\n2,foo,z\n3,"13 inch" tv,y\n4,d,e\n',
        'id,title\n1,"a\n2,b\n3,"c" d\n4,e\n',
        'id,"title\n1,a\n2,b\n',
    ],
)
def test_a_quote_that_swallows_rows_stops_the_run(tmp_path: Path, content: str) -> None:
    with pytest.raises(ProductsError, match=r"the quote that opens a cell in line [12], .* is not closed properly; close it, or double"):
        read(written(tmp_path, content))


def test_quoted_cells_may_hold_line_breaks(tmp_path: Path) -> None:
    assert read(written(tmp_path, 'a,b\n"x\ny, ""z""",1\n2,3\n')).rows() == [('x\ny, "z"', "1"), ("2", "3")]


def test_a_file_that_breaks_off_in_mid_row_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(ProductsError, match=r"breaks off in line 3, after 2 of 3 cells; copy the file again\."):
        read(written(tmp_path, "a,b,c\n1,2,3\n4,5"))
    assert len(read(written(tmp_path, "a,b,c\n1,2,3\n4,5,6"))) == 2


def test_short_rows_are_counted(tmp_path: Path) -> None:
    assert open_source([str(written(tmp_path, "a,b,c\n1\n1,2,3\n1,2\n"))]).read().short == 2


def test_names_that_polars_would_take_for_patterns_are_names(tmp_path: Path) -> None:
    frame = read(written(tmp_path, ",*,^a.*$,column_2\n1,2,3,4\n"))
    assert (frame.columns, frame.rows()) == (["", "*", "^a.*$", "column_2"], [("1", "2", "3", "4")])
    (tmp_path / "br[1].jsonl").write_text('{"a": 1}\n')
    (tmp_path / "br1.jsonl").write_text('{"a": 2}\n')
    assert read(tmp_path / "br[1].jsonl")["a"].to_list() == [1]


def test_json_lines_have_the_columns_of_any_file(tmp_path: Path) -> None:
    written(tmp_path, '{"t": "drill", "z": 1, "n": null}\n', "1.jsonl")
    written(tmp_path, '{"t": "mug", "ean": "40", "z": "x", "n": 2}\n', "2.jsonl")
    frame = read(tmp_path / "*.jsonl")
    assert frame.rows(named=True) == [{"t": "drill", "z": "1", "n": None, "ean": None}, {"t": "mug", "z": "x", "n": 2, "ean": "40"}]


def test_a_damaged_page_never_shortens_a_parquet_in_silence(tmp_path: Path) -> None:
    titles = [f"mug number {row} in blue" for row in range(5000)]
    pl.DataFrame({"title": titles, "n": range(5000)}).write_parquet(tmp_path / "whole.parquet", row_group_size=1000)
    whole = (tmp_path / "whole.parquet").read_bytes()
    for place in range(10, len(whole) - 10, len(whole) // 60):
        content = bytearray(whole)
        content[place] ^= 0xFF
        path = written(tmp_path, bytes(content), "damaged.parquet")
        try:
            assert len(read(path)) == 5000
        except ProductsError as error:
            assert str(path) in str(error)


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("a,b\n1,2\n",))
    writer.start()
    source = open_source([str(pipe)], input_format="csv")
    writer.join()
    assert [source.read().frame.rows() for _ in range(2)] == [[("1", "2")]] * 2
    with pytest.raises(UsageError, match="standard input"):
        open_source(["-", "-"])


@pytest.mark.parametrize("options", [{"input_format": "xls"}, {"delimiter": "::"}, {"encoding": "klingon"}, {"encoding": "hex"}])
def test_options_that_mean_nothing_are_wrong_usage(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(options.values()))):
        read(written(tmp_path, "a\n1\n"), **options)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_are_rows_or_a_sentence(tmp_path: Path, content: bytes) -> None:
    for name in ("x.csv", "x.parquet"):
        try:
            read(written(tmp_path, content, name))
        except ProductsError as error:
            assert str(tmp_path) in str(error)
