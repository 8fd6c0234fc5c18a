"""A reviewed file: rows of a catalog or of labeled products, in whose column ``category`` a person filled in what is right.

``predict --review`` and ``audit -o`` write it; ``predict --apply`` and ``fit --corrections`` read it. Rows of one ``group`` are decided
together: a category in one of them counts for all of them, unless each has its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from catcli.data.dataset.categories import has_label, normalized_name
from catcli.data.dataset.columns import similar_columns
from catcli.data.dataset.text import column_cells, column_type, is_scalar, is_textual, row_texts
from catcli.data.io.csv_cells import unescape_formulas
from catcli.data.io.source import open_source
from catcli.errors import ProductsError, name_list
from catcli.wording import count_noun

CATEGORY, GROUP, GROUP_ROWS, GROUP_WEIGHT, SUGGESTIONS = "category", "group", "group_rows", "group_weight", "suggestions"

TEXT = "read_text"
"""The column with the text that the models read, where the format of a review cannot give it again: of lists, dates, escaped cells."""

REVIEW_COLUMNS = (SUGGESTIONS, TEXT, GROUP, GROUP_ROWS, GROUP_WEIGHT, CATEGORY)
"""The columns of a review that are not the catalog's."""

CATALOG = "catalog_"
"""What stands before the name of a column of the catalog that is called like one of these."""

MAX_NAMES = 3
"""Categories that a sentence names, and names near to each."""


@dataclass(frozen=True)
class ReviewedRows:
    """The rows of ``file`` that were decided, their ``categories`` *(rows,)* as filled in, and their ``numbers`` *(rows,)* there."""

    option: str
    file: str
    frame: pl.DataFrame
    categories: list[str]
    numbers: list[int]

    @property
    def where(self) -> str:
        """The option and the file, for a sentence."""
        return f"{self.option} {self.file}"

    @classmethod
    def read(cls, file: str, option: str) -> ReviewedRows:
        """The decided rows of a file that ``option`` names.

        Raises:
            ProductsError: it has no column to fill in, nothing is filled in, or a group is half filled with several categories.
        """
        where = f"{option} {file}"
        frame = open_source([file]).read().frame
        if CATEGORY not in frame.columns:
            raise ProductsError(
                f"{where} has no column {CATEGORY!r}; give a file that predict --review or audit -o wrote, with that column filled in."
            )
        for name in (CATEGORY, *([GROUP] if GROUP in frame.columns else [])):
            if not is_scalar(column_type(frame, name)):
                raise ProductsError(f"{where}: the cells of {name!r} are {column_type(frame, name)}, not names; write one name a cell.")
        filled = column_cells(frame, CATEGORY).cast(pl.String).str.strip_chars()
        filled = filled.set(~has_label(filled), None)
        if not filled.count():
            raise ProductsError(
                f"{where}: no cell of {CATEGORY!r} is filled in; write a category beside a row of each group that you decide."
            )
        decided = _spread(filled, column_cells(frame, GROUP), where) if GROUP in frame.columns else filled
        rows = decided.is_not_null().arg_true()
        return cls(option, file, frame[rows], decided.drop_nulls().to_list(), (rows + 1).to_list())

    def texts(self, columns: Sequence[str], prices: Iterable[str]) -> list[str]:
        """The text *(rows,)* that an adapter or a fit reads from ``columns``, the same as in the catalog.

        Raises:
            ProductsError: a column is not there.
        """
        if TEXT in self.frame.columns and self.frame.get_column(TEXT).dtype == pl.String:
            return unescape_formulas(self.frame.get_column(TEXT)).fill_null("").to_list()
        frame = self.cells(columns)
        return row_texts(frame, columns, list(prices))

    def cells(self, columns: Sequence[str]) -> pl.DataFrame:
        """Columns of the catalog, under their names there.

        Raises:
            ProductsError: one is not there, or is no text.
        """
        found = []
        for name in columns:
            column = self.find_column(name)
            if column is None:
                raise ProductsError(
                    f"{self.where} has no column {name!r}, which is read as text; give a review of such a catalog; its columns are "
                    f"{name_list(self.frame.columns, 30)}."
                )
            if not is_textual(column_type(self.frame, column)):
                raise ProductsError(f"{self.where}: the cells of {column!r} are {column_type(self.frame, column)}, not text.")
            found.append(column_cells(self.frame, column).alias(name))
        return pl.DataFrame(found)

    def find_column(self, name: str) -> str | None:
        """What a column of the catalog is called here; None where it is not here."""
        if name in REVIEW_COLUMNS and CATALOG + name in self.frame.columns:
            return CATALOG + name
        same = similar_columns(name, [column for column in self.frame.columns if column not in REVIEW_COLUMNS])
        return same[0] if len(same) == 1 else None

    def check_known(self, path_of: Callable[[str], str | None], known: Iterable[str], hint: str) -> list[str]:
        """The categories *(rows,)* as ``path_of`` spells them, which may be identifiers in the file; ``known`` are all there can be.

        Raises:
            ProductsError: some are unknown; the nearest names are suggested, and ``hint`` says what to do.
        """
        unknown: dict[str, int] = {}
        for name, number in zip(self.categories, self.numbers, strict=True):
            if path_of(name) is None:
                unknown.setdefault(name, number)
        if unknown:
            normalized = {normalized_name(name): name for name in known}
            named = []
            for name, number in list(unknown.items())[:MAX_NAMES]:
                near = difflib.get_close_matches(normalized_name(name), normalized, MAX_NAMES, 0.6)
                suggested = f", near to {name_list([normalized[match] for match in near])}" if near else ""
                named.append(f"{name!r} (row {number:,}){suggested}")
            more = f"; and {len(unknown) - MAX_NAMES:,} more" if len(unknown) > MAX_NAMES else ""
            raise ProductsError(f"{self.where} has {count_noun(len(unknown), 'unknown category')}: {'; '.join(named)}{more}. {hint}")
        return [path_of(name) or name for name in self.categories]


