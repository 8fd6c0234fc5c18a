"""``catcli predict``: a catalog → the same catalog with categories."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from catcli import __version__
from catcli.adapter.folder import Adapter
from catcli.adapter.signing import check_signature
from catcli.adapter.store import find_adapter, only_adapter
from catcli.atomic import temporary_folder
from catcli.config import check_device, check_variant
from catcli.data.dataset.column_mapping import map_text_columns, price_columns
from catcli.data.dataset.columns import find_column
from catcli.data.io.bad_rows import BadRowsFile
from catcli.data.io.batch import Batch
from catcli.data.io.buckets import BucketObject
from catcli.data.io.journal import ON_BAD_ROW
from catcli.data.io.output import FileFormat, file_format, write_errors
from catcli.data.io.parts import Parts, staging_path
from catcli.data.io.review import ReviewFile
from catcli.data.io.source import Source, open_source
from catcli.data.io.streams import file_state
from catcli.data.io.writers import open_pipe
from catcli.errors import CatcliError, ChangedError, ProductsError, RowError, Terminated, UsageError, name_list
from catcli.inference.acceptance import accepted_from, accepted_from_by_category
from catcli.inference.labeler import Labeler
from catcli.inference.output_checks import check_output, review_form
from catcli.inference.pipeline import Engine, local_engine, run_pipeline
from catcli.inference.planning import BatchPlanner, LabelingPlan, rows_per_batch
from catcli.inference.previous_labels import load_previous_labels
from catcli.inference.ray_cluster import Cluster
from catcli.inference.result_columns import ALTERNATIVES, CONFIDENCE, PREDICTED, empty_result_columns
from catcli.inference.results import LabeledBatch, PipeOutput, PredictSummary
from catcli.paths import is_folder, is_pipe
from catcli.talk import Talk
from catcli.wording import count_noun


@dataclass(frozen=True)
class PredictOptions:
    """What was asked for, as the options have it."""

    output: str
    adapter: str | None = None
    text: Sequence[str] = ()
    top_k: int = 1
    min_confidence: float = 0.0
    precision: float | None = None
    by_category: bool = False
    review: str | None = None
    device: str = "auto"
    variant: str = "auto"
    batch_tokens: int | None = None
    workers: int | None = None
    keep: str | None = None
    previous: str | None = None
    dedupe: bool = True
    safe_csv: bool = False
    trusted_key: Sequence[str] = ()
    on_bad_row: str = "stop"
    allow_missing: bool = False
    replace_columns: bool = False
    no_clobber: bool = False
    engine: str = "local"
    resume: bool = False
    output_as: str | None = None
    input_format: str | None = None
    delimiter: str | None = None
    encoding: str | None = None

    def check(self, as_json: bool) -> None:
        """Stop at options that are wrong by themselves or together."""
        check_device(self.device)
        check_variant(self.variant)
        if not 0 <= self.min_confidence <= 1:
            raise UsageError(f"--min-confidence {self.min_confidence}: a probability, from 0 to 1.")
        self._check_acceptance()
        for option, value in (("--top-k", self.top_k), ("--workers", self.workers), ("--batch-tokens", self.batch_tokens)):
            if value is not None and value < 1:
                raise UsageError(f"{option} {value}: a whole number above 0.")
        if self.engine not in ("local", "ray"):
            raise UsageError(f"--engine {self.engine}: choose local or ray.")
        if self.output == "-" and as_json:
            raise UsageError("--json and -o - would both write to standard output; give -o a file.")
        if self.resume and is_pipe(self.output):
            raise UsageError(f"--resume: what went into {self.output} is gone; give -o a file, whose parts are kept.")
        if self.previous and self.top_k > 1:
            raise UsageError("--previous takes over one category a row; leave out --top-k, or --previous.")

    def _check_acceptance(self) -> None:
        """Stop at thresholds that contradict one another, or a review that nothing would come to."""
        if self.precision is not None and not 0 < self.precision < 1:
            raise UsageError(f"--precision {self.precision:g}: a share above 0 and below 1, such as 0.95.")
        if self.precision is not None and self.min_confidence:
            raise UsageError("--precision finds the confidence that rows have to reach; leave out --min-confidence, or --precision.")
        if self.by_category and self.precision is None:
            raise UsageError("--by-category holds a precision within each category; say which with --precision.")
        if self.review and self.precision is None and not self.min_confidence:
            raise UsageError("--review gets the rows that are not accepted; say which are with --precision or --min-confidence.")
        if self.review and (is_pipe(self.review) or is_folder(self.review)):
            raise UsageError(f"--review {self.review}: name a file; its rows are put in order at the end.")


@dataclass(frozen=True)
class PredictJob:
    """All that a run needs, checked; ``nothing`` is a batch of the catalog's columns without rows."""

    asked: PredictOptions
    source: Source
    form: FileFormat
    adapter: Adapter
    labeler: Labeler | Cluster
    plan: LabelingPlan
    batches: Iterator[Batch]
    nothing: Batch


