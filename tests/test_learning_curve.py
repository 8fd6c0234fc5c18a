"""What is expected of a catalog: the scores of a fresh file, and how many rows it takes to accept most of it."""

from __future__ import annotations

import numpy as np
import pytest

from catcli.arrays import BoolArray, IntArray
from catcli.evaluation.bootstrap import Outcomes, lower_bound
from catcli.evaluation.catalog_scores import estimate_catalog_scores
from catcli.evaluation.learning_curve import CurvePoint, LearningCurve, find_rows_needed

SHARES = (2 / 3, 1 / 3, 1 / 3, 1 / 6, 1 / 6)


def outcomes(right: BoolArray, truth: IntArray | None = None) -> Outcomes:
    """Of rows of two classes or of ``truth``, a product each; wrong rows are of the class below, and confidence says nothing."""
    rows = np.arange(len(right))
    truth = rows % 2 if truth is None else truth
    predicted = np.where(right, truth, np.maximum(truth, 1) - 1 + (truth == 0))
    confidence = np.random.default_rng(0).random(len(right)).astype(np.float32)
    return Outcomes(truth, predicted, right, np.zeros(len(right)), confidence, rows)


def curve_of(rows: int, level: float, exponent: float, scored: BoolArray | None = None) -> LearningCurve:
    """Errors of ``level`` x share^-exponent."""
    random = np.random.default_rng(1)
    points = [CurvePoint(share, outcomes(random.random(rows) > level * share**-exponent)) for share in SHARES]
    return LearningCurve(points, np.ones(rows, np.bool_) if scored is None else scored, rows)


def test_the_exponent_is_that_of_the_errors() -> None:
    curve = curve_of(40_000, 0.05, 0.5)
    errors = [np.full(3, (~point.outcomes.right).mean()) for point in curve.points]
    assert curve.exponent(errors) == pytest.approx([0.5] * 3, abs=0.03)
    assert (curve.exponent([np.array([0.1 * point.share]) for point in curve.points]) == 0).all()  # worse with more rows


def test_rows_needed_are_those_of_the_power_law() -> None:
    rows, level, exponent = 4_000, 0.05, 0.5
    curve = curve_of(rows, level, exponent)
    blend = outcomes(np.arange(rows) % 50 > 0)  # 2 in 100 are wrong
    done, needed, far = find_rows_needed(curve, blend, (0.9, 0.985, 0.999))
    assert (done.rows, done.low, done.high) == (0, 0, 0)

    def shown(factor: float) -> bool:
        trials = 0.8 * rows * factor
        return lower_bound(round(trials * (1 - 0.02 * factor**-exponent)), round(trials), 0.05) >= 0.985

    expected = next(factor for factor in np.arange(1, 30, 0.01) if shown(factor))
    assert needed.rows is not None
    assert needed.low is not None
    assert needed.high is not None
    assert needed.rows == pytest.approx((expected - 1) * rows, rel=0.35)
    assert needed.low < needed.rows < needed.high
    assert far.rows is None
    assert far.high is None


def test_a_fresh_file_shows_what_models_of_all_rows_label() -> None:
    rows = 4_000
    curve = curve_of(rows, 0.1, 0.5)
    blend = outcomes(np.random.default_rng(2).random(rows) > 0.1)
    expected = estimate_catalog_scores(curve, blend, 3)
    assert expected is not None
    assert expected.products == rows
    wrong = float((~blend.right).mean()) * (2 / 3) ** 0.5
    assert expected.accuracy.value == pytest.approx(1 - wrong, abs=0.005)
    assert expected.macro_f1.value == pytest.approx(expected.accuracy.value, abs=0.005)
    assert expected.unscored_categories == 0
    assert expected.accuracy.low < expected.accuracy.value < expected.accuracy.high
    # Two samples of as many products differ by sqrt(2) times the error of one.
    deviation = np.sqrt(2 * wrong * (1 - wrong) / rows)
    assert expected.accuracy.high - expected.accuracy.low == pytest.approx(4 * deviation, rel=0.35)


def test_categories_that_are_not_scored_count_as_the_smallest_that_are() -> None:
    # 10 large categories are labeled right, 10 of two rows are labeled wrong, and 20 of one row are not scored.
    truth = np.concatenate((np.repeat(np.arange(10), 98), np.repeat(np.arange(10, 20), 2), np.arange(20, 40)))
    scored = truth < 20
    right = truth < 10
    curve = LearningCurve([CurvePoint(share, outcomes(right, truth)) for share in SHARES], scored, len(truth))
    expected = estimate_catalog_scores(curve, outcomes(right, truth), 3)
    assert expected is not None
    assert expected.unscored_categories == 20
    # Half of the 20 rows count, as wrong as the smallest are; the errors do not fall.
    assert expected.accuracy.value == pytest.approx(980 / (1_000 + 10))
    f1 = np.full(20, 0.0)
    f1[:10] = 1.0
    f1[9] = 2 * 98 / (2 * 98 + 2)  # class 9 takes the two rows of class 10
    assert expected.macro_f1.value == pytest.approx(f1.sum() / (20 + 10))
    # All of the 20 may be there, or none; some of the smallest are in no replicate.
    assert f1.sum() / 40 < expected.macro_f1.low < f1.sum() / 35
    assert f1.mean() < expected.macro_f1.high < f1.mean() * 1.25


def test_scores_of_a_few_rows_that_are_all_right_are_not_certain() -> None:
    truth = np.arange(60) % 2
    curve = LearningCurve([CurvePoint(share, outcomes(truth >= 0, truth)) for share in SHARES], np.arange(60) < 30, 60)
    expected = estimate_catalog_scores(curve, outcomes(truth >= 0, truth), 3)
    assert expected is not None
    assert expected.accuracy.value == 1
    assert expected.accuracy.low == pytest.approx(0.025 ** (1 / 30))  # Clopper and Pearson's end for 30 products
    assert expected.macro_f1.low == expected.accuracy.low


def test_too_few_scored_products_give_no_expectation() -> None:
    truth = np.arange(60) % 2
    curve = LearningCurve([CurvePoint(share, outcomes(truth >= 0, truth)) for share in SHARES], np.arange(60) < 19, 60)
    assert estimate_catalog_scores(curve, outcomes(truth >= 0, truth), 3) is None
