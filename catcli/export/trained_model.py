"""What training hands over to export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catcli.config import Recipe
from catcli.evaluation.fit_metrics import EpochScores
from catcli.inference.tokens import Tokenizer
from catcli.models.backbone import Backbone
from catcli.models.classifier import Classifier


@dataclass(frozen=True)
class TrainingHistory:
    """How a training went.

    ``passes`` is how many passes over the rows the weights had, ``planned_passes`` how many the learning rate was scheduled for.
    """

    epochs: tuple[EpochScores, ...]
    passes: float
    planned_passes: float

    def progress(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return {
            "epochs": [epoch.model_dump() for epoch in self.epochs],
            "passes": self.passes,
            "planned_passes": self.planned_passes,
        }

    @classmethod
    def of(cls, progress: Mapping[str, Any]) -> TrainingHistory:
        """What `progress` gave."""
        epochs = tuple(EpochScores(**epoch) for epoch in progress["epochs"])
        return cls(epochs, float(progress["passes"]), float(progress["planned_passes"]))


@dataclass(frozen=True)
class TrainedModel:
    """A classifier with its adapters not yet merged, its tokenizer, and how its training went."""

    classifier: Classifier
    base: Backbone
    tokenizer: Tokenizer
    recipe: Recipe
    device: str
    history: TrainingHistory
    trained_parameters: int
    total_parameters: int
