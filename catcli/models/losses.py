"""What a row costs, where categories are uneven: class weights, focal loss, logit adjustment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from catcli.products.examples import Examples
from catcli.recipe import Balance

RowLosses = Callable[[Tensor, Tensor], Tensor]
"""Logits *(rows, classes)* and class numbers *(rows,)* → a loss for each row *(rows,)*."""

GAMMA = 2.0
"""Of the focal loss: the value that its authors found best."""


def class_weights(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """What a row of each class counts *(classes,)*, from the classes' shares of the rows: 1 on average over the rows.

    Inverse to the root of the share, half way to classes that all count alike (Mahajan et al. 2018, "Exploring the Limits of Weakly
    Supervised Pretraining", section 2.2, draw rows so). All the way, a category's one row weighs as much as another's thousand: on
    flipkart that cost two points of accuracy and gained no more macro F1 (tests/bench/README.md).
    """
    return np.asarray(1 / (np.sqrt(shares) * np.sqrt(shares).sum()), np.float32)


def counted(examples: Examples, balance: Balance, shares: npt.NDArray[np.float64]) -> Examples:
    """``examples`` with the weights of their classes, where ``balance`` asks for them."""
    return replace(examples, weights=examples.weights * class_weights(shares)[examples.classes]) if balance == "weights" else examples


def learned_shares(balance: Balance, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What a model that was trained under ``balance`` takes for the classes' shares *(classes,)*."""
    taken = {"weights": np.sqrt(shares), "logit-adjust": np.ones(len(shares))}.get(balance, shares)
    return np.asarray(taken / taken.sum())


def row_losses(balance: Balance, shares: npt.NDArray[np.float64], device: torch.device) -> RowLosses:
    """The loss of each row under ``balance``; ``shares`` *(classes,)* are the classes' shares of the rows that are learned from.

    - ``weights``: cross-entropy times `class_weights`.
    - ``focal``: cross-entropy times (1 - p)**gamma, p being the right class's probability (Lin et al. 2017, "Focal Loss for Dense Object
      Detection", equation 4).
    - ``logit-adjust``: cross-entropy of the logits plus the logarithm of the shares, so that what is learned is how a class differs from
      its share (Menon et al. 2021, "Long-Tail Learning via Logit Adjustment", equation 10, with tau = 1).
    """
    if balance == "weights":
        weights = torch.from_numpy(class_weights(shares)).to(device)
        return lambda logits, truth: cross_entropy(logits, truth, reduction="none") * weights[truth]
    if balance == "focal":
        return _focal
    if balance == "logit-adjust":
        prior = torch.from_numpy(np.log(shares).astype(np.float32)).to(device)
        return lambda logits, truth: cross_entropy(logits + prior, truth, reduction="none")
    return lambda logits, truth: cross_entropy(logits, truth, reduction="none")


def _focal(logits: Tensor, truth: Tensor) -> Tensor:
    losses = cross_entropy(logits, truth, reduction="none")
    return losses * (1 - torch.exp(-losses)).clamp(min=0) ** GAMMA
