"""The processes of one training: one, or as many as ``accelerate launch`` started."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import torch
from torch import nn

RANK_TIMEOUT = timedelta(hours=12)
"""How long one process waits for another: the first fits the linear model while the others have nothing to do."""


@dataclass(frozen=True)
class Ranks:
    """This process is number ``rank`` of ``count``."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def share(self, rows: list[int]) -> list[int]:
        """This process's part of a batch."""
        return rows[self.rank :: self.count]

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up every process's gradients: with each loss divided by the whole batch's weight, the sum is the gradient of one process."""
        if self.count == 1:
            return
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        gradients = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in learning]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for parameter, part in zip(learning, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def agree(self, value: float) -> float:
        """The first process's number, in every process: a clock read here is not the clock read there."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device="cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
        torch.distributed.broadcast(shared, src=0)
        return float(shared.item())


@cache
def ranks() -> Ranks:
    """The processes that ``accelerate launch`` or ``torchrun`` started, connected; one by itself without them."""
    if (os.environ.get("WORLD_SIZE") or "1") == "1":
        return Ranks()
    from accelerate import PartialState  # half a second, for those alone who launch several

    state = PartialState(timeout=RANK_TIMEOUT)
    return Ranks(state.process_index, state.num_processes)
