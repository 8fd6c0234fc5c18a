"""``metrics.json``: what a fit measured, every name with its meaning. Numbers only, no computing."""

from __future__ import annotations

from pydantic import ValidationError

from catcli.adapter.folder import Adapter
from catcli.errors import AdapterError
from catcli.evaluation.metrics import Evaluation, Numbers


class RowCounts(Numbers):
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


class VariantDecision(Numbers):
    """What became of a model of fewer bits."""

    kept: bool
    """Whether it serves."""
    reason: str
    """Why, or why not."""


class Int8Decision(VariantDecision):
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


class FitMetrics(Evaluation):
    """Everything that a fit measured. The scores are those of the test rows, by the variant that serves."""

    rows: RowCounts
    """What became of the rows that were read."""
    rare_categories: tuple[str, ...]
    """Categories with too few products to be in every part: held out together, in proportion."""
    random_split: RandomSplit | None
    """Beside the split by product; null where every product has one row."""
    parity: tuple[Parity, ...]
    """The forms of the model beside the saved adapter."""
    int8: Int8Decision
    """Whether the model serves in eight bits, and why."""
    fp16: VariantDecision | None = None
    """Whether it serves in sixteen bits on a GPU, and why; null where the machine that fitted it has none."""
    training: Training
    """Where the models were trained, on how many rows, and how long."""

    @classmethod
    def of(cls, adapter: Adapter) -> FitMetrics:
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
