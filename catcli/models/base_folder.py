"""A base model's folder → a private copy that holds only what a model is made of.

A folder that a stranger sent can name other files in its JSON (weights in a pickle, a vocabulary at ``/home/me/credentials``), ask for code
from the hub, or hold links and devices. transformers follows all of these; so it never sees the folder, but this copy of it. Weights are
not copied where the system can open an open file once more: the copy links to the descriptor, so what is hashed is what is loaded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from catcli.errors import BackboneError, name_list, reason

SMALL_FILES = {
    "config.json": 2**22,
    "model.safetensors.index.json": 2**26,
    "tokenizer.json": 2**27,
    "tokenizer_config.json": 2**24,
    "special_tokens_map.json": 2**22,
    "added_tokens.json": 2**22,
    "vocab.txt": 2**26,
    "vocab.json": 2**26,
    "merges.txt": 2**26,
    "spm.model": 2**26,
    "spiece.model": 2**26,
    "tokenizer.model": 2**26,
    "sentencepiece.bpe.model": 2**26,
}
"""The files beside the weights that are copied, and the bytes that each may have."""

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

MAX_SHARDS = 1_000

REFUSED_KEYS = ("quantization_config", "transformers_weights", "adapter_config")
"""Keys of a ``config.json`` that have other weights read, or the weights in another way."""

_PLACE = re.compile(r".*(_file|_path|_dir|_internal)|.*_?name_or_path|_?attn_implementation(_autoset)?|_commit_hash|auto_map")
"""Keys that name places, code or kernels. Published files have some, of the machine that wrote them."""

SIZES = re.compile(
    r"(vocab|hidden|intermediate|embedding)_size|(max|n)_position(s|_embeddings)|num_(hidden_layers|layers|attention_heads|key_value_heads|heads)"
    r"|n_(embd|layer|head|layers|heads|inner)|dim|d_(model|kv|ff)|hidden_dim|head_dim|num_hidden_groups|inner_group_num"
)
"""The numbers of a ``config.json`` that shape a model."""

MAX_SIZE, MAX_LAYERS = 2**24, 1_000

_LAYERS = re.compile(r"n(um)?_(hidden_)?(layers?|groups)|inner_group_num")

_DESCRIPTORS = Path("/proc/self/fd")


class BaseFolder:
    """A private copy of a base model's folder ``source``, at ``path``; it is gone with this object, or when the process ends."""

    def __init__(self, folder: Path, name: str) -> None:
        """Check and copy ``folder``, which ``--base`` calls ``name``.

        Raises:
            BackboneError: it holds a PEFT adapter or no model, a file that is a link or a device or too large, or a configuration that no
                model of the known architectures has.
        """
        self.source, self._name = folder.resolve(), name
        folder = self.source
        if os.path.lexists(folder / "adapter_config.json"):
            raise self._refused("holds adapter_config.json: it is a PEFT adapter, not a base model; merge it and save the result")
        self._descriptors: list[int] = []
        self.path = Path(tempfile.mkdtemp(prefix="catcli-base-"))
        weakref.finalize(self, _end, self.path, self._descriptors)
        for file, limit in SMALL_FILES.items():
            if os.path.lexists(folder / file):
                self._copy(file, self._read(file, limit))
        self.config = self._json("config.json")
        self._check_config(self.config)
        for shard in self._shards():
            self._take(shard)

    def _refused(self, problem: str) -> BackboneError:
        return BackboneError(f"--base {self._name}: {self.source} {problem}.")

    def _open(self, file: str) -> int:
        """A descriptor of a regular file of the folder.

        A link is followed where the hub's cache makes one: from ``snapshots/COMMIT`` to ``blobs`` of the same model.
        """
        path = self.source / file
        try:
            if path.is_symlink():
                blobs = self.source.parent.parent / "blobs"
                target = Path(os.path.realpath(path))
                if self.source.parent.name != "snapshots" or blobs.is_symlink() or target.parent != Path(os.path.realpath(blobs)):
                    raise self._refused(f"holds the link {file}, which leads to {path.readlink()}; copy the model with 'cp -rL'")
                path = target
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            raise self._refused(f"holds {file}, which cannot be read ({error.strerror or error})") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._refused(f"holds {file}, which is no regular file")
        return descriptor

    def _read(self, file: str, limit: int) -> bytes:
        with os.fdopen(self._open(file), "rb") as opened:
            content = opened.read(limit + 1)
        if len(content) > limit:
            raise self._refused(f"holds {file} with more than {limit:,} bytes, more than any model's")
        return content

    def _copy(self, file: str, content: bytes) -> None:
        if file in ("config.json", "tokenizer_config.json"):
            content = self._without_paths(file, content)
        (self.path / file).write_bytes(content)

    def _without_paths(self, file: str, content: bytes) -> bytes:
        """A JSON object without the keys that name places: published files have some, of the machine that wrote them."""
        parsed = self._parsed(file, content)
        if not isinstance(parsed, dict):
            return content
        return json.dumps({key: value for key, value in parsed.items() if not self._leads_out(file, key, value)}).encode()

    def _leads_out(self, file: str, key: str, value: object) -> bool:
        """Whether a key of a JSON file is left out of the copy: it names a place, code or a kernel.

        Raises:
            BackboneError: it is one that no published model has, or whose weights are not plain ones.
        """
        is_path = isinstance(value, str) and ("/" in value or "\\" in value)
        if file == "config.json" and value and (key in REFUSED_KEYS or (key.endswith("_internal") and is_path)):
            raise self._refused(f"has {key[:80]!r} in its config.json, which makes a library load other things than the weights here")
        return is_path or key in REFUSED_KEYS or _PLACE.fullmatch(key) is not None

    def _json(self, file: str) -> dict[str, Any]:
        if not (self.path / file).exists():
            names = name_list(sorted(path.name for path in self.source.iterdir()), 5)
            raise self._refused(f"has no {file}, so it is not a model; it holds {names}")
        parsed = self._parsed(file, (self.path / file).read_bytes())
        return parsed if isinstance(parsed, dict) else {}

    def _parsed(self, file: str, content: bytes) -> object:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BackboneError(f"--base {self._name}: {self.source / file} is not JSON: {reason(error)}; copy the model again.") from error

    def _check_config(self, config: Mapping[str, Any]) -> None:
        for key, value in config.items():
            limit = MAX_LAYERS if _LAYERS.fullmatch(key) else MAX_SIZE
            if SIZES.fullmatch(key) and value is not None and not (type(value) is int and 1 <= value <= limit):
                raise self._refused(f"has {key} {value!r:.40} in its config.json; it has to be a whole number from 1 to {limit:,}")

    def _shards(self) -> list[str]:
        """The names of the weights' files; none where there are no safetensors."""
        if os.path.lexists(self.source / WEIGHTS):
            return [WEIGHTS]
        if not (self.path / INDEX).exists():
            return []
        weights = self._json(INDEX).get("weight_map")
        names = sorted({str(name) for name in weights.values()}) if isinstance(weights, dict) else []
        unsafe = [name for name in names if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors", name)]
        if unsafe or not names or len(names) > MAX_SHARDS:
            raise self._refused(
                f"has an index of weights that names {name_list(unsafe or names, 1)}, and not safetensors of the folder itself"
            )
        return names

    def _take(self, shard: str) -> None:
        descriptor = self._open(shard)
        if _DESCRIPTORS.is_dir():
            self._descriptors.append(descriptor)
            (self.path / shard).symlink_to(_DESCRIPTORS / str(descriptor))
        else:
            with os.fdopen(descriptor, "rb") as source, (self.path / shard).open("wb") as copy:
                while block := source.read(2**24):
                    copy.write(block)

    def parameters(self) -> int:
        """How many numbers the weights' files hold, as their headers say.

        Raises:
            BackboneError: one of them is not a safetensors file.
        """
        count = 0
        for shard in self._shards():
            try:
                with safe_open(self.path / shard, framework="numpy") as stored:
                    for tensor in stored.keys():  # noqa: SIM118  # a file, not a mapping
                        size = 1
                        for side in stored.get_slice(tensor).get_shape():
                            size *= side
                        count += size
            except (SafetensorError, OSError) as error:
                raise self._refused(f"holds {shard}, which cannot be loaded ({reason(error)})") from error
        return count


def _end(path: Path, descriptors: list[int]) -> None:
    shutil.rmtree(path, ignore_errors=True)
    for descriptor in descriptors:
        os.close(descriptor)
