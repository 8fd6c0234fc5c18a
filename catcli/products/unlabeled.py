"""Rows without categories, for a teacher to label: a draw of a catalog's different texts, made while it is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl

from catcli.errors import ProductsError, listed
from catcli.products.columns import alike
from catcli.products.labeled import Labeled
from catcli.products.read import Source
from catcli.products.split import text_key
from catcli.products.text import cells_of, composed, is_textual

MOST = 500_000
"""Texts that are drawn at most; some hundred megabytes."""


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
    columns: list[str] = []
    grouping: list[str] = []
    kept = pl.DataFrame(schema={"hash": pl.UInt64, "text": pl.String, "group": pl.String})
    waiting, read = [kept], 0
    for batch in source.batches():
        if not columns:
            columns = [_matching(name, batch.columns, source.name) for name in text]
            odd = [name for name in columns if not is_textual(batch.type_of(name))]
            if odd:
                raise ProductsError(f"--unlabeled {source.name}: the cells of {odd[0]!r} are {batch.type_of(odd[0])}, not text.")
            grouping = alike(group, batch.columns) if group else []
        frame = batch.select(list(dict.fromkeys([*columns, *grouping])))
        read += len(frame)
        in_bands = {column for column, trained in zip(columns, text, strict=True) if trained in prices}
        texts = composed(frame, columns, in_bands)
        groups = (
            cells_of(frame, grouping[0]).cast(pl.String) if grouping else pl.Series([None], dtype=pl.String).new_from_index(0, len(frame))
        )
        waiting.append(pl.DataFrame({"hash": texts.hash(seed), "text": texts, "group": groups}).filter(texts != ""))
        if sum(map(len, waiting)) > 2 * most:
            waiting = [_smallest(waiting, most)]
    drawn = _smallest(waiting, most)
    texts_known = {text_key(one) for one in labeled.texts}
    groups_known = {key.removeprefix("group ") for key in labeled.keys if key.startswith("group ")} if grouping else set()
    new = [
        text
        for text, product in drawn.select("text", "group").iter_rows()
        if text_key(text) not in texts_known and product not in groups_known
    ]
    if not new:
        raise ProductsError(
            f"--unlabeled {source.name} has {read:,} rows and no text that the labeled rows do not have; give a catalog with other "
            "products."
        )
    return Unlabeled(new, read, len(drawn) - len(new))


def _smallest(frames: Sequence[pl.DataFrame], most: int) -> pl.DataFrame:
    """The rows with the smallest hashes, one of each hash, in their order."""
    return pl.concat(frames).unique("hash", keep="first", maintain_order=True).sort("hash").head(most)


def _matching(name: str, columns: Sequence[str], where: str) -> str:
    same = alike(name, columns)
    if len(same) != 1:
        raise ProductsError(
            f"--unlabeled {where} has no column {name!r}, which the labeled rows are read from; its columns are {listed(columns, 30)}: "
            "name them alike in both files, or choose columns that both have with --text."
        )
    return same[0]