def predict(
    catalog: Sequence[str],
    asked: PredictOptions,
    *,
    as_json: bool = False,
    labeler: Labeler | None = None,
    talk: Talk | None = None,
) -> PredictSummary:
    """Label every row of ``catalog`` and write it where ``asked`` says; ``labeler`` is the adapter's, where it is loaded already.

    Raises:
        CatcliError: something that the user can mend; whatever stood at the output still stands.
    """
    talk = talk or Talk.silent()
    asked.check(as_json)
    with ExitStack() as opened:
        ready = prepare(catalog, asked, talk, labeler, opened)
        return _labeled(ready, as_json, talk)


def _labeled(ready: PredictJob, as_json: bool, talk: Talk) -> PredictSummary:
    asked, source = ready.asked, ready.source
    previous = load_previous_labels(asked.previous, ready.labeler, ready.plan, talk) if asked.previous else None
    done, engine = PredictSummary(), engine_of(ready, talk)
    with talk.progress() as bar:

        def advance(rows: int, share: float) -> None:
            bar("labeling", rows, rows / share if share else rows)
            if done.halved:
                talk.warn("memory is too short for some batches, which are labeled in halves; a smaller --batch-tokens spares the tries.")

        if is_pipe(asked.output):
            with _spills(asked) as spills, open_pipe(asked.output, ready.form) as sink:
                review = _review(ready, spills)
                run_pipeline(engine, PipeOutput(sink), ready.labeler, ready.plan, advance, previous=previous, review=review, summary=done)
                _warn(done, ready, talk, "; they are not listed beside a pipe")
                _finish_review(review, ready)
        else:
            mark = _fingerprint(ready)
            places = [file.place for file in source.files]
            resumable = {"resume": asked.resume, "keep": not source.piped}
            with (
                Parts(asked.output, ready.form, places, mark, **resumable) as parts,
                _kept(parts, asked, talk),
                _bad_rows(parts, asked) as bad,
            ):
                if asked.resume and not parts.left.parts:
                    talk.warn("there is nothing to resume: the run starts at the first row")
                elif parts.discarded:
                    why = f"{' and '.join(parts.changed)} changed since" if parts.changed else "its files are not whole"
                    talk.warn(f"{parts.discarded:,} rows that a stopped run had labeled are labeled anew: {why}")
                if parts.left.parts:
                    done = PredictSummary(**parts.left.state)
                    talk.say(f"going on after {done.rows:,} rows that a stopped run had labeled")
                review = _review(ready, parts.beside, parts.left.keeps)
                beside: dict[str, Any] = {"previous": previous, "review": review, "bad_rows": bad}
                run_pipeline(engine, parts, ready.labeler, ready.plan, advance, **beside, summary=done, arrays=parts.left.arrays)
                if _fingerprint(ready) != mark:
                    raise ChangedError(f"{source.name} was changed while it was read; run the same line again once it is finished.")
                listed_in = f": {bad.file}" if bad is not None and done.bad else ""
                _warn(done, ready, talk, listed_in)
                if bad is not None:
                    bad.finish()
                _finish_review(review, ready)
                parts.finish()
    _show(done, ready, as_json, talk)
    return done


