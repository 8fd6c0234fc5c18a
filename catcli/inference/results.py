"""Labels of batches → rows of the output, in order, with the counts of the summary."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.arrays import FloatArray
from catcli.data.io.bad_rows import BadRowsFile
from catcli.data.io.batch import Batch
from catcli.data.io.review import ReviewFile
from catcli.data.io.writers import RowWriter
from catcli.inference.concurrency import BackgroundWriter, thread_pool
from catcli.inference.label_cache import LabelCache, PreviousLabels
from catcli.inference.labeler import Labels
from catcli.inference.planning import LabelingPlan, PlannedBatch
from catcli.inference.result_columns import PREDICTED, result_columns

LabeledBatch = tuple[PlannedBatch, Sequence[Labels]]
"""A planned batch, and the labels of each of its calls."""


@dataclass
class PredictSummary:
    """The summary of a run.

    ``below`` counts rows whose confidence was below the threshold, ``blank`` those without any text, ``short`` those of CSV with fewer
    cells than the header, ``bad`` those that could not be read. ``labeled`` counts texts that a model looked at, ``cut`` those of them with
    more tokens than it reads, and ``taken_over`` rows that an earlier output had; ``halved`` counts batches that memory was too short for.
    ``decided``, ``checked`` and ``changed`` are those of `Labels`. ``resumed`` are rows that a run before had done; ``seconds`` are this
    run's.
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
    decided: int = 0
    checked: int = 0
    changed: int = 0
    resumed: int = 0
    seconds: float = 0.0
    categories: dict[str, int] = field(default_factory=dict)

    def changed_share(self) -> tuple[float, float, float]:
        """The share of texts that got another category than by both models: an estimate from the checked ones, and its 95 % interval.

        The interval is Clopper and Pearson's. Texts that both models labeled did not change.
        """
        from catcli.evaluation.bootstrap import lower_bound  # imports scipy

        share, unchanged = self.decided / max(self.labeled, 1), self.checked - self.changed
        low, high = lower_bound(self.changed, self.checked, 0.025), 1 - lower_bound(unchanged, self.checked, 0.025)
        return self.changed / max(self.checked, 1) * share, low * share, high * share


