"""Where the adapters go, and how they become part of the weights.

Next to a frozen weight W *(out, in)* stands a product of two thin ones (Hu et al. 2021, section 4.1):

                          ┌──────────────── W, frozen ────────────────┐
    x (in) ───────────────┤                                           ├── + ──→ W x + (alpha / rank) · B A x
                          └── A (rank, in) ── B (out, rank), zeros ───┘

B begins as zeros, so the first step starts from the base model as published.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from catcli.models.backbones import Backbone
from catcli.models.classifier import Classifier, load_head, save_head
from catcli.recipe import Recipe

HEAD = "head.safetensors"


def add_adapters(classifier: Classifier, base: Backbone, recipe: Recipe) -> None:
    """Freeze the backbone and put a LoRA adapter beside every linear layer of its upper blocks. The head stays trainable."""
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(base.targets),
        layers_to_transform=list(base.layers),
    )
    classifier.backbone = get_peft_model(classifier.backbone, config)
    for module in classifier.backbone.modules():
        if isinstance(module, LoraLayer) and recipe.dropout:
            module.lora_dropout["default"] = RowDropout(recipe.dropout)


class RowDropout(nn.Module):
    """Dropout of the same features in every token of a row.

    Gal & Ghahramani 2016, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks". One draw for a row, not one for
    each token: drawing anew for every token took half of a training step on a CPU.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, states: Tensor) -> Tensor:
        """``states`` *(rows, tokens, features)*, or *(rows, features)*."""
        if not self.training:
            return states
        shape = (states.shape[0], *(1,) * (states.ndim - 2), states.shape[-1])
        return states * nn.functional.dropout(torch.ones(shape, dtype=states.dtype, device=states.device), self.share)


def save_adapter(classifier: Classifier, base: Backbone, folder: Path) -> None:
    """PEFT's own two files, with the base's public name in place of a path on this machine, and the head beside them."""
    adapted = _adapted(classifier)
    adapted.peft_config["default"].base_model_name_or_path = base.hub
    # No embeddings are trained; left at "auto", PEFT asks the model hub whether there are new ones.
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    save_head(classifier.head, folder / HEAD)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; ours is written with the scores


def load_adapter(base: Backbone, folder: Path, classes: int) -> Classifier:
    """The base with the adapter and the head that `save_adapter` put into ``folder``."""
    classifier = Classifier(base.load(), classes)
    classifier.backbone = PeftModel.from_pretrained(classifier.backbone, str(folder))
    load_head(classifier.head, folder / HEAD)
    return classifier


def merge(classifier: Classifier) -> None:
    """Add B A to the weights, in float32; after it the classifier is the plain architecture again."""
    classifier.backbone = _adapted(classifier).float().merge_and_unload()


def _adapted(classifier: Classifier) -> PeftModel:
    if not isinstance(classifier.backbone, PeftModel):
        raise TypeError("the classifier has no adapters: call add_adapters or load_adapter first")
    return classifier.backbone
