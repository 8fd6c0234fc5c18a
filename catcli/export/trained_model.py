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
    """A classifier with what it learned still beside the weights, what it was fed with, and what training took.

    ``passes`` says after how many passes over the rows it was best, ``of`` for how many its learning rate was laid out.
    """

    classifier: Classifier
    base: Backbone
    tokenizer: Tokenizer
    recipe: Recipe
    device: str
    epochs: tuple[EpochScores, ...]
    passes: float
    of: float
    trained_parameters: int
    total_parameters: int
