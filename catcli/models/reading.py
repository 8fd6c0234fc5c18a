"""One pass of the untouched base over every text of a run: what it says of each, and where the adapters will begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catcli.models.backbones import Backbone
from catcli.models.classifier import Classifier, is_memory_short
from catcli.models.trunk import Trunk, on_device, watched
from catcli.runtime.blend import Array
from catcli.runtime.tokens import TokenBatch, Tokenizer

Ids = Sequence[Sequence[int]]

Advance = Callable[[str, float, float], None]
"""Called with what is being done, how many rows of it are done, and how many there are."""

INFERENCE_BUDGET = 4096
"""Tokens of a batch where no gradient is kept."""


@dataclass(frozen=True)
class Reading:
    """The texts of a run by number: token ids, the base's vectors *(rows, hidden)*, and what enters the lowest adapter, where that fits."""

    tokenizer: Tokenizer
    ids: Ids
    vectors: Array
    trunk: Trunk | None


def read(base: Backbone, tokenizer: Tokenizer, texts: Sequence[str], device: torch.device, bf16: bool, advance: Advance) -> Reading:
    """Tokenize ``texts`` and pass them through the base once."""
    classifier = Classifier(base.load("sdpa"), 2, base.pool).to(device)
    ids = tokenizer.encode(texts)
    lengths = [len(row) for row in ids]
    hidden = int(classifier.config.hidden_size)
    trunk = Trunk(lengths, hidden, device) if base.first and Trunk.fits(lengths, hidden, device) else None
    blocks = base.blocks_of(classifier.backbone).modules
    entering: AbstractContextManager[list[Tensor]] = nullcontext([]) if trunk is None else watched(blocks, base.first)
    with entering as seen:

        def look(batch: TokenBatch) -> Tensor:
            pooled = classifier.pooled(*tensors(batch, device))
            if trunk is not None:
                trunk.put(batch, seen[-1])
            return pooled

        vectors = infer(classifier, tokenizer, ids, look, bf16, lambda done: advance("reading the texts", done, len(ids)))
    return Reading(tokenizer, ids, vectors, trunk)


def infer(
    classifier: Classifier,
    tokenizer: Tokenizer,
    ids: Ids,
    look: Callable[[TokenBatch], Tensor],
    bf16: bool,
    advance: Callable[[int], None],
    rows: npt.NDArray[np.int64] | None = None,
) -> Array:
    """What ``look`` makes of every batch, as one array *(rows, width)*; of all texts, or of ``rows``."""
    classifier.eval()
    chosen = np.arange(len(ids)) if rows is None else rows
    out: Array | None = None
    done = 0
    with torch.inference_mode(), precision(bf16, next(classifier.parameters()).device):
        for batch in tokenizer.batches([ids[row] for row in chosen], INFERENCE_BUDGET):
            values = _looked(look, TokenBatch(batch.ids, batch.mask, chosen[batch.rows]))
            if out is None:
                out = np.empty((len(chosen), values.shape[1]), dtype=np.float32)
            out[batch.rows] = values
            done += len(batch.rows)
            advance(done)
    return np.empty((0, classifier.head.out_features), dtype=np.float32) if out is None else out


def _looked(look: Callable[[TokenBatch], Tensor], batch: TokenBatch) -> Array:
    """What ``look`` makes of a batch, in halves where memory is too short for it."""
    try:
        found: Array = look(batch).float().cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if len(batch.rows) == 1 or not is_memory_short(error):
            raise
    else:
        return found
    return np.concatenate([_looked(look, half) for half in batch.halves()])


def plain_logits(classifier: Classifier, tokenizer: Tokenizer, ids: Ids, advance: Callable[[int], None] = lambda _: None) -> Array:
    """Logits *(rows, classes)* of all texts by the whole model, on the CPU in float32."""
    cpu = torch.device("cpu")

    def look(batch: TokenBatch) -> Tensor:
        logits: Tensor = classifier(*tensors(batch, cpu))["logits"]
        return logits

    return infer(classifier, tokenizer, ids, look, bf16=False, advance=advance)


def tensors(batch: TokenBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask on the device."""
    return on_device(batch.ids, device), on_device(batch.mask, device)


def precision(bf16: bool, device: torch.device) -> torch.autocast:
    """Matrix products in bfloat16 where asked; sums, norms and the loss stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)
