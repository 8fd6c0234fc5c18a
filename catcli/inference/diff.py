"""``catcli diff``: which rows would change category if the second adapter took the place of the first."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.adapter.folder import Adapter
from catcli.adapter.store import find_adapter
from catcli.atomic import atomic_write
from catcli.data.dataset.column_mapping import map_text_columns, price_columns
from catcli.data.dataset.columns import find_column, similar_columns
from catcli.data.dataset.text import column_cells
from catcli.data.dataset.weights import parse_weights
from catcli.data.io.batch import Batch
from catcli.data.io.output import FileFormat, check_folder, file_format, write_errors
from catcli.data.io.source import SHARD_ROWS, Source
from catcli.data.io.writers import RowWriter, open_writer
from catcli.errors import GateMissed, ProductsError, UsageError, name_list
from catcli.evaluation.studies import CatalogDiff, CategoryChange, CategoryTurnover
from catcli.inference.diff_options import DiffOptions
from catcli.inference.engines import ThreadEngine
from catcli.inference.labeler import Labeler
from catcli.inference.planning import LabelingPlan
from catcli.inference.result_columns import CONFIDENCE, PREDICTED
from catcli.inference.shards import LabeledRows, ShardOptions, ShardResult
from catcli.logs import LOGGER, Advance, log_event, no_progress
from catcli.paths import display_path
from catcli.wording import per_cent

BEFORE, AFTER = "category_before", "category_after"
CONFIDENCE_BEFORE, CONFIDENCE_AFTER = "confidence_before", "confidence_after"
OURS = (BEFORE, AFTER, CONFIDENCE_BEFORE, CONFIDENCE_AFTER)


def diff(
    before: str,
    after: str,
    catalog: Sequence[str],
    options: DiffOptions | None = None,
    *,
    advance: Advance = no_progress,
    on_result: Callable[[CatalogDiff], None] = lambda _: None,
) -> CatalogDiff:
    """Label the catalog with the adapters ``before`` and ``after`` at once and count what changes; memory holds some batches.

    ``on_result`` is called before ``--max-churn`` is checked.

    Raises:
        CatcliError: something that the user can fix.
        GateMissed: more changes than ``max_churn`` allows.
    """
    options = options or DiffOptions()
    options.check()
    adapters = find_adapter(before), find_adapter(after)
    source = options.open(catalog)
    if source.piped and options.weight:
        raise UsageError("--weight: the weights are looked at before anything is labeled; give the catalog as a file, not through a pipe.")
    weight, output_format = _weight_column(source, options), _output_format(source, options)
    batches = source.batches(SHARD_ROWS)
    first = next(batches)
    readers = _readers(source, first, adapters, options)
    counts = _DiffCounts()
    with _changed_rows(options.output, output_format) as writer:
        output = _DiffOutput(weight, source.name, counts, writer)
        for labeled, again in _label_twice(readers, source, itertools.chain([first], batches)):
            if labeled.note:
                LOGGER.warning(labeled.note)
            output.write(cast(LabeledRows, labeled.labeled), cast(LabeledRows, again.labeled))
            advance("labeling twice", counts.rows, counts.rows / labeled.share if labeled.share else counts.rows)
    if options.max_churn is not None and not counts.rows:
        raise ProductsError(f"{source.name} has no rows, so --max-churn has nothing to check; name a catalog with rows.")
    result = counts.result(adapters, source, options)
    log_event("compared", rows=result.rows, changed=result.changed, adapters=[adapter.fingerprint for adapter in adapters])
    on_result(result)
    _check_churn(result, adapters, options)
    return result


def _check_churn(result: CatalogDiff, adapters: tuple[Adapter, Adapter], options: DiffOptions) -> None:
    if options.max_churn is None or result.share <= options.max_churn:
        return
    by = f" by {result.weight_column}" if result.weight_column else ""
    look = f"look at {options.output}" if options.output else "look at the rows with -o changed.csv"
    raise GateMissed(
        f"{per_cent(result.share)} of {result.on}{by} would change category, above the {per_cent(options.max_churn)} that --max-churn "
        f"allows; {look} before {adapters[1].folder} takes the place of {adapters[0].folder}."
    )


def _weight_column(source: Source, options: DiffOptions) -> str | None:
    """The column that rows count by, after all of its cells were looked at: not after hours of labeling."""
    if options.weight is None:
        return None
    column, rows, total = None, 0, 0.0
    for batch in source.batches():
        column = column or find_column(options.weight, batch.columns, "--weight", source.name)
        total += float(_weights(batch, column, source.name, rows).sum())
        rows += len(batch)
    if rows and not total:
        raise ProductsError(f"{source.name}: {column!r} adds up to 0, so shares of it are undefined; choose another column with --weight.")
    return column


def _output_format(source: Source, options: DiffOptions) -> FileFormat:
    """How the changed rows are written.

    Raises:
        CatcliError: they cannot be written there.
    """
    if options.output is None:
        return FileFormat("csv")
    if Path(options.output).resolve() in {path.resolve() for path in source.paths if isinstance(path, Path)}:
        raise UsageError(f"-o {options.output} is one of the inputs; write to another file.")
    check_folder(Path(options.output))
    try:
        return file_format(options.output, None)
    except UsageError as error:
        raise UsageError(f"-o {options.output}: name a file that ends in .csv, .tsv, .jsonl, .parquet or .arrow.") from error


@contextmanager
def _changed_rows(out: str | None, output_format: FileFormat) -> Iterator[RowWriter | None]:
    """The file of the changed rows, complete at the end or not there; None where none was asked for."""
    if out is None:
        yield None
        return
    with write_errors(out, "-o"), atomic_write(Path(out)) as path, path.open("wb") as file, open_writer(file, output_format) as writer:
        yield writer


@dataclass(frozen=True)
class _DiffReader:
    """An adapter, loaded, and what it reads of the catalog."""

    engine: ThreadEngine
    plan: LabelingPlan


def _readers(source: Source, first: Batch, adapters: Sequence[Adapter], options: DiffOptions) -> list[_DiffReader]:
    """Both adapters, each with the mappings of ``--text`` that it has columns for."""
    types = first.types
    if options.output:
        taken = [name for name in OURS if name in types]
        if taken:
            raise ProductsError(f"{source.name} already has {name_list(taken)}, which -o {options.output} would write; rename it first.")
    trained = list(dict.fromkeys(column for adapter in adapters for column in adapter.manifest.text))
    for pair in options.text:
        find_column(pair.partition("=")[0], trained, "--text", "neither adapter")
    plans = []
    for adapter in adapters:
        manifest = adapter.manifest
        mappings = [pair for pair in options.text if similar_columns(pair.partition("=")[0], manifest.text) or "=" not in pair]
        text = map_text_columns(source.name, types, manifest, mappings, allow_missing=options.allow_missing)
        plans.append(LabelingPlan(text, prices=price_columns(manifest, text)))
    engines = [ThreadEngine(Labeler(adapter, options.device, options.variant)) for adapter in adapters]
    for note in (note for engine in engines for note in engine.notes):
        LOGGER.warning(note)
    return [_DiffReader(engine, plan) for engine, plan in zip(engines, plans, strict=True)]


def _label_twice(readers: Sequence[_DiffReader], source: Source, batches: Iterator[Batch]) -> Iterator[tuple[ShardResult, ShardResult]]:
    """The rows as labeled by both adapters; the second labels what the first has labeled."""
    first, second = readers
    waiting: deque[ShardResult] = deque()

    def labeled_by_first() -> Iterator[Batch]:
        for result in first.engine.label_shards(source, batches, ShardOptions(first.engine.categories, first.plan)):
            waiting.append(result)
            yield cast(LabeledRows, result.labeled).rows

    for result in second.engine.label_shards(source, labeled_by_first(), ShardOptions(second.engine.categories, second.plan)):
        yield waiting.popleft(), result


class _DiffOutput:
    """Where rows with both adapters' labels go: counted, and written where these differ."""

    def __init__(self, weight: str | None, source_name: str, counts: _DiffCounts, writer: RowWriter | None) -> None:
        self._weight, self._where, self._counts, self._writer = weight, source_name, counts, writer
        self._header = False

    def write(self, before: LabeledRows, after: LabeledRows) -> None:
        """The same rows with the labels of either adapter."""
        rows = before.rows
        weights = None if self._weight is None else _weights(rows, self._weight, self._where, self._counts.rows)
        result = pl.DataFrame(
            {
                BEFORE: before.added[PREDICTED],
                AFTER: after.added[PREDICTED],
                CONFIDENCE_BEFORE: before.added[CONFIDENCE],
                CONFIDENCE_AFTER: after.added[CONFIDENCE],
            }
        )
        changed = np.flatnonzero((result[BEFORE] != result[AFTER]).to_numpy())
        self._counts.add(result, np.ones(len(rows)) if weights is None else weights)
        if self._writer is not None and (len(changed) or not self._header):
            self._writer.write(rows.take(changed), rows.columns, result[changed])
            self._header = True


