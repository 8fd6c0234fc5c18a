"""The model card that lies in an adapter folder as README.md."""

from __future__ import annotations

import re
import shlex

from huggingface_hub import EvalResult, ModelCardData

from catcli.adapter.manifest import Manifest
from catcli.config import LORA_METHODS, METHOD_TITLES, Recipe
from catcli.evaluation.fit_metrics import FitMetrics, Training
from catcli.evaluation.metrics import TITLES
from catcli.reporting import sentences
from catcli.reporting.tables import model_titles
from catcli.wording import format_confidence, per_cent, printable

REFIT = "The models in this folder were then refitted on all labeled rows; the scores are those of the holdout models."

IN_FRONT = ("accuracy", "macro_f1", "weighted_f1", "log_loss")
"""The metrics that the hub shows."""


def front_matter(name: str, manifest: Manifest, metrics: FitMetrics) -> str:
    """The YAML that the Hugging Face hub reads, with the blend's scores as a ``model-index``."""
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Product categorization",
            dataset_type="held-out",
            dataset_name=f"{metrics.scored_rows:,} held-out rows of the labeled products",
            metric_type=metric,
            metric_name=TITLES[metric],
            metric_value=round(getattr(metrics.blend, metric).value, 4),
        )
        for metric in IN_FRONT
    ]
    data = ModelCardData(
        model_name=name,
        base_model=manifest.base.hub,
        library_name="peft" if manifest.method in LORA_METHODS else "transformers",
        pipeline_tag="text-classification",
        tags=["catcli", manifest.method, "product-categorization"],
        eval_results=results,
    )
    return str(data.to_yaml())


def model_card(name: str, manifest: Manifest, metrics: FitMetrics, recipe: Recipe) -> str:
    """Markdown with the front matter that the Hugging Face hub reads."""
    rows, training = metrics.rows, metrics.training
    split = sentences.random_split(metrics.random_split) if metrics.random_split else "No product has several rows."
    calibrated = "\n".join(f"- {sentences.calibration(variant, calibration)}" for variant, calibration in metrics.calibration.items())
    versions = plain(", ".join(f"{package} {version}" for package, version in manifest.versions.items()))
    columns, title = ", ".join(map(code, manifest.text)), plain(name)
    compared = sentences.comparison(metrics.against_linear, metrics.method)
    summary = sentences.headline(metrics), sentences.catalog_scores(metrics), sentences.cascade(metrics), compared
    needed = sentences.rows_needed(metrics)
    by_name = f", {manifest.without_rows:,} of them known by name alone," if manifest.without_rows else ""
    epochs = "one epoch" if training.passes == 1 else f"{training.passes:.3g} epochs"
    return f"""---
{front_matter(name, manifest, metrics)}
---

# {title}

Labels products with one of {len(manifest.categories):,} categories{by_name} from {columns}.
Made by catcli {plain(manifest.versions.get("catcli", ""))} on {manifest.created:%Y-%m-%d} from {rows.labeled:,} labeled rows.

## Scores on {metrics.scored_rows:,} {"out-of-fold" if rows.folds else "test"} rows, 95 % intervals

| | {" | ".join(model_titles(metrics.method).values())} |
|---|--:|--:|--:|
{_scores(metrics)}

{" ".join(filter(None, summary))}

{_protocol(metrics, recipe)} {split}
{_unscored(metrics)}

## Confidence

{calibrated}

| precision | confidence | accepted rows | precision on them |
|---|--:|--:|---|
{_thresholds(metrics)}
{f"{chr(10)}{needed}{chr(10)}" if needed else ""}
## Training

{_learned(manifest, recipe)}: after {epochs} over
{training.lora_rows:,} rows{_unlabeled(training)}, at a learning rate of up to {recipe.lr:g}{_head_rate(manifest)},
{"the loss on the first fold's rows" if rows.folds else "the validation loss"} was lowest. Beside it stand one-vs-rest
linear support vector machines over words and character n-grams. A product's probabilities are the softmax of
{manifest.blend.lora:.3f} x its logits + {manifest.blend.linear:.3f} x the linear model's, with the offset of each category and the
calibration in `adapter.json`. {REFIT if training.refit else "The models in this folder are those that were scored."}
It took {training.seconds:.0f} s on {training.device} and {training.peak_memory / 2**20:,.0f} MiB of memory.

## Use

    catcli predict catalog.parquet -o labeled.parquet --adapter {shlex.quote(printable(name))}

## Limits

It knows only the categories it was trained on: a product of another one gets the nearest of them, often with a low confidence. The scores
and thresholds hold for products like those it learned from; `catcli report --on` scores it on others.

Versions: {versions}.
"""


