"""The child process of `catcli.inference.sandbox`: loads a stranger's adapter under limits and prints what is wrong with it, as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from catcli.adapter.folder import load_adapter
from catcli.adapter.manifest import Variant
from catcli.errors import AdapterError, CatcliError
from catcli.inference.labeler import Labeler
from catcli.inference.sandbox import READY, limit_process

TEXTS = ("", "a", "blue coffee mug 500 ml", 'tv 32" - wi-fi, 4k; (2024) größe 商品 \u0301\u200d🙂', "0123456789 " * 200, "a" * 3000)
"""What it labels beside the adapter's own probe rows: no text, short ones, and some of more tokens than any model reads."""


def main(order: str) -> None:
    """Test an adapter as `catcli.inference.sandbox.start_check` says."""
    folder, variant, memory, seconds, fingerprint = json.loads(order)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is not an answer
    answer.write(f"{READY.decode()}\n")
    answer.flush()
    limit_process(memory, seconds)
    problem: str | None = None
    try:
        _try(Path(folder), variant, fingerprint)
    except CatcliError as error:
        problem = "memory" if _is_memory_short(error) else str(error)
    except OSError as error:
        problem = f"{error.filename or folder}: {error.strerror or error}; fix that and run the same command again."
    except MemoryError:
        problem = "memory"
    except Exception as error:  # noqa: BLE001  # a crafted file met a bug: the parent tells of it without a traceback
        problem = f"{folder} cannot be loaded: {type(error).__name__}; copy the adapter again, or fit a new one."
        problem = "memory" if _is_memory_short(error) else problem
    with answer:
        json.dump({"error": problem}, answer)


def _try(folder: Path, variant: Variant, fingerprint: str) -> None:
    adapter = load_adapter(folder)
    if adapter.fingerprint != fingerprint:
        raise AdapterError(f"{folder} was changed while it was loaded; run the same command again.")
    Labeler(adapter, "cpu", variant, workers=1, vetting="as the child", max_change=0).label(TEXTS)


MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate", "memory is too short", "out of memory", "worker thread")
"""What libraries say where memory is short, that of a thread's stack among it."""


def _is_memory_short(error: Exception) -> bool:
    return any(word in str(error) for word in MEMORY)


if __name__ == "__main__":
    main(sys.argv[1])
