"""One pass of the frozen base over every text of a run: its vectors, and the states that enter the lowest adapter."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from catcli.arrays import FloatArray
from catcli.export.torch_inference import Ids, batch_tensors, run_batches
from catcli.inference.tokens import TokenBatch, Tokenizer
from catcli.logs import Advance
from catcli.models.backbone import Backbone
from catcli.models.classifier import Classifier
from catcli.training.feature_cache import FeatureCache, capture_block_input


@dataclass(frozen=True)
class BaseFeatures:
    """The texts of a run by number: token ids, the base's vectors *(rows, hidden)*, and the cached states that enter the lowest adapter.

    ``cache`` is None where it does not fit into memory.
    """

    tokenizer: Tokenizer
    ids: Ids
    vectors: FloatArray
    cache: FeatureCache | None


def compute_base_features(
    base: Backbone, tokenizer: Tokenizer, texts: Sequence[str], device: torch.device, bf16: bool, advance: Advance
) -> BaseFeatures:
    """Tokenize ``texts`` and pass them through the base once."""
    classifier = Classifier(base.load("sdpa"), 2, base.pool).to(device)
    ids = tokenizer.encode(texts)
    lengths = [len(row) for row in ids]
    hidden = int(classifier.config.hidden_size)
    cache = FeatureCache(lengths, hidden, device) if base.first and FeatureCache.fits(lengths, hidden, device) else None
    blocks = base.blocks_of(classifier.backbone).modules
    entering: AbstractContextManager[list[Tensor]] = nullcontext([]) if cache is None else capture_block_input(blocks, base.first)
    with entering as states:

        def pooled_vectors(batch: TokenBatch) -> Tensor:
            pooled = classifier.pooled(*batch_tensors(batch, device))
            if cache is not None:
                cache.put(batch, states[-1])
            return pooled

        vectors = run_batches(classifier, tokenizer, ids, pooled_vectors, bf16, lambda done: advance("reading the texts", done, len(ids)))
    return BaseFeatures(tokenizer, ids, vectors, cache)