def _weights(batch: Batch, column: str, source_name: str, done: int) -> npt.NDArray[np.float64]:
    """What rows count: numbers that are not negative, an empty cell counts nothing.

    Raises:
        ProductsError: a cell is something else.
    """
    cells = column_cells(batch.select([column]), column)
    if cells.dtype.is_nested():
        raise ProductsError(f"{source_name}: the cells of {column!r} are {cells.dtype}, no numbers; choose another column with --weight.")
    weights, invalid = parse_weights(cells)
    if invalid.any():
        index = int(invalid.arg_max() or 0)
        written = cells.cast(pl.String).str.strip_chars()
        raise ProductsError(
            f"{source_name}: {column!r} of row {done + index + 1:,} is {written[index][:40]!r}, no number from 0 on; choose another column "
            "with --weight, or write its numbers plainly, such as 1234.50."
        )
    return weights.to_numpy()


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
        for before, after, rows, weight in grouped.iter_rows():
            self.pairs[before, after] += rows
            self.weights[before, after] += weight

    def result(self, adapters: tuple[Adapter, Adapter], source: Source, options: DiffOptions) -> CatalogDiff:
        """The result, the largest changes first."""
        flows = [
            CategoryChange(before=before, after=after, rows=rows, weight=self.weights[before, after])
            for (before, after), rows in self.pairs.items()
            if before != after
        ]
        # Where no column was named a row counts one, so these are numbers of rows.
        total, moved = sum(self.weights.values()), sum(flow.weight for flow in flows)
        return CatalogDiff(
            before=display_path(adapters[0].folder),
            after=display_path(adapters[1].folder),
            on=source.name,
            rows=self.rows,
            changed=sum(flow.rows for flow in flows),
            weight_column=options.weight,
            weight=total if options.weight else None,
            changed_weight=moved if options.weight else None,
            share=moved / total if total else 0.0,
            flows=tuple(sorted(flows, key=lambda flow: (-flow.weight, -flow.rows, flow.before, flow.after))),
            categories=self._turnovers(),
            output=options.output,
        )

    def _turnovers(self) -> tuple[CategoryTurnover, ...]:
        counts: dict[str, list[float]] = {}
        for (before, after), rows in self.pairs.items():
            weight = self.weights[before, after]
            for name, index in ((before, 0), (after, 1)):
                numbers = counts.setdefault(name, [0, 0, 0, 0, 0.0])
                numbers[index] += rows
                if before != after:
                    numbers[2 + index] += rows
                    numbers[4] += weight
        turnovers = (
            CategoryTurnover(category=name, before=int(was), after=int(is_now), left=int(left), joined=int(joined), weight=weight)
            for name, (was, is_now, left, joined, weight) in counts.items()
        )
        return tuple(sorted(turnovers, key=lambda turnover: (-turnover.left - turnover.joined, -turnover.before, turnover.category)))
