"""The shard, the unit of work: some consecutive rows of one file → the same rows with categories, or a finished part of the output.

::

    rows ── plan_texts ── calls ── Labels ── result_columns ── PartFile: the part, and beside it what is to be reviewed and what was bad

What comes out follows from the rows, the adapter and the options alone, so it is the same in a thread, in another process and on another
machine, and a part that is finished need not be made again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import polars as pl

from catcli.arrays import BoolArray, FloatArray
from catcli.data.io.batch import Batch
from catcli.data.io.journal import READ_ERRORS
from catcli.data.io.output import FileFormat, write_errors
from catcli.data.io.part_file import KNOWN, PartFile, PartOptions
from catcli.data.io.source import Layout, Source, Span
from catcli.evaluation.label_choice import MOST_PROBABLE, LabelChoice
from catcli.inference.known_labels import Classes, KnownLabels
from catcli.inference.labeler import Labels
from catcli.inference.planning import LabelingPlan, PlannedTexts, cut_into_pieces, plan_texts
from catcli.inference.result_columns import LEVEL, PREDICTED, PREDICTED_ID, result_columns
from catcli.inference.review import with_review_columns
from catcli.inference.summary import MILLION, PredictSummary

MIN_KNOWN_ROWS = 4_096
"""Rows of the first shard of a span from which on its labels are kept for the others."""

Advance = Callable[[int], None]
"""Called with a number of rows that have been labeled since the last call; by several threads."""


class TextLabeler(Protocol):
    """What labels texts: `catcli.inference.labeler.Labeler`."""

    @property
    def workers(self) -> int:
        """Threads that can call `label` at once."""

    @property
    def texts_per_call(self) -> int:
        """Texts that are worth labeling in one call."""

    def label(self, texts: Sequence[str], choice: LabelChoice = MOST_PROBABLE) -> Labels:
        """The labels of every text."""


@dataclass(frozen=True)
class ShardOptions:
    """What is the same for all shards of a run.

    ``applied`` are labels that a person gave, which are accepted whatever the thresholds are, and ``previous`` those of an earlier output.
    With ``part`` a shard becomes a part of the output; without, its rows come back.
    """

    categories: tuple[str, ...]
    plan: LabelingPlan
    applied: KnownLabels | None = None
    previous: KnownLabels | None = None
    part: PartOptions | None = None

    @property
    def width(self) -> int:
        """The labels of each text."""
        return self.plan.choice.width(len(self.categories))

    @property
    def labels(self) -> tuple[str, ...]:
        """What a row can be labeled with."""
        return self.plan.labels(self.categories)

    @cached_property
    def names(self) -> pl.Series:
        """The same as a column."""
        return pl.Series(self.labels, dtype=pl.String)

    @cached_property
    def ids(self) -> pl.Series | None:
        """Their identifiers, null for one that has none; None where no label has one."""
        ids = self.plan.ids
        return pl.Series([ids.get(name) for name in self.labels], dtype=pl.String) if ids else None

    @cached_property
    def thresholds(self) -> FloatArray:
        """The confidence *(classes,)* from which on a row is accepted: in float32, as confidences are."""
        if self.plan.by_category is None:
            thresholds = np.full(len(self.labels), self.plan.min_confidence, np.float32)
            thresholds[len(thresholds) - self.plan.never :] = np.inf
            return thresholds
        return np.array([self.plan.by_category.get(name, math.inf) for name in self.categories], np.float32)


@dataclass(frozen=True)
class LabeledRows:
    """Rows with their labels: ``added`` are the new columns, ``classes``, ``confidences`` *(rows, width)* all labels, accepted or not."""

    rows: Batch
    added: pl.DataFrame
    classes: Classes
    confidences: FloatArray
    summary: PredictSummary
    known: KnownLabels

    def for_review(self, options: ShardOptions, form: FileFormat) -> tuple[Batch, list[str], pl.DataFrame]:
        """The rows that are not accepted, for a review in a ``form``, with the category that each would have had."""
        missing = np.flatnonzero(self.added.get_column(PREDICTED).is_null().to_numpy())
        chosen = np.setdiff1d(missing, self.rows.nulls)
        classes = self.classes[chosen]
        suggested = options.names.gather(classes[:, 0]).alias(PREDICTED)
        added = self.added[chosen].with_columns(suggested)
        if options.ids is not None:
            added = added.with_columns(options.ids.gather(classes[:, 0]).alias(PREDICTED_ID))
        if options.plan.choice.back_off is not None:
            levels = options.plan.choice.back_off.tree.levels[classes[:, 0]]
            added = added.with_columns(pl.Series(LEVEL, levels, dtype=pl.Int32))
        return with_review_columns(self.rows.take(chosen), added, options.plan, form, options.names, classes, self.confidences[chosen])


@dataclass(frozen=True)
class ShardResult:
    """A labeled shard: the name of its part and its counts, or its rows.

    ``known`` are the labels of its texts, where it is the first of a span and has `MIN_KNOWN_ROWS`. ``share`` of the input was read with
    it, and ``note`` says what its reader had to guess. ``files`` are those of its part, by the ending of their names, where it was made on
    a machine that does not have the folder of the parts.
    """

    part: str
    summary: PredictSummary
    share: float
    note: str = ""
    labeled: LabeledRows | None = None
    known: KnownLabels | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


Results = list[ShardResult]


def label_shard(
    rows: Batch, known: KnownLabels | None, options: ShardOptions, labeler: TextLabeler, pool: ThreadPoolExecutor, advance: Advance
) -> ShardResult:
    """Label a shard, its calls on the threads of ``pool``; ``known`` are the labels of the first shard of its span.

    Without a part to write, ``rows`` are what is planned by itself: see `cut_into_pieces`.

    Raises:
        CatcliError: the adapter's numbers are not finite, or the part cannot be written.
    """
    if options.part is None:
        labeled = _finish(*_begin(rows, known, options, labeler, pool), options, advance)
        return ShardResult("", labeled.summary, rows.share, rows.note, labeled, labeled.known if keeps_known(rows, options) else None)
    pieces = deque(_begin(piece, known, options, labeler, pool) for piece in cut_into_pieces(rows))
    kept, path = options.plan.kept(rows.columns), options.part.path(rows.part, rows.span, rows.index)
    done: list[tuple[PredictSummary, KnownLabels]] = []
    with write_errors(options.part.out), PartFile(path, options.part) as part:
        while pieces:
            piece = _finish(*pieces.popleft(), options, advance)
            part.write(piece.rows, kept, piece.added)
            if options.part.review is not None:
                part.review(*piece.for_review(options, options.part.review))
            done.append((piece.summary, piece.known))
        labels = KnownLabels.merge([known for _, known in done]) if keeps_known(rows, options) else None
        if labels is not None:
            labels.save(path.with_name(path.name + KNOWN))
    return ShardResult(path.name, _total(summary for summary, _ in done), rows.share, rows.note, known=labels)


def keeps_known(rows: Batch, options: ShardOptions) -> bool:
    """Whether the labels of a shard are for the others of its span."""
    return rows.index == 0 and options.plan.dedupe and rows.shard_rows >= MIN_KNOWN_ROWS


def _total(summaries: Iterator[PredictSummary]) -> PredictSummary:
    total = PredictSummary()
    for summary in summaries:
        total.add(summary.counts())
    return total


def _begin(
    rows: Batch, known: KnownLabels | None, options: ShardOptions, labeler: TextLabeler, pool: ThreadPoolExecutor
) -> tuple[Batch, PlannedTexts, list[KnownLabels], list[Future[Labels]]]:
    """Plan some rows and hand their calls to the pool."""
    sources = [labels for labels in (options.applied, options.previous, known) if labels is not None]
    planned = plan_texts(rows, options.plan, labeler.texts_per_call, sources)
    return rows, planned, sources, [pool.submit(labeler.label, texts, options.plan.choice) for texts in planned.calls]


def _finish(
    rows: Batch,
    planned: PlannedTexts,
    sources: Sequence[KnownLabels],
    calls: Sequence[Future[Labels]],
    options: ShardOptions,
    advance: Advance,
) -> LabeledRows:
    """Wait for the calls, and make the new columns of their labels."""
    results, reported = list[Labels](), 0
    for number, call in enumerate(calls, 1):
        results.append(call.result())
        share = len(rows) * number // len(calls)
        advance(share - reported)
        reported = share
    advance(len(rows) - reported)
    shape = (len(planned.hashes), options.width)
    classes, confidences = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for labels, (numbers, places) in zip(sources, planned.known, strict=True):
        classes[numbers], confidences[numbers] = labels.classes[places], labels.confidences[places]
    if results:
        classes[planned.fresh] = np.concatenate([labels.classes for labels in results])
        confidences[planned.fresh] = np.concatenate([labels.confidences for labels in results])
    known = KnownLabels(planned.hashes, classes, confidences)
    return _labeled_rows(rows, planned, results, known, options)


def _labeled_rows(rows: Batch, planned: PlannedTexts, results: Sequence[Labels], known: KnownLabels, options: ShardOptions) -> LabeledRows:
    classes, confidences = known.classes[planned.owner], known.confidences[planned.owner]
    accepted = confidences[:, 0] >= options.thresholds[classes[:, 0]]
    applied = _of_source(options.applied, planned, options)
    nulls = list(rows.nulls)
    applied[nulls] = False
    accepted |= applied
    accepted[nulls] = False
    added = result_columns(options.names, options.ids, classes, confidences, accepted, options.plan)
    if nulls:
        is_null = pl.Series(np.isin(np.arange(len(added)), nulls))
        added = added.with_columns(pl.when(is_null).then(None).otherwise(pl.col(name)).alias(name) for name in added.columns)
    taken_over = _of_source(options.previous, planned, options)
    is_guess = ~applied & ~np.isin(np.arange(len(rows)), nulls)
    if options.plan.choice.back_off is not None:
        is_guess &= ~taken_over  # which may have a node and no category
    summary = PredictSummary(
        rows=len(rows),
        below=int((~accepted).sum()) - len(nulls),
        blank=int(np.delete(planned.blank, nulls).sum()),
        short=rows.short,
        labeled=len(planned.fresh),
        bad=len(rows.bad),
        applied=int(applied.sum()),
        taken_over=int(taken_over.sum()),
        categories=_count_categories(classes[:, 0], accepted, options),
        **_guesses(classes, confidences, is_guess, options),
        **{name: sum(getattr(labels, name) for labels in results) for name in ("cut", "halved", "decided", "checked", "changed")},
    )
    return LabeledRows(rows, added, classes, confidences, summary, known)


def _guesses(classes: Classes, confidences: FloatArray, is_guess: BoolArray, options: ShardOptions) -> dict[str, Any]:
    """What `PredictSummary` has of the categories themselves: with a back-off they are there where a row has several labels."""
    place = 0 if options.plan.choice.back_off is None else 1
    if classes.shape[1] <= place:
        return {}
    confidence = round(float(confidences[is_guess, place].sum(dtype=np.float64)) * MILLION)  # a journal has whole numbers
    guesses = _count_categories(classes[:, place], is_guess, options)
    return {"guessed": int(is_guess.sum()), "confidence": confidence, "guesses": guesses}


def _of_source(source: KnownLabels | None, planned: PlannedTexts, options: ShardOptions) -> BoolArray:
    """Which rows *(rows,)* have their label from what a person gave, or from the earlier output: the first of those that are known."""
    if source is None:
        return np.zeros(len(planned.owner), np.bool_)
    place = 0 if source is options.applied or options.applied is None else 1
    return np.isin(planned.owner, planned.known[place][0])


def _count_categories(classes: Classes, accepted: BoolArray, options: ShardOptions) -> dict[str, int]:
    """Accepted rows by the number of the category: a journal has a line of these for each part, and names are long."""
    counts = np.bincount(classes[accepted], minlength=len(options.labels))
    return {str(number): int(counts[number]) for number in np.flatnonzero(counts).tolist()}


# --- a worker ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShardWork:
    """A shard that was read, and the labels of the first shard of its span, where it is another."""

    rows: Batch
    known: KnownLabels | None = None


@dataclass(frozen=True)
class SpanWork:
    """A span that the worker reads by itself, without the shards that an earlier run has done: their indices, and labels of the first."""

    span: Span
    done: frozenset[int] = frozenset()
    known: KnownLabels | None = None


@dataclass(frozen=True)
class SpanGroup:
    """Small spans that one worker reads after each other: of many files of a hundred rows a call for each costs more than its rows."""

    works: tuple[SpanWork, ...]


Work = ShardWork | SpanWork | SpanGroup


class ShardWorker:
    """A loaded adapter at work on the shards of a run; several threads may call it at once."""

    def __init__(
        self, labeler: TextLabeler, options: ShardOptions, source: Source, layout: Layout, advance: Advance = lambda _: None
    ) -> None:
        """``source`` and ``layout`` are those of the spans that it reads."""
        self._labeler, self._options, self._source, self._layout, self._advance = labeler, options, source, layout, advance
        self._pool = ThreadPoolExecutor(labeler.workers)

    def run(self, work: Work) -> Results:
        """Label a shard, or all shards of one or several spans but those that are done.

        Raises:
            CatcliError: something that the user can fix.
        """
        if isinstance(work, ShardWork):
            return [self._label(work.rows, work.known)]
        if isinstance(work, SpanGroup):
            return [result for single in work.works for result in self.run(single)]
        results, known = Results(), work.known
        for rows in self._source.read_span(work.span, self._layout):
            if rows.index in work.done:
                continue
            result = self._label(rows, known)
            known = known or result.known
            results.append(replace(result, known=None))
        return results

    def _label(self, rows: Batch, known: KnownLabels | None) -> ShardResult:
        return label_shard(rows, known, self._options, self._labeler, self._pool, self._advance)

    def close(self) -> None:
        """Begin no call more; those at work end."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def load_known(options: ShardOptions, file: int, span: int) -> KnownLabels | None:
    """The labels that lie beside the first part of a span; None where there are none, or they are damaged."""
    if options.part is None:
        return None
    path = options.part.path(file, span)
    try:
        return KnownLabels.load(path.with_name(path.name + KNOWN), options.width, len(options.labels))
    except READ_ERRORS:
        return None
