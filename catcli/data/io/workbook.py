"""Rows → an Excel workbook for a person: one sheet with a filter, and where a column is to be filled in a list of what may stand there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import polars as pl

from catcli.data.io.batch import Batch
from catcli.data.io.csv_cells import flatten_cells
from catcli.errors import OutputError, UsageError

MAX_ROWS = 2**20 - 1
"""Rows of a sheet below its header."""

MAX_CELL_CHARACTERS = 32_767
"""Characters of a cell; no more than 20,000 of a text are read."""

WIDTHS = (10, 60)
"""A column is as wide as its cells in the first rows, within these bounds, in characters."""


def check_workbook_writer(option: str, file: str) -> None:
    """Raise `UsageError` where the package that writes workbooks is missing."""
    try:
        import xlsxwriter  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{option} {file}: writing Excel takes one package more: pip install 'catcli[excel]'; or name a CSV file."
        ) from error


class WorkbookWriter:
    """Takes rows of one layout, in order; what stands in a cell is text or a number, never a formula or a link."""

    def __init__(self, file: BinaryIO, choices: Mapping[str, Sequence[str]]) -> None:
        """``choices`` are what may stand in the columns that are to be filled in."""
        import xlsxwriter

        plain = {"strings_to_numbers": False, "strings_to_formulas": False, "strings_to_urls": False}
        self._book = xlsxwriter.Workbook(file, {"constant_memory": True, "nan_inf_to_errors": True, **plain})
        self._sheet = self._book.add_worksheet("review")
        self._choices = choices
        self._columns: list[str] = []
        self._rows = 0

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """Add rows: the columns ``keep`` as CSV has them, since a number as Excel has it is another text, and ``added`` after them."""
        kept = flatten_cells(rows.select(keep)).select(pl.all().cast(pl.String))
        frame = kept.hstack(flatten_cells(added)) if keep else flatten_cells(added)
        if self._rows + len(frame) > MAX_ROWS:
            raise OutputError(
                f"a sheet of Excel has room for {MAX_ROWS:,} rows, and these are more; name a CSV or Parquet file, or take fewer with "
                "--review-budget."
            )
        if not self._columns:
            self._begin(frame)
        for cells in frame.iter_rows():
            self._rows += 1
            for column, cell in enumerate(cells):
                if isinstance(cell, str):
                    self._sheet.write_string(self._rows, column, cell[:MAX_CELL_CHARACTERS])
                elif cell is not None:
                    self._sheet.write_number(self._rows, column, float(cell))

    def _begin(self, frame: pl.DataFrame) -> None:
        self._columns = frame.columns
        bold = self._book.add_format({"bold": True})
        for column, name in enumerate(frame.columns):
            shown = frame.get_column(name).head(100).cast(pl.String).fill_null("").to_list()
            self._sheet.set_column(column, column, min(max(len(name), *map(len, shown), WIDTHS[0]), WIDTHS[1]))
            self._sheet.write_string(0, column, name, bold)
        self._sheet.freeze_panes(1, 0)

    def close(self) -> None:
        """Write the lists of choices, and the file."""
        if self._columns:
            self._sheet.autofilter(0, 0, self._rows, len(self._columns) - 1)
            self._sheet.ignore_errors({"number_stored_as_text": f"A1:XFD{self._rows + 1}"})
        for column, name in enumerate(self._columns):
            if self._choices.get(name):
                self._offer(column, name)
        self._book.close()

    def _offer(self, column: int, name: str) -> None:
        """Show a column's choices in a list beside each of its cells; they stand in a sheet of their own."""
        listed = self._book.add_worksheet(name)
        for number, choice in enumerate(self._choices[name]):
            listed.write_string(number, 0, choice)
        source = f"='{name}'!$A$1:$A${len(self._choices[name])}"
        rule: dict[str, Any] = {"validate": "list", "source": source, "error_type": "warning", "error_title": "Not among the categories"}
        self._sheet.data_validation(1, column, max(self._rows, 1), column, rule)

    def abandon(self) -> None:
        """Nothing was written yet."""