def engine_of(ready: PredictJob, talk: Talk) -> Engine:
    """What labels: this process, or the cluster that was asked for. The rows that come out are the same."""
    labeler = ready.labeler
    if isinstance(labeler, Labeler):
        return local_engine(ready.batches, labeler)

    def labeled(planner: Callable[[], BatchPlanner], k: int) -> Generator[LabeledBatch]:
        with closing(labeler.labeled(ready.source, planner, k, talk.warn)) as works:
            for work, labels in works:
                if work.batch.note:  # by a reader elsewhere; what one here notes is said as it reads
                    talk.warn(work.batch.note)
                yield work, labels

    return labeled


def prepare(catalog: Sequence[str], asked: PredictOptions, talk: Talk, labeler: Labeler | None, opened: ExitStack) -> PredictJob:
    """Look at the first rows, load the adapter, and settle what is read from which column; what has to be closed goes to ``opened``."""
    source = open_source(
        catalog, input_format=asked.input_format, delimiter=asked.delimiter, encoding=asked.encoding, on_bad_row=asked.on_bad_row
    )
    if asked.resume and source.piped:
        raise UsageError("--resume: what came through a pipe cannot be read a second time; give the rows as a file.")
    if asked.engine == "ray" and source.piped:
        raise UsageError("--engine ray: what comes through a pipe is here and not on the cluster; give the rows as a file.")
    beside = source.format if source.format != "excel" else "csv"
    form = file_format(asked.output, asked.output_as, beside, safe=asked.safe_csv)
    if asked.safe_csv and not form.safe and not (asked.review and review_form(asked).safe):
        raise UsageError(f"--safe-csv keeps formulas out of CSV and TSV; {form.format} has none: leave it out.")
    check_output(source, asked)
    chosen = find_adapter(asked.adapter) if asked.adapter else only_adapter()
    check_signature(chosen, asked.trusted_key)
    started = time.perf_counter()
    used = labeler or _labeler(chosen, asked, opened)
    for note in used.notes:
        talk.warn(note)
    talk.detail(f"adapter {chosen.folder}, {used.variant} on {used.provider}, ready in {time.perf_counter() - started:.2f} s")
    batches = with_notes(source.batches(rows_per_batch(used.texts)), talk)
    first = next(batches)
    plan = _plan(source, first, chosen, asked, form, talk)
    if asked.precision is not None:
        served = chosen.manifest.variants[used.variant]
        if asked.by_category:
            plan = replace(plan, by_category=accepted_from_by_category(served, asked.precision, chosen.folder, talk))
        else:
            plan = replace(plan, min_confidence=accepted_from(served, asked.precision, chosen.folder, talk))
    return PredictJob(asked, source, form, chosen, used, plan, itertools.chain([first], batches), first.slice(0, 0))


def _labeler(adapter: Adapter, asked: PredictOptions, opened: ExitStack) -> Labeler | Cluster:
    """The adapter, loaded here or on a cluster."""
    options = (adapter, asked.device, asked.variant, asked.batch_tokens, asked.workers)
    return opened.enter_context(Cluster(*options)) if asked.engine == "ray" else Labeler(*options)


# --- before --------------------------------------------------------------------------------------------------------------------------


def with_notes(batches: Iterator[Batch], talk: Talk) -> Iterator[Batch]:
    """The batches; what a reader notes of one is said."""
    for batch in batches:
        if batch.note:
            talk.warn(batch.note)
        yield batch


