"""Numbers → sentences: no claim beyond the intervals."""

from __future__ import annotations

from catcli.config import METHOD_TITLES, Method
from catcli.evaluation.fit_metrics import FitMetrics, RandomSplit
from catcli.evaluation.metrics import MAX_FACTOR, Calibration, Comparison, Estimate, Evaluation, MeasuredThreshold
from catcli.evaluation.studies import Audit, CatalogDiff, GridResult, Migration
from catcli.wording import count_noun, per_cent

SIGNIFICANCE = 0.05
"""The p-value below which a difference is not put down to chance."""


def _models(method: Method | None) -> dict[str, str]:
    """The models of one adapter; none where adapters are compared, which go by their own names."""
    if method is None:
        return {}
    return {"blend": "the blend", "lora": f"{METHOD_TITLES[method]} alone", "linear": "the linear model alone"}


def interval(estimate: Estimate) -> str:
    """The interval of a share, in per cent."""
    return f"95 % interval {100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def headline(evaluation: Evaluation) -> str:
    """The headline: accuracy, and the coverage at a precision."""
    accuracy = evaluation.blend.accuracy
    sentence = f"{per_cent(accuracy.value)} of {count_noun(evaluation.scored_rows, 'row')} labeled right ({interval(accuracy)})."
    shown = [threshold for threshold in evaluation.promises if threshold.threshold is not None]
    if not shown:
        return f"{sentence} No threshold is shown to hold a precision yet: see the thresholds."
    best = next((threshold for threshold in shown if threshold.precision >= 0.95), shown[-1])
    return f"{sentence} With --precision {best.precision:g}, {per_cent(best.accepted_in_test or 0)} of them are accepted without review."


def catalog_scores(metrics: FitMetrics) -> str:
    """What a fresh file shows; empty where the fit did not estimate it."""
    expected = metrics.catalog
    if expected is None:
        return ""
    scores = " and ".join(
        f"{title} {score.value:.3f} (95 % interval {score.low:.3f} to {score.high:.3f})"
        for title, score in (("accuracy", expected.accuracy), ("macro F1", expected.macro_f1))
    )
    sentence = f"A fresh file of {count_noun(expected.products, 'product')}, labeled by the saved model, is expected to show {scores}."
    if not expected.unscored_categories:
        return sentence
    counted = "category that is not scored counts" if expected.unscored_categories == 1 else "categories that are not scored count"
    return f"{sentence} In it the {expected.unscored_categories:,} {counted} as much as the smallest that are."


def cascade(evaluation: Evaluation) -> str:
    """How many rows the linear model decides alone, and what that changes; empty where it decides none."""
    scores = evaluation.cascade
    if scores is None:
        return ""
    return (
        f"{per_cent(scores.decided)} of rows are decided by the linear model alone. So {per_cent(scores.changed, 2)} of rows get another "
        f"category than by both models (--exact), whose accuracy is {scores.exact_accuracy:.3f}."
    )


def rows_needed(metrics: FitMetrics) -> str:
    """How many labeled rows more it takes to accept most rows; empty where they are accepted, or the fit did not estimate it."""
    accepted = {threshold.precision: threshold.accepted_in_test or 0.0 for threshold in metrics.promises}
    parts = []
    for needed in metrics.rows_needed:
        if accepted.get(needed.precision, 0.0) >= needed.coverage or needed.high == 0:
            continue
        limit = f"more than {int((MAX_FACTOR - 1) * metrics.rows.labeled):,}"
        rows, low, high = (limit if count is None else f"{count:,}" for count in (needed.rows, needed.low, needed.high))
        parts.append(f"at {100 * needed.precision:.0f} % {rows}" + (f" ({low} to {high})" if low != rows or high != rows else ""))
    if not parts:
        return ""
    return (
        f"To accept {100 * metrics.rows_needed[0].coverage:.0f} % of rows, label more of the same kind; estimates and 95 % intervals: "
        f"{', '.join(parts)} rows."
    )


def comparison(pair: Comparison, method: Method | None) -> str:
    """``blend +1.9 points of macro F1 over the linear model alone, 95 % interval 0.7 to 3.1``, and whether that is a gain at all."""
    models = _models(method)
    first, second = models.get(pair.of, pair.of), models.get(pair.against, pair.against)
    parts = []
    for title, difference in (("macro F1", pair.macro_f1), ("accuracy", pair.accuracy)):
        points = f"{signed(difference.value)} points of {title}"
        parts.append(f"{points}, 95 % interval {100 * difference.low:.1f} to {100 * difference.high:.1f}")
    tested = f"products better {pair.better:,}, worse {pair.worse:,}, McNemar p = {pair.p_value:.3g}"
    return f"{first} over {second}: {'; '.join(parts)} ({tested}). {verdict(pair, method)}"


