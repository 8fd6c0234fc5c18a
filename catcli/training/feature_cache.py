"""The blocks below the lowest adapter: they never change in a fit, so what they make of a text is computed once.

::

    ids ── embeddings ── block 0 … first-1 ──┬── block first … last, with adapters ── pooling ── head ── logits
                                             │
                            kept here, in half precision: every epoch and the refit begin at this point
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from catcli.export.torch_inference import to_device
from catcli.inference.tokens import TokenBatch

MAX_CACHE_BYTES = 1 << 30
"""Bytes of the host's memory that the kept states may take: 1.4 million tokens of 384 numbers. Above it every step runs the lower blocks
again."""

MAX_GPU_SHARE = 0.25
"""Share of a GPU's free memory that they may take there."""


class FeatureCache:
    """Token states *(tokens, hidden)* of many texts, end to end, in half precision, which keeps three decimal digits."""

    def __init__(self, lengths: Sequence[int], hidden: int, device: torch.device) -> None:
        self._starts = np.concatenate(([0], np.cumsum(np.asarray(lengths, dtype=np.int64))))
        self._states = torch.empty(int(self._starts[-1]), hidden, dtype=torch.float16, device=device)

    @staticmethod
    def fits(lengths: Sequence[int], hidden: int, device: torch.device) -> bool:
        """Whether there is room for the states of texts of ``lengths`` tokens on ``device``."""
        room = MAX_GPU_SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else MAX_CACHE_BYTES
        return sum(lengths) * hidden * 2 <= room

    def put(self, batch: TokenBatch, states: Tensor) -> None:
        """Keep ``states`` *(rows, tokens, hidden)* of a batch that is padded on the right."""
        real = to_device(batch.mask.astype(bool), states.device)
        self._states[self._places(batch)[real]] = states[real].to(torch.float16)

    def take(self, batch: TokenBatch) -> Tensor:
        """The states *(rows, tokens, hidden)* in float32; what stands in the padding is any text's and is masked as padding is."""
        return self._states[self._places(batch)].float()

    def _places(self, batch: TokenBatch) -> Tensor:
        places = self._starts[batch.rows][:, None] + np.arange(batch.ids.shape[1])
        return to_device(np.minimum(places, self._starts[-1] - 1), self._states.device)


@contextmanager
def capture_block_input(blocks: nn.ModuleList, first: int) -> Iterator[list[Tensor]]:
    """While open, the list that comes back ends with the states that last entered block ``first``."""
    inputs: list[Tensor] = []

    def see(_: nn.Module, given: tuple[Any, ...]) -> None:
        inputs[:] = [given[0]]

    handle = blocks[first].register_forward_pre_hook(see)
    try:
        yield inputs
    finally:
        handle.remove()


@contextmanager
def start_at_block(parent: nn.Module, name: str, first: int) -> Iterator[list[Tensor]]:
    """While open, the model ``parent.name`` belongs to begins at block ``first``, with the states that are put into the list."""
    blocks: nn.ModuleList = getattr(parent, name)
    given: list[Tensor] = []

    def instead(_: nn.Module, entering: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given[0], *entering[1:])

    handle = blocks[first].register_forward_pre_hook(instead)
    setattr(parent, name, blocks[first:])
    try:
        yield given
    finally:
        setattr(parent, name, blocks)
        handle.remove()
