"""read → plan → label → finish → write, at the same time: a catalog in, the same catalog with categories out.

::

    batches ── Planner ── Work ── a labeler's threads, or a cluster's ── Labels ── Finisher ── output

One thread reads ahead, one writes behind, and as many as the device is worth label; what is on its way between them is bounded, so memory
is that of some batches, whatever the catalog's size. Works are finished in the order of their rows, whoever labeled them first.
"""

from __future__ import annotations

import itertools
import json
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.data.io.bad_rows import BadRowsFile
from catcli.data.io.batch import Batch
from catcli.data.io.review import ReviewFile
from catcli.data.io.writers import RowWriter
from catcli.runtime.blend import Array
from catcli.runtime.labeler import Labeler, Labels
from catcli.runtime.planning import Plan, Planner, Work, rows_of_a_batch
from catcli.runtime.recall import Previous, Recall

PREDICTED, CONFIDENCE, ALTERNATIVES = "predicted_category", "confidence", "alternatives"

READ_AHEAD, WRITE_BEHIND = 2, 2
"""Batches read but not yet looked at, and labeled but not yet written."""

Advance = Callable[[int, float], None]
"""Called after every batch with the rows labeled so far and the share of the input read, 0 to 1."""

Done = tuple[Work, Sequence[Labels]]
"""A work, and the labels of each of its calls."""

Engine = Callable[[Callable[[], Planner], int], Generator[Done]]
"""Called with what makes the planner and the classes that are wanted of a text: all works with their labels, in the order of their rows."""

Item = TypeVar("Item")


class Served(Protocol):
    """What a run asks of the labeler, wherever it is loaded."""

    categories: tuple[str, ...]

    @property
    def texts(self) -> int:
        """Texts of a call."""


@dataclass
class Summary:
    """What a run came to.

    ``below`` counts rows whose confidence was below the one asked for, ``blank`` those without any text, ``short`` those of CSV with fewer
    cells than the header, ``bad`` those that could not be read. ``labeled`` counts texts that a model looked at, ``cut`` those of them with
    more tokens than it reads, and ``taken_over`` rows that an earlier output had; ``halved`` counts batches that memory was too short for.
    ``resumed`` are rows that a run before had done; ``seconds`` are this run's.
    """

    rows: int = 0
    below: int = 0
    blank: int = 0
    short: int = 0
    labeled: int = 0
    cut: int = 0
    taken_over: int = 0
    bad: int = 0
    halved: int = 0
    resumed: int = 0
    seconds: float = 0.0
    categories: dict[str, int] = field(default_factory=dict)