def signed(difference: float) -> str:
    """In points, with its sign; a difference that rounds to nothing has none."""
    points = round(100 * difference, 1)
    return f"{points:+.1f}" if points else "0.0"


def verdict(pair: Comparison, method: Method | None) -> str:
    """The conclusion that the intervals and the test allow: a difference is stated only where both exclude chance.

    Of two intervals one excludes 0 by chance more often than 5 times in 100, and macro F1 can depend on a few rows of rare categories.
    """
    models = _models(method)
    first, second = models.get(pair.of, pair.of), models.get(pair.against, pair.against)
    titled = (("macro F1", pair.macro_f1), ("accuracy", pair.accuracy)) if pair.p_value < SIGNIFICANCE else ()
    gains = [title for title, difference in titled if difference.low > 0]
    losses = [title for title, difference in titled if difference.high < 0]
    if gains and not losses:
        return f"A significant gain in {' and '.join(gains)}."
    if losses and not gains:
        return f"A significant loss in {' and '.join(losses)}: on these rows {second} is better."
    if gains:
        return f"Better in {gains[0]} and worse in {losses[0]}, both significantly."
    if method is not None and (pair.of, pair.against) == ("blend", "linear"):
        return f"These rows show no significant gain by {METHOD_TITLES[method]}."
    return f"These rows show no significant difference between {first} and {second}."


def diff_summary(result: CatalogDiff) -> str:
    """How much of a catalog would change category."""
    sentence = (
        f"{count_noun(result.changed, 'row')} of {result.rows:,} would change category ({per_cent(result.changed / max(result.rows, 1))})"
    )
    if result.weight_column is None:
        return f"{sentence}."
    return f"{sentence}; they are {per_cent(result.share)} of {result.weight_column}."


def audit(result: Audit) -> str:
    """How many labels are probably wrong, and how sure that number is."""
    left_out = result.rows - result.scored
    unseen = f" ({left_out:,} more have no other row of their category to be held against)" if left_out else ""
    return (
        f"{result.expected:,} of {count_noun(result.scored, 'label')}{unseen} are probably wrong, as {result.by} "
        f"{'says' if result.by != 'linear models' else 'that have not seen the rows say'}; look at these rows first."
    )


def migration(result: Migration) -> str:
    """How many rows get another category."""
    same = sum(entry.rows for entry in result.suggestions if entry.old == entry.new)
    did = "have" if result.applied else "would have"
    return f"{count_noun(result.rows - same, 'row')} of {result.rows:,} {did} another category than before."


def lora_against_full(result: GridResult) -> list[Comparison]:
    """What the study asked: LoRA beside full fine-tuning, of one base and one balance."""
    models = {model.name: model for model in result.models}
    comparisons = []
    for pair in result.comparisons:
        first, second = models[pair.of], models[pair.against]
        if (first.base, first.balance) == (second.base, second.balance) and {first.method, second.method} == {"lora", "full"}:
            comparisons.append(pair)
    return comparisons


def random_split(scores: RandomSplit) -> str:
    """How much higher the scores of a random split would have been."""
    by_product, at_random = scores.by_product, scores.at_random
    return (
        f"A random split would have shown the linear model at {at_random.accuracy:.3f} accuracy and {at_random.macro_f1:.3f} macro F1 "
        f"(from {scores.train:,} rows), the split by product shows {by_product.accuracy:.3f} and {by_product.macro_f1:.3f}."
    )


def variant_decisions(metrics: FitMetrics) -> list[str]:
    """Which reduced precisions are kept, and why."""
    return [f"int8 {metrics.int8.reason}", *([f"fp16 {metrics.fp16.reason}"] if metrics.fp16 else [])]


def calibration(variant: str, calibrated: Calibration) -> str:
    """Whether confidences can be believed."""
    transform = calibrated.confidence
    fitted = f"temperature {transform.temperature:.2f}, slope {transform.slope:.2f}, shift {transform.shift:+.2f}"
    return (
        f"calibration error of {variant}: {calibrated.error_before:.3f} before calibration, {calibrated.error_after:.3f} after ({fitted}); "
        f"sampling noise alone would give {calibrated.by_chance:.3f} with this few rows"
    )


def threshold_outcome(threshold: MeasuredThreshold) -> str:
    """The precision of a threshold on the scored rows."""
    if threshold.threshold is None:
        return threshold.shortfall
    if threshold.reached_in_test is None:
        return "too few rows to measure it" if threshold.accepted_in_test else "no scored row has this confidence"
    reached = threshold.reached_in_test
    return f"{per_cent(reached.value)} ({100 * reached.low:.1f} to {100 * reached.high:.1f})"
