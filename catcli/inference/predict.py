"""``catcli predict``: a catalog → the same catalog with categories. Read it from top to bottom: it has every step in its order.

::

    files ── Source ── shards ───┐
    adapter folder ── Engine ────┤── LabelingPlan ── label_shard ── parts, or a pipe ── the output, complete
                                 │
    texts ── n-grams ── linear model ─┐
        └─── tokens ─── ONNX Runtime ─┴── blend ── calibration ── category, confidence        (catcli.inference.labeler)
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from catcli.adapter.folder import Adapter
from catcli.adapter.signing import check_signature
from catcli.adapter.store import find_adapter, only_adapter
from catcli.atomic import temporary_folder
from catcli.data.dataset.column_mapping import map_text_columns, price_columns
from catcli.data.dataset.columns import find_column, similar_columns
from catcli.data.dataset.text import is_scalar
from catcli.data.io.bad_rows import bad_rows_path, write_bad_rows
from catcli.data.io.batch import Batch
from catcli.data.io.output import FileFormat, file_format, write_errors
from catcli.data.io.part_file import BAD, REVIEW, PartOptions
from catcli.data.io.parts import Parts, PartsInput, staging_path
from catcli.data.io.review import ReviewSpill
from catcli.data.io.source import Source, open_source
from catcli.data.io.writers import RowWriter, open_pipe, output_rows
from catcli.errors import AdapterError, CatcliError, ChangedError, ProductsError, RowError, Terminated, UsageError, name_list
from catcli.evaluation.drift import MAX_MOVED, measure_drift
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.evaluation.label_choice import LabelChoice
from catcli.inference.acceptance import acceptance_threshold, acceptance_thresholds_by_category, back_off_rule
from catcli.inference.applied_labels import load_applied_labels
from catcli.inference.concurrency import BackgroundWriter, thread_pool
from catcli.inference.engines import Engine, open_engine
from catcli.inference.fingerprint import predict_fingerprint
from catcli.inference.known_labels import KnownLabels
from catcli.inference.output_checks import check_not_filled_in, check_output, review_format
from catcli.inference.planning import LabelingPlan
from catcli.inference.predict_options import PredictOptions
from catcli.inference.previous_labels import load_previous_labels
from catcli.inference.result_columns import ALTERNATIVES, CONFIDENCE, LEVEL, PREDICTED, PREDICTED_ID, empty_result_columns
from catcli.inference.review import SUGGESTED, with_review_columns, write_review
from catcli.inference.shards import LabeledRows, ShardOptions, ShardResult
from catcli.inference.summary import MILLION, PredictSummary
from catcli.logs import LOGGER, Advance, no_progress
from catcli.paths import is_pipe
from catcli.wording import count_noun, per_cent


@dataclass(frozen=True)
class PredictJob:
    """Everything that a run needs, checked; ``empty`` is a batch of the catalog's columns without rows."""

    options: PredictOptions
    source: Source
    format: FileFormat
    adapter: Adapter
    engine: Engine
    plan: LabelingPlan
    batches: Iterator[Batch]
    empty: Batch


def predict(
    catalog: Sequence[str], options: PredictOptions, *, engine: Engine | None = None, advance: Advance = no_progress
) -> PredictSummary:
    """Label every row of ``catalog`` and write it to ``options.output``; ``engine`` is the adapter's, where it is loaded already.

    Raises:
        CatcliError: something that the user can fix; whatever was at the output is still there.
    """
    with open_job(catalog, options, engine=engine) as job:
        return label_catalog(job, advance)


# --- prepare -------------------------------------------------------------------------------------------------------------------------


