"""Logits of held-out rows → everything that a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from catcli.adapter.manifest import BackOff, Cascade, Variant, VariantInfo
from catcli.arrays import FloatArray, IntArray
from catcli.config import DEFAULT_MAX_CHANGE, Method
from catcli.data.dataset.taxonomy import CategoryTree
from catcli.evaluation.back_off import fit_back_off, level_labels, measure_back_off
from catcli.evaluation.blend import blend_logits
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.calibration import BlendCalibration
from catcli.evaluation.cascade import ChangeSample, fit_cascades, measure_cascade, serve
from catcli.evaluation.climb import level_calibrations
from catcli.evaluation.fold_roles import FoldRoles
from catcli.evaluation.hierarchy import lineage, score_tree
from catcli.evaluation.metrics import Evaluation, MeasuredBackOff, UnknownCategory
from catcli.evaluation.reliability import measure_calibration
from catcli.evaluation.scores import ConflictCounts, compare_models, score_model
from catcli.evaluation.selective import (
    ProductSample,
    find_category_thresholds,
    find_thresholds,
    measure_category_thresholds,
    measure_threshold,
    one_row_each,
)


@dataclass(frozen=True)
class ScoredRows:
    """Rows to score: LoRA's logits by variant and the linear model's, each *(rows, classes)*, class numbers and products *(rows,)*.

    A class number past the logits' width is a category that the adapter does not know; ``names`` has those too. ``roles`` are those of
    out-of-fold rows, which are judged without what they chose (cross-fitting), and not all of which are scored; None for other rows. With a
    ``separator`` the names are paths of a tree.
    """

    lora: Mapping[Variant, FloatArray]
    linear: FloatArray
    truth: IntArray
    products: npt.NDArray[np.uint64]
    names: Sequence[str]
    method: Method
    roles: FoldRoles | None = None
    separator: str | None = None

    @cached_property
    def tree(self) -> CategoryTree | None:
        """The tree of the adapter's categories; None where they are flat names."""
        return None if self.separator is None else CategoryTree.of(self.names[: self.linear.shape[1]], self.separator)

    def served(self, blend: FloatArray, cascade: Cascade | None) -> FloatArray:
        """The probabilities *(rows, classes)* that the rows are served with, of those of the ``blend``."""
        return blend if cascade is None else serve(self.linear, blend, cascade, self.truth, self.roles)

    def outcomes(self, probabilities: FloatArray) -> Outcomes:
        """The outcomes of probabilities *(rows, classes)* for the rows."""
        return Outcomes.of(probabilities, self.truth, self.products)

    def probabilities(self, calibration: BlendCalibration, variant: Variant) -> dict[str, FloatArray]:
        """Probabilities *(rows, classes)* of a variant's blend and of each model alone, by the names of `Evaluation`."""
        lora = self.lora[variant]
        if self.roles is None:
            return calibration.probabilities_of_all(lora, self.linear, variant)
        return calibration.cross_fitted(lora, self.linear, self.truth, self.roles)


@dataclass(frozen=True)
class EvaluatedRows:
    """The evaluation of rows, with the blend's ``probabilities`` *(rows, classes)* and ``outcomes``.

    ``tested`` are its outcomes on all rows, of which some out-of-fold rows are not scored.
    """

    evaluation: Evaluation
    probabilities: FloatArray
    outcomes: Outcomes
    tested: Outcomes


