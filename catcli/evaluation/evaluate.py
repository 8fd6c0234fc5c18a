"""Logits of rows that were held out → everything that a report says of them."""

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
        """What probabilities *(rows, classes)* make of the rows."""
        return Outcomes.of(probabilities, self.truth, self.products)


@dataclass(frozen=True)
class EvaluatedRows:
    """What is told of the rows, and the blend's ``probabilities`` *(rows, classes)* and ``outcomes`` that it was told by."""

    evaluation: Evaluation
    probabilities: FloatArray
    outcomes: Outcomes


def evaluate_rows(
    scored: ScoredRows, variant: Variant, blending: BlendCalibration, served: VariantInfo, disagreeing: ConflictCounts | None = None
) -> EvaluatedRows:
    """Score the blend by ``variant``, LoRA and the linear model, compare them, and see what the thresholds of ``served`` reach."""
    lora, linear, names = scored.lora[variant], scored.linear, scored.names
    found = blending.probabilities_of_all(lora, linear, variant)
    outcomes = {name: scored.outcomes(probabilities) for name, probabilities in found.items()}
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
        blend=score_model(found["blend"], blend, names, disagreeing),
        lora=score_model(found["lora"], outcomes["lora"], names, disagreeing),
        linear=score_model(found["linear"], outcomes["linear"], names, disagreeing),
        against_linear=compare_models(blend, outcomes["linear"], "blend", "linear"),
        against_lora=compare_models(blend, outcomes["lora"], "blend", "lora"),
        calibration={
            name: measure_calibration(blend_logits(values, linear, blending.blend), scored.truth, blending.confidences[name])
            for name, values in scored.lora.items()
        },
        promises=tuple(measure_threshold(single, blend) for single in served.thresholds),
        category_promises=measure_category_thresholds(served.category_thresholds, blend, names),
    )
    return EvaluatedRows(evaluation, found["blend"], blend)
