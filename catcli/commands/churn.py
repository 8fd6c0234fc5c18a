"""``catcli compare A B --on CATALOG``: which rows would change category if the second adapter took the place of the first."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli import adapter as adapters
from catcli import places
from catcli.adapter import Adapter
from catcli.commands.predict import Asked as ToPredict
from catcli.commands.predict import predict
from catcli.commands.preparing import Reading
from catcli.commands.talk import Talk
from catcli.errors import GateMissed, OutputError, ProductsError, UsageError, listed
from catcli.evaluation.studies import Churn, Flow, Turnover
from catcli.products.batch import Batch
from catcli.products.columns import find
from catcli.products.read import ROWS, Source, open_source
from catcli.products.text import cells_of
from catcli.products.write import Form, filled, is_folder, is_pipe, output_form, writing
from catcli.reporting import sentences, tables
from catcli.runtime.pipeline import CONFIDENCE, PREDICTED

BEFORE, AFTER = "category_before", "category_after"
SURE_BEFORE, SURE_AFTER = "confidence_before", "confidence_after"
OURS = (BEFORE, AFTER, SURE_BEFORE, SURE_AFTER)

EXAMPLES = 3
"""Rows that are shown of each change."""


@dataclass(frozen=True)
class Asked:
    """What was asked for, as the options have it: the catalog, the column that rows count by, the limit, and where changed rows go."""

    on: str
    weight: str | None = None
    max_churn: float | None = None
    output: str | None = None
    text: Sequence[str] = ()
    device: str = "auto"
    variant: str = "auto"
    reading: Reading = field(default_factory=Reading)

    def check(self, names: Sequence[str], odd: Sequence[str] = ()) -> None:
        """Stop at what means nothing together; ``odd`` are options that were given and are of fits."""
        if odd:
            raise UsageError(f"{listed(odd)}: with --on two adapters are compared as they are and nothing is fitted; leave it out.")
        if len(names) != 2:
            raise UsageError(f"--on compares two adapters, the one in use and the one to take its place; {len(names)} were named.")
        if self.max_churn is not None and not 0 <= self.max_churn <= 1:
            raise UsageError(f"--max-churn {self.max_churn:g}: a share from 0 to 1, such as 0.02.")
        if self.output is not None and (is_pipe(self.output) or is_folder(self.output)):
            raise UsageError(f"-o {self.output}: name a file; it gets the rows that change.")


def churn(names: Sequence[str], asked: Asked, *, as_json: bool = False, talk: Talk | None = None) -> Churn:
    """Label the catalog with both adapters and tell what changes; no more of it is held than some batches.

    Raises:
        CatcliError: something that the user can mend.
        GateMissed: more changes than ``max_churn`` allows; it was shown all the same.
    """
    talk = talk or Talk.silent()
    asked.check(names)
    before, after = (adapters.named(name) for name in names)
    source = asked.reading.open([asked.on])
    if source.piped:
        raise UsageError("--on -: the catalog is read more than once; give it as a file.")
    weight = _weight_column(source, asked)
    form = _form(source, asked)
    with tempfile.TemporaryDirectory() as scratch:
        labeled = [_labeled(asked, adapter, Path(scratch) / f"{number}.parquet", talk) for number, adapter in enumerate((before, after))]
        counts = _Counts()
        changes = _changes(source, labeled, weight, counts)
        if asked.output is None:
            for _ in changes:
                pass
        else:
            _write(changes, asked.output, form)
    told = counts.told(before, after, source, asked)
    _show(told, asked, as_json, talk)
    if asked.max_churn is not None and told.share > asked.max_churn:
        by = f" by {weight}" if weight else ""
        raise GateMissed(
            f"{sentences.per_cent(told.share)} of {source.name}{by} would change category, above the {sentences.per_cent(asked.max_churn)} "
            f"that --max-churn allows; look at the rows with -o changed.csv before {after.folder} takes the place of {before.folder}."
        )
    return told


def _weight_column(source: Source, asked: Asked) -> str | None:
    if asked.weight is None:
        return None
    first = next(source.batches())
    column = find(asked.weight, first.columns, "--weight", source.name)
    _weights(first, column, source.name, 0)  # not after hours of labeling
    return column


def _form(source: Source, asked: Asked) -> Form:
    """How the changed rows are written; stops at a place that cannot take them."""
    if asked.output is None:
        return Form("csv")
    taken = [name for name in OURS if name in next(source.batches(1)).columns]
    if taken:
        raise ProductsError(f"{source.name} already has {listed(taken)}, which -o {asked.output} would write; rename it first.")
    if Path(asked.output).resolve() in {path.resolve() for path in source.paths}:
        raise UsageError(f"-o {asked.output} is one of the inputs; write to another file.")
    if not Path(asked.output).absolute().parent.is_dir():
        raise OutputError(f"-o {asked.output}: there is no folder {Path(asked.output).parent}; make it with 'mkdir -p'.")
    return output_form(asked.output, None, source.format if source.format != "excel" else "csv")


def _labeled(asked: Asked, adapter: Adapter, file: Path, talk: Talk) -> Path:
    """A file with the category and the confidence of every row, and nothing else."""
    reading = asked.reading
    talk.say(f"labeling {asked.on} with {adapter.folder}")
    predict(
        [asked.on],
        ToPredict(
            str(file),
            str(adapter.folder),
            text=asked.text,
            device=asked.device,
            variant=asked.variant,
            keep="",
            replace_columns=True,
            input_format=reading.input_format,
            delimiter=reading.delimiter,
            encoding=reading.encoding,
        ),
        talk=Talk(quiet=talk.quiet, verbose=talk.verbose, bars_alone=True, out=Talk.silent().out),
    )
    return file


@dataclass(frozen=True)
class _Changed:
    """The changed rows of a batch, and our columns for them."""

    rows: Batch
    added: pl.DataFrame


def _changes(source: Source, labeled: Sequence[Path], weight: str | None, counts: _Counts) -> Iterator[_Changed]:
    """Read the catalog and both files of labels in step; count every row and give the changed ones."""
    both = [_Rows(file) for file in labeled]
    done = 0
    for batch in source.batches():
        before, after = (one.take(len(batch)) for one in both)
        if min(len(before), len(after)) < len(batch):
            raise ProductsError(f"{source.name} was changed while it was read; run the same line again.")
        weights = np.ones(len(batch)) if weight is None else _weights(batch, weight, source.name, done)
        changed = np.flatnonzero((before[PREDICTED] != after[PREDICTED]).to_numpy())
        added = pl.DataFrame(
            {BEFORE: before[PREDICTED], AFTER: after[PREDICTED], SURE_BEFORE: before[CONFIDENCE], SURE_AFTER: after[CONFIDENCE]}
        )
        counts.add(added, weights, changed)
        done += len(batch)
        yield _Changed(batch.take(changed), added[changed])


class _Rows:
    """A file of labels, some rows at a time."""

    def __init__(self, file: Path) -> None:
        self._batches = (batch.frame for batch in open_source([str(file)]).batches(ROWS))
        self._left = pl.DataFrame()

    def take(self, count: int) -> pl.DataFrame:
        """The next ``count`` rows; fewer at the end."""
        parts = [self._left]
        while sum(map(len, parts)) < count and (more := next(self._batches, None)) is not None:
            parts.append(more)
        whole = pl.concat([part for part in parts if part.width], rechunk=True)
        self._left = whole[count:]
        return whole[:count]


def _weights(batch: Batch, column: str, where: str, done: int) -> npt.NDArray[np.float64]:
    """What rows count: numbers that are not negative, an empty cell counts nothing.

    Raises:
        ProductsError: a cell is something else.
    """
    cells = cells_of(batch.select([column]), column)
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


class _Counts:
    """Rows and weights by pair of categories; as many numbers as there are pairs."""

    def __init__(self) -> None:
        self.rows = self.changed = 0
        self.weight = self.changed_weight = 0.0
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.weights: Counter[tuple[str, str]] = Counter()

    def add(self, labels: pl.DataFrame, weights: npt.NDArray[np.float64], changed: npt.NDArray[np.int64]) -> None:
        """A batch's labels before and after, what its rows count, and which of them changed."""
        self.rows += len(labels)
        self.changed += len(changed)
        self.weight += float(weights.sum())
        self.changed_weight += float(weights[changed].sum())
        grouped = labels.select(BEFORE, AFTER).with_columns(weight=weights).group_by(BEFORE, AFTER).agg(pl.len(), pl.col("weight").sum())
        for one, other, rows, weight in grouped.iter_rows():
            self.pairs[one, other] += rows
            self.weights[one, other] += weight

    def told(self, before: Adapter, after: Adapter, source: Source, asked: Asked) -> Churn:
        """All of it, the largest changes first."""
        flows = [
            Flow(before=one, after=other, rows=rows, weight=self.weights[one, other])
            for (one, other), rows in self.pairs.items()
            if one != other
        ]
        whole = self.weight if asked.weight else self.rows
        moved = self.changed_weight if asked.weight else self.changed
        return Churn(
            before=str(before.folder),
            after=str(after.folder),
            on=source.name,
            rows=self.rows,
            changed=self.changed,
            weight_column=asked.weight,
            weight=self.weight if asked.weight else None,
            changed_weight=self.changed_weight if asked.weight else None,
            share=moved / whole if whole else 0.0,
            flows=tuple(sorted(flows, key=lambda flow: (-flow.weight, -flow.rows, flow.before, flow.after))),
            categories=self._turnovers(),
            output=asked.output,
        )

    def _turnovers(self) -> tuple[Turnover, ...]:
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
            Turnover(category=name, before=int(was), after=int(is_now), left=int(left), joined=int(joined), weight=weight)
            for name, (was, is_now, left, joined, weight) in found.items()
        )
        return tuple(sorted(told, key=lambda one: (-one.left - one.joined, -one.before, one.category)))


def _write(changes: Iterator[_Changed], out: str, form: Form) -> None:
    """The changed rows, all their columns, with both categories and confidences."""
    with writing(out, "-o"), places.whole(Path(out)) as place, place.open("wb") as file, filled(file, form) as sink:
        written = False
        for change in changes:
            if len(change.rows) or not written:
                sink.write(change.rows, change.rows.columns, change.added)
                written = True


def _show(told: Churn, asked: Asked, as_json: bool, talk: Talk) -> None:
    if as_json:
        print(told.model_dump_json())
        return
    if told.flows:
        talk.out.print(tables.flows(told))
        talk.out.print(tables.turnovers(told))
    talk.out.print(sentences.churn(told), soft_wrap=True)
    if asked.output:
        talk.out.print(f"these rows: {asked.output}", soft_wrap=True)
