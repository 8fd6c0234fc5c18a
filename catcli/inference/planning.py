"""Batches of rows → which texts of each are labeled, and which together; knows no model.

It follows from the rows alone. int8 scales its numbers by what it computes together, so the same rows have to come together wherever and
however often they are labeled: in a run that was killed and goes on, by few threads or many, on one machine or several.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catcli.arrays import HashArray, IntArray
from catcli.data.dataset.text import row_text_series
from catcli.data.io.batch import Batch
from catcli.errors import ProductsError
from catcli.inference.label_cache import CacheSlots, is_among, text_hashes

MAX_CHARACTERS_PER_TEXT = 128
"""Characters of a call's texts, at most, for each text that it may have: with 256 texts on a CPU, a second's work."""

MAX_PART_CALLS, MAX_PART_ROWS = 32, 2_000_000
"""What was done is kept after so many calls' worth of labeled texts, or so many rows."""

FIRST_BATCH_ROWS = 64
"""Rows of the first batch."""


@dataclass(frozen=True)
class LabelingPlan:
    """What to do with each row.

    ``text`` are the catalog's columns in the order of the adapter's text columns; one that is None is missing and counts as empty. Those of
    ``prices`` are read as bands. A row is accepted from ``min_confidence`` on, or from what ``by_category`` has for its category; one that
    it does not have never is. ``keep`` are the columns that are written, None for all. ``dedupe`` labels a text once that comes again.
    """

    text: tuple[str | None, ...]
    top_k: int = 1
    min_confidence: float = 0.0
    by_category: Mapping[str, float] | None = None
    keep: tuple[str, ...] | None = None
    alternatives_as_json: bool = False
    dedupe: bool = True
    prices: frozenset[str] = frozenset()

    def kept(self, columns: Sequence[str]) -> list[str]:
        """Those of the catalog's columns that are written."""
        return [name for name in columns if self.keep is None or name in self.keep]


@dataclass(frozen=True)
class PlannedBatch:
    """A batch, and which of its texts are to be labeled.

    ``owner`` *(rows,)* is the number of each row's text among the different ones, whose ``hashes`` have shape *(texts,)*. Of these texts,
    by number, ``fresh`` are labeled in ``calls``, one after the other; ``cached`` were labeled before and have their labels in ``slots``;
    ``previous`` are in an earlier output. ``blank`` rows have no text. A batch that ``begins_part`` is the first of a part of the output;
    where ``keeps`` is set too, everything before it is to survive a kill.
    """

    rows: Batch
    begins_part: bool
    keeps: bool
    owner: IntArray
    hashes: HashArray
    fresh: IntArray
    calls: tuple[list[str], ...]
    cached: IntArray
    slots: IntArray
    previous: IntArray
    blank: int


