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
from catcli.evaluation.metrics import TITLES, Comparison, Estimate, Evaluation, MeasuredCategoryThresholds, MeasuredThreshold, Scores
from catcli.evaluation.report_data import NewRowsReport
from catcli.evaluation.studies import CatalogDiff, GridResult, TuneResult
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
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        made.add_column(column, justify="left" if position < names else "right", no_wrap=True, overflow="ellipsis")
    return made


def fact_table(title: str, values: Mapping[str, str]) -> Table:
    """Names and what they stand for, a line each; a value that is too long goes on in the next line."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in values.items():
        made.add_row(name, Text(printable(value)))
    return made


SHORT_METRICS = ("accuracy", "macro_f1", "weighted_f1", "log_loss")
"""The metrics that a fit ends with; a report has all of `TITLES`."""


def with_interval(estimate: Estimate) -> str:
    """A value and its interval in 15 cells."""
    return f"{estimate.value:.3f} {estimate.low:.2f}–{estimate.high:.2f}"


def score_table(evaluation: Evaluation, metrics: Iterable[str] = TITLES) -> Group:
    """Some metrics of the blend, LoRA and the linear model with their 95 % intervals, a line each."""
    named = model_titles(evaluation.method)
    made = table("Scores, 95 % intervals", "", *named.values())
    for metric in metrics:
        made.add_row(TITLES[metric], *(with_interval(getattr(getattr(evaluation, name), metric)) for name in named))
    # Not the table's own caption, which would break at the table's width.
    return Group(made, Text(caption(evaluation), style="dim italic"))


def caption(evaluation: Evaluation) -> str:
    """What rows a score is of."""
    said = f"{count_noun(evaluation.scored_rows, 'row')} of {count_noun(evaluation.scored_products, 'product')}"
    if isinstance(evaluation, NewRowsReport):
        said += f" of {evaluation.on}; those that the adapter learned from flatter it"
    if isinstance(evaluation, FitMetrics):
        said += " that no scored model learned from"
        count = len(evaluation.rare_categories)
        said += f"; categories too rare for every part, scored by a draw: {count:,}" if count else ""
        if evaluation.training.refit:
            said += "\nwhat is shipped has since learned from all rows in the same way"
    return said


def threshold_table(promises: Sequence[MeasuredThreshold]) -> Table:
    """What may be labeled unseen: for each precision the threshold, the rows above it, and what they came to."""
    made = table("Precision contract (predict --precision)", "to be right", "confidence", "accepted", "right on the scored rows")
    for promise in promises:
        threshold = "–" if promise.threshold is None else format_confidence(promise.threshold)
        accepted = "–" if promise.accepted_in_test is None else per_cent(promise.accepted_in_test)
        made.add_row(f"{promise.precision:.0%}", threshold, accepted, sentences.threshold_outcome(promise))
    made.columns[3].no_wrap, made.columns[3].justify = False, "left"
    return made


def new_threshold_table(thresholds: Sequence[Threshold]) -> Table:
    """Thresholds that new rows show."""
    made = table("Found on these rows: for predict --min-confidence", "to be right", "confidence", "accepted", "")
    for threshold in thresholds:
        if threshold.threshold is None or threshold.accepted is None:
            made.add_row(f"{threshold.precision:.0%}", "–", "–", threshold.shortfall)
        else:
            made.add_row(f"{threshold.precision:.0%}", format_confidence(threshold.threshold), per_cent(threshold.accepted), "")
    made.columns[3].no_wrap, made.columns[3].justify = False, "left"
    return made


def category_threshold_table(categories: Sequence[MeasuredCategoryThresholds]) -> Table:
    """The same for rows labeled with one category: the highest precision that each holds."""
    made = table("Categories that hold a precision by themselves (--by-category)", "category", "to be right", "confidence", "accepted")
    for one in categories:
        held = [promise for promise in one.promises if promise.threshold is not None]
        if held:
            best = held[-1]
            accepted = "–" if best.accepted_in_test is None else per_cent(best.accepted_in_test)
            made.add_row(Text(shortened(one.category)), f"{best.precision:.0%}", format_confidence(best.threshold or 0.0), accepted)
    return made


def category_table(scores: Scores) -> Table:
    """Support, precision, recall, F1 with its interval, ROC AUC and average precision of each category, the largest first."""
    made = table("By category", "category", "rows", "prec.", "recall", "F1", "95 %", "AUC", "AP")
    made.padding = (0, 1, 0, 0)  # nine columns in 80 cells
    for category in sorted(scores.categories, key=lambda found: (-found.support, found.category)):
        f1 = category.f1
        ends = "–" if f1 is None else f"{f1.low:.2f}–{f1.high:.2f}"
        numbers = (category.precision, category.recall, None if f1 is None else f1.value)
        made.add_row(
            Text(shortened(category.category, 22)),
            f"{category.support:,}",
            *map(three_digits, numbers),
            ends,
            *map(three_digits, (category.roc_auc, category.average_precision)),
        )
    return made


def adapter_table(adapters: Mapping[str, Scores], title: str = "Side by side, 95 % intervals") -> Table:
    """Several adapters on the rows that they share, a column each."""
    made = table(title, "", *(shortened(name, 24) for name in adapters))
    for metric, named in TITLES.items():
        made.add_row(named, *(with_interval(getattr(scores, metric)) for scores in adapters.values()))
    return made


SHORT_SETTINGS = {"batch_size": "batch", "weight_decay": "decay", "dropout": "drop"}
"""What a narrow table calls settings."""


def trial_table(told: TuneResult) -> Table:
    """Every trial of a search, the best marked."""
    names = list(told.trials[0].settings)
    made = table("Trials", "", TITLES[told.metric], *(SHORT_SETTINGS.get(name, name) for name in names), "s")
    made.padding = (0, 1, 0, 0)  # ten columns in 80 cells
    for trial in told.trials:
        score = "given up" if trial.score is None else f"{trial.score:.4f}"
        mark = " best" if trial.number == told.best else ""
        made.add_row(f"{trial.number}{mark}", score, *(f"{trial.settings[name]:.3g}" for name in names), f"{trial.seconds:.0f}")
    return made


def alone_table(told: GridResult) -> Group:
    """Every model by itself, as the study sets them side by side."""
    made = table("Each model alone", "model", "acc.", "prec.", "recall", "F1", "AUC", "s", "MiB", "trained", "size")
    made.padding = (0, 1, 0, 0)  # ten columns in 80 cells
    for model in told.models:
        scores = (model.accuracy, model.macro_precision, model.macro_recall, model.macro_f1)
        memory = "–" if model.peak_memory is None else f"{model.peak_memory / 2**20:,.0f}"
        made.add_row(
            Text(shortened(model.name, 22)),
            *(three_digits(one.value) for one in scores),
            three_digits(model.roc_auc),
            f"{model.seconds:,.0f}",
            memory,
            short_count(model.trained),
            short_count(model.learned_bytes) + "B",
        )
    said = f"{count_noun(told.test_rows, 'test row')} of {count_noun(told.test_products, 'product')} that no model learned from"
    return Group(made, Text(f"{said}; precision, recall, F1 and AUC are means over the categories", style="dim italic"))


def blend_table(told: GridResult) -> Table:
    """What `predict` would label with: every model in its blend with the linear one."""
    made = table("In the blend with the linear model, 95 % intervals", "model", "accuracy", "macro F1", "log loss to choose by")
    for model in told.models:
        accuracy, macro_f1 = model.blend_accuracy or model.accuracy, model.blend_macro_f1 or model.macro_f1
        named = model.name if model.base else f"{model.name} (alone)"
        made.add_row(Text(shortened(named, 30)), with_interval(accuracy), with_interval(macro_f1), f"{model.validation_log_loss:.3f}")
    return made


def pair_table(comparisons: Sequence[Comparison]) -> Table:
    """Pairs of models, each alone, with the test's p-value, the clearest differences first."""
    made = table(
        "Pairs, each alone; 95 % intervals and p hold for all of them together",
        "",
        "accuracy, points",
        "macro F1, points",
        "p",
    )
    for found in sorted(comparisons, key=lambda one: one.p_value):
        shown = [
            f"{sentences.signed(one.value)} ({sentences.signed(one.low)} to {sentences.signed(one.high)})"
            for one in (found.accuracy, found.macro_f1)
        ]
        made.add_row(Text(f"{shortened(found.of, 26)}\n  over {shortened(found.against, 21)}"), *shown, f"{found.p_value:.2g}")
    return made


