"""``metrics.json`` and ``catcli report --json``: what was measured, every name with its meaning. Numbers only, no computing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from catcli.adapter.manifest import CalibrationParameters, Threshold, Variant
from catcli.config import MAX_LEVELS, Method

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_precision": "macro precision",
        "macro_recall": "macro recall",
        "macro_f1": "macro F1",
        "weighted_precision": "weighted precision",
        "weighted_recall": "weighted recall",
        "weighted_f1": "weighted F1",
        "top_3_accuracy": "top-3 accuracy",
        "log_loss": "log loss",
    }
)
"""The names of `Scores` that are estimates, and what tables call them."""


TREE_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "hierarchical_precision": "hierarchical precision",
        "hierarchical_recall": "hierarchical recall",
        "hierarchical_f1": "hierarchical F1",
    }
)
"""The same of `TreeScores`."""


class Numbers(BaseModel):
    """Something that was measured: frozen, every field with its meaning behind it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Estimate(Numbers):
    """A number and its 95 % interval: percentiles of a bootstrap over products."""

    value: float
    """The number itself, as the scored rows give it."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""


class CategoryScores(Numbers):
    """The scores of one category."""

    category: str
    """The category's name."""
    support: int
    """Scored rows of this category."""
    precision: float | None
    """Precision; null where no row was labeled with it."""
    recall: float | None
    """Recall; null where it has no rows."""
    f1: Estimate | None
    """Harmonic mean of precision and recall; null where it has neither rows nor predictions."""
    roc_auc: float | None
    """Area under the ROC curve of its probability, against all other rows; null where all rows or none are of it."""
    average_precision: float | None
    """Average precision of its probability; null where no row is of it."""


class Confusion(Numbers):
    """Rows of one category that were labeled as another."""

    truth: str
    """The category that they are of."""
    predicted: str
    """The category that they were labeled with."""
    rows: int
    """How many."""
    disagreeing: int = 0
    """Texts that the labeled rows themselves have under both categories: alike but for case, punctuation, numbers and word order."""
    examples: tuple[str, ...] = ()
    """Texts of such rows."""


class Scores(Numbers):
    """How well one model does. Macro averages are means over the categories that the scored rows hold, weighted ones weigh them by rows."""

    accuracy: Estimate
    """Share of rows labeled right."""
    balanced_accuracy: Estimate
    """Mean recall over the categories, which is macro recall under its other name."""
    macro_precision: Estimate
    """Mean precision over the categories; one that nothing was labeled with counts 0."""
    macro_recall: Estimate
    """Mean recall over the categories."""
    macro_f1: Estimate
    """Mean F1 over the categories."""
    weighted_precision: Estimate
    """Mean precision over the rows' categories."""
    weighted_recall: Estimate
    """Mean recall over the rows' categories, which is accuracy under its other name."""
    weighted_f1: Estimate
    """Mean F1 over the rows' categories."""
    top_3_accuracy: Estimate
    """Share of rows whose category is among the three most probable."""
    log_loss: Estimate
    """Mean negative logarithm, in nats, of the true category's probability, over rows whose category the model knows; lower is better."""
    categories: tuple[CategoryScores, ...]
    """Each category that the rows hold or were labeled with."""
    confusions: tuple[Confusion, ...]
    """The most frequent wrong pairs, the most frequent first."""


class Comparison(Numbers):
    """Two models on the same rows: differences with paired intervals, and McNemar's test."""

    of: str
    """The one that is compared."""
    against: str
    """The one that it is compared with."""
    rows: int
    """Rows that both were scored on."""
    accuracy: Estimate
    """Accuracy of the first less that of the second; the intervals of several comparisons hold together (Bonferroni)."""
    macro_f1: Estimate
    """Macro F1 of the first less that of the second."""
    better: int
    """Products of which the first labels more rows right."""
    worse: int
    """Products of which the second labels more rows right."""
    p_value: float
    """Of McNemar's exact test, each product counted once: how often chance alone gives so uneven a count; of several comparisons after
    Holm's correction."""


class Bin(Numbers):
    """Rows of like confidence."""

    confidence: float
    """Their mean confidence."""
    accuracy: float
    """The share of them that is right."""
    rows: int
    """How many."""


class Calibration(Numbers):
    """Calibration: of rows with confidence .8, four in five should be right."""

    confidence: CalibrationParameters
    """What calibrates: the temperature that scores are divided by, slope and shift of the best category's log-odds."""
    error_before: float
    """Expected calibration error before it: 15 bins of equal mass."""
    error_after: float
    """The same after it, as `predict` says confidence."""
    by_chance: float
    """The average error of exactly calibrated confidences with this few rows: sampling noise."""
    bins: tuple[Bin, ...]
    """The reliability diagram: bins of rising confidence, after calibration."""


class MeasuredThreshold(Threshold):
    """A threshold, and its coverage and precision on the scored rows."""

    accepted_in_test: float | None = None
    """Share of the scored rows at or above the threshold (coverage)."""
    reached_in_test: Estimate | None = None
    """Precision of those rows; with folds of the rows of each fold that pass the threshold of the other folds' rows. Null where there are
    none, or where the other folds' rows are too few for a threshold."""


MAX_FACTOR = 30.0
"""Times the labeled rows, past which no learning curve is trusted."""


class RowsNeeded(Numbers):
    """How many labeled rows more it takes until ``coverage`` of all rows can be accepted at ``precision``, and its 95 % interval."""

    precision: float
    """The precision."""
    coverage: float
    """The share of rows to accept."""
    rows: int | None
    """Labeled rows more, of the same kind; 0 where it is reached, null where 30 times the rows would not be enough."""
    low: int | None
    """Lower end of the 95 % interval; null as above."""
    high: int | None
    """Upper end of it; null as above."""


