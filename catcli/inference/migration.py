"""``catcli migrate``: labels of an old taxonomy → categories of a new one, suggested for a person to confirm, then applied.

An old category is compared with every new one by four measures: the cosine of their paths' n-grams, that of their last parts', the levels
that both paths begin with, and the cosine of the rows' texts with the new name. What each counts was chosen on published mappings, half of
them kept apart; see tests/bench/README.md.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from catcli.arrays import FloatArray
from catcli.atomic import atomic_write
from catcli.data.dataset.categories import has_label
from catcli.data.dataset.columns import ColumnRoles, choose_columns
from catcli.data.dataset.examples import category_name_examples
from catcli.data.dataset.taxonomy import chosen_separator, split_path
from catcli.data.dataset.taxonomy_file import Taxonomy
from catcli.data.dataset.text import column_cells, column_type, is_scalar, row_texts
from catcli.data.io.batch import Batch
from catcli.data.io.output import check_folder, file_format, write_errors
from catcli.data.io.source import Source, open_source
from catcli.data.io.writers import open_writer
from catcli.errors import ChangedError, OutputError, ProductsError, UsageError, name_list
from catcli.evaluation.studies import Migration, Suggestion
from catcli.inference.migrate_options import MigrateOptions
from catcli.inference.ngrams import Ngrams
from catcli.logs import Advance, no_progress

OLD, ROWS, NEW, CONFIDENCE, SECOND, THIRD = COLUMNS = ("old", "rows", "new", "confidence", "second", "third")
"""The columns of a mapping; only `OLD` and `NEW` are read again."""

LAST_WEIGHT, COMMON_WEIGHT, ABOVE_WEIGHT, TEXT_WEIGHT = 0.8, 0.5, 0.1, 1.0
"""What the other measures count beside the cosine of the paths."""

CONFIDENCE_LINE = (-1.2, 0.7, 8.0)
"""Of the log-odds that a suggestion is right: a constant, and what its score and its lead over the second count."""

MAX_TEXTS, MAX_CHARACTERS = 50, 500
"""Texts of an old category that are compared with the new names, and characters of each."""

MAX_CELLS = 2_000_000
"""Old times new categories that are compared at once, and 256 old ones at most."""

SAMPLE_ROWS = 10_000
"""Rows by which the columns are chosen."""


@dataclass
class _OldCategories:
    """Each old category's rows, and some of their texts."""

    rows: Counter[str] = field(default_factory=Counter)
    texts: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def migrate(
    labeled: Sequence[str],
    options: MigrateOptions,
    on_result: Callable[[Migration], None] = lambda _: None,
    advance: Advance = no_progress,
) -> Migration:
    """Suggest a category of the new taxonomy for each old one, or with a mapping write the rows with their new ones.

    Raises:
        CatcliError: something that the user can fix; nothing was written.
    """
    options.check()
    taxonomy = Taxonomy.read(options.taxonomy)
    source = options.open(labeled)
    if source.piped:
        raise UsageError("migrate reads the rows twice; give them as a file, not through a pipe.")
    if options.output:
        _check_output(Path(options.output), source, options)
    columns = _columns(source, options)
    olds = _read(source, columns)
    result = _apply(source, columns, olds, taxonomy, options) if options.apply else _suggest(olds, taxonomy, source, options, advance)
    on_result(result)
    return result


def _check_output(out: Path, source: Source, options: MigrateOptions) -> None:
    """What somebody made is not written over: the rows, the taxonomy, or a mapping that was corrected."""
    check_folder(out)
    read = [*source.paths, Path(options.taxonomy), *([Path(options.apply)] if options.apply else [])]
    if out.resolve() in [path.resolve() for path in read if isinstance(path, Path)]:
        raise UsageError(f"-o {out} is read by this run; name another file.")
    if out.exists() and not options.apply:
        raise OutputError(f"-o {out} is there, and somebody may have corrected it; name another file, or remove it.")


def _columns(source: Source, options: MigrateOptions) -> ColumnRoles:
    first = next((batch.slice(0, SAMPLE_ROWS) for batch in source.batches() if len(batch)), None)
    if first is None:
        raise ProductsError(f"{source.name} has no rows; give a file with labeled rows.")
    return choose_columns(first.frame, options.label, tuple(options.text), None, source.name)


