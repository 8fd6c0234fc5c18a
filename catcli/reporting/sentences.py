"""Numbers → what they mean, said plainly: no claim that the interval does not hold."""

from __future__ import annotations

from catcli.config import METHOD_TITLES, Method
from catcli.evaluation.fit_metrics import FitMetrics, RandomSplit
from catcli.evaluation.metrics import Calibration, Comparison, Estimate, Evaluation, MeasuredThreshold
from catcli.evaluation.studies import CatalogDiff, GridResult
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
    """What a merchant asks first."""
    accuracy = evaluation.blend.accuracy
    said = f"{per_cent(accuracy.value)} of {count_noun(evaluation.scored_rows, 'row')} labeled right ({interval(accuracy)})."
    held = [made for made in evaluation.promises if made.threshold is not None]
    if not held:
        return f"{said} No share of them can be labeled unseen yet: see the precision contract."
    best = next((made for made in held if made.precision >= 0.95), held[-1])
    return f"{said} With --precision {best.precision:g}, {per_cent(best.accepted_in_test or 0)} of them need no second look."


def comparison(found: Comparison, method: Method | None) -> str:
    """``blend +1.9 points of macro F1 over the linear model alone, 95 % interval 0.7 to 3.1``, and whether that is a gain at all."""
    models = _models(method)
    one, other = models.get(found.of, found.of), models.get(found.against, found.against)
    parts = []
    for title, difference in (("macro F1", found.macro_f1), ("accuracy", found.accuracy)):
        points = f"{signed(difference.value)} points of {title}"
        parts.append(f"{points}, 95 % interval {100 * difference.low:.1f} to {100 * difference.high:.1f}")
    tested = f"products better {found.better:,}, worse {found.worse:,}, McNemar p = {found.p_value:.3g}"
    return f"{one} over {other}: {'; '.join(parts)} ({tested}). {verdict(found, method)}"


def signed(difference: float) -> str:
    """In points, with its sign; a difference that rounds to nothing has none."""
    points = round(100 * difference, 1)
    return f"{points:+.1f}" if points else "0.0"


def verdict(found: Comparison, method: Method | None) -> str:
    """What the intervals and the test allow to be said: a difference is told where both exclude chance.

    Of two intervals one excludes 0 by chance more often than 5 times in 100, and macro F1's can hang on a few rows of rare categories.
    """
    models = _models(method)
    one, other = models.get(found.of, found.of), models.get(found.against, found.against)
    titled = (("macro F1", found.macro_f1), ("accuracy", found.accuracy)) if found.p_value < SIGNIFICANCE else ()
    gains = [title for title, found_one in titled if found_one.low > 0]
    losses = [title for title, found_one in titled if found_one.high < 0]
    if gains and not losses:
        return f"A gain in {' and '.join(gains)} beyond chance."
    if losses and not gains:
        return f"A loss in {' and '.join(losses)} beyond chance: on these rows {other} is better."
    if gains:
        return f"Better in {gains[0]} and worse in {losses[0]}, both beyond chance."
    if method is not None and (found.of, found.against) == ("blend", "linear"):
        return f"These rows show no gain by {METHOD_TITLES[method]} beyond chance."
    return f"These rows show no difference between {one} and {other} beyond chance."


def diff_summary(told: CatalogDiff) -> str:
    """How much of a catalog would change category."""
    said = f"{count_noun(told.changed, 'row')} of {told.rows:,} would change category ({per_cent(told.changed / max(told.rows, 1))})"
    if told.weight_column is None:
        return f"{said}."
    return f"{said}; they are {per_cent(told.share)} of {told.weight_column}."


def lora_against_full(told: GridResult) -> list[Comparison]:
    """What the study asked: LoRA beside full fine-tuning, of one base and one balance."""
    models = {model.name: model for model in told.models}
    found = []
    for pair in told.comparisons:
        one, other = models[pair.of], models[pair.against]
        if (one.base, one.balance) == (other.base, other.balance) and {one.method, other.method} == {"lora", "full"}:
            found.append(pair)
    return found


def random_split(found: RandomSplit) -> str:
    """How much a split that ignores products would have flattered."""
    by_product, at_random = found.by_product, found.at_random
    return (
        f"A random split would have shown the linear model at {at_random.accuracy:.3f} accuracy and {at_random.macro_f1:.3f} macro F1 "
        f"(from {found.train:,} rows), the split by product shows {by_product.accuracy:.3f} and {by_product.macro_f1:.3f}."
    )


def variant_decisions(told: FitMetrics) -> list[str]:
    """What became of the models of fewer bits."""
    return [f"int8 {told.int8.reason}", *([f"fp16 {told.fp16.reason}"] if told.fp16 else [])]


def calibration(variant: str, found: Calibration) -> str:
    """Whether confidences can be believed."""
    made = found.confidence
    return (
        f"calibration error of {variant}: {found.error_before:.3f} before, {found.error_after:.3f} after it is calibrated (temperature "
        f"{made.temperature:.2f}, slope {made.slope:.2f}, shift {made.shift:+.2f}); exact confidences would show {found.by_chance:.3f} in "
        "so few rows"
    )


def threshold_outcome(found: MeasuredThreshold) -> str:
    """What a threshold came to on the scored rows."""
    if found.threshold is None:
        return found.shortfall
    if found.reached_in_test is None:
        return "no scored row is so sure"
    return f"{per_cent(found.reached_in_test.value)} ({100 * found.reached_in_test.low:.1f} to {100 * found.reached_in_test.high:.1f})"