class Output(Protocol):
    """Where labeled rows go; ``by_input`` says that the rows of each input go to a file of their own."""

    by_input: bool

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """Add rows."""

    def finish_part(self, rows: int) -> None:
        """Complete the part of the ``rows`` written since the last call."""

    def keep(self, state: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Make the parts that are complete survive a kill, with what a run has to know to go on from them."""


class Through:
    """An output that cannot keep parts: a pipe."""

    by_input = False

    def __init__(self, sink: RowWriter) -> None:
        self.write = sink.write

    def finish_part(self, rows: int) -> None:
        """Nothing to do: what went into a pipe is gone."""

    def keep(self, state: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """The same."""


def run(
    labeled: Engine,
    output: Output,
    labeler: Served,
    plan: Plan,
    advance: Advance,
    *,
    previous: Previous | None = None,
    review: ReviewFile | None = None,
    bad_rows: BadRowsFile | None = None,
    summary: Summary | None = None,
    arrays: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Summary:
    """Have all rows ``labeled``, by ``labeler``, and write them to ``output`` in their order.

    ``review`` gets those that are not accepted, and ``bad_rows`` those that could not be read.

    ``summary`` and ``arrays`` are those of the last finished part of a run that goes on; its rows are read past.
    """
    summary = summary or Summary()
    earlier = previous.hashes if previous is not None else None
    past = (summary.rows, summary.bad)
    planner = partial(Planner, plan, labeler.texts, by_input=output.by_input, earlier=earlier, done=past, arrays=arrays)
    finisher = Finisher(
        labeler.categories, plan, output, advance, previous=previous, review=review, bad_rows=bad_rows, summary=summary, arrays=arrays
    )
    with closing(labeled(planner, finisher.k)) as done:
        return finisher.through(done)


def here(batches: Iterable[Batch], labeler: Labeler) -> Engine:
    """Batches, labeled by the threads of this process."""

    def labeled(planner: Callable[[], Planner], k: int) -> Generator[Done]:
        with ahead(batches, READ_AHEAD) as read:
            yield from labeled_here(planner().works(read), labeler, k)

    return labeled


def labeled_here(works: Iterable[Work], labeler: Labeler, k: int) -> Generator[Done]:
    """The works with their labels, by the threads of this process."""
    most = max(2, math.ceil(2 * labeler.workers * labeler.texts / rows_of_a_batch(labeler.texts)))
    waiting: deque[tuple[Work, list[Future[Labels]]]] = deque()

    def oldest() -> Done:
        work, calls = waiting.popleft()
        return work, [call.result() for call in calls]

    with _threads(labeler.workers) as pool:
        for work in works:
            waiting.append((work, [pool.submit(labeler.label, texts, k) for texts in work.calls]))
            if len(waiting) >= most:
                yield oldest()
        while waiting:
            yield oldest()


class Known:
    """The labels of all texts that rows can have: those just found, those of this run that are recalled, and an earlier output's."""

    def __init__(
        self, k: int, previous: Previous | None = None, arrays: Mapping[str, npt.NDArray[Any]] | None = None, *, dedupe: bool = True
    ) -> None:
        self._k, self._previous, self._dedupe = k, previous, dedupe
        self._recall = Recall(k)
        if arrays:
            self._recall.load(arrays)

    def of_rows(self, work: Work, labels: Sequence[Labels]) -> tuple[npt.NDArray[np.int32], Array]:
        """Classes and confidences of a work's rows, each *(rows, k)*; ``labels`` are those of its calls."""
        classes, confidences = np.zeros((len(work.hashes), self._k), np.int32), np.zeros((len(work.hashes), self._k), np.float32)
        classes[work.recalled], confidences[work.recalled] = self._recall.get(work.slots)
        if self._previous is not None:
            classes[work.earlier], confidences[work.earlier] = self._previous.get(work.hashes[work.earlier])
        if labels:
            classes[work.fresh] = np.concatenate([found.classes for found in labels])
            confidences[work.fresh] = np.concatenate([found.confidences for found in labels])
        if self._dedupe:
            self._recall.add(work.hashes[work.fresh], classes[work.fresh], confidences[work.fresh])
        return classes[work.owner], confidences[work.owner]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a resumed run has to know."""
        return self._recall.arrays()


class Finisher:
    """Makes rows of works and their labels, in order, counts them, and hands them to the writer."""

    def __init__(
        self,
        categories: Sequence[str],
        plan: Plan,
        output: Output,
        advance: Advance,
        *,
        previous: Previous | None = None,
        review: ReviewFile | None = None,
        bad_rows: BadRowsFile | None = None,
        summary: Summary | None = None,
        arrays: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        self._bad_rows = bad_rows
        self._categories, self._plan, self._output, self._advance = categories, plan, output, advance
        self._review = review
        self.summary = summary or Summary()
        self.summary.resumed = self.summary.rows
        self.k = min(plan.top_k, len(categories))
        self._known = Known(self.k, previous, arrays, dedupe=plan.dedupe)
        self._names = pl.Series(categories, dtype=pl.String)
        self._counts = np.array([self.summary.categories.get(name, 0) for name in categories], np.int64)
        # In float32, as confidences are: what a report prints of one accepts it.
        self._needed = np.full(len(categories), plan.min_confidence, np.float32)
        if plan.by_category is not None:
            self._needed = np.array([plan.by_category.get(name, math.inf) for name in categories], np.float32)

    def through(self, works: Iterable[Done]) -> Summary:
        """All of it."""
        started = time.perf_counter()
        in_part = 0
        with _threads(1) as pool:
            writer = _Writer(pool)
            for work, labels in works:
                if work.begins_part:
                    writer.hand(self._output.finish_part, in_part)
                    in_part = 0
                if work.keeps:
                    writer.hand(self._keep, self._state(), self._known.arrays())
                added, suggested = self._finished(work, labels)
                writer.hand(self._write, work.batch, self._plan.kept(work.batch.columns), added, suggested)
                in_part += len(work.batch)
                self._advance(self.summary.rows, work.batch.share)
            writer.hand(self._output.finish_part, in_part)
            writer.hand(self._keep, self._state(), self._known.arrays())
            writer.wait()
        self.summary.seconds = time.perf_counter() - started
        self.summary.categories = self._by_category()
        return self.summary

    def _write(self, batch: Batch, keep: Sequence[str], added: pl.DataFrame, suggested: pl.Series | None) -> None:
        """A batch to the output, and what was not accepted to the review, with the category that it would have had."""
        self._output.write(batch, keep, added)
        if self._bad_rows is not None:
            self._bad_rows.write(batch.bad)
        if self._review is not None and suggested is not None:
            rows = np.setdiff1d(np.flatnonzero(added.get_column(PREDICTED).is_null().to_numpy()), batch.nulls)
            self._review.write(batch.take(rows), keep, added.with_columns(suggested)[rows])

    def _keep(self, state: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        if self._review is not None:
            self._review.finish_part()  # before the output's: what it counts as done has its doubtful rows on disk
        if self._bad_rows is not None:
            self._bad_rows.finish_part()
        self._output.keep(state, arrays)

    def _state(self) -> dict[str, Any]:
        """The counts so far, for a journal."""
        return {**vars(self.summary), "categories": self._by_category()}

    def _by_category(self) -> dict[str, int]:
        """Rows by category, the most frequent first."""
        found = {name: int(count) for name, count in zip(self._categories, self._counts, strict=True) if count}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def _finished(self, work: Work, labels: Sequence[Labels]) -> tuple[pl.DataFrame, pl.Series | None]:
        """Count a batch's labels and make our columns of them; and for a review, the categories whether accepted or not."""
        classes, confidences = self._known.of_rows(work, labels)
        accepted = confidences[:, 0] >= self._needed[classes[:, 0]]
        nulls = list(work.batch.nulls)
        accepted[nulls] = False
        self._counts += np.bincount(classes[accepted, 0], minlength=len(self._counts))
        self.summary.rows += len(work.batch)
        self.summary.below += int((~accepted).sum()) - len(nulls)
        self.summary.blank += work.blank - len(nulls)
        self.summary.bad += len(work.batch.bad)
        self.summary.short += work.batch.short
        self.summary.labeled += len(work.fresh)
        self.summary.cut += sum(found.cut for found in labels)
        self.summary.halved += sum(found.halved for found in labels)
        self.summary.taken_over += int(np.isin(work.owner, work.earlier).sum())
        suggested = self._names.gather(classes[:, 0]).alias(PREDICTED) if self._review is not None else None
        added = our_columns(self._names, classes, confidences, accepted, self._plan)
        if nulls:
            is_null = pl.Series(np.isin(np.arange(len(added)), nulls))
            added = added.with_columns(pl.when(is_null).then(None).otherwise(pl.col(name)).alias(name) for name in added.columns)
        return added, suggested


class _Writer:
    """A thread that does one thing after the other, a little behind; what comes after something that failed is not done."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._waiting: deque[Future[None]] = deque()
        self._failed = False

    def hand(self, task: Callable[..., None], *given: object) -> None:
        """Have something done; raises what an earlier thing raised."""
        if len(self._waiting) >= WRITE_BEHIND:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._do, task, *given))

    def wait(self) -> None:
        """Until all is done."""
        while self._waiting:
            self._waiting.popleft().result()

    def _do(self, task: Callable[..., None], *given: object) -> None:
        if self._failed:  # a part with rows missing must not be called finished
            return
        try:
            task(*given)
        except BaseException:
            self._failed = True
            raise


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


class _Ahead(Iterator[Item]):
    """Items that a thread of their own makes before they are asked for."""

    def __init__(self, items: Iterable[Item], most: int) -> None:
        self._made: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(most)
        self._items = items
        self.stopped = threading.Event()
        threading.Thread(target=self._make, daemon=True).start()

    def _make(self) -> None:
        try:
            for item in self._items:
                self._put(item, None)
                if self.stopped.is_set():
                    return
            self._put(None, StopIteration())
        except BaseException as error:  # noqa: BLE001  # it is raised where the items are looked at
            self._put(None, error)

    def _put(self, item: Item | None, error: BaseException | None) -> None:
        while not self.stopped.is_set():
            with suppress(queue.Full):
                self._made.put((item, error), timeout=0.1)
                return

    def __next__(self) -> Item:
        item, error = self._made.get()
        if error is not None:
            raise error
        return cast(Item, item)


@contextmanager
def ahead(items: Iterable[Item], most: int) -> Iterator[Iterator[Item]]:
    """The items, made in a thread of their own, ``most`` of them before they are asked for.

    Where the block ends early nothing waits for that thread, which may itself wait for standard input, and for ever.
    """
    made = _Ahead(items, most)
    try:
        yield made
    finally:
        made.stopped.set()


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
