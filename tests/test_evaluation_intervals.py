"""Intervals, comparisons, calibration and the precision contract, beside second implementations and worked examples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support, top_k_accuracy_score

from catcli.adapter.manifest import CalibrationParameters
from catcli.arrays import FloatArray, IntArray
from catcli.data.dataset.labeled import conflicting_labels
from catcli.evaluation.blend import calibrate, softmax
from catcli.evaluation.bootstrap import (
    Outcomes,
    bootstrap_metrics,
    bootstrap_weights,
    compute_metrics,
    estimate_interval,
    lower_bound,
    point_metrics,
)
from catcli.evaluation.calibration import fit_calibration, prior_slope
from catcli.evaluation.curves import category_curves, coverage_curve
from catcli.evaluation.metrics import Comparison, Estimate
from catcli.evaluation.reliability import calibration_error, measure_calibration, reliability_bins
from catcli.evaluation.requirements import Requirement
from catcli.evaluation.scores import compare_models, holm_corrected, score_model
from catcli.evaluation.selective import (
    RISK,
    ProductSample,
    find_category_thresholds,
    find_threshold,
    find_thresholds,
    measure_threshold,
    products_needed,
)


def rows(count: int = 300, classes: int = 5, *, seed: int = 0, products: int = 120) -> tuple[FloatArray, IntArray, IntArray]:
    """Probabilities that are right rather often, the truth, and products of some rows each."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, count)
    scores = random.normal(0, 1, (count, classes)) + 1.5 * np.eye(classes)[truth]
    return softmax(scores.astype(np.float32)), truth, random.integers(0, products, count)


# --- resampling ----------------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 80), st.integers(2, 7))
def test_metrics_as_they_stand_are_those_of_scikit_learn(seed: int, count: int, classes: int) -> None:
    probabilities, truth, product = rows(count, classes, seed=seed)
    found = {name: values[0] for name, values in point_metrics(Outcomes.of(probabilities, truth, product)).metrics.items()}
    predicted, present = probabilities.argmax(1), np.unique(truth)
    for how in ("macro", "weighted"):
        expected = precision_recall_fscore_support(truth, predicted, labels=present, average=how, zero_division=0)[:3]
        assert [found[f"{how}_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(list(expected), abs=1e-6)
    assert found["accuracy"] == pytest.approx((predicted == truth).mean(), abs=1e-6)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # y_pred holds classes that y_true does not; two classes for top three
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-6)
        top = top_k_accuracy_score(truth, probabilities, k=3, labels=np.arange(classes)) if classes > 2 else 1.0
    assert found["top_3_accuracy"] == pytest.approx(top, abs=1e-6)


def test_a_weighted_replicate_is_the_metric_of_rows_that_are_repeated() -> None:
    probabilities, truth, product = rows(60, products=20)
    outcomes = Outcomes.of(probabilities, truth, product)
    weights = next(bootstrap_weights(outcomes.products, count=3))
    replicate = compute_metrics(outcomes, weights)
    for number, times in enumerate(weights.astype(int)):
        repeated = np.repeat(np.arange(60), times[outcomes.product])
        again = point_metrics(Outcomes.of(probabilities[repeated], truth[repeated], product[repeated]))
        for name, values in again.metrics.items():
            assert replicate.metrics[name][number] == pytest.approx(values[0], abs=1e-5), name


def test_draws_are_of_products_with_replacement_and_the_same_for_one_seed() -> None:
    weights = np.concatenate(list(bootstrap_weights(50, count=40)))
    assert weights.shape == (40, 50)
    assert (weights.sum(1) == 50).all()
    assert np.array_equal(weights, np.concatenate(list(bootstrap_weights(50, count=40))))


def test_the_interval_of_an_accuracy_is_about_the_textbook_s() -> None:
    probabilities, truth, _ = rows(2_000)
    outcomes = Outcomes.of(probabilities, truth, np.arange(2_000))
    point = float(point_metrics(outcomes).metrics["accuracy"][0])
    found = estimate_interval(point, bootstrap_metrics(outcomes).metrics["accuracy"], 2_000)
    low, high = stats.binomtest(int(outcomes.right.sum()), 2_000).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)


def test_products_with_many_rows_widen_the_interval() -> None:
    probabilities, truth, _ = rows(100)
    alone = Outcomes.of(probabilities, truth, np.arange(100))
    tenfold = np.repeat(np.arange(100), 10)
    together = Outcomes.of(probabilities[tenfold], truth[tenfold], tenfold)
    spread = [np.ptp(np.quantile(bootstrap_metrics(one).metrics["accuracy"], (0.025, 0.975))) for one in (alone, together)]
    assert spread[1] == pytest.approx(spread[0], abs=0.01)  # ten rows of one product say what one row does


