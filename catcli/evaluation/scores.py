"""Scores *(rows, classes)* and truth → the numbers of a report. Pure functions; what is undefined is None."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from catcli.evaluation.calibration import log_loss
from catcli.evaluation.metrics import Average, CategoryScores, Confusion, Scores
from catcli.runtime.blend import Array, softmax

Classes = npt.NDArray[np.int64]


def evaluate(scores: Array, truth: Classes, names: Sequence[str]) -> Scores:
    """Score logits (or log-probabilities) *(rows, classes)* against class numbers *(rows,)*; at least one row.

    Macro averages are means over the categories that ``truth`` holds, weighted ones weigh them by their rows, as scikit-learn's
    ``precision_recall_fscore_support`` has them with ``labels`` so restricted and a precision without predictions taken as 0.
    """
    predicted = scores.argmax(1)
    present = np.unique(truth)
    averages = {}
    for how in ("macro", "weighted"):
        precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted, labels=present, average=how, zero_division=0)
        averages[how] = Average(precision=float(precision), recall=float(recall), f1=float(f1))
    return Scores(
        rows=len(truth),
        accuracy=float((predicted == truth).mean()),
        macro=averages["macro"],
        weighted=averages["weighted"],
        log_loss=log_loss(scores, truth),
        categories=_categories(scores, predicted, truth, names),
        confusions=confusions(predicted, truth, names),
    )


def _categories(scores: Array, predicted: Classes, truth: Classes, names: Sequence[str]) -> tuple[CategoryScores, ...]:
    probabilities = softmax(scores)
    numbers = np.arange(len(names))
    precision, recall, f1, support = precision_recall_fscore_support(truth, predicted, labels=numbers, zero_division=np.nan)
    found = []
    for number in np.flatnonzero((support > 0) | np.isin(numbers, predicted)):
        mine = truth == number
        found.append(
            CategoryScores(
                category=names[int(number)],
                support=int(support[number]),
                precision=_defined(precision[number]),
                recall=_defined(recall[number]),
                f1=_defined(f1[number]),
                roc_auc=float(roc_auc_score(mine, probabilities[:, number])) if 0 < mine.sum() < len(mine) else None,
            )
        )
    return tuple(found)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def confusions(predicted: Classes, truth: Classes, names: Sequence[str], most: int = 50) -> tuple[Confusion, ...]:
    """Pairs of a category and the wrong one that its rows were labeled with, the most frequent first."""
    wrong = predicted != truth
    pairs = Counter(zip(truth[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Confusion(truth=names[true], predicted=names[false], rows=rows) for (true, false), rows in ordered[:most])
