"""The rows to learn from: all of a source, or an even sample of its categories that is made while the files are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.data.dataset.categories import Categories, has_label
from catcli.data.dataset.columns import SAMPLE_ROWS, find_label_column
from catcli.data.dataset.examples import ranks_within_classes
from catcli.data.dataset.text import column_cells, is_textual
from catcli.data.io.source import Source

MAX_PENDING_BYTES = 32 * 2**20
"""Bytes of rows after which those that fall out of a sample are let go."""


@dataclass(frozen=True)
class GatheredRows:
    """``frame`` has the rows to learn from. ``read`` rows there were, of which ``unlabeled`` are not in it for want of a category.

    ``label`` is the column that a sample went by, None without one. ``short`` and ``note`` are what the reader says of the rows: see
    `Batch`.
    """

    frame: pl.DataFrame
    read: int
    label: str | None = None
    unlabeled: int = 0
    short: int = 0
    note: str = ""


def gather_rows(source: Source, label: str | None, text: Sequence[str], per_category: int | None, seed: int) -> GatheredRows:
    """All rows of ``source``, or at most ``per_category`` of each category, every one of a category's rows as likely as the others.

    A sample holds no more than twice what it takes, `MAX_PENDING_BYTES` and the first `SAMPLE_ROWS` rows, however large the files are.
    Columns that can be neither text nor label keep their names and types, and lose their cells: in Amazon Reviews 2023 the links to images
    are most of a row.

    Raises:
        ProductsError: a sample is asked for, and which column is the category is unclear from the first rows.
    """
    gathered = GatheredRows(pl.DataFrame(), 0)
    frames: list[pl.DataFrame] = []
    sample: _CategorySample | None = None
    for batch in source.batches():
        gathered = replace(
            gathered,
            read=gathered.read + len(batch),
            short=gathered.short + batch.short,
            note=" ".join(filter(None, (gathered.note, batch.note))),
        )
        frame = _drop_nested_cells(batch.frame)
        if sample is not None:
            sample.add(frame)
            continue
        frames.append(frame)
        if per_category is not None and gathered.read >= SAMPLE_ROWS:
            sample = _begin_sample(pl.concat(frames), label, text, source.name, per_category, seed)
            frames = []
    if per_category is None or not gathered.read:
        return replace(gathered, frame=pl.concat(frames, rechunk=True))
    sample = sample or _begin_sample(pl.concat(frames), label, text, source.name, per_category, seed)
    return replace(gathered, frame=sample.rows(), label=sample.label, unlabeled=sample.unlabeled)


def _drop_nested_cells(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame, its columns that hold no text emptied."""
    nested = [name for name, dtype in frame.schema.items() if not is_textual(dtype)]
    return frame.with_columns(pl.Series(name, [None], dtype=frame.schema[name]).new_from_index(0, len(frame)) for name in nested)


def _begin_sample(first: pl.DataFrame, label: str | None, text: Sequence[str], source_name: str, limit: int, seed: int) -> _CategorySample:
    """A sample by the category that the first rows show, with these rows in it."""
    sample = _CategorySample(find_label_column(first, label, text, source_name), limit, seed, first.clear())
    sample.add(first)
    return sample


class _CategorySample:
    """At most ``limit`` rows of each category: those to which the smallest random numbers fell, in the order in which they came."""

    def __init__(self, label: str, limit: int, seed: int, nothing: pl.DataFrame) -> None:
        self.unlabeled = 0
        self.label, self._limit = label, limit
        self._random = np.random.default_rng(seed)
        self._kept, self._waiting, self._numbers = nothing, [nothing], np.empty(0)

    def add(self, frame: pl.DataFrame) -> None:
        """Let the rows take part."""
        numbers = self._random.random(len(frame))
        labeled = has_label(column_cells(frame, self.label)).to_numpy()
        self.unlabeled += int((~labeled).sum())
        self._waiting.append(frame.filter(labeled))
        self._numbers = np.concatenate((self._numbers, numbers[labeled]))
        if sum(waiting.estimated_size() for waiting in self._waiting) >= max(MAX_PENDING_BYTES, self._kept.estimated_size()):
            self._settle()

    def rows(self) -> pl.DataFrame:
        """The sampled rows."""
        self._settle()
        return self._kept

    def _settle(self) -> None:
        rows = pl.concat([self._kept, *self._waiting])
        labels = column_cells(rows, self.label).cast(pl.String).to_list()
        smallest = _smallest(Categories.of(labels).numbers(labels), self._numbers, self._limit)
        # A copy: a slice would hold on to what it was cut from.
        self._kept, self._numbers, self._waiting = rows[smallest].rechunk(), self._numbers[smallest], []


def _smallest(classes: npt.NDArray[np.int64], numbers: npt.NDArray[np.float64], limit: int) -> npt.NDArray[np.int64]:
    """The positions of the ``limit`` smallest ``numbers`` of each class, in their order."""
    order = np.lexsort((numbers, classes))
    return np.sort(order[ranks_within_classes(classes[order])[0] < limit])
