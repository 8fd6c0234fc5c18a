"""What training hands over to export."""

from __future__ import annotations

from dataclasses import dataclass

from catcli.config import Recipe
from catcli.evaluation.fit_metrics import EpochScores
from catcli.inference.tokens import Tokenizer
from catcli.models.backbone import Backbone
from catcli.models.classifier import Classifier


@dataclass(frozen=True)
class TrainedModel:
    """A classifier with its adapters not yet merged, its tokenizer, and how its training went.

    ``passes`` is how many passes over the rows its weights had, ``planned_passes`` how many its learning rate was scheduled for.
    """

    classifier: Classifier
    base: Backbone
    tokenizer: Tokenizer
    recipe: Recipe
    device: str
    epochs: tuple[EpochScores, ...]
    passes: float
    planned_passes: float
    trained_parameters: int
    total_parameters: int
