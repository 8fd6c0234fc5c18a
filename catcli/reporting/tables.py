"""Numbers → rich tables that fit 80 columns."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.table import Table
from rich.text import Text

from catcli.evaluation.metrics import Metrics, Scores

MODELS = {"blend": "blend", "lora": "LoRA alone", "linear": "linear alone"}
"""How tables call the three models; the blend is what `predict` labels with."""

NAME = 32
"""Cells that a category's name gets."""


def printable(text: str) -> str:
    """Text without control characters: a product's title must not move the cursor or color the terminal."""
    return "".join(letter if letter == "\n" or unicodedata.category(letter)[0] != "C" else "�" for letter in text)


def shortened(name: str, width: int = NAME) -> str:
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


def share(value: float | None) -> str:
    """Three digits after the point; a dash where it is not defined."""
    return "–" if value is None else f"{value:.3f}"


def table(title: str, *columns: str, names: int = 1) -> Table:
    """A table whose first ``names`` columns are words and the others numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        made.add_column(column, justify="left" if position < names else "right", no_wrap=True, overflow="ellipsis")
    return made


def facts(title: str, values: Mapping[str, str]) -> Table:
    """Names and what they stand for, a line each; a value that is too long goes on in the next line."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in values.items():
        made.add_row(name, Text(printable(value)))
    return made


def overall(metrics: Metrics) -> Group:
    """Accuracy, F1 and log loss of the blend, LoRA and the linear model, a line each."""
    count = len(metrics.rare_categories)
    made = table("Held-out scores", "", "accuracy", "macro F1", "weighted F1", "log loss")
    for name, title in MODELS.items():
        scores: Scores = getattr(metrics, name)
        made.add_row(title, *map(share, (scores.accuracy, scores.macro.f1, scores.weighted.f1, scores.log_loss)))
    # Not the table's own caption, which would break at the table's width.
    caption = f"{metrics.blend.rows:,} test rows that no scored model learned from" + (
        f"; {count} rare categories not scored" if count else ""
    )
    if metrics.training.refit:
        caption += "\nwhat is shipped has since learned from all rows in the same way"
    return Group(made, Text(caption, style="dim italic"))


def averages(metrics: Metrics) -> Table:
    """Precision and recall as means over the categories (macro) and over the rows (weighted), a line for each model."""
    made = table("Averages", "", "macro prec.", "macro recall", "weighted prec.", "weighted recall")
    for name, title in MODELS.items():
        scores: Scores = getattr(metrics, name)
        made.add_row(title, *map(share, (scores.macro.precision, scores.macro.recall, scores.weighted.precision, scores.weighted.recall)))
    return made


def per_category(scores: Scores) -> Table:
    """Support, precision, recall, F1 and ROC AUC of each category, the largest first."""
    made = table("By category", "category", "rows", "precision", "recall", "F1", "ROC AUC")
    for category in sorted(scores.categories, key=lambda found: (-found.support, found.category)):
        numbers = map(share, (category.precision, category.recall, category.f1, category.roc_auc))
        made.add_row(Text(shortened(category.category)), f"{category.support:,}", *numbers)
    return made


def confusions(scores: Scores, examples: Mapping[tuple[str, str], str], most: int = 10) -> Table:
    """The most frequent wrong pairs, each with a text that was labeled so."""
    made = table("Most confused", "category, and what it was labeled", "for example", "rows", names=2)
    for pair in scores.confusions[:most]:
        example = examples.get((pair.truth, pair.predicted), "")
        names = f"{shortened(pair.truth, 42)}\n  → {shortened(pair.predicted, 38)}"
        made.add_row(Text(names), Text(shortened(example, 26)), f"{pair.rows:,}")
    return made


def parity(metrics: Metrics) -> Table:
    """Each form of the model beside the saved adapter."""
    made = table("Parity with the saved adapter", "form", "rows", "largest logit difference", "same category")
    for form in metrics.parity:
        made.add_row(form.form, f"{form.rows:,}", f"{form.largest_difference:.1e}", f"{form.agreement:.2%}")
    return made
