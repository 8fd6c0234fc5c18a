"""The memory of this process."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path


def peak_memory() -> int:
    """Bytes of memory that this process has held at most; 0 where the system does not say."""
    with suppress(OSError, StopIteration, ValueError):
        # Linux counts in ru_maxrss what the process that started this one held.
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    try:
        import resource  # noqa: PLC0415  # not everywhere
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
