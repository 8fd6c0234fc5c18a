"""``catcli fit``: labeled products → an adapter. Read it from top to bottom: it has every step in its order.

::

    files ── rows, columns, split ── linear model ─┐
                               └──── encoder ──────┤── ONNX ── blend, calibration, thresholds ── scores ── adapter folder
                                                   │
    few rows: models of all folds but one score that fold, and these out-of-fold rows choose the blend and give the scores;
    many rows: holdout models learn from the training rows, are weighed by the validation rows and scored on the test rows;
    refit models learn from all rows in the same way, and ship.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catcli.adapter.folder import Adapter, load_adapter, manifest_time, package_versions
from catcli.adapter.manifest import FORMAT, BaseInfo, Manifest, ModelScales, Variant, VariantInfo
from catcli.adapter.store import find_adapter
from catcli.adapter.writer import AdapterDraft, adapter_draft, check_target, fit_lock
from catcli.arrays import FloatArray
from catcli.config import METHOD_TITLES, Recipe
from catcli.data.dataset.examples import stratified_sample
from catcli.data.dataset.labeled import conflicting_labels
from catcli.data.dataset.prepare import TrainingData, load_training_data
from catcli.data.dataset.split import FoldSplit, Split
from catcli.data.io.input_options import InputOptions
from catcli.evaluation.blend import blend_logits
from catcli.evaluation.fit_metrics import FitMetrics, RowCounts, Training
from catcli.evaluation.fold_roles import FoldRoles
from catcli.evaluation.heldout import HeldOutRows, fold_part
from catcli.evaluation.metrics import CatalogScores, RowsNeeded
from catcli.evaluation.requirements import Requirement, check_requirements, check_tree_requirements
from catcli.inference.labeler import encoder_logits, save_probe
from catcli.inference.session import Session
from catcli.logs import LOGGER, Advance, no_progress
from catcli.memory import peak_memory
from catcli.paths import resume_folder, store_folder
from catcli.private_folder import delete_private_folder, persistent_folder
from catcli.wording import count_noun

if TYPE_CHECKING:
    from catcli.evaluation.bootstrap import Outcomes
    from catcli.evaluation.calibration import BlendCalibration
    from catcli.evaluation.cascade import ChangeSample
    from catcli.evaluation.evaluate import ScoredRows
    from catcli.export.parity import ExportedModel
    from catcli.training.encoder_training import EncoderResult
    from catcli.training.linear_training import LinearResult
    from catcli.training.setup import Setup

IS_HELPER = (os.environ.get("WORLD_SIZE") or "1") != "1" and (os.environ.get("RANK") or "0") != "0"
"""Whether ``accelerate launch`` started this process beside the main one: it trains, and neither logs nor writes."""

REFIT_PARITY_ROWS = 128
"""Held-out rows on which the forms of the refit model are compared; those of the holdout model were compared on more."""

MAX_VARIANT_ROWS = 2_000
"""Out-of-fold rows, at most, for which the logits of a smaller variant are computed."""

ModelCard = Callable[[str, Manifest, FitMetrics, Recipe], str]
"""Called with the adapter's name and what the fit came to: the text of the model card."""


@dataclass(frozen=True)
class FitResult:
    """The adapter that was written, and what was measured on its held-out rows."""

    adapter: Adapter
    metrics: FitMetrics


@dataclass(frozen=True)
class FittedModels:
    """What training and export gave. ``logits`` *(held-out rows, classes)* by variant are of the encoders that have not seen the rows.

    ``exported`` are the files of the model that ships, ``began`` is when training began, by `time.perf_counter`.
    """

    linear: LinearResult
    encoder: EncoderResult
    exported: ExportedModel
    logits: Mapping[Variant, FloatArray]
    blend: BlendCalibration
    began: float


