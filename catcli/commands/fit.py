"""``catcli fit``: labeled products → an adapter."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from catcli import private_folder
from catcli.adapter.folder import Adapter, load_adapter, manifest_time, package_versions
from catcli.adapter.manifest import FORMAT, BaseInfo, Manifest, ModelScales, Variant, VariantInfo
from catcli.adapter.store import find_adapter
from catcli.adapter.writer import AdapterDraft, adapter_draft, check_target, fit_lock
from catcli.config import METHOD_TITLES, Recipe
from catcli.data.dataset.columns import ColumnRoles
from catcli.data.dataset.labeled import LabeledRows, conflicting_labels
from catcli.data.dataset.prepare import InputOptions, TrainingData, load_training_data
from catcli.data.dataset.split import Split
from catcli.evaluation.fit_metrics import FitMetrics, RowCounts, Training
from catcli.evaluation.heldout import HeldOutRows
from catcli.evaluation.requirements import Requirement, check_requirements
from catcli.inference.labeler import PROBE_ROWS, save_probe
from catcli.inference.session import peak_memory
from catcli.paths import resume_folder, store_folder
from catcli.reporting import model_card, sentences, tables
from catcli.talk import Talk

if TYPE_CHECKING:
    from catcli.evaluation.calibration import BlendCalibration
    from catcli.evaluation.evaluate import ScoredRows
    from catcli.training.learner import FitModels


HELPS = (os.environ.get("WORLD_SIZE") or "1") != "1" and (os.environ.get("RANK") or "0") != "0"
"""Whether this process is one that ``accelerate launch`` started beside the first: it trains, and neither speaks nor writes."""


@dataclass(frozen=True)
class Run:
    """Options of a run beside the recipe: where and how it speaks, whether it resumes, what it has to reach, and when it began."""

    talk: Talk
    as_json: bool
    resume: bool
    demands: tuple[Requirement, ...]
    started: float


@dataclass(frozen=True)
class Fitted:
    """What a fit came to: the adapter, and what was measured on its held-out rows."""

    adapter: Adapter
    metrics: FitMetrics


def fit(
    products: Sequence[str],
    *,
    recipe: Recipe,
    output: Path | None = None,
    force: bool = False,
    reading: InputOptions | None = None,
    as_json: bool = False,
    resume: bool = False,
    require: Sequence[str] = (),
    talk: Talk | None = None,
) -> Fitted:
    """Train on ``products`` as ``recipe`` says and write the adapter to ``output``.

    With ``resume`` the training of a run that was killed goes on from where it was last kept. Of the processes of ``accelerate launch``
    only the first returns; the others end when the training does.

    Raises:
        CatcliError: something that the user can mend, or a score below what ``require`` asks for; nothing was written.
    """
    demands = tuple(map(Requirement.of, require))
    run = Run(Talk.silent() if talk is None or HELPS else talk, as_json, resume, demands, time.perf_counter())
    talk = run.talk
    source = (reading or InputOptions()).open(products)
    target = output or store_folder() / source.stem
    check_target(target, force)
    if recipe.teacher:
        find_adapter(recipe.teacher)  # what can be known at once is said before the rows are read
    ready = load_training_data(source, recipe, talk)
    with nullcontext() if HELPS else fit_lock(target):
        fitted = _train_and_write(ready, target, run)
    _show(fitted, as_json, talk)
    return fitted


def _train_and_write(ready: TrainingData, target: Path, run: Run) -> Fitted:
    # torch, transformers and scikit-learn take seconds to import: only once the rows are known to be good.
    from catcli.training.learner import Learner
    from catcli.training.task import TrainingMessages

    talk, demands, checkpoints = run.talk, run.demands, resume_folder(target)
    if HELPS:
        Learner(ready, talk, TrainingMessages(), run.started).train(checkpoints)
        raise SystemExit(0)
    if run.resume and not checkpoints.exists():
        talk.say("there is nothing to resume; the fit begins anew.")
    with talk.progress() as advance, adapter_draft(target, sealed=True) as draft, private_folder.persistent_folder(checkpoints):
        learner = Learner(ready, talk, TrainingMessages(advance, talk.say), run.started)
        learned = learner.learn(draft.folder, checkpoints)
        for number, epoch in enumerate(learned.first.epochs, 1):
            seen = f"training loss {epoch.train_loss:.4f}, validation loss {epoch.validation_loss:.4f}"
            talk.detail(f"pass {number}: {seen}, accuracy {epoch.validation_accuracy:.4f}, {epoch.seconds:.1f} s")
        blend = learned.blending.blend
        talk.detail(
            f"blend: {blend.lora:.3f} x {METHOD_TITLES[learned.lora.recipe.method]}'s logits + {blend.linear:.3f} x the linear model's"
        )
        metrics, served = _measure(ready.labeled, ready.parts, learned)
        if demands:
            if not run.as_json:
                talk.out.print(tables.score_table(metrics, tables.SHORT_METRICS))
            again = "the training is kept: the same line without --require writes it all the same."
            check_requirements(metrics, demands, f"nothing was written, and {again}")
        _write(draft, ready, learned, metrics, served)
    private_folder.delete_private_folder(checkpoints)
    return Fitted(load_adapter(target), metrics)


def _measure(labeled: LabeledRows, parts: Split, learned: FitModels) -> tuple[FitMetrics, dict[Variant, VariantInfo]]:
    """The scores of the test rows by the variant that serves, and for every variant what the validation rows chose."""
    from catcli.evaluation.evaluate import ScoredRows, evaluate_rows
    from catcli.export.onnx_files import MODEL_FILES
    from catcli.models.device import peak_device_memory

    names, blending = labeled.categories.names, learned.blending

    def scored(rows: slice) -> ScoredRows:
        held = parts.held_out[rows]
        logits = {variant: values[rows] for variant, values in learned.logits.items()}
        return ScoredRows(
            logits, learned.linear_logits[rows], labeled.classes[held], labeled.products(held), names, learned.lora.recipe.method
        )

    validation, test = scored(slice(0, len(parts.validation))), scored(slice(len(parts.validation), None))
    served = {variant: served_by(validation, blending, variant, MODEL_FILES[variant]) for variant in learned.logits}
    serves = learned.exported.serves
    told = evaluate_rows(test, serves, blending, served[serves], conflicting_labels(labeled.texts, labeled.classes))
    metrics = FitMetrics(
        **dict(told.evaluation),
        rows=RowCounts(
            read=labeled.read,
            unlabeled=labeled.unlabeled,
            train=len(parts.train),
            validation=len(parts.validation),
            test=len(parts.test),
        ),
        rare_categories=tuple(names[number] for number in parts.rare),
        random_split=learned.random_split,
        parity=learned.exported.parity,
        int8=learned.exported.int8,
        fp16=learned.exported.fp16,
        training=Training(
            device=learned.lora.device,
            epochs=learned.first.epochs,
            lora_rows=learned.lora_rows,
            unlabeled_rows=learned.unlabeled_rows,
            passes=learned.first.passes,
            refit=learned.lora is not learned.first,
            lora_seconds=learned.lora_seconds,
            linear_seconds=learned.linear_seconds,
            seconds=learned.seconds,
            peak_memory=peak_memory(),
            device_memory=peak_device_memory(),
            learned_bytes=learned.exported.learned_bytes,
            trained=learned.lora.trained_parameters,
            total=learned.lora.total_parameters,
        ),
    )
    return metrics, served


def served_by(validation: ScoredRows, blending: BlendCalibration, variant: Variant, file: str) -> VariantInfo:
    """How a variant serves: its calibration, and the thresholds that the validation rows show."""
    from catcli.evaluation.selective import ProductSample, find_category_thresholds, find_thresholds

    judged = ProductSample.of(validation.outcomes(blending.probabilities(validation.lora[variant], validation.linear, variant)))
    return VariantInfo(
        file=file,
        confidence=blending.confidences[variant],
        thresholds=find_thresholds(judged),
        category_thresholds=find_category_thresholds(judged, validation.names),
    )


def _write(draft: AdapterDraft, ready: TrainingData, learned: FitModels, metrics: FitMetrics, served: dict[Variant, VariantInfo]) -> None:
    """Everything of the folder that the export has not written."""
    from catcli.export.onnx_files import external_weight_files

    labeled, parts, recipe, exported = ready.labeled, ready.parts, learned.lora.recipe, learned.exported
    names = labeled.categories.names
    beside = {variant: external_weight_files(draft.folder / one.file) for variant, one in served.items()}
    whole = {variant: one.model_copy(update={"data": beside[variant]}) for variant, one in served.items()}
    draft.manifest = _manifest(names, ready.columns, learned, whole)
    held = HeldOutRows(
        texts=[labeled.texts[row] for row in parts.held_out],
        parts=["validation"] * len(parts.validation) + ["test"] * len(parts.test),
        products=labeled.products(parts.held_out),
        classes=labeled.classes[parts.held_out],
        lora=learned.logits[exported.serves],
        linear=learned.linear_logits,
    )
    held.save(draft.folder / "heldout.parquet", names)
    save_probe(draft.folder / "probe.parquet", held.texts[:PROBE_ROWS], exported.probe)
    learned.linear.save(draft.folder / "linear.safetensors")
    for name, text in {
        "tokenizer.json": learned.lora.tokenizer.json,
        "recipe.json": recipe.model_dump_json(indent=2) + "\n",
        "metrics.json": metrics.model_dump_json(indent=2) + "\n",
        "README.md": model_card.model_card(draft.name, draft.manifest, metrics, recipe),
    }.items():
        (draft.folder / name).write_text(text, encoding="utf-8", newline="")


def _manifest(names: Sequence[str], columns: ColumnRoles, learned: FitModels, served: dict[Variant, VariantInfo]) -> Manifest:
    base, blending = learned.lora.base, learned.blending
    return Manifest(
        format=FORMAT,
        created=manifest_time(),
        base=BaseInfo(name=base.name, hub=base.hub, sha256=base.sha256, revision=base.revision, blocks=base.kept or ()),
        method=learned.lora.recipe.method,
        label=columns.label,
        text=columns.text,
        prices=columns.prices,
        group=columns.group,
        categories=tuple(names),
        max_tokens=learned.lora.tokenizer.max_tokens,
        pad_id=base.pad_id,
        blend=blending.blend,
        alone=ModelScales(lora=blending.lora_alone, linear=blending.linear_alone),
        variants=served,
        files={},
        versions=package_versions(),
    )


def _show(fitted: Fitted, as_json: bool, talk: Talk) -> None:
    metrics, adapter = fitted.metrics, fitted.adapter
    line = f"catcli predict catalog.parquet -o labeled.parquet --adapter {shlex.quote(str(adapter.folder))}"
    took = metrics.training
    talk.record("fitted", rows=metrics.rows.read, seconds=took.seconds, adapter=adapter.fingerprint, folder=str(adapter.folder))
    if as_json:
        talk.result(json.dumps({"adapter": str(adapter.folder), "predict": line, "metrics": metrics.model_dump(mode="json")}))
        return
    talk.out.print(tables.parity_table(metrics))
    for verdict in sentences.variant_decisions(metrics):
        talk.say(verdict)
    talk.out.print(tables.score_table(metrics, tables.SHORT_METRICS))
    talk.say(f"trained in {took.seconds:.0f} s on {took.device}")
    talk.out.print(f"adapter: {adapter.folder}", soft_wrap=True)
    talk.out.print(f"next:    {line}", soft_wrap=True)
