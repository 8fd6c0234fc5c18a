"""Numbers: scores, blends, calibration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss

from catcli.adapter.manifest import BlendWeights, Variant
from catcli.arrays import DoubleArray, FloatArray, IntArray
from catcli.evaluation.blend import blend_logits, softmax
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.calibration import BlendCalibration, class_shares, fit_blend_weights, fit_logit_weights, fit_temperature
from catcli.evaluation.metrics import Scores
from catcli.evaluation.scores import score_model

NAMES = ("a", "b", "c", "d")
EVEN = np.full(4, 0.25)


def voices(rows: int = 400, classes: int = 4) -> tuple[FloatArray, FloatArray, IntArray]:
    """Two independent noisy views of one truth."""
    random = np.random.default_rng(0)
    truth = random.integers(0, classes, rows)
    clean = 2.0 * np.eye(classes)[truth]
    first, second = (np.asarray(clean + random.normal(0, noise, clean.shape), np.float32) for noise in (1.5, 1.5))
    return first, second, truth


def log_loss(scores: FloatArray, truth: IntArray) -> float:
    """Mean negative logarithm of the probability that softmax of ``scores`` gives the truth."""
    return float(-np.log(softmax(scores)[np.arange(len(truth)), truth]).mean())


def test_a_blend_of_two_independent_voices_beats_each() -> None:
    first, second, truth = voices()
    weights = fit_logit_weights([first[:200], second[:200]], truth[:200])
    blended = np.asarray(weights[0] * first + weights[1] * second, np.float32)[200:]
    alone = [(voice[200:].argmax(1) == truth[200:]).mean() for voice in (first, second)]
    assert (blended.argmax(1) == truth[200:]).mean() > max(alone)
    assert log_loss(blended, truth[200:]) < min(
        log_loss(np.float32(fit_logit_weights([v[:200]], truth[:200])[0]) * v[200:], truth[200:]) for v in (first, second)
    )


def test_few_rows_leave_the_usual_shares_and_many_decide_for_the_most_part() -> None:
    first, _, truth = voices(2000)
    noise = np.random.default_rng(1).normal(0, 1, first.shape).astype(np.float32)

    def relative(rows: int) -> float:
        alone = fit_logit_weights([first[:rows]], truth[:rows])[0]
        return fit_blend_weights([first[:rows], noise[:rows]], truth[:rows], (alone, 1.0), (0.5, 0.5))[0] / alone

    assert relative(4) < 0.6
    # From some number of rows the prior is as strong as they are many, so that it never vanishes.
    assert relative(200) == pytest.approx(relative(2000), abs=0.02)
    assert 0.8 < relative(2000) < 0.9


def test_a_voice_of_noise_gets_hardly_any_weight() -> None:
    first, _, truth = voices()
    noise = np.random.default_rng(1).normal(0, 1, first.shape).astype(np.float32)
    weights = fit_logit_weights([first, noise], truth)
    assert weights[1] < 0.2 * weights[0]


def test_rows_that_are_all_right_do_not_ask_for_endless_confidence() -> None:
    truth = np.array([0, 1, 2, 3] * 5)
    scores = np.eye(4, dtype=np.float32)[truth]
    temperature = fit_temperature(scores, truth)
    # Platt's target for 20 rows is 21 / 22: the fitted probability is that, not 1.
    assert softmax(scores / np.float32(temperature))[0].max() == pytest.approx(21 / 22, abs=1e-3)


def test_the_fit_finds_the_temperature_that_made_the_rows() -> None:
    random = np.random.default_rng(3)
    logits = random.normal(0, 2, (20_000, 5)).astype(np.float32)
    truth = np.array([random.choice(5, p=row / row.sum()) for row in softmax(logits / np.float32(2.5)).astype(np.float64)])
    assert fit_temperature(logits, truth) == pytest.approx(2.5, rel=0.05)


def test_each_variant_gets_a_temperature_of_its_own() -> None:
    first, second, truth = voices()
    blending = BlendCalibration.fit({"fp32": first, "int8": 3 * first}, second, truth, EVEN)
    # The prior leaves the weights too low together, and the temperature makes up for it.
    assert blending.confidences["fp32"].temperature == pytest.approx(0.76, abs=0.05)
    assert blending.confidences["int8"].temperature > 2 * blending.confidences["fp32"].temperature


def test_in_the_blend_lora_does_without_what_the_shares_say() -> None:
    first, second, truth = voices()
    shares = class_shares(np.array([0] * 8 + [1, 1]), np.ones(10, np.float32), 4)
    assert shares.tolist() == pytest.approx([8 / 14, 2 / 14, 2 / 14, 2 / 14])  # a class without rows counts as the rarest
    even, skewed = (BlendCalibration.fit({"fp32": first}, second, truth, given) for given in (EVEN, shares))
    assert np.ptp(even.blend.offset) == 0
    assert skewed.blend.offset[0] < skewed.blend.offset[1] == skewed.blend.offset[3]
    # As much as LoRA's calibrated logits say of the shares, in LoRA's part of the blend.
    expected = skewed.blend.lora / skewed.lora_alone * np.log(shares[1] / shares[0])
    assert skewed.blend.offset[0] - skewed.blend.offset[1] == pytest.approx(expected, abs=1e-5)


def test_out_of_fold_rows_set_the_linear_model_s_scale_where_validation_rows_are_few() -> None:
    first, second, truth = voices()
    few: tuple[Mapping[Variant, FloatArray], FloatArray, IntArray, DoubleArray] = ({"fp32": first[:6]}, second[:6], truth[:6], EVEN)
    known = 1 / fit_temperature(second, truth)
    alone, crossed = BlendCalibration.fit(*few).linear_alone, BlendCalibration.fit(*few, (second[6:], truth[6:])).linear_alone
    assert abs(crossed - known) < abs(alone - known)
    assert crossed == pytest.approx(known, rel=1e-3)


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=5))
def test_probabilities_are_probabilities(rows: list[list[float]]) -> None:
    scores = np.array(rows, np.float32)
    probabilities = softmax(blend_logits(scores, scores, BlendWeights(lora=0.5, linear=2.0, offset=(0.1, 0.0, -0.1))) / np.float32(1.5))
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (probabilities >= 0).all()


def scored(scores: FloatArray, truth: IntArray) -> Scores:
    """Every row a product of its own."""
    return score_model(softmax(scores), Outcomes.of(softmax(scores), truth, np.arange(len(truth))), NAMES)


def test_scores_are_those_of_the_textbook() -> None:
    truth = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 0])
    scores = np.asarray(4 * np.eye(4)[predicted], np.float32)
    normalized = softmax(scores).astype(np.float64)
    normalized /= normalized.sum(1, keepdims=True)
    found = scored(scores, truth)
    assert found.accuracy.value == pytest.approx(4 / 6)
    assert found.macro_precision.value == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert found.macro_recall.value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found.weighted_recall.value == pytest.approx(4 / 6)
    assert found.log_loss.value == pytest.approx(sklearn_log_loss(truth, normalized, labels=[0, 1, 2, 3]), abs=1e-4)
    assert [(pair.truth, pair.predicted, pair.rows) for pair in found.confusions] == [("a", "b", 1), ("c", "a", 1)]


def test_what_is_undefined_is_none() -> None:
    scores = np.asarray(np.eye(4)[[0, 0, 3]], np.float32)
    found = {category.category: category for category in scored(scores, np.array([0, 0, 1])).categories}
    assert set(found) == {"a", "b", "d"}
    assert (found["b"].precision, found["b"].recall) == (None, 0.0)
    assert found["b"].f1
    assert found["b"].f1.value == 0.0
    assert (found["d"].support, found["d"].recall, found["d"].roc_auc) == (0, None, None)
    assert found["a"].roc_auc == 1.0
