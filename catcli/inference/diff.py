"""``catcli compare A B --on CATALOG``: which rows would change category if the second adapter took the place of the first."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.adapter.folder import Adapter
from catcli.adapter.store import find_adapter
from catcli.atomic import atomic_write
from catcli.commands.predict import with_notes as told_notes
from catcli.config import check_device
from catcli.data.dataset.column_mapping import map_text_columns, price_columns
from catcli.data.dataset.columns import find_column, similar_columns
from catcli.data.dataset.prepare import InputOptions
from catcli.data.dataset.text import column_cells
from catcli.data.io.batch import Batch
from catcli.data.io.output import FileFormat, check_folder, file_format, write_errors
from catcli.data.io.source import BATCH_ROWS, Source
from catcli.data.io.writers import RowWriter, open_writer
from catcli.errors import GateMissed, ProductsError, UsageError, name_list
from catcli.evaluation.studies import CatalogDiff, CategoryChange, CategoryTurnover
from catcli.inference.labeler import Labeler
from catcli.inference.pipeline import label_locally, local_engine, run_pipeline
from catcli.inference.planning import BatchPlanner, LabelingPlan
from catcli.inference.result_columns import CONFIDENCE, PREDICTED
from catcli.inference.results import KnownLabels
from catcli.paths import display_path, is_folder, is_pipe
from catcli.reporting import sentences, tables
from catcli.talk import Talk
from catcli.wording import per_cent

BEFORE, AFTER = "category_before", "category_after"
SURE_BEFORE, SURE_AFTER = "confidence_before", "confidence_after"
OURS = (BEFORE, AFTER, SURE_BEFORE, SURE_AFTER)


@dataclass(frozen=True)
class DiffOptions:
    """What was asked for, as the options have it: the catalog, the column that rows count by, the limit, and where changed rows go."""

    on: str
    weight: str | None = None
    max_churn: float | None = None
    output: str | None = None
    text: Sequence[str] = ()
    allow_missing: bool = False
    device: str = "auto"
    variant: str = "auto"
    reading: InputOptions = field(default_factory=InputOptions)

    def check(self, names: Sequence[str], odd: Sequence[str] = ()) -> None:
        """Stop at what means nothing together; ``odd`` are options that were given and are of fits."""
        check_device(self.device)
        if odd:
            raise UsageError(f"{name_list(odd)}: with --on two adapters are compared as they are and nothing is fitted; leave it out.")
        if len(names) != 2:
            raise UsageError(f"--on compares two adapters, the one in use and the one to take its place; {len(names)} were named.")
        if self.max_churn is not None and not 0 <= self.max_churn <= 1:
            raise UsageError(f"--max-churn {self.max_churn:g}: a share from 0 to 1, such as 0.02.")
        if self.output is not None and (is_pipe(self.output) or is_folder(self.output)):
            raise UsageError(f"-o {self.output}: name a file; it gets the rows that change.")


def diff_adapters(names: Sequence[str], asked: DiffOptions, *, as_json: bool = False, talk: Talk | None = None) -> CatalogDiff:
    """Label the catalog with both adapters at once and tell what changes; no more of it is held than some batches.

    Raises:
        CatcliError: something that the user can mend.
        GateMissed: more changes than ``max_churn`` allows; it was shown all the same.
    """
    talk = talk or Talk.silent()
    asked.check(names)
    before, after = (find_adapter(name) for name in names)
    source = asked.reading.open([asked.on])
    if source.piped and asked.weight:
        raise UsageError("--on - with --weight: the weights are looked at before anything is labeled; give the catalog as a file.")
    weight = _weight_column(source, asked)
    form = _form(source, asked)
    batches = source.batches(BATCH_ROWS)
    first = next(batches)
    readers = _readers(source, first, (before, after), asked, talk)
    counts = _DiffCounts()
    with _changed_rows(asked.output, form) as sink, talk.progress() as bar:
        comparing = _DiffOutput(readers[1], weight, source.name, counts, sink)

        def advance(rows: int, share: float) -> None:
            bar("labeling twice", rows, rows / share if share else rows)

        rows = told_notes(itertools.chain([first], batches), talk)
        run_pipeline(local_engine(rows, readers[0].labeler), comparing, readers[0].labeler, readers[0].plan, advance)
    if asked.max_churn is not None and not counts.rows:
        raise ProductsError(f"{source.name} has no rows, and a gate that looked at nothing says nothing; name a catalog with rows.")
    told = counts.told(before, after, source, asked)
    talk.record("compared", rows=told.rows, changed=told.changed, adapters=[before.fingerprint, after.fingerprint])
    _show(told, asked, as_json, talk)
    if asked.max_churn is not None and told.share > asked.max_churn:
        by = f" by {weight}" if weight else ""
        look = f"look at {asked.output}" if asked.output else "look at the rows with -o changed.csv"
        raise GateMissed(
            f"{per_cent(told.share)} of {source.name}{by} would change category, above the {per_cent(asked.max_churn)} "
            f"that --max-churn allows; {look} before {after.folder} takes the place of {before.folder}."
        )
    return told


def _weight_column(source: Source, asked: DiffOptions) -> str | None:
    """The column that rows count by, after all of its cells were looked at: not after hours of labeling."""
    if asked.weight is None:
        return None
    column, rows, whole = None, 0, 0.0
    for batch in source.batches():
        column = column or find_column(asked.weight, batch.columns, "--weight", source.name)
        whole += float(_weights(batch, column, source.name, rows).sum())
        rows += len(batch)
    if rows and not whole:
        raise ProductsError(f"{source.name}: {column!r} adds up to 0, so no share of it can be told; choose another column with --weight.")
    return column


def _form(source: Source, asked: DiffOptions) -> FileFormat:
    """How the changed rows are written; stops at a place that cannot take them."""
    if asked.output is None:
        return FileFormat("csv")
    if Path(asked.output).resolve() in {path.resolve() for path in source.paths if isinstance(path, Path)}:
        raise UsageError(f"-o {asked.output} is one of the inputs; write to another file.")
    check_folder(Path(asked.output))
    try:
        return file_format(asked.output, None)
    except UsageError as error:
        raise UsageError(f"-o {asked.output}: name a file that ends in .csv, .tsv, .jsonl, .parquet or .arrow.") from error


@contextmanager
def _changed_rows(out: str | None, form: FileFormat) -> Iterator[RowWriter | None]:
    """The file of the changed rows, whole at the end or not there; None where none was asked for."""
    if out is None:
        yield None
        return
    with write_errors(out, "-o"), atomic_write(Path(out)) as place, place.open("wb") as file, open_writer(file, form) as sink:
        yield sink


@dataclass(frozen=True)
class _DiffReader:
    """An adapter, loaded, and what it reads of the catalog."""

    labeler: Labeler
    plan: LabelingPlan


def _readers(source: Source, first: Batch, chosen: Sequence[Adapter], asked: DiffOptions, talk: Talk) -> list[_DiffReader]:
    """Both adapters, each with the mappings of ``--text`` that it has columns for."""
    types = first.types
    if asked.output:
        taken = [name for name in OURS if name in types]
        if taken:
            raise ProductsError(f"{source.name} already has {name_list(taken)}, which -o {asked.output} would write; rename it first.")
    trained = list(dict.fromkeys(column for adapter in chosen for column in adapter.manifest.text))
    for pair in asked.text:
        find_column(pair.partition("=")[0], trained, "--text", "neither adapter")
    plans = []
    for adapter in chosen:
        manifest = adapter.manifest
        mine = [pair for pair in asked.text if similar_columns(pair.partition("=")[0], manifest.text) or "=" not in pair]
        text = map_text_columns(source.name, types, manifest, mine, allow_missing=asked.allow_missing, talk=talk)
        plans.append(LabelingPlan(text, prices=price_columns(manifest, text)))
    labelers = [Labeler(adapter, asked.device, asked.variant) for adapter in chosen]
    for note in (note for labeler in labelers for note in labeler.notes):
        talk.warn(note)
    return [_DiffReader(labeler, plan) for labeler, plan in zip(labelers, plans, strict=True)]


class _DiffOutput:
    """Where the rows that the first adapter has labeled go: labeled with the second too, counted, and written where they differ."""

    by_input = False

    def __init__(self, second: _DiffReader, weight: str | None, where: str, counts: _DiffCounts, sink: RowWriter | None) -> None:
        self._second, self._weight, self._where, self._counts, self._sink = second, weight, where, counts, sink
        self._planner, self._known = BatchPlanner(second.plan, second.labeler.texts), KnownLabels(1)
        self._names = pl.Series(second.labeler.categories, dtype=pl.String)
        self._header = False

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """A batch, with what the first adapter said of it."""
        [(work, labels)] = label_locally([self._planner.plan(rows)], self._second.labeler, 1)
        classes, confidences = (found[:, 0] for found in self._known.of_rows(work, labels))
        weights = None if self._weight is None else _weights(rows, self._weight, self._where, self._counts.rows)
        ours = pl.DataFrame(
            {
                BEFORE: added[PREDICTED],
                AFTER: self._names.gather(classes),
                SURE_BEFORE: added[CONFIDENCE],
                SURE_AFTER: pl.Series(confidences),
            }
        )
        changed = np.flatnonzero((ours[BEFORE] != ours[AFTER]).to_numpy())
        self._counts.add(ours, np.ones(len(rows)) if weights is None else weights)
        if self._sink is not None and (len(changed) or not self._header):
            self._sink.write(rows.take(changed), keep, ours[changed])
            self._header = True

    def finish_part(self, rows: int) -> None:
        """Nothing to do: what was counted stays."""

    def keep(self, state: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """The same."""


def _weights(batch: Batch, column: str, where: str, done: int) -> npt.NDArray[np.float64]:
    """What rows count: numbers that are not negative, an empty cell counts nothing.

    Raises:
        ProductsError: a cell is something else.
    """
    cells = column_cells(batch.select([column]), column)
    if cells.dtype.is_nested():
        raise ProductsError(f"{where}: the cells of {column!r} are {cells.dtype}, no numbers; choose another column with --weight.")
    written = cells.cast(pl.String).str.strip_chars().fill_null("")
    found = written.cast(pl.Float64, strict=False)
    wrong = (written != "") & (found.is_null() | found.is_nan().fill_null(False) | ~found.is_between(0, 1e300).fill_null(False))
    if wrong.any():
        place = int(wrong.arg_max() or 0)
        raise ProductsError(
            f"{where}: {column!r} of row {done + place + 1:,} is {written[place][:40]!r}, no number from 0 on; choose another column "
            "with --weight, or write its numbers plainly, such as 1234.50."
        )
    return found.fill_null(0.0).to_numpy()


class _DiffCounts:
    """Rows and weights by pair of categories; as many numbers as there are pairs."""

    def __init__(self) -> None:
        self.rows = 0
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.weights: Counter[tuple[str, str]] = Counter()

    def add(self, labels: pl.DataFrame, weights: npt.NDArray[np.float64]) -> None:
        """A batch's labels before and after, and what its rows count."""
        self.rows += len(labels)
        grouped = labels.select(BEFORE, AFTER).with_columns(weight=weights).group_by(BEFORE, AFTER).agg(pl.len(), pl.col("weight").sum())
        for one, other, rows, weight in grouped.iter_rows():
            self.pairs[one, other] += rows
            self.weights[one, other] += weight

    def told(self, before: Adapter, after: Adapter, source: Source, asked: DiffOptions) -> CatalogDiff:
        """All of it, the largest changes first."""
        flows = [
            CategoryChange(before=one, after=other, rows=rows, weight=self.weights[one, other])
            for (one, other), rows in self.pairs.items()
            if one != other
        ]
        # Where no column was named a row counts one, so these are numbers of rows.
        whole, moved = sum(self.weights.values()), sum(flow.weight for flow in flows)
        return CatalogDiff(
            before=display_path(before.folder),
            after=display_path(after.folder),
            on=source.name,
            rows=self.rows,
            changed=sum(flow.rows for flow in flows),
            weight_column=asked.weight,
            weight=whole if asked.weight else None,
            changed_weight=moved if asked.weight else None,
            share=moved / whole if whole else 0.0,
            flows=tuple(sorted(flows, key=lambda flow: (-flow.weight, -flow.rows, flow.before, flow.after))),
            categories=self._turnovers(),
            output=asked.output,
        )

    def _turnovers(self) -> tuple[CategoryTurnover, ...]:
        found: dict[str, list[float]] = {}
        for (one, other), rows in self.pairs.items():
            weight = self.weights[one, other]
            for name, place in ((one, 0), (other, 1)):
                numbers = found.setdefault(name, [0, 0, 0, 0, 0.0])
                numbers[place] += rows
                if one != other:
                    numbers[2 + place] += rows
                    numbers[4] += weight
        told = (
            CategoryTurnover(category=name, before=int(was), after=int(is_now), left=int(left), joined=int(joined), weight=weight)
            for name, (was, is_now, left, joined, weight) in found.items()
        )
        return tuple(sorted(told, key=lambda one: (-one.left - one.joined, -one.before, one.category)))


def _show(told: CatalogDiff, asked: DiffOptions, as_json: bool, talk: Talk) -> None:
    if as_json:
        talk.result(told.model_dump_json())
        return
    if told.flows:
        talk.out.print(tables.change_table(told))
        talk.out.print(tables.turnover_table(told))
    talk.out.print(sentences.diff_summary(told), soft_wrap=True)
    if asked.output:
        talk.out.print(f"these rows: {asked.output}", soft_wrap=True)
