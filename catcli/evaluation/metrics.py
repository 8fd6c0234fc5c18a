"""``metrics.json``: what a fit measured. Numbers only; `catcli.evaluation.scores` computes them."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from catcli.errors import AdapterError


class _Numbers(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Average(_Numbers):
    """Precision, recall and F1 over the categories that the scored rows hold."""

    precision: float
    recall: float
    f1: float


class CategoryScores(_Numbers):
    """One category. ``precision`` is None where nothing was predicted to be it, ``roc_auc`` where all rows or none are of it."""

    category: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None
    roc_auc: float | None


class Confusion(_Numbers):
    """``rows`` of category ``truth`` were labeled ``predicted``."""

    truth: str
    predicted: str
    rows: int


class Scores(_Numbers):
    """How well one model does on one set of rows; ``log_loss`` in nats."""

    rows: int
    accuracy: float
    macro: Average
    weighted: Average
    log_loss: float
    categories: tuple[CategoryScores, ...]
    confusions: tuple[Confusion, ...]


class Rows(_Numbers):
    """How many rows there were, how many had no label, and what became of the rest."""

    read: int
    unlabeled: int
    train: int
    validation: int
    test: int


class EpochScores(_Numbers):
    """One pass over the training rows; losses in nats."""

    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float


class Training(_Numbers):
    """What training took. ``trained`` and ``total`` count parameters, the head's included.

    ``lora_rows`` is how many training rows LoRA learned from, ``passes`` after how many passes over them it was best, ``refit`` whether the
    shipped models have since learned from all rows.
    """

    device: str
    epochs: tuple[EpochScores, ...]
    lora_rows: int
    passes: float
    refit: bool
    lora_seconds: float
    linear_seconds: float
    seconds: float
    trained: int
    total: int


class Parity(_Numbers):
    """One form of the LoRA model beside the saved adapter, on the same held-out rows.

    ``largest_difference`` is between logits; ``agreement`` is the share of rows with the same most probable category.
    """

    form: str
    rows: int
    largest_difference: float
    agreement: float


class Quantized(_Numbers):
    """What became of int8: ``speedup`` is its rows a second over those of fp32 on this processor."""

    kept: bool
    reason: str
    speedup: float | None


class Metrics(_Numbers):
    """Everything a report draws from. The scores are those of the test rows, by the variant that serves."""

    rows: Rows
    rare_categories: tuple[str, ...]
    variant: str
    blend: Scores
    lora: Scores
    linear: Scores
    parity: tuple[Parity, ...]
    int8: Quantized
    training: Training

    @classmethod
    def load(cls, file: Path) -> Metrics:
        """Read a ``metrics.json``."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise AdapterError(f"{file} is damaged: {error.errors()[0]['msg']}; copy the adapter again or fit anew.") from error
