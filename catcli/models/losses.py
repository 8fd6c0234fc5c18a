"""Losses of rows: class weights, focal loss and logit adjustment for imbalanced categories, and distillation from a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from catcli.arrays import FloatArray
from catcli.config import Balance
from catcli.data.dataset.examples import Examples

TeacherTargets = npt.NDArray[np.float16]
"""A teacher's probabilities *(rows, classes)*, `soften`; a row of zeros where it knows nothing of it."""

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits *(rows, classes)* and class numbers *(rows,)* → a loss for each row *(rows,)*."""

FOCAL_GAMMA = 2.0
"""Of the focal loss: the value that its authors found best."""

TEACHER_TEMPERATURE, TEACHER_WEIGHT = 2.0, 0.5
"""How soft a teacher's probabilities are made, and what its part of a row's loss counts ("KD-LoRA: A Hybrid Approach to Efficient
Fine-Tuning with LoRA and Knowledge Distillation", arXiv 2410.20777)."""


def class_weights(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """What a row of each class counts *(classes,)*, from the classes' shares of the rows: 1 on average over the rows.

    Inverse to the root of the share, half way to classes that all count alike (Mahajan et al. 2018, "Exploring the Limits of Weakly
    Supervised Pretraining", section 2.2, draw rows so). All the way, a category's one row weighs as much as another's thousand: on
    flipkart that cost two points of accuracy and gained no more macro F1 (tests/bench/README.md).
    """
    return np.asarray(1 / (np.sqrt(shares) * np.sqrt(shares).sum()), np.float32)


def weighted_examples(examples: Examples, balance: Balance, shares: npt.NDArray[np.float64]) -> Examples:
    """``examples`` with the weights of their classes, where ``balance`` asks for them."""
    return replace(examples, weights=examples.weights * class_weights(shares)[examples.classes]) if balance == "weights" else examples


def implied_class_shares(balance: Balance, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What a model that was trained under ``balance`` takes for the classes' shares *(classes,)*."""
    implied = {"weights": np.sqrt(shares), "logit-adjust": np.ones(len(shares))}.get(balance, shares)
    return np.asarray(implied / implied.sum())


def make_row_loss(balance: Balance, shares: npt.NDArray[np.float64], device: torch.device) -> RowLoss:
    """The loss of each row under ``balance``; ``shares`` *(classes,)* are the classes' shares of the training rows.

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
        prior = log_prior(balance, shares, device)
        return lambda logits, truth: cross_entropy(logits + prior, truth, reduction="none")
    return lambda logits, truth: cross_entropy(logits, truth, reduction="none")


def _focal(logits: Tensor, truth: Tensor) -> Tensor:
    losses = cross_entropy(logits, truth, reduction="none")
    return losses * (1 - torch.exp(-losses)).clamp(min=0) ** FOCAL_GAMMA


def log_prior(balance: Balance, shares: npt.NDArray[np.float64], device: torch.device) -> Tensor:
    """What a training under ``balance`` adds to logits *(classes,)* before it takes them for a distribution."""
    log_shares = np.log(shares) if balance == "logit-adjust" else np.zeros(len(shares))
    return torch.from_numpy(log_shares.astype(np.float32)).to(device)


def soften(probabilities: FloatArray) -> TeacherTargets:
    """Probabilities *(rows, classes)* as `TEACHER_TEMPERATURE` makes them: the softmax of their logarithms divided by it.

    Rows that do not add up to 1, since some categories were left out, are scaled to; rows of zeros stay so.
    """
    raised = probabilities.astype(np.float64) ** (1 / TEACHER_TEMPERATURE)
    sums = raised.sum(1, keepdims=True)
    shares: npt.NDArray[np.float64] = np.divide(raised, sums, out=np.zeros_like(raised), where=sums > 0)
    return shares.astype(np.float16)


def distillation_loss(label_loss: Tensor, labeled: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """Each row's loss beside a teacher *(rows,)*: (1 - w) x its own + w x T^2 KL(teacher || student), at temperature T.

    The weight w is `TEACHER_WEIGHT`, and T `TEACHER_TEMPERATURE`.

    T^2 keeps the gradients of the second as large as at 1 (Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network",
    section 2). ``label_loss`` are the losses by the labels *(rows,)*, ``labeled`` says which rows have one *(rows,)*: the others have the
    second term alone. ``logits`` and the teacher's ``targets`` are *(rows, classes)*, each row against its own; one whose targets are zeros
    has the first term alone, whole.
    """
    apart = kl_div(log_softmax(logits / TEACHER_TEMPERATURE, 1), targets, reduction="none").sum(1) * TEACHER_TEMPERATURE**2
    known = targets.sum(1) > 0
    by_label = torch.where(labeled, label_loss, torch.zeros_like(label_loss))
    return torch.where(known, (1 - TEACHER_WEIGHT) * by_label + TEACHER_WEIGHT * apart, by_label)
