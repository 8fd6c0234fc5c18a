"""The training methods: adapters, all weights, or the head alone; how each is prepared, saved, loaded and merged."""

from __future__ import annotations

from pathlib import Path

from catcli.config import LORA_METHODS, Method, Recipe
from catcli.models.backbone import Backbone, quiet_transformers
from catcli.models.classifier import Classifier, load_head, save_head
from catcli.models.lora import add_adapters, load_adapters, merge_adapters, save_adapters

HEAD_FILE = "head.safetensors"

HEAD_LR = 1e-3


def default_learning_rate(base: Backbone, method: Method) -> float:
    """The highest learning rate where a recipe names none."""
    return {"full": base.full_lr, "head": HEAD_LR}.get(method, base.lr)


def prepare_model(classifier: Classifier, base: Backbone, recipe: Recipe) -> None:
    """Make trainable what the method trains, and freeze the rest. The head is always trained."""
    classifier.backbone.requires_grad_(recipe.method == "full")
    if recipe.method in LORA_METHODS:
        add_adapters(classifier, base, recipe)


def save_model(classifier: Classifier, base: Backbone, method: Method, folder: Path) -> int:
    """Write the trained weights to ``folder``; returns their bytes.

    Adapters are PEFT's own two files, a base trained whole is a folder of transformers' (``config.json`` and ``model.safetensors``), and
    the head is ``head.safetensors`` in every case.
    """
    before = set(folder.iterdir())
    save_head(classifier.head, folder / HEAD_FILE)
    if method == "full":
        with quiet_transformers():
            classifier.backbone.save_pretrained(str(folder), safe_serialization=True)
        base.save_config(classifier.backbone, folder)
    elif method in LORA_METHODS:
        save_adapters(classifier, base, folder)
    return sum(file.stat().st_size for file in set(folder.iterdir()) - before)


def load_model(base: Backbone, method: Method, folder: Path, classes: int) -> Classifier:
    """The classifier of ``classes`` that `save_model` put into ``folder``."""
    classifier = Classifier(base.load(folder=folder if method == "full" else None), classes, base.pool)
    if method in LORA_METHODS:
        load_adapters(classifier, folder)
    load_head(classifier.head, folder / HEAD_FILE)
    return classifier


def merge_model(classifier: Classifier, method: Method) -> None:
    """Merge the trained weights, so that the classifier is the plain architecture again."""
    if method in LORA_METHODS:
        merge_adapters(classifier)
