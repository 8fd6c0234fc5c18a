"""``catcli predict``: a catalog → the same catalog with categories."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from catcli import __version__
from catcli import adapter as adapters
from catcli.commands.talk import Talk
from catcli.errors import CatcliError, OutputError, ProductsError, Terminated, UsageError, listed
from catcli.products.batch import Batch
from catcli.products.columns import alike, find
from catcli.products.parts import Parts
from catcli.products.read import Source, open_source
from catcli.products.text import composed, is_textual
from catcli.products.write import Form, is_folder, is_pipe, output_form, piped
from catcli.recipe import check_device
from catcli.runtime.labeler import Labeler
from catcli.runtime.pipeline import ALTERNATIVES, CONFIDENCE, PREDICTED, Plan, Summary, Through, rows_of_a_batch, run
from catcli.runtime.recall import Previous, hashes_of

CHECKED = 256
"""Rows of an earlier output that are labeled again, to see whether this adapter made it."""

SAME, SAME_REDUCED, MOSTLY = 1e-3, 0.06, 0.98
"""Confidences of one adapter differ by no more than this from run to run (int8 scales by the batch), in so large a share of rows."""


@dataclass(frozen=True)
class Asked:
    """What was asked for, as the options have it."""

    output: str
    adapter: str | None = None
    text: Sequence[str] = ()
    top_k: int = 1
    min_confidence: float = 0.0
    device: str = "auto"
    variant: str = "auto"
    batch_tokens: int | None = None
    workers: int | None = None
    keep: str | None = None
    previous: str | None = None
    dedupe: bool = True
    allow_missing: bool = False
    replace_columns: bool = False
    no_clobber: bool = False
    resume: bool = False
    output_as: str | None = None
    input_format: str | None = None
    delimiter: str | None = None
    encoding: str | None = None

    def check(self, as_json: bool) -> None:
        """Stop at options that are wrong by themselves or together."""
        check_device(self.device)
        if self.variant not in ("auto", "fp32", "fp16", "int8"):
            raise UsageError(f"--variant {self.variant}: choose one of auto, fp32, fp16, int8.")
        if not 0 <= self.min_confidence <= 1:
            raise UsageError(f"--min-confidence {self.min_confidence}: a probability, from 0 to 1.")
        for option, value in (("--top-k", self.top_k), ("--workers", self.workers), ("--batch-tokens", self.batch_tokens)):
            if value is not None and value < 1:
                raise UsageError(f"{option} {value}: a whole number above 0.")
        if self.output == "-" and as_json:
            raise UsageError("--json and -o - would both write to standard output; give -o a file.")
        if self.resume and is_pipe(self.output):
            raise UsageError(f"--resume: what went into {self.output} is gone; give -o a file, whose parts are kept.")
        if self.previous and self.top_k > 1:
            raise UsageError("--previous takes over one category a row; leave out --top-k, or --previous.")


@dataclass(frozen=True)
class Prepared:
    """All that a run needs, checked."""

    asked: Asked
    source: Source
    form: Form
    adapter: adapters.Adapter
    labeler: Labeler
    plan: Plan
    batches: Iterator[Batch]


@dataclass(frozen=True)
class Estimate:
    """What a run would take: seconds and bytes of memory, by a sample of its first rows."""

    rows: int | None
    seconds: float | None
    rows_per_second: float
    memory: int
    variant: str
    provider: str


def predict(
    catalog: Sequence[str],
    asked: Asked,
    *,
    as_json: bool = False,
    labeler: Labeler | None = None,
    talk: Talk | None = None,
) -> Summary:
    """Label every row of ``catalog`` and write it where ``asked`` says; ``labeler`` is the adapter's, where it is loaded already.

    Raises:
        CatcliError: something that the user can mend; whatever stood at the output still stands.
    """
    talk = talk or Talk.silent()
    asked.check(as_json)
    ready = prepare(catalog, asked, talk, labeler)
    source = ready.source
    previous = _previous(ready, asked.previous, talk) if asked.previous else None
    with talk.progress() as bar:

        def advance(rows: int, share: float) -> None:
            bar("labeling", rows, rows / share if share else rows)

        if is_pipe(asked.output):
            with piped(asked.output, ready.form) as sink:
                summary = run(ready.batches, Through(sink), ready.labeler, ready.plan, advance, previous=previous)
        else:
            mark = _mark(ready)
            places = [file.place for file in source.files]
            keep = not source.piped
            with Parts(asked.output, ready.form, places, mark, resume=asked.resume, keep=keep) as parts, _kept(parts, talk):
                if asked.resume and not parts.left.parts:
                    talk.warn("there is nothing to resume: the run starts at the first row")
                elif parts.discarded:
                    talk.warn(f"{parts.discarded:,} rows that a stopped run had labeled are labeled anew; --resume goes on from them")
                done = Summary(**parts.left.state) if parts.left.parts else None
                if done is not None:
                    talk.say(f"going on after {done.rows:,} rows that are done")
                summary = run(
                    ready.batches, parts, ready.labeler, ready.plan, advance, previous=previous, summary=done, arrays=parts.left.arrays
                )
                if _mark(ready) != mark:
                    raise ProductsError(f"{source.name} was changed while it was read; run the same line again.")
                parts.finish()
    _show(summary, ready, as_json, talk)
    return summary


def prepare(catalog: Sequence[str], asked: Asked, talk: Talk, labeler: Labeler | None = None) -> Prepared:
    """Look at the first rows, load the adapter, and settle what is read from which column."""
    source = open_source(catalog, input_format=asked.input_format, delimiter=asked.delimiter, encoding=asked.encoding)
    if asked.resume and source.piped:
        raise UsageError("--resume: what came through a pipe cannot be read a second time; give the rows as a file.")
    beside = source.format if source.format != "excel" else "csv"
    form = output_form(asked.output, asked.output_as, beside)
    _check_output(source, asked)
    chosen = adapters.named(asked.adapter) if asked.adapter else adapters.only()
    started = time.perf_counter()
    labeler = labeler or Labeler(chosen, asked.device, asked.variant, asked.batch_tokens, asked.workers)
    for note in labeler.notes:
        talk.warn(note)
    talk.detail(f"adapter {chosen.folder}, {labeler.variant} on {labeler.provider}, ready in {time.perf_counter() - started:.2f} s")
    batches = _told(source.batches(rows_of_a_batch(labeler)), talk)
    first = next(batches)
    plan = _plan(source, first, chosen, asked, form, talk)
    return Prepared(asked, source, form, chosen, labeler, plan, itertools.chain([first], batches))


def foresee(
    catalog: Sequence[str],
    asked: Asked,
    *,
    as_json: bool = False,
    talk: Talk | None = None,
) -> Estimate:
    """What the run would take, by its first rows; nothing is written.

    Raises:
        CatcliError: what `predict` would raise before the first row.
    """
    talk = talk or Talk.silent()
    asked.check(as_json)
    ready = prepare(catalog, asked, talk)
    source = ready.source
    sample = next(ready.batches)
    sample = sample.slice(0, 4 * ready.labeler.texts)
    summary = run([sample], _Nowhere(), ready.labeler, ready.plan, lambda *_: None)
    speed = summary.rows / summary.seconds if summary.rows else 0.0
    rows = None if source.piped else source.count()
    found = Estimate(rows, rows / speed if rows and speed else None, speed, _peak(), ready.labeler.variant, ready.labeler.provider)
    if as_json:
        print(json.dumps(asdict(found)))
        return found
    many = "an unknown number of" if rows is None else f"{rows:,}"
    long = "" if found.seconds is None else f", about {_duration(found.seconds)}"
    talk.out.print(
        f"{many} rows{long} at {speed:,.0f} rows/s ({found.variant} on {found.provider}); {found.memory / 2**20:,.0f} MiB of memory",
        soft_wrap=True,
    )
    talk.say("nothing was written; texts that come again, and the rows of --previous, make it faster")
    return found


def _peak() -> int:
    """Bytes of memory that this process has held at most."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class _Nowhere:
    by_input = False

    def write(self, *_: object) -> None:
        """The rows are only counted."""

    def finish_part(self, *_: object) -> None:
        """There is nothing to keep."""


