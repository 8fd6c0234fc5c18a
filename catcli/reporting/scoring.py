"""Adapters and rows → the data of a report: held-out rows of a fit, new rows, or rows that several adapters share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.adapter.folder import Adapter
from catcli.adapter.manifest import Manifest, Variant
from catcli.arrays import FloatArray
from catcli.config import DEFAULT_MAX_CHANGE
from catcli.data.dataset.categories import has_label, normalized_name
from catcli.data.dataset.column_mapping import map_text_columns, price_columns
from catcli.data.dataset.columns import find_column, similar_columns
from catcli.data.dataset.labeled import conflicting_labels
from catcli.data.dataset.split import key_hash, product_keys
from catcli.data.dataset.text import column_cells, column_type, is_scalar, row_text_series
from catcli.errors import ProductsError, name_list
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.calibration import BlendCalibration
from catcli.evaluation.evaluate import ScoredRows, evaluate_rows
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.evaluation.heldout import HeldOutRows
from catcli.evaluation.metrics import Scores
from catcli.evaluation.report_data import AdapterComparison, AdapterScores, FitReport, NewRowsReport
from catcli.evaluation.scores import compare_runs, holm_corrected, score_model
from catcli.evaluation.selective import ProductSample, find_thresholds
from catcli.inference.labeler import Labeler
from catcli.logs import LOGGER
from catcli.paths import display_path
from catcli.reporting.report_options import ReportOptions
from catcli.wording import count_noun

MAX_EXAMPLES = 3
"""Texts that are shown of each confused pair."""

MIN_SHARED_ROWS = 20
"""Rows that adapters have to share to be compared at all."""

MAX_SCORED_ROWS, MAX_LOGITS = 50_000, 40_000_000
"""Rows of ``--on`` that are scored at most, and rows times categories: an accuracy of .9 is then known to within .003."""

NO_TEXT = "(left out of this copy)"
"""Shown for a row's text where the adapter was exported without rows."""


@dataclass(frozen=True)
class ReportView:
    """The report of an adapter, and the rows behind it: ``probabilities`` *(rows, classes)* are the blend's."""

    adapter: Adapter
    report: FitReport | NewRowsReport
    names: Sequence[str]
    texts: Sequence[str]
    probabilities: FloatArray
    outcomes: Outcomes


def report_held_out(adapter: Adapter) -> ReportView:
    """What the fit measured, and the rows that it measured it on."""
    metrics, names = FitMetrics.of(adapter), adapter.manifest.categories
    test, by_model = scored_rows(adapter, metrics.variant)
    probabilities = by_model["blend"]
    outcomes = Outcomes.of(probabilities, test.classes, test.products)
    texts, blend = test.texts, metrics.blend
    if test.has_texts:
        blend = add_examples(blend, outcomes, names, texts)
    else:
        texts = [NO_TEXT] * len(texts)
    facts = {**dict(metrics), "blend": blend}
    report = FitReport(**facts, adapter=display_path(adapter.folder), created=adapter.manifest.created)
    return ReportView(adapter, report, names, texts, probabilities, outcomes)


def scored_rows(adapter: Adapter, variant: Variant) -> tuple[HeldOutRows, dict[str, FloatArray]]:
    """The rows that the adapter's scores are of, and their probabilities *(rows, classes)* by the names of `Evaluation`, as the fit had."""
    manifest = adapter.manifest
    held_out = HeldOutRows.load(adapter.file("heldout.parquet"), manifest.categories)
    roles, rows = held_out.roles, held_out.scored
    # With folds all rows take part: what is chosen for a fold is chosen by the rows of the others, scored or not.
    judged = rows if roles is None else held_out
    scored = ScoredRows({variant: judged.lora}, judged.linear, judged.classes, judged.products, manifest.categories, manifest.method, roles)
    probabilities = scored.probabilities(BlendCalibration.of(manifest), variant)
    probabilities["blend"] = scored.served(probabilities["blend"], manifest.variants[variant].cascade(DEFAULT_MAX_CHANGE))
    return rows, probabilities if roles is None else {name: values[roles.scored] for name, values in probabilities.items()}


