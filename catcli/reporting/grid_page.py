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


def grid_page(name: str, told: GridResult, names: Sequence[str], shown: Sequence[GridPageModel]) -> str:
    """The page of a comparison called ``name``; ``names`` are the categories in class order."""
    return (
        template_environment()
        .get_template("compare.html")
        .render(
            name=printable(name),
            told=told,
            sentences=[sentences.comparison(found, None) for found in sentences.lora_against_full(told)],
            seeds=max(len(model.adapters) for model in told.models),
            data=_data(names, shown),
            plotly=Markup(get_plotlyjs()),  # noqa: S704  (a library's own script, none of the user's text)
            nonce=secrets.token_urlsafe(16),
        )
    )


def _data(names: Sequence[str], shown: Sequence[GridPageModel]) -> dict[str, Any]:
    """What the page's script draws, in numbers as short as a screen can show."""
    support = Counter(shown[0].outcomes.truth.tolist())
    drawn = [number for number, _ in support.most_common(max(1, MAX_CURVES // len(shown)))]
    present = sorted(set().union(*(one.outcomes.present.tolist() for one in shown)))
    return {
        "largest": drawn[0],
        "names": {int(number): printable(names[number]) for number in present},
        "models": [
            {
                "name": printable(one.model.name),
                **{key: _ends(one.model, key) for key in ("accuracy", "macro_precision", "macro_recall")},
                "curves": {
                    number: [rounded(curve.false_positive_rate), rounded(curve.true_positive_rate)]
                    for number, curve in category_curves(one.probabilities, one.outcomes.truth, drawn).items()
                },
                "areas": {number: one.areas.get(names[number]) for number in drawn},
                "pairs": pairs_of(one.outcomes),
            }
            for one in shown
        ],
    }


def _ends(model: ModelResult, key: str) -> list[float]:
    found = getattr(model, key)
    return [round(found.value, 4), round(found.low, 4), round(found.high, 4)]