# --- before --------------------------------------------------------------------------------------------------------------------------


def _check_output(source: Source, asked: Asked) -> None:
    out = Path(asked.output)
    if asked.output == "-":
        return
    if asked.no_clobber and out.exists():
        raise OutputError(f"-o {out} exists and --no-clobber leaves it alone; choose another name.")
    inside = [
        path for path in source.paths if path.resolve() == out.resolve() or (out.is_dir() and path.resolve().is_relative_to(out.resolve()))
    ]
    if inside:
        raise UsageError(f"-o {asked.output} is one of the inputs; write to another {'folder' if is_folder(asked.output) else 'file'}.")


def _told(batches: Iterator[Batch], talk: Talk) -> Iterator[Batch]:
    for batch in batches:
        if batch.note:
            talk.warn(batch.note)
        yield batch


def _plan(source: Source, first: Batch, adapter: adapters.Adapter, asked: Asked, form: Form, talk: Talk) -> Plan:
    columns = first.columns
    ours = [PREDICTED, CONFIDENCE, *([ALTERNATIVES] if asked.top_k > 1 else [])]
    taken = [name for name in ours if name in columns]
    if taken and not asked.replace_columns:
        raise ProductsError(
            f"{source.name} already has {listed(taken)}, which this run would write; pass --replace-columns to drop "
            f"{'it' if len(taken) == 1 else 'them'} first."
        )
    keep = [name for name in columns if name not in taken]
    if asked.keep is not None:
        wanted = {find(name.strip(), columns, "--keep", source.name) for name in asked.keep.split(",") if name.strip()}
        keep = [name for name in keep if name in wanted]
    text = _text(source, first, adapter, asked, talk)
    return Plan(text, asked.top_k, asked.min_confidence, tuple(keep), form.format in ("csv", "tsv"), asked.dedupe)