def _read(source: Source, columns: ColumnRoles) -> _OldCategories:
    olds = _OldCategories()
    for batch in source.batches():
        for label, text in zip(*_labels_and_texts(batch, columns), strict=True):
            if label is not None:
                olds.rows[label] += 1
                if len(olds.texts[label]) < MAX_TEXTS:
                    olds.texts[label].append(text[:MAX_CHARACTERS])
    if not olds.rows:
        raise ProductsError(f"{source.name} has no row with a category in {columns.label!r}; choose another column with --label.")
    return olds


def _labels_and_texts(batch: Batch, columns: ColumnRoles) -> tuple[list[str | None], list[str]]:
    """Each row's old category, None where it has none, and its text."""
    frame = batch.select([columns.label, *columns.text])
    cells = column_cells(frame, columns.label)
    labels = cells.cast(pl.String).set(~has_label(cells), None).to_list()
    return labels, row_texts(frame, columns.text, columns.prices)


# --- suggest -------------------------------------------------------------------------------------------------------------------------


def _suggest(olds: _OldCategories, taxonomy: Taxonomy, source: Source, options: MigrateOptions, advance: Advance) -> Migration:
    names = sorted(olds.rows)
    separator = chosen_separator(names, None)
    suggestions = suggest(names, [olds.texts[name] for name in names], separator, taxonomy)
    suggested = list[Suggestion]()
    for old, (news, confidence) in zip(names, suggestions, strict=True):
        suggested.append(Suggestion(old=old, rows=olds.rows[old], new=news[0], confidence=confidence, others=tuple(news[1:])))
        advance("comparing names", len(suggested), len(names))
    if options.output:
        _write_mapping(suggested, options.output)
    return Migration(on=source.name, taxonomy=options.taxonomy, rows=sum(olds.rows.values()), suggestions=tuple(suggested))


def _write_mapping(suggestions: Sequence[Suggestion], out: str) -> None:
    others = [(*entry.others, "", "") for entry in suggestions]
    columns: dict[str, list[Any]] = {
        OLD: [entry.old for entry in suggestions],
        ROWS: [entry.rows for entry in suggestions],
        NEW: [entry.new for entry in suggestions],
        CONFIDENCE: [round(entry.confidence, 3) for entry in suggestions],
        SECOND: [names[0] for names in others],
        THIRD: [names[1] for names in others],
    }
    with write_errors(out), atomic_write(Path(out)) as path, path.open("wb") as file, open_writer(file, file_format(out, None)) as writer:
        writer.write(Batch(pl.DataFrame(columns), 1.0), COLUMNS, pl.DataFrame())