def test_where_all_rows_are_right_the_interval_is_the_exact_one() -> None:
    found = estimate_interval(1.0, np.ones(1000), 20)
    assert (found.low, found.high) == pytest.approx(stats.binomtest(20, 20).proportion_ci(method="exact"), abs=1e-9)
    assert estimate_interval(0.0, np.zeros(1000), 20).high == pytest.approx(1 - found.low)


def test_a_category_that_a_draw_misses_says_nothing_of_its_f1() -> None:
    truth = np.array([0] * 50 + [1] * 3)
    probabilities = softmax(5 * np.eye(2, dtype=np.float32)[truth])
    found = score_model(probabilities, Outcomes.of(probabilities, truth, np.arange(53)), ("a", "b")).categories[1].f1
    assert found
    assert (found.low, found.high) == pytest.approx(stats.binomtest(3, 3).proportion_ci(method="exact"))


def test_categories_that_the_adapter_does_not_know_count_as_wrong() -> None:
    probabilities = softmax(4 * np.eye(3, dtype=np.float32)[[0, 1, 2, 0]])
    truth = np.array([0, 1, 3, 4])
    scores = score_model(probabilities, Outcomes.of(probabilities, truth, np.arange(4)), ("a", "b", "c", "new", "newer"))
    assert scores.accuracy.value == 0.5
    assert scores.macro_f1.value == pytest.approx((2 / 3 + 1 + 0 + 0) / 4)
    assert scores.top_3_accuracy.value == 0.5
    assert scores.log_loss.value == pytest.approx(float(-np.log(probabilities[0, 0])), rel=1e-5)  # of the rows whose category it knows
    found = {category.category: category for category in scores.categories}
    assert (found["new"].roc_auc, found["new"].average_precision, found["new"].recall) == (None, None, 0.0)


# --- comparisons ---------------------------------------------------------------------------------------------------------------------


def test_a_model_beside_itself_differs_in_nothing() -> None:
    probabilities, truth, product = rows()
    one = Outcomes.of(probabilities, truth, product)
    found = compare_models(one, one, "a", "b")
    assert (found.accuracy.value, found.accuracy.low, found.accuracy.high, found.better, found.worse, found.p_value) == (0, 0, 0, 0, 0, 1)


def test_paired_differences_are_those_of_the_scores_and_tell_a_gain() -> None:
    probabilities, truth, _ = rows(600)
    better = probabilities.copy()
    helped = np.flatnonzero(probabilities.argmax(1) != truth)[:40]
    better[helped] = softmax(9 * np.eye(5, dtype=np.float32)[truth[helped]])
    outcomes = [Outcomes.of(found, truth, np.arange(600)) for found in (better, probabilities)]
    found = compare_models(outcomes[0], outcomes[1], "better", "worse")
    assert found.accuracy.value == pytest.approx(40 / 600, abs=1e-6)
    assert 0 < found.accuracy.low < found.accuracy.value < found.accuracy.high
    assert (found.better, found.worse) == (40, 0)
    assert found.p_value == pytest.approx(stats.binomtest(40, 40).pvalue)  # McNemar, exact


def test_mcnemar_counts_a_product_once() -> None:
    truth, product = np.zeros(6, np.int64), np.array([0, 0, 0, 0, 1, 2])
    sure = softmax(np.array([[5, 0]] * 6, np.float32))
    wrong = sure[:, ::-1].copy()
    found = compare_models(Outcomes.of(sure, truth, product), Outcomes.of(wrong, truth, product), "a", "b")
    assert (found.better, found.worse, found.p_value) == (3, 0, 0.25)


def test_holm_s_correction_is_that_of_his_example() -> None:
    nothing = Estimate(value=0, low=0, high=0)
    made = [
        Comparison(of="a", against="b", rows=1, accuracy=nothing, macro_f1=nothing, better=0, worse=0, p_value=p)
        for p in (0.01, 0.04, 0.03, 0.005)
    ]
    # statsmodels.stats.multitest.multipletests((0.01, 0.04, 0.03, 0.005), method="holm")
    assert [found.p_value for found in holm_corrected(made)] == pytest.approx([0.03, 0.06, 0.06, 0.02])


# --- calibration ---------------------------------------------------------------------------------------------------------------------


def test_bins_are_those_of_scikit_learn_s_quantiles() -> None:
    random = np.random.default_rng(1)
    confidence = random.random(1500).astype(np.float32)
    right = random.random(1500) < confidence
    accuracy, mean = calibration_curve(right, confidence, n_bins=15, strategy="quantile")
    assert [found.accuracy for found in reliability_bins(confidence, right)] == pytest.approx(list(accuracy), abs=1e-6)
    assert [found.confidence for found in reliability_bins(confidence, right)] == pytest.approx(list(mean), abs=1e-5)


