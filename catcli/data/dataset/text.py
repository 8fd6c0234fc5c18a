"""The text columns of a row → one text."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import polars as pl

_PRICES = {"price", "prices", "msrp", "rrp", "preis", "prix", "precio", "prezzo", "prijs"}
_NO_PRICES = {"currency", "date", "id", "code", "url", "link", "type", "note"}

MAX_CHARACTERS = 20_000
"""Characters of a text that are looked at, some ten pages. Without a limit, a damaged cell of megabytes costs what a thousand rows do."""


def row_texts(frame: pl.DataFrame, columns: Sequence[str], prices: Collection[str] = ()) -> list[str]:
    """The cells of ``columns``, in that order, joined by a blank; empty ones left out, runs of white space folded, cut at `MAX_CHARACTERS`.

    A list (Amazon Reviews 2023: ``features``, ``description``) is its members joined; a cell of ``prices`` is the word for its band,
    `price_words`; other numbers and dates stand as polars writes them. Columns' names are left out: "brand: " before each brand gained on
    flipkart what it lost on amazon_toys (tests/bench/README.md).
    """
    return row_text_series(frame, columns, prices).to_list()


def row_text_series(frame: pl.DataFrame, columns: Sequence[str], prices: Collection[str] = ()) -> pl.Series:
    """`row_texts`, as a series of strings."""
    texts = (price_words(column_cells(frame, name)) if name in prices else _as_text(column_cells(frame, name)) for name in columns)
    parts = {str(number): text.str.slice(0, MAX_CHARACTERS) for number, text in enumerate(texts)}
    joined = pl.concat_str(pl.all(), separator=" ", ignore_nulls=True)
    folded = joined.str.replace_all(r"\s+", " ").str.strip_chars().str.slice(0, MAX_CHARACTERS).fill_null("")
    return pl.DataFrame(parts).select(text=folded)["text"]


def column_cells(frame: pl.DataFrame, column: str) -> pl.Series:
    """A column by its very name, under the name ``cells``.

    polars takes a name such as ``*`` or ``^a.*$`` for a pattern, in most methods of a series too.
    """
    return frame.get_column(column).alias("cells")


def column_type(frame: pl.DataFrame, column: str) -> pl.DataType:
    """A column's type; ``frame.schema`` would look at all of them for it, which takes minutes where there are ten thousand."""
    return frame.get_column(column).dtype


def name_words(name: str) -> list[str]:
    """The words of a column's name in lower case: ``retail_priceInr`` has three."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return [word for word in re.split(r"[\W_]+", spaced.casefold()) if word]


def is_price(frame: pl.DataFrame, column: str) -> bool:
    """Whether a column holds prices: its name says so, and half of its cells have a number."""
    words = set(name_words(column))
    if not words & _PRICES or words & _NO_PRICES or not is_scalar(column_type(frame, column)):
        return False
    return price_words(column_cells(frame, column)).count() >= len(frame) / 2


def price_words(cells: pl.Series) -> pl.Series:
    """Prices as words such as ``price200``, for 200 up to 500, or null: bands that begin at 1, 2 and 5 times a power of ten.

    The first number of a cell counts. In text, digits in threes behind marks or blanks are grouped (``1.299,00``, ``1,299``, ``2 499``),
    and one or two digits behind the last mark are a fraction. A word of its own tells both models more than the digits do, and needs no
    quantiles to be kept.
    """
    table = pl.DataFrame({"value": cells.cast(pl.Float64) if cells.dtype.is_numeric() else _numbers(cells.cast(pl.String))})
    table = table.with_columns(power=10 ** pl.col("value").clip(1).log10().add(1e-9).floor())
    lead = pl.col("value") / pl.col("power") + 1e-9
    step = pl.when(lead >= 5).then(5).when(lead >= 2).then(2).when(lead >= 1).then(1).otherwise(0)
    return table.select(pl.concat_str(pl.lit("price"), (step * pl.col("power")).cast(pl.Int64, strict=False)).alias("cells"))["cells"]


def _numbers(cells: pl.Series) -> pl.Series:
    """The first number of each cell, or null."""
    grouped = cells.str.extract(r"^\D*([1-9]\d{0,2}(?:[., '’\x{00a0}\x{202f}]\d{3})+)(?:[.,]\d{1,2})?(?:\D|$)").str.replace_all(r"\D", "")
    plain = cells.str.extract(r"(\d+(?:[.,]\d+)?)").str.replace(",", ".", literal=True)
    return grouped.fill_null(plain).cast(pl.Float64, strict=False)


def is_price_word(word: str) -> bool:
    """Whether a word is one of `price_words`."""
    return word.startswith("price") and word[5:].isdecimal()


def _as_text(cells: pl.Series) -> pl.Series:
    if isinstance(cells.dtype, pl.Array):
        cells = cells.arr.to_list()
    if isinstance(cells.dtype, pl.List):
        return cells.list.eval(pl.element().cast(pl.String)).list.join(" ", ignore_nulls=True)
    return cells.cast(pl.String)


def is_textual(dtype: pl.DataType) -> bool:
    """Whether `row_texts` can turn a column of this type into text: text, numbers, dates, categories, and lists of them."""
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    return not (inner.is_nested() or inner in (pl.Binary, pl.Object, pl.Duration))


def is_scalar(dtype: pl.DataType) -> bool:
    """Whether a cell of this type is one name or number: what a label and a group have to be."""
    return is_textual(dtype) and not dtype.is_nested()
