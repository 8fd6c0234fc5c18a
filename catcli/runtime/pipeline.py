"""read → label → write, at the same time: a catalog in, the same catalog with categories out.

One thread reads ahead, one writes behind, and as many as the device is worth label; what is on its way between them is bounded, so memory
is that of some batches, whatever the catalog's size. Which texts are labeled together is settled by the rows alone, never by which thread
was faster: a run that was killed and goes on gives the very output of one that was not.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.errors import ProductsError
from catcli.products.batch import Batch
from catcli.products.review import Review
from catcli.products.text import composed
from catcli.products.write import Sink
from catcli.runtime.labeler import Labeler, Labels
from catcli.runtime.recall import Hashes, Previous, Recall, hashes_of

PREDICTED, CONFIDENCE, ALTERNATIVES = "predicted_category", "confidence", "alternatives"

CHARACTERS = 32_768
"""Characters of texts that are labeled in one call, at most: a second's work, and some megabytes of n-grams."""

PART_CALLS, PART_ROWS = 32, 2_000_000
"""A part of the output is finished after so many calls' worth of labeled texts, or so many rows."""

FIRST_ROWS = 64
"""Rows of the first batch."""

READ_AHEAD, WRITE_BEHIND = 2, 2
"""Batches read but not yet looked at, and labeled but not yet written."""

Advance = Callable[[int, float], None]
"""Called after every batch with the rows labeled so far and the share of the input read, 0 to 1."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Plan:
    """What to do with each row.

    ``text`` are the catalog's columns in the order of the adapter's text columns; one that is None is missing and counts as empty. Those of
    ``prices`` are read as bands.
    A row is accepted from ``min_confidence`` on, or from what ``by_category`` has for its category; one that it does not have never is.
    ``keep`` are the columns that are written, None for all. ``dedupe`` labels a text once that comes again.
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


@dataclass
class Summary:
    """What a run came to.

    ``below`` counts rows whose confidence was below the one asked for, ``blank`` those without any text, ``short`` those of CSV with fewer
    cells than the header. ``labeled`` counts texts that a model looked at, ``cut`` those of them with more tokens than it reads, and
    ``taken_over`` rows that an earlier output had. ``resumed`` are rows that a run before had done; ``seconds`` are this run's.
    """

    rows: int = 0
    below: int = 0
    blank: int = 0
    short: int = 0
    labeled: int = 0
    cut: int = 0
    taken_over: int = 0
    resumed: int = 0
    seconds: float = 0.0
    categories: dict[str, int] = field(default_factory=dict)


class Output(Protocol):
    """Where labeled rows go; ``by_input`` says that the rows of each input go to a file of their own."""

    by_input: bool

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """Add rows."""

    def finish_part(self, rows: int, state: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Make the ``rows`` written since the last call survive a kill."""


class Through:
    """An output that cannot keep parts: a pipe."""

    by_input = False

    def __init__(self, sink: Sink) -> None:
        self.write = sink.write

    def finish_part(self, rows: int, state: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Nothing to do: what went into a pipe is gone."""


@dataclass
class _Work:
    """A batch on its way: its different texts, and where each row finds its own among them."""

    batch: Batch
    owner: npt.NDArray[np.int64]
    hashes: Hashes
    fresh: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int32]
    confidences: npt.NDArray[np.float32]
    taken_over: npt.NDArray[np.bool_]
    blank: int
    calls: list[tuple[npt.NDArray[np.int64], Future[Labels]]]


