"""An engine whose workers are elsewhere: they read files and write parts by themselves, and this process hands out names and counts.

What a worker cannot see from where it is, this process reads for it, and writes for it.
"""

from __future__ import annotations

import queue
import secrets
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from catcli.adapter.folder import Adapter
from catcli.data.io.part_file import write_part
from catcli.data.io.source import SHARD_ROWS, Layout, Source, Span
from catcli.errors import CatcliError
from catcli.evaluation.label_choice import MOST_PROBABLE, LabelChoice
from catcli.inference.engines import Engine, Run
from catcli.inference.labeler import Labels
from catcli.inference.remote import TOKEN, RunOptions, WorkerInfo
from catcli.inference.shards import Advance, Results, ShardOptions, ShardWork, SpanGroup, SpanWork, Work

MIN_SPANS = 4
"""Spans for each worker, from which on workers read by themselves; of fewer this process hands out shards, which are smaller."""


MAX_GROUP = 64
"""Small spans, at most, that a worker gets with one call."""


class WorkerHandle(Protocol):
    """A `catcli.inference.remote.RemoteWorker` as this process has it."""

    def call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401  # what the method gives
        """What a method of the worker gives, once it has; its errors are raised here as there."""


class RemoteEngine(Engine):
    """Hands shards to workers that are elsewhere, one to a worker at a time, and the next as soon as it is done."""

    def __init__(self, adapter: Adapter, info: WorkerInfo, workers: str, count: int, max_change: float) -> None:
        """``info`` is what the first of ``count`` workers got; ``workers`` is what the summary calls them."""
        manifest = adapter.manifest
        super().__init__(
            categories=manifest.categories,
            notes=info.notes,
            variant=info.variant,
            provider=info.provider,
            texts_per_call=info.texts_per_call,
            cascade=manifest.variants[info.variant].cascade(max_change),
            description=f"{info.variant} on {info.provider}, {workers}",
            shards_at_once=2 * count,  # one at work, and one for when that is done
            max_waiting_rows=4 * count * SHARD_ROWS,
        )
        self.workers = count

    def _spans_to_read(self, source: Source) -> list[Span]:
        """All spans, where they are enough for the workers to have as much to do each."""
        if source.piped:
            return []
        spans = list(source.spans)
        return spans if len(spans) >= MIN_SPANS * self.workers else []

    def _spans_per_call(self, spans: int) -> int:
        """Of small spans so many that the calls are still enough for all workers."""
        return max(1, min(MAX_GROUP, spans // (MIN_SPANS * self.workers)))

    @abstractmethod
    def open_workers(self, run: RunOptions, ready: Callable[[WorkerHandle], None]) -> None:
        """Give the workers a run; ``ready`` is called with each of them that can be handed work."""

    @abstractmethod
    def end_workers(self) -> None:
        """End the workers, whatever they are at."""

    def stop(self) -> None:
        """End the run, also for who waits for a worker."""
        self.end_workers()
        self._idle.put(None)

    @abstractmethod
    def first_worker(self) -> WorkerHandle:
        """One of them, for texts outside of a run."""

    def label(self, texts: Sequence[str], choice: LabelChoice = MOST_PROBABLE) -> Labels:
        """Labels of some texts, by one worker."""
        labels: Labels = self.first_worker().call("label", list(texts), choice)
        return labels

    def start(self, options: ShardOptions, source: Source, layout: Layout, advance: Advance) -> Run:
        """Get the workers ready for a run."""
        token = secrets.token_hex(16)
        if options.part is not None:
            (options.part.folder / TOKEN).write_text(token)
        idle = self._idle = queue.SimpleQueue[WorkerHandle | None]()
        self.open_workers(RunOptions.of(options, source, layout, token), idle.put)
        folder = options.part.folder if options.part is not None else Path()

        def on_a_worker(work: Work) -> Results | None:
            with _taken(idle) as worker:
                results: Results | None = worker.call("run", work)
            if results is None:
                return None
            for result in results:
                write_part(folder / result.part, result.files)
                advance(result.summary.rows)
            return [replace(result, files={}) for result in results]

        def run(work: Work) -> Results:
            results = on_a_worker(work)
            if results is not None:
                return results
            if isinstance(work, SpanGroup):
                return [result for single in work.works for result in run(single)]
            return _shard_by_shard(work, source, layout, on_a_worker) if isinstance(work, SpanWork) else []

        return run


@contextmanager
def _taken(idle: queue.SimpleQueue[WorkerHandle | None]) -> Iterator[WorkerHandle]:
    """A worker that has nothing to do, as soon as there is one; None stands there once the run has ended."""
    worker = idle.get()
    try:
        if worker is None:
            raise CatcliError("the run has ended.")  # which has its own error, or none
        yield worker
    finally:
        idle.put(worker)


def _shard_by_shard(work: SpanWork, source: Source, layout: Layout, label: Callable[[Work], Results | None]) -> Results:
    """The results of a span that is read here, for workers that do not see its file."""
    results, known = Results(), work.known
    for rows in source.read_span(work.span, layout):
        if rows.index not in work.done:
            for result in label(ShardWork(rows, known)) or ():
                known = known or result.known
                results.append(replace(result, known=None))
    return results
