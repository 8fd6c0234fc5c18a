"""Models side by side → one HTML page with the study's figures; made as `catcli.reporting.report_page` makes its own."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from catcli.arrays import FloatArray
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.curves import category_curves
from catcli.evaluation.studies import GridResult, ModelResult
from catcli.reporting import sentences
from catcli.reporting.report_page import pairs_of, rounded, template_environment
from catcli.wording import printable

MAX_CURVES = 600
"""Curves in all, over models and categories, those of the categories with most rows first: a megabyte of the page."""


@dataclass(frozen=True)
class GridPageModel:
    """A model on the page: its scores, the area under the ROC curve by category, and what it made of the test rows."""

    model: ModelResult
    areas: Mapping[str, float | None]
    probabilities: FloatArray
    outcomes: Outcomes


def grid_page(name: str, result: GridResult, names: Sequence[str], shown: Sequence[GridPageModel]) -> str:
    """The page of a comparison called ``name``; ``names`` are the categories in class order."""
    return (
        template_environment()
        .get_template("compare.html")
        .render(
            name=printable(name),
            result=result,
            sentences=[sentences.comparison(pair, None) for pair in sentences.lora_against_full(result)],
            seeds=max(len(model.adapters) for model in result.models),
            data=_data(names, shown),
            plotly=Markup(get_plotlyjs()),  # noqa: S704  (a library's own script, none of the user's text)
            nonce=secrets.token_urlsafe(16),
        )
    )


def _data(names: Sequence[str], shown: Sequence[GridPageModel]) -> dict[str, Any]:
    """What the page's script draws, in numbers as short as a screen can show."""
    support = Counter(shown[0].outcomes.truth.tolist())
    plotted = [number for number, _ in support.most_common(max(1, MAX_CURVES // len(shown)))]
    present = sorted(set().union(*(model.outcomes.present.tolist() for model in shown)))
    return {
        "largest": plotted[0],
        "names": {int(number): printable(names[number]) for number in present},
        "models": [
            {
                "name": printable(model.model.name),
                **{key: _ends(model.model, key) for key in ("accuracy", "macro_precision", "macro_recall")},
                "curves": {
                    number: [rounded(curve.false_positive_rate), rounded(curve.true_positive_rate)]
                    for number, curve in category_curves(model.probabilities, model.outcomes.truth, plotted).items()
                },
                "areas": {number: model.areas.get(names[number]) for number in plotted},
                "pairs": pairs_of(model.outcomes),
            }
            for model in shown
        ],
    }


def _ends(model: ModelResult, key: str) -> list[float]:
    estimate = getattr(model, key)
    return [round(estimate.value, 4), round(estimate.low, 4), round(estimate.high, 4)]
