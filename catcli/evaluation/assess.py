"""Logits of rows that were held out → everything that a report says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catcli.adapter.manifest import Variant, VariantInfo
from catcli.config import Method
from catcli.evaluation.calibration import Blending
from catcli.evaluation.contract import kept, kept_by_category
from catcli.evaluation.metrics import Evaluation, Unknown
from catcli.evaluation.reliability import calibration
from catcli.evaluation.resampling import Classes, Outcomes
from catcli.evaluation.scores import Disagreeing, compare, evaluate
from catcli.runtime.blend import Array, mix


@dataclass(frozen=True)
class Scored:
    """Rows to score: LoRA's logits by variant and the linear model's, each *(rows, classes)*, class numbers and products *(rows,)*.

    A class number past the logits' width is a category that the adapter does not know; ``names`` has those too.
    """

    lora: Mapping[Variant, Array]
    linear: Array
    truth: Classes
    products: npt.NDArray[np.uint64]
    names: Sequence[str]
    method: Method

    def outcomes(self, probabilities: Array) -> Outcomes:
        """What probabilities *(rows, classes)* make of the rows."""
        return Outcomes.of(probabilities, self.truth, self.products)


@dataclass(frozen=True)
class Assessed:
    """What is told of the rows, and the blend's ``probabilities`` *(rows, classes)* and ``outcomes`` that it was told by."""

    evaluation: Evaluation
    probabilities: Array
    outcomes: Outcomes


def assess(scored: Scored, variant: Variant, blending: Blending, served: VariantInfo, disagreeing: Disagreeing | None = None) -> Assessed:
    """Score the blend by ``variant``, LoRA and the linear model, compare them, and see what the thresholds of ``served`` reach."""
    lora, linear, names = scored.lora[variant], scored.linear, scored.names
    found = blending.voices(lora, linear, variant)
    outcomes = {name: scored.outcomes(probabilities) for name, probabilities in found.items()}
    blend = outcomes["blend"]
    unknown, counts = np.unique(scored.truth[scored.truth >= linear.shape[1]], return_counts=True)
    evaluation = Evaluation(
        scored_rows=len(scored.truth),
        scored_products=blend.products,
        variant=variant,
        method=scored.method,
        unknown_categories=tuple(
            Unknown(category=names[int(number)], rows=int(rows)) for number, rows in zip(unknown, counts, strict=True)
        ),
        blend=evaluate(found["blend"], blend, names, disagreeing),
        lora=evaluate(found["lora"], outcomes["lora"], names, disagreeing),
        linear=evaluate(found["linear"], outcomes["linear"], names, disagreeing),
        against_linear=compare(blend, outcomes["linear"], "blend", "linear"),
        against_lora=compare(blend, outcomes["lora"], "blend", "lora"),
        calibration={
            name: calibration(mix(values, linear, blending.blend), scored.truth, blending.confidences[name])
            for name, values in scored.lora.items()
        },
        promises=tuple(kept(single, blend) for single in served.thresholds),
        category_promises=kept_by_category(served.category_thresholds, blend, names),
    )
    return Assessed(evaluation, found["blend"], blend)
