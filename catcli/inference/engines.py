"""What labels the shards of a catalog: an engine. Threads of this process are one, processes beside a GPU another, a Ray cluster a third.

An engine decides where a shard is labeled, never what comes out: that follows from the rows alone (`catcli.inference.shards`). So all of
them are one class, which hands shards to workers and takes their results; they differ in what a worker is.
"""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from functools import partial

from catcli.adapter.folder import Adapter
from catcli.adapter.manifest import Cascade
from catcli.data.io.batch import Batch
from catcli.data.io.part_file import PartOptions
from catcli.data.io.source import SHARD_ROWS, Layout, Source, Span
from catcli.errors import CatcliError
from catcli.evaluation.label_choice import MOST_PROBABLE, LabelChoice
from catcli.inference.concurrency import READ_AHEAD, read_ahead, thread_pool
from catcli.inference.cuda import has_cuda
from catcli.inference.known_labels import KnownLabels
from catcli.inference.labeler import Labeler, Labels
from catcli.inference.planning import cut_into_pieces
from catcli.inference.predict_options import PredictOptions
from catcli.inference.shards import (
    Advance,
    Results,
    ShardOptions,
    ShardResult,
    ShardWork,
    ShardWorker,
    SpanGroup,
    SpanWork,
    Work,
    keeps_known,
    load_known,
)
from catcli.paths import is_pipe

MAX_WAITING_ROWS = 4 * SHARD_ROWS
"""Rows that were read and are not yet written, about."""

MAX_WAITING_SHARDS = 16
"""Shards that wait for an earlier one before them, for each that is done at once."""

MAX_SPAN_ROWS, MAX_SPAN_BYTES = 16 * SHARD_ROWS, 64 * 2**20
"""Rows of a span that a worker reads by itself, at most, or bytes where rows are not known; a larger one is read here and divided."""

MAX_GROUP_BYTES = 2**20
"""Bytes of the spans that come together in one call, about."""

DoneShards = Mapping[tuple[int, int, int], int]
"""Shards that an earlier run has done, and their rows: by the number of the file, of the span in it, and of the shard in that."""

Run = Callable[[Work], Results]
"""Labels a shard, or all of a span, on a worker, and waits for it."""

Task = Callable[[Run], Results]
"""The same of one piece of work, given what runs it."""


