"""Token batches → logits and vectors, by torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catcli.arrays import FloatArray
from catcli.inference.tokens import TokenBatch, Tokenizer
from catcli.models.classifier import Classifier
from catcli.models.device import is_out_of_memory

Ids = Sequence[Sequence[int]]

INFERENCE_TOKENS = 4096
"""Tokens of a batch where no gradient is kept."""


def run_batches(
    classifier: Classifier,
    tokenizer: Tokenizer,
    ids: Ids,
    look: Callable[[TokenBatch], Tensor],
    bf16: bool,
    advance: Callable[[int], None],
    rows: npt.NDArray[np.int64] | None = None,
) -> FloatArray:
    """What ``look`` makes of every batch, as one array *(rows, width)*; of all texts, or of ``rows``."""
    classifier.eval()
    numbers = np.arange(len(ids)) if rows is None else rows
    out: FloatArray | None = None
    done = 0
    with torch.inference_mode(), autocast(bf16, next(classifier.parameters()).device):
        for batch in tokenizer.batches([ids[row] for row in numbers], INFERENCE_TOKENS):
            values = _run_batch(look, TokenBatch(batch.ids, batch.mask, numbers[batch.rows]))
            if out is None:
                out = np.empty((len(numbers), values.shape[1]), dtype=np.float32)
            out[batch.rows] = values
            done += len(batch.rows)
            advance(done)
    return np.empty((0, classifier.head.out_features), dtype=np.float32) if out is None else out


def _run_batch(look: Callable[[TokenBatch], Tensor], batch: TokenBatch) -> FloatArray:
    """What ``look`` makes of a batch, in halves where memory is too short for it."""
    try:
        outputs: FloatArray = look(batch).float().cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if len(batch.rows) == 1 or not is_out_of_memory(error):
            raise
    else:
        return outputs
    return np.concatenate([_run_batch(look, half) for half in batch.halves()])


def torch_logits(classifier: Classifier, tokenizer: Tokenizer, ids: Ids, advance: Callable[[int], None] = lambda _: None) -> FloatArray:
    """Logits *(rows, classes)* of all texts by the whole model, on the CPU in float32."""
    cpu = torch.device("cpu")

    def look(batch: TokenBatch) -> Tensor:
        logits: Tensor = classifier(*batch_tensors(batch, cpu))["logits"]
        return logits

    return run_batches(classifier, tokenizer, ids, look, bf16=False, advance=advance)


def torch_vectors(classifier: Classifier, tokenizer: Tokenizer, texts: Sequence[str]) -> FloatArray:
    """What stands before the head *(texts, hidden)*, of all texts by the whole model where it is, in float32."""
    device = next(classifier.parameters()).device

    def look(batch: TokenBatch) -> Tensor:
        return classifier.pooled(*batch_tensors(batch, device))

    return run_batches(classifier, tokenizer, tokenizer.encode(texts), look, bf16=False, advance=lambda _: None)


def batch_tensors(batch: TokenBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask on the device."""
    return to_device(batch.ids, device), to_device(batch.mask, device)


def autocast(bf16: bool, device: torch.device) -> torch.autocast:
    """Matrix products in bfloat16 where asked; sums, norms and the loss stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A tensor of ``array`` on ``device``; to a GPU from pinned memory, so that nothing waits for the copy."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