def plain(text: str) -> str:
    """Text of a file as Markdown shows it: without control codes, and no letter of it marks anything up."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&])", r"\\\1", " ".join(printable(text).split()))


def code(text: str) -> str:
    """Text of a file between backticks, of which it has none itself."""
    return f"`{' '.join(printable(text).replace('`', chr(39)).split())}`"


def _protocol(metrics: FitMetrics, recipe: Recipe) -> str:
    """Which rows chose and which were scored."""
    rows = metrics.rows
    if rows.folds:
        return (
            f"The rows were divided into {rows.folds} folds by product, and each fold was scored by models of the others. The blend, its\n"
            "calibration and the thresholds were chosen by these out-of-fold rows; a row's scores are of what the other folds chose, but\n"
            "for the number of epochs, which the first fold chose."
        )
    return (
        f"The rows were split {'/'.join(map(str, recipe.split))} by product: {rows.train:,} training, {rows.validation:,} validation and\n"
        f"{rows.test:,} test rows. The validation rows chose the epoch, the blend, its calibration and the thresholds."
    )


def _unscored(metrics: FitMetrics) -> str:
    """Which categories the scores are not of."""
    rare = len(metrics.rare_categories)
    if not rare:
        return "Every category is scored."
    if metrics.rows.folds:
        return f"Categories with products in one fold only, which are not scored: {rare:,}."
    return f"Categories with too few products to score each of them, so that a sample of their rows is scored: {rare:,}."


def _head_rate(manifest: Manifest) -> str:
    embedded = re.fullmatch(r"minilm(-\d)?", manifest.base.name)
    return "" if embedded or manifest.method not in LORA_METHODS else " (the head: up to four times that)"


def _unlabeled(training: Training) -> str:
    return f" and {training.unlabeled_rows:,} unlabeled ones" if training.unlabeled_rows else ""


def _learned(manifest: Manifest, recipe: Recipe) -> str:
    """What learned, and on which base."""
    base = plain(manifest.base.hub)
    at = f" at {plain(manifest.base.revision)}" if manifest.base.revision else ""
    if manifest.base.blocks:
        *numbers, last = map(str, manifest.base.blocks)
        at += f", of which it keeps the block{'s' if numbers else ''} {' and '.join(filter(None, (', '.join(numbers), last)))}"
    if recipe.method in LORA_METHODS:
        method = f"{METHOD_TITLES[recipe.method]} (rank {recipe.rank}, alpha {recipe.alpha}) in {base}{at}"
    else:
        method = {"full": "Every weight", "head": "The head alone, on the untouched weights"}[recipe.method] + f" of {base}{at}"
    balanced = "" if recipe.balance == "none" else f", balanced by {recipe.balance}"
    taught = f", beside the labels by the probabilities that the adapter {code(recipe.teacher)} gave every text" if recipe.teacher else ""
    return method + balanced + taught


def _scores(metrics: FitMetrics) -> str:
    lines = []
    for metric, title in TITLES.items():
        estimates = [getattr(getattr(metrics, model), metric) for model in model_titles(metrics.method)]
        lines.append(
            f"| {title} | {' | '.join(f'{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})' for estimate in estimates)} |"
        )
    return "\n".join(lines)


def _thresholds(metrics: FitMetrics) -> str:
    lines = []
    for measured in metrics.promises:
        threshold = "none" if measured.threshold is None else format_confidence(measured.threshold)
        accepted = "–" if measured.accepted_in_test is None else per_cent(measured.accepted_in_test)
        lines.append(f"| {measured.precision:.0%} | {threshold} | {accepted} | {sentences.threshold_outcome(measured)} |")
    return "\n".join(lines)