def fit(
    products: Sequence[str],
    *,
    recipe: Recipe,
    model_card: ModelCard,
    output: Path | None = None,
    force: bool = False,
    options: InputOptions | None = None,
    resume: bool = False,
    require: Sequence[str] = (),
    advance: Advance = no_progress,
    on_scores: Callable[[FitMetrics], None] = lambda _: None,
) -> FitResult:
    """Train on ``products`` as ``recipe`` says and write the adapter to ``output``.

    With ``resume`` a fit that was killed continues from its last checkpoint. ``on_scores`` is called before the scores are checked against
    what ``require`` asks for. Of the processes of ``accelerate launch`` only the main one returns; the others end with the training.

    Raises:
        CatcliError: something that the user can fix, or a score below what is required; nothing was written.
    """
    LOGGER.disabled = LOGGER.disabled or IS_HELPER
    requirements, started = tuple(map(Requirement.of, require)), time.perf_counter()
    source = (options or InputOptions()).open(products)
    target = output or store_folder() / source.stem
    check_target(target, force)
    if recipe.teacher:
        find_adapter(recipe.teacher)  # what can be known at once is said before the rows are read
    data = load_training_data(source, recipe)
    check_tree_requirements(requirements, has_tree=data.recipe.path_separator is not None)
    checkpoints = resume_folder(target)
    if IS_HELPER:
        _help(data, checkpoints, started)
    with fit_lock(target):
        if resume and not checkpoints.exists():
            LOGGER.info("there is nothing to resume; the fit starts from the beginning.")
        with adapter_draft(target, sealed=True) as draft, persistent_folder(checkpoints):
            setup, models = _train(data, draft.folder, checkpoints, started, advance)
            metrics, variants = _measure(setup, models, draft.folder)
            on_scores(metrics)
            advice = "the training is kept: the same command without --require writes the adapter."
            check_requirements(metrics, requirements, f"nothing was written, and {advice}")
            _write(draft, data, setup, models, metrics, variants, model_card)
        delete_private_folder(checkpoints)
    return FitResult(load_adapter(target), metrics)


def _help(data: TrainingData, checkpoints: Path, started: float) -> None:
    """What a process beside the main one does: its part of every batch."""
    from catcli.training.encoder_training import EncoderTraining
    from catcli.training.setup import Setup

    EncoderTraining(Setup.of(data, started)).train(checkpoints)
    raise SystemExit(0)


# --- training, export, blend ---------------------------------------------------------------------------------------------------------


def _train(data: TrainingData, folder: Path, checkpoints: Path, started: float, advance: Advance) -> tuple[Setup, FittedModels]:
    """Train both models, export the encoder to ``folder``, and choose the blend on validation rows or out-of-fold rows."""
    from catcli.models.device import translate_device_errors
    from catcli.training.encoder_training import EncoderTraining
    from catcli.training.linear_training import LinearTraining
    from catcli.training.setup import Setup

    setup = Setup.of(data, started, advance)
    began = time.perf_counter()
    linear = LinearTraining(setup).train()
    with translate_device_errors("The training so far is kept: the same command continues it."):
        encoder = EncoderTraining(setup).train(checkpoints)
    _log_epochs(encoder)
    exported, logits = _export(setup, linear, encoder, folder)
    blend = fit_blend(setup, encoder, linear, logits)
    return setup, FittedModels(linear, encoder, exported, logits, blend, began)


def _log_epochs(encoder: EncoderResult) -> None:
    for number, epoch in enumerate(encoder.history.epochs, 1):
        losses = f"training loss {epoch.train_loss:.4f}, validation loss {epoch.validation_loss:.4f}"
        LOGGER.debug(f"epoch {number}: {losses}, accuracy {epoch.validation_accuracy:.4f}, {epoch.seconds:.1f} s")


def fit_blend(setup: Setup, encoder: EncoderResult, linear: LinearResult, logits: Mapping[Variant, FloatArray]) -> BlendCalibration:
    """The blend and the calibration that the choosing rows ask for; ``logits`` are those of all held-out rows, by variant."""
    from catcli.evaluation.calibration import BlendCalibration
    from catcli.models.losses import implied_class_shares

    truth = setup.labeled.classes[setup.split.choosing]
    of_choosing = {variant: values[: len(truth)] for variant, values in logits.items()}
    shares = implied_class_shares(setup.recipe.balance, encoder.shares)
    shares = np.concatenate((shares, np.full(len(setup.without_rows), shares.min())))
    with_rows = setup.class_count if setup.without_rows else None
    return BlendCalibration.fit(of_choosing, linear.logits[: len(truth)], truth, shares, linear.out_of_fold, with_rows)


