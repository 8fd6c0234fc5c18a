"""The device that torch computes on, its precision, and its errors as sentences."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from catcli.errors import DeviceError, reason

MIN_BF16_SPEEDUP = 1.2
"""How many times as fast as in float32 a matrix product has to be in bfloat16, on a CPU, for training in it: it is some twice or half."""

PRODUCT_SHAPE = (1024, 384, 1536)
"""Rows, inputs and outputs of the product that is timed: some tens of titles in a layer of the embedded base."""


def pick_device(device: str) -> torch.device:
    """``auto`` is the GPU if torch sees one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda: torch sees no CUDA device here; 'catcli doctor' shows what there is, '--device cpu' trains without."
        )
    return torch.device(device)


def use_bf16(dtype: str, device: torch.device) -> bool:
    """Whether matrix products run in bfloat16: with ``auto`` where that is faster on the device, else as asked."""
    if dtype != "auto":
        return dtype == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported()) and _bf16_speedup() >= MIN_BF16_SPEEDUP


@cache
def _bf16_speedup() -> float:
    """How many times as fast as in float32 a matrix product is in bfloat16 on this CPU.

    The instructions alone say little: without AMX an Intel processor has half the speed with them, and an AMD processor twice.
    """
    rows, inputs, outputs = PRODUCT_SHAPE
    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        states, weight = torch.ones(rows, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype)
        seconds = []
        for _ in range(8):  # the first ones prepare the kernel; the fastest is the one that nobody disturbed
            start = time.perf_counter()
            torch.nn.functional.linear(states, weight)
            seconds.append(time.perf_counter() - start)
        best[dtype] = min(seconds)
    return best[torch.float32] / best[torch.bfloat16]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a batch was too large for the memory of a GPU or of the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@contextmanager
def translate_device_errors(resume: str) -> Iterator[None]:
    """Turn a GPU that fails midway, and memory that is too short for anything, into a sentence; ``resume`` says what to type next.

    Raises:
        DeviceError: one of these.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise DeviceError(f"memory ran out ({reason(error)[:200]}); free some or choose a smaller --base. {resume}") from error
        if isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error):
            raise DeviceError(f"the GPU failed ({reason(error)[:200]}); --device cpu trains without it. {resume}") from error
        raise


def peak_device_memory() -> int | None:
    """Bytes of a GPU's memory that torch has held at most; None where it has held none."""
    return (int(torch.cuda.max_memory_allocated()) or None) if torch.cuda.is_available() else None
