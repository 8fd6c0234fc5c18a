"""``catcli predict``: a catalog → the same catalog with categories. Read it from top to bottom: it has every step in its order.

::

    files ── Source ── batches ──┐
    adapter folder ── Engine ────┤── LabelingPlan ── run_pipeline ── Parts or a pipe ── the output, complete
                                 │
    texts ── n-grams ── linear model ─┐
        └─── tokens ─── ONNX Runtime ─┴── blend ── calibration ── category, confidence        (catcli.inference.labeler)
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from catcli.adapter.folder import Adapter
from catcli.adapter.signing import check_signature
from catcli.adapter.store import find_adapter, only_adapter
from catcli.atomic import temporary_folder
from catcli.data.dataset.column_mapping import map_text_columns, price_columns
from catcli.data.dataset.columns import find_column
from catcli.data.io.bad_rows import BadRowsFile
from catcli.data.io.batch import Batch
from catcli.data.io.output import FileFormat, file_format, write_errors
from catcli.data.io.parts import Parts, staging_path
from catcli.data.io.review import ReviewFile
from catcli.data.io.source import Source, open_source
from catcli.data.io.writers import open_pipe
from catcli.errors import CatcliError, ChangedError, ProductsError, RowError, Terminated, UsageError, name_list
from catcli.inference.acceptance import acceptance_threshold, acceptance_thresholds_by_category
from catcli.inference.engines import Engine, open_engine
from catcli.inference.fingerprint import predict_fingerprint
from catcli.inference.label_cache import PreviousLabels
from catcli.inference.output_checks import check_output, review_format
from catcli.inference.pipeline import run_pipeline
from catcli.inference.planning import LabelingPlan, rows_per_batch
from catcli.inference.predict_options import PredictOptions
from catcli.inference.previous_labels import load_previous_labels
from catcli.inference.result_columns import ALTERNATIVES, CONFIDENCE, PREDICTED, empty_result_columns
from catcli.inference.results import PipeOutput, PredictSummary
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
def open_job(catalog: Sequence[str], options: PredictOptions, *, engine: Engine | None = None) -> Iterator[PredictJob]:
    """Look at the first rows, load the adapter, and decide which column is read for what.

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
        used = engine or opened.enter_context(closing(open_engine(adapter, options)))
        for note in used.notes:
            LOGGER.warning(note)
        LOGGER.debug(f"adapter {adapter.folder}, {used.variant} on {used.provider}, ready in {time.perf_counter() - started:.2f} s")
        if options.max_change and used.cascade is None:
            LOGGER.info(
                f"--max-change {options.max_change:g}: {adapter.folder} has no cascade that changes so few; both models label all rows"
            )
        batches = with_notes(source.batches(rows_per_batch(used.texts_per_call)))
        first = next(batches)
        plan = _accepting(_plan(source, first, adapter, options, output_format), adapter, used, options)
        yield PredictJob(options, source, output_format, adapter, used, plan, itertools.chain([first], batches), first.slice(0, 0))


