"""Bad inputs, and odd ones: some 250 files as strangers export them, each with what has to come of it.

``python tests/corpus.py FOLDER`` writes them for a look; ``python tests/corpus.py`` runs every command on every one and prints a table.
What a case promises is the sentence that ends a command, or that there is none: all rows come out.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import socket
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import feather
from tiny import tiny_products

Make = Callable[[Path], object]

ROWS: list[tuple[str, str]] = tiny_products().head(48).rows()
"""Titles and their categories, some 12 of each: enough for a fit."""

TITLES, CATEGORIES = [title for title, _ in ROWS], [category for _, category in ROWS]


class Outcome(TypedDict, total=False):
    """What is to come of a case: see `Case`."""

    read: str
    learn: str
    label: str
    score: str
    flat: str
    pack: str
    rows: int


@dataclass(frozen=True)
class Case:
    """One input: how it is made in a folder, what is named on the command line, and the sentences that are to come of it.

    ``read`` ends every command; ``learn`` those that learn from labeled rows, ``label`` those that label them, ``score`` those that compare
    labels, ``flat`` those that write text and ``pack`` those that write Parquet. Where nothing is said the command succeeds, and ``rows``
    come out of predict, where the case says how many.
    """

    make: Make
    name: str = "shop.csv"
    options: tuple[str, ...] = ()
    read: str = ""
    learn: str = ""
    label: str = ""
    score: str = ""
    flat: str = ""
    pack: str = ""
    rows: int | None = None


CASES: dict[str, Case] = {}


def case(about: str, make: Make, name: str = "shop.csv", *options: str, **outcome: Unpack[Outcome]) -> None:
    """Register a case under what it is about."""
    assert about not in CASES, about
    CASES[about] = Case(make, name, options, **outcome)


def put(content: str | bytes, name: str = "shop.csv") -> Make:
    """A file of some bytes."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def delimited(
    rows: Sequence[Sequence[str]] = ROWS,
    header: Sequence[str] = ("title", "category"),
    *,
    delimiter: str = ",",
    quotechar: str = '"',
    quoting: Literal[0, 1] = csv.QUOTE_MINIMAL,
    ends: str = "\n",
) -> str:
    """Rows as Python's csv writes them."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quotechar=quotechar, quoting=quoting, lineterminator=ends)
    writer.writerows([header, *rows])
    return out.getvalue()


def titled(change: Callable[[str], str], rows: Sequence[tuple[str, str]] = ROWS) -> list[tuple[str, str]]:
    """The rows with other titles."""
    return [(change(title), category) for title, category in rows]


def shelved(change: Callable[[str], str]) -> list[tuple[str, str]]:
    """The rows with other categories."""
    return [(title, change(category)) for title, category in ROWS]


def beside(*names: str) -> str:
    """The rows with more columns, an x in each cell."""
    return delimited([(*row, *"x" * len(names)) for row in ROWS], ("title", "category", *names))


def text(about: str, content: str | bytes, *options: str, name: str = "shop.csv", **outcome: Unpack[Outcome]) -> None:
    case(about, put(content, name), name, *options, **outcome)


def lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def objects(**more: object) -> list[dict[str, Any]]:
    """The rows as JSON objects, with ``more`` in each."""
    return [{"title": title, "category": category, **more} for title, category in ROWS]


def columns(**more: pa.Array) -> pa.Table:
    """The rows as an Arrow table; ``more`` adds columns or takes the place of one, None takes one away."""
    made = {"title": pa.array(TITLES), "category": pa.array(CATEGORIES), **more}
    return pa.table({name: values for name, values in made.items() if values is not None})


def every(value: object, kind: pa.DataType | None = None) -> pa.Array:
    """One value in every row."""
    return pa.array([value] * len(ROWS), kind)


def parquet(about: str, table: pa.Table, outcome: Outcome | None = None, **writing: object) -> None:
    case(about, lambda folder: pq.write_table(table, folder / "shop.parquet", **writing), "shop.parquet", **(outcome or {}))


def arrow(about: str, table: pa.Table, **outcome: Unpack[Outcome]) -> None:
    def make(folder: Path) -> None:
        with pa.ipc.new_file(folder / "shop.arrow", table.schema) as file:
            file.write_table(table)

    case(about, make, "shop.arrow", **outcome)


def steps(*makes: Make) -> Make:
    """One after the other."""

    def do(folder: Path) -> None:
        for make in makes:
            make(folder)

    return do


def in_sub(make: Make) -> Make:
    """In a folder below."""

    def do(folder: Path) -> None:
        (folder / "sub").mkdir()
        make(folder / "sub")

    return do


def cut(make: Make, name: str, keep: float, *, head: bool = True) -> Make:
    """The first or last part of a file."""

    def do(folder: Path) -> None:
        make(folder)
        data = (folder / name).read_bytes()
        size = int(len(data) * keep)
        (folder / name).write_bytes(data[:size] if head else data[-size:])

    return do


def as_parquet(folder: Path) -> None:
    pq.write_table(columns(), folder / "shop.parquet")


def as_arrow(folder: Path) -> None:
    feather.write_feather(columns(), folder / "shop.arrow", compression="uncompressed")


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)  # type: ignore[no-any-return]


def workbook(cells: str, sheets: str = "<sheet name='s' sheetId='1' r:id='s'/>") -> bytes:
    """A minimal .xlsx; ``cells`` are the rows of its only sheet."""
    office = "http://schemas.openxmlformats.org"
    main, kinds = f"{office}/spreadsheetml/2006/main", "application/vnd.openxmlformats-officedocument.spreadsheetml"
    relations = f"{office}/officeDocument/2006/relationships"
    files = {
        "[Content_Types].xml": f"<Types xmlns='{office}/package/2006/content-types'><Default Extension='rels' "
        "ContentType='application/vnd.openxmlformats-package.relationships+xml'/>"
        f"<Override PartName='/xl/workbook.xml' ContentType='{kinds}.sheet.main+xml'/>"
        f"<Override PartName='/xl/s.xml' ContentType='{kinds}.worksheet+xml'/></Types>",
        "_rels/.rels": f"<Relationships xmlns='{office}/package/2006/relationships'>"
        f"<Relationship Id='r' Type='{relations}/officeDocument' Target='xl/workbook.xml'/></Relationships>",
        "xl/_rels/workbook.xml.rels": f"<Relationships xmlns='{office}/package/2006/relationships'>"
        f"<Relationship Id='s' Type='{relations}/worksheet' Target='s.xml'/></Relationships>",
        "xl/workbook.xml": f"<workbook xmlns='{main}' xmlns:r='{relations}'><sheets>{sheets}</sheets></workbook>",
        "xl/s.xml": f"<worksheet xmlns='{main}'><sheetData>{cells}</sheetData></worksheet>",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as book:
        for name, content in files.items():
            book.writestr(name, content)
    return out.getvalue()


def sheet_row(number: int, *cells: str) -> str:
    typed = "".join(f"<c r='{chr(65 + at)}{number}' t='inlineStr'><is><t>{cell}</t></is></c>" for at, cell in enumerate(cells))
    return f"<row r='{number}'>{typed}</row>"


SHEET = sheet_row(1, "title", "category") + "".join(sheet_row(number, *row) for number, row in enumerate(ROWS, 2))

# What several cases come to.
NO_TITLE: Outcome = {"learn": "looks like", "label": "has no column 'title'", "score": "'category'"}
NO_ROWS: Outcome = {"learn": "and no rows; give a file with labeled rows", "score": "and none with a category", "rows": 0}
TOO_FEW = "are too few to keep any back for scoring"
WHOLE: Outcome = {"rows": len(ROWS)}

# --- encodings ------------------------------------------------------------------------------------------------------------------------

ACCENTS = titled(lambda title: f"café {title} für Öl")
JAPANESE = titled(lambda title: f"コーヒー {title}")

text("UTF-8", delimited(ACCENTS), **WHOLE)
text("UTF-8 with a mark", delimited(ACCENTS).encode("utf-8-sig"), **WHOLE)
text("UTF-8 with two marks", b"\xef\xbb\xbf" + delimited(ACCENTS).encode("utf-8-sig"), **WHOLE)
text("UTF-8 with a mark in mid-file", delimited(ROWS[:24]) + "\ufeff" + delimited(ROWS[24:]).split("\n", 1)[1], **WHOLE)
text("UTF-16, little end first", b"\xff\xfe" + delimited(ACCENTS).encode("utf-16-le"), **WHOLE)
text("UTF-16, big end first", b"\xfe\xff" + delimited(ACCENTS).encode("utf-16-be"), **WHOLE)
text("UTF-16 without a mark, little end first", delimited(ACCENTS).encode("utf-16-le"), **WHOLE)
text("UTF-16 without a mark, big end first", delimited(ACCENTS).encode("utf-16-be"), **WHOLE)
text(
    "UTF-16 cut in mid-character",
    delimited(ACCENTS).encode("utf-16")[:-1],
    read="is truncated: it ends within a character of utf-16 after line 48",
)
text("UTF-32", delimited(ACCENTS).encode("utf-32"), **WHOLE)
text("Latin-1", delimited(ACCENTS).encode("latin-1"), **WHOLE)
text("Windows-1252 with a euro sign", delimited(titled(lambda title: f"{title} 5 €")).encode("cp1252"), **WHOLE)
text("Windows-1250", delimited(titled(lambda title: f"Ťuk {title}")).encode("cp1250"), read="neither UTF-8, UTF-16 nor")
text("Windows-1250, said", delimited(titled(lambda title: f"Ťuk {title}")).encode("cp1250"), "--encoding", "cp1250", **WHOLE)
text("Shift JIS", delimited(JAPANESE).encode("shift_jis"), read="say what it is with --encoding")
text("Shift JIS, said", delimited(JAPANESE).encode("shift_jis"), "--encoding", "shift_jis", **WHOLE)
text("GB 18030, said", delimited(JAPANESE).encode("gb18030"), "--encoding", "gb18030", **WHOLE)
text("KOI8-R", delimited(titled(lambda title: f"Кофе {title}")).encode("koi8-r"), **WHOLE)
text("EBCDIC", delimited().encode("cp037"), read="neither UTF-8, UTF-16 nor Latin-1")
text(
    "UTF-8 cut in mid-character",
    delimited([*ACCENTS, ("mug café", "Mugs")]).encode()[:-7] + b"\xc3",
    read="is truncated: it ends in line 50",
)
text("UTF-8 with rows of Latin-1", delimited(ACCENTS[:24]).encode() + delimited(ACCENTS[24:]).split("\n", 1)[1].encode("latin-1"), **WHOLE)
text("UTF-8, overlong", delimited().encode().replace(b"blue", b"\xc0\x80blue"), **WHOLE)
text("surrogates as bytes", delimited().encode().replace(b"blue", b"\xed\xa0\x80blue"), **WHOLE)
text("ASCII, said of UTF-8", delimited(ACCENTS), "--encoding", "ascii", read="is not ascii: byte 0xc3 in line 2; pass another --encoding")
text("UTF-16, said of UTF-8", delimited(), "--encoding", "utf-16", read="pass another --encoding")

# --- delimiters, quotes, ragged rows --------------------------------------------------------------------------------------------------

for about, mark in {"semicolons": ";", "tabs": "\t", "bars": "|"}.items():
    text(f"delimited by {about}", delimited(delimiter=mark), **WHOLE)
text("delimited by carets", delimited(delimiter="^"), **NO_TITLE)
text("delimited by carets, said", delimited(delimiter="^"), "--delimiter", "^", **WHOLE)
text("delimited by two bars", delimited().replace(",", "||"), **WHOLE)
text("delimited by blanks", "title      category\n" + "".join(f"{title[:9]:10} {category}\n" for title, category in ROWS), **NO_TITLE)
text("Excel's line that names the delimiter", "sep=;\n" + delimited(delimiter=";"), **WHOLE)
text(
    "a header of commas over rows of semicolons",
    "title,category\n" + delimited(delimiter=";").split("\n", 1)[1],
    learn="no column of shop.csv looks like the category",
    score="none with a category",
    rows=len(ROWS),
)
text("a delimiter at every end", delimited().replace("\n", ",\n"), **WHOLE)
text("a delimiter at every end but the header's", delimited().replace("\n", ",\n").replace(",\n", "\n", 1), **WHOLE)
text("a delimiter at every beginning", "," + delimited().replace("\n", "\n,")[:-1], **WHOLE)
text("blanks behind delimiters", delimited().replace(",", ", "), score="differ from the adapter's only by case, blanks", rows=48)
text("inch marks", delimited().replace("blue", '55" blue'), **WHOLE)
text("inch marks in quotes", "title,category\n" + "".join(f'"{title} 55"" wide",{category}\n' for title, category in ROWS), **WHOLE)
text("a quote that is never closed", delimited().replace("blue", '"blue', 1), read="not closed properly")
text("a quote that is closed rows later", delimited(ROWS[:9]) + '"open,Mugs\na,Mugs\nb,"Mugs\n', read="not closed properly")
text("a quote in the header", '"title,category\n' + delimited().split("\n", 1)[1], read="not closed properly")
text("text behind a closing quote", delimited() + '"blue" mug,Mugs\n', rows=49)
text("backslashes before quotes", delimited() + '"a \\"blue\\" mug",Mugs\n', rows=49)
text("single quotes", delimited(quotechar="'", quoting=csv.QUOTE_ALL), score="is of a category that the adapter knows", rows=48)
text("typographic quotes", delimited(titled(lambda title: f"“{title}”")), **WHOLE)
text("quotes around everything", delimited(quoting=csv.QUOTE_ALL), **WHOLE)
text("line breaks in cells", delimited(titled(lambda title: title.replace(" ", "\n"))), **WHOLE)
text("line breaks of Windows in cells", delimited(titled(lambda title: title.replace(" ", "\r\n")), ends="\r\n"), **WHOLE)
text("rows that are too short", delimited() + "lonely mug\n", rows=49)
text("a row that is too long", delimited() + "a mug,Mugs,more\n", read="line 50 has 3 cells where the header has 2")
text("a row that breaks off", delimited() + "a mu", read="is truncated: it ends in line 50, after 1 of 2 cells")
text("a column twice", delimited(header=("title", "title")), read="has the column 'title' 2 times")
text(
    "two columns without names",
    beside("", ""),
    read="has the column '' 2 times",
)
text("one column without a name", beside(""), **WHOLE)
text("columns that differ by case", beside("Title"), **WHOLE)
text("no header", delimited().split("\n", 1)[1], **NO_TITLE)
text("a remark before the header", "# exported by shop 3.1\n" + delimited(), read="cells where the header has 1; quote")
text("a title before the header", "Products of 2026\n\n" + delimited(), read="cells where the header has 1")
text("blank lines before the header", "\n\r\n" + delimited(), **WHOLE)
text("blank lines among rows", delimited().replace("\n", "\n\n"), **WHOLE)
text("rows of nothing but delimiters", delimited() + ",\n,\n", rows=50)
text("a sum at the end", delimited() + "Total: 48 rows,\n", rows=49)
text("3,000 columns", delimited([(*row, *"x" * 2998) for row in ROWS], ("title", "category", *(f"c{n}" for n in range(2998)))), **WHOLE)
text("a column's name of 100,000 letters", beside("n" * 100_000), **WHOLE)

# --- nothing, or hardly anything ------------------------------------------------------------------------------------------------------

text("no byte", b"", read="is empty: a header line with column names has to come first")
text("a line break", b"\n", read="is empty: a header line")
text("blanks", b"   \n  \n", **NO_TITLE)
text("a byte order mark alone", b"\xef\xbb\xbf", read="is empty: a header line")
text("a header alone", "title,category\n", **NO_ROWS)
text("a header without a line break", "title,category", **NO_ROWS)
text("one row", delimited(ROWS[:1]), learn="are of one category", rows=1)
text("two rows", delimited([("blue coffee mug", "Mugs"), ("steel drill", "Drills")]), learn=TOO_FEW, rows=2)
text("one column", "title\n" + "".join(f"{title}\n" for title in TITLES), learn="no column of", score="no column 'category'", rows=48)

# --- NUL, line ends, control codes ----------------------------------------------------------------------------------------------------

text("NUL in cells", delimited().replace("blue", "bl\0ue"), **WHOLE)
text("NUL in the header", delimited(header=("ti\0tle", "category")), read="with a NUL in its name; rename it")
text("zeros", b"\0" * 5000, read="holds NUL")
text("zeros in place of the end, as after a crash", delimited().encode() + b"\0" * 4096, read="holds NUL")
for about, ends in {"CR": "\r", "CR LF": "\r\n", "LF CR": "\n\r"}.items():
    text(f"lines that end in {about}", delimited(ends=ends), **WHOLE)
text(
    "lines that end in all ways",
    delimited(ROWS[:16]) + delimited(ROWS[16:32], ends="\r\n").split("\n", 1)[1] + delimited(ROWS[32:], ends="\r").split("\r", 1)[1],
    **WHOLE,
)
text("no line break at the end", delimited().rstrip("\n"), **WHOLE)
text("line breaks of Unicode in cells", delimited(titled(lambda title: f"{title}\u2028\u2029\x85\x0b\x0c x")), **WHOLE)
text("a substitute character at the end, as of DOS", delimited() + "\x1a", **WHOLE)
text("control codes in titles", delimited(titled(lambda title: f"\x1b[31m{title}\x07\x9b2J")), **WHOLE)
text(
    "control codes in categories",
    delimited(shelved(lambda category: f"\x1b[31m{category}\x07")),
    score="is of a category that the adapter knows",
    rows=48,
)
text("control codes in columns' names", beside("\x1b[2J\x1b]0;x\x07"), **WHOLE)
text("control codes in a missing column's name", delimited(header=("\x1b[2J", "\x07")), **NO_TITLE)

# --- large cells, odd letters ---------------------------------------------------------------------------------------------------------

text("a title of a million letters", delimited([("mug " * 250_000, "Mugs"), *ROWS]), rows=49)
text("a title of one word of a million letters", delimited([("m" * 1_000_000, "Mugs"), *ROWS]), rows=49)
text(
    "a note of a million letters",
    delimited([(*row, "n" * 1_000_000 if not at else "") for at, row in enumerate(ROWS)], ("title", "category", "note")),
    **WHOLE,
)
text("a category of 20,000 letters", delimited([("mug", "M" * 20_000), *ROWS]), learn="which is no category", rows=49)
text(
    "emoji",
    delimited([(f"☕ {title} 👩‍👩‍👧🏳️‍🌈", f"{category} 🎁") for title, category in ROWS], ("title", "category")),
    score="none of its 48 labeled rows is of a category",
    rows=48,
)
text("right to left", delimited(titled(lambda title: f"כוס קפה {title} قهوة")), **WHOLE)
text(
    "overrides of direction",
    delimited([(f"\u202e{title}\u202c\u2066x\u2069", f"{category}\u202e") for title, category in ROWS]),
    score="none of its 48",
    rows=48,
)
text("marks heaped on letters", delimited(titled(lambda title: title.replace("u", "u" + "\u0301\u0327" * 40))), **WHOLE)
text(
    "letters without width",
    delimited([("\u200b".join(title), category) for title, category in ROWS]),
    rows=48,
    learn="no column of shop.csv looks like product text",
)
text("letters of private use and beyond the first plane", delimited(titled(lambda title: f"\ue000{title}\U0010fffd𝕄")), **WHOLE)
text(
    "titles of punctuation",
    delimited([("!?,.;:" * (at % 7 + 1), category) for at, (_, category) in enumerate(ROWS)]),
    learn="looks like product text",
    rows=48,
)
text(
    "titles of digits",
    delimited([(str(4_006_381_333_931 + at), category) for at, (_, category) in enumerate(ROWS)]),
    learn="looks like product text",
    rows=48,
)
text(
    "columns named in emoji and with line breaks",
    beside("🎁", "a\nb"),
    **WHOLE,
)

# --- nulls ----------------------------------------------------------------------------------------------------------------------------

text("no title anywhere", delimited([("", category) for _, category in ROWS]), learn="looks like product text", rows=48)
text("no category anywhere", delimited([(title, "") for title in TITLES]), learn="no column of", score="none with a category", rows=48)
text(
    "half of everything missing", delimited([(title if at % 3 else "", c if at % 2 else "") for at, (title, c) in enumerate(ROWS)]), rows=48
)
text(
    "NULL, NaN, None and N/A as words", delimited([*ROWS, *((word, word) for word in ("NULL", "NaN", "None", "N/A", "null", "-"))]), rows=54
)
text("categories of blanks", delimited([*ROWS, *(("a mug", blank) for blank in (" ", "\t", "  "))]), rows=51)
parquet("a title column without a type", columns(title=pa.nulls(len(ROWS))), {"learn": "looks like product text", "rows": 48})
parquet(
    "a category column without a type", columns(category=pa.nulls(len(ROWS))), {"learn": "no column of", "score": "none with", "rows": 48}
)
parquet(
    "every column all null",
    columns(title=every(None, pa.string()), category=every(None, pa.string())),
    {"learn": "no column of", "score": "none with", "rows": 48},
)

# --- categories -----------------------------------------------------------------------------------------------------------------------

NUMBERS = {name: number for number, name in enumerate(sorted(set(CATEGORIES)), 1)}
UNKNOWN: Outcome = {"score": "is of a category that the adapter knows", "rows": 48}
OF_NUMBERS = {
    "whole numbers": pa.array([NUMBERS[name] for name in CATEGORIES]),
    "real numbers": pa.array([NUMBERS[name] / 2 for name in CATEGORIES]),
    "decimals": pa.array([Decimal(NUMBERS[name]) for name in CATEGORIES], pa.decimal128(9, 2)),
    "dates": pa.array([date(2026, 1, NUMBERS[name]) for name in CATEGORIES]),
    "times": pa.array([datetime(2026, 1, NUMBERS[name], 12) for name in CATEGORIES], pa.timestamp("us", "UTC")),
    "times of the day": pa.array([time(NUMBERS[name]) for name in CATEGORIES]),
    "yes and no": pa.array([NUMBERS[name] > 2 for name in CATEGORIES]),
    "a dictionary": pa.array([f"shelf {name}" for name in CATEGORIES]).dictionary_encode(),
}
for about, values in OF_NUMBERS.items():
    parquet(f"categories of {about}", columns(category=values), UNKNOWN)
parquet(
    "categories with NaN among them",
    columns(category=pa.array([float("nan") if at % 5 == 0 else NUMBERS[name] / 2 for at, name in enumerate(CATEGORIES)])),
    UNKNOWN,
)
NO_NAMES: Outcome = {"learn": "no column of", "score": "not names; choose another", "rows": 48}
parquet("categories of lists", columns(category=pa.array([[name] for name in CATEGORIES])), NO_NAMES)
parquet("categories of structs", columns(category=pa.array([{"name": name} for name in CATEGORIES])), NO_NAMES)
parquet("categories of bytes", columns(category=pa.array([name.encode() for name in CATEGORIES])), NO_NAMES)
parquet("categories of durations", columns(category=pa.array([timedelta(NUMBERS[name]) for name in CATEGORIES])), NO_NAMES)
text("one category", delimited([(title, "Mugs") for title in TITLES]), learn="are of one category, 'Mugs'", rows=48)
text(
    "as many categories as rows",
    delimited([(title, f"Shelf {at}") for at, title in enumerate(TITLES)]),
    learn="no column of",
    score="is of a category that the adapter knows",
    rows=48,
)
text(
    "as many categories as rows, said",
    delimited([(title, f"Shelf {at}") for at, title in enumerate(TITLES)]),
    "--label",
    "category",
    learn=TOO_FEW,
    score="is of a category that the adapter knows",
    rows=48,
)
text(
    "20,000 categories",
    delimited([(f"{title} {at}", f"Shelf {at}") for at in range(20_000) for title in ("mug",)]),
    "--label",
    "category",
    learn="are too few to keep any back",
    score="is of a category that the adapter knows",
    rows=20_000,
)
ALIKE: Outcome = {"learn": "differ only by case, blanks", "score": "differ from the adapter's only by case, blanks", "rows": 48}
text("categories that differ by case", delimited([(t, c.upper() if at % 2 else c) for at, (t, c) in enumerate(ROWS)]), **ALIKE)
text("categories that differ by blanks", delimited([(t, f" {c} " if at % 2 else c) for at, (t, c) in enumerate(ROWS)]), **ALIKE)
text(
    "look-alike categories, to be merged",
    delimited([(t, c.upper() if at % 2 else c) for at, (t, c) in enumerate(ROWS)]),
    "--merge-labels",
    **WHOLE,
)
text("categories that are formulas", delimited(shelved(lambda category: f"={category}+1")), **UNKNOWN)
text("categories with line breaks and quotes", delimited([(t, f'a "{c}"\nof 2') for t, c in ROWS]), **UNKNOWN)
text("categories that are paths", delimited(shelved(lambda category: f"../../{category}")), **UNKNOWN)
text(
    "a label column that is not there",
    delimited(),
    "--label",
    "catgory",
    learn="no such column (did you mean 'category'?)",
    score="no such column",
    rows=48,
)
text(
    "two columns that could be the category",
    delimited([(*row, row[1]) for row in ROWS], ("title", "category", "Category")),
    learn="fit equally well as the category",
    rows=48,
)
text(
    "a column that gives the category away",
    delimited([(*row, f"c{NUMBERS[row[1]]}") for row in ROWS], ("title", "category", "category_id")),
    **WHOLE,
)

# --- columns named like ours ----------------------------------------------------------------------------------------------------------

for taken in ("predicted_category", "confidence"):
    text(f"a column named {taken}", beside(taken), label="already has", rows=48)
for taken in ("alternatives", "Predicted Category", "cells", "text", "line", "value", "*", "^.*$", "confidence_before", "part", "price0"):
    text(f"a column named {taken}", beside(taken), **WHOLE)
text(
    "a column that is to be replaced",
    beside("confidence"),
    "--replace-columns",
    **WHOLE,
)

# --- Parquet --------------------------------------------------------------------------------------------------------------------------


def _invalid_utf8(folder: Path) -> None:
    """A column that says it is text and holds Latin-1."""
    raw = pa.array([f"caf\xe9 {title}".encode("latin-1") for title in TITLES], pa.binary())
    buffers = raw.buffers()
    title = pa.Array.from_buffers(pa.string(), len(raw), buffers)
    pq.write_table(columns(title=title), folder / "shop.parquet")


ASIDE = {
    "lists": every(["a", None], pa.list_(pa.string())),
    "structs": every({"a": 1, "b": [{"c": "x"}]}),
    "maps": every([("k", 1)], pa.map_(pa.string(), pa.int32())),
    "decimals of 38 digits": every(Decimal("1.23"), pa.decimal128(38, 10)),
    "durations": every(timedelta(1)),
    "times of the day": every(time(1, 2, 3)),
    "times in Tokyo": every(datetime(2026, 1, 1), pa.timestamp("ns", "Asia/Tokyo")),
    "bytes": every(b"\x00\xff"),
    "bytes of one length": every(b"\x00\xff", pa.binary(2)),
    "lists of one length": every([1, 2], pa.list_(pa.int8(), 2)),
    "the largest whole number": every(2**64 - 1, pa.uint64()),
    "half-precision numbers": every(1.5, pa.float16()),
    "nothing": pa.nulls(len(ROWS)),
    "a dictionary": every("x").dictionary_encode(),
    "infinities": every(float("inf")),
}
for about, values in ASIDE.items():
    parquet(f"Parquet with {about} aside", columns(aside=values), WHOLE)
BEYOND_POLARS: Outcome = {"learn": "of the Arrow type", "flat": "of the Arrow type", "score": "of the Arrow type", "rows": 48}
parquet("Parquet with decimals of 76 digits aside", columns(aside=every(Decimal("1.23"), pa.decimal256(76, 10))), BEYOND_POLARS)
parquet("Parquet with titles in a dictionary", columns(title=pa.array(TITLES).dictionary_encode()), WHOLE)
parquet("Parquet with large titles", columns(title=pa.array(TITLES, pa.large_string())), WHOLE)
parquet("Parquet with titles as lists", columns(title=pa.array([title.split() for title in TITLES])), WHOLE)
NO_TEXT: Outcome = {"learn": "looks like product text", "label": "not text; map another", "score": "not text; map another"}
parquet("Parquet with titles as structs", columns(title=pa.array([{"en": title} for title in TITLES])), NO_TEXT)
parquet("Parquet with titles as bytes", columns(title=pa.array([title.encode() for title in TITLES])), NO_TEXT)
parquet("Parquet with titles as numbers", columns(title=pa.array(range(len(ROWS)))), {"learn": "looks like product text", "rows": 48})
parquet(
    "Parquet with a column twice",
    pa.Table.from_arrays([pa.array(TITLES), pa.array(CATEGORIES), pa.array(TITLES)], ["title", "category", "title"]),
    {"read": "has the column 'title' 2 times"},
)
parquet(
    "Parquet without columns",
    pa.table({}),
    {"learn": "has columns (none) and no rows", "label": "has no column 'title'", "score": "'category'"},
)
parquet("Parquet without rows", columns().slice(0, 0), NO_ROWS)
parquet("Parquet with metadata of a megabyte", columns().replace_schema_metadata({"note": "x" * 1_000_000}), WHOLE)
for codec in ("gzip", "brotli", "lz4", "snappy", "zstd"):
    parquet(f"Parquet packed by {codec}", columns(), WHOLE, compression=codec)
parquet("Parquet with deltas", columns(), WHOLE, use_dictionary=False, column_encoding={"title": "DELTA_BYTE_ARRAY", "category": "PLAIN"})
parquet("Parquet in row groups of one row", columns(), WHOLE, row_group_size=1)
parquet("Parquet of the first version", columns(), WHOLE, version="1.0", data_page_version="1.0")
parquet("Parquet with checksums", columns(), WHOLE, write_page_checksum=True)
case("Parquet with bytes that are no text", _invalid_utf8, "shop.parquet", read="text has to be UTF-8")
case("Parquet cut short", cut(as_parquet, "shop.parquet", 0.5), "shop.parquet", read="is it complete? Export or copy it again")
case("Parquet without its beginning", cut(as_parquet, "shop.parquet", 0.5, head=False), "shop.parquet", read="does not begin with PAR1")
case("Parquet without its last byte", cut(as_parquet, "shop.parquet", 0.9999), "shop.parquet", read="cannot be read as Parquet")
text("Parquet that is encrypted", b"PARE" + b"x" * 100 + b"PARE", name="shop.parquet", read="is not a Parquet file")
text("Parquet that is its magic alone", b"PAR1PAR1", name="shop.parquet", read="cannot be read as Parquet")
text(
    "Parquet that is a pointer of Git LFS",
    "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    name="shop.parquet",
    read="is not a Parquet file",
)
text("Parquet of no byte", b"", name="shop.parquet", read="is empty: it has no Parquet in it")
text("CSV under Parquet's name", delimited(), name="shop.parquet", read="if it is text, pass --input-format csv")
case(
    "Parquet under CSV's name",
    steps(as_parquet, lambda folder: (folder / "shop.parquet").rename(folder / "shop.csv")),
    read="is a Parquet file, not CSV text",
)


# --- Arrow ----------------------------------------------------------------------------------------------------------------------------

arrow("Arrow", columns(), **WHOLE)
arrow("Arrow with titles as views", columns(title=pa.array(TITLES).cast(pa.string_view())), **WHOLE)
arrow("Arrow with a dictionary", columns(title=pa.array(TITLES).dictionary_encode()), **WHOLE)
arrow("Arrow with runs aside", columns(aside=pa.array(["x"] * len(ROWS)).cast(pa.string()).dictionary_encode()), **WHOLE)
arrow(
    "Arrow with a union aside",
    columns(aside=pa.UnionArray.from_sparse(pa.array([0] * len(ROWS), pa.int8()), [every(1), every("x")])),
    learn="of the Arrow type",
    flat="of the Arrow type",
    pack="this format cannot hold",
    score="of the Arrow type",
    rows=48,
)
arrow("Arrow without rows", columns().slice(0, 0), **NO_ROWS)
case("Arrow as a stream", lambda folder: pl.from_arrow(columns()).write_ipc_stream(folder / "shop.arrow"), "shop.arrow", **WHOLE)  # type: ignore[union-attr]
case(
    "Arrow packed by LZ4", lambda folder: feather.write_feather(columns(), folder / "shop.arrow", compression="lz4"), "shop.arrow", **WHOLE
)
case("Arrow cut short", cut(as_arrow, "shop.arrow", 0.5), "shop.arrow", read="cannot be read as Arrow IPC")
text("Arrow that is its magic alone", b"ARROW1\0\0", name="shop.arrow", read="cannot be read as Arrow IPC")
text("Arrow that goes on in noise", b"ARROW1\0\0" + bytes(range(256)) * 20, name="shop.arrow", read="cannot be read as Arrow IPC")
text("Feather of the first version", b"FEA1" + b"\0" * 200 + b"FEA1", name="shop.feather", read="is a Feather file of the first version")
text("Arrow of no byte", b"", name="shop.arrow", read="is empty: it has no Arrow IPC in it")

# --- JSON Lines -----------------------------------------------------------------------------------------------------------------------


def json_lines(about: str, content: str | bytes, *options: str, **outcome: Unpack[Outcome]) -> None:
    text(f"JSON Lines, {about}", content, *options, name="shop.jsonl", **outcome)


json_lines("plain", lines(objects()), **WHOLE)
json_lines("with a mark", lines(objects()).encode("utf-8-sig"), **WHOLE)
json_lines("in UTF-16", lines(objects()).encode("utf-16"), **WHOLE)
json_lines("with lines of Windows", lines(objects()).replace("\n", "\r\n"), **WHOLE)
json_lines("with blank lines", lines(objects()).replace("\n", "\n\n  \n"), **WHOLE)
json_lines("an array in one line", json.dumps(objects()) + "\n", read="is not a JSON object but list")
json_lines("an array over many lines", json.dumps(objects(), indent=1), read="is not JSON")
json_lines("numbers", "1\n2\n", read="is not a JSON object but int")
json_lines("a null among them", lines([*objects(), None]), read="is not a JSON object but NoneType")
json_lines("pretty-printed", "\n".join(json.dumps(one, indent=2) for one in objects()), read="is not JSON")
json_lines("cut short", lines(objects())[:-20], read="is not JSON")
json_lines("with commas at their ends", lines(objects()).replace("}\n", "},\n"), read="is not JSON")
json_lines("in single quotes", "{'title': 'mug', 'category': 'Mugs'}\n", read="is not JSON")
json_lines("with NaN", lines(objects(price=float("nan"))), read="is not JSON")
json_lines(
    "with numbers beyond all bounds",
    lines(objects()).replace("}", ', "n": 123456789012345678901234567890, "m": 1e400}'),
    read="write that cell as text, in quotes",
)
json_lines(
    "with types that differ from row to row",
    lines([{**one, "x": value} for one, value in zip(objects(), [1, "a", None, [1], {"k": 1}, True, 1.5, []] * 6, strict=True)]),
    **WHOLE,
)
json_lines("with keys in any order", lines([dict(reversed(one.items())) if at % 2 else one for at, one in enumerate(objects())]), **WHOLE)
json_lines("with a key twice", lines(objects()).replace("}", ', "title": "steel drill"}'))
json_lines("with an empty key", lines(objects(**{"": 1})), **WHOLE)
json_lines("with empty rows", lines([*objects(), {}, {}]), rows=50)
json_lines("nested a thousand deep", lines(objects()) + '{"title": ' + "[" * 1000 + "]" * 1000 + "}\n", read="line 49 is nested too deeply")
json_lines(
    "nested a hundred thousand deep",
    lines(objects()) + '{"title": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
    read="line 49 is nested too deeply",
)
json_lines("with half a surrogate", lines([{**one, "title": one["title"] + "\ud83d"} for one in objects()]))
json_lines("with surrogates as bytes", lines(objects()).encode().replace(b"blue", b"\xed\xa0\xbdblue"))
json_lines("with NUL", lines([{**one, "title": f"a\0{one['title']}"} for one in objects()]), **WHOLE)
json_lines("with 2,000 keys in all", lines([{**one, f"k{at}_{n}": n} for at, one in enumerate(objects()) for n in range(40)]))
json_lines(
    "with a mapping of ever new keys",
    lines([{**one, "details": {f"k{at}_{n}": n for n in range(40)}} for at, one in enumerate(objects())]),
    **WHOLE,
)
json_lines("with lists of text", lines([{**one, "title": one["title"].split()} for one in objects()]), **WHOLE)
json_lines("with a column of ours", lines(objects(confidence=1)), label="already has 'confidence'")
json_lines("of no byte", b"", read="is empty: it has no JSON Lines in it")
json_lines("of blank lines", b"\n\n", read="has only blank lines")

# --- compressed -----------------------------------------------------------------------------------------------------------------------

PACKED = gzip.compress(delimited().encode())
NOISE = os.urandom(200_000)
LONG = delimited(
    [(f"{title} {NOISE[at * 20 : at * 20 + 20].hex()}", category) for at in range(2000) for title, category in (ROWS[at % 48],)]
)
text("gzip", PACKED, name="shop.csv.gz", **WHOLE)
text("gzip under CSV's name", PACKED, **WHOLE)
text(
    "gzip in two members",
    gzip.compress(delimited(ROWS[:24]).encode()) + gzip.compress(delimited(ROWS[24:]).split("\n", 1)[1].encode()),
    name="shop.csv.gz",
    **WHOLE,
)
text("gzip cut short", gzip.compress(LONG.encode())[:-2000], name="shop.csv.gz", read="is truncated: the gzip stream ends early")
text("gzip with a wrong sum", PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], name="shop.csv.gz", read="is damaged")
text("gzip with noise behind it", PACKED + b"noise" * 10, name="shop.csv.gz", read="is damaged")
text("gzip with noise in it", PACKED[:60] + b"\xff" * 40 + PACKED[100:], name="shop.csv.gz", read="is damaged")
text("gzip twice", gzip.compress(PACKED), name="shop.csv.gz", read="is gzip-compressed twice")
text("gzip of nothing", gzip.compress(b""), name="shop.csv.gz", read="is empty")
text("gzip's name over plain text", delimited(), name="shop.csv.gz", **WHOLE)
text("gzip of no byte", b"", name="shop.csv.gz", read="is empty")
text("zstd", zstd(delimited().encode()), name="shop.csv.zst", **WHOLE)
text("zstd cut short", zstd(LONG.encode())[:-2000], name="shop.csv.zst", read="cannot be read")
text("JSON Lines in gzip", gzip.compress(lines(objects()).encode()), name="shop.jsonl.gz", **WHOLE)
text("bzip2", bz2.compress(delimited().encode()), name="shop.csv.bz2", read="names no format that catcli reads")
text("bzip2 under CSV's name", bz2.compress(LONG.encode()), read="is bzip2-compressed, not CSV text")
text("xz under CSV's name", lzma.compress(LONG.encode()), read="is xz-compressed, not CSV text")


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        found = tarfile.TarInfo("shop.csv")
        found.size = len(delimited().encode())
        archive.addfile(found, io.BytesIO(delimited().encode()))
    return out.getvalue()


text("an archive of tar", _tar(), name="shop.csv.gz", read="holds NUL")

# --- other things under these names ---------------------------------------------------------------------------------------------------

text("a workbook under CSV's name", workbook(SHEET), read="is a zip archive or an Excel workbook, not CSV text")
text("a PDF", b"%PDF-1.7\n" + b"x" * 500, read="is a PDF, not CSV text")
text("a picture", b"\x89PNG\r\n\x1a\n" + NOISE[:3000], read="is a picture, not CSV text")
text(
    "a web page", "<!DOCTYPE html>\n<html><body><table><tr><td>title</td></tr></table></body></html>\n", read="is a web page, not CSV text"
)
text("XML", "<?xml version='1.0'?>\n<products><product>mug</product></products>\n", read="is XML, not CSV text")
text("a database of SQLite", b"SQLite format 3\0" + b"\0" * 4000, read="is a database of SQLite, not CSV text")
text("noise", NOISE[:5000], read="neither UTF-8, UTF-16 nor Latin-1")
text("JSON under CSV's name", json.dumps(objects()), read="is JSON, not CSV text")
text("JSON Lines under CSV's name", lines(objects()), read="is JSON, not CSV text")
text("CSV under JSON Lines' name", delimited(), name="shop.jsonl", read="is not JSON")
text("a name without an ending", delimited(), name="shop", read="the ending '(none)' names no format that catcli reads")
text("a name without an ending, said", delimited(), "--input-format", "csv", name="shop", **WHOLE)
text("the ending .json", json.dumps(objects()), name="shop.json", read="the ending '.json' names no format that catcli reads")
text("the ending .txt", delimited(), name="shop.txt", read="the ending '.txt' names no format that catcli reads")
text("the ending .CSV", delimited(), name="SHOP.CSV", **WHOLE)

# --- workbooks ------------------------------------------------------------------------------------------------------------------------

text("a workbook", workbook(SHEET), name="shop.xlsx", **WHOLE)
text("a workbook without rows", workbook(""), name="shop.xlsx", read="empty Excel sheet")
text("a workbook without sheets", workbook(SHEET, ""), name="shop.xlsx", read="cannot be read as an Excel workbook")
text("a workbook cut short", workbook(SHEET)[:-300], name="shop.xlsx", read="cannot be read as an Excel workbook")
text("a workbook whose sheet is not XML", workbook("<row"), name="shop.xlsx", read="cannot be read as an Excel workbook")
text("a workbook of 1997", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 2000, name="shop.xlsx", read="is not an Excel workbook (.xlsx)")
text(
    "an archive that is not a workbook",
    workbook(SHEET).replace(b"workbook.xml", b"somename.xml"),
    name="shop.xlsx",
    read="cannot be read as",
)
text("CSV under a workbook's name", delimited(), name="shop.xlsx", read="if it is text, pass --input-format csv")

# --- places ---------------------------------------------------------------------------------------------------------------------------

PLAIN = put(delimited())


def place(about: str, name: str, make: Make | None = None, **outcome: Unpack[Outcome]) -> None:
    """A file of a certain name, or something else that lies there."""
    case(about, make or put(delimited(), name), name, **outcome)


place("a name with blanks and quotes", 'my "best" shop\'s.csv', **WHOLE)
place("a name with a line break", "my\nshop.csv", **WHOLE)
place("a name in Japanese", "商品 ☕.csv", **WHOLE)
place("a name that is not UTF-8", os.fsdecode(b"caf\xe9.csv"), **WHOLE)
place("a name with control codes", "\x1b[31mshop\x07.csv", **WHOLE)
place("a name with brackets", "shop[1].csv", **WHOLE)
place("a name with an asterisk", "sh*p.csv", **WHOLE)
place("a name of 250 letters", "s" * 246 + ".csv", **WHOLE)
place("a name that is too long", "s" * 300 + ".csv", lambda _: None, read="File name too long")
place("no such file", "shop.csv", lambda _: None, read="there is no file")
place("no such file, but a similar one", "shop.csv", put(delimited(), "shops.csv"), read="holds 'shops.csv'")
place("a pattern that fits nothing", "*.csv", lambda _: None, read="there is no file")
place("a pattern", "*.csv", PLAIN, **WHOLE)
place("a folder", ".", PLAIN, **WHOLE)
place("an empty folder", "sub", lambda folder: (folder / "sub").mkdir(), read="holds no products")
place("a folder named like a file", "shop.csv", lambda folder: (folder / "shop.csv").mkdir(), read="holds no products")
place(
    "a folder of other things",
    "sub",
    in_sub(put("x", "x.txt")),
    read="no file in it ends in",
)
place("a folder of two formats", ".", steps(PLAIN, as_parquet), read="the inputs are of several formats")
place("a folder of two layouts", ".", steps(PLAIN, put("title,b\n1,2\n", "z.csv")), read="differ in columns")
place("a folder of one file", "sub", in_sub(PLAIN), **WHOLE)
place("a link to a file", "link.csv", steps(PLAIN, lambda folder: (folder / "link.csv").symlink_to("shop.csv")), **WHOLE)
place(
    "a link to nothing",
    "link.csv",
    lambda folder: (folder / "link.csv").symlink_to("gone.csv"),
    read="is a link to gone.csv, which is not there",
)
place("a link to itself", "link.csv", lambda folder: (folder / "link.csv").symlink_to("link.csv"), read="is the link itself; name the file")
place("a file below a file", "shop.csv/x.csv", PLAIN, read="shop.csv/x.csv")
place("a socket", "shop.csv", lambda folder: _bind(folder / "shop.csv"), read="shop.csv")
place("an address of the web", "https://shop.example/products.csv", lambda _: None, read="is an address of the web")


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))
