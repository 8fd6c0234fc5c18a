"""Files of products → batches."""

from __future__ import annotations

import gzip
import io
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catcli.data.io.source import open_source
from catcli.errors import ProductsError, UsageError


def read(path: Path | str, **options: Any) -> pl.DataFrame:  # noqa: ANN401  (those of open_source)
    return open_source([str(path)], **options).read().frame


def written(folder: Path, content: str | bytes, name: str = "shop.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zstd(data: bytes) -> bytes:
    buffer = io.BytesIO()
    buffer.close = lambda: None  # type: ignore[method-assign]  # it is read after the compressor has closed it
    with pa.CompressedOutputStream(pa.PythonFile(buffer, "w"), "zstd") as packed:
        packed.write(data)
    return buffer.getvalue()


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
        ("shop.csv", b"a,b\n\x83J\x81[,2\n", "{path} is neither UTF-8, UTF-16 nor Latin-1; say what it is with --encoding, such as cp1250"),
        ("shop.csv.gz", gzip.compress(b"a,b\n1,2\n" * 9, mtime=0)[:-9], "{path} is truncated: the gzip stream ends early; copy it again."),
        ("shop.xlsx", b"a,b\n", "{path} is not an Excel workbook (.xlsx); if it is text, pass --input-format csv."),
        ("shop.xlsx", b"PK\x03\x04", "{path} cannot be read as an Excel workbook: "),
        ("shop.arrow", b"a,b\n", "{path} cannot be read as Arrow IPC: "),
        ("shop.parquet.gz", b"a,b\n", "{path}: parquet files are compressed inside; unpack it first."),
        ("shop.csv", b"PAR1xxxx", "{path} is a Parquet file, not CSV text; unpack, rename or export it first."),
        ("shop.csv", b"PK\x03\x04xxxx", "{path} is a zip archive or an Excel workbook, not CSV text"),
        ("shop.jsonl", b"", "{path} is empty: it has no JSON Lines in it."),
        ("shop.jsonl", b'{"a": 1}\n\n{"a": \n', "{path} line 3 is not JSON: "),
        ("shop.parquet", b"", "{path} is empty: it has no Parquet in it."),
        (
            "shop.parquet",
            b"a,b\n1,2\n",
            "{path} is not a Parquet file: it does not begin with PAR1; if it is text, pass --input-format csv.",
        ),
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
    with pytest.raises(ProductsError, match=r"half\.parquet cannot be read as Parquet: .*; is it complete\? Export or copy it again\.$"):
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


@pytest.mark.parametrize("ending", ["csv", "parquet", "arrow"])
def test_the_layouts_of_all_files_are_compared_before_the_first_row(tmp_path: Path, ending: str) -> None:
    for number, columns in enumerate((["a", "b"], ["b", "a"], ["a", "c"])):
        frame = pl.DataFrame({name: ["x"] for name in columns})
        {"csv": frame.write_csv, "parquet": frame.write_parquet}.get(ending, frame.write_ipc)(tmp_path / f"{number}.{ending}")  # type: ignore[operator]
    with pytest.raises(ProductsError, match=rf"2\.{ending} and .*0\.{ending} differ in columns 'b', 'c'"):
        next(open_source([str(tmp_path)]).batches())
    (tmp_path / f"2.{ending}").unlink()
    assert open_source([str(tmp_path)]).read().frame.columns == ["a", "b"]


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
    with pytest.raises(ProductsError, match=r"is truncated: it ends in line 3, after 2 of 3 cells; copy the file again\."):
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


# --- compressed, folders, other formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, zstd, lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])])
def test_compressed_text_is_told_by_its_first_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    data = pack(b"a,b\n00123,\xc3\xa9\n")
    for name in ("shop.csv.gz", "shop.csv"):
        assert read(written(tmp_path, data, name)).rows() == [("00123", "é")]
    assert read(written(tmp_path, pack(b'{"a": "00123"}\n'), "shop.jsonl.zst")).rows() == [("00123",)]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))
    assert read("-").rows() == [("00123", "é")]