def run(
    batches: Iterable[Batch],
    output: Output,
    labeler: Labeler,
    plan: Plan,
    advance: Advance,
    *,
    previous: Previous | None = None,
    review: Review | None = None,
    summary: Summary | None = None,
    arrays: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Summary:
    """Label all rows of ``batches`` and write them to ``output`` in their order; ``review`` gets those that are not accepted.

    ``summary`` and ``arrays`` are those of the last finished part of a run that goes on; its rows are read past.
    """
    return _Run(output, labeler, plan, advance, previous, review, summary or Summary(), arrays).through(batches)


class _Run:
    """One run's threads and counts."""

    def __init__(
        self,
        output: Output,
        labeler: Labeler,
        plan: Plan,
        advance: Advance,
        previous: Previous | None,
        review: Review | None,
        summary: Summary,
        arrays: Mapping[str, npt.NDArray[Any]] | None,
    ) -> None:
        self.output, self.labeler, self.plan, self.advance, self.previous = output, labeler, plan, advance, previous
        self.review = review
        self.summary = summary
        self.summary.resumed = summary.rows
        self.k = min(plan.top_k, len(labeler.categories))
        self.recall = Recall(self.k)
        if arrays:
            self.recall.load(arrays)
        self.names = pl.Series(labeler.categories, dtype=pl.String)
        self.counts = np.array([summary.categories.get(name, 0) for name in labeler.categories], np.int64)
        self.columns = [column for column in plan.text if column is not None]
        self.needed = np.full(len(labeler.categories), plan.min_confidence)
        if plan.by_category is not None:
            self.needed = np.array([plan.by_category.get(name, math.inf) for name in labeler.categories])

    def through(self, batches: Iterable[Batch]) -> Summary:
        """All of it."""
        started = time.perf_counter()
        waiting: deque[_Work] = deque()
        writes: deque[Future[None]] = deque()
        in_part = texts_in_part = 0
        part: int | None = None
        most = max(2, math.ceil(2 * self.labeler.workers * self.labeler.texts / rows_of_a_batch(self.labeler)))
        with _threads(1) as reading, _threads(1) as writing, _threads(self.labeler.workers) as labeling:

            def settle() -> None:
                """Finish the oldest batch and hand it to the writer."""
                work = waiting.popleft()
                added, suggested = self.finished(work)
                if len(writes) >= WRITE_BEHIND:
                    writes.popleft().result()
                writes.append(writing.submit(self.write, work.batch, self.plan.kept(work.batch.columns), added, suggested))
                self.advance(self.summary.rows, work.batch.share)

            def settle_all() -> None:
                while waiting:
                    settle()
                while writes:
                    writes.popleft().result()
                if self.review is not None:
                    self.review.finish_part()  # before the output's: what it counts as done has its doubtful rows on disk
                self.output.finish_part(in_part, self.state(), self.recall.arrays())

            for batch in _past(_rising(_ahead(batches, reading)), self.summary.resumed):
                another = self.output.by_input and part not in (None, batch.part)
                if another or texts_in_part >= PART_CALLS * self.labeler.texts or in_part >= PART_ROWS:
                    settle_all()
                    in_part = texts_in_part = 0
                part = batch.part
                while len(waiting) >= most:
                    settle()
                work = self.begun(batch, labeling)
                waiting.append(work)
                in_part += len(batch)
                texts_in_part += len(work.fresh)
            settle_all()
        self.summary.seconds = time.perf_counter() - started
        self.summary.categories = self.by_category()
        return self.summary

    def write(self, batch: Batch, keep: Sequence[str], added: pl.DataFrame, suggested: pl.Series | None) -> None:
        """A batch to the output, and what was not accepted to the review, with the category that it would have had."""
        self.output.write(batch, keep, added)
        if self.review is not None and suggested is not None:
            rows = np.flatnonzero(added.get_column(PREDICTED).is_null().to_numpy())
            self.review.write(batch.take(rows), keep, added.with_columns(suggested)[rows])

    def state(self) -> dict[str, Any]:
        """The counts so far, for a journal."""
        return {**vars(self.summary), "categories": self.by_category()}

    def by_category(self) -> dict[str, int]:
        """Rows by category, the most frequent first."""
        found = {name: int(count) for name, count in zip(self.labeler.categories, self.counts, strict=True) if count}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def begun(self, batch: Batch, labeling: ThreadPoolExecutor) -> _Work:
        """Look up what is known of a batch's texts and have the others labeled."""
        texts = composed(batch.select(list(dict.fromkeys(self.columns))), self.columns, self.plan.prices)
        blank = int((texts == "").sum())
        hashes = hashes_of(texts)
        if self.plan.dedupe:
            distinct, first, owner = np.unique(hashes, return_index=True, return_inverse=True)
        else:
            distinct, first, owner = hashes, np.arange(len(hashes)), np.arange(len(hashes))
        classes, confidences = np.zeros((len(distinct), self.k), np.int32), np.zeros((len(distinct), self.k), np.float32)
        known, taken = np.zeros(len(distinct), np.bool_), np.zeros(len(distinct), np.bool_)
        if self.previous is not None:
            found = self.previous.find(distinct)
            known |= found.known
            taken, classes[found.known], confidences[found.known] = found.known, found.classes[found.known], found.confidences[found.known]
        if self.plan.dedupe:
            found = self.recall.find(distinct)
            recalled = found.known & ~known
            known |= recalled
            classes[recalled], confidences[recalled] = found.classes[recalled], found.confidences[recalled]
        fresh = np.flatnonzero(~known)
        # By length, so that a call's texts fill batches of one length; by row within it, so that the order is always the same.
        lengths = texts.str.len_chars().to_numpy()[first[fresh]]
        fresh = fresh[np.lexsort((first[fresh], lengths))]
        calls = []
        # The longest first: the calls that end a part are short ones, and no worker is left alone with a long one.
        for start, end in reversed(list(_spans(np.sort(lengths), self.labeler.texts))):
            chosen = fresh[start:end]
            strings = texts.gather(first[chosen]).to_list()
            calls.append((chosen, labeling.submit(self.labeler.label, strings, self.k)))
        return _Work(batch, owner, distinct, fresh, classes, confidences, taken, blank, calls)

    def finished(self, work: _Work) -> tuple[pl.DataFrame, pl.Series | None]:
        """Wait for a batch's labels, count them, and make our columns of them; and for a review, the categories whether accepted or not."""
        for chosen, call in work.calls:
            labels = call.result()
            work.classes[chosen], work.confidences[chosen] = labels.classes, labels.confidences
            self.summary.cut += labels.cut
        if self.plan.dedupe:
            self.recall.add(work.hashes[work.fresh], work.classes[work.fresh], work.confidences[work.fresh])
        classes, confidences = work.classes[work.owner], work.confidences[work.owner]
        accepted = confidences[:, 0] >= self.needed[classes[:, 0]]
        self.counts += np.bincount(classes[accepted, 0], minlength=len(self.counts))
        self.summary.rows += len(work.batch)
        self.summary.below += int((~accepted).sum())
        self.summary.blank += work.blank
        self.summary.short += work.batch.short
        self.summary.labeled += len(work.fresh)
        self.summary.taken_over += int(work.taken_over[work.owner].sum())
        suggested = self.names.gather(classes[:, 0]).alias(PREDICTED) if self.review is not None else None
        return our_columns(self.names, classes, confidences, accepted, self.plan), suggested


def our_columns(
    names: pl.Series, classes: npt.NDArray[np.int32], confidences: npt.NDArray[np.float32], accepted: npt.NDArray[np.bool_], plan: Plan
) -> pl.DataFrame:
    """What is added to rows: a category that is not accepted is null. ``classes`` and ``confidences`` have shape *(rows, k)*."""
    indices = pl.Series(classes[:, 0]).set(~pl.Series(accepted), None)
    added = [names.gather(indices).alias(PREDICTED), pl.Series(CONFIDENCE, confidences[:, 0])]
    if plan.top_k > 1:
        found = zip(names.gather(classes.ravel()).to_list(), confidences.ravel().tolist(), strict=True)
        k = classes.shape[1]
        pairs = [[{"category": name, "confidence": value} for name, value in itertools.islice(found, k)] for _ in range(len(classes))]
        if plan.alternatives_as_json:
            cells = [json.dumps(pair, ensure_ascii=False) for pair in pairs]
            added.append(pl.Series(ALTERNATIVES, cells, dtype=pl.String))
        else:
            kind = pl.List(pl.Struct({"category": pl.String, "confidence": pl.Float32}))
            added.append(pl.Series(ALTERNATIVES, pairs, dtype=kind))
    return pl.DataFrame(added)


def no_rows(plan: Plan) -> pl.DataFrame:
    """Our columns without a row."""
    names = pl.Series([], dtype=pl.String)
    return our_columns(names, np.empty((0, 1), np.int32), np.empty((0, 1), np.float32), np.empty(0, np.bool_), plan)


def rows_of_a_batch(labeler: Labeler) -> int:
    """Rows to read at once: many calls' worth, so that each call finds texts of like length among them."""
    return 16 * labeler.texts


def _spans(lengths: npt.NDArray[Any], most: int) -> Iterator[tuple[int, int]]:
    """Cuts of rising ``lengths``: at most ``most`` texts and `CHARACTERS` characters each, or one text."""
    start = total = 0
    for position, length in enumerate(lengths.tolist()):
        if position > start and (position - start >= most or total + length > CHARACTERS):
            yield start, position
            start, total = position, 0
        total += length
    if len(lengths):
        yield start, len(lengths)


def _ahead(items: Iterable[Item], pool: ThreadPoolExecutor) -> Iterator[Item]:
    """The items, the next ones being made in ``pool``'s only thread while the last is looked at."""
    iterator, end = iter(items), object()
    made: deque[Future[Any]] = deque(pool.submit(next, iterator, end) for _ in range(READ_AHEAD))
    while (item := made.popleft().result()) is not end:
        made.append(pool.submit(next, iterator, end))
        yield item


def _rising(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, the first of them cut into pieces that double: whoever waits at the end of a pipe sees its first rows at once."""
    for batch in itertools.islice(batches, 1):
        start, count = 0, FIRST_ROWS
        while len(batch) - start > count:
            yield batch.slice(start, count)
            start, count = start + count, 2 * count
        yield batch.slice(start)
    yield from batches


def _past(batches: Iterable[Batch], rows: int) -> Iterator[Batch]:
    """The batches after the first ``rows`` rows."""
    for batch in batches:
        if not rows:
            yield batch
        elif rows >= len(batch):
            rows -= len(batch)
        else:
            yield batch.slice(rows)
            rows = 0
    if rows:
        raise ProductsError(f"the catalog has {rows:,} rows fewer than the stopped run had labeled; run without --resume to start anew.")


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that, where the block ends by an error or by Ctrl-C, begin nothing more."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()
