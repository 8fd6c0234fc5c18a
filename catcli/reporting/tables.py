"""Numbers → rich tables that fit 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.table import Table
from rich.text import Text

from catcli.adapter.manifest import Threshold
from catcli.config import METHOD_TITLES, Method
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.evaluation.metrics import (
    TITLES,
    TREE_TITLES,
    Comparison,
    Estimate,
    Evaluation,
    MeasuredBackOff,
    MeasuredCategoryThresholds,
    MeasuredThreshold,
    Scores,
    TreeScores,
)
from catcli.evaluation.report_data import NewRowsReport
from catcli.evaluation.studies import Audit, CatalogDiff, GridResult, Migration, TuneResult
from catcli.reporting import sentences
from catcli.wording import count_noun, format_confidence, per_cent, printable


def model_titles(method: Method) -> dict[str, str]:
    """How tables call the three models; the blend is what `predict` labels with."""
    return {"blend": "blend", "lora": f"{METHOD_TITLES[method]} alone", "linear": "linear alone"}


NAME_CELLS = 32
"""Cells that a category's name gets."""


def shortened(name: str, width: int = NAME_CELLS) -> str:
    """A name in at most ``width`` cells. Of a path the end tells most, so its first steps go; of anything else the end goes."""
    name = " ".join(printable(name).split())
    if cell_len(name) <= width:
        return name
    steps = re.split(r"(?<=[^\s>/|]) *[>/|] *", name)
    for first in range(1, len(steps)):
        tail = "… > " + " > ".join(steps[first:])
        if cell_len(tail) <= width:
            return tail
    return set_cell_size(name, width - 1).rstrip() + "…"


def three_digits(value: float | None) -> str:
    """Three digits after the point; a dash where it is not defined."""
    return "–" if value is None else f"{value:.3f}"


def table(title: str, *columns: str, names: int = 1) -> Table:
    """An empty table whose first ``names`` columns are words and the others numbers."""
    result = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        result.add_column(column, justify="left" if position < names else "right", no_wrap=True, overflow="ellipsis")
    return result


def fact_table(title: str, values: Mapping[str, str]) -> Table:
    """Names and what they stand for, a line each; a value that is too long goes on in the next line."""
    result = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    result.add_column(no_wrap=True)
    result.add_column(overflow="fold")
    for name, value in values.items():
        result.add_row(name, Text(printable(value)))
    return result


SHORT_METRICS = ("accuracy", "macro_f1", "weighted_f1", "log_loss")
"""The metrics that a fit ends with; a report has all of `TITLES`."""


def with_interval(estimate: Estimate) -> str:
    """A value and its interval in 15 cells."""
    return f"{estimate.value:.3f} {estimate.low:.2f}–{estimate.high:.2f}"


def score_table(evaluation: Evaluation, metrics: Iterable[str] = TITLES) -> Group:
    """Some metrics of the blend, LoRA and the linear model with their 95 % intervals, a line each."""
    named = model_titles(evaluation.method)
    result = table("Scores, 95 % intervals", "", *named.values())
    for metric in metrics:
        result.add_row(TITLES[metric], *(with_interval(getattr(getattr(evaluation, name), metric)) for name in named))
    # Not the table's own caption, which would break at the table's width.
    return Group(result, Text(caption(evaluation), style="dim italic"))


def caption(evaluation: Evaluation) -> str:
    """What rows a score is of."""
    sentence = f"{count_noun(evaluation.scored_rows, 'row')} of {count_noun(evaluation.scored_products, 'product')}"
    if isinstance(evaluation, NewRowsReport):
        sentence += f" of {evaluation.on}; rows that the adapter was trained on get scores that are too high"
    if isinstance(evaluation, FitMetrics):
        count = len(evaluation.rare_categories)
        if evaluation.rows.folds:
            sentence += f", each scored by models of the other {evaluation.rows.folds - 1} of {evaluation.rows.folds} folds"
            sentence += f"; categories with products in one fold only, which are not scored: {count:,}" if count else ""
        else:
            sentence += " that no scored model was trained on"
            sentence += f"; rare categories, of which a sample is scored: {count:,}" if count else ""
        if evaluation.training.refit:
            sentence += "\nthe saved model was then refitted on all rows"
    return sentence