class Engine(ABC):
    """Labels shards with one adapter."""

    def __init__(
        self,
        *,
        categories: tuple[str, ...],
        notes: Sequence[str],
        variant: str,
        provider: str,
        texts_per_call: int,
        cascade: Cascade | None,
        description: str,
        shards_at_once: int,
        max_waiting_rows: int = MAX_WAITING_ROWS,
    ) -> None:
        """``notes`` say what the user should know of how the adapter was loaded, ``description`` what the summary says of the engine.

        ``variant`` and ``provider`` are what it computes with and on; ``cascade`` says which texts the linear model decides alone.
        """
        self.categories, self.notes, self.variant, self.provider = categories, notes, variant, provider
        self.texts_per_call, self.cascade, self.description = texts_per_call, cascade, description
        self.shards_at_once, self.max_waiting_rows = shards_at_once, max_waiting_rows

    @abstractmethod
    def label(self, texts: Sequence[str], choice: LabelChoice = MOST_PROBABLE) -> Labels:
        """The labels of every text."""

    @abstractmethod
    def start(self, options: ShardOptions, source: Source, layout: Layout, advance: Advance) -> Run:
        """Get the workers ready for a run."""

    @abstractmethod
    def stop(self) -> None:
        """End the run: begin nothing more."""

    @abstractmethod
    def close(self) -> None:
        """Free what it holds."""

    def label_shards(
        self,
        source: Source,
        batches: Iterator[Batch],
        options: ShardOptions,
        done: DoneShards | None = None,
        advance: Advance = lambda _: None,
    ) -> Generator[ShardResult]:
        """The results of all shards but those that are ``done``.

        ``batches`` are the shards of ``source``, of which the first has been looked at. Where rows are to come back they do so in their
        order, and the first shard of a span in pieces, each as soon as it is labeled; parts come as they are finished.
        """
        first = next(batches)
        layout, done = Layout.of(first), done or {}
        spans = self._spans_to_read(source) if options.part is not None else []
        if spans and options.part is not None:
            works = _grouped(_spans(spans, source, layout, options.part, done), self._spans_per_call(len(spans)))
        else:
            works = _shards(itertools.chain([first], batches), options.part, done)
        run, errors = self.start(options, source, layout, advance), list[CatcliError]()
        try:
            with read_ahead(_until_error(works, errors), READ_AHEAD) as read, thread_pool(self.shards_at_once) as pool:
                try:
                    results = self._in_order if options.part is None else self._as_they_come
                    yield from results(read, lambda task: pool.submit(task, run), _FirstShards(options))
                except BaseException:
                    self.stop()  # so that the threads of the pool, which is waited for, have nothing more to wait for
                    raise
        finally:
            self.stop()
        if errors:  # what was read before is labeled
            raise errors[0]

    def _spans_to_read(self, source: Source) -> list[Span]:
        """The spans that workers read by themselves; none where this process reads."""
        del source
        return []

    def _spans_per_call(self, spans: int) -> int:
        """How many small spans, of so many in all, a worker gets with one call."""
        del spans
        return 1

    def _in_order(
        self, works: Iterator[Work], submit: Callable[[Task], Future[Results]], first_shards: _FirstShards
    ) -> Iterator[ShardResult]:
        """The results of some work in its order, of which so much is done at once as memory allows."""
        waiting: deque[tuple[int, Future[Results]]] = deque()

        def at_work() -> list[Future[Results]]:
            return [result for _, result in waiting if not result.done()]

        def is_full() -> bool:
            held = len(waiting) > 1 and sum(rows for rows, _ in waiting) >= self.max_waiting_rows
            return held or len(waiting) >= MAX_WAITING_SHARDS * self.shards_at_once or len(at_work()) >= self.shards_at_once

        for work in works:
            waiting.append((_row_count(work), submit(first_shards.take(work))))
            while waiting and (waiting[0][1].done() or is_full()):
                if waiting[0][1].done():
                    yield from waiting.popleft()[1].result()
                else:  # any that ends makes room, and not the first alone
                    wait(at_work(), return_when=FIRST_COMPLETED)
        while waiting:
            yield from waiting.popleft()[1].result()

    def _as_they_come(
        self, works: Iterator[Work], submit: Callable[[Task], Future[Results]], first_shards: _FirstShards
    ) -> Iterator[ShardResult]:
        """The same in the order in which it is done; where something fails, what is at work is finished first."""
        waiting: dict[Future[Results], tuple[int, int]] = {}
        failed: list[tuple[int, BaseException]] = []

        def until(is_enough: Callable[[], bool]) -> Iterator[ShardResult]:
            while waiting and not is_enough():
                for result in wait(waiting, return_when=FIRST_COMPLETED).done:
                    number, _ = waiting.pop(result)
                    error = result.exception()
                    if error is None:
                        yield from result.result()
                    else:
                        failed.append((number, error))

        def has_room() -> bool:
            rows = sum(rows for _, rows in waiting.values())
            return len(waiting) < self.shards_at_once and (len(waiting) < 2 or rows < self.max_waiting_rows)

        for number, work in enumerate(works):
            waiting[submit(first_shards.take(work))] = (number, _row_count(work))
            yield from until(has_room)
            if failed:
                break
        yield from until(lambda: False)
        if failed:
            raise min(failed, key=lambda pair: pair[0])[1]


def _row_count(work: Work) -> int:
    """The rows that some work holds in memory."""
    return len(work.rows) if isinstance(work, ShardWork) else 0


def _until_error(works: Iterator[Work], errors: list[CatcliError]) -> Iterator[Work]:
    """The work up to what cannot be read, the error of which joins ``errors``."""
    try:
        yield from works
    except CatcliError as error:
        errors.append(error)


def _shards(batches: Iterator[Batch], part: PartOptions | None, done: DoneShards) -> Iterator[Work]:
    """The shards that are not done; in pieces where their rows are to come back."""
    for rows in batches:
        if (rows.part, rows.span, rows.index) not in done:
            yield from map(ShardWork, [rows] if part is not None else cut_into_pieces(rows))


def _spans(spans: Sequence[Span], source: Source, layout: Layout, part: PartOptions, done: DoneShards) -> Iterator[Work]:
    """The spans that have shards to do; one that is too large for a worker comes shard by shard."""
    rows_by_span: dict[tuple[int, int], dict[int, int]] = {}
    for (file, span_number, index), rows in done.items():
        rows_by_span.setdefault((file, span_number), {})[index] = rows
    for span in spans:
        done_there = rows_by_span.get((span.file, span.number), {})
        if done_there and sum(done_there.values()) == span.rows:
            continue
        if span.bytes > MAX_SPAN_BYTES if span.rows is None else span.rows > MAX_SPAN_ROWS:
            yield from _shards(source.read_span(span, layout), part, done)
        else:
            yield SpanWork(span, frozenset(done_there))