def _export(setup: Setup, linear: LinearResult, encoder: EncoderResult, folder: Path) -> tuple[ExportedModel, Mapping[Variant, FloatArray]]:
    """The model that ships, exported to ``folder``, and logits of the held-out rows by variant, of models that have not seen them.

    A smaller variant is kept where the blend gives the same categories with it.
    """
    if encoder.out_of_fold is None:
        return _export_after_holdout(setup, linear, encoder, folder)
    return _export_after_folds(setup, linear, encoder, encoder.out_of_fold, folder)


def _export_after_folds(
    setup: Setup, linear: LinearResult, encoder: EncoderResult, out_of_fold: FloatArray, folder: Path
) -> tuple[ExportedModel, Mapping[Variant, FloatArray]]:
    """The refit model alone is exported. What a smaller variant changes in its logits is added to the out-of-fold logits of the same texts.

    So a variant is judged and calibrated on rows that the models are as unsure of as of a catalog's, and no fold's model is exported.
    """
    from catcli.export.parity import add_fp16, add_int8, export_fp32

    shipped, scored = encoder.shipped, setup.split.choosing
    places = np.flatnonzero(np.isin(scored, stratified_sample(setup.rows.classes, scored, MAX_VARIANT_ROWS, setup.recipe.seed)))
    texts = [setup.labeled.texts[row] for row in scored[places]]
    weights = fit_blend(setup, encoder, linear, {"fp32": out_of_fold}).blend

    def agreement(fp32: FloatArray, reduced: FloatArray) -> float:
        unseen = out_of_fold[places]
        first, second = (blend_logits(logits, linear.logits[places], weights).argmax(1) for logits in (unseen, unseen + reduced - fp32))
        return float((first == second).mean())

    exported = export_fp32(shipped, texts, folder, setup.advance)
    exported = add_int8(exported, shipped.tokenizer, texts, folder, agreement)
    exported = add_fp16(exported, shipped.tokenizer, texts, folder, agreement)
    logits: dict[Variant, FloatArray] = {}
    for variant, values in exported.logits.items():
        logits[variant] = out_of_fold.copy()
        logits[variant][places] += values - exported.logits["fp32"]
    return exported, logits


def _export_after_holdout(
    setup: Setup, linear: LinearResult, encoder: EncoderResult, folder: Path
) -> tuple[ExportedModel, Mapping[Variant, FloatArray]]:
    """The holdout model is exported for its scores, and then its refit; a smaller variant is judged on both."""
    from catcli.export.parity import add_fp16, add_int8, export_fp32

    texts, refit = setup.held_out_texts, encoder.refit
    holdout = encoder.holdout or encoder.shipped
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        scored_folder = Path(scratch) if refit else folder
        scored = export_fp32(holdout, texts, scored_folder, setup.advance)
        weights = fit_blend(setup, encoder, linear, scored.logits).blend

        def agreement(fp32: FloatArray, reduced: FloatArray) -> float:
            first, second = (blend_logits(logits, linear.logits[: len(logits)], weights).argmax(1) for logits in (fp32, reduced))
            return float((first == second).mean())

        scored = add_int8(scored, holdout.tokenizer, texts, scored_folder, agreement)
        scored = add_fp16(scored, holdout.tokenizer, texts, scored_folder, agreement)
        if refit is None:
            return scored, scored.logits
        parity_texts = texts[:REFIT_PARITY_ROWS]
        shipped = add_int8(
            export_fp32(refit, parity_texts, folder, setup.advance), refit.tokenizer, parity_texts, folder, agreement, scored.int8
        )
        if "fp16" in scored.logits:
            shipped = add_fp16(shipped, refit.tokenizer, parity_texts, folder, agreement)
    # A variant of the refit model that gives other categories is dropped, and so are its scores.
    return shipped, {variant: logits for variant, logits in scored.logits.items() if variant in shipped.logits}


# --- scores --------------------------------------------------------------------------------------------------------------------------