def test_latin_1_is_found_and_said_even_in_the_last_row(tmp_path: Path) -> None:
    path = written(tmp_path, b"a,b\n" + b"1,2\n" * 500_000 + b"caf\xe9,99\x80\n")
    batches = list(open_source([str(path)]).batches(200_000))
    assert batches[-1].frame.row(-1) == ("café", "99€")
    assert "is not UTF-8 and is read as Windows-1252 (Latin-1)" in batches[0].note


def test_json_lines_in_latin_1_are_found_and_said_too(tmp_path: Path) -> None:
    path = written(tmp_path, b'{"a": "1"}\n' * 3 + b'{"a": "caf\xe9"}\n', "shop.jsonl")
    batches = list(open_source([str(path)]).batches(2))
    assert batches[-1].frame.row(-1) == ("café",)
    assert [bool(batch.note) for batch in batches] == [True, False]


def test_columns_of_another_order_are_put_into_the_first_ones_whatever_their_names(tmp_path: Path) -> None:
    written(tmp_path, "*,^a.*$\n1,2\n", "1.csv")
    written(tmp_path, "^a.*$,*\n4,3\n", "2.csv")
    assert read(tmp_path).rows() == [("1", "2"), ("3", "4")]


def test_utf_16_without_a_mark_is_found(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        assert read(written(tmp_path, "a,b\ncafé,2\n".encode(encoding))).rows() == [("café", "2")]


def test_folders_are_read_below_too_and_paths_spell_columns(tmp_path: Path) -> None:
    for country, sku in (("de", "001"), ("at%20x", "002")):
        place = tmp_path / "shop" / f"country={country}" / "year=2026"
        place.mkdir(parents=True)
        pl.DataFrame({"sku": [sku]}).write_parquet(place / "part.parquet")
        (place / "_SUCCESS").write_text("")
    expected = [("002", "at x", "2026"), ("001", "de", "2026")]
    assert read(tmp_path / "shop").rows() == expected
    assert read(f"{tmp_path}/shop/**/*.parquet").rows() == expected
    assert read(tmp_path / "shop" / "country=de" / "year=2026" / "part.parquet").columns == ["sku"]
    pl.DataFrame({"sku": ["3"]}).write_parquet(tmp_path / "shop" / "part.parquet")
    with pytest.raises(ProductsError, match="differ in columns 'country', 'year'; give files of one layout a run"):
        read(tmp_path / "shop")
    with pytest.raises(ProductsError, match=r"the folder .* holds no products: no file in it ends in \.csv"):
        (tmp_path / "empty").mkdir()
        read(tmp_path / "empty")


def test_arrow_files_and_streams_are_read(tmp_path: Path) -> None:
    frame = pl.DataFrame({"sku": ["001", "002", None], "n": [1, 2, 3]})
    frame.write_ipc(tmp_path / "file.arrow")
    frame.write_ipc_stream(tmp_path / "stream.arrow")
    for name in ("file.arrow", "stream.arrow"):
        batches = list(open_source([str(tmp_path / name)]).batches(2))
        assert [len(batch) for batch in batches] == [2, 1]
        assert pl.concat(batch.frame for batch in batches).equals(frame)


def test_a_workbook_is_read_with_its_types(tmp_path: Path) -> None:
    pytest.importorskip("fastexcel", reason="reading Excel takes catcli[excel]")
    cells = "<row r='1'><c r='A1' t='inlineStr'><is><t>sku</t></is></c><c r='B1' t='inlineStr'><is><t>price</t></is></c></row>"
    cells += "<row r='2'><c r='A2' t='inlineStr'><is><t>00123</t></is></c><c r='B2'><v>1.5</v></c></row>"
    office = "http://schemas.openxmlformats.org"
    files = {
        "[Content_Types].xml": f"<Types xmlns='{office}/package/2006/content-types'>"
        "<Default Extension='rels' ContentType='application/vnd.openxmlformats-package.relationships+xml'/>"
        "<Override PartName='/xl/workbook.xml' ContentType='application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml'/>"
        "<Override PartName='/xl/s.xml' ContentType='application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml'/></Types>",
        "_rels/.rels": f"<Relationships xmlns='{office}/package/2006/relationships'>"
        f"<Relationship Id='r' Type='{office}/officeDocument/2006/relationships/officeDocument' Target='xl/workbook.xml'/></Relationships>",
        "xl/_rels/workbook.xml.rels": f"<Relationships xmlns='{office}/package/2006/relationships'>"
        f"<Relationship Id='s' Type='{office}/officeDocument/2006/relationships/worksheet' Target='s.xml'/></Relationships>",
        "xl/workbook.xml": f"<workbook xmlns='{office}/spreadsheetml/2006/main' xmlns:r='{office}/officeDocument/2006/relationships'>"
        "<sheets><sheet name='s' sheetId='1' r:id='s'/></sheets></workbook>",
        "xl/s.xml": f"<worksheet xmlns='{office}/spreadsheetml/2006/main'><sheetData>{cells}</sheetData></worksheet>",
    }
    with zipfile.ZipFile(tmp_path / "shop.xlsx", "w") as book:
        for name, content in files.items():
            book.writestr(name, content)
    assert read(tmp_path / "shop.xlsx").rows() == [("00123", 1.5)]


def test_one_huge_row_group_comes_in_batches(tmp_path: Path) -> None:
    frame = pl.DataFrame({"sku": [f"{number:08}" * 20 for number in range(100_000)]})
    frame.write_parquet(tmp_path / "one.parquet", row_group_size=len(frame))
    batches = list(open_source([str(tmp_path / "one.parquet")]).batches(4096))
    assert max(len(batch) for batch in batches) <= 4096
    assert pl.concat(batch.frame for batch in batches).equals(frame)


def test_json_types_that_differ_from_batch_to_batch_are_settled_before_the_first(tmp_path: Path) -> None:
    lines = [f'{{"price": {number}, "box": {{"w": 1}}}}' for number in range(10)] + ['{"price": "n/a", "box": {"h": 2.5}, "late": true}']
    path = written(tmp_path, "\n".join(lines).encode(), "shop.jsonl")
    batches = list(open_source([str(path)]).batches(4))
    assert len({str(batch.frame.schema) for batch in batches}) == 1
    assert batches[0].frame.row(3) == ("3", {"w": 1, "h": None}, None)
    assert batches[-1].frame.row(-1) == ("n/a", {"w": None, "h": 2.5}, True)


@pytest.mark.parametrize("tail", ['3,c,"Red mug with a han', '3,"Red mug, with a han,x'])
def test_a_file_that_breaks_off_within_a_quoted_cell_is_not_whole(tmp_path: Path, tail: str) -> None:
    with pytest.raises(
        ProductsError, match=r"is truncated: it ends in line 4, within a quoted cell; copy the file again\.|is not closed properly"
    ):
        read(written(tmp_path, f"id,a,title\n1,a,mug\n2,b,drill\n{tail}"))
    assert len(read(written(tmp_path, 'id,title\n1,"mug, blue"'))) == 1
    assert len(read(written(tmp_path, 'id,title\n1,"13 inch" TV'))) == 1


def test_standard_input_is_read_beside_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "id,title\n1,mug\n", "a.csv")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"id,title\n2,drill\n")))
    frame = open_source([str(tmp_path / "a.csv"), "-"]).read().frame
    assert frame.rows() == [("1", "mug"), ("2", "drill")]


def test_files_of_latin_1_whose_first_accent_comes_late_have_one_layout(tmp_path: Path) -> None:
    rows = "".join(f"{number},mug\n" for number in range(800)).encode()
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(b"id,title\n" + rows[:6000].rpartition(b"\n")[0] + b"\n9,caf\xe9\n")
    assert "café" in open_source([str(tmp_path)]).read().frame["title"].to_list()