def threshold_table(promises: Sequence[MeasuredThreshold]) -> Table:
    """For each precision its threshold, coverage and measured precision."""
    result = table("Thresholds (predict --precision)", "precision", "confidence", "accepted", "precision on the scored rows")
    for promise in promises:
        threshold = "–" if promise.threshold is None else format_confidence(promise.threshold)
        accepted = "–" if promise.accepted_in_test is None else per_cent(promise.accepted_in_test)
        result.add_row(f"{promise.precision:.0%}", threshold, accepted, sentences.threshold_outcome(promise))
    result.columns[3].no_wrap, result.columns[3].justify = False, "left"
    return result


def tree_table(tree: TreeScores) -> Table:
    """Accuracy at every level of the tree, and the hierarchical scores."""
    result = table(f"On the tree of categories ({tree.separator.strip()}), 95 % intervals", "", "rows", "")
    for level in tree.levels:
        result.add_row(f"accuracy at level {level.level}", f"{level.rows:,}", with_interval(level.accuracy))
    for name, title in TREE_TITLES.items():
        result.add_row(title, "", with_interval(getattr(tree, name)))
    result.add_row("steps to the true category, mean", "", with_interval(tree.distance))
    return result


def back_off_table(thresholds: Sequence[MeasuredBackOff]) -> Table:
    """For each precision the threshold for labels at any level, and what it labels at which."""
    result = table(
        "Labels at any level (predict --precision --back-off)", "precision", "confidence", "labeled", "right", "by level: labeled"
    )
    for single in thresholds:
        if single.threshold is None or single.accepted_in_test is None:
            result.add_row(f"{single.precision:.0%}", "–", "–", "–", single.shortfall)
            continue
        right = "–" if single.reached_in_test is None else per_cent(single.reached_in_test.value)
        levels = ", ".join(f"{level.level}: {per_cent(level.accepted)}" for level in single.levels if level.accepted)
        result.add_row(f"{single.precision:.0%}", format_confidence(single.threshold), per_cent(single.accepted_in_test), right, levels)
    result.columns[4].no_wrap, result.columns[4].justify = False, "left"
    return result


def new_threshold_table(thresholds: Sequence[Threshold]) -> Table:
    """Thresholds from new rows."""
    result = table("Thresholds from these rows (predict --min-confidence)", "precision", "confidence", "accepted", "")
    for threshold in thresholds:
        if threshold.threshold is None or threshold.accepted is None:
            result.add_row(f"{threshold.precision:.0%}", "–", "–", threshold.shortfall)
        else:
            result.add_row(f"{threshold.precision:.0%}", format_confidence(threshold.threshold), per_cent(threshold.accepted), "")
    result.columns[3].no_wrap, result.columns[3].justify = False, "left"
    return result


def category_threshold_table(categories: Sequence[MeasuredCategoryThresholds]) -> Table:
    """For each category the highest precision that has a threshold."""
    result = table("Thresholds by category (predict --precision --by-category)", "category", "precision", "confidence", "accepted")
    for category in categories:
        shown = [promise for promise in category.promises if promise.threshold is not None]
        if shown:
            best = shown[-1]
            accepted = "–" if best.accepted_in_test is None else per_cent(best.accepted_in_test)
            result.add_row(Text(shortened(category.category)), f"{best.precision:.0%}", format_confidence(best.threshold or 0.0), accepted)
    return result


def category_table(scores: Scores) -> Table:
    """Support, precision, recall, F1 with its interval, ROC AUC and average precision of each category, the largest first."""
    result = table("By category", "category", "rows", "prec.", "recall", "F1", "95 %", "AUC", "AP")
    result.padding = (0, 1, 0, 0)  # nine columns in 80 cells
    for category in sorted(scores.categories, key=lambda scored: (-scored.support, scored.category)):
        f1 = category.f1
        ends = "–" if f1 is None else f"{f1.low:.2f}–{f1.high:.2f}"
        numbers = (category.precision, category.recall, None if f1 is None else f1.value)
        result.add_row(
            Text(shortened(category.category, 22)),
            f"{category.support:,}",
            *map(three_digits, numbers),
            ends,
            *map(three_digits, (category.roc_auc, category.average_precision)),
        )
    return result


