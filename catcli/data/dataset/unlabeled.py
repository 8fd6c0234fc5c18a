"""Rows without categories, for a teacher to label: a sample of a catalog's different texts, made while it is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl

from catcli.data.dataset.columns import similar_columns
from catcli.data.dataset.labeled import LabeledRows
from catcli.data.dataset.split import text_key
from catcli.data.dataset.text import column_cells, is_scalar, is_textual, row_text_series
from catcli.data.io.batch import Batch
from catcli.data.io.source import Source
from catcli.errors import ProductsError, name_list

MAX_TEXTS, MAX_TEXT_BYTES = 500_000, 256 * 2**20
"""Texts that are sampled at most, and the bytes that they may have; twice as many are held while a catalog is read."""


@dataclass(frozen=True)
class UnlabeledTexts:
    """Different texts in a random order, so that the first of them are a random sample too.

    ``read`` rows there were; ``known`` of the sampled texts are left out since the labeled rows have them, whether to learn from or to
    score.
    """

    texts: list[str]
    read: int
    known: int


def sample_unlabeled(
    source: Source, text: Sequence[str], prices: Collection[str], group: str | None, labeled: LabeledRows, seed: int, limit: int = MAX_TEXTS
) -> UnlabeledTexts:
    """At most ``limit`` texts of ``source``, each as likely as any other however often it comes.

    They are those with the smallest hashes, so no more than twice as many are ever held and the same texts are sampled whatever their
    order. ``text`` and ``group`` are the columns of the labeled rows; here they may differ by case, blanks and punctuation. What stands
    among the labeled rows is left out, by text or by group: a teacher's label of a held-out row would make its score too high.

    Raises:
        ProductsError: a text column is not there, or nothing is left.
    """
    texts_known = {text_key(labeled_text) for labeled_text in labeled.texts}
    groups_known = [key.removeprefix("group ") for key in labeled.keys if key.startswith("group ")]
    columns: list[str] = []
    grouping: str | None = None
    waiting, read, barred = [pl.DataFrame(schema={"hash": pl.UInt64, "text": pl.String})], 0, pl.Series("hash", dtype=pl.UInt64)
    for batch in source.batches():
        if not columns:
            columns = [_text_column(name, batch, source.name) for name in text]
            grouping = _group_column(group, batch) if groups_known else None
        frame = batch.select(list(dict.fromkeys([*columns, *([grouping] if grouping else [])])))
        read += len(frame)
        in_bands = {column for column, trained in zip(columns, text, strict=True) if trained in prices}
        texts = row_text_series(frame, columns, in_bands)
        candidates = pl.DataFrame({"hash": texts.hash(seed), "text": texts})
        if grouping:
            # One row of a labeled product bars its text, wherever else the text stands.
            is_labeled = column_cells(frame, grouping).cast(pl.String).is_in(groups_known)
            barred = pl.concat([barred, candidates.filter(is_labeled)["hash"]]).unique()
        waiting.append(candidates.filter(texts != ""))
        if sum(map(len, waiting)) > 2 * limit or sum(part.estimated_size() for part in waiting) > 2 * MAX_TEXT_BYTES:
            waiting = [_smallest(waiting, limit)]
    sampled = _smallest(waiting, limit)
    new = [
        candidate
        for candidate in sampled.filter(~sampled["hash"].is_in(barred.implode()))["text"].to_list()
        if text_key(candidate) not in texts_known
    ]
    if not new:
        raise ProductsError(
            f"--unlabeled {source.name} has {read:,} rows and no text that the labeled rows do not have; give a catalog with other "
            "products."
        )
    return UnlabeledTexts(new, read, len(sampled) - len(new))


def _smallest(frames: Sequence[pl.DataFrame], limit: int) -> pl.DataFrame:
    """The rows with the smallest hashes, one of each hash, in their order: at most ``limit``, or as many as `MAX_TEXT_BYTES` holds."""
    smallest = pl.concat(frames).unique("hash", keep="first", maintain_order=True).sort("hash").head(limit)
    sizes = smallest["text"].str.len_bytes().cum_sum()
    return smallest.head(int((sizes <= MAX_TEXT_BYTES).sum()))


def _text_column(name: str, batch: Batch, source_name: str) -> str:
    same = similar_columns(name, batch.columns)
    if len(same) != 1:
        raise ProductsError(
            f"--unlabeled {source_name} has no column {name!r}, which the labeled rows are read from; its columns are "
            f"{name_list(batch.columns, 30)}: name them alike in both files, or choose columns that both have with --text."
        )
    if not is_textual(batch.types[same[0]]):
        raise ProductsError(
            f"--unlabeled {source_name}: the cells of {same[0]!r} are {batch.types[same[0]]}, not text; choose other columns with --text."
        )
    return same[0]


def _group_column(group: str | None, batch: Batch) -> str | None:
    """The column that tells products there too, where there is one and it can."""
    same = similar_columns(group, batch.columns) if group else []
    return same[0] if len(same) == 1 and is_scalar(batch.types[same[0]]) else None
