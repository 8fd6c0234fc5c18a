"""Files of products → batches of rows, in order, with memory set by the batch and not by the file.

Each format has a reader of its own: `catcli.data.io.csv_reader` (CSV, TSV: cells stay the text they are), `catcli.data.io.json_lines` (JSON
Lines), `catcli.data.io.columnar` (Parquet, Arrow IPC) and polars for Excel workbooks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast, get_args

import polars as pl

from catcli.data.io import csv_reader, json_lines
from catcli.data.io.batch import BadRowPolicy, Batch, check_column_names, check_same_columns
from catcli.data.io.buckets import Location
from catcli.data.io.excel import read_workbook
from catcli.data.io.formats import Format
from catcli.data.io.inputs import SPOOL_PREFIX, InputFile, expand, format_of
from catcli.data.io.streams import (
    STANDARD_INPUT,
    check_signature,
    display_name,
    encoding_note,
    file_size,
    file_state,
    open_bytes,
    split_encoding,
)
from catcli.errors import ChangedError, ProductsError, UsageError, name_list

if TYPE_CHECKING:
    from catcli.data.io.columnar import RowGroupRun

SHARD_ROWS = 65_536
"""Rows of a shard: what is labeled, written and kept together; as many as a row group of the output."""

HEADS_AT_ONCE = 16
"""Files whose headers or footers are read at once."""

SPAN_ROWS = 4 * SHARD_ROWS
"""Rows of a span of a Parquet file, at least: as many row groups as have them."""


@dataclass(frozen=True)
class Span:
    """Rows of a file that are read one after the other: the file, or a run of row ``groups`` of a Parquet file.

    ``file`` is the number of the file, ``number`` that of the span in it. ``rows`` are unknown but of Parquet; ``bytes`` are those of the
    file, or of the decoded row groups. ``start`` and ``end`` say where in all files it is, as shares of their bytes.
    """

    file: int
    number: int
    groups: range | None
    rows: int | None
    bytes: int
    start: float
    end: float


@dataclass(frozen=True)
class _Head:
    """What a file says of itself before its rows: its columns and their types as far as it does, and the runs of its row groups."""

    columns: tuple[str, ...] = ()
    types: Mapping[str, object] = field(default_factory=dict)
    runs: tuple[RowGroupRun, ...] = ()


@dataclass(frozen=True)
class Layout:
    """The columns of the first rows, and of tables their Arrow types; all files of a run have the same."""

    columns: tuple[str, ...]
    types: Mapping[str, object]

    @classmethod
    def of(cls, rows: Batch) -> Layout:
        """That of some rows."""
        return cls(tuple(rows.columns), rows.table_types)


@dataclass(frozen=True)
class Source:
    """Files of one format, read one after the other as if they were one."""

    files: tuple[InputFile, ...]
    format: Format
    delimiter: str | None = None
    encoding: str | None = None
    on_bad_row: BadRowPolicy = "stop"

    @cached_property
    def paths(self) -> tuple[Location, ...]:
        """Where the files are; `STANDARD_INPUT` and the copy of what came through a pipe among them."""
        return tuple(file.path for file in self.files)

    @property
    def piped(self) -> bool:
        """Whether the rows come through a pipe, and so cannot be read a second time by another run."""
        return any(path == STANDARD_INPUT or path.name.startswith(SPOOL_PREFIX) for path in self.paths)

    @property
    def name(self) -> str:
        """How sentences call it."""
        return self._named(self.paths[0]) if len(self.paths) == 1 else f"{self._named(self.paths[0])} and {len(self.paths) - 1} more"

    @staticmethod
    def _named(path: Location) -> str:
        return "standard input" if path.name.startswith(SPOOL_PREFIX) else display_name(path)

    @property
    def stem(self) -> str:
        """The first file's name without its endings, in letters that a shell takes without quotes."""
        name = "" if self.piped else self.paths[0].name.split(".")[0]
        return re.sub(r"[^\w-]+", "-", name).strip("-") or "products"

    @cached_property
    def line_encodings(self) -> Mapping[Location, str]:
        """Of JSON Lines: each file's encoding, for which a plain file is looked through once."""
        return {path: json_lines.file_encoding(path, self.encoding, self.on_bad_row) for path in self.paths}

    @cached_property
    def lines_schema(self) -> json_lines.Schema:
        """Of JSON Lines: the columns of all files with types that hold all their cells; the files are read through for it, so once."""
        schema: json_lines.Schema = {}
        for path in self.paths:
            for name, dtype in json_lines.infer_schema(path, self.line_encodings[path], SHARD_ROWS, self.on_bad_row).items():
                schema[name] = json_lines.common_type(schema[name], dtype) if name in schema else dtype
        return schema

    def batches(self, rows: int | None = None) -> Iterator[Batch]:
        """All rows in order, about ``rows`` at a time, by default a shard's.

        Where there are none, it is one batch that has the columns and no row. Standard input can be read once only.
        """
        layout: Layout | None = None
        for span in self.spans:
            for batch in self.read_span(span, layout, rows):
                layout = layout or Layout.of(batch)
                yield batch

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """All rows in order, as spans of the files, whose headers and footers are read for it, and their layouts compared.

        Raises:
            ProductsError: a file has other columns than the first, or cannot be read.
        """
        heads = self._heads()
        sizes = list(map(file_size, self.paths))
        total, start, spans = max(sum(sizes), 1), 0, list[Span]()
        for number, (head, size) in enumerate(zip(heads, sizes, strict=True)):
            done, row_count = 0, max(sum(run.rows for run in head.runs), 1)
            for index, run in enumerate(head.runs):
                first, last = ((start + size * rows / row_count) / total for rows in (done, done + run.rows))
                spans.append(Span(number, index, run.groups, run.rows, run.bytes, first, last))
                done += run.rows
            if not head.runs:
                spans.append(Span(number, 0, None, None, size, start / total, (start + size) / total))
            start += size
        return tuple(spans)

    def _heads(self) -> list[_Head]:
        """What each file says of itself, several at a time: of many objects in a bucket each takes some requests.

        Raises:
            ProductsError: a file has other columns than the first, or cannot be read.
        """
        has_heads = self.format not in ("jsonl", "excel") and STANDARD_INPUT not in self.paths
        # Lines have no header, workbooks are read whole, and what comes through a pipe comes once.
        if not has_heads or (len(self.files) < 2 and self.format != "parquet"):
            return [_Head()] * len(self.files)
        heads, first = list[_Head](), _Head()
        with ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
            try:
                for file, head in zip(self.files, pool.map(self._head, self.paths), strict=True):
                    if head.columns:  # the first bytes may not say them; they are compared as the rows come, too
                        first = first if first.columns else head
                        self._check_layout(file, head.columns, head.types, first.columns, first.types)
                    heads.append(_Head(runs=head.runs))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return heads

    def _head(self, path: Location) -> _Head:
        """The columns that a file itself has, of tables their Arrow types, and of Parquet the runs of its row groups."""
        if self.format in ("csv", "tsv"):
            return _Head(tuple(csv_reader.read_header(path, self._delimited)))
        from catcli.data.io.columnar import read_arrow_schema, read_footer

        _check_table(path, self.format)
        schema, runs = read_footer(path, SPAN_ROWS) if self.format == "parquet" else (read_arrow_schema(path), [])
        return _Head(tuple(schema.names), {field.name: field.type for field in schema}, tuple(runs))

    def read_span(self, span: Span, layout: Layout | None, rows: int | None = None) -> Iterator[Batch]:
        """The rows of a span in order, about ``rows`` at a time, by default a shard's; its columns come in the order of ``layout``.

        Raises:
            ProductsError: it has other columns, or cannot be read.
            ChangedError: the file was changed while it was read.
        """
        file = self.files[span.file]
        for index, batch in enumerate(check_unchanged(file.path, self._of(file, span.groups, rows or SHARD_ROWS))):
            layout = layout or Layout.of(batch)
            self._check_layout(file, batch.columns, batch.table_types, layout.columns, layout.types)
            if batch.columns != list(layout.columns):
                batch = replace(batch, rows=batch.only(layout.columns))  # noqa: PLW2901  (the same rows, their columns as in the first)
            share = span.start + (span.end - span.start) * batch.share
            yield replace(batch, share=share, part=span.file, span=span.number, index=index)

    def _check_layout(
        self, file: InputFile, columns: Sequence[str], types: Mapping[str, object], first: Sequence[str], first_types: Mapping[str, object]
    ) -> None:
        """Refuse a file with other columns than the first, or of other types."""
        if types != first_types:
            differing = sorted(name for name in {*first_types, *columns} if first_types.get(name) != types.get(name))
            raise ProductsError(
                f"{file.path} and {self.paths[0]} differ in columns {name_list(differing)} or their types; give files of one layout a run."
            )
        check_same_columns(first, columns, display_name(file.path), display_name(self.paths[0]))

    @property
    def _delimited(self) -> csv_reader.CsvOptions:
        delimiter = "\t" if self.format == "tsv" and not self.delimiter else self.delimiter
        return csv_reader.CsvOptions(delimiter, self.encoding, self.on_bad_row)

    def count(self) -> int:
        """How many rows there are; all formats but Parquet are read through for it."""
        if self.format == "parquet":
            return sum(span.rows or 0 for span in self.spans)
        return sum(map(len, self.batches()))

    def read(self) -> Batch:
        """All rows as one batch."""
        batches = list(self.batches())
        note = " ".join(batch.note for batch in batches if batch.note)
        return Batch(pl.concat([batch.frame for batch in batches], rechunk=True), 1.0, sum(batch.short for batch in batches), note=note)

    def _of(self, file: InputFile, groups: range | None, rows: int) -> Iterator[Batch]:
        for batch in self._readers(file.path, groups, rows):
            check_column_names(display_name(file.path), batch.columns)
            yield _with_hive_columns(batch, file.spelled, file.path)

    def _readers(self, path: Location, groups: range | None, rows: int) -> Iterator[Batch]:
        if self.format in ("csv", "tsv"):
            yield from csv_reader.read_rows(path, self._delimited, rows)
        elif self.format == "jsonl":
            note = encoding_note(path, self.line_encodings[path], self.encoding)
            blocks = json_lines.read_frames(path, self.line_encodings[path], rows, self.lines_schema, self.on_bad_row)
            yield from _json_lines(path, blocks, note)
        elif self.format == "excel":
            yield from read_workbook(path)
        else:
            yield from _tables(path, self.format, groups, rows)


