"""Frozen weights in bfloat16 while a training runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from catcli.models.classifier import Classifier


def frozen_matrices(classifier: Classifier) -> list[nn.Parameter]:
    """The weights and biases of matrix products that stay as they are."""
    products = (module for module in classifier.modules() if isinstance(module, nn.Linear | Conv1D))
    return [parameter for module in products for parameter in module.parameters(recurse=False) if not parameter.requires_grad]


@contextmanager
def in_bfloat16(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """While open, parameters are in bfloat16: rounded once, and to the numbers to which autocast would round them at each use."""
    originals = [parameter.data for parameter in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.to(torch.bfloat16)
    try:
        yield
    finally:
        for parameter, data in zip(parameters, originals, strict=True):
            parameter.data = data