def _measure(setup: Setup, models: FittedModels, folder: Path) -> tuple[FitMetrics, dict[Variant, VariantInfo]]:
    """The scores of the test rows or out-of-fold rows by the variant that ships, and for every variant its calibration and thresholds.

    The exported files are in ``folder``.
    """
    from catcli.evaluation.evaluate import ScoredRows, evaluate_rows, variant_info
    from catcli.export.onnx_files import MODEL_FILES
    from catcli.models.device import peak_device_memory
    from catcli.training.linear_training import LinearTraining

    labeled, split, names = setup.labeled, setup.split, setup.category_names
    linear, encoder, exported = models.linear, models.encoder, models.exported

    def held_out(part: slice, roles: FoldRoles | None = None) -> ScoredRows:
        rows = split.held_out[part]
        logits = {variant: values[part] for variant, values in models.logits.items()}
        classes, products, recipe = labeled.classes[rows], labeled.products(rows), setup.recipe
        return ScoredRows(logits, linear.logits[part], classes, products, names, recipe.method, roles, recipe.path_separator)

    if isinstance(split, FoldSplit):
        # The same rows: each is judged by what the other folds chose.
        choosing = test = unseen = held_out(slice(None), _roles(split))
    else:
        choosing, test = held_out(slice(0, len(split.validation))), held_out(slice(len(split.validation), None))
        unseen = held_out(slice(None))  # what a cascade changes needs no label: test rows may say it, too
    unlabeled = _label_unseen_texts(setup, models, folder)
    variants = {
        variant: variant_info(choosing, unseen, models.blend, variant, MODEL_FILES[variant], unlabeled.get(variant))
        for variant in models.logits
    }
    conflicts = conflicting_labels(labeled.texts, labeled.classes)
    evaluated = evaluate_rows(test, exported.ships, models.blend, variants[exported.ships], conflicts)
    catalog, rows_needed = _expect(setup, linear, test, evaluated.tested)
    shipped, random_split = encoder.shipped, LinearTraining(setup).compare_random_split()
    LOGGER.debug(
        f"blend: {models.blend.blend.lora:.3f} x {METHOD_TITLES[setup.recipe.method]}'s logits + {models.blend.blend.linear:.3f} x the "
        "linear model's"
    )
    metrics = FitMetrics(
        **dict(evaluated.evaluation),
        catalog=catalog,
        rows_needed=rows_needed,
        rows=RowCounts(
            read=labeled.read,
            unlabeled=labeled.unlabeled,
            train=len(split.train),
            validation=len(split.validation),
            test=len(split.test),
            folds=split.count if isinstance(split, FoldSplit) else 0,
        ),
        rare_categories=tuple(names[number] for number in split.rare),
        random_split=random_split,
        parity=exported.parity,
        int8=exported.int8,
        fp16=exported.fp16,
        training=Training(
            device=shipped.device,
            epochs=encoder.history.epochs,
            lora_rows=encoder.rows,
            unlabeled_rows=encoder.unlabeled_rows,
            passes=encoder.history.passes,
            refit=encoder.refit is not None,
            lora_seconds=encoder.seconds,
            linear_seconds=linear.seconds,
            seconds=time.perf_counter() - models.began,
            peak_memory=max(peak_memory(), linear.peak_memory),
            device_memory=peak_device_memory(),
            learned_bytes=exported.learned_bytes,
            trained=shipped.trained_parameters,
            total=shipped.total_parameters,
        ),
    )
    return metrics, variants


def _label_unseen_texts(setup: Setup, models: FittedModels, folder: Path) -> Mapping[Variant, ChangeSample]:
    """What the blend changes among texts without a category, by the models that ship, for each variant; nothing without such texts."""
    from catcli.evaluation.cascade import ChangeSample
    from catcli.export.onnx_files import MODEL_FILES

    texts = setup.unseen_texts
    if not texts:
        return {}
    LOGGER.info(f"{count_noun(len(texts), 'text')} without a category, which no model learns from, take part in choosing the cascade")
    linear, tokenizer, samples = models.linear.model.logits(texts), models.encoder.shipped.tokenizer, dict[Variant, ChangeSample]()
    for variant in models.logits:
        session = Session(folder / MODEL_FILES[variant], "cuda" if variant == "fp16" else "cpu")
        samples[variant] = ChangeSample.of(linear, blend_logits(encoder_logits(tokenizer, session, texts), linear, models.blend.blend))
    return samples


