"""Logits of held-out rows → everything that a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catcli.adapter.manifest import Variant, VariantInfo
from catcli.arrays import FloatArray, IntArray
from catcli.config import Method
from catcli.evaluation.blend import blend_logits
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.calibration import BlendCalibration
from catcli.evaluation.metrics import Evaluation, UnknownCategory
from catcli.evaluation.reliability import measure_calibration
from catcli.evaluation.scores import ConflictCounts, compare_models, score_model
from catcli.evaluation.selective import measure_category_thresholds, measure_threshold


@dataclass(frozen=True)
class ScoredRows:
    """Rows to score: LoRA's logits by variant and the linear model's, each *(rows, classes)*, class numbers and products *(rows,)*.

    A class number past the logits' width is a category that the adapter does not know; ``names`` has those too.
    """

    lora: Mapping[Variant, FloatArray]
    linear: FloatArray
    truth: IntArray
    products: npt.NDArray[np.uint64]
    names: Sequence[str]
    method: Method

    def outcomes(self, probabilities: FloatArray) -> Outcomes:
        """The outcomes of probabilities *(rows, classes)* for the rows."""
        return Outcomes.of(probabilities, self.truth, self.products)


@dataclass(frozen=True)
class EvaluatedRows:
    """The evaluation of rows, with the blend's ``probabilities`` *(rows, classes)* and ``outcomes``."""

    evaluation: Evaluation
    probabilities: FloatArray
    outcomes: Outcomes


def evaluate_rows(
    scored: ScoredRows, variant: Variant, blend_calibration: BlendCalibration, info: VariantInfo, conflicts: ConflictCounts | None = None
) -> EvaluatedRows:
    """Score the blend by ``variant``, LoRA and the linear model, compare them, and measure the thresholds of ``info``."""
    lora, linear, names = scored.lora[variant], scored.linear, scored.names
    all_probabilities = blend_calibration.probabilities_of_all(lora, linear, variant)
    outcomes = {name: scored.outcomes(probabilities) for name, probabilities in all_probabilities.items()}
    blend = outcomes["blend"]
    unknown, counts = np.unique(scored.truth[scored.truth >= linear.shape[1]], return_counts=True)
    evaluation = Evaluation(
        scored_rows=len(scored.truth),
        scored_products=blend.products,
        variant=variant,
        method=scored.method,
        unknown_categories=tuple(
            UnknownCategory(category=names[int(number)], rows=int(rows)) for number, rows in zip(unknown, counts, strict=True)
        ),
        blend=score_model(all_probabilities["blend"], blend, names, conflicts),
        lora=score_model(all_probabilities["lora"], outcomes["lora"], names, conflicts),
        linear=score_model(all_probabilities["linear"], outcomes["linear"], names, conflicts),
        against_linear=compare_models(blend, outcomes["linear"], "blend", "linear"),
        against_lora=compare_models(blend, outcomes["lora"], "blend", "lora"),
        calibration={
            name: measure_calibration(
                blend_logits(values, linear, blend_calibration.blend), scored.truth, blend_calibration.confidences[name]
            )
            for name, values in scored.lora.items()
        },
        promises=tuple(measure_threshold(single, blend) for single in info.thresholds),
        category_promises=measure_category_thresholds(info.category_thresholds, blend, names),
    )
    return EvaluatedRows(evaluation, all_probabilities["blend"], blend)