class CatalogScores(Numbers):
    """What a fresh file of as many products shows, labeled by the saved model: estimates, with the 95 % intervals of one such file."""

    accuracy: Estimate
    """Share of rows labeled right."""
    macro_f1: Estimate
    """Mean F1 over its categories."""
    products: int
    """Products of the file."""
    unscored_categories: int
    """Categories with products in one fold only, which are not scored; theirs are taken to be the scores of the smallest that are."""


class MeasuredCategoryThresholds(Numbers):
    """The same for the rows labeled with one category; the risk holds for all such categories together (Bonferroni)."""

    category: str
    """The category's name."""
    promises: tuple[MeasuredThreshold, ...]
    """A threshold for each precision."""


class CascadeScores(Numbers):
    """What it changes that the linear model decides some of the scored rows alone."""

    max_change: float
    """The share of rows that may get another category (predict --max-change)."""
    decided: float
    """The share of rows that the linear model decides alone."""
    changed: float
    """The share of rows that get another category than by both models."""
    exact_accuracy: float
    """Accuracy where both models label every row (predict --exact)."""


class LevelScores(Numbers):
    """Labels at one level of the category tree."""

    level: int
    """The level; 1 is the first part of the paths."""
    rows: int
    """Scored rows whose category is as deep or deeper."""
    accuracy: Estimate
    """Share of these rows whose label has the right node at this level."""


class BranchCoverage(Numbers):
    """What `predict --precision` accepts of the rows that are labeled with a node of the tree, or with what lies below."""

    precision: float
    """The precision."""
    accepted: float
    """The share of these rows that is accepted (coverage)."""
    right: float | None
    """Of the accepted ones the share that is of the node or of what lies below; null where there are none."""


class BranchScores(Numbers):
    """The scores of one node of the category tree: of all rows at it or below."""

    path: str
    """The path of the node."""
    level: Annotated[int, Field(ge=1, le=MAX_LEVELS)]
    """Its level."""
    support: int
    """Scored rows whose category is the node or lies below."""
    precision: float | None
    """Of the rows that were labeled with it or with what lies below, the share that is of it; null where there are none."""
    recall: float | None
    """Of its rows the share that was labeled so; null where there are none."""
    coverage: tuple[BranchCoverage, ...] = ()
    """For each precision that has a threshold; empty where no row was labeled so."""


class TreeScores(Numbers):
    """Scores on the tree that the categories' paths spell. A category stands for itself and all nodes above it."""

    separator: str
    """What stands between the parts of a path."""
    levels: tuple[LevelScores, ...]
    """Each level."""
    hierarchical_precision: Estimate
    """Share of the predicted nodes that are true, over all rows."""
    hierarchical_recall: Estimate
    """Share of the true nodes that are predicted, over all rows."""
    hierarchical_f1: Estimate
    """Harmonic mean of the two."""
    distance: Estimate
    """Mean number of steps in the tree from the label to the true category; 0 is right."""
    branches: tuple[BranchScores, ...]
    """Each node that rows are of or were labeled with, by path."""


class LevelCoverage(Numbers):
    """Rows that are labeled at one level with `predict --back-off`."""

    level: int
    """The level of the label."""
    accepted: float
    """Share of the scored rows."""
    right: float | None
    """Share of these rows whose label is right; null where there are none."""


class MeasuredBackOff(Threshold):
    """A threshold of `predict --back-off`, and what became of it on the scored rows."""

    accepted_in_test: float | None = None
    """Share of the scored rows that are labeled at any level."""
    reached_in_test: Estimate | None = None
    """Share of these whose label is right, at its level; of out-of-fold rows by the threshold that the rows of other folds show."""
    levels: tuple[LevelCoverage, ...] = ()
    """The same by level, all rows by the one threshold."""


class UnknownCategory(Numbers):
    """A category of scored rows that the adapter does not know."""

    category: str
    """Its name."""
    rows: int
    """Rows of it, all of which count as wrong."""


class Evaluation(Numbers):
    """How good an adapter is on rows that the scored models were not trained on."""

    scored_rows: int
    """How many rows."""
    scored_products: int
    """How many products they are of."""
    variant: Variant
    """The variant of the model that labeled them."""
    method: Method = "lora"
    """The encoder's training method; the fields called `lora` are its scores, whatever the method."""
    unknown_categories: tuple[UnknownCategory, ...]
    """Categories among them that the adapter does not know."""
    blend: Scores
    """What `predict` labels with: the blend, and the linear model alone where it decides."""
    cascade: CascadeScores | None = None
    """Which rows the linear model decides alone; null where both models label every row."""
    lora: Scores
    """LoRA's model alone, calibrated by itself."""
    linear: Scores
    """The linear model alone, calibrated by itself."""
    against_linear: Comparison
    """The blend beside the linear model alone."""
    against_lora: Comparison
    """The blend beside LoRA's model alone."""
    calibration: Mapping[Variant, Calibration]
    """Of the blend where both models label every row, for each form of the model that can serve."""
    promises: tuple[MeasuredThreshold, ...]
    """Thresholds for selective prediction (predict --precision)."""
    category_promises: tuple[MeasuredCategoryThresholds, ...]
    """The same within the rows labeled with one category, for those with enough rows to say."""
    tree: TreeScores | None = None
    """The blend's scores on the tree of the categories; null where they are flat names."""
    back_off: tuple[MeasuredBackOff, ...] = ()
    """Thresholds for labels at any level of the tree (predict --back-off)."""