def add_examples(scores: Scores, outcomes: Outcomes, names: Sequence[str], texts: Sequence[str]) -> Scores:
    """The scores, each confused pair with its most confident texts: the errors that a threshold does not catch."""
    examples: dict[tuple[str, str], tuple[str, ...]] = {}
    for row in outcomes.errors:
        pair = names[outcomes.truth[row]], names[outcomes.predicted[row]]
        known = examples.get(pair, ())
        if len(known) < MAX_EXAMPLES and texts[row] not in known:
            examples[pair] = (*known, texts[row])
    pairs = (pair.model_copy(update={"examples": examples.get((pair.truth, pair.predicted), ())}) for pair in scores.confusions)
    return scores.model_copy(update={"confusions": tuple(pairs)})


# --- new rows ------------------------------------------------------------------------------------------------------------------------


def report_new_rows(adapter: Adapter, options: ReportOptions) -> ReportView:
    """Label the rows of a file with the adapter as it ships, and score them."""
    frame, truth, unlabeled, source_name = _labeled_rows(adapter, options)
    manifest = adapter.manifest
    limit = min(MAX_SCORED_ROWS, max(MIN_SHARED_ROWS, MAX_LOGITS // len(manifest.categories)))
    left_out = max(0, len(frame) - limit)
    if left_out:
        sampled = np.sort(np.random.default_rng(0).permutation(len(frame))[:limit])
        frame, truth = frame[sampled], truth.gather(sampled)
        LOGGER.info(f"a sample of {limit:,} of {limit + left_out:,} labeled rows is scored")
    columns = map_text_columns(source_name, frame.schema, manifest, options.text, allow_missing=options.allow_missing)
    texts = row_text_series(frame, [column for column in columns if column is not None], price_columns(manifest, columns)).to_list()
    by_id = {manifest.category_ids[name]: name for name in manifest.categories if name in manifest.category_ids}
    truth = truth.replace(by_id) if by_id else truth
    truth = _known_by_look(truth, manifest.categories, options.merge_labels, source_name)
    unknown = sorted(set(truth.to_list()) - set(manifest.categories))
    if truth.is_in(unknown).all():
        raise ProductsError(
            f"--on {source_name}: none of its {len(frame):,} labeled rows is of a category that the adapter knows "
            f"({name_list(unknown, 3)} are new to it); choose the column with the true categories with --label."
        )
    labeler = Labeler(adapter, options.device, options.variant)
    for note in labeler.notes:
        LOGGER.warning(note)
    logits = labeler.logits(texts)
    names = (*manifest.categories, *unknown)
    numbers = {name: number for number, name in enumerate(names)}
    classes = np.array([numbers[name] for name in truth.to_list()], np.int64)
    products, separator = _products(frame, texts, manifest), manifest.separator
    scored = ScoredRows({labeler.variant: logits.lora}, logits.linear, classes, products, names, manifest.method, separator=separator)
    assessed = evaluate_rows(
        scored, labeler.variant, BlendCalibration.of(manifest), manifest.variants[labeler.variant], conflicting_labels(texts, classes)
    )
    evaluation, outcomes = assessed.evaluation, assessed.outcomes
    report = NewRowsReport(
        **{**dict(evaluation), "blend": add_examples(evaluation.blend, outcomes, names, texts)},
        adapter=display_path(adapter.folder),
        created=manifest.created,
        on=source_name,
        unlabeled=unlabeled,
        left_out=left_out,
        recalibrated=find_thresholds(ProductSample.of(outcomes)),
    )
    return ReportView(adapter, report, names, texts, assessed.probabilities, outcomes)


def _labeled_rows(adapter: Adapter, options: ReportOptions) -> tuple[pl.DataFrame, pl.Series, int, str]:
    """The rows that have a category, those categories, how many have none, and what the file is called."""
    source = options.open([options.on or ""])
    batch = source.read()
    if batch.note:
        LOGGER.warning(batch.note)
    frame, wanted = batch.frame, adapter.manifest.label
    same = similar_columns(wanted, frame.columns)
    if options.label is None and len(same) != 1:
        raise ProductsError(
            f"--on {source.name} has no column {wanted!r} with the true categories; say which one it is with --label; its columns are "
            f"{name_list(frame.columns, 30)}."
        )
    label = same[0] if options.label is None else find_column(options.label, frame.columns, "--label", source.name)
    if not is_scalar(column_type(frame, label)):
        raise ProductsError(
            f"--on {source.name}: the cells of {label!r} are {column_type(frame, label)}, not names; choose another with --label."
        )
    rows = frame.filter(has_label(column_cells(frame, label)))
    if not len(rows):
        raise ProductsError(
            f"--on {source.name} has {len(frame):,} rows and none with a category in {label!r}; choose another with --label."
        )
    return rows, column_cells(rows, label).cast(pl.String), len(frame) - len(rows), source.name


def _known_by_look(truth: pl.Series, categories: Sequence[str], merge: bool, source_name: str) -> pl.Series:
    """The true categories; where asked, those that differ from the adapter's only by case or blanks under the adapter's names.

    Raises:
        ProductsError: there are such, and nothing was said of them.
    """
    known = {normalized_name(name): name for name in reversed(categories)}
    spelled = {name: known[normalized_name(name)] for name in set(truth.to_list()) - set(categories) if normalized_name(name) in known}
    if not spelled:
        return truth
    if merge:
        return truth.replace(spelled)
    name, category = min(spelled.items())
    rows = int(truth.is_in(list(spelled)).sum())
    raise ProductsError(
        f"{count_noun(rows, 'row')} of --on {source_name} have categories that differ from the adapter's only by case, blanks or how their "
        f"letters "
        f"are encoded ({name!r} for {category!r}); --merge-labels takes them for the adapter's, or rename those that are others."
    )


def _products(frame: pl.DataFrame, texts: Sequence[str], manifest: Manifest) -> npt.NDArray[np.uint64]:
    """Hashes of product keys: of the column that grouped the training rows where it is there, else of the texts."""
    keys = product_keys(texts, None)
    groups = similar_columns(manifest.group, frame.columns) if manifest.group else []
    if len(groups) == 1:
        keys = product_keys(texts, column_cells(frame, groups[0]))
    return np.array([key_hash(key) for key in keys], np.uint64)


# --- several adapters ----------------------------------------------------------------------------------------------------------------


def compare_adapters(adapters: Sequence[Adapter]) -> AdapterComparison:
    """Compare adapters on the test rows that all of them have; where these are too few, score each on its own.

    Only rows that no adapter was trained on are in all their test parts, so none has an advantage. A copy without texts has none to tell
    them by.
    """
    judged = [scored_rows(adapter, FitMetrics.of(adapter).variant) for adapter in adapters]
    tests = [rows for rows, _ in judged]
    keyed = [_keyed(test, adapter.manifest.categories) for test, adapter in zip(tests, adapters, strict=True)]
    shared = [key for key in keyed[0] if all(key in other for other in keyed[1:])]
    comparable = len(shared) >= MIN_SHARED_ROWS
    # A product is one, whatever each adapter took for its key: those of the first count.
    products = tests[0].products[[keyed[0][key] for key in shared]]
    outcomes, reports = [], []
    for adapter, (test, by_model), row_of in zip(adapters, judged, keyed, strict=True):
        rows = np.array([row_of[key] for key in shared], np.int64) if comparable else np.arange(len(test.texts))
        probabilities = by_model["blend"][rows]
        outcome = Outcomes.of(probabilities, test.classes[rows], products if comparable else test.products)
        outcomes.append(outcome)
        blend = score_model(probabilities, outcome, adapter.manifest.categories)
        reports.append(AdapterScores(adapter=display_path(adapter.folder), test_rows=len(test.texts), blend=blend))
    names = short_names([adapter.folder for adapter in adapters])
    others = zip(outcomes[1:], names[1:], strict=True)
    comparisons = [compare_runs([other], outcomes[:1], name, names[0], len(names) - 1) for other, name in others if comparable]
    return AdapterComparison(shared_rows=len(shared), adapters=tuple(reports), comparisons=tuple(holm_corrected(comparisons)))


def _keyed(test: HeldOutRows, names: Sequence[str]) -> dict[tuple[str, str, int], int]:
    """Where each row is, by its text, its category and how often both came before."""
    repeats: Counter[tuple[str, str]] = Counter()
    rows_by_key: dict[tuple[str, str, int], int] = {}
    if not test.has_texts:
        return rows_by_key
    for index, (text, number) in enumerate(zip(test.texts, test.classes, strict=True)):
        pair = (text, names[number])
        rows_by_key[(*pair, repeats[pair])] = index
        repeats[pair] += 1
    return rows_by_key


def short_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, or their paths where two have the same."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [display_path(folder) for folder in folders]
