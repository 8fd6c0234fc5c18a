"""The processes of one training: one, or as many as ``accelerate launch`` started. Between them accelerate's own operations."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from accelerate import PartialState

RANK_TIMEOUT = timedelta(hours=12)
"""How long one process waits for another: the first fits the linear model while the others have nothing to do."""


@cache
def _state() -> PartialState | None:
    """The processes that ``accelerate launch`` or ``torchrun`` started, connected; None without them."""
    if (os.environ.get("WORLD_SIZE") or "1") == "1":
        return None
    from accelerate import PartialState  # half a second, for those alone who launch several

    return PartialState(timeout=RANK_TIMEOUT)


def rank_count() -> int:
    """How many processes there are."""
    state = _state()
    return 1 if state is None else int(state.num_processes)


def is_main_rank() -> bool:
    """Whether this process is the one that logs and writes."""
    state = _state()
    return state is None or bool(state.is_main_process)


def own_rows(rows: list[int]) -> list[int]:
    """This process's part of a batch."""
    state = _state()
    return rows if state is None else rows[state.process_index :: state.num_processes]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up every process's gradients: with each loss divided by the whole batch's weight, the sum is the gradient of one process."""
    if _state() is None:
        return
    from accelerate.utils import reduce

    for parameter in parameters:
        if parameter.requires_grad:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = reduce(gradient, reduction="sum")


def broadcast_float(value: float) -> float:
    """The first process's number, in every process: a clock read here is not the clock read there."""
    state = _state()
    if state is None:
        return value
    from accelerate.utils import broadcast

    return float(broadcast(torch.tensor([value], dtype=torch.float64, device=state.device)).item())