@contextmanager
def open_job(
    catalog: Sequence[str], options: PredictOptions, *, engine: Engine | None = None, in_processes: bool = True
) -> Iterator[PredictJob]:
    """Look at the first rows, load the adapter, and decide which column is read for what.

    Without ``in_processes`` this process labels beside a GPU, too.

    Raises:
        CatcliError: something that the user can fix.
    """
    options.check()
    source = open_source(
        catalog,
        input_format=options.input_format,
        delimiter=options.delimiter,
        encoding=options.encoding,
        on_bad_row=options.on_bad_row,
    )
    if options.resume and source.piped:
        raise UsageError("--resume: what came through a pipe cannot be read a second time; give the rows as a file.")
    if options.engine == "ray" and source.piped:
        raise UsageError("--engine ray: what comes through a pipe is here and not on the cluster; give the rows as a file.")
    in_folder = source.format if source.format != "excel" else "csv"
    output_format = file_format(options.output, options.output_as, in_folder, safe=options.safe_csv)
    if options.safe_csv and not output_format.safe and not (options.review and review_format(options).safe):
        raise UsageError(f"--safe-csv keeps formulas out of CSV and TSV; {output_format.format} has none: leave it out.")
    check_output(source, options)
    adapter = find_adapter(options.adapter) if options.adapter else only_adapter()
    check_signature(adapter, options.trusted_key)
    with ExitStack() as opened:
        started = time.perf_counter()
        used = engine or opened.enter_context(closing(open_engine(adapter, options, in_processes=in_processes)))
        for note in used.notes:
            LOGGER.warning(note)
        LOGGER.debug(f"adapter {adapter.folder}, {used.variant} on {used.provider}, ready in {time.perf_counter() - started:.2f} s")
        if options.max_change and used.cascade is None:
            LOGGER.info(
                f"--max-change {options.max_change:g}: {adapter.folder} has no cascade that changes so few; both models label all rows"
            )
        batches = source.batches()
        first = next(batches)
        plan = _accepting(_plan(source, first, adapter, options, output_format), adapter, used, options)
        yield PredictJob(options, source, output_format, adapter, used, plan, itertools.chain([first], batches), first.slice(0, 0))


def _plan(source: Source, first: Batch, adapter: Adapter, options: PredictOptions, output_format: FileFormat) -> LabelingPlan:
    columns = first.columns
    ids, back_off, top_k = bool(adapter.manifest.category_ids), options.back_off, options.top_k > 1
    wanted = {PREDICTED: True, PREDICTED_ID: ids, CONFIDENCE: True, LEVEL: back_off, ALTERNATIVES: top_k}
    result_names = [name for name, is_wanted in wanted.items() if is_wanted]
    taken = [name for name in result_names if name in columns]
    if taken and not options.replace_columns:
        raise ProductsError(
            f"{source.name} already has {name_list(taken)}, which this run would write; pass --replace-columns to drop "
            f"{'it' if len(taken) == 1 else 'them'} first."
        )
    keep = [name for name in columns if name not in taken and not (taken and name in (LEVEL, PREDICTED_ID))]
    if options.keep is not None:
        named = {find_column(name.strip(), columns, "--keep", source.name) for name in options.keep.split(",") if name.strip()}
        keep = [name for name in keep if name in named]
    text = map_text_columns(source.name, first.types, adapter.manifest, options.text, allow_missing=options.allow_missing)
    return LabelingPlan(
        text,
        LabelChoice(max(options.top_k, SUGGESTED) if options.review else options.top_k),
        options.min_confidence,
        keep=tuple(keep),
        alternatives=options.top_k,
        alternatives_as_json=output_format.format in ("csv", "tsv"),
        dedupe=options.dedupe,
        prices=price_columns(adapter.manifest, text),
        ids=adapter.manifest.category_ids,
        **(_review_plan(source, first, adapter, options, text) if options.review else {}),
    )


def _review_plan(source: Source, first: Batch, adapter: Adapter, options: PredictOptions, text: Sequence[str | None]) -> dict[str, Any]:
    """What `LabelingPlan` has for a review."""
    weight = find_column(options.weight, first.columns, "--weight", source.name) if options.weight else None
    if weight is not None and not is_scalar(first.types[weight]):
        raise ProductsError(f"--weight {weight!r}: its cells are {first.types[weight]}, no numbers; choose another column.")
    same = similar_columns(adapter.manifest.group, first.columns) if adapter.manifest.group else []
    form = review_format(options)
    given = all(first.types[column] == pl.String for column in text if column is not None) and not form.safe
    return {
        "group": same[0] if len(same) == 1 else None,
        "text_column": not (given or form.format in ("parquet", "arrow")),
        "weight": weight,
        "budget": options.review_budget,
    }


