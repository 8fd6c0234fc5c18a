"""The number of steps, the learning rate schedule, and the rows of each batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from catcli.inference.tokens import Tokenizer
from catcli.models.backbone import Backbone

WARMUP_SHARE = 0.06
"""Share of the steps in which the learning rate rises, as in RoBERTa's fine-tuning (Liu et al. 2019, appendix)."""


@dataclass(frozen=True)
class Schedule:
    """How far to train: ``steps`` in ``epochs``, the last of them perhaps in part; the learning rate falls to zero at step ``horizon``."""

    epochs: int
    steps: int
    horizon: int


def choose_max_tokens(lengths: Sequence[int]) -> int:
    """Tokens with which 99 % of the texts are not cut: a multiple of 8 from 16 to 128."""
    return int(np.clip(-(-np.quantile(lengths, 0.99) // 8) * 8, 16, 128))


def choose_tokenizer(base: Backbone, texts: Sequence[str]) -> Tokenizer:
    """The base's tokenizer, cutting texts where `choose_max_tokens` says."""
    lengths = [len(ids) for ids in Tokenizer(base.tokenizer, base.longest, base.pad_id).encode(texts)]
    return Tokenizer(base.tokenizer, min(choose_max_tokens(lengths), base.longest), base.pad_id)


def default_epochs(rows: int) -> int:
    """The most epochs: 8 for 500 rows, 4 for 2,000, 2 for 10,000 and more; early stopping often ends sooner."""
    return int(np.clip(round(200 / np.sqrt(max(rows, 1))), 2, 8))


def learning_rate_factor(step: int, horizon: int) -> float:
    """The share of the highest learning rate at ``step``: it rises for `WARMUP_SHARE` of ``horizon`` steps and falls to zero at its end."""
    rise = max(1, round(WARMUP_SHARE * horizon))
    return min((step + 1) / rise, max(0.0, (horizon - step) / max(1, horizon - rise)))


def length_sorted_batches(lengths: Sequence[int], size: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Row numbers, ``size`` at a time: random, but sorted by length within a stretch of 50 batches, so that little is padding."""
    order = generator.permutation(len(lengths))
    batches: list[list[int]] = []
    for start in range(0, len(order), 50 * size):
        stretch = sorted(order[start : start + 50 * size].tolist(), key=lengths.__getitem__)
        batches.extend(stretch[first : first + size] for first in range(0, len(stretch), size))
    for number in generator.permutation(len(batches)):
        yield batches[number]