def _text(source: Source, first: Batch, adapter: adapters.Adapter, asked: Asked, talk: Talk) -> tuple[str | None, ...]:
    """Which column of the catalog stands for each text column of the adapter."""
    columns, wanted = first.columns, adapter.manifest.text
    mapped = _mapping(asked.text, wanted, columns, source.name)
    matched: list[str | None] = []
    for trained in wanted:
        same = alike(trained, columns)
        column = mapped.get(trained) or (same[0] if len(same) == 1 else None)
        if column is None and not asked.allow_missing:
            raise ProductsError(
                f"{source.name} has no column {trained!r}, which the adapter reads; say which one it is with --text {trained}=COLUMN "
                f"or pass --allow-missing; its columns are {listed(columns, 30)}."
            )
        if column is not None and column != trained:
            talk.say(f"text {trained!r} is read from {column!r}")
        if column is not None and not is_textual(first.type_of(column)):
            raise ProductsError(
                f"{source.name}: the cells of {column!r} are {first.type_of(column)}, not text; map another with --text {trained}=COLUMN."
            )
        matched.append(column)
    if not any(matched):
        raise ProductsError(f"{source.name} has none of the adapter's text columns {listed(wanted)}; name them with --text TRAINED=COLUMN.")
    return tuple(matched)


def _mapping(text: Sequence[str], wanted: Sequence[str], columns: Sequence[str], where: str) -> dict[str, str]:
    asked = {}
    for pair in text:
        trained, equals, column = pair.partition("=")
        if not equals:
            raise UsageError(f"--text {pair}: write TRAINED=COLUMN, for example --text {wanted[0]}={pair}.")
        asked[find(trained, wanted, "--text", "the adapter")] = find(column, columns, "--text", where)
    return asked


def _mark(ready: Prepared) -> dict[str, str]:
    """What an output is made from, by the names under which a sentence speaks of it."""
    paths = [path for path in ready.source.paths if path.exists()]
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    source = (ready.source.format, ready.source.delimiter, ready.source.encoding)
    asked = replace(ready.asked, output="", previous=None, resume=False, no_clobber=False, adapter=None, workers=None)
    asked = replace(asked, input_format=None, delimiter=None, encoding=None)  # these are told with the catalog
    told = {
        "the catalog": repr((facts, source)),
        "the adapter": (ready.adapter.folder / "adapter.json").read_text(encoding="utf-8"),
        "the options": repr((asked, ready.plan, ready.form)),
        "catcli or what it runs on": repr((__version__, pl.__version__, ready.labeler.variant, ready.labeler.provider)),
    }
    if ready.asked.previous:
        earlier = Path(ready.asked.previous).stat()
        told["the file of --previous"] = repr((earlier.st_size, earlier.st_mtime_ns))
    return {name: hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest() for name, value in told.items()}