def adapter_table(adapters: Mapping[str, Scores], title: str = "Side by side, 95 % intervals") -> Table:
    """Several adapters on the rows that they share, a column each."""
    result = table(title, "", *(shortened(name, 24) for name in adapters))
    for metric, named in TITLES.items():
        result.add_row(named, *(with_interval(getattr(scores, metric)) for scores in adapters.values()))
    return result


SHORT_SETTINGS = {"batch_size": "batch", "weight_decay": "decay", "dropout": "drop"}
"""What a narrow table calls settings."""


def trial_table(tuned: TuneResult) -> Table:
    """Every trial of a search, the best marked."""
    names = list(tuned.trials[0].settings)
    result = table("Trials", "", TITLES[tuned.metric], *(SHORT_SETTINGS.get(name, name) for name in names), "s")
    result.padding = (0, 1, 0, 0)  # ten columns in 80 cells
    for trial in tuned.trials:
        score = "pruned" if trial.score is None else f"{trial.score:.4f}"
        suffix = " best" if trial.number == tuned.best else ""
        result.add_row(f"{trial.number}{suffix}", score, *(f"{trial.settings[name]:.3g}" for name in names), f"{trial.seconds:.0f}")
    return result


def alone_table(grid: GridResult) -> Group:
    """Every model alone, as in the study."""
    result = table("Each model alone", "model", "acc.", "prec.", "recall", "F1", "AUC", "s", "MiB", "trained", "size")
    result.padding = (0, 1, 0, 0)  # ten columns in 80 cells
    for model in grid.models:
        scores = (model.accuracy, model.macro_precision, model.macro_recall, model.macro_f1)
        memory = "–" if model.peak_memory is None else f"{model.peak_memory / 2**20:,.0f}"
        result.add_row(
            Text(shortened(model.name, 22)),
            *(three_digits(score.value) for score in scores),
            three_digits(model.roc_auc),
            f"{model.seconds:,.0f}",
            memory,
            short_count(model.trained),
            short_count(model.learned_bytes) + "B",
        )
    sentence = f"{count_noun(grid.test_rows, 'test row')} of {count_noun(grid.test_products, 'product')} that no model was trained on"
    return Group(result, Text(f"{sentence}; precision, recall, F1 and AUC are means over the categories", style="dim italic"))


def blend_table(grid: GridResult) -> Table:
    """Every model in its blend with the linear model, as `predict` would use it."""
    result = table("In the blend with the linear model, 95 % intervals", "model", "accuracy", "macro F1", "validation log loss")
    for model in grid.models:
        accuracy, macro_f1 = model.blend_accuracy or model.accuracy, model.blend_macro_f1 or model.macro_f1
        named = model.name if model.base else f"{model.name} (alone)"
        result.add_row(Text(shortened(named, 30)), with_interval(accuracy), with_interval(macro_f1), f"{model.validation_log_loss:.3f}")
    return result


def pair_table(comparisons: Sequence[Comparison]) -> Table:
    """Pairs of models, each alone, with the test's p-value, the clearest differences first."""
    result = table(
        "Pairs, each alone; 95 % intervals and p hold for all of them together",
        "",
        "accuracy, points",
        "macro F1, points",
        "p",
    )
    for pair in sorted(comparisons, key=lambda compared: compared.p_value):
        shown = [
            f"{sentences.signed(difference.value)} ({sentences.signed(difference.low)} to {sentences.signed(difference.high)})"
            for difference in (pair.accuracy, pair.macro_f1)
        ]
        result.add_row(Text(f"{shortened(pair.of, 26)}\n  over {shortened(pair.against, 21)}"), *shown, f"{pair.p_value:.2g}")
    return result


def short_count(number: float) -> str:
    """``654k``, ``90.6M``: three digits."""
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"


MAX_CHANGES = 15
"""Changes, and categories, that a terminal shows."""


def change_table(changes: CatalogDiff) -> Table:
    """From which category to which rows would change, the largest changes first."""
    result = table("Largest changes", "category → new category", "rows", *([changes.weight_column] if changes.weight_column else []))
    for flow in changes.flows[:MAX_CHANGES]:
        weight = [f"{flow.weight:,.0f}"] if changes.weight_column else []
        result.add_row(Text(f"{shortened(flow.before, 50)}\n  → {shortened(flow.after, 46)}"), f"{flow.rows:,}", *weight)
    return result


