"""``metrics.json`` and ``catcli report --json``: what was measured, every name with its meaning. Numbers only, no computing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, ValidationError

from catcli.adapter.folder import Adapter
from catcli.adapter.manifest import CalibrationParameters, Threshold, Variant
from catcli.config import Method
from catcli.errors import AdapterError

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
    """How well one category is told from the others."""

    category: str
    """The category's name."""
    support: int
    """Scored rows that are of it."""
    precision: float | None
    """Of the rows labeled with it, the share that is of it; null where none was labeled so."""
    recall: float | None
    """Of its rows, the share that was labeled with it; null where it has none."""
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
    """Whether confidences are what they say: of rows with .8, four in five are right."""

    confidence: CalibrationParameters
    """What calibrates: the temperature that scores are divided by, slope and shift of the best category's log-odds."""
    error_before: float
    """Expected calibration error before it: 15 bins of equal mass."""
    error_after: float
    """The same after it, as `predict` says confidence."""
    by_chance: float
    """What that error would be on average if every confidence were exact: so few rows cannot show less."""
    bins: tuple[Bin, ...]
    """The reliability diagram: bins of rising confidence, after calibration."""


class Promise(Threshold):
    """A threshold, and what became of it on the scored rows."""

    accepted_in_test: float | None = None
    """Share of the scored rows that lie above the threshold."""
    reached_in_test: Estimate | None = None
    """The share of those that is right; null where there are none."""


class CategoryPromises(Numbers):
    """The same for the rows labeled with one category, all such categories together held at the same risk (Bonferroni)."""

    category: str
    """The category's name."""
    promises: tuple[Promise, ...]
    """A promise for each precision."""


class Unknown(Numbers):
    """A category of scored rows that the adapter never learned."""

    category: str
    """Its name."""
    rows: int
    """Rows of it, all of which count as wrong."""


class Evaluation(Numbers):
    """How good an adapter is on rows that the scored models did not learn from."""

    scored_rows: int
    """How many rows."""
    scored_products: int
    """How many products they are of."""
    variant: Variant
    """The form of the model that labeled them."""
    method: Method = "lora"
    """How the model beside the linear one learned; `lora` and its names stand for it."""
    unknown_categories: tuple[Unknown, ...]
    """Categories among them that the adapter does not know."""
    blend: Scores
    """What `predict` labels with."""
    lora: Scores
    """LoRA's model alone, calibrated by itself."""
    linear: Scores
    """The linear model alone, calibrated by itself."""
    against_linear: Comparison
    """The blend beside the linear model alone."""
    against_lora: Comparison
    """The blend beside LoRA's model alone."""
    calibration: Mapping[Variant, Calibration]
    """Of the blend, for each form of the model that can serve."""
    promises: tuple[Promise, ...]
    """The precision contract: what may be labeled unseen."""
    category_promises: tuple[CategoryPromises, ...]
    """The same within the rows labeled with one category, for those with enough rows to say."""


class Rows(Numbers):
    """How many rows there were, and what became of them."""

    read: int
    """Rows of the files."""
    unlabeled: int
    """Rows without a category, left out."""
    train: int
    """Rows that taught."""
    validation: int
    """Rows that chose the number of passes, the blend, its calibration and the thresholds."""
    test: int
    """Rows that were scored."""


class EpochScores(Numbers):
    """One pass over the training rows."""

    train_loss: float
    """Mean loss of its steps, in nats."""
    validation_loss: float | None
    """Loss on validation rows after it, in nats."""
    validation_accuracy: float | None
    """Accuracy on validation rows after it."""
    seconds: float
    """How long it took."""


class Training(Numbers):
    """What training took."""

    device: str
    """Where it ran."""
    epochs: tuple[EpochScores, ...]
    """Each pass of the run that was scored."""
    lora_rows: int
    """Training rows that LoRA learned from."""
    unlabeled_rows: int = 0
    """Rows without a category that it learned from besides, as its teacher labeled them."""
    passes: float
    """After how many passes over them it was best."""
    refit: bool
    """Whether the shipped models have since learned from all rows."""
    lora_seconds: float
    """Seconds that LoRA took, its refit included."""
    linear_seconds: float
    """Seconds that the linear models took."""
    seconds: float
    """Seconds in all, export and scoring included."""
    peak_memory: int
    """Bytes of memory that the process held at most; 0 where the system does not say."""
    device_memory: int | None = None
    """Bytes of a GPU's memory that training held at most; null where none was used."""
    learned_bytes: int = 0
    """Bytes of the files that hold what was learned: adapters or the whole base, and the head. 0 where an older catcli did not count."""
    trained: int
    """Parameters that were trained, the head's included."""
    total: int
    """Parameters of the whole model."""


