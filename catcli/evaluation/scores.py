"""Outcomes → the numbers of a report. Pure functions; what is undefined is None."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from catcli.arrays import DoubleArray, FloatArray
from catcli.evaluation.bootstrap import LEVEL, Outcomes, estimate_interval
from catcli.evaluation.metrics import CategoryScores, Comparison, Confusion, Estimate, Scores

MAX_CONFUSIONS = 200
"""Wrong pairs that are kept, the most frequent first."""

ConflictCounts = Mapping[tuple[int, int], int]
"""For two classes, the smaller number first: how many texts the labeled rows have under both."""


def score_model(probabilities: FloatArray, outcomes: Outcomes, names: Sequence[str], conflicts: ConflictCounts | None = None) -> Scores:
    """Score probabilities *(rows, classes)*, whose ``outcomes`` these are; ``names`` has every class of the rows, known or not."""
    point, replicates = outcomes.point, outcomes.replicates
    metrics = {
        name: estimate_interval(float(values[0]), replicates.metrics[name], outcomes.products) for name, values in point.metrics.items()
    }
    return Scores(
        **metrics,
        categories=_categories(probabilities, outcomes, names, point.f1[:, 0], replicates.f1),
        confusions=count_confusions(outcomes, names, conflicts or {}),
    )


def _categories(
    probabilities: FloatArray, outcomes: Outcomes, names: Sequence[str], f1: DoubleArray, replicates: DoubleArray
) -> tuple[CategoryScores, ...]:
    categories = []
    for index, number in enumerate(outcomes.present):
        is_class, labeled = outcomes.truth == number, outcomes.predicted == number
        hits = int((is_class & labeled).sum())
        known = number < probabilities.shape[1]
        products = len(np.unique(outcomes.product[is_class | labeled]))
        categories.append(
            CategoryScores(
                category=names[int(number)],
                support=int(is_class.sum()),
                precision=hits / int(labeled.sum()) if labeled.any() else None,
                recall=hits / int(is_class.sum()) if is_class.any() else None,
                f1=estimate_interval(float(f1[index]), replicates[index], products),
                roc_auc=float(roc_auc_score(is_class, probabilities[:, number])) if known and 0 < is_class.sum() < len(is_class) else None,
                average_precision=float(average_precision_score(is_class, probabilities[:, number])) if known and is_class.any() else None,
            )
        )
    return tuple(categories)


def count_confusions(outcomes: Outcomes, names: Sequence[str], conflicts: ConflictCounts) -> tuple[Confusion, ...]:
    """Pairs of a category and the wrong one that its rows were labeled with, the most frequent first."""
    wrong = ~outcomes.right
    pairs = Counter(zip(outcomes.truth[wrong].tolist(), outcomes.predicted[wrong].tolist(), strict=True))
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        Confusion(truth=names[true], predicted=names[false], rows=rows, disagreeing=conflicts.get((min(true, false), max(true, false)), 0))
        for (true, false), rows in ordered[:MAX_CONFUSIONS]
    )


def compare_models(first: Outcomes, second: Outcomes, name: str, against: str) -> Comparison:
    """``first`` less ``second``, both of the same rows, with intervals of the differences."""
    return compare_runs([first], [second], name, against)


def compare_runs(first: Sequence[Outcomes], second: Sequence[Outcomes], name: str, against: str, pairs: int = 1) -> Comparison:
    """`compare_models` for models that were trained with several seeds: differences are of the means over them.

    The intervals of so many ``pairs`` hold together with 95 % (Bonferroni); `holm_corrected` does the same for their p-values.

    The test is McNemar's (1947, "Note on the sampling error of the difference between correlated proportions or percentages") in its exact
    form, between products of which one model labels more rows right, over its seeds, and those of which the other does.
    """

    def difference(metric: str) -> Estimate:
        value = float(mean_metric(first, metric) - mean_metric(second, metric))
        replicates = mean_bootstrap(first, metric) - mean_bootstrap(second, metric)
        if pairs == 1:
            low, high = np.quantile(replicates, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        else:  # the ends of so many replicates do not reach far enough: a normal distribution of their width does
            reach = float(stats.norm.isf((1 - LEVEL) / (2 * pairs))) * float(replicates.std())
            low, high = value - reach, value + reach
        return Estimate(value=value, low=float(min(low, value)), high=float(max(high, value)))

    rows = first[0]
    right = [np.mean([run.right for run in runs], axis=0) for runs in (first, second)]
    balance = np.bincount(rows.product, right[0] - right[1], rows.products).round(9)
    better, worse = int((balance > 0).sum()), int((balance < 0).sum())
    p_value = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return Comparison(
        of=name,
        against=against,
        rows=len(rows.truth),
        accuracy=difference("accuracy"),
        macro_f1=difference("macro_f1"),
        better=better,
        worse=worse,
        p_value=p_value,
    )


def mean_metric(runs: Sequence[Outcomes], metric: str) -> float:
    """A metric's mean over the runs of one model."""
    return float(np.mean([run.point.metrics[metric][0] for run in runs]))


def mean_bootstrap(runs: Sequence[Outcomes], metric: str) -> DoubleArray:
    """The same in every replicate of the bootstrap *(replicates,)*."""
    return np.asarray(np.mean([run.replicates.metrics[metric] for run in runs], axis=0), np.float64)


def holm_corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with p-values that hold together (Holm 1979, "A simple sequentially rejective multiple test procedure")."""
    order = sorted(range(len(comparisons)), key=lambda index: comparisons[index].p_value)
    corrected, largest = list(comparisons), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, comparisons[index].p_value * (len(comparisons) - rank)))
        corrected[index] = comparisons[index].model_copy(update={"p_value": largest})
    return corrected