def migration_table(result: Migration) -> Table:
    """The old categories that get another name: the least sure first, of a mapping that was applied the largest."""
    moved = [entry for entry in result.suggestions if entry.old != entry.new]
    moved.sort(key=lambda entry: -entry.rows if result.applied else entry.confidence)
    title = "Old → new categories" if result.applied else "Old → new categories, the least sure first"
    numbers = table(title, "old → new", "rows", *([] if result.applied else ["confidence"]))
    for entry in moved[:MAX_CHANGES]:
        confidence = [] if result.applied else [f"{entry.confidence:.2f}"]
        numbers.add_row(Text(f"{shortened(entry.old, 50)}\n  → {shortened(entry.new, 46)}"), f"{entry.rows:,}", *confidence)
    return numbers


def audit_tables(result: Audit) -> list[Table]:
    """Labels that are probably wrong, near-equal rows with different labels, and categories that may be one; those of them there are."""
    tables = []
    if result.suspects:
        suspects = table(
            "Labels that are probably wrong, the likeliest first", "row", "text, its label → what is more probable", "label", names=2
        )
        for suspect in result.suspects[:MAX_CHANGES]:
            text = f"{shortened(suspect.text, 60)}\n  {shortened(suspect.label, 28)} → {shortened(suspect.suggested, 28)}"
            suspects.add_row(f"{suspect.row:,}", Text(text), f"{suspect.label_probability:.2f}")
        tables.append(suspects)
    if result.conflicts:
        conflicts = table("Near-equal rows with different labels", "text", "rows", "labels")
        for conflict in result.conflicts[:MAX_CHANGES]:
            labels = ", ".join(f"{shortened(label, 24)} {rows:,}" for label, rows in conflict.labels.items())
            conflicts.add_row(Text(shortened(conflict.text, 40)), f"{len(conflict.rows):,}", Text(labels))
        tables.append(conflicts)
    if result.overlaps:
        overlaps = table("Categories that may be one (1: told apart by no more than chance)", "categories", "rows", "overlap")
        for pair in result.overlaps[:MAX_CHANGES]:
            overlaps.add_row(Text(f"{shortened(pair.first, 28)}, {shortened(pair.second, 28)}"), f"{pair.rows:,}", f"{pair.overlap:.2f}")
        tables.append(overlaps)
    return tables


def turnover_table(changes: CatalogDiff) -> Table:
    """Rows by category under both adapters, those with most changes first."""
    result = table("By category", "category", "old", "new", "left", "joined")
    for category in changes.categories[:MAX_CHANGES]:
        result.add_row(
            Text(shortened(category.category, 40)),
            f"{category.before:,}",
            f"{category.after:,}",
            f"{category.left:,}",
            f"{category.joined:,}",
        )
    return result


def importance_table(importances: Mapping[str, float]) -> Table:
    """The importance of each setting, the highest first."""
    result = table("Importance of the settings", "setting", "of the scores' variance")
    for name, value in sorted(importances.items(), key=lambda item: -item[1]):
        result.add_row(name.replace("_", " "), f"{value:.2f}")
    return result


def confusion_table(scores: Scores, limit: int = 10) -> Table:
    """The most frequent wrong pairs, each with a text that was labeled so."""
    result = table("Most confused", "category → label", "for example", "rows", names=2)
    for pair in scores.confusions[:limit]:
        example = pair.examples[0] if pair.examples else ""
        if pair.disagreeing:
            example = f"{pair.disagreeing:,} texts are labeled both ways"
        names = f"{shortened(pair.truth, 42)}\n  → {shortened(pair.predicted, 38)}"
        result.add_row(Text(names), Text(shortened(example, 30)), f"{pair.rows:,}")
    return result


def parity_table(metrics: FitMetrics) -> Table:
    """Each form of the model beside the saved adapter."""
    result = table("Parity with the saved adapter", "form", "rows", "largest logit difference", "same category")
    for form in metrics.parity:
        result.add_row(form.form, f"{form.rows:,}", f"{form.largest_difference:.1e}", f"{form.agreement:.2%}")
    return result
