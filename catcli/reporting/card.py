"""The model card that lies in an adapter folder as README.md."""

from __future__ import annotations

from catcli.adapter import Manifest
from catcli.evaluation.metrics import Metrics, Scores
from catcli.recipe import Recipe
from catcli.reporting.tables import MODELS, share

REFIT = "The models in this folder have since learned from all labeled rows in the same way; the scores are those of the held-out run."


def model_card(name: str, manifest: Manifest, metrics: Metrics, recipe: Recipe) -> str:
    """Markdown with the front matter that the Hugging Face hub reads."""
    lines = []
    for key, title in MODELS.items():
        scores: Scores = getattr(metrics, key)
        lines.append(f"| {title} | {share(scores.accuracy)} | {share(scores.macro.f1)} | {share(scores.weighted.f1)} |")
    rows, rare = metrics.rows, len(metrics.rare_categories)
    labeled = rows.train + rows.validation + rows.test
    return f"""---
base_model: {manifest.base.hub}
library_name: peft
pipeline_tag: text-classification
tags: [catcli, lora, product-categorization]
---

# {name}

Labels products with one of {len(manifest.categories):,} categories from {", ".join(f"`{column}`" for column in manifest.text)}.
Made by catcli {manifest.versions.get("catcli", "")} on {manifest.created:%Y-%m-%d} from {labeled:,} labeled rows.

## Scores on {rows.test:,} test rows

| | accuracy | macro F1 | weighted F1 |
|---|--:|--:|--:|
{chr(10).join(lines)}

The rows were split {"/".join(map(str, recipe.split))} by product: {rows.train:,} trained, {rows.validation:,} chose the epoch, the weights
of the blend and its temperature, and the test rows were looked at once.
{f"{rare:,} categories have too few products to be scored." if rare else "Every category is scored."}

## How it was made

LoRA (rank {recipe.rank}, alpha {recipe.alpha}) in the upper blocks of {manifest.base.hub}: after {metrics.training.passes:.3g} passes over
{metrics.training.lora_rows:,} rows, at a learning rate of up to {recipe.lr:g}, the validation rows liked it best; beside it one-vs-rest
support vector machines over words and character n-grams. A product's probabilities are the softmax of
{manifest.blend.lora:.3f} x LoRA's logits + {manifest.blend.linear:.3f} x the linear model's, with the offset of each category and the
temperature in `adapter.json`. {REFIT if metrics.training.refit else "The models in this folder are those that were scored."}

## Use

    catcli predict catalog.parquet -o labeled.parquet --adapter {name}

It knows only the categories it was trained on: a product of another one gets the nearest of them, often with a low confidence.
"""
