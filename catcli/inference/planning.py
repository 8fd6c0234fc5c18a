"""Rows of a shard → which of their texts are labeled, and which together; knows no model.

It follows from the rows alone. int8 scales its numbers by what it computes together, so the same rows have to come together wherever and
however often they are labeled: in a run that was killed and goes on, by few threads or many, on one machine or several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from catcli.arrays import BoolArray, HashArray, IntArray
from catcli.data.dataset.text import row_text_series
from catcli.data.io.batch import Batch
from catcli.evaluation.label_choice import MOST_PROBABLE, LabelChoice
from catcli.inference.known_labels import KnownLabels, text_hashes

MAX_CHARACTERS_PER_TEXT = 128
"""Characters of a call's texts, at most, for each text that it may have: with 256 texts on a CPU, a second's work."""

FIRST_PIECE_ROWS, PIECE_GROWTH = 64, 4
"""Rows of a span's first piece, and how many times as many the next one has."""


@dataclass(frozen=True)
class LabelingPlan:
    """What to do with each row.

    ``text`` are the catalog's columns in the order of the adapter's text columns; one that is None is missing and counts as empty. Those
    of ``prices`` are read as bands. A row is accepted from ``min_confidence`` on, or from what ``by_category`` has for its category; one
    that it does not have never is, and the last ``never`` categories never are. ``keep`` are the columns that are written, None for all.
    ``ids`` are the identifiers of categories, where there are some. ``dedupe`` labels a text once that comes again. Of the most probable
    categories ``alternatives`` are written where they are several. A review has the column ``group`` of products, with ``text_column`` the
    text that is read, and at most ``budget`` groups; ``weight`` is the column that says what rows count in it.
    """

    text: tuple[str | None, ...]
    choice: LabelChoice = MOST_PROBABLE
    min_confidence: float = 0.0
    by_category: Mapping[str, float] | None = None
    keep: tuple[str, ...] | None = None
    alternatives: int = 1
    alternatives_as_json: bool = False
    dedupe: bool = True
    prices: frozenset[str] = frozenset()
    never: int = 0
    ids: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    text_column: bool = False
    weight: str | None = None
    budget: int | None = None

    def labels(self, categories: tuple[str, ...]) -> tuple[str, ...]:
        """What a row can be labeled with: the categories, or with a back-off the nodes of their tree, which begin with them."""
        return categories if self.choice.back_off is None else self.choice.back_off.tree.paths

    def kept(self, columns: Sequence[str]) -> list[str]:
        """Those of the catalog's columns that are written."""
        return [name for name in columns if self.keep is None or name in self.keep]


@dataclass(frozen=True)
class PlannedTexts:
    """Which texts of some rows are labeled.

    ``owner`` *(rows,)* is the number of each row's text among the different ones, whose ``hashes`` have shape *(texts,)* and rise where
    texts are labeled once. Of these, by number, ``fresh`` are labeled in ``calls``, one after the other; ``known`` has, for each of the
    `KnownLabels` that were given, the numbers of its texts and their places there. ``blank`` *(rows,)* says which have no text.
    """

    owner: IntArray
    hashes: HashArray
    fresh: IntArray
    calls: tuple[list[str], ...]
    known: tuple[tuple[IntArray, IntArray], ...]
    blank: BoolArray


def plan_texts(rows: Batch, plan: LabelingPlan, texts_per_call: int, known: Sequence[KnownLabels]) -> PlannedTexts:
    """Decide which texts of ``rows`` are labeled, at most ``texts_per_call`` together; those that are ``known`` are not."""
    columns = [column for column in plan.text if column is not None]
    texts = row_text_series(rows.select(list(dict.fromkeys(columns))), columns, plan.prices)
    hashes = text_hashes(texts)
    if plan.dedupe:
        distinct, first, owner = np.unique(hashes, return_index=True, return_inverse=True)
    else:
        distinct, first, owner = hashes, np.arange(len(hashes)), np.arange(len(hashes))
    is_fresh, found = np.ones(len(distinct), np.bool_), []
    for labels in known:
        places = labels.find(distinct)
        taken = np.flatnonzero((places >= 0) & is_fresh)
        found.append((taken, places[taken]))
        is_fresh[taken] = False
    fresh = np.flatnonzero(is_fresh)
    # By length, so that a call's texts fill batches of one length; by row within it, so that the order is always the same.
    lengths = texts.str.len_chars().to_numpy()[first[fresh]]
    order = np.lexsort((first[fresh], lengths))
    fresh, lengths = fresh[order], lengths[order]
    # The longest first: the calls that end a shard are short ones, and no worker is left alone with a long one.
    spans = [fresh[start:end] for start, end in reversed(list(_call_spans(lengths, texts_per_call)))]
    calls = tuple(texts.gather(first[chosen]).to_list() for chosen in spans)
    return PlannedTexts(owner, distinct, np.concatenate([np.empty(0, np.int64), *spans]), calls, tuple(found), (texts == "").to_numpy())


def _call_spans(lengths: npt.NDArray[Any], limit: int) -> Iterator[tuple[int, int]]:
    """Cuts of rising ``lengths``: at most ``limit`` texts, and `MAX_CHARACTERS_PER_TEXT` for each of these, or one text."""
    start = total = 0
    for position, length in enumerate(lengths.tolist()):
        if position > start and (position - start >= limit or total + length > MAX_CHARACTERS_PER_TEXT * limit):
            yield start, position
            start, total = position, 0
        total += length
    if len(lengths):
        yield start, len(lengths)


def cut_into_pieces(rows: Batch) -> Iterator[Batch]:
    """The pieces of a shard that are planned by themselves: the first shard of a span in growing ones, any other in one.

    Whoever waits at the end of a pipe sees the first rows at once; that a file gets them from the same pieces makes it the same bytes.
    """
    start, count, is_first = 0, FIRST_PIECE_ROWS, rows.index == 0 and not rows.piece_of
    while is_first and len(rows) > PIECE_GROWTH**2 * FIRST_PIECE_ROWS and len(rows) - start > count:
        yield rows.slice(start, count)
        start, count = start + count, PIECE_GROWTH * count
    yield rows.slice(start) if start else rows
