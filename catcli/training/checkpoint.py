"""The state of a training on disk, so that a stopped fit continues: safetensors, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from catcli.atomic import fsync, temporary_path
from catcli.errors import OutputError, is_disk_full, reason


@dataclass(frozen=True)
class Checkpoint:
    """A training's file. ``fingerprint`` says what is trained on what: a file of other rows, options or versions is not loaded."""

    file: Path
    fingerprint: str

    def save(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Keep ``tensors`` and ``progress``, numbers that JSON can hold, in place of what was kept before."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(self.file)
        metadata = json.dumps({"fingerprint": self.fingerprint, "progress": progress})
        try:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata={"catcli": metadata}
            )
            fsync(temporary)
            temporary.replace(self.file)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            problem = "the disk is full" if is_disk_full(error) else reason(error)
            raise OutputError(
                f"{self.file}, which keeps the training, cannot be written: {problem}; free some space and run the same command again."
            ) from error

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `save` saved; None where the file is missing, damaged or of another run."""
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, framework="pt") as opened:
                metadata = json.loads((opened.metadata() or {}).get("catcli", "{}"))
                if metadata.get("fingerprint") != self.fingerprint:
                    return None
                return {name: opened.get_tensor(name) for name in opened.keys()}, metadata["progress"]  # noqa: SIM118  # a file, not a mapping
        except (SafetensorError, OSError, ValueError, KeyError):
            return None
