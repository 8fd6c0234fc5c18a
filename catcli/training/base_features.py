"""One pass of the untouched base over every text of a run: what it says of each, and where the adapters will begin."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from catcli.arrays import FloatArray
from catcli.export.torch_inference import Advance, Ids, batch_tensors, run_batches
from catcli.inference.tokens import TokenBatch, Tokenizer
from catcli.models.backbone import Backbone
from catcli.models.classifier import Classifier
from catcli.training.feature_cache import FeatureCache, capture_block_input


@dataclass(frozen=True)
class BaseFeatures:
    """The texts of a run by number: token ids, the base's vectors *(rows, hidden)*, and what enters the lowest adapter, where that fits."""

    tokenizer: Tokenizer
    ids: Ids
    vectors: FloatArray
    trunk: FeatureCache | None


def compute_base_features(
    base: Backbone, tokenizer: Tokenizer, texts: Sequence[str], device: torch.device, bf16: bool, advance: Advance
) -> BaseFeatures:
    """Tokenize ``texts`` and pass them through the base once."""
    classifier = Classifier(base.load("sdpa"), 2, base.pool).to(device)
    ids = tokenizer.encode(texts)
    lengths = [len(row) for row in ids]
    hidden = int(classifier.config.hidden_size)
    trunk = FeatureCache(lengths, hidden, device) if base.first and FeatureCache.fits(lengths, hidden, device) else None
    blocks = base.blocks_of(classifier.backbone).modules
    entering: AbstractContextManager[list[Tensor]] = nullcontext([]) if trunk is None else capture_block_input(blocks, base.first)
    with entering as seen:

        def look(batch: TokenBatch) -> Tensor:
            pooled = classifier.pooled(*batch_tensors(batch, device))
            if trunk is not None:
                trunk.put(batch, seen[-1])
            return pooled

        vectors = run_batches(classifier, tokenizer, ids, look, bf16, lambda done: advance("reading the texts", done, len(ids)))
    return BaseFeatures(tokenizer, ids, vectors, trunk)