def _expect(setup: Setup, linear: LinearResult, rows: ScoredRows, blend: Outcomes) -> tuple[CatalogScores | None, tuple[RowsNeeded, ...]]:
    """What a fresh file shows, and how many more labeled rows it takes to accept most of it; ``rows`` are all out-of-fold rows.

    A holdout says neither: that takes models of fewer rows, and with thousands of rows rows are seldom what is missing.
    """
    from catcli.evaluation.catalog_scores import estimate_catalog_scores
    from catcli.evaluation.learning_curve import LearningCurve, find_rows_needed

    split, roles = setup.split, rows.roles
    if roles is None or not isinstance(split, FoldSplit) or not linear.by_share:
        return None, ()
    curve = LearningCurve.of(linear.by_share, rows.truth, rows.products, roles, len(setup.rows))
    return estimate_catalog_scores(curve, blend, split.count), find_rows_needed(curve, blend)


def _roles(split: FoldSplit) -> FoldRoles:
    """What each of the held-out rows is for."""
    rows = split.held_out
    return FoldRoles(split.fold[rows], np.isin(rows, split.test), np.isin(rows, split.choosing))


# --- the adapter folder --------------------------------------------------------------------------------------------------------------


def _write(
    draft: AdapterDraft,
    data: TrainingData,
    setup: Setup,
    models: FittedModels,
    metrics: FitMetrics,
    variants: Mapping[Variant, VariantInfo],
    model_card: ModelCard,
) -> None:
    """Everything of the folder that the export has not written."""
    from catcli.export.onnx_files import external_weight_files

    labeled, split, recipe, names = setup.labeled, setup.split, models.encoder.shipped.recipe, setup.category_names
    weights = {variant: external_weight_files(draft.folder / info.file) for variant, info in variants.items()}
    complete = {variant: info.model_copy(update={"data": weights[variant]}) for variant, info in variants.items()}
    draft.manifest = _manifest(data, models, names, complete)
    held_out = HeldOutRows(
        texts=setup.held_out_texts,
        parts=_part_names(split),
        products=labeled.products(split.held_out),
        classes=labeled.classes[split.held_out],
        lora=models.logits[models.exported.ships],
        linear=models.linear.logits,
    )
    held_out.save(draft.folder / "heldout.parquet", names, models.blend.blend)
    save_probe(draft.folder / "probe.parquet", models.exported.probe_texts, models.exported.probe)
    models.linear.model.save(draft.folder / "linear.safetensors")
    for name, text in {
        "tokenizer.json": models.encoder.shipped.tokenizer.json,
        "recipe.json": recipe.model_dump_json(indent=2) + "\n",
        "metrics.json": metrics.model_dump_json(indent=2) + "\n",
        "README.md": model_card(draft.name, draft.manifest, metrics, recipe),
    }.items():
        (draft.folder / name).write_text(text, encoding="utf-8", newline="")


def _part_names(split: Split) -> list[str]:
    """What `HeldOutRows` calls the part of each held-out row."""
    if isinstance(split, FoldSplit):
        roles = _roles(split)
        columns = zip(roles.folds.tolist(), roles.scored.tolist(), roles.choosing.tolist(), strict=True)
        return [fold_part(fold, scored=scored, choosing=choosing) for fold, scored, choosing in columns]
    return ["validation"] * len(split.validation) + ["test"] * len(split.test)


def _manifest(data: TrainingData, models: FittedModels, names: Sequence[str], variants: Mapping[Variant, VariantInfo]) -> Manifest:
    shipped, blend, columns = models.encoder.shipped, models.blend, data.columns
    base = shipped.base
    return Manifest(
        format=FORMAT,
        created=manifest_time(),
        base=BaseInfo(name=base.name, hub=base.hub, sha256=base.sha256, revision=base.revision, blocks=base.kept or ()),
        method=shipped.recipe.method,
        label=columns.label,
        text=columns.text,
        prices=columns.prices,
        group=columns.group,
        categories=tuple(names),
        separator=shipped.recipe.path_separator,
        without_rows=len(data.without_rows),
        category_ids=data.taxonomy.ids_of(names) if data.taxonomy else {},
        max_tokens=shipped.tokenizer.max_tokens,
        pad_id=base.pad_id,
        blend=blend.blend,
        alone=ModelScales(lora=blend.lora_alone, linear=blend.linear_alone),
        variants=dict(variants),
        files={},
        versions=package_versions(),
    )