def test_the_calibration_error_is_what_the_bins_are_off_by() -> None:
    confidence, right = np.array([0.6, 0.9, 0.8], np.float32), np.array([True, True, False])
    assert calibration_error(confidence, right) == pytest.approx((0.4 + 0.1 + 0.8) / 3)  # so few rows are a bin each
    halves = np.repeat(np.array([0.25, 0.75], np.float32), 600)
    right = np.tile([True, False, False, False], 150).tolist() + np.tile([True, True, True, False], 150).tolist()
    assert calibration_error(halves, np.array(right)) == pytest.approx(0)


def test_exact_confidences_show_the_error_that_is_said_to_be_chance() -> None:
    random = np.random.default_rng(2)
    scores = random.normal(0, 2, (400, 4)).astype(np.float32)
    truth = np.array([random.choice(4, p=row / row.sum()) for row in softmax(scores).astype(np.float64)])
    exact = CalibrationParameters(temperature=1.0)
    found = measure_calibration(scores, calibrate(scores, exact), truth, exact)
    assert found.error_after == pytest.approx(found.by_chance, abs=0.02)


def test_slope_and_shift_are_those_of_a_logistic_regression() -> None:
    random = np.random.default_rng(3)
    scores = random.normal(0, 3, (20_000, 6)).astype(np.float32)
    odds = np.log(softmax(scores).max(1)) - np.log1p(-softmax(scores).max(1).astype(np.float64))
    right = random.random(20_000) < 1 / (1 + np.exp(-(0.5 * odds + 0.3)))
    truth = np.where(right, scores.argmax(1), (scores.argmax(1) + 1) % 6)
    found = fit_calibration(scores, truth)
    top = calibrate(scores, CalibrationParameters(temperature=found.temperature)).max(1).astype(np.float64)
    known = LogisticRegression(C=1e9).fit((np.log(top) - np.log1p(-top))[:, None], right)
    assert found.slope == pytest.approx(float(known.coef_[0, 0]), rel=0.02)
    assert found.shift == pytest.approx(float(known.intercept_[0]), abs=0.02)
    assert measure_calibration(scores, calibrate(scores, found), truth, found).error_after < 0.02


def test_few_rows_leave_slope_and_shift_near_the_usual() -> None:
    scores = softmax(np.random.default_rng(0).normal(0, 1, (6, 4)).astype(np.float32))
    found = fit_calibration(scores, scores.argmax(1))
    assert found.slope == pytest.approx(prior_slope(4), abs=0.3)
    assert prior_slope(10) == pytest.approx(0.9, abs=0.01)
    assert prior_slope(200) == pytest.approx(0.51, abs=0.01)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(-300, 300, width=32), min_size=4, max_size=4), min_size=1, max_size=6),
    st.floats(0.1, 4),
    st.floats(0.05, 5),
    st.floats(-5, 5),
)
def test_calibrated_probabilities_keep_the_best_and_are_probabilities(
    given_scores: list[list[float]], temperature: float, slope: float, shift: float
) -> None:
    scores = np.array(given_scores, np.float32)
    found = calibrate(scores, CalibrationParameters(temperature=temperature, slope=slope, shift=shift))
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()
    assert (found.sum(1) <= 1 + 1e-5).all()
    tempered = scores / np.float32(temperature)
    assert (tempered[np.arange(len(scores)), found.argmax(1)] == tempered.max(1)).all()


def test_without_slope_and_shift_it_is_softmax() -> None:
    scores = np.random.default_rng(0).normal(0, 5, (50, 7)).astype(np.float32)
    assert np.allclose(calibrate(scores, CalibrationParameters(temperature=2.0)), softmax(scores / np.float32(2)), atol=1e-6)


# --- the precision contract ----------------------------------------------------------------------------------------------------------


def test_so_many_products_without_an_error_show_a_precision() -> None:
    assert [products_needed(precision) for precision in (0.9, 0.95, 0.98, 0.99)] == [29, 59, 149, 299]
    assert products_needed(0.95, errors=1) == 93  # the textbook's table for 95 % / 95 %
    assert lower_bound(149, 149, RISK) >= 0.98 > lower_bound(148, 148, RISK)


def judged(confidence: npt.ArrayLike, right: npt.ArrayLike) -> ProductSample:
    return ProductSample(np.asarray(confidence, np.float32), np.asarray(right, bool), np.zeros(len(np.asarray(right)), np.int64))


def test_the_threshold_lies_where_the_last_test_held() -> None:
    confidence = np.linspace(1, 0.9, 400)
    found = find_threshold(judged(confidence, np.arange(400) < 300), 0.9)
    # 300 right, then only wrong ones: 90 % of n holds with 95 % until about n = 320.
    assert found.threshold is not None
    assert found.accepted == pytest.approx(0.79, abs=0.03)
    assert found.accepted is not None
    assert lower_bound(300, round(found.accepted * 400), RISK) >= 0.9