def _accepting(plan: LabelingPlan, adapter: Adapter, engine: Engine, options: PredictOptions) -> LabelingPlan:
    """The plan with the thresholds that ``--precision`` asks for."""
    if options.precision is None:
        return plan
    info = engine.cascade or next(info for name, info in adapter.manifest.variants.items() if name == engine.variant)
    if options.by_category:
        return replace(plan, by_category=acceptance_thresholds_by_category(info, options.precision, adapter.folder))
    if options.back_off:
        rule = back_off_rule(adapter.manifest, info, options.precision, adapter.folder)
        return replace(plan, choice=replace(plan.choice, back_off=rule), min_confidence=rule.threshold)
    threshold = acceptance_threshold(info, options.precision, adapter.folder)
    return replace(plan, min_confidence=threshold, never=adapter.manifest.without_rows)


# --- label ---------------------------------------------------------------------------------------------------------------------------


def label_catalog(job: PredictJob, advance: Advance = no_progress) -> PredictSummary:
    """Label all rows and write them, to a pipe as they come, to a file complete at the end.

    Raises:
        CatcliError: something that the user can fix; finished parts are kept for the same command to go on from.
    """
    return (_label_to_pipe if is_pipe(job.options.output) else _label_to_file)(job, advance)


def _label_to_pipe(job: PredictJob, advance: Advance) -> PredictSummary:
    options = ShardOptions(job.engine.categories, job.plan, applied_labels(job), _previous(job))
    progress = _Progress(advance, options.labels)
    spills: list[Path] = []
    with _review_folder(job.options) as folder, open_pipe(job.options.output, job.format) as writer, thread_pool(1) as pool:
        behind = BackgroundWriter(pool)
        for result in progress.of(job.engine.label_shards(job.source, job.batches, options, advance=progress.labeled)):
            behind.hand(_write_to_pipe, result.labeled, options, job, writer, folder, spills)
        behind.wait()
        _warn(progress.summary, job, "; they are not listed beside a pipe")
        _finish_review(job, folder, spills)
    return progress.summary


def _write_to_pipe(
    labeled: LabeledRows, options: ShardOptions, job: PredictJob, writer: RowWriter, folder: Path, spills: list[Path]
) -> None:
    """Write some rows, and keep those for the review."""
    kept = job.plan.kept(labeled.rows.columns)
    writer.write(labeled.rows, kept, labeled.added)
    if job.options.review is not None:
        form = review_format(job.options)
        reviewed, columns, added = labeled.for_review(options, form)
        if len(reviewed):
            spills.append(folder / f"{'0' * 12}-{0:06}-{len(spills):06}{REVIEW}")
            with write_errors(job.options.review, "--review"), ReviewSpill(spills[-1], form) as spill:
                spill.write(reviewed, columns, added)


def _label_to_file(job: PredictJob, advance: Advance) -> PredictSummary:
    options, source = job.options, job.source
    fingerprint = predict_fingerprint(job)  # before the earlier output is read, which may change meanwhile
    shard_options = ShardOptions(job.engine.categories, job.plan, applied_labels(job), _previous(job))
    progress = _Progress(advance, shard_options.labels)
    inputs = PartsInput.of(source.files, fingerprint)
    with (
        Parts(
            options.output,
            job.format,
            inputs,
            fingerprint,
            resume=options.resume,
            keep=not source.piped,
            on_resumed=progress.summary.add,
        ) as parts,
        _naming_kept_rows(parts, job, fingerprint),
    ):
        part = PartOptions(
            options.output,
            parts.folder,
            job.format,
            [entry.identity for entry in inputs],
            review_format(options) if options.review else None,
            parts.uploads,
        )
        done = progress.resumed(parts, options)
        shard_options = replace(shard_options, part=part)
        for result in progress.of(job.engine.label_shards(source, job.batches, shard_options, done, progress.labeled)):
            parts.add(result.part, result.summary.counts())
        parts.commit()
        if PartsInput.of(source.files, fingerprint) != inputs or predict_fingerprint(job) != fingerprint:
            raise ChangedError(f"{source.name} was changed while it was read; run the same command again once it is finished.")
        summary = progress.summary
        _warn(summary, job, f": {bad_rows_path(options.output)}" if summary.bad and options.on_bad_row != "stop" else "")
        if options.on_bad_row != "stop":
            write_bad_rows(options.output, parts.beside(BAD), parts.folder)
        _finish_review(job, parts.folder, parts.beside(REVIEW))
        parts.finish(_empty_output(job))
    return summary


