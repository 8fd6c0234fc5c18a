"""LoRA: where the adapters go, and how they are merged into the weights.

Next to a frozen weight W *(out, in)* stands a product of two thin ones (Hu et al. 2021, section 4.1):

                          ┌──────────────── W, frozen ────────────────┐
    x (in) ───────────────┤                                           ├── + ──→ W x + (alpha / rank) · B A x
                          └── A (rank, in) ── B (out, rank), zeros ───┘

B begins as zeros, so the first step starts from the base model as published. Its kin:

- ``rslora`` divides alpha by the root of the rank (Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA");
- ``dora`` learns the length of each row of the sum beside its direction (Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation");
- ``pissa`` begins with the largest singular directions of W in B A and keeps the rest of W beside them (Meng et al. 2024, "PiSSA: Principal
  Singular Values and Singular Vectors Adaptation"). Since that changes W, it is saved as the plain LoRA of twice the rank that leads from
  the published W to the same sum.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from catcli.config import Recipe
from catcli.errors import UsageError, name_list
from catcli.models.backbone import Backbone
from catcli.models.classifier import Classifier


def add_adapters(classifier: Classifier, base: Backbone, recipe: Recipe) -> None:
    """Freeze the backbone and put adapters where ``base`` says.

    Raises:
        UsageError: the backbone has no layers of these names.
    """
    targets = _targets(classifier, base)
    if recipe.method == "pissa":
        _check_rank(classifier, base, targets, recipe.rank)
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=targets,
        layers_to_transform=list(base.layers) if base.layers else None,
        fan_in_fan_out=base.architecture.transposed,
        use_rslora=recipe.method == "rslora",
        use_dora=recipe.method == "dora",
        init_lora_weights="pissa" if recipe.method == "pissa" else True,
        revision=base.revision,
    )
    with _expected_warnings():
        classifier.backbone = get_peft_model(classifier.backbone, config)
    if recipe.method == "pissa":
        state = classifier.backbone.state_dict()
        classifier.initial_adapters = {name: value.detach().cpu().clone() for name, value in state.items() if "lora_" in name}
    for module in classifier.backbone.modules():
        if isinstance(module, LoraLayer) and recipe.dropout:
            module.lora_dropout["default"] = RowDropout(recipe.dropout)


@contextmanager
def _expected_warnings() -> Iterator[None]:
    """Hide that PEFT 0.21 asks a model for a property by the name that it had before transformers 5."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def _targets(classifier: Classifier, base: Backbone) -> list[str]:
    """The names of ``base.targets`` that this model has: T5's blocks have ``wi`` or ``wi_0`` and ``wi_1``."""
    blocks = base.blocks_of(classifier.backbone).modules
    names = {name.rpartition(".")[2] for name, module in blocks.named_modules() if getattr(module, "weight", torch.empty(0)).ndim == 2}
    missing = [name for name in base.targets if name not in names]
    if missing and base.targets != base.architecture.targets:
        raise UsageError(
            f"--targets {','.join(missing)}: the blocks of {base.hub} have no such layers; theirs are {name_list(sorted(names))}."
        )
    return [name for name in base.targets if name in names]


def _check_rank(classifier: Classifier, base: Backbone, targets: Sequence[str], rank: int) -> None:
    """PiSSA begins with singular directions, of which a matrix has no more than its smaller side."""
    blocks = base.blocks_of(classifier.backbone).modules
    sides = [min(module.weight.shape) for name, module in blocks.named_modules() if name.rpartition(".")[2] in targets]
    if rank > min(sides):
        raise UsageError(f"--rank {rank}: --method pissa takes singular directions, and a layer of {base.hub} has {min(sides)} of them.")


class RowDropout(nn.Module):
    """Dropout of the same features in every token of a row.

    Gal & Ghahramani 2016, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks". One draw for a row, not one for
    each token: drawing again for every token took half of a training step on a CPU.
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


def save_adapters(classifier: Classifier, base: Backbone, folder: Path) -> None:
    """PEFT's own two files, with the base's public name in place of a path on this machine."""
    adapted = _adapted(classifier)
    config = cast(LoraConfig, adapted.peft_config["default"])
    config.base_model_name_or_path = base.hub
    state = None if classifier.initial_adapters is None else _from_the_published_weights(adapted, classifier.initial_adapters)
    if state is not None:
        adapted.peft_config["default"] = replace(config, r=2 * config.r, lora_alpha=2 * config.lora_alpha, init_lora_weights=True)
    # No embeddings are trained; left at "auto", PEFT asks the model hub whether there are new ones.
    adapted.save_pretrained(str(folder), save_embedding_layers=False, state_dict=state)
    adapted.peft_config["default"] = config
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; ours is written with the scores


def _from_the_published_weights(adapted: PeftModel, began: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapters as they lead from the weights before PiSSA took ``began`` out of them: B A - B0 A0 = [B, -B0] [A; A0]."""
    doubled = {}
    for name, first in began.items():
        current = adapted.get_parameter(name).detach().cpu()
        doubled[name] = torch.cat((current, first), 0) if ".lora_A." in name else torch.cat((current, -first), 1)
    return doubled


def load_adapters(classifier: Classifier, folder: Path) -> None:
    """Put what `save_adapters` wrote into ``folder`` beside the weights."""
    with _expected_warnings():
        classifier.backbone = PeftModel.from_pretrained(classifier.backbone, str(folder))


def merge_adapters(classifier: Classifier) -> None:
    """Add B A to the weights, in float32; after it the classifier is the plain architecture again."""
    classifier.backbone = _adapted(classifier).float().merge_and_unload()


def _adapted(classifier: Classifier) -> PeftModel:
    if not isinstance(classifier.backbone, PeftModel):
        raise TypeError("the classifier has no adapters: call add_adapters or load_adapters first")
    return classifier.backbone