def open_source(
    patterns: Sequence[str],
    *,
    input_format: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    on_bad_row: str = "stop",
) -> Source:
    """The files that ``patterns`` name: files, folders, globs, or ``-`` for standard input (CSV unless ``input_format`` says other).

    Raises:
        ProductsError: a file is not there, or the format cannot be told from its name.
        UsageError: a delimiter, an encoding or a policy for bad rows that is none.
    """
    delimiter = _checked_options(input_format, delimiter, encoding, on_bad_row)
    if list(patterns).count("-") > 1:
        raise UsageError("standard input (-) can be read only once.")
    files = [file for pattern in patterns for file in expand(pattern, input_format)]
    formats: dict[Location, Any] = {file.path: input_format or format_of(file.path) for file in files}
    if len(set(formats.values())) > 1:
        raise ProductsError(f"the inputs are of several formats ({', '.join(sorted(set(formats.values())))}); give one format a run.")
    spelled = [{name for name, _ in file.spelled} for file in files]
    for file, names in zip(files, spelled, strict=True):
        check_same_columns(sorted(spelled[0]), sorted(names), f"the path of {file.path}", f"the path of {files[0].path}")
    return Source(tuple(files), formats[files[0].path], delimiter, encoding, cast(BadRowPolicy, on_bad_row))


