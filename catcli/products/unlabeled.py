"""Rows without categories, for a teacher to label: a draw of a catalog's different texts, made while it is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl

from catcli.errors import ProductsError, listed
from catcli.products.batch import Batch
from catcli.products.columns import alike
from catcli.products.labeled import Labeled
from catcli.products.read import Source
from catcli.products.split import text_key
from catcli.products.text import cells_of, composed, is_plain, is_textual

MOST, ROOM = 500_000, 256 * 2**20
"""Texts that are drawn at most, and the bytes that they may have; twice as many are held while a catalog is read."""


@dataclass(frozen=True)
class Unlabeled:
    """Different texts in the order of a random draw, so that the first of them are one too.

    ``read`` rows there were; ``known`` of the drawn texts are left out since the labeled rows have them, whether to learn from or to score.
    """

    texts: list[str]
    read: int
    known: int


def draw_unlabeled(
    source: Source, text: Sequence[str], prices: Collection[str], group: str | None, labeled: Labeled, seed: int, most: int = MOST
) -> Unlabeled:
    """At most ``most`` texts of ``source``, each as likely as any other however often it comes.

    They are those with the smallest hashes, so no more than twice as many are ever held and the same texts are drawn whatever their order.
    ``text`` and ``group`` are the columns of the labeled rows; here they may differ by case, blanks and punctuation. What stands among the
    labeled rows is left out, by text or by group: a teacher's word on a row that is held out would flatter its score.

    Raises:
        ProductsError: a text column is not there, or nothing is left.
    """
    texts_known = {text_key(one) for one in labeled.texts}
    groups_known = [key.removeprefix("group ") for key in labeled.keys if key.startswith("group ")]
    columns: list[str] = []
    grouping: str | None = None
    waiting, read, barred = [pl.DataFrame(schema={"hash": pl.UInt64, "text": pl.String})], 0, pl.Series("hash", dtype=pl.UInt64)
    for batch in source.batches():
        if not columns:
            columns = [_matching(name, batch, source.name) for name in text]
            grouping = _grouping(group, batch) if groups_known else None
        frame = batch.select(list(dict.fromkeys([*columns, *([grouping] if grouping else [])])))
        read += len(frame)
        in_bands = {column for column, trained in zip(columns, text, strict=True) if trained in prices}
        texts = composed(frame, columns, in_bands)
        found = pl.DataFrame({"hash": texts.hash(seed), "text": texts})
        if grouping:
            # One row of a labeled product bars its text, wherever else the text stands.
            theirs = cells_of(frame, grouping).cast(pl.String).is_in(groups_known)
            barred = pl.concat([barred, found.filter(theirs)["hash"]]).unique()
        waiting.append(found.filter(texts != ""))
        if sum(map(len, waiting)) > 2 * most or sum(one.estimated_size() for one in waiting) > 2 * ROOM:
            waiting = [_smallest(waiting, most)]
    drawn = _smallest(waiting, most)
    new = [one for one in drawn.filter(~drawn["hash"].is_in(barred.implode()))["text"].to_list() if text_key(one) not in texts_known]
    if not new:
        raise ProductsError(
            f"--unlabeled {source.name} has {read:,} rows and no text that the labeled rows do not have; give a catalog with other "
            "products."
        )
    return Unlabeled(new, read, len(drawn) - len(new))


def _smallest(frames: Sequence[pl.DataFrame], most: int) -> pl.DataFrame:
    """The rows with the smallest hashes, one of each hash, in their order: at most ``most``, or as many as `ROOM` holds."""
    whole = pl.concat(frames).unique("hash", keep="first", maintain_order=True).sort("hash").head(most)
    sizes = whole["text"].str.len_bytes().cum_sum()
    return whole.head(int((sizes <= ROOM).sum()))


def _matching(name: str, batch: Batch, where: str) -> str:
    same = alike(name, batch.columns)
    if len(same) != 1:
        raise ProductsError(
            f"--unlabeled {where} has no column {name!r}, which the labeled rows are read from; its columns are "
            f"{listed(batch.columns, 30)}: name them alike in both files, or choose columns that both have with --text."
        )
    if not is_textual(batch.types[same[0]]):
        raise ProductsError(
            f"--unlabeled {where}: the cells of {same[0]!r} are {batch.types[same[0]]}, not text; choose other columns with --text."
        )
    return same[0]


def _grouping(group: str | None, batch: Batch) -> str | None:
    """The column that tells products there too, where there is one and it can."""
    same = alike(group, batch.columns) if group else []
    return same[0] if len(same) == 1 and is_plain(batch.types[same[0]]) else None