def with_notes(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches; what a reader notes of one is logged."""
    for batch in batches:
        if batch.note:
            LOGGER.warning(batch.note)
        yield batch


def _plan(source: Source, first: Batch, adapter: Adapter, options: PredictOptions, output_format: FileFormat) -> LabelingPlan:
    columns = first.columns
    result_names = [PREDICTED, CONFIDENCE, *([ALTERNATIVES] if options.top_k > 1 else [])]
    taken = [name for name in result_names if name in columns]
    if taken and not options.replace_columns:
        raise ProductsError(
            f"{source.name} already has {name_list(taken)}, which this run would write; pass --replace-columns to drop "
            f"{'it' if len(taken) == 1 else 'them'} first."
        )
    keep = [name for name in columns if name not in taken]
    if options.keep is not None:
        named = {find_column(name.strip(), columns, "--keep", source.name) for name in options.keep.split(",") if name.strip()}
        keep = [name for name in keep if name in named]
    text = map_text_columns(source.name, first.types, adapter.manifest, options.text, allow_missing=options.allow_missing)
    return LabelingPlan(
        text,
        options.top_k,
        options.min_confidence,
        keep=tuple(keep),
        alternatives_as_json=output_format.format in ("csv", "tsv"),
        dedupe=options.dedupe,
        prices=price_columns(adapter.manifest, text),
    )


def _accepting(plan: LabelingPlan, adapter: Adapter, engine: Engine, options: PredictOptions) -> LabelingPlan:
    """The plan with the thresholds that ``--precision`` asks for."""
    if options.precision is None:
        return plan
    info = engine.cascade or next(info for name, info in adapter.manifest.variants.items() if name == engine.variant)
    if options.by_category:
        return replace(plan, by_category=acceptance_thresholds_by_category(info, options.precision, adapter.folder))
    return replace(plan, min_confidence=acceptance_threshold(info, options.precision, adapter.folder))


# --- label ---------------------------------------------------------------------------------------------------------------------------


def label_catalog(job: PredictJob, advance: Advance = no_progress) -> PredictSummary:
    """Label all rows and write them, to a pipe as they come, to a file complete at the end.

    Raises:
        CatcliError: something that the user can fix; finished parts are kept for the same command to go on from.
    """
    return (_label_to_pipe if is_pipe(job.options.output) else _label_to_file)(job, advance)


def _label_to_pipe(job: PredictJob, advance: Advance) -> PredictSummary:
    summary, previous = PredictSummary(), _previous(job)
    with _review_folder(job.options) as folder, open_pipe(job.options.output, job.format) as writer:
        review = _open_review(job, folder)
        output = PipeOutput(writer)
        report = _progress(summary, advance)
        run_pipeline(job.engine, job.source, job.batches, output, job.plan, report, review=review, summary=summary, previous=previous)
        _warn(summary, job, "; they are not listed beside a pipe")
        _finish_review(review, job)
    return summary


def _label_to_file(job: PredictJob, advance: Advance) -> PredictSummary:
    options, source, fingerprint = job.options, job.source, predict_fingerprint(job)
    paths = [file.place for file in source.files]
    previous = _previous(job)
    with (
        Parts(options.output, job.format, paths, fingerprint, resume=options.resume, keep=not source.piped) as parts,
        _naming_kept_rows(parts, options),
        _bad_rows_file(parts, options) as bad_rows,
    ):
        summary = _resumed(parts, options)
        review = _open_review(job, parts.folder, parts.stopped.keeps)
        run_pipeline(
            job.engine,
            source,
            job.batches,
            parts,
            job.plan,
            _progress(summary, advance),
            previous=previous,
            review=review,
            bad_rows=bad_rows,
            summary=summary,
            arrays=parts.stopped.arrays,
        )
        if predict_fingerprint(job) != fingerprint:
            raise ChangedError(f"{source.name} was changed while it was read; run the same command again once it is finished.")
        _warn(summary, job, f": {bad_rows.file}" if bad_rows is not None and summary.bad else "")
        if bad_rows is not None:
            bad_rows.finish()
        _finish_review(review, job)
        parts.finish()
    return summary


def _progress(summary: PredictSummary, advance: Advance) -> Callable[[int, float], None]:
    def report(rows: int, share: float) -> None:
        advance("labeling", rows, rows / share if share else rows)
        if summary.halved:
            LOGGER.warning("memory is too short for some batches, which are halved; a smaller --batch-tokens avoids that.")

    return report


def _previous(job: PredictJob) -> PreviousLabels | None:
    return load_previous_labels(job.options.previous, job.engine, job.plan) if job.options.previous else None


# --- resume --------------------------------------------------------------------------------------------------------------------------


def _resumed(parts: Parts, options: PredictOptions) -> PredictSummary:
    """The summary so far: that of a stopped run that goes on, or an empty one."""
    if options.resume and not parts.stopped.parts:
        LOGGER.warning("there is nothing to resume: the run starts at the first row")
    elif parts.discarded:
        reason = f"{' and '.join(parts.changed)} changed since" if parts.changed else "its files are incomplete"
        LOGGER.warning(f"{parts.discarded:,} rows that a stopped run had labeled are labeled again: {reason}")
    if not parts.stopped.parts:
        return PredictSummary()
    summary = PredictSummary(**parts.stopped.state)
    LOGGER.info(f"going on after {summary.rows:,} rows that a stopped run had labeled")
    return summary


@contextmanager
def _bad_rows_file(parts: Parts, options: PredictOptions) -> Iterator[BadRowsFile | None]:
    """The list of rows that cannot be read, where these do not stop the run."""
    if options.on_bad_row == "stop":
        yield None
        return
    with closing(BadRowsFile(options.output, parts.folder, parts.stopped.keeps)) as bad_rows:
        yield bad_rows


@contextmanager
def _naming_kept_rows(parts: Parts, options: PredictOptions) -> Iterator[None]:
    """Have an error that ends the run say how many labeled rows are kept."""
    try:
        yield
    except ChangedError:
        parts.discard()
        raise
    except BaseException as error:
        rows = parts.kept
        kept = f"{count_noun(rows, 'labeled row')} {'is' if rows == 1 else 'are'} kept"
        if rows and isinstance(error, MemoryError):
            raise CatcliError(f"memory ran out; {kept}: free some, and the same command continues.") from error
        if rows and isinstance(error, RowError) and options.on_bad_row == "stop":  # a corrected file is another file
            advice = (
                "the same command with --on-bad-row skip, or null, continues past that row; with a corrected file the run starts again."
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


def _open_review(job: PredictJob, folder: Path, parts_done: int = 0) -> ReviewFile | None:
    if job.options.review is None:
        return None
    return ReviewFile(job.options.review, review_format(job.options), CONFIDENCE, folder, parts_done)


def _finish_review(review: ReviewFile | None, job: PredictJob) -> None:
    if review is not None:
        review.finish(job.plan.kept(job.empty.columns), job.empty, empty_result_columns(job.plan))


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
    if summary.blank:
        LOGGER.warning(f"{count_noun(summary.blank, 'row')} without text, whose category is hardly better than a guess.")
