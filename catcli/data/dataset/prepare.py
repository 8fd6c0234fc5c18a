"""The data of ``fit``, ``tune`` and ``compare``: files → labeled rows, their columns and their split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from catcli.adapter.folder import file_sha256, package_versions
from catcli.adapter.manifest import MAX_NAME_CHARACTERS
from catcli.adapter.store import find_adapter
from catcli.config import Recipe
from catcli.data.dataset.categories import Categories, canonical_names, has_label
from catcli.data.dataset.columns import ColumnRoles, choose_columns
from catcli.data.dataset.corrections import Corrections, correct_rows
from catcli.data.dataset.examples import category_name_examples
from catcli.data.dataset.gather import GatheredRows, gather_rows
from catcli.data.dataset.labeled import LabeledRows
from catcli.data.dataset.split import MAX_HELD_OUT, MAX_LOGITS, MIN_PRODUCTS, Split, product_keys, split_into_folds, split_rows, text_key
from catcli.data.dataset.taxonomy import CategoryTree, chosen_separator
from catcli.data.dataset.taxonomy_file import Taxonomy
from catcli.data.dataset.text import column_cells, row_texts
from catcli.data.dataset.unlabeled import MAX_TEXTS, UnlabeledTexts, sample_unlabeled
from catcli.data.io.buckets import BucketObject
from catcli.data.io.input_options import InputOptions
from catcli.data.io.source import Source, open_source
from catcli.errors import ProductsError, UsageError, name_list
from catcli.logs import LOGGER
from catcli.wording import count_noun

DEFAULT_FOLDS, MAX_DEFAULT_FOLD_ROWS = 3, 4_000
"""Folds by default, and the labeled rows up to which there are some: see tests/bench/README.md."""

MAX_FOLD_ROWS = 30_000
"""Labeled rows up to which ``--folds`` is taken: the encoder learns from all of them, as a refit by default does on a CPU."""

MAX_UNSEEN_TEXTS = 2_000
"""Texts without a category, at most, by which a cascade is tested: as many as there are labeled rows in a usual fit."""

MAX_WITHOUT_ROWS = 1_000
"""Categories without rows, at most, that are known by name."""

HELD_OUT_ROWS_PER_SECOND = 15
"""Rows of each held-out part for every second of a time budget: scoring them takes a fifth of it on two cores."""


def fit_inputs(recipe: Recipe, options: InputOptions) -> dict[str, str]:
    """What decides a fit beside the labeled rows and the recipe, by the names under which a sentence speaks of it.

    Raises:
        CatcliError: the teacher or the unlabeled rows are not there.
    """
    inputs = {
        "how the files are read": json.dumps([options.input_format, options.delimiter, options.encoding]),
        "the versions of packages": json.dumps(package_versions()),
    }
    if recipe.teacher:
        inputs["the teacher"] = find_adapter(recipe.teacher).fingerprint
    if recipe.unlabeled:
        inputs["the file of --unlabeled"] = source_digest(open_source([recipe.unlabeled]))
    if recipe.taxonomy:
        inputs["the file of --taxonomy"] = file_sha256(Path(recipe.taxonomy))
    if recipe.corrections:
        inputs["the files of --corrections"] = " ".join(source_digest(open_source([file])) for file in recipe.corrections)
    weights = sorted(Path(recipe.base).expanduser().glob("*.safetensors")) if Path(recipe.base).expanduser().is_dir() else []
    if weights:
        inputs["the base"] = " ".join(map(file_sha256, weights))
    return inputs


def source_digest(source: Source) -> str:
    """The SHA-256 of the files' names and bytes; an object of a bucket by its ETag."""
    digest = hashlib.sha256()
    for path in source.paths:
        content = path.etag if isinstance(path, BucketObject) else file_sha256(path)
        digest.update(f"{path.name} {content}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


@dataclass(frozen=True)
class TrainingData:
    """Rows to learn from: their ``columns``, their split in ``split``, and the ``recipe`` with the columns in it.

    ``unlabeled`` are texts without a category, None where none were given. ``taxonomy`` are all categories there can be, where that is
    known, and ``without_rows`` those of them that no row has and that can be predicted.
    """

    labeled: LabeledRows
    split: Split
    columns: ColumnRoles
    recipe: Recipe
    unlabeled: UnlabeledTexts | None = None
    taxonomy: Taxonomy | None = None
    without_rows: tuple[str, ...] = ()


def load_training_data(source: Source, recipe: Recipe) -> TrainingData:
    """Read ``source`` as ``recipe`` says, and log what it has.

    Raises:
        ProductsError: there are no rows to train on, it is unclear which columns to read, or a label is not in the taxonomy.
    """
    taxonomy = Taxonomy.read(recipe.taxonomy, recipe.separator) if recipe.taxonomy else None
    rows = gather_rows(source, recipe.label, recipe.text, recipe.per_category, recipe.split_seed)
    if not rows.read:
        raise ProductsError(f"{source.name} has columns ({name_list(rows.frame.columns)}) and no rows; give a file with labeled rows.")
    if rows.note:
        LOGGER.warning(rows.note)
    if rows.short:
        short_rows = count_noun(rows.short, "row")
        LOGGER.warning(f"{short_rows} of {source.name} with fewer cells than the header; the missing ones are taken as empty.")
    columns = choose_columns(rows.frame, rows.label or recipe.label, recipe.text, recipe.group, source.name)
    _log_columns(columns)
    merge, corrections = recipe.merge_labels, recipe.corrections
    labeled = select_labeled_rows(rows, columns, source.name, merge=merge, taxonomy=taxonomy, corrections=corrections)
    split = _split_checked(labeled, recipe)
    unlabeled = _unlabeled(recipe, columns, labeled) if recipe.unlabeled else None
    resolved: dict[str, object] = {"label": columns.label, "text": columns.text, "group": columns.group}
    separator = taxonomy.separator if taxonomy else chosen_separator(labeled.categories.names, recipe.separator)
    if separator is not None:
        resolved["separator"] = separator
        depth = CategoryTree.of(labeled.categories.names, separator).depth
        LOGGER.info(f"categories are paths of up to {depth} levels, separated by {separator!r}")
    without_rows = _without_rows(taxonomy, labeled) if taxonomy else ()
    return TrainingData(labeled, split, columns, recipe.but(resolved), unlabeled, taxonomy, without_rows)


def _without_rows(taxonomy: Taxonomy, labeled: LabeledRows) -> tuple[str, ...]:
    """The categories of the taxonomy that no row has and whose names say something: those nearest to the others, up to a limit."""
    names = taxonomy.without_rows(labeled.categories.names)
    telling = [names[number] for number in category_name_examples(names).classes]  # others are codes, which say nothing
    limit = max(0, min(MAX_WITHOUT_ROWS, MAX_LOGITS // len(labeled.texts) - len(labeled.categories)))
    if telling:
        most = f"; the {limit:,} nearest to those with rows" if len(telling) > limit else ""
        LOGGER.info(f"{count_noun(len(telling), 'category')} of {taxonomy.source} without a row, known by name alone{most}")
    return tuple(telling[:limit])


def _log_columns(columns: ColumnRoles) -> None:
    group = f", group {columns.group!r}" if columns.group else ""
    bands = f" ({name_list(columns.prices)} in bands)" if columns.prices else ""
    LOGGER.info(f"columns: label {columns.label!r}, text {name_list(columns.text)}{bands}{group}")
    for name, reason in columns.left_out.items():
        LOGGER.warning(f"{name!r}: {reason}." if name in columns.text else f"{name!r} is left out: {reason}.")


def select_labeled_rows(
    gathered: GatheredRows,
    columns: ColumnRoles,
    source_name: str,
    *,
    merge: bool = False,
    taxonomy: Taxonomy | None = None,
    corrections: Sequence[str] = (),
) -> LabeledRows:
    """The rows that have a category, as texts, class numbers and product keys; with ``merge`` look-alike categories are one.

    With a ``taxonomy`` labels are its paths or identifiers. ``corrections`` are reviewed files, which win over the labels.

    Raises:
        ProductsError: there are no rows to train on.
    """
    read, frame = gathered.read, gathered.frame
    rows = frame.filter(has_label(column_cells(frame, columns.label)))
    unlabeled = gathered.unlabeled + len(frame) - len(rows)
    if not len(rows):
        raise ProductsError(f"{source_name} has {read:,} rows and none with a category in {columns.label!r}; choose another with --label.")
    labels, canonical = _labels(rows, columns, source_name, merge=merge, taxonomy=taxonomy)
    _check_lengths(Categories.of(labels), columns.label, source_name)
    if len(set(labels)) < 2:
        raise ProductsError(
            f"all {len(rows):,} labeled rows of {source_name} are of one category, {labels[0]!r}; at least two categories are "
            "needed: choose another column with --label or add rows."
        )
    texts = row_texts(rows, columns.text, columns.prices)
    blank = sum(not text for text in texts)
    if blank == len(texts):
        raise ProductsError(
            f"the text columns {name_list(columns.text)} of {source_name} are empty in every row; choose others with --text."
        )
    LOGGER.info(f"{count_noun(read, 'row')} read, {read - unlabeled:,} labeled with {len(set(labels)):,} categories")
    if len(rows) < read - unlabeled:
        LOGGER.info(f"{len(rows):,} of them are sampled, evenly over the categories")
    if unlabeled:
        LOGGER.warning(f"{count_noun(unlabeled, 'row')} without a category, not used for training.")
    if blank:
        LOGGER.warning(f"{count_noun(blank, 'row')} without text.")
    _check_look_alikes(canonical, merge, source_name)
    groups = column_cells(rows, columns.group) if columns.group else None
    unseen = _other_products(rows, frame.filter(~has_label(column_cells(frame, columns.label))), columns, texts)
    if not corrections:
        categories = Categories.of(labels)
        return LabeledRows(texts, categories.numbers(labels), product_keys(texts, groups), categories, read, unlabeled, unseen)
    decided = Corrections.read(corrections, columns, sorted(set(labels)), taxonomy, merge=merge)
    corrected = correct_rows(texts, labels, groups, decided)
    categories, taught = Categories.of(corrected.labels), set(map(text_key, decided.texts))
    classes, unseen = categories.numbers(corrected.labels), [text for text in unseen if text_key(text) not in taught]
    return LabeledRows(corrected.texts, classes, corrected.keys, categories, read, unlabeled, unseen, corrected.taught)


def _labels(
    rows: pl.DataFrame, columns: ColumnRoles, source_name: str, *, merge: bool, taxonomy: Taxonomy | None
) -> tuple[list[str], dict[str, str]]:
    """Each row's category, and `canonical_names` of what stands in the file."""
    labels = column_cells(rows, columns.label).cast(pl.String).to_list()
    if merge and taxonomy is not None:
        labels = list(map(taxonomy.respelled, labels))
    canonical = canonical_names(labels)
    if merge:
        labels = [canonical.get(label, label) for label in labels]
    if taxonomy is not None:
        taxonomy.check(Counter(labels), source_name)
        labels = [taxonomy.path_of(label) or label for label in labels]
    return labels, canonical


def _other_products(rows: pl.DataFrame, others: pl.DataFrame, columns: ColumnRoles, texts: list[str]) -> list[str]:
    """A text of each product of ``others``, or of a sample of them, that is none of the labeled ``rows``, whose ``texts`` these are."""
    if not len(others):
        return []
    others = others.sample(min(len(others), MAX_UNSEEN_TEXTS), shuffle=True, seed=0)
    other_texts = row_texts(others, columns.text, columns.prices)
    keys = product_keys(texts + other_texts, column_cells(pl.concat([rows, others]), columns.group) if columns.group else None)
    known = set(keys[: len(rows)])
    return list({key: text for key, text in zip(keys[len(rows) :], other_texts, strict=True) if text and key not in known}.values())


def _check_lengths(categories: Categories, label: str, source_name: str) -> None:
    longest = max(categories.names, key=len)
    if len(longest) > MAX_NAME_CHARACTERS:
        raise ProductsError(
            f"{source_name}: {label!r} has a cell of {len(longest):,} characters ({longest[:40]!r}…), which is no category; choose another "
            "column with --label, or correct that row."
        )


def _check_look_alikes(canonical: Mapping[str, str], merge: bool, source_name: str) -> None:
    """Say what was merged.

    Raises:
        ProductsError: there are look-alikes and nothing was said of them.
    """
    groups: dict[str, list[str]] = {}
    for name, merged_name in canonical.items():
        groups.setdefault(merged_name, []).append(name)
    if groups and merge:
        merged_away = [f"{name!r} into {merged_name!r}" for name, merged_name in canonical.items() if name != merged_name]
        more = f" and {len(merged_away) - 3:,} more" if len(merged_away) > 3 else ""
        LOGGER.info(f"merged, since they differ only by case or blanks: {', '.join(merged_away[:3])}{more}")
    elif groups:
        first = next(iter(groups.values()))
        more = f" and {count_noun(len(groups) - 1, 'more such group')}" if len(groups) > 1 else ""
        raise ProductsError(
            f"in {source_name} the categories {name_list(first, 5)}{more} differ only by case, blanks or how their letters are encoded; "
            "--merge-labels makes one of each, or rename those that are not one."
        )


def _split_checked(labeled: LabeledRows, recipe: Recipe) -> Split:
    folds = _fold_count(labeled, recipe)
    count = len(labeled.keys) - labeled.taught
    scored = replace(labeled, keys=labeled.keys[:count], classes=labeled.classes[:count])
    split = (_fold_split(scored, folds, recipe) if folds else None) or _holdout(scored, recipe)
    if len(split.test) < 50:
        LOGGER.warning(f"only {len(split.test)} test rows: with more rows the scores can change by several points.")
    return split.with_taught(labeled.taught) if labeled.taught else split


def _fold_count(labeled: LabeledRows, recipe: Recipe) -> int:
    """How many folds, 0 for a holdout: as many as the recipe says, or by default some where the rows are few and the saved model a refit.

    Raises:
        UsageError: more rows than folds are for.
    """
    rows, cells = len(labeled.texts), len(labeled.texts) * len(labeled.categories)
    if recipe.folds is None:
        # A teacher is clean of the rows that it held out itself, never of all rows.
        suits = recipe.refit and recipe.time_budget is None and recipe.teacher is None
        return DEFAULT_FOLDS if suits and rows <= MAX_DEFAULT_FOLD_ROWS and cells <= MAX_LOGITS else 0
    if recipe.folds and (rows > MAX_FOLD_ROWS or cells > MAX_LOGITS):
        most = min(MAX_FOLD_ROWS, MAX_LOGITS // len(labeled.categories))
        raise UsageError(
            f"--folds {recipe.folds}: {rows:,} labeled rows of {len(labeled.categories):,} categories are more than the {most:,} that "
            "folds are for; a part that is held out says as much of them: choose --folds 0."
        )
    return recipe.folds


def _fold_split(labeled: LabeledRows, folds: int, recipe: Recipe) -> Split | None:
    """The folds; None where there are too few products for those that nobody asked for.

    Raises:
        ProductsError: there are too few for ``--folds``.
    """
    split = split_into_folds(labeled.keys, labeled.classes, folds, recipe.split_seed)
    products, scored = len(set(labeled.keys)), np.bincount(split.fold[split.test], minlength=folds)
    least = min(len(np.unique(labeled.classes[split.fold != number])) for number in range(folds))
    if not scored.all() or least < 2:
        if recipe.folds is None:
            return None
        raise ProductsError(
            f"--folds {folds}: {count_noun(products, 'different product')} of {len(labeled.categories):,} categories are too few, since "
            "every fold needs rows to score and two categories outside it; choose fewer folds or --folds 0, or add labeled rows."
        )
    LOGGER.info(f"{folds} folds by product: {len(split.test):,} rows are scored by models of the other folds")
    if split.rare:
        names = [labeled.categories.names[number] for number in split.rare]
        verb = "category has" if len(names) == 1 else "categories have"
        LOGGER.warning(f"{len(names):,} {verb} products in one fold only, which train and are not scored: {name_list(names, 3)}.")
    return split


def _holdout(labeled: LabeledRows, recipe: Recipe) -> Split:
    limit = MAX_HELD_OUT if recipe.time_budget is None else min(MAX_HELD_OUT, max(1, int(recipe.time_budget * HELD_OUT_ROWS_PER_SECOND)))
    split = split_rows(labeled.keys, labeled.classes, recipe.split, recipe.split_seed, limit)
    if not len(split.test) or not len(split.validation):
        raise ProductsError(
            f"{len(labeled.texts):,} rows are too few to keep any back for scoring: no category has {MIN_PRODUCTS} different products; "
            "add labeled rows."
        )
    if len(np.unique(labeled.classes[split.train])) < 2:
        raise ProductsError("the training part holds one category only; add labeled rows, or give training a larger share with --split.")
    LOGGER.info(f"split by product: {len(split.train):,} training, {len(split.validation):,} validation, {len(split.test):,} test rows")
    if split.rare:
        names = [labeled.categories.names[number] for number in split.rare]
        LOGGER.warning(
            f"{len(names)} categories have fewer than {split.fewest} products; a sample of their rows is scored: {name_list(names, 3)}."
        )
    return split


def _unlabeled(recipe: Recipe, columns: ColumnRoles, labeled: LabeledRows) -> UnlabeledTexts:
    source = open_source([recipe.unlabeled or ""])
    limit = MAX_TEXTS if recipe.teacher else MAX_UNSEEN_TEXTS
    sample = sample_unlabeled(source, columns.text, columns.prices, columns.group, labeled, recipe.split_seed, limit)
    left_out = f"; {sample.known:,} more are products of the labeled rows and are left out" if sample.known else ""
    LOGGER.info(f"{sample.read:,} rows of {source.name} without categories, {len(sample.texts):,} different texts sampled{left_out}")
    return sample