def suggest(
    olds: Sequence[str], texts: Sequence[Sequence[str]], separator: str | None, taxonomy: Taxonomy
) -> Iterator[tuple[list[str], float]]:
    """For each of ``olds`` the three likeliest paths of the taxonomy, and how likely the first is right.

    ``texts`` are some of each one's rows, ``separator`` is that of ``olds``, None where they are flat names.
    """
    new_parts = [split_path(path, taxonomy.separator) for path in taxonomy.paths]
    old_parts = [split_path(old, separator) for old in olds]
    paths = Ngrams.fit([" ".join(parts) for parts in new_parts + old_parts])
    new_paths = paths.transform([" ".join(parts) for parts in new_parts]).T.tocsc()
    new_lasts = paths.transform([parts[-1] for parts in new_parts]).T.tocsc()
    common = _CommonLevels(new_parts)
    at_once = min(256, max(1, MAX_CELLS // len(new_parts)))
    for start in range(0, len(olds), at_once):
        some = old_parts[start : start + at_once]
        scores = (paths.transform([" ".join(parts) for parts in some]) @ new_paths).toarray() / 2
        scores += LAST_WEIGHT / 2 * (paths.transform([parts[-1] for parts in some]) @ new_lasts).toarray()
        for row, parts in enumerate(some):
            scores[row] += common.scores(parts)
            scores[row] += TEXT_WEIGHT / 2 * _mean_similarity(paths, texts[start + row], new_paths)
            yield _best(scores[row], taxonomy.paths)


def _mean_similarity(paths: Ngrams, texts: Sequence[str], new_paths: Any) -> FloatArray:  # noqa: ANN401  # a matrix of scipy's
    """The mean cosine of the texts with each new path, times two, which is that of words and of characters added."""
    return np.asarray((paths.transform(texts) @ new_paths).mean(axis=0), np.float32).ravel() if texts else np.zeros(1, np.float32)


class _CommonLevels:
    """How much of two paths is alike from their beginning on, and which new category stands above an old one."""

    def __init__(self, new_parts: Sequence[tuple[str, ...]]) -> None:
        self._lengths = np.array([len(parts) for parts in new_parts])
        self._numbers = {parts: number for number, parts in enumerate(new_parts)}
        self._below: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, parts in enumerate(new_parts):
            for end in range(1, len(parts) + 1):
                self._below[parts[:end]].append(number)

    def scores(self, parts: tuple[str, ...]) -> FloatArray:
        """What the new categories *(new,)* get for it."""
        scores = np.zeros(len(self._lengths), np.float32)
        for end in range(1, len(parts) + 1):
            numbers = self._below.get(parts[:end], [])
            scores[numbers] = COMMON_WEIGHT * 2 * end / (len(parts) + self._lengths[numbers])
        above = next((self._numbers[parts[:end]] for end in range(len(parts), 0, -1) if parts[:end] in self._numbers), None)
        if above is not None:
            scores[above] += ABOVE_WEIGHT * (2 if self._lengths[above] == len(parts) else 1)
        return scores


def _best(scores: FloatArray, paths: Sequence[str]) -> tuple[list[str], float]:
    order = np.argsort(-scores, kind="stable")[:3]
    lead = scores[order[0]] - scores[order[1]]
    constant, by_score, by_lead = CONFIDENCE_LINE
    odds = constant + by_score * float(scores[order[0]]) + by_lead * float(lead)
    return [paths[number] for number in order], float(1 / (1 + np.exp(-np.clip(odds, -40, 40))))


# --- apply ---------------------------------------------------------------------------------------------------------------------------


def _apply(source: Source, columns: ColumnRoles, olds: _OldCategories, taxonomy: Taxonomy, options: MigrateOptions) -> Migration:
    mapping = _read_mapping(str(options.apply), olds, taxonomy)
    news = _Relabeler(mapping)
    out = str(options.output)
    output_format = file_format(out, None)
    moved: Counter[tuple[str, str]] = Counter()
    with write_errors(out), atomic_write(Path(out)) as path, path.open("wb") as file, open_writer(file, output_format) as writer:
        for batch in source.batches():
            labels, texts = _labels_and_texts(batch, columns)
            renamed = news.labels(labels, texts)
            moved.update((old, new) for old, new in zip(labels, renamed, strict=True) if old is not None and new is not None)
            writer.write(_with_labels(batch, columns.label, renamed), batch.columns, pl.DataFrame())
    suggestions = tuple(Suggestion(old=old, rows=rows, new=new, confidence=1.0) for (old, new), rows in sorted(moved.items()))
    return Migration(on=source.name, taxonomy=options.taxonomy, rows=sum(moved.values()), suggestions=suggestions, applied=True)


def _with_labels(batch: Batch, column: str, labels: Sequence[str | None]) -> Batch:
    """The rows with other labels, in the same place; what has none keeps its cell, and of lines of JSON nothing else is written again."""
    if batch.lines is not None:
        lines = [line if label is None else _spliced(line, column, label) for line, label in zip(batch.lines, labels, strict=True)]
        return replace(batch, lines=lines)
    cells = column_cells(batch.select([column]), column).cast(pl.String).to_list()
    kept = [cell if label is None else label for cell, label in zip(cells, labels, strict=True)]
    if isinstance(batch.rows, pl.DataFrame):
        return replace(batch, rows=batch.rows.with_columns(pl.Series(column, kept, dtype=pl.String)))
    import pyarrow as pa

    place = batch.rows.column_names.index(column)
    return replace(batch, rows=batch.rows.set_column(place, column, pa.array(kept, pa.string())))


def _spliced(line: bytes, key: str, value: str) -> bytes:
    """An object of JSON with another value of a key, which counts where it comes last, and else as it was."""
    text, decoder = line.decode("utf-8", "surrogatepass"), json.JSONDecoder()
    at, start, end = _past(_AFTER_COMMA, text, text.index("{") + 1), -1, -1
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at)
        begin = _past(_AFTER_COLON, text, at)
        at = decoder.raw_decode(text, begin)[1]
        if name == key:
            start, end = begin, at
        at = _past(_AFTER_COMMA, text, at)
    return (text[:start] + json.dumps(value, ensure_ascii=False) + text[end:]).encode("utf-8", "surrogatepass")


_AFTER_COMMA, _AFTER_COLON = re.compile(r"[\s,]*"), re.compile(r"[\s:]*")
"""What stands between the parts of an object."""


def _past(between: re.Pattern[str], text: str, at: int) -> int:
    """Where the next part begins."""
    match = between.match(text, at)
    return match.end() if match else at


def _read_mapping(file: str, olds: _OldCategories, taxonomy: Taxonomy) -> dict[str, list[str]]:
    """The new categories of each old one: several where it is to be split.

    Raises:
        ProductsError: it is no mapping, an old category is not in it, or a new one not in the taxonomy.
    """
    frame = open_source([file]).read().frame
    missing = [name for name in (OLD, NEW) if name not in frame.columns]
    if missing:
        raise ProductsError(f"--apply {file} has no column {missing[0]!r}; give what migrate -o wrote.")
    for name in (OLD, NEW):
        if not is_scalar(column_type(frame, name)):
            raise ProductsError(
                f"--apply {file}: the cells of {name!r} are {column_type(frame, name)}, not names; write one category a cell."
            )
    mapping: dict[str, list[str]] = {}
    for old, new in zip(*(column_cells(frame, name).cast(pl.String).fill_null("").to_list() for name in (OLD, NEW)), strict=True):
        if new.strip() and new.strip() not in mapping.setdefault(old, []):
            mapping[old].append(new.strip())
    unmapped = sorted(old for old in olds.rows if not mapping.get(old))
    if unmapped:
        raise ProductsError(
            f"--apply {file} has no new category for {name_list(unmapped, 3)}; fill in the column {NEW!r}, or run migrate again for these."
        )
    taxonomy.check(Counter(itertools.chain.from_iterable(mapping[old] for old in olds.rows)), f"--apply {file}")
    return {old: [taxonomy.path_of(new) or new for new in mapping[old]] for old in olds.rows}


class _Relabeler:
    """Old labels → new ones; where an old one has several, the one whose name is most like the row's text."""

    def __init__(self, mapping: Mapping[str, Sequence[str]]) -> None:
        self._mapping = mapping
        self._news = sorted({new for news in mapping.values() if len(news) > 1 for new in news})
        self._numbers = {new: number for number, new in enumerate(self._news)}
        names = category_name_examples(self._news)
        self._named, self._ngrams = names.classes, Ngrams.fit(names.texts) if names.texts else None
        self._vectors = self._ngrams.transform(names.texts).T.tocsc() if self._ngrams else None

    def labels(self, labels: Sequence[str | None], texts: Sequence[str]) -> list[str | None]:
        """The new label of each row."""
        if any(label is not None and label not in self._mapping for label in labels):
            raise ChangedError("the labeled rows were changed while they were read; run the same command again once they are finished.")
        new = [None if label is None else self._mapping[label][0] for label in labels]
        split = [row for row, label in enumerate(labels) if label is not None and len(self._mapping[label]) > 1]
        if split and self._ngrams is not None:
            scores = np.zeros((len(split), len(self._news)), np.float32)
            scores[:, self._named] = (self._ngrams.transform([texts[row] for row in split]) @ self._vectors).toarray()
            for number, row in enumerate(split):
                among = self._mapping[labels[row] or ""]
                new[row] = max(among, key=lambda name: scores[number, self._numbers[name]])  # called at once
        return new
