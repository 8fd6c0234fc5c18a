"""``metrics.json``: what a fit measured, every name with its meaning. Numbers only, no computing."""

from __future__ import annotations

from pydantic import ValidationError

from catcli.adapter.folder import Adapter
from catcli.errors import AdapterError
from catcli.evaluation.metrics import CatalogScores, Evaluation, Numbers, RowsNeeded


class RowCounts(Numbers):
    """Numbers of rows."""

    read: int
    """Rows of the files."""
    unlabeled: int
    """Rows without a category, left out."""
    train: int
    """Training rows; with folds all labeled rows, each in the training of every fold but its own."""
    validation: int
    """Validation rows: they chose the number of epochs, the blend, its calibration and the thresholds; none with folds."""
    test: int
    """Test rows; with folds the out-of-fold rows, which the scores, the blend, its calibration and the thresholds rest on."""
    folds: int = 0
    """Folds; 0 where a part of the rows was held out."""

    @property
    def labeled(self) -> int:
        """The labeled rows."""
        return self.train if self.folds else self.train + self.validation + self.test


class EpochScores(Numbers):
    """One epoch of training."""

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
    """Each epoch of the holdout model, or of the first fold's."""
    lora_rows: int
    """Training rows of LoRA."""
    unlabeled_rows: int = 0
    """Rows without a category, labeled by its teacher, that it was trained on too."""
    passes: float
    """After how many epochs the validation loss was lowest; not a whole number where training ended within an epoch."""
    refit: bool
    """Whether the saved models were then refitted on all rows."""
    lora_seconds: float
    """Seconds that LoRA took, its refit included."""
    linear_seconds: float
    """Seconds that the linear models took."""
    seconds: float
    """Seconds in all, export and scoring included."""
    peak_memory: int
    """Bytes of memory that the process held at most, with those that fitted linear models beside it; 0 where the system does not say."""
    device_memory: int | None = None
    """Bytes of a GPU's memory that training held at most; null where none was used."""
    learned_bytes: int = 0
    """Bytes of the files with trained weights: adapters or the whole base, and the head. 0 where an older catcli did not count."""
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
    """Whether a model of reduced precision is kept, and why."""

    kept: bool
    """Whether it is kept."""
    reason: str
    """Why, or why not."""


class Int8Decision(VariantDecision):
    """Whether int8 is kept, why, and how fast it is."""

    speedup: float | None
    """Its rows a second over those of fp32 on this processor."""


class SplitScores(Numbers):
    """The linear model's scores under one way to split."""

    accuracy: float
    """Share of rows labeled right."""
    macro_f1: float
    """Mean F1 over the categories."""


class RandomSplit(Numbers):
    """The linear model's scores under a random split, with variants of one product on both sides, and under the split by product."""

    train: int
    """Training rows of each split."""
    by_product: SplitScores
    """Held out by product, as all other scores are."""
    at_random: SplitScores
    """Held out at random."""


class FitMetrics(Evaluation):
    """Everything that a fit measured. The scores are those of the test rows or out-of-fold rows, by the variant that serves."""

    catalog: CatalogScores | None = None
    """What a fresh file shows, labeled by the saved model; null without folds, or where an older catcli made the adapter."""
    rows_needed: tuple[RowsNeeded, ...] = ()
    """For each precision how many labeled rows more it takes to accept most rows; none without folds."""
    rows: RowCounts
    """How many rows were read, and how many are training, validation and test rows."""
    rare_categories: tuple[str, ...]
    """Categories with too few products for every part: a sample of their rows is held out. With folds those that no row is scored of."""
    random_split: RandomSplit | None
    """Scores of a random split beside the split by product; null where every product has one row."""
    parity: tuple[Parity, ...]
    """The forms of the model beside the saved adapter."""
    int8: Int8Decision
    """Whether the int8 model is kept, and why."""
    fp16: VariantDecision | None = None
    """Whether the fp16 model is kept for GPUs, and why; null where the fit ran without a GPU."""
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
            metrics = cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise AdapterError(f"{file} is damaged: {error.errors()[0]['msg']}; copy the adapter again, or fit a new one.") from error
        named = {category.category for category in metrics.blend.categories}
        named |= {name for pair in metrics.blend.confusions for name in (pair.truth, pair.predicted)}
        if metrics.variant not in manifest.variants or metrics.variant not in metrics.calibration or not named <= set(manifest.categories):
            raise AdapterError(
                f"{file} tells of categories or models that its adapter does not have; copy the adapter again, or fit a new one."
            )
        return metrics