class RowOutput(Protocol):
    """Where labeled rows go; ``by_input`` says that the rows of each input go to a file of their own."""

    by_input: bool

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """Add rows."""

    def finish_part(self, rows: int) -> None:
        """Complete the part of the ``rows`` written since the last call."""

    def keep(self, state: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Make the parts that are complete survive a kill, with what a run has to know to go on from them."""


class PipeOutput:
    """An output that cannot keep parts: a pipe."""

    by_input = False

    def __init__(self, writer: RowWriter) -> None:
        self.write = writer.write

    def finish_part(self, rows: int) -> None:
        """Nothing to do: what went into a pipe is gone."""

    def keep(self, state: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """The same."""


class KnownLabels:
    """The labels of all texts that rows can have: those just computed, those cached, and those of an earlier output."""

    def __init__(
        self, k: int, previous: PreviousLabels | None = None, arrays: Mapping[str, npt.NDArray[Any]] | None = None, *, dedupe: bool = True
    ) -> None:
        self._k, self._previous, self._dedupe = k, previous, dedupe
        self._cache = LabelCache(k)
        if arrays:
            self._cache.load(arrays)

    def of_rows(self, batch: PlannedBatch, labels: Sequence[Labels]) -> tuple[npt.NDArray[np.int32], FloatArray]:
        """Classes and confidences of a batch's rows, each *(rows, k)*; ``labels`` are those of its calls."""
        classes, confidences = np.zeros((len(batch.hashes), self._k), np.int32), np.zeros((len(batch.hashes), self._k), np.float32)
        classes[batch.cached], confidences[batch.cached] = self._cache.get(batch.slots)
        if self._previous is not None:
            classes[batch.previous], confidences[batch.previous] = self._previous.get(batch.hashes[batch.previous])
        if labels:
            classes[batch.fresh] = np.concatenate([part.classes for part in labels])
            confidences[batch.fresh] = np.concatenate([part.confidences for part in labels])
        if self._dedupe:
            self._cache.add(batch.hashes[batch.fresh], classes[batch.fresh], confidences[batch.fresh])
        return classes[batch.owner], confidences[batch.owner]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a resumed run needs."""
        return self._cache.arrays()


class ResultWriter:
    """Adds the columns of labels to batches, in order, counts them, and hands them to a thread that writes."""

    def __init__(
        self,
        categories: Sequence[str],
        plan: LabelingPlan,
        output: RowOutput,
        advance: Callable[[int, float], None],
        *,
        previous: PreviousLabels | None = None,
        review: ReviewFile | None = None,
        bad_rows: BadRowsFile | None = None,
        summary: PredictSummary | None = None,
        arrays: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        self._bad_rows = bad_rows
        self._categories, self._plan, self._output, self._advance = categories, plan, output, advance
        self._review = review
        self.summary = summary or PredictSummary()
        self.summary.resumed = self.summary.rows
        self.top_k = min(plan.top_k, len(categories))
        self._known_labels = KnownLabels(self.top_k, previous, arrays, dedupe=plan.dedupe)
        self._names = pl.Series(categories, dtype=pl.String)
        self._counts = np.array([self.summary.categories.get(name, 0) for name in categories], np.int64)
        # In float32, as confidences are: what a report prints of one accepts it.
        self._needed = np.full(len(categories), plan.min_confidence, np.float32)
        if plan.by_category is not None:
            self._needed = np.array([plan.by_category.get(name, math.inf) for name in categories], np.float32)

    def write_all(self, batches: Iterable[LabeledBatch]) -> PredictSummary:
        """Write all batches; returns the summary."""
        started = time.perf_counter()
        in_part = 0
        with thread_pool(1) as pool:
            writer = BackgroundWriter(pool)
            for batch, labels in batches:
                if batch.begins_part:
                    writer.hand(self._output.finish_part, in_part)
                    in_part = 0
                if batch.keeps:
                    writer.hand(self._keep, self._state(), self._known_labels.arrays())
                added, suggested = self._columns(batch, labels)
                writer.hand(self._write, batch.rows, self._plan.kept(batch.rows.columns), added, suggested)
                in_part += len(batch.rows)
                self._advance(self.summary.rows, batch.rows.share)
            writer.hand(self._output.finish_part, in_part)
            writer.hand(self._keep, self._state(), self._known_labels.arrays())
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
        counts = {name: int(count) for name, count in zip(self._categories, self._counts, strict=True) if count}
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def _columns(self, batch: PlannedBatch, labels: Sequence[Labels]) -> tuple[pl.DataFrame, pl.Series | None]:
        """Count a batch's labels and make our columns of them; and for a review, the categories whether accepted or not."""
        classes, confidences = self._known_labels.of_rows(batch, labels)
        accepted = confidences[:, 0] >= self._needed[classes[:, 0]]
        nulls = list(batch.rows.nulls)
        accepted[nulls] = False
        self._counts += np.bincount(classes[accepted, 0], minlength=len(self._counts))
        self.summary.rows += len(batch.rows)
        self.summary.below += int((~accepted).sum()) - len(nulls)
        self.summary.blank += batch.blank - len(nulls)
        self.summary.bad += len(batch.rows.bad)
        self.summary.short += batch.rows.short
        self.summary.labeled += len(batch.fresh)
        self.summary.cut += sum(part.cut for part in labels)
        self.summary.halved += sum(part.halved for part in labels)
        self.summary.decided += sum(part.decided for part in labels)
        self.summary.checked += sum(part.checked for part in labels)
        self.summary.changed += sum(part.changed for part in labels)
        self.summary.taken_over += int(np.isin(batch.owner, batch.previous).sum())
        suggested = self._names.gather(classes[:, 0]).alias(PREDICTED) if self._review is not None else None
        added = result_columns(self._names, classes, confidences, accepted, self._plan)
        if nulls:
            is_null = pl.Series(np.isin(np.arange(len(added)), nulls))
            added = added.with_columns(pl.when(is_null).then(None).otherwise(pl.col(name)).alias(name) for name in added.columns)
        return added, suggested