def short_count(number: float) -> str:
    """``654k``, ``90.6M``: three digits."""
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"


MAX_CHANGES = 15
"""Changes, and categories, that a terminal shows."""


def change_table(told: CatalogDiff) -> Table:
    """From which category to which rows would change, the largest changes first."""
    made = table("Largest changes", "category, and the one to come", "rows", *([told.weight_column] if told.weight_column else []))
    for flow in told.flows[:MAX_CHANGES]:
        weight = [f"{flow.weight:,.0f}"] if told.weight_column else []
        made.add_row(Text(f"{shortened(flow.before, 50)}\n  → {shortened(flow.after, 46)}"), f"{flow.rows:,}", *weight)
    return made


def turnover_table(told: CatalogDiff) -> Table:
    """Rows by category under both adapters, those with most changes first."""
    made = table("By category", "category", "now", "then", "leave", "come")
    for one in told.categories[:MAX_CHANGES]:
        made.add_row(Text(shortened(one.category, 40)), f"{one.before:,}", f"{one.after:,}", f"{one.left:,}", f"{one.joined:,}")
    return made


def importance_table(found: Mapping[str, float]) -> Table:
    """How much each setting mattered, the most first."""
    made = table("What mattered", "setting", "of the scores' variance")
    for name, value in sorted(found.items(), key=lambda one: -one[1]):
        made.add_row(name.replace("_", " "), f"{value:.2f}")
    return made


def confusion_table(scores: Scores, most: int = 10) -> Table:
    """The most frequent wrong pairs, each with a text that was labeled so."""
    made = table("Most confused", "category, and what it was labeled", "for example", "rows", names=2)
    for pair in scores.confusions[:most]:
        example = pair.examples[0] if pair.examples else ""
        if pair.disagreeing:
            example = f"{pair.disagreeing:,} texts are labeled both ways"
        names = f"{shortened(pair.truth, 42)}\n  → {shortened(pair.predicted, 38)}"
        made.add_row(Text(names), Text(shortened(example, 30)), f"{pair.rows:,}")
    return made


def parity_table(metrics: FitMetrics) -> Table:
    """Each form of the model beside the saved adapter."""
    made = table("Parity with the saved adapter", "form", "rows", "largest logit difference", "same category")
    for form in metrics.parity:
        made.add_row(form.form, f"{form.rows:,}", f"{form.largest_difference:.1e}", f"{form.agreement:.2%}")
    return made
