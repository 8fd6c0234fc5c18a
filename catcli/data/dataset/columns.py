"""The roles of columns: label, text and group; and the error where a role is unclear."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from catcli.data.dataset.text import column_cells, column_type, is_price, is_scalar, is_textual, name_words, row_texts
from catcli.errors import ProductsError, did_you_mean, name_list

SAMPLE_ROWS = 20_000
"""Rows that are looked at to tell what a column holds."""

PURITY = 0.98
"""A column whose value settles the label in so large a share of rows, with hardly more values than labels, gives the label away."""

_LABELS = ("category", "categorylabel", "categoryname", "categorypath", "productcategory", "maincategory", "label", "class", "target")
_LABEL_WORDS = {"category", "categories", "label", "class", "department", "shelf", "taxonomy", "kategorie", "categorie", "categoria"}
_BRAND = 1
_TEXT_WORDS = {
    **dict.fromkeys(("title", "headline", "titel", "titre"), 0),
    **dict.fromkeys(("brand", "manufacturer", "maker"), _BRAND),
    **dict.fromkeys(("text", "ingredients", "features", "bullets", "keywords", "material", "spec", "specs", "specification"), 2),
    **dict.fromkeys(("description", "details", "summary", "about", "beschreibung"), 3),
}
_NAMES = {"name", "productname", "itemname", "product", "item"}
_GROUPS = {"parentasin", "itemgroupid", "productid", "groupid", "clusterid", "modelid", "parentid", "parentsku", "variantgroup"}
_CODES = {"id", "code", "key", "no", "nr", "number", "sku", "ean", "gtin", "url", "link", "image", "date", "path"}


@dataclass(frozen=True)
class ColumnRoles:
    """The roles of a file's columns.

    ``prices`` are those of the text columns that are read as bands; ``left_out`` maps a column that was not taken as text to the reason,
    where that is worth saying.
    """

    label: str
    text: tuple[str, ...]
    group: str | None
    prices: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


def normalized(name: str) -> str:
    """A column name without case, blanks and punctuation."""
    return re.sub(r"[\W_]+", "", name.casefold())


def similar_columns(name: str, columns: Sequence[str]) -> list[str]:
    """The column of exactly that name, else all that differ from it just by case, blanks or punctuation."""
    return [name] if name in columns else [column for column in columns if normalized(column) == normalized(name)]


def find_column(name: str, columns: Sequence[str], option: str, source_name: str) -> str:
    """The column that ``name`` means: the one of exactly that name, else the only one that differs just by case, blanks or punctuation.

    Raises:
        ProductsError: there is none, or there are several.
    """
    candidates = similar_columns(name, columns)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise ProductsError(
            f"{option} {name!r} fits the columns {name_list(candidates)} of {source_name}; write the one you mean as it stands there."
        )
    raise ProductsError(
        f"{option} {name!r}: {source_name} has no such column{did_you_mean(name, columns)}; its columns are {name_list(columns, 30)}."
    )


def choose_columns(frame: pl.DataFrame, label: str | None, text: Sequence[str], group: str | None, source_name: str) -> ColumnRoles:
    """The roles that were given, and for the others those found by name and content.

    Raises:
        ProductsError: a column is not there, none fits, or two fit equally well.
    """
    columns = frame.columns
    sample = frame if len(frame) <= SAMPLE_ROWS else frame.sample(SAMPLE_ROWS, seed=0)
    found_label = find_label_column(sample, label, text, source_name)
    left_out: dict[str, str] = {}
    if text:
        chosen = tuple(dict.fromkeys(find_column(name, columns, "--text", source_name) for name in text))
        if found_label in chosen:
            raise ProductsError(f"--text {found_label!r} is the label itself; leave it out.")
        for name in chosen:
            if not is_textual(column_type(frame, name)):
                raise ProductsError(f"--text {name!r}: its cells are {column_type(frame, name)}, not text; choose another column.")
            if leaks_label(sample, name, found_label):
                left_out[name] = "it gives the label away; it is used as you asked, but the scores will be too high"
    else:
        chosen, left_out = _find_text_columns(sample, found_label, source_name)
    found_group = find_column(group, columns, "--group", source_name) if group else _find_group_column(sample, {found_label, *chosen})
    if found_group is not None and not is_scalar(column_type(frame, found_group)):
        raise ProductsError(f"--group {found_group!r}: its cells are {column_type(frame, found_group)}, not names; choose another column.")
    return ColumnRoles(found_label, chosen, found_group, tuple(name for name in chosen if is_price(sample, name)), left_out)


# --- the label ---------------------------------------------------------------------------------------------------------------------


def _label_rank(name: str) -> int:
    spoken = name_words(name)
    if normalized(name) in _LABELS:
        return 3
    if not spoken or spoken[-1] in _CODES:
        return 1 if _LABEL_WORDS.intersection(spoken) and spoken[-1] == "path" else 0
    return 2 if spoken[-1] in _LABEL_WORDS else int(bool(_LABEL_WORDS.intersection(spoken)))


def find_label_column(sample: pl.DataFrame, label: str | None, text: Sequence[str], source_name: str) -> str:
    """The column with the categories: ``label`` where it is given, else by name and content; no column of ``text``.

    Raises:
        ProductsError: it is not there, none fits, or two fit equally well.
    """
    if label:
        column = find_column(label, sample.columns, "--label", source_name)
        if not is_scalar(column_type(sample, column)):
            raise ProductsError(f"--label {column!r}: its cells are {column_type(sample, column)}, not names; choose another column.")
        return column
    taken = {normalized(name) for name in text}
    fits: dict[str, tuple[int, int]] = {}
    for name, dtype in sample.schema.items():
        if normalized(name) in taken or not is_scalar(dtype):
            continue
        cells = column_cells(sample, name).drop_nulls()
        distinct = cells.n_unique()
        if len(cells) and (distinct == 1 or distinct <= max(2, len(cells) // 2)) and _label_rank(name):
            fits[name] = (_label_rank(name), int(distinct > 1))
    if not fits:
        raise ProductsError(
            f"no column of {source_name} looks like the category by its name and content; say which it is with --label; "
            f"its columns are {name_list(sample.columns, 30)}."
        )
    best = max(fits.values())
    names = [name for name, rank in fits.items() if rank == best]
    if len(names) > 1:
        raise ProductsError(f"{name_list(names)} of {source_name} fit equally well as the category; choose one with --label.")
    return names[0]


# --- text --------------------------------------------------------------------------------------------------------------------------


def _find_text_columns(sample: pl.DataFrame, label: str, source_name: str) -> tuple[tuple[str, ...], dict[str, str]]:
    left_out: dict[str, str] = {}
    named: dict[str, int] = {}
    prose: list[str] = []
    for name in sample.columns:
        if name == label:
            continue
        if leaks_label(sample, name, label):  # asked of codes too: that they are no text is not why they are left out
            left_out[name] = "it gives the label away"
            continue
        if not _is_text(sample, name):
            continue
        words = name_words(name)
        ranks = [_TEXT_WORDS[word] for word in words if word in _TEXT_WORDS]
        if normalized(name) in _NAMES:
            named[name] = 0
        elif ranks and words[-1] not in _CODES:
            named[name] = min(ranks)
        elif _is_prose(column_cells(sample, name)):
            prose.append(name)
    chosen = sorted(named, key=lambda name: (named[name], sample.columns.index(name))) or prose
    if chosen and named.get(chosen[0]) == _BRAND:
        # Without a title a maker does not come first: of usda_food's 500 rows .43 are right with the ingredients first, .40 with the owner.
        chosen = sorted(chosen, key=lambda name: named[name] == _BRAND)
    if not chosen:
        raise ProductsError(
            f"no column of {source_name} looks like product text (titles, names, descriptions); say which to read with --text; "
            f"its columns are {name_list(sample.columns, 30)}."
        )
    return tuple(chosen), left_out


def _is_text(sample: pl.DataFrame, name: str) -> bool:
    dtype = column_type(sample, name)
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    if inner not in (pl.String, pl.Categorical, pl.Enum):
        return False
    cells = pl.Series([text for text in row_texts(sample, [name]) if text], dtype=pl.String)
    worded, codes = cells.str.contains(r"\p{L}{2}").sum(), cells.str.contains(r"^(https?://|\{\s*\")").sum()  # links, mappings as JSON
    return len(cells) > 0 and worded >= len(cells) / 2 and codes <= len(cells) / 2


def _is_prose(cells: pl.Series) -> bool:
    if cells.dtype != pl.String:
        return True
    texts = cells.drop_nulls()
    blanks = texts.str.strip_chars().str.count_matches(r"\s+").sum()
    return blanks >= len(texts) and texts.n_unique() >= 0.2 * len(texts)


def leaks_label(sample: pl.DataFrame, column: str, label: str) -> bool:
    """Whether ``column`` is the label in other clothes: its code, its parent path, a breadcrumb that holds it."""
    if column == label or not is_textual(column_type(sample, column)) or isinstance(column_type(sample, column), pl.Array):
        return False
    cells = column_cells(sample, column)
    if isinstance(cells.dtype, pl.List):
        cells = cells.list.eval(pl.element().cast(pl.String)).list.join(" > ")
    pairs = pl.DataFrame({"cell": cells.cast(pl.String), "label": column_cells(sample, label).cast(pl.String)}).drop_nulls()
    values, labels = pairs["cell"].n_unique(), pairs["label"].n_unique()
    if len(pairs) < 10 or labels < 2 or values < 2:
        return False
    # Text that contains the label behind a separator, as breadcrumbs do, or is the label.
    cell, leaf = pl.col("cell").str.to_lowercase(), pl.col("label").str.split(">").list.last().str.strip_chars().str.to_lowercase()
    crumb = (
        cell.str.contains(r"[>/|»]") & cell.str.contains(leaf, literal=True) | (cell == leaf) | (cell == pl.col("label").str.to_lowercase())
    )
    if values <= len(pairs) / 2 and float(pairs.select(crumb.mean()).item()) >= 0.9:
        return True
    if values > 1.5 * labels + 1 or values > len(pairs) / 3:
        return False
    largest = pairs.group_by("cell", "label").len().group_by("cell").agg(pl.col("len").max())["len"].sum()
    return int(largest) / len(pairs) >= PURITY


# --- the group ---------------------------------------------------------------------------------------------------------------------


def _find_group_column(sample: pl.DataFrame, taken: set[str]) -> str | None:
    """A column of product numbers by name whose values repeat as offers or variants of one product do."""
    for name in sample.columns:
        if name in taken or normalized(name) not in _GROUPS or not is_scalar(column_type(sample, name)):
            continue
        cells = column_cells(sample, name)
        if cells.null_count() == 0 and 1.05 <= len(cells) / max(cells.n_unique(), 1) <= 20:
            return name
    return None
