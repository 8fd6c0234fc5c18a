"""``--review``: the rows that are not accepted, near-equal ones together, for a person to decide once.

Each row has what a person needs beside it: a suggestion, the number of its group and how many rows that has, and an empty cell for the
category. `catcli.data.dataset.reviewed` reads it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from catcli.arrays import DoubleArray, FloatArray, IntArray
from catcli.data.dataset.near_equal import MIN_WORDS, folded_texts, group_near_equal
from catcli.data.dataset.reviewed import CATALOG, CATEGORY, GROUP, GROUP_ROWS, GROUP_WEIGHT, REVIEW_COLUMNS, SUGGESTIONS, TEXT
from catcli.data.dataset.text import column_cells, row_text_series
from catcli.data.dataset.weights import parse_weights
from catcli.data.io.batch import Batch
from catcli.data.io.output import FileFormat
from catcli.data.io.review import HIDDEN, ReviewFile, ReviewOrder, spilled_cells
from catcli.data.io.writers import output_rows
from catcli.errors import ProductsError
from catcli.evaluation.decisions import decision_order
from catcli.inference.known_labels import Classes
from catcli.inference.planning import LabelingPlan

MAX_COMPARED_GROUPS = 200_000
"""Groups that are compared with one another, those of most rows first: some seconds, and 1 KB each."""

SUGGESTED = 3
"""Categories that are suggested for a row."""

_FOLDED, _CLASS, _CONFIDENCE, _WEIGHT = (HIDDEN + name for name in ("folded", "class", "confidence", "weight"))


def suggestions(names: pl.Series, classes: Classes, confidences: FloatArray, form: FileFormat) -> pl.Series:
    """The most probable different categories of each row, from ``classes`` and ``confidences`` *(rows, width)*.

    A list of names, or for a spreadsheet text: ``Mugs (0.41); Cups (0.30)``.
    """
    rows, named = [], names.to_list()
    for numbers, sure in zip(classes.tolist(), confidences.tolist(), strict=True):
        best = dict(zip(reversed(numbers), reversed(sure), strict=True))  # the first of equal ones counts
        rows.append([(named[number], best[number]) for number in dict.fromkeys(numbers)][:SUGGESTED])
    if form.is_spreadsheet:
        return pl.Series(SUGGESTIONS, ["; ".join(f"{name} ({value:.2f})" for name, value in row) for row in rows], dtype=pl.String)
    return pl.Series(SUGGESTIONS, [[name for name, _ in row] for row in rows], dtype=pl.List(pl.String))


def with_review_columns(
    rows: Batch, added: pl.DataFrame, plan: LabelingPlan, form: FileFormat, names: pl.Series, classes: Classes, confidences: FloatArray
) -> tuple[Batch, list[str], pl.DataFrame]:
    """Rows for the review, their columns that are kept, and what is added: ``added``, `SUGGESTIONS`, and what the order goes by.

    ``classes`` and ``confidences`` *(rows, width)* are the rows' labels. Columns of the catalog that have names of the review's get others.
    """
    text = [column for column in plan.text if column is not None]
    texts = row_text_series(rows.select(list(dict.fromkeys(text))), text, plan.prices)
    weights = np.zeros(0) if plan.weight is None else _weights(rows, plan.weight)
    first = int(plan.choice.back_off is not None and classes.shape[1] > 1)  # behind the node, the categories
    columns = [
        suggestions(names, classes[:, first:], confidences[:, first:], form),
        *([texts.alias(TEXT)] if plan.text_column else []),
        folded_texts(texts).alias(_FOLDED),
        pl.Series(_CLASS, classes[:, 0].astype(np.int32)),
        pl.Series(_CONFIDENCE, confidences[:, 0]),
        *([pl.Series(_WEIGHT, weights)] if plan.weight is not None else []),
    ]
    wanted = {*plan.kept(rows.columns), *text, plan.group}
    kept = [name for name in rows.columns if name in wanted]
    taken = {name: catalog_name(name, rows.columns) for name in kept if name in REVIEW_COLUMNS or name.startswith(HIDDEN)}
    return _renamed(rows, taken), [taken.get(name, name) for name in kept], added.hstack(columns)


def _weights(rows: Batch, column: str) -> DoubleArray:
    """What the rows count *(rows,)*.

    Raises:
        ProductsError: a cell is no number from 0 on.
    """
    cells = column_cells(rows.select([column]), column)
    weights, invalid = parse_weights(cells)
    if invalid.any():
        written = str(cells[int(invalid.arg_max() or 0)])
        raise ProductsError(
            f"--weight {column!r}: a row to review has {written[:40]!r}, no number from 0 on; choose another column, or write its numbers "
            "plainly, such as 1234.50."
        )
    return weights.to_numpy()


def catalog_name(name: str, columns: Sequence[str]) -> str:
    """What a column of the catalog is called in a review that has a column of its ``name``."""
    renamed = CATALOG + name
    while renamed in columns:
        renamed += "_"
    return renamed


def _renamed(rows: Batch, names: Mapping[str, str]) -> Batch:
    if not names:
        return rows
    lines = rows.lines
    if lines is not None:
        parsed = [{names.get(key, key): value for key, value in json.loads(line).items()} for line in lines]
        lines = [json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") for row in parsed]
    if isinstance(rows.rows, pl.DataFrame):
        return replace(rows, rows=rows.rows.rename(dict(names)), lines=lines)
    return replace(rows, rows=rows.rows.rename_columns([names.get(name, name) for name in rows.columns]), lines=lines)


def write_review(
    file: str,
    form: FileFormat,
    plan: LabelingPlan,
    folder: Path,
    spills: Sequence[Path],
    empty: tuple[Batch, Sequence[str], pl.DataFrame],
    categories: Sequence[str],
) -> None:
    """Put the spilled rows in order and write them: without a budget by rising confidence, else what helps most first.

    ``empty`` are such rows as `with_review_columns` gives them, but none; ``categories`` are those that may be filled in.
    """
    order = order_groups(spills, plan.budget, weighted=plan.weight is not None)
    rows, keep, added = empty
    shown = added.drop([name for name in added.columns if name.startswith(HIDDEN)])
    nothing = output_rows(rows, keep, shown.hstack([cells.head(0).alias(name) for name, cells in order.columns.items()]))
    ReviewFile(file, form, folder, {CATEGORY: categories}).finish(spills, order, nothing)


def order_groups(spills: Sequence[Path], budget: int | None, *, weighted: bool) -> ReviewOrder:
    """The groups of the spilled rows and their order; with a ``budget`` no more than so many."""
    hashes, classes, confidences, weights = _spilled_numbers(spills, weighted=weighted)
    _, first, member = np.unique(hashes, return_index=True, return_inverse=True)
    in_order = np.argsort(first, kind="stable")  # groups by their first row
    first, member = first[in_order], np.argsort(in_order)[member]
    member = _merge_near_equal(spills, first, member, classes)
    _, member, rows = np.unique(member, return_inverse=True, return_counts=True)
    total = np.bincount(member, weights, len(rows)).astype(np.float64)
    confidence = np.bincount(member, confidences, len(rows)) / rows
    ranked: IntArray = np.argsort(confidence, kind="stable")
    if budget is not None:
        ranked = decision_order(confidence, total)[:budget]
    rank = np.full(len(rows), -1)
    rank[ranked] = np.arange(len(ranked))
    of_row = rank[member]
    places = np.full(len(of_row), -1)
    shown = np.flatnonzero(of_row >= 0)
    places[shown[np.argsort(of_row[shown], kind="stable")]] = np.arange(len(shown))
    columns = {GROUP: pl.Series(of_row + 1), GROUP_ROWS: pl.Series(rows[member])}
    if weighted:
        columns[GROUP_WEIGHT] = pl.Series(total[member])
    return ReviewOrder(places, {**columns, CATEGORY: pl.Series([None] * len(of_row), dtype=pl.String)})


def _spilled_numbers(spills: Sequence[Path], *, weighted: bool) -> tuple[IntArray, IntArray, FloatArray, DoubleArray]:
    """For each spilled row *(rows,)* a hash of what its group has in common, its class, its confidence, and what it counts."""
    parts: list[tuple[IntArray, IntArray, FloatArray, DoubleArray]] = []
    columns = [_FOLDED, _CLASS, _CONFIDENCE, *([_WEIGHT] if weighted else [])]
    for cells in spilled_cells(spills, columns):
        # Equal words make a group whatever is suggested for its rows, unless they are those of many products.
        is_telling = pl.col(_FOLDED).str.count_matches(" ") >= MIN_WORDS - 1
        kind = pl.struct(_FOLDED, pl.when(is_telling).then(-1).otherwise(_CLASS).alias(_CLASS))
        kinds = cells.select(hash=kind.hash(5).reinterpret(signed=True))["hash"].to_numpy()
        weights = cells[_WEIGHT].to_numpy() if weighted else np.ones(len(cells))
        parts.append((kinds, cells[_CLASS].cast(pl.Int64).to_numpy(), cells[_CONFIDENCE].to_numpy(), weights))
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0)
    hashes, classes, confidences, weights = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return hashes, classes, confidences, weights


def _merge_near_equal(spills: Sequence[Path], first: IntArray, member: IntArray, classes: IntArray) -> IntArray:
    """The group of each row *(rows,)* after groups of near-equal texts, and of one suggestion, became one."""
    rows = np.bincount(member, minlength=len(first))
    compared = np.sort(np.argsort(-rows, kind="stable")[:MAX_COMPARED_GROUPS])
    wanted, texts, start = first[compared], list[str](), 0
    for cells in spilled_cells(spills, [_FOLDED]):
        end = start + len(cells)
        texts += cells[_FOLDED].gather(wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, end)] - start).to_list()
        start = end
    leader = np.arange(len(first))
    leader[compared] = compared[group_near_equal(texts, classes[wanted])]
    return leader[member] if len(first) else member
