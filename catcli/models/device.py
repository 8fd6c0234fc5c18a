"""The device that torch computes on, its precision, and its errors as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from catcli.errors import DeviceError, reason


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
    """Whether matrix products run in bfloat16: with ``auto`` where the device has instructions for it, else as asked."""
    if dtype != "auto":
        return dtype == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


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