def evaluate_rows(
    rows: ScoredRows, variant: Variant, blend_calibration: BlendCalibration, info: VariantInfo, conflicts: ConflictCounts | None = None
) -> EvaluatedRows:
    """Score the blend by ``variant``, as it serves by default, LoRA and the linear model, compare them, and measure its thresholds."""
    names, roles = rows.names, rows.roles
    scored = np.ones(len(rows.truth), np.bool_) if roles is None else roles.scored
    truth, linear = rows.truth[scored], rows.linear[scored]
    by_variant = {name: rows.probabilities(blend_calibration, name) for name in rows.lora}
    exact, cascade = by_variant[variant]["blend"], info.cascade(DEFAULT_MAX_CHANGE)
    by_variant[variant]["blend"] = rows.served(exact, cascade)
    all_probabilities = {name: probabilities[scored] for name, probabilities in by_variant[variant].items()}
    outcomes = {name: Outcomes.of(values, truth, rows.products[scored]) for name, values in all_probabilities.items()}
    blend = outcomes["blend"]
    tested = blend if roles is None else rows.outcomes(by_variant[variant]["blend"])
    unknown, counts = np.unique(truth[truth >= linear.shape[1]], return_counts=True)
    evaluation = Evaluation(
        scored_rows=len(truth),
        scored_products=blend.products,
        variant=variant,
        method=rows.method,
        unknown_categories=tuple(
            UnknownCategory(category=names[int(number)], rows=int(count)) for number, count in zip(unknown, counts, strict=True)
        ),
        blend=score_model(all_probabilities["blend"], blend, names, conflicts),
        lora=score_model(all_probabilities["lora"], outcomes["lora"], names, conflicts),
        linear=score_model(all_probabilities["linear"], outcomes["linear"], names, conflicts),
        against_linear=compare_models(blend, outcomes["linear"], "blend", "linear"),
        against_lora=compare_models(blend, outcomes["lora"], "blend", "lora"),
        calibration={
            name: measure_calibration(
                blend_logits(values[scored], linear, blend_calibration.blend),
                (exact if name == variant else by_variant[name]["blend"])[scored],
                truth,
                blend_calibration.confidences[name],
            )
            for name, values in rows.lora.items()
        },
        cascade=None if cascade is None else measure_cascade(cascade, linear, exact[scored], blend),
        promises=tuple(measure_threshold(single, tested, roles) for single in (cascade or info).thresholds),
        category_promises=measure_category_thresholds((cascade or info).category_thresholds, tested, names, roles),
        tree=None if rows.tree is None else score_tree(rows.tree, blend, names, (cascade or info).thresholds),
        back_off=_measure_back_off(rows, (cascade or info).back_off, by_variant[variant]["blend"], tested),
    )
    return EvaluatedRows(evaluation, all_probabilities["blend"], blend, tested)


def _measure_back_off(
    rows: ScoredRows, back_off: BackOff | None, probabilities: FloatArray, tested: Outcomes
) -> tuple[MeasuredBackOff, ...]:
    """The thresholds of labels at any level with what became of them on rows of these ``probabilities`` *(rows, classes)*."""
    if rows.tree is None or back_off is None:
        return ()
    labels = level_labels(rows.tree, probabilities, lineage(rows.tree, rows.names, rows.truth), level_calibrations(rows.tree, back_off))
    return tuple(measure_back_off(rows.tree, single, labels, tested, rows.roles) for single in back_off.thresholds)


def variant_info(
    rows: ScoredRows,
    unseen: ScoredRows,
    calibration: BlendCalibration,
    variant: Variant,
    file: str,
    unlabeled: ChangeSample | None = None,
) -> VariantInfo:
    """A variant's calibration, the thresholds that validation rows or out-of-fold rows show, and the cascades that ``unseen`` rows show.

    The first of the latter are ``rows``; ``unlabeled`` are more for the cascades.
    """
    exact, count = unseen.probabilities(calibration, variant)["blend"], len(rows.truth)
    choosing = np.arange(len(exact)) < count if rows.roles is None else rows.roles.choosing
    nodes = np.empty((0, 0), np.int64) if rows.tree is None else lineage(rows.tree, rows.names, rows.truth)

    def thresholds(probabilities: FloatArray) -> dict[str, Any]:
        sample = ProductSample.of(rows.outcomes(probabilities))
        found: dict[str, Any] = {"thresholds": find_thresholds(sample), "category_thresholds": find_category_thresholds(sample, rows.names)}
        if rows.tree is not None:
            found["back_off"] = fit_back_off(rows.tree, probabilities, nodes, one_row_each(rows.products))
        return found

    return VariantInfo(
        file=file,
        confidence=calibration.confidences[variant],
        **thresholds(exact[:count]),
        cascades=tuple(
            cascade.model_copy(update=thresholds(rows.served(exact[:count], cascade)))
            for cascade in fit_cascades(unseen.linear, exact, unseen.products, unseen.truth, choosing, unlabeled)
        ),
    )