def _empty_output(job: PredictJob) -> Batch:
    """The columns of the output, without a row."""
    return output_rows(job.empty, job.plan.kept(job.empty.columns), empty_result_columns(job.plan))


class _Progress:
    """The counts of a run so far, and their report."""

    def __init__(self, advance: Advance, categories: Sequence[str]) -> None:
        self.summary, self._categories = PredictSummary(), categories
        self._advance, self._rows, self._share, self._lock = advance, 0, 0.0, threading.Lock()
        self._read_rows = 0

    def resumed(self, parts: Parts, options: PredictOptions) -> dict[tuple[int, int, int], int]:
        """Count what a stopped run had done; returns the shards, and their rows."""
        rows = self.summary.rows
        if options.resume and not rows and not parts.discarded:
            LOGGER.warning("there is nothing to resume: the run starts at the first row")
        if parts.discarded:
            more = f" and {len(parts.changed) - 3} more" if len(parts.changed) > 3 else ""
            reason = f"{', '.join(parts.changed[:3])}{more} changed since" if parts.changed else "parts of them are missing"
            LOGGER.warning(f"{parts.discarded:,} rows that a stopped run had labeled are labeled again: {reason}")
        self.summary.resumed = self._rows = rows
        if rows:
            LOGGER.info(f"going on after {rows:,} rows that a stopped run had labeled")
        return parts.shards()

    def of(self, results: Generator[ShardResult]) -> Iterator[ShardResult]:
        """The results, each counted."""
        started = time.perf_counter()
        with closing(results):
            for result in results:
                if result.note:
                    LOGGER.warning(result.note)
                if result.summary.halved and not self.summary.halved:
                    LOGGER.warning("memory is too short for some batches, which are halved; a smaller --batch-tokens avoids that.")
                self.summary.add(result.summary.counts())
                if result.share >= self._share:
                    self._share, self._read_rows = result.share, self.summary.rows
                self._report()
                yield result
        self.summary.seconds = time.perf_counter() - started
        self.summary.name_categories(self._categories)

    def labeled(self, rows: int) -> None:
        """Report so many rows more, of a shard that is not finished."""
        with self._lock:
            self._rows += rows
        self._report()

    def _report(self) -> None:
        rows = max(self._rows, self.summary.rows)
        total = max(rows, self._read_rows / self._share) if self._share else rows
        self._advance("labeling", rows, total)


def applied_labels(job: PredictJob) -> KnownLabels | None:
    """The labels that a person gave, where there are some."""
    return load_applied_labels(job.options.apply, job.adapter.manifest, job.plan) if job.options.apply else None


def _previous(job: PredictJob) -> KnownLabels | None:
    return load_previous_labels(job.options.previous, job.engine, job.plan) if job.options.previous else None


# --- what is kept of a run that ends early -------------------------------------------------------------------------------------------


@contextmanager
def _naming_kept_rows(parts: Parts, job: PredictJob, fingerprint: Mapping[str, str]) -> Iterator[None]:
    """Have an error that ends the run say how many labeled rows are kept."""
    try:
        yield
    except BaseException as error:
        with suppress(CatcliError):  # of the disk, which `error` is of, too
            parts.commit()
        if isinstance(error, ChangedError):
            parts.discard_changed(PartsInput.of(job.source.files, fingerprint))
        rows = parts.kept
        kept = f"{count_noun(rows, 'labeled row')} {'is' if rows == 1 else 'are'} kept"
        if rows and isinstance(error, MemoryError):
            raise CatcliError(f"memory ran out; {kept}: free some, and the same command continues.") from error
        if rows and isinstance(error, RowError) and job.options.on_bad_row == "stop":
            advice = (
                "the same command with --on-bad-row skip, or null, continues past that row; of a corrected file all rows are labeled again."
            )
            raise type(error)(f"{error} {kept}: {advice}") from error
        if rows and isinstance(error, CatcliError):
            raise type(error)(f"{error} {kept}: the same command continues.") from error
        if rows and isinstance(error, KeyboardInterrupt | Terminated):
            LOGGER.warning(f"{kept} beside {parts.out}")
        raise