def known_names(names: Iterable[str], *, merge: bool = False) -> Callable[[str], str | None]:
    """Finds a name by what stands in a cell, whose blanks at the ends are gone; with ``merge`` case and inner blanks do not count."""
    stripped = {name.strip(): name for name in names}
    normalized = {normalized_name(name): name for name in names} if merge else {}
    return lambda cell: stripped.get(cell) or normalized.get(normalized_name(cell))


def is_filled_in(frame: pl.DataFrame) -> bool:
    """Whether a file has a column to fill in, and something in it."""
    if CATEGORY not in frame.columns:
        return False
    cells = column_cells(frame, CATEGORY)
    return bool(has_label(cells).any()) if is_scalar(cells.dtype) else cells.null_count() < len(cells)


def _spread(filled: pl.Series, groups: pl.Series, where: str) -> pl.Series:
    """The category of each row, which one row of its group may have for all of them.

    Raises:
        ProductsError: a group has several categories and rows without one.
    """
    table = pl.DataFrame({"row": range(1, len(filled) + 1), "filled": filled, "group": groups.cast(pl.String)})
    by_group = table.filter(pl.col("group").is_not_null()).group_by("group", maintain_order=True)
    summary = by_group.agg(
        names=pl.col("filled").drop_nulls().unique(maintain_order=True), empty=pl.col("filled").is_null().sum(), row=pl.col("row").min()
    )
    torn = summary.filter((pl.col("names").list.len() > 1) & (pl.col("empty") > 0))
    if len(torn):
        first = torn.row(0, named=True)
        raise ProductsError(
            f"{where}: group {first['group']} (from row {first['row']:,}) has {name_list(first['names'], 3)} and "
            f"{count_noun(first['empty'], 'row')} without a category; leave one category in it, which counts for all "
            "its rows, or fill in every row."
        )
    shared = summary.filter(pl.col("names").list.len() == 1).select("group", one=pl.col("names").list.first())
    joined = table.join(shared, on="group", how="left", maintain_order="left")
    return joined.select(cells=pl.coalesce("filled", "one"))["cells"]
