"""``fit --corrections``: what a person decided, as rows to learn from.

A decided row of a product that has labeled rows gives these its category. One of another product is a row more: it trains, and is never
scored, since reviewed rows are no sample of the catalog.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from catcli.data.dataset.columns import ColumnRoles
from catcli.data.dataset.reviewed import ReviewedRows, known_names
from catcli.data.dataset.split import product_keys
from catcli.data.dataset.taxonomy_file import Taxonomy
from catcli.data.dataset.text import column_cells, column_type, is_scalar
from catcli.errors import ProductsError
from catcli.logs import LOGGER
from catcli.wording import count_noun

UNKNOWN_HINT = "Correct these cells; a category that is new has to be in a file of all categories, given with --taxonomy."

MAX_NAMES = 3
"""Changes that a sentence names."""


@dataclass(frozen=True)
class Corrections:
    """Decided rows: their texts, categories and cells of the group column *(rows,)*, null where there is none, and where each stands."""

    texts: list[str]
    labels: list[str]
    groups: list[str | None]
    where: list[str]

    @classmethod
    def read(
        cls, files: Sequence[str], columns: ColumnRoles, known: Sequence[str], taxonomy: Taxonomy | None, *, merge: bool = False
    ) -> Corrections:
        """The decided rows of reviewed files, whose columns are those of the labeled rows; ``known`` are the labels of these.

        With ``merge`` a category may differ from these by case and blanks.

        Raises:
            ProductsError: a file cannot be read as one, or a category is unknown.
        """
        found = cls([], [], [], [])
        spelled = known_names(known, merge=merge)
        for file in files:
            reviewed = ReviewedRows.read(file, "--corrections")
            path_of = taxonomy.path_of if taxonomy else spelled
            found.labels.extend(reviewed.check_known(path_of, taxonomy.paths if taxonomy else known, UNKNOWN_HINT))
            found.texts.extend(reviewed.texts(columns.text, columns.prices))
            found.groups.extend(_groups(reviewed, columns.group))
            found.where.extend(f"{file}, row {number:,}" for number in reviewed.numbers)
        return found

    def __len__(self) -> int:
        """How many rows were decided."""
        return len(self.texts)


def _groups(reviewed: ReviewedRows, column: str | None) -> list[str | None]:
    """The cells of the labeled rows' group column, where the reviewed rows have it."""
    if column is None:
        return [None] * len(reviewed.categories)
    found = reviewed.find_column(column)
    if found is None or not is_scalar(column_type(reviewed.frame, found)):
        LOGGER.warning(
            f"{reviewed.where} has no column {column!r}, by which labeled rows are grouped; decided rows are grouped by their text alone."
        )
        return [None] * len(reviewed.categories)
    return column_cells(reviewed.frame, found).cast(pl.String).to_list()


@dataclass(frozen=True)
class CorrectedRows:
    """Labeled rows after corrections, and behind them the ``taught`` rows that were added; texts, labels and product keys *(rows,)*."""

    texts: list[str]
    labels: list[str]
    keys: list[str]
    taught: int


def correct_rows(texts: list[str], labels: list[str], groups: pl.Series | None, corrections: Corrections) -> CorrectedRows:
    """Give labeled rows the category that was decided for their product, add the decided rows of other products, and log what changed.

    Raises:
        ProductsError: rows of one product were decided otherwise.
    """
    every_group = None
    if groups is not None:
        every_group = pl.concat([groups.cast(pl.String), pl.Series(corrections.groups, dtype=pl.String)])
    keys = product_keys([*texts, *corrections.texts], every_group)
    count = len(texts)
    decided: dict[str, int] = {}
    for place, key in enumerate(keys[count:]):
        if not key:  # no product: rows without a text, or of punctuation alone, have nothing in common
            continue
        earlier = decided.setdefault(key, place)
        if corrections.labels[earlier] != corrections.labels[place]:
            raise ProductsError(
                f"--corrections: {corrections.where[earlier]}, and {corrections.where[place]}, are one product, and one is "
                f"{corrections.labels[earlier]!r}, the other {corrections.labels[place]!r}; fill in the same category."
            )
    changed: Counter[tuple[str, str]] = Counter()
    corrected = list(labels)
    for row, key in enumerate(keys[:count]):
        if key in decided and corrections.labels[decided[key]] != labels[row]:
            corrected[row] = corrections.labels[decided[key]]
            changed[labels[row], corrected[row]] += 1
    known, seen = set(keys[:count]), set[str]()
    added = []
    for place, (key, text) in enumerate(zip(keys[count:], corrections.texts, strict=True)):
        if key and key not in known and text not in seen:
            seen.add(text)
            added.append(place)
    _log(len(corrections), changed, len(added))
    return CorrectedRows(
        [*texts, *(corrections.texts[place] for place in added)],
        [*corrected, *(corrections.labels[place] for place in added)],
        [*keys[:count], *(keys[count + place] for place in added)],
        len(added),
    )


def _log(decided: int, changed: Counter[tuple[str, str]], added: int) -> None:
    pairs = [f"{old!r} to {new!r} ({count_noun(rows, 'row')})" for (old, new), rows in changed.most_common(MAX_NAMES)]
    more = f" and {len(changed) - MAX_NAMES:,} more such changes" if len(changed) > MAX_NAMES else ""
    relabeled = f"{count_noun(changed.total(), 'labeled row')} changed{': ' if pairs else ''}{', '.join(pairs)}{more}"
    more_rows = f"{count_noun(added, 'row')} added, which {'trains and is' if added == 1 else 'train and are'} not scored"
    LOGGER.info(f"corrections: {count_noun(decided, 'decided row')}; {relabeled}; {more_rows}")