# --- --review, and what was odd ------------------------------------------------------------------------------------------------------


@contextmanager
def _review_folder(options: PredictOptions) -> Iterator[Path]:
    """A folder for rows that wait for the review, where the output has none of its own."""
    if options.review is None:
        yield Path()
        return
    with ExitStack() as opened:
        with write_errors(options.review, "--review"):
            folder = opened.enter_context(temporary_folder(staging_path(options.review).with_suffix(".spills")))
        yield folder


def _finish_review(job: PredictJob, folder: Path, spills: Sequence[Path]) -> None:
    if job.options.review is not None:
        check_not_filled_in(job.options.review)  # again: it took a while
        form, categories = review_format(job.options), job.engine.categories
        labels = pl.Series(categories, dtype=pl.String), np.empty((0, 1), np.int32), np.empty((0, 1), np.float32)
        empty = with_review_columns(job.empty, empty_result_columns(job.plan), job.plan, form, *labels)
        write_review(job.options.review, form, job.plan, folder, spills, empty, categories)


def _warn(summary: PredictSummary, job: PredictJob, bad_rows: str) -> None:
    """Log what was odd about the rows, before they are written; ``bad_rows`` says where those are that could not be read."""
    if summary.bad:
        outcome = "left out" if job.options.on_bad_row == "skip" else "written as nulls"
        LOGGER.warning(f"{count_noun(summary.bad, 'row')} could not be read and {'is' if summary.bad == 1 else 'are'} {outcome}{bad_rows}")
    if summary.cut:
        tokens = job.adapter.manifest.max_tokens
        LOGGER.warning(
            f"{summary.cut:,} of {summary.labeled:,} different texts have more than the {tokens} tokens that are read; the rest is cut."
        )
    allowed = job.options.allowed_change
    share, low, high = summary.changed_share() if summary.checked else (0.0, 0.0, 0.0)
    if low > allowed:
        LOGGER.warning(
            f"the catalog is unlike the labeled products: the linear model alone gives {per_cent(share, 2)} of texts (95 % interval "
            f"{per_cent(low, 2)} to {per_cent(high, 2)}) another category than both models, more than --max-change {allowed:g}; --exact "
            "labels all by both."
        )
    if summary.short:
        LOGGER.warning(f"{count_noun(summary.short, 'row')} with fewer cells than the header; the missing ones are read as empty.")
    _warn_of_drift(summary, job)
    if job.options.apply and summary.rows and not summary.applied:
        LOGGER.warning(f"--apply {job.options.apply}: no row of {job.source.name} has a text of it; is it of another catalog?")
    if summary.blank:
        LOGGER.warning(f"{count_noun(summary.blank, 'row')} without text, whose category is hardly better than a guess.")


def _warn_of_drift(summary: PredictSummary, job: PredictJob) -> None:
    """Say what the catalog is like beside the labeled products, and warn where it is unlike them."""
    try:
        metrics = FitMetrics.of(job.adapter)
    except AdapterError:  # a run needs no scores
        return
    drift = measure_drift(summary.guessed, summary.confidence / MILLION, summary.guesses, metrics)
    if drift is None:
        return
    differing = (f"{name!r} {per_cent(now)} (of the labeled rows {per_cent(was)})" for name, (now, was) in drift.shares.items())
    confidence = f"mean confidence {drift.confidence:.2f}, where {drift.expected:.2f} was expected"
    if drift.is_unlike:
        LOGGER.warning(
            f"the catalog is unlike the labeled products: {confidence}; categories: {', '.join(differing)}. "
            "Few of its labels may be right; --review with --review-budget 100 lists the rows to label first."
        )
        return
    LOGGER.info(confidence)
    if drift.moved > MAX_MOVED:
        LOGGER.info(
            f"categories are otherwise frequent than among the labeled rows ({per_cent(drift.moved)} of rows): {', '.join(differing)}"
        )
