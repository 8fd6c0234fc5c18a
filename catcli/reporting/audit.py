"""``catcli audit``: labeled rows whose category is probably wrong, near-equal rows with different labels, categories that may be one.

What a label is held against are probabilities of models that have not seen the row: of an adapter's folds, or of linear models that are
trained for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from catcli.adapter.manifest import Manifest
from catcli.adapter.store import find_adapter
from catcli.arrays import FloatArray, IntArray
from catcli.atomic import atomic_write
from catcli.data.dataset.categories import Categories, has_label
from catcli.data.dataset.columns import choose_columns
from catcli.data.dataset.examples import Examples, category_name_examples
from catcli.data.dataset.gather import gather_rows
from catcli.data.dataset.near_equal import MIN_WORDS, folded_texts
from catcli.data.dataset.prepare import select_labeled_rows
from catcli.data.dataset.reviewed import CATEGORY, GROUP, GROUP_ROWS, REVIEW_COLUMNS, SUGGESTIONS, known_names
from catcli.data.dataset.split import assign_folds, product_keys
from catcli.data.dataset.text import column_cells, row_texts
from catcli.data.io.batch import Batch
from catcli.data.io.output import check_folder, write_errors
from catcli.data.io.source import Source
from catcli.data.io.writers import open_writer
from catcli.errors import ProductsError, UsageError
from catcli.evaluation.blend import blend_logits, calibrate
from catcli.evaluation.calibration import fit_calibration
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.evaluation.label_errors import LabelErrors, find_label_errors, find_overlaps
from catcli.evaluation.studies import Audit, CategoryOverlap, LabelConflict, Suspect
from catcli.inference.ngrams import Ngrams
from catcli.inference.output_checks import check_not_filled_in, format_to_fill_in
from catcli.inference.review import catalog_name
from catcli.logs import LOGGER
from catcli.paths import display_path
from catcli.reporting.audit_options import AuditOptions
from catcli.reporting.scoring import scored_rows
from catcli.wording import count_noun

FOLDS = 5

SEED = 0

MAX_ROWS, MAX_LOGITS = 200_000, 20_000_000
"""Labeled rows that are looked at, and these times categories: 80 MB for each matrix of logits. Of more a sample is."""

MAX_CELLS = 4_000_000
"""Similarities that are computed at once."""

SIMILAR = 2
"""Rows that are shown beside one in doubt."""

FILLED_IN = "-o", "fit --corrections"
"""The option that names the file to fill in, and what takes it then."""

LABEL_PROBABILITY, SIMILAR_ROWS = "label_probability", "similar"
"""Columns of the file to fill in, beside those of a review."""


@dataclass(frozen=True)
class AuditedRows:
    """Labeled rows of ``source``: their columns in ``frame``, ``texts``, ``labels`` and product ``keys`` *(rows,)*.

    ``places`` *(rows,)* are their numbers in the file, from 1.

    ``numbers`` are those of the rows that a model of other rows has scored, whose ``logits`` and ``probabilities`` *(numbers, names)*
    ``by`` gave.
    """

    source: str
    by: str
    frame: pl.DataFrame
    places: IntArray
    texts: list[str]
    labels: list[str]
    keys: list[str]
    names: Sequence[str]
    numbers: IntArray
    logits: FloatArray
    probabilities: FloatArray
    classes: IntArray = field(init=False)

    def __post_init__(self) -> None:
        """Number the labels."""
        object.__setattr__(self, "classes", Categories(tuple(self.names)).numbers(self.labels))


def audit(products: Sequence[str], options: AuditOptions, on_result: Callable[[Audit], None] = lambda _: None) -> Audit:
    """Find the labels that a person should look at, and write the file to fill in.

    Raises:
        CatcliError: something that the user can fix; nothing was written.
    """
    options.check(products)
    source = options.open(products) if products else None
    if options.output:
        _check_output(options.output, source)
    rows = _rows_of_adapter(source, options) if options.adapter else _rows_of_file(source, options)
    if not len(rows.numbers):
        raise ProductsError(f"no row of {rows.source} can be held against other rows of its category; give more labeled rows.")
    errors = find_label_errors(rows.probabilities, rows.classes[rows.numbers], rows.logits)
    conflicts = find_conflicts(rows)
    result = Audit(
        on=rows.source,
        by=rows.by,
        rows=len(rows.labels),
        scored=len(rows.numbers),
        expected=errors.expected,
        suspects=_suspects(rows, errors),
        conflicts=tuple(_conflict(rows, group) for group in conflicts),
        overlaps=tuple(
            CategoryOverlap(first=rows.names[pair.first], second=rows.names[pair.second], rows=pair.rows, overlap=pair.overlap)
            for pair in find_overlaps(rows.probabilities, rows.classes[rows.numbers])
        ),
        output=options.output,
    )
    if options.output:
        _write(rows, errors, result, conflicts, options.output)
    on_result(result)
    return result


def _check_output(out: str, source: Source | None) -> None:
    check_folder(Path(out))
    format_to_fill_in(out, "-o")
    if source is not None and Path(out).resolve() in [path.resolve() for path in source.paths if isinstance(path, Path)]:
        raise UsageError(f"-o {out} is read by this run; name another file.")
    check_not_filled_in(out, *FILLED_IN)


# --- rows and what models of other rows say of them ----------------------------------------------------------------------------------


def _rows_of_file(source: Source | None, options: AuditOptions) -> AuditedRows:
    """The labeled rows of a file, and what linear models say of those that they have not seen."""
    from catcli.training.linear import out_of_fold_logits

    if source is None:
        raise UsageError("audit needs labeled rows; name a file.")
    gathered = gather_rows(source, options.label, options.text, None, SEED)
    if not gathered.read:
        raise ProductsError(f"{source.name} has no rows; give a file with labeled rows.")
    columns = choose_columns(gathered.frame, options.label, options.text, options.group, source.name)
    labeled = select_labeled_rows(gathered, columns, source.name, merge=options.merge_labels)
    is_labeled, names = has_label(column_cells(gathered.frame, columns.label)), labeled.categories.names
    chosen = _sample(len(labeled.texts), len(names))
    places = is_labeled.arg_true().to_numpy().astype(np.int64)[chosen]
    texts, keys, classes = [labeled.texts[row] for row in chosen], [labeled.keys[row] for row in chosen], labeled.classes[chosen]
    LOGGER.info(f"{FOLDS} linear models of the rows are trained, each on all but a fifth of the products")
    logits, numbers = out_of_fold_logits(
        Examples.of(texts, classes), assign_folds(keys, classes, FOLDS, SEED), category_name_examples(names), len(names), SEED
    )
    in_order = np.argsort(numbers)
    logits, numbers = logits[in_order], numbers[in_order]
    probabilities = calibrate(logits, fit_calibration(logits, classes[numbers])) if len(numbers) else logits
    labels, frame = [names[number] for number in classes], gathered.frame[places]
    return AuditedRows(source.name, "linear models", frame, places + 1, texts, labels, keys, names, numbers, logits, probabilities)


def _sample(rows: int, categories: int) -> IntArray:
    """The numbers of the rows that are looked at: all, or of very many a random sample."""
    limit = min(MAX_ROWS, MAX_LOGITS // categories)
    if rows <= limit:
        return np.arange(rows)
    LOGGER.warning(f"a random sample of {limit:,} of {rows:,} labeled rows is looked at; give a part of them for more.")
    return np.sort(np.random.default_rng(SEED).permutation(rows)[:limit])


def _rows_of_adapter(source: Source | None, options: AuditOptions) -> AuditedRows:
    """What the models of an adapter's fit said of rows that they had not seen: of those that it kept, or those of them in a file."""
    adapter = find_adapter(options.adapter or "")
    manifest, name = adapter.manifest, display_path(adapter.folder)
    kept, by_model = scored_rows(adapter, FitMetrics.of(adapter).variant)
    if not kept.has_texts:
        raise UsageError(f"--adapter {name} was exported without its rows; name the adapter that the fit made, or leave it out.")
    probabilities, logits = by_model["blend"], blend_logits(kept.lora, kept.linear, manifest.blend)
    if source is None:
        first, *others = manifest.text
        columns = {first: kept.texts, **{other: [None] * len(kept.texts) for other in others}}
        labels = [manifest.categories[number] for number in kept.classes]
        frame = pl.DataFrame({**columns, manifest.label: labels}, schema_overrides=dict.fromkeys(columns, pl.String))
        keys = product_keys(kept.texts, None)
        everything = np.arange(len(kept.texts))
        names = manifest.categories
        return AuditedRows(name, name, frame, everything + 1, kept.texts, labels, keys, names, everything, logits, probabilities)
    read = source.read().frame
    columns_read = choose_columns(read, options.label or manifest.label, options.text or manifest.text, options.group, source.name)
    places = has_label(column_cells(read, columns_read.label)).arg_true().to_numpy().astype(np.int64)
    frame = read[places]
    texts = row_texts(frame, columns_read.text, manifest.prices)
    labels = _as_in_the_adapter(column_cells(frame, columns_read.label).cast(pl.String).to_list(), manifest, merge=options.merge_labels)
    place = {text: number for number, text in enumerate(kept.texts)}
    known = set(manifest.categories)
    numbers = np.array([row for row, text in enumerate(texts) if text in place and labels[row] in known], np.int64)
    if len(numbers) < len(frame):
        LOGGER.warning(f"{count_noun(len(frame) - len(numbers), 'row')} of {source.name} that {name} has no scores of are left out.")
    keys = product_keys(texts, column_cells(frame, columns_read.group) if columns_read.group else None)
    chosen = np.array([place[texts[row]] for row in numbers], np.int64)
    given = source.name, name, frame, places + 1, texts, labels, keys, manifest.categories, numbers
    return AuditedRows(*given, logits[chosen], probabilities[chosen])