class BatchPlanner:
    """Plans batches, in the order of their rows."""

    def __init__(
        self,
        plan: LabelingPlan,
        texts: int,
        *,
        by_input: bool = False,
        previous_hashes: HashArray | None = None,
        done: tuple[int, int] = (0, 0),
        arrays: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        """``texts`` are labeled in one call; with ``by_input`` the rows of each input are parts of their own.

        ``previous_hashes`` are the rising hashes of the texts of an earlier output; ``done`` are the rows that a run before has finished,
        and how many could not be read there, and ``arrays`` is what it had cached there.
        """
        self._plan, self.texts, self._by_input, self._done = plan, texts, by_input, done
        self._previous_hashes = np.empty(0, np.uint64) if previous_hashes is None else previous_hashes
        self._slots = CacheSlots()
        if arrays:
            self._slots.load(arrays)
        self._columns = [column for column in plan.text if column is not None]
        self._rows_in_part = self._texts_in_part = 0
        self._part: int | None = None

    def plan_all(self, batches: Iterable[Batch]) -> Iterator[PlannedBatch]:
        """All batches, planned; those that were done are skipped."""
        return map(self.plan, _skip_done(_grow_first_batch(batches), *self._done))

    def plan(self, batch: Batch) -> PlannedBatch:
        """Plan the next batch."""
        keeps = self._texts_in_part >= MAX_PART_CALLS * self.texts or self._rows_in_part >= MAX_PART_ROWS
        begins_part = keeps or (self._by_input and self._part not in (None, batch.part))
        if keeps:
            self._rows_in_part = self._texts_in_part = 0
        self._part = batch.part
        texts = row_text_series(batch.select(list(dict.fromkeys(self._columns))), self._columns, self._plan.prices)
        hashes = text_hashes(texts)
        if self._plan.dedupe:
            distinct, first, owner = np.unique(hashes, return_index=True, return_inverse=True)
        else:
            distinct, first, owner = hashes, np.arange(len(hashes)), np.arange(len(hashes))
        in_previous = is_among(distinct, self._previous_hashes)
        slots = self._slots.find(distinct) if self._plan.dedupe else np.full(len(distinct), -1)
        cached = np.flatnonzero((slots >= 0) & ~in_previous)
        fresh = np.flatnonzero((slots < 0) & ~in_previous)
        # By length, so that a call's texts fill batches of one length; by row within it, so that the order is always the same.
        lengths = texts.str.len_chars().to_numpy()[first[fresh]]
        order = np.lexsort((first[fresh], lengths))
        fresh, lengths = fresh[order], lengths[order]
        # The longest first: the calls that end a batch are short ones, and no worker is left alone with a long one.
        spans = [fresh[start:end] for start, end in reversed(list(_call_spans(lengths, self.texts)))]
        calls = tuple(texts.gather(first[chosen]).to_list() for chosen in spans)
        fresh = np.concatenate([np.empty(0, np.int64), *spans])
        if self._plan.dedupe:
            self._slots.add(distinct[fresh])
        self._rows_in_part += len(batch)
        self._texts_in_part += len(fresh)
        blank = int((texts == "").sum())
        return PlannedBatch(
            batch, begins_part, keeps, owner, distinct, fresh, calls, cached, slots[cached], np.flatnonzero(in_previous), blank
        )


def rows_per_batch(texts: int) -> int:
    """Rows to read at once: many calls of ``texts`` each, so that every call finds texts of like length among them."""
    return 16 * texts


def _call_spans(lengths: npt.NDArray[Any], limit: int) -> Iterator[tuple[int, int]]:
    """Cuts of rising ``lengths``: at most ``limit`` texts, and `MAX_CHARACTERS_PER_TEXT` for each of these, or one text."""
    start = total = 0
    for position, length in enumerate(lengths.tolist()):
        if position > start and (position - start >= limit or total + length > MAX_CHARACTERS_PER_TEXT * limit):
            yield start, position
            start, total = position, 0
        total += length
    if len(lengths):
        yield start, len(lengths)


def _grow_first_batch(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, the first of them cut into pieces that double: whoever waits at the end of a pipe sees its first rows at once."""
    batches = iter(batches)
    for batch in itertools.islice(batches, 1):
        start, count = 0, FIRST_BATCH_ROWS
        while len(batch) - start > count:
            yield batch.slice(start, count)
            start, count = start + count, 2 * count
        yield batch.slice(start)
    yield from batches


def _skip_done(batches: Iterable[Batch], rows: int, bad: int) -> Iterator[Batch]:
    """The batches after the first ``rows`` rows, and after those without rows that had the last of so many ``bad`` ones."""
    for batch in batches:
        rows_seen = len(batch.bad)
        if not rows and not (not len(batch) and 0 < rows_seen <= bad):
            yield batch
            continue
        bad -= rows_seen
        if not len(batch):
            continue
        if rows >= len(batch):
            rows -= len(batch)
        else:
            yield batch.slice(rows)
            rows = 0
    if rows:
        raise ProductsError(
            f"the catalog has {rows:,} rows fewer than the stopped run had labeled; 'catcli clean --yes' removes what that run left."
        )