@contextmanager
def _kept(parts: Parts, talk: Talk) -> Iterator[None]:
    """Whatever ends the run, finished parts stay, and the sentence says so."""
    try:
        yield
    except BaseException as error:
        rows = parts.kept
        if rows and isinstance(error, CatcliError):
            raise type(error)(f"{error} {rows:,} labeled rows are kept: --resume goes on from them.") from error
        if rows and isinstance(error, KeyboardInterrupt | Terminated):
            talk.warn(f"{rows:,} labeled rows are kept beside {parts.out}")
        raise


# --- --previous ----------------------------------------------------------------------------------------------------------------------


def _previous(ready: Prepared, file: str, talk: Talk) -> Previous | None:
    """The labels of an earlier output of this adapter; none where another made it."""
    source = open_source([file])
    text = [column for column in ready.plan.text if column is not None]
    number = {name: place for place, name in enumerate(ready.labeler.categories)}
    hashes, classes, confidences = [], [], []
    sample: list[str] = []
    for batch in source.batches():
        missing = [name for name in (*text, PREDICTED, CONFIDENCE) if name not in batch.columns]
        if missing:
            raise ProductsError(
                f"--previous {source.name} has no column {missing[0]!r}; it has to be an output of catcli predict for this catalog, "
                "with the text columns in it."
            )
        frame = batch.select(list(dict.fromkeys([*text, PREDICTED, CONFIDENCE])))
        texts = composed(frame, text)
        found = frame[PREDICTED].cast(pl.String).replace_strict(number, default=None, return_dtype=pl.Int32)
        sure = frame[CONFIDENCE].cast(pl.Float32, strict=False)
        usable = (found.is_not_null() & sure.is_not_null()).to_numpy()
        hashes.append(hashes_of(texts)[usable])
        classes.append(found.fill_null(0).to_numpy()[usable])
        confidences.append(sure.fill_null(0).to_numpy()[usable])
        if len(sample) < CHECKED:
            sample.extend(texts.filter(pl.Series(usable)).unique(maintain_order=True).head(CHECKED - len(sample)).to_list())
    previous = Previous(np.concatenate(hashes), np.concatenate(classes), np.concatenate(confidences))
    if not len(previous):
        talk.warn(f"--previous {source.name} has no row with a category of this adapter; all rows are labeled")
        return None
    there = previous.find(hashes_of(pl.Series(sample, dtype=pl.String)))
    here = ready.labeler.label(sample)
    tolerance = SAME if ready.labeler.variant == "fp32" else SAME_REDUCED
    close = np.abs(here.confidences[:, 0] - there.confidences[:, 0]) <= tolerance
    same = float(((here.classes[:, 0] == there.classes[:, 0]) & close).mean())
    if same < MOSTLY:
        talk.warn(
            f"--previous {source.name} was labeled by another adapter or from other text: {same:.0%} of {len(sample)} rows tried "
            "again come out alike; all rows are labeled"
        )
        return None
    return previous


# --- after ---------------------------------------------------------------------------------------------------------------------------


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _show(summary: Summary, ready: Prepared, as_json: bool, talk: Talk) -> None:
    asked, labeler = ready.asked, ready.labeler
    speed = (summary.rows - summary.resumed) / max(summary.seconds, 1e-9)
    if as_json:
        facts = {
            **asdict(summary),
            "output": asked.output,
            "rows_per_second": speed,
            "variant": labeler.variant,
            "provider": labeler.provider,
        }
        json.dump(facts, sys.stdout, ensure_ascii=False)
        print()
        return
    talk.say(f"{summary.rows:,} rows labeled in {summary.seconds:.1f} s ({speed:,.0f} rows/s, {labeler.variant} on {labeler.provider})")
    if asked.previous:
        talk.say(f"{summary.taken_over:,} rows taken over from {asked.previous}, {summary.rows - summary.taken_over:,} labeled")
    if asked.min_confidence:
        talk.say(f"{summary.below:,} rows are below --min-confidence {asked.min_confidence:g}: their {PREDICTED} is null")
    if summary.cut:
        tokens = ready.adapter.manifest.max_tokens
        talk.warn(
            f"{summary.cut:,} of {summary.labeled:,} different texts have more than the {tokens} tokens that LoRA reads; the rest is cut."
        )
    if summary.short:
        talk.warn(f"{summary.short:,} rows have fewer cells than the header; the missing ones are taken as empty.")
    if summary.blank:
        talk.warn(f"{summary.blank:,} rows have no text; their category is a guess of low worth.")
    if asked.output != "-":
        talk.say(f"written: {asked.output}")