def _plan(source: Source, first: Batch, adapter: Adapter, asked: PredictOptions, form: FileFormat, talk: Talk) -> LabelingPlan:
    columns = first.columns
    ours = [PREDICTED, CONFIDENCE, *([ALTERNATIVES] if asked.top_k > 1 else [])]
    taken = [name for name in ours if name in columns]
    if taken and not asked.replace_columns:
        raise ProductsError(
            f"{source.name} already has {name_list(taken)}, which this run would write; pass --replace-columns to drop "
            f"{'it' if len(taken) == 1 else 'them'} first."
        )
    keep = [name for name in columns if name not in taken]
    if asked.keep is not None:
        named = {find_column(name.strip(), columns, "--keep", source.name) for name in asked.keep.split(",") if name.strip()}
        keep = [name for name in keep if name in named]
    types = first.types
    text = map_text_columns(source.name, types, adapter.manifest, asked.text, allow_missing=asked.allow_missing, talk=talk)
    return LabelingPlan(
        text,
        asked.top_k,
        asked.min_confidence,
        keep=tuple(keep),
        alternatives_as_json=form.format in ("csv", "tsv"),
        dedupe=asked.dedupe,
        prices=price_columns(adapter.manifest, text),
    )


def _fingerprint(ready: PredictJob) -> dict[str, str]:
    """What an output is made from, by the names under which a sentence speaks of it."""
    paths = ready.source.paths
    facts = [(str(path if isinstance(path, BucketObject) else path.resolve()), (file_state(path) or ())[:2]) for path in paths]
    source = (ready.source.format, ready.source.delimiter, ready.source.encoding)
    asked = replace(
        ready.asked, output="", previous=None, resume=False, no_clobber=False, adapter=None, workers=None, engine="local", trusted_key=()
    )
    # The first three are told with the catalog, and the last by itself.
    asked = replace(asked, input_format=None, delimiter=None, encoding=None, on_bad_row="stop")
    told = {
        "the catalog": canonical([facts, source]),
        "the adapter": ready.adapter.fingerprint,
        ON_BAD_ROW: ready.asked.on_bad_row,
        "the options": canonical([asdict(asked), asdict(ready.plan), asdict(ready.form)]),
        "catcli or what it runs on": canonical([__version__, pl.__version__, ready.labeler.variant, ready.labeler.provider]),
    }
    if ready.asked.previous:
        earlier = open_source([ready.asked.previous])
        told["the file of --previous"] = canonical([(file_state(path) or ())[:2] for path in earlier.paths])
    return {name: hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest() for name, value in told.items()}


def canonical(facts: object) -> str:
    """Facts as JSON that is the same in every process: the order of a set depends on PYTHONHASHSEED."""
    return json.dumps(facts, sort_keys=True, default=lambda found: sorted(found) if isinstance(found, set | frozenset) else str(found))


@contextmanager
def _bad_rows(parts: Parts, asked: PredictOptions) -> Iterator[BadRowsFile | None]:
    """The list of rows that cannot be read, where these do not stop the run."""
    if asked.on_bad_row == "stop":
        yield None
        return
    with closing(BadRowsFile(asked.output, parts.beside, parts.left.keeps)) as bad:
        yield bad


@contextmanager
def _kept(parts: Parts, asked: PredictOptions, talk: Talk) -> Iterator[None]:
    """Whatever ends the run, finished parts stay, and the sentence says so."""
    try:
        yield
    except ChangedError:
        parts.discard()
        raise
    except BaseException as error:
        rows = parts.kept
        if rows and isinstance(error, MemoryError):
            raise CatcliError(f"memory ran out; {rows:,} labeled rows are kept: free some, and the same line goes on from them.") from error
        if rows and isinstance(error, RowError) and asked.on_bad_row == "stop":  # a file that is mended is another file
            way = "the same line with --on-bad-row skip, or null, goes on past that row; once the file is mended the run begins anew."
            raise type(error)(f"{error} {rows:,} labeled rows are kept: {way}") from error
        if rows and isinstance(error, CatcliError):
            raise type(error)(f"{error} {rows:,} labeled rows are kept: the same line goes on from them.") from error
        if rows and isinstance(error, KeyboardInterrupt | Terminated):
            talk.warn(f"{rows:,} labeled rows are kept beside {parts.out}")
        raise