class Parity(Numbers):
    """One form of the LoRA model beside the saved adapter, on the same held-out rows."""

    form: str
    """Which."""
    rows: int
    """Rows compared."""
    largest_difference: float
    """Largest difference of any logit."""
    agreement: float
    """Share of rows with the same most probable category."""


class Reduced(Numbers):
    """What became of a model of fewer bits."""

    kept: bool
    """Whether it serves."""
    reason: str
    """Why, or why not."""


class Quantized(Reduced):
    """What became of int8."""

    speedup: float | None
    """Its rows a second over those of fp32 on this processor."""


class SplitScores(Numbers):
    """The linear model's scores under one way to split."""

    accuracy: float
    """Share of rows labeled right."""
    macro_f1: float
    """Mean F1 over the categories."""


class RandomSplit(Numbers):
    """What rows drawn at random, variants of one product on both sides, would have shown: the linear model, as many rows each way."""

    train: int
    """Rows that taught, each way."""
    by_product: SplitScores
    """Held out by product, as all other scores are."""
    at_random: SplitScores
    """Held out at random."""


class Metrics(Evaluation):
    """Everything that a fit measured. The scores are those of the test rows, by the variant that serves."""

    rows: Rows
    """What became of the rows that were read."""
    rare_categories: tuple[str, ...]
    """Categories with too few products to be in every part: held out together, in proportion."""
    random_split: RandomSplit | None
    """Beside the split by product; null where every product has one row."""
    parity: tuple[Parity, ...]
    """The forms of the model beside the saved adapter."""
    int8: Quantized
    """Whether the model serves in eight bits, and why."""
    fp16: Reduced | None = None
    """Whether it serves in sixteen bits on a GPU, and why; null where the machine that fitted it has none."""
    training: Training
    """Where the models were trained, on how many rows, and how long."""

    @classmethod
    def of(cls, adapter: Adapter) -> Metrics:
        """An adapter's ``metrics.json``.

        Raises:
            AdapterError: it is damaged, or of another adapter.
        """
        file, manifest = adapter.file("metrics.json"), adapter.manifest
        try:
            found = cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise AdapterError(f"{file} is damaged: {error.errors()[0]['msg']}; copy the adapter again or fit anew.") from error
        named = {one.category for one in found.blend.categories}
        named |= {name for pair in found.blend.confusions for name in (pair.truth, pair.predicted)}
        if found.variant not in manifest.variants or found.variant not in found.calibration or not named <= set(manifest.categories):
            raise AdapterError(f"{file} tells of categories or models that its adapter does not have; copy the adapter again or fit anew.")
        return found


# --- what report --json prints -------------------------------------------------------------------------------------------------------


class Held(Metrics):
    """``catcli report ADAPTER --json``: what the fit measured on the rows that it held out."""

    adapter: str
    """The adapter's folder."""
    created: datetime
    """When it was made."""


class Fresh(Evaluation):
    """``catcli report ADAPTER --on LABELED --json``: the adapter as it ships, on labeled rows that it is shown for the first time."""

    adapter: str
    """The adapter's folder."""
    created: datetime
    """When it was made."""
    on: str
    """The file of the rows."""
    unlabeled: int
    """Its rows without a category, which are left out."""
    left_out: int
    """Labeled rows that were not scored, since a draw of them says as much."""
    recalibrated: tuple[Threshold, ...]
    """Thresholds that these rows show, to be passed as ``predict --min-confidence``."""


class Beside(Numbers):
    """One of several adapters."""

    adapter: str
    """Its folder."""
    test_rows: int
    """Rows that it was scored on when it was fitted."""
    blend: Scores
    """Its scores, of the rows that all share; where they share too few, of its own."""


class SideBySide(Numbers):
    """``catcli report A B --json``: several adapters on the test rows that they share."""

    shared_rows: int
    """Test rows that are the same, text and category, for all."""
    adapters: tuple[Beside, ...]
    """Each of them, in the order asked for."""
    comparisons: tuple[Comparison, ...]
    """Each after the first beside the first; none where they share too few rows."""