def _grouped(works: Iterator[Work], count: int) -> Iterator[Work]:
    """The work, consecutive small spans of it as groups of at most ``count``."""
    group, size = list[SpanWork](), 0
    for work in works:
        small = isinstance(work, SpanWork) and work.span.bytes < MAX_GROUP_BYTES
        if group and (not small or len(group) >= count or size >= MAX_GROUP_BYTES):
            yield SpanGroup(tuple(group))
            group, size = [], 0
        if small and isinstance(work, SpanWork) and count > 1:
            group.append(work)
            size += work.span.bytes
        else:
            yield work
    if group:
        yield SpanGroup(tuple(group))


class _FirstShards:
    """The labels of the first shard of the span at hand, which the others of the span take over."""

    def __init__(self, options: ShardOptions) -> None:
        self._options = options
        self._span: tuple[int, int] | None = None
        self._pieces: list[Future[KnownLabels | None]] = []

    def take(self, work: Work) -> Task:
        """The task of labeling the next piece of work, in another thread, as soon as the labels that it takes over are there."""
        if isinstance(work, SpanGroup):
            group = SpanGroup(tuple(map(self._with_known, work.works)))
            return lambda run: run(group)
        if isinstance(work, SpanWork):
            span = self._with_known(work)
            return lambda run: run(span)
        rows = work.rows
        if self._span != (rows.part, rows.span):
            self._span, self._pieces = (rows.part, rows.span), []
            if rows.index:  # an earlier run has done the first shard
                self._pieces = [Future()]
                self._pieces[0].set_result(self._load(*self._span))
        if rows.index:
            pieces = self._pieces
            return lambda run: run(replace(work, known=_merged(pieces)))
        if not keeps_known(rows, self._options):
            return lambda run: run(work)
        self._pieces.append(Future())
        return partial(_label_first, work, self._pieces[-1])

    def _with_known(self, work: SpanWork) -> SpanWork:
        return replace(work, known=self._load(work.span.file, work.span.number)) if 0 in work.done else work

    def _load(self, file: int, span: int) -> KnownLabels | None:
        return load_known(self._options, file, span)


def _merged(pieces: Sequence[Future[KnownLabels | None]]) -> KnownLabels | None:
    """The labels of the pieces of a first shard, once they are there."""
    labels = [piece.result() for piece in pieces]
    known = [found for found in labels if found is not None]
    return KnownLabels.merge(known) if known else None


def _label_first(work: Work, labels: Future[KnownLabels | None], run: Run) -> Results:
    """Label a first shard, or a piece of it, whose ``labels`` others wait for."""
    try:
        results = run(work)
    except BaseException as error:
        labels.set_exception(error)
        raise
    labels.set_result(results[0].known)
    return results


class ThreadEngine(Engine):
    """Labels on threads of this process."""

    def __init__(self, labeler: Labeler) -> None:
        """``labeler`` is the adapter, loaded here."""
        super().__init__(
            categories=labeler.categories,
            notes=labeler.notes,
            variant=labeler.variant,
            provider=labeler.provider,
            texts_per_call=labeler.texts_per_call,
            cascade=labeler.cascade,
            description=f"{labeler.variant} on {labeler.provider}",
            shards_at_once=labeler.workers + 2,  # one is read, one is written, and small ones have a single call each
        )
        self._labeler = labeler

    def label(self, texts: Sequence[str], choice: LabelChoice = MOST_PROBABLE) -> Labels:
        """The labels of every text, by the calling thread."""
        return self._labeler.label(texts, choice)

    def start(self, options: ShardOptions, source: Source, layout: Layout, advance: Advance) -> Run:
        """Make the threads of a run."""
        self._worker = ShardWorker(self._labeler, options, source, layout, advance)
        return self._worker.run

    def stop(self) -> None:
        """Begin no call more."""
        self._worker.close()

    def close(self) -> None:
        """Nothing is held."""


def open_engine(adapter: Adapter, options: PredictOptions, *, in_processes: bool = True) -> Engine:
    """The engine that the options name, with the adapter loaded: beside a GPU several processes, where ``local`` writes a file.

    Raises:
        CatcliError: the adapter cannot be loaded, or the cluster cannot be joined.
    """
    arguments = (adapter, options.device, options.variant, options.batch_tokens, options.workers)
    max_change = options.allowed_change
    if options.engine == "ray":
        from catcli.inference.ray_engine import RayEngine

        return RayEngine(*arguments, max_change)
    writes_parts = in_processes and os.name == "posix" and not is_pipe(options.output)
    beside_gpu = options.engine == "local" and options.device != "cpu" and writes_parts
    if options.engine == "processes" or (beside_gpu and has_cuda()):
        from catcli.inference.process_engine import ProcessEngine

        return ProcessEngine(*arguments, max_change)
    return ThreadEngine(Labeler(*arguments, max_change=max_change))