def _checked_options(input_format: str | None, delimiter: str | None, encoding: str | None, on_bad_row: str) -> str | None:
    """The delimiter, which can be given by name, once nothing is wrong with the options."""
    if on_bad_row not in get_args(BadRowPolicy):
        raise UsageError(f"--on-bad-row {on_bad_row}: choose one of {', '.join(get_args(BadRowPolicy))}.")
    if input_format is not None and input_format not in get_args(Format):
        raise UsageError(f"--input-format {input_format}: choose one of {', '.join(get_args(Format))}.")
    if delimiter is not None:
        delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
        if len(delimiter) != 1:
            raise UsageError(f"--delimiter {delimiter!r}: one character, or 'tab'.")
    if encoding is not None:
        try:
            name, errors = split_encoding(encoding)
            if errors not in ("strict", "replace"):
                raise UsageError(f"--encoding {encoding}: after the colon stands replace, for bytes that cannot be read, or nothing.")
            "".encode(name)  # refuses what is not an encoding, and codecs such as hex that are none of text
        except LookupError as error:
            raise UsageError(f"--encoding {encoding}: Python knows no such encoding; try utf-8, latin-1, cp1252 or utf-16.") from error
    return delimiter


def check_unchanged(path: Location, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches of a file, which has to be the same at their end.

    Raises:
        ChangedError: it is not.
    """
    before, changed = (
        file_state(path),
        f"{display_name(path)} was changed while it was read; run the same command again once it is finished.",
    )
    try:
        yield from batches
    except ProductsError as error:
        if file_state(path) != before:
            raise ChangedError(changed) from error
        raise
    if file_state(path) != before:
        raise ChangedError(changed)


# --- files → batches -----------------------------------------------------------------------------------------------------------------


def _with_hive_columns(batch: Batch, spelled: Sequence[tuple[str, str | None]], path: Location) -> Batch:
    """The rows with the columns that their path spells, as text."""
    if not spelled:
        return batch
    duplicates = sorted({name for name, _ in spelled} & set(batch.columns))
    if duplicates:
        raise ProductsError(
            f"{path} has the column {duplicates[0]!r}, which its path spells too; take the files one by one, without their folder."
        )
    rows = batch.rows
    for name, value in spelled:
        column = pl.Series(name, [value], dtype=pl.String).new_from_index(0, len(batch))
        rows = rows.with_columns(column) if isinstance(rows, pl.DataFrame) else rows.append_column(name, column.to_arrow())
    return replace(batch, rows=rows, lines=None)


def _json_lines(path: Location, blocks: Iterator[tuple[pl.DataFrame, json_lines.LineBlock]], note: str) -> Iterator[Batch]:
    given = False
    for frame, block in blocks:
        yield Batch(frame, block.share, lines=block.lines, note="" if given else note, bad=block.bad, nulls=block.nulls)
        given = True
    if not given:
        raise ProductsError(f"{display_name(path)} has only blank lines: it has no JSON Lines in it.")


def _tables(path: Location, form: Format, groups: range | None, rows: int) -> Iterator[Batch]:
    from catcli.data.io.columnar import read_arrow, read_parquet

    if form != "parquet":  # whose footer was read already
        _check_table(path, form)
    for table, share in read_parquet(path, rows, groups) if form == "parquet" else read_arrow(path, rows):
        yield Batch(table, share, where=display_name(path))


def _check_table(path: Location, form: Format) -> None:
    """Refuse a file whose first bytes are not those of its format."""
    wanted = {"parquet": "Parquet", "arrow": "Arrow IPC"}[form]
    with open_bytes(path) as stream:
        head = stream.head[:8]
    if not head:
        raise ProductsError(f"{path} is empty: it has no {wanted} in it.")
    if form == "parquet" and not head.startswith(b"PAR1"):
        raise ProductsError(f"{path} is not a Parquet file: it does not begin with PAR1; if it is text, pass --input-format csv.")
    if form == "arrow" and not head.startswith(b"ARROW1"):
        check_signature(path, wanted, head)
