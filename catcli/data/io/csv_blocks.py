"""Blocks of CSV text → frames, by polars, where it reads the same cells as Python's ``csv``; `catcli.data.io.csv_reader` reads the others.

A block is looked at as bytes first. polars reads it where every row has as many cells as the header, and quotes stand either as RFC 4180
has them, around cells and doubled inside, or nowhere at the beginning of a cell, so that all of them are letters (``55" TV``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.arrays import IntArray

BLOCK_CHARACTERS = 2**18
"""Characters of a block: large enough for polars to be fast, small enough that one odd row leaves few others to Python's csv."""

_QUOTE, _LINE_FEED, _CARRIAGE_RETURN, _END_OF_DOS = b'"\n\r\x1a'
_ZLIB = (b"x\x01", b"x\x9c", b"x\xda")
"""What polars takes for the beginning of compressed bytes and would unpack, such as of a row that begins with an x and an Arabic letter."""

_BYTE_ORDER_MARK = "\ufeff"

Bytes = npt.NDArray[np.uint8]


def parse_block(text: str, delimiter: str, width: int) -> tuple[pl.DataFrame, str] | None:
    """The cells of the rows that end in ``text``, in ``width`` columns, and the text behind them; None where polars cannot read them.

    Cells are text, an empty one is null. The text ends with a line, or with the file.
    """
    if not delimiter.isascii() or delimiter in '"\r\n' or text.startswith(_BYTE_ORDER_MARK):
        return None
    try:
        data = np.frombuffer(text.encode(), np.uint8)
    except UnicodeEncodeError:  # a byte that is not of the file's encoding
        return None
    marks = _Marks.of(data, ord(delimiter)) if data[:2].tobytes() not in _ZLIB else None
    if marks is None or not marks.are_rows(data, width):
        return None
    end = int(marks.ends[-1]) + 1
    frame = pl.read_csv(
        np.delete(data[:end], marks.returns).tobytes() if len(marks.returns) else data[:end].tobytes(),
        has_header=False,
        separator=delimiter,
        quote_char='"' if marks.enclosing else None,
        schema={str(number): pl.String for number in range(width)},
    )
    if len(frame) != len(marks.ends):
        return None
    # A cell of two quotes is an empty text to polars, and no null.
    return (frame.select(pl.when(pl.all() != "").then(pl.all())) if marks.enclosing else frame), data[end:].tobytes().decode()


@dataclass(frozen=True)
class _Marks:
    """Where in a block rows end, and between these cells and rows: the places of bytes outside of quotes, rising.

    ``ends`` are the line feeds that end rows, ``returns`` the carriage returns before the last of these, and ``delimiters`` *(rows,)* how
    many each row has; ``enclosing`` says whether quotes enclose cells.
    """

    ends: IntArray
    returns: IntArray
    delimiters: IntArray
    enclosing: bool

    @classmethod
    def of(cls, data: Bytes, delimiter: int) -> Self | None:
        """Those of a block that begins with a row; None where its quotes are irregular, or a row holds what ends a file in DOS."""
        is_mark = data == delimiter
        for byte in (_QUOTE, _LINE_FEED, _CARRIAGE_RETURN, _END_OF_DOS):
            is_mark |= data == byte
        places = np.flatnonzero(is_mark)
        kinds = data[places]
        quotes = places[kinds == _QUOTE]
        before = np.where(quotes > 0, data[quotes - 1], _LINE_FEED)
        after = np.where(quotes + 1 < len(data), data[np.minimum(quotes + 1, len(data) - 1)], _LINE_FEED)
        between_cells = np.array([delimiter, _LINE_FEED, _CARRIAGE_RETURN])
        enclosing = bool(np.isin(before, between_cells).any())
        if enclosing:
            # The first one opens, the next one closes, and so on; where one closes and the next opens at once, they are a letter.
            beside = np.append(between_cells, _QUOTE)
            if not (np.isin(before[::2], beside).all() and np.isin(after[1::2], beside).all()):
                return None
            outside = np.cumsum(kinds == _QUOTE) % 2 == 0
            places, kinds = places[outside], kinds[outside]
        if (kinds == _END_OF_DOS).any():
            return None
        is_end = kinds == _LINE_FEED
        ends, returns = places[is_end], places[kinds == _CARRIAGE_RETURN]
        counts = np.diff(np.cumsum(kinds == delimiter)[is_end], prepend=0)
        return cls(ends, returns[: np.searchsorted(returns, ends[-1])] if len(ends) else returns, counts, enclosing)

    def are_rows(self, data: Bytes, width: int) -> bool:
        """Whether all rows have ``width`` cells and end alike; a blank line of one column is a row to nobody."""
        if not len(self.ends) or (self.delimiters != width - 1).any() or (data[self.returns + 1] != _LINE_FEED).any():
            return False
        return width > 1 or not (len(self.returns) or (np.diff(self.ends, prepend=-1) == 1).any())
