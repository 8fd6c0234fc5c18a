"""Numbers and rows → one HTML page that needs nothing else: no network, no other file.

Product text is data here: Jinja2 escapes what stands in the page, and what the script reads lies in a JSON element that no ``</script>``
of a title can end. A content security policy forbids the page to load anything and to run any script but its own.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from catcli.arrays import DoubleArray, FloatArray
from catcli.data.dataset.taxonomy import split_path
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.curves import category_curves, coverage_curve
from catcli.evaluation.label_errors import find_label_errors
from catcli.evaluation.metrics import TITLES, TREE_TITLES, Evaluation, Scores, TreeScores
from catcli.evaluation.report_data import FitReport, NewRowsReport
from catcli.reporting import sentences
from catcli.reporting.tables import caption, model_titles, three_digits
from catcli.wording import per_cent, printable

MAX_CURVES = 400
"""Categories that get curves, those with most rows first: more would make the page larger than it is worth."""

MAX_ERRORS = 300
"""Wrong rows that are listed, the most confident first."""

MAX_SUSPECTS = 100
"""Labels in doubt that are listed, the likeliest errors first."""

MAX_PAIRS = 20_000
"""Pairs of the confusion matrix, the most frequent first."""

MAX_TEXT_CHARACTERS = 240
"""Characters of a text that are shown."""


@cache
def template_environment() -> jinja2.Environment:
    """Where the pages' templates are, which escape what they show."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("catcli.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(share=three_digits, per_cent=per_cent, plain=printable, signed=sentences.signed)
    return environment


def report_page(
    name: str, report: FitReport | NewRowsReport, names: Sequence[str], texts: Sequence[str], probabilities: FloatArray, outcomes: Outcomes
) -> str:
    """The page of an adapter called ``name``: ``probabilities`` *(rows, classes)* of ``texts``, and their ``outcomes``."""
    return (
        template_environment()
        .get_template("report.html")
        .render(
            name=printable(name),
            report=report,
            fresh=isinstance(report, NewRowsReport),
            caption=caption(report).replace("\n", "; "),
            headline=sentences.headline(report),
            expected=sentences.catalog_scores(report) if isinstance(report, FitReport) else "",
            cascade=sentences.cascade(report),
            rows_needed=sentences.rows_needed(report) if isinstance(report, FitReport) else "",
            compared=[sentences.comparison(item, report.method) for item in (report.against_linear, report.against_lora)],
            random_split=sentences.random_split(report.random_split) if isinstance(report, FitReport) and report.random_split else "",
            calibrated=[sentences.calibration(variant, item) for variant, item in report.calibration.items()],
            titles=TITLES,
            models={model: (title, getattr(report, model)) for model, title in model_titles(report.method).items()},
            promises=[(threshold, sentences.threshold_outcome(threshold)) for threshold in report.promises],
            tree=report.tree,
            tree_titles=TREE_TITLES,
            branches=nested(report.tree) if report.tree else [],
            back_off=report.back_off,
            categories=sorted(report.blend.categories, key=lambda item: (-item.support, item.category)),
            errors=_errors(names, texts, outcomes),
            suspects=_suspects(names, texts, probabilities, outcomes),
            data=_data(report, names, probabilities, outcomes),
            plotly=Markup(get_plotlyjs()),  # noqa: S704  (a library's own script, none of the user's text)
            nonce=secrets.token_urlsafe(16),
        )
    )


def nested(tree: TreeScores) -> list[dict[str, Any]]:
    """Nodes as a page opens them: each with the last part of its path and those ``below`` it. A parent comes before its children."""
    top: list[dict[str, Any]] = []
    above: list[list[dict[str, Any]]] = [top]
    for branch in tree.branches:
        name = split_path(branch.path, tree.separator)[-1]  # of a path that has more levels than count, the last
        node: dict[str, Any] = {"scores": branch, "name": printable(name), "below": []}
        del above[branch.level :]
        above[-1].append(node)
        above.append(node["below"])
    return top


def _errors(names: Sequence[str], texts: Sequence[str], outcomes: Outcomes) -> list[dict[str, Any]]:
    """Wrong rows, the most confident first: those that no threshold catches."""
    return [
        {
            "text": printable(texts[row])[:MAX_TEXT_CHARACTERS],
            "truth": printable(names[outcomes.truth[row]]),
            "predicted": printable(names[outcomes.predicted[row]]),
            "confidence": float(outcomes.confidence[row]),
        }
        for row in outcomes.errors[:MAX_ERRORS]
    ]


def _suspects(names: Sequence[str], texts: Sequence[str], probabilities: FloatArray, outcomes: Outcomes) -> list[dict[str, Any]]:
    """Rows whose label is probably wrong, the likeliest first."""
    known = np.flatnonzero(outcomes.truth < probabilities.shape[1])
    if not len(known):
        return []
    labels = outcomes.truth[known]
    found = find_label_errors(probabilities[known], labels)
    return [
        {
            "text": printable(texts[known[place]])[:MAX_TEXT_CHARACTERS],
            "label": printable(names[labels[place]]),
            "label_probability": float(probabilities[known[place], labels[place]]),
            "suggested": printable(names[found.suggested[place]]),
            "suggested_probability": float(probabilities[known[place], found.suggested[place]]),
        }
        for place in found.suspects[:MAX_SUSPECTS].tolist()
    ]


def _data(evaluation: Evaluation, names: Sequence[str], probabilities: FloatArray, outcomes: Outcomes) -> dict[str, Any]:
    """What the page's script draws, in numbers as short as a screen can show."""
    covered = coverage_curve(outcomes)
    support = Counter(outcomes.truth.tolist())
    curves = category_curves(
        probabilities, outcomes.truth, [number for number, _ in support.most_common() if number < probabilities.shape[1]][:MAX_CURVES]
    )
    return {
        "rows": len(outcomes.truth),
        "names": {int(number): printable(names[number]) for number in outcomes.present},
        "coverage": {
            "confidence": np.round(covered.confidence, 5).tolist(),
            "rows": covered.rows.tolist(),
            "right": covered.right.tolist(),
        },
        "promises": [threshold.model_dump(include={"precision", "threshold"}) for threshold in evaluation.promises],
        "calibration": {
            variant: [(round(bin_.confidence, 4), round(bin_.accuracy, 4), bin_.rows) for bin_ in calibration.bins]
            for variant, calibration in evaluation.calibration.items()
        },
        "curves": {
            number: {
                "roc": [rounded(curve.false_positive_rate), rounded(curve.true_positive_rate)],
                "pr": [rounded(curve.recall), rounded(curve.precision)],
            }
            for number, curve in curves.items()
        },
        "pairs": pairs_of(outcomes),
        "areas": _areas(evaluation.blend, names),
    }


def rounded(values: DoubleArray) -> list[float]:
    """Numbers *(points,)* as short as a screen can show."""
    digits: list[float] = np.round(values, 4).tolist()
    return digits


def pairs_of(outcomes: Outcomes) -> list[tuple[int, int, int]]:
    """Categories, what they were labeled, and how many rows were, the most frequent first: the cells of a confusion matrix."""
    counted = Counter(zip(outcomes.truth.tolist(), outcomes.predicted.tolist(), strict=True))
    return [(truth, labeled, rows) for (truth, labeled), rows in counted.most_common(MAX_PAIRS)]


def _areas(scores: Scores, names: Sequence[str]) -> dict[int, list[float | None]]:
    numbers = {name: number for number, name in enumerate(names)}
    return {numbers[category.category]: [category.roc_auc, category.average_precision] for category in scores.categories}