def test_rows_that_are_too_few_or_too_often_wrong_get_no_threshold_and_the_reason() -> None:
    few = find_threshold(judged(np.linspace(1, 0.9, 20), np.ones(20)), 0.95)
    assert (few.threshold, few.best, few.missing) == (None, None, 59 - 20)
    wrong = find_threshold(judged(np.linspace(1, 0.9, 200), np.arange(200) % 2), 0.95)
    assert (wrong.threshold, wrong.missing) == (None, None)
    assert wrong.best is not None
    assert wrong.best < 0.95


def test_a_threshold_fails_no_more_often_than_its_risk() -> None:
    random = np.random.default_rng(0)
    failed = found = 0
    for _ in range(300):
        confidence = np.sort(random.beta(6, 1, 250))[::-1]
        right = random.random(250) < confidence
        made = find_threshold(judged(confidence, right), 0.9)
        if made.threshold is not None:
            found += 1
            new = random.beta(6, 1, 20_000)
            accepted = new >= made.threshold
            failed += (random.random(accepted.sum()) < new[accepted]).mean() < 0.9
    assert found > 100
    assert failed <= 0.05 * 300


def test_rows_of_equal_confidence_are_accepted_together() -> None:
    found = find_threshold(judged(np.array([0.9] * 100 + [0.5] * 100), np.concatenate((np.ones(100), np.zeros(100)))), 0.9)
    assert found.threshold == pytest.approx(0.9)
    assert found.accepted == 0.5


def test_one_row_of_each_product_is_judged() -> None:
    probabilities, truth, product = rows(300, products=80)
    assert len(ProductSample.of(Outcomes.of(probabilities, truth, product)).right) == len(np.unique(product))


def test_categories_share_the_risk() -> None:
    confidence = np.tile(np.linspace(1, 0.95, 40), 3).astype(np.float32)
    predicted = np.repeat([0, 1, 2], [40, 40, 40])
    found = find_category_thresholds(ProductSample(confidence, np.ones(120, bool), predicted), ("a", "b", "c"))
    assert [one.category for one in found] == ["a", "b", "c"]
    # 40 products without an error show .9 at 5 % but for three categories at once it takes enough(.9, .05 / 3) = 39 of them.
    assert all(one.thresholds[0].threshold is not None for one in found)
    assert products_needed(0.9, RISK / 3) == 39
    assert products_needed(0.9, RISK / 4) > 40


def test_what_a_threshold_came_to_is_told_by_rows_it_has_not_seen() -> None:
    probabilities, truth, product = rows(2_000, products=2_000)
    outcomes = Outcomes.of(probabilities, truth, product)
    made = find_thresholds(ProductSample.of(outcomes.take(np.arange(1_000))), (0.9,))[0]
    assert made.threshold is not None
    other = outcomes.take(np.arange(1_000, 2_000))
    told = measure_threshold(made, other)
    accepted = other.confidence >= made.threshold
    assert told.accepted_in_test == pytest.approx(accepted.mean())
    assert told.reached_in_test
    assert told.reached_in_test.value == pytest.approx(other.right[accepted].mean(), abs=1e-6)


# --- curves, demands, labels ---------------------------------------------------------------------------------------------------------


def test_coverage_ends_with_all_rows_and_the_accuracy() -> None:
    probabilities, truth, product = rows()
    outcomes = Outcomes.of(probabilities, truth, product)
    found = coverage_curve(outcomes)
    assert found.rows[-1] == 300
    assert found.right[-1] == outcomes.right.sum()
    assert (np.diff(found.confidence) < 0).all()
    for place in (0, len(found.rows) // 2):
        accepted = outcomes.confidence >= found.confidence[place]
        assert (found.rows[place], found.right[place]) == (accepted.sum(), outcomes.right[accepted].sum())


def test_curves_have_the_area_that_is_reported() -> None:
    probabilities, truth, product = rows()
    scores = score_model(probabilities, Outcomes.of(probabilities, truth, product), tuple("abcde"))
    for number, found in category_curves(probabilities, truth, range(5)).items():
        area = float(np.trapezoid(found.true_positive_rate, found.false_positive_rate))
        assert area == pytest.approx(scores.categories[number].roc_auc, abs=0.01)


@pytest.mark.parametrize("text", ["macro_f1=0.9", "Macro-F1=0.9", "macro f1=.9"])
def test_a_demand_is_read_as_people_write_it(text: str) -> None:
    assert Requirement.of(text) == Requirement(metric="macro_f1", value=0.9)


def test_texts_that_are_labeled_both_ways_are_counted() -> None:
    texts = ["Blue Mug 300 ml", "mug, blue", "blue mug", "red mug", "Red Mug!"]
    assert conflicting_labels(texts, np.array([0, 1, 0, 2, 2])) == {(0, 1): 1}