def _as_in_the_adapter(labels: list[str], manifest: Manifest, *, merge: bool) -> list[str]:
    """The labels as the adapter spells them: identifiers of its taxonomy, and with ``merge`` other case and blanks, are its categories."""
    by_id = {identifier: name for name, identifier in manifest.category_ids.items()}
    spelled = known_names(manifest.categories, merge=merge)
    known = set(manifest.categories)
    found = {label: label if label in known else by_id.get(label) or spelled(label) or label for label in set(labels)}
    return [found[label] for label in labels]


# --- what is in doubt ----------------------------------------------------------------------------------------------------------------


def find_conflicts(rows: AuditedRows) -> list[list[int]]:
    """The numbers of rows that are near-equal and have different labels, group by group, the largest first."""
    groups: dict[str, list[int]] = {}
    for number, folded in enumerate(folded_texts(pl.Series(rows.texts, dtype=pl.String)).to_list()):
        if folded.count(" ") >= MIN_WORDS - 1:  # different labels of fewer words are no conflict
            groups.setdefault(folded, []).append(number)
    torn = [group for group in groups.values() if len({rows.labels[number] for number in group}) > 1]
    return sorted(torn, key=lambda group: (-len(group), group[0]))


def _conflict(rows: AuditedRows, group: Sequence[int]) -> LabelConflict:
    labels = dict(Counter(rows.labels[number] for number in group).most_common())
    return LabelConflict(rows=tuple(int(rows.places[number]) for number in group), text=rows.texts[group[0]], labels=labels)


