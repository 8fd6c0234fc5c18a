"""Categories of a taxonomy that no labeled row has: what models that were trained on the others say of them, by their names.

Both models get a weight vector for each such category after they were trained, so that what they say of the others stays as it is:

- the linear model its name's TF-IDF vector, whose product with a title's is their cosine (`catcli.training.linear.add_to_linear`);
- the encoder's head what a ridge regression from the names' vectors to the head's weights, over the categories with rows, makes of its name
  (zero-shot learning by regression from class descriptions: Frome et al. 2013, "DeViSE"; Romera-Paredes & Torr 2015, "An embarrassingly
  simple approach to zero-shot learning").

How likely such a category is no labeled row can say, so their share is bounded; see `catcli.evaluation.without_rows`. Measured in
tests/bench/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from catcli.arrays import FloatArray
from catcli.data.dataset.examples import Examples
from catcli.export.torch_inference import torch_vectors
from catcli.export.trained_model import TrainedModel


def add_to_head(trained: TrainedModel, known: Examples, names: Sequence[str]) -> None:
    """Give the head of ``trained`` a class more for each of ``names``; ``known`` are the names of the categories with rows."""
    if not names:
        return
    vectors = torch_vectors(trained.classifier, trained.tokenizer, [*known.texts, *names])
    head = trained.classifier.head.weight.detach().cpu().numpy()
    trained.classifier.add_classes(_regress(vectors[: len(known)], head[known.classes], vectors[len(known) :]))


def _regress(inputs: FloatArray, targets: FloatArray, new: FloatArray) -> FloatArray:
    """What ridge regression from ``inputs`` *(categories, hidden)* to ``targets`` *(categories, hidden)* gives for ``new`` ones.

    The penalty is the inputs' mean square, so that their length does not matter. Without inputs, names that are codes, all are zero.
    """
    if not len(inputs):
        return np.zeros_like(new)
    center, mean = inputs.mean(0), targets.mean(0)
    centered = (inputs - center).astype(np.float64)
    penalty = max(float(np.square(centered).sum(axis=1).mean()), 1e-6)
    solution = np.linalg.solve(centered.T @ centered + penalty * np.eye(inputs.shape[1]), centered.T @ (targets - mean))
    return np.asarray((new - center) @ solution + mean, np.float32)