# --- --review ------------------------------------------------------------------------------------------------------------------------


@contextmanager
def _spills(asked: PredictOptions) -> Iterator[Path]:
    """A folder for rows that wait for the review, where the output has none of its own."""
    if asked.review is None:
        yield Path()
        return
    with ExitStack() as opened:
        with write_errors(asked.review, "--review"):
            folder = opened.enter_context(temporary_folder(staging_path(asked.review).with_suffix(".spills")))
        yield folder


def _review(ready: PredictJob, spills: Path, done: int = 0) -> ReviewFile | None:
    if ready.asked.review is None:
        return None
    return ReviewFile(ready.asked.review, review_form(ready.asked), CONFIDENCE, spills, done)


def _finish_review(review: ReviewFile | None, ready: PredictJob) -> None:
    if review is not None:
        review.finish(ready.plan.kept(ready.nothing.columns), ready.nothing, empty_result_columns(ready.plan))


# --- after ---------------------------------------------------------------------------------------------------------------------------


def _show(summary: PredictSummary, ready: PredictJob, as_json: bool, talk: Talk) -> None:
    asked, labeler = ready.asked, ready.labeler
    speed = (summary.rows - summary.resumed) / max(summary.seconds, 1e-9)
    engine = f", {labeler.workers} Ray workers" if isinstance(labeler, Cluster) else ""
    counts = {name: value for name, value in asdict(summary).items() if name != "categories"}
    talk.record("labeled", **counts, adapter=ready.adapter.fingerprint, output=asked.output)
    if as_json:
        facts = {
            **asdict(summary),
            "output": asked.output,
            "run": talk.run,
            "adapter": ready.adapter.fingerprint,
            "rows_per_second": speed,
            "variant": labeler.variant,
            "provider": labeler.provider,
        }
        talk.result(json.dumps(facts, ensure_ascii=False))
        return
    by = f"{labeler.variant} on {labeler.provider}{engine}"
    talk.say(f"{count_noun(summary.rows, 'row')} labeled in {summary.seconds:.1f} s ({speed:,.0f} rows/s, {by})")
    if asked.previous:
        talk.say(f"{count_noun(summary.taken_over, 'row')} taken over from {asked.previous}, {summary.rows - summary.taken_over:,} labeled")
    if asked.precision is not None or asked.min_confidence:
        below = (
            f"--min-confidence {asked.min_confidence:g}" if asked.precision is None else f"what --precision {asked.precision:g} asks for"
        )
        talk.say(f"{count_noun(summary.below, 'row')} below {below}, where {PREDICTED} is null")
    if asked.review:
        talk.say(f"those rows, the surest last: {asked.review}")
    if asked.output != "-":
        talk.say(f"written: {asked.output}")


def _warn(summary: PredictSummary, ready: PredictJob, talk: Talk, bad_rows: str) -> None:
    """What was odd about the rows, before they are written; ``bad_rows`` says where those are that could not be read."""
    if summary.bad:
        what = "left out" if ready.asked.on_bad_row == "skip" else "written as nulls"
        talk.warn(f"{count_noun(summary.bad, 'row')} could not be read and {'is' if summary.bad == 1 else 'are'} {what}{bad_rows}")
    if summary.cut:
        tokens = ready.adapter.manifest.max_tokens
        talk.warn(
            f"{summary.cut:,} of {summary.labeled:,} different texts have more than the {tokens} tokens that are read; the rest is cut."
        )
    if summary.short:
        talk.warn(f"{count_noun(summary.short, 'row')} with fewer cells than the header; the missing ones are taken as empty.")
    if summary.blank:
        talk.warn(f"{count_noun(summary.blank, 'row')} without text, whose category is a guess of low worth.")
