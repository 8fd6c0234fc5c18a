"""An NVIDIA GPU as ONNX Runtime sees it: whether there is one, and CUDA's and cuDNN's libraries, loaded from pip packages without torch."""

from __future__ import annotations

import ctypes
import importlib.util
import io
import os
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

CUDA_PROVIDER = "CUDAExecutionProvider"


def has_cuda() -> bool:
    """Whether it is worth asking for CUDA: this build has the provider and the machine a device. What a session gets shows afterwards."""
    import onnxruntime

    return CUDA_PROVIDER in onnxruntime.get_available_providers() and has_gpu()


def has_gpu() -> bool:
    """Whether the machine shows an NVIDIA device to this process."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists() or os.name == "nt"


def visible_gpus() -> list[str]:
    """The devices that CUDA shows to this process, by the names that ``CUDA_VISIBLE_DEVICES`` gives them; none where there is no driver."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return []
    except OSError:
        return []
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    # CUDA reads the list up to the first name that it does not know.
    return (names.replace(" ", "").split(",") if names is not None else [str(number) for number in range(count.value)])[: count.value]


@cache
def load_cuda_libraries() -> str:
    """Load CUDA's and cuDNN's libraries from every folder of packages that holds some; what is missing then, in ONNX Runtime's words.

    ``preload_dlls`` looks beside onnxruntime alone, but a virtual environment over a system's packages, and ``PYTHONPATH``, put torch and
    its libraries elsewhere. And it prints what it misses to standard output, where labeled rows may be going.
    """
    spec = importlib.util.find_spec("nvidia")
    packages = spec.submodule_search_locations if spec else None
    for folder in sorted({folder for package in packages or () for folder in Path(package).glob("*/lib")}):
        _preload(str(folder))
    return _preload(None)


def _preload(folder: str | None) -> str:
    import onnxruntime

    with redirect_stdout(io.StringIO()) as printed:
        onnxruntime.preload_dlls(directory=folder)
    return " ".join(printed.getvalue().split())
