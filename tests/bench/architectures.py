"""Adapter, merged model and ONNX beside one another in every architecture and by every method: the largest difference of any logit.

    python tests/bench/architectures.py

Small random models of the real classes, with trained weights moved away from where they began; two shapes, and one batch with padding.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the tests' small models are made

from small_bases import CONFIGS, save_base
from test_backbones import saved_merged_and_exported

from catcli.config import Method
from catcli.models.bases import find_base


def main() -> None:
    print(f"{'base':<14} {'class':<18} {'pool':<5} {'method':<7} {'saved':>8} {'merged':>8} {'ONNX':>8}")
    with tempfile.TemporaryDirectory() as root:
        for name in CONFIGS:
            base = find_base(str(save_base(name, Path(root) / name)))
            for method in get_args(Method) if name in ("bert", "gpt2", "t5") else ("lora",):
                folder = Path(root) / f"{name}-{method}"
                folder.mkdir()
                found = saved_merged_and_exported(base, method, folder)
                kind = type(base.load()).__name__
                print(f"{name:<14} {kind:<18} {base.pool:<5} {method:<7} {' '.join(f'{one:8.1e}' for one in found)}", flush=True)


if __name__ == "__main__":
    main()