def _suspects(rows: AuditedRows, errors: LabelErrors) -> tuple[Suspect, ...]:
    similar = _similar_rows(rows, errors)
    suspects = []
    for place, others in zip(errors.suspects.tolist(), similar, strict=True):
        number, suggested = int(rows.numbers[place]), int(errors.suggested[place])
        suspects.append(
            Suspect(
                row=int(rows.places[number]),
                text=rows.texts[number],
                label=rows.labels[number],
                label_probability=float(rows.probabilities[place, rows.classes[number]]),
                suggested=rows.names[suggested],
                suggested_probability=float(rows.probabilities[place, suggested]),
                similar=tuple(rows.texts[other] for other in others),
            )
        )
    return tuple(suspects)


def _similar_rows(rows: AuditedRows, errors: LabelErrors) -> list[list[int]]:
    """For each suspect the rows of the suggested category whose n-grams are most like its own."""
    suspects = errors.suspects
    if not len(suspects):
        return []
    ngrams = Ngrams.fit(rows.texts)
    vectors = sparse.csr_matrix(ngrams.transform(rows.texts))
    found: list[list[int]] = [[] for _ in suspects]
    for category in np.unique(errors.suggested[suspects]).tolist():
        asking = np.flatnonzero(errors.suggested[suspects] == category)
        others = np.flatnonzero(rows.classes == category)
        if not len(others):
            continue
        theirs = vectors[others].T.tocsc()
        for start in range(0, len(asking), max(1, MAX_CELLS // len(others))):
            some = asking[start : start + max(1, MAX_CELLS // len(others))]
            cosines = (vectors[rows.numbers[suspects[some]]] @ theirs).toarray()
            for place, row in zip(some.tolist(), cosines, strict=True):
                found[place] = others[np.argsort(-row, kind="stable")[:SIMILAR]].tolist()
    return found


# --- the file to fill in -------------------------------------------------------------------------------------------------------------


def _write(rows: AuditedRows, errors: LabelErrors, result: Audit, conflicts: Sequence[Sequence[int]], out: str) -> None:
    """The rows in doubt with a column to fill in: suspects, the likeliest first, then conflicts; what is one product is one group."""
    suspects = dict(zip(rows.numbers[errors.suspects].tolist(), result.suspects, strict=True))
    conflicting = [number for group in conflicts for number in group]
    group_of = {number: f"conflict {place}" for place, group in enumerate(conflicts) for number in group}
    by_group: dict[str, list[int]] = {}
    for number in dict.fromkeys([*suspects, *conflicting]):
        by_group.setdefault(group_of.get(number) or rows.keys[number] or f"row {number}", []).append(number)
    chosen = [number for group in by_group.values() for number in group]
    groups = [place for place, group in enumerate(by_group.values(), 1) for _ in group]
    sizes = [len(group) for group in by_group.values() for _ in group]
    place_of = {number: place for place, number in enumerate(rows.numbers.tolist())}
    form = format_to_fill_in(out, "-o")
    probabilities = [float(rows.probabilities[place_of[number], rows.classes[number]]) if number in place_of else None for number in chosen]
    similar = [list(suspects[number].similar) if number in suspects else [] for number in chosen]
    suggested = [_suggestions(rows, errors, place_of.get(number)) for number in chosen]
    if form.is_spreadsheet:
        kind: pl.DataType = pl.String()
        lists: list[list[Any]] = [[" | ".join(cell) for cell in similar], ["; ".join(cell) for cell in suggested]]
    else:
        kind, lists = pl.List(pl.String), [similar, suggested]
    added = pl.DataFrame(
        [
            pl.Series(LABEL_PROBABILITY, probabilities, dtype=pl.Float64),
            *(pl.Series(name, cells, dtype=kind) for name, cells in zip((SIMILAR_ROWS, SUGGESTIONS), lists, strict=True)),
            pl.Series(GROUP, groups, dtype=pl.Int64),
            pl.Series(GROUP_ROWS, sizes, dtype=pl.Int64),
            pl.Series(CATEGORY, [None] * len(chosen), dtype=pl.String),
        ]
    )
    taken = (*REVIEW_COLUMNS, LABEL_PROBABILITY, SIMILAR_ROWS)
    frame = rows.frame[chosen]
    frame = frame.rename({name: catalog_name(name, frame.columns) for name in frame.columns if name in taken})
    choices = {CATEGORY: rows.names}
    check_not_filled_in(out, *FILLED_IN)  # again: it took a while
    with write_errors(out), atomic_write(Path(out)) as path, path.open("wb") as file, open_writer(file, form, choices=choices) as writer:
        writer.write(Batch(frame, 1.0), frame.columns, added)


def _suggestions(rows: AuditedRows, errors: LabelErrors, place: int | None) -> list[str]:
    """The label and the category that is more probable, the more probable first; nothing of a row that no model has scored."""
    if place is None:
        return []
    own = int(rows.classes[rows.numbers[place]])
    both = sorted((own, int(errors.suggested[place])), key=lambda number: -rows.probabilities[place, number])
    return [f"{rows.names[number]} ({rows.probabilities[place, number]:.2f})" for number in both]
