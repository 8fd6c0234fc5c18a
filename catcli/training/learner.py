"""The middle of ``catcli fit``: labeled rows and their split → trained models, exported, and what they make of rows they have not seen."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from catcli.adapter.folder import package_versions
from catcli.adapter.manifest import Variant
from catcli.arrays import FloatArray, IntArray
from catcli.atomic import atomic_write, read_small_file
from catcli.config import METHOD_TITLES, Recipe
from catcli.data.dataset.examples import Examples, category_name_examples, stratified_sample
from catcli.data.dataset.labeled import LabeledRows
from catcli.data.dataset.prepare import TrainingData
from catcli.errors import UsageError
from catcli.evaluation.blend import blend_logits
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.calibration import BlendCalibration, class_shares, fit_scale
from catcli.evaluation.fit_metrics import RandomSplit, SplitScores
from catcli.export.parity import ExportedModel, add_fp16, add_int8, export_fp32
from catcli.export.trained_model import TrainedModel
from catcli.inference.ngrams import LinearModel
from catcli.inference.tokens import Tokenizer
from catcli.models.backbone import Backbone
from catcli.models.bases import MINILM, find_base
from catcli.models.device import pick_device, translate_device_errors, use_bf16
from catcli.models.losses import TeacherTargets, implied_class_shares
from catcli.models.methods import default_learning_rate
from catcli.talk import Talk
from catcli.training.base_features import BaseFeatures, compute_base_features
from catcli.training.checkpoint import Checkpoint
from catcli.training.distributed import ranks
from catcli.training.linear import FOLDS, balance_weights, fit_linear, logit_adjustment, out_of_fold_logits
from catcli.training.loop import train_classifier
from catcli.training.schedule import choose_tokenizer, default_epochs
from catcli.training.task import TrainingMessages, TrainingTask
from catcli.training.teacher import Teacher

Classes = IntArray

MAX_CROSS_FIT_ROWS = 1_000
"""Validation rows below which the linear model's scale is taken from out-of-fold rows too; with as many it is known without."""

MAX_LINEAR_CHARACTERS = 12_000_000
"""Characters of text that the linear model learns from, some 1.2 GB of n-grams; of more it takes a draw."""

MAX_ROW_PASSES = {"cpu": 60_000, "cuda": 4_000_000}
"""Rows times passes that LoRA learns from by default: minutes on either device with the embedded base, hours on a CPU with a larger one,
which is said before they begin. ``--time-budget`` replaces it."""

LINEAR_SHARE, READING_SHARE, EXPORT_SECONDS, SCORED_PER_SECOND = 0.25, 0.2, 35.0, 150.0
"""How a time budget is spent: at most such shares on the linear models and on reading; what export takes, and how fast rows are scored."""

TIMED_LINEAR_ROWS, TIMED_FEATURE_ROWS = 2_000, 256
"""Rows on which the linear model, and the reading of texts, are timed before a time budget is shared out."""

REFIT_PARITY_ROWS = 128
"""Held-out rows on which the forms of the refit are compared; those of the model that was scored were compared on more."""

MAX_RANDOM_SPLIT_ROWS = 6_000
"""Rows that the linear model learns from, at most, where a split by product is set beside one at random."""

MAX_TARGET_CELLS = 200_000_000
"""Texts times categories up to which unlabeled texts are added: what a teacher says of so many takes 400 MB."""

MAX_EPOCH_VALIDATION_ROWS = 2_000
"""Validation rows that LoRA looks at after every pass; the blend is chosen by all of them."""


@dataclass(frozen=True)
class FitModels:
    """What training gave, and what it makes of the held-out rows: validation rows first, test rows after them.

    ``first`` learned from the training rows and was scored; ``lora`` and ``linear`` are shipped: the same, or their refits on all rows.
    ``logits`` by variant and ``linear_logits``, each *(rows, classes)*, are those of the models that were scored.
    """

    first: TrainedModel
    lora: TrainedModel
    linear: LinearModel
    exported: ExportedModel
    logits: Mapping[Variant, FloatArray]
    linear_logits: FloatArray
    blending: BlendCalibration
    random_split: RandomSplit | None
    lora_rows: int
    unlabeled_rows: int
    lora_seconds: float
    linear_seconds: float
    seconds: float


@dataclass(frozen=True)
class TrainingInput:
    """What a training of the base is fed with: ``examples``, and the base's ``reading`` and a teacher's ``targets`` of them.

    ``beside`` are those that every training learns from: categories' names and unlabeled texts. ``mark`` tells a checkpoint of these from
    one of others.
    """

    examples: Examples
    reading: BaseFeatures
    targets: TeacherTargets | None
    beside: IntArray
    mark: str

    def task(self, learn: IntArray, held: IntArray, count: int, seconds: float | None = None) -> TrainingTask:
        """A training on the examples ``learn`` that looks at ``held``."""
        return TrainingTask(self.reading, self.examples, learn, held, count, seconds, self.targets)


class Learner:
    """Trains both models on labeled rows, and refits them; what its steps share stands in one place."""

    def __init__(self, ready: TrainingData, talk: Talk, tell: TrainingMessages, started: float) -> None:
        labeled, parts, recipe = ready.labeled, ready.parts, ready.recipe
        self.labeled, self.parts, self.talk, self.tell, self.started = labeled, parts, talk, tell, started
        self.unlabeled = ready.unlabeled.texts if ready.unlabeled else []
        base = find_base(recipe.base)
        self.recipe = resolve_recipe(recipe, base, labeled, len(parts.train) + len(self.unlabeled))
        self.base = base.used_by(self.recipe)
        if base is not MINILM or self.recipe.method != "lora":
            at = f" at {base.revision}" if base.revision else ""
            talk.say(f"base: {base.hub}{at}; method: {self.recipe.method}")
        self.rows = Examples.of(labeled.texts, labeled.classes)
        self.names = category_name_examples(labeled.categories.names)
        self.count = len(labeled.categories)
        taught = self.rows.take(parts.train).plus(self.names)
        self.shares = class_shares(taught.classes, taught.weights, self.count)
        self.lora_shares = self.shares  # until LoRA has learned, perhaps from a draw, which has relatively more of rare categories
        self.device = pick_device(recipe.device)
        self.teacher = Teacher(recipe.teacher, labeled.categories.names, recipe.device, talk) if recipe.teacher else None
        if self.teacher:
            self.teacher.warn_of_leaks(labeled, parts, talk)
        self.linear_speed: float | None = None  # rows a second, measured once where a time budget asks for it
        self.read_speed, self.load_seconds = SCORED_PER_SECOND, 1.0  # the embedded base's; measured where a time budget asks for it

    def learn(self, folder: Path, checkpoints: Path) -> FitModels:
        """Train, refit, export LoRA's model to ``folder``, and choose the blend on the validation rows."""
        start = time.perf_counter()
        held = [self.labeled.texts[row] for row in self.parts.held_out]
        linear, linear_logits, crossed = self.train_linear(held)
        linear_done = time.perf_counter()
        with translate_device_errors("What was trained is kept: the same line goes on from it."):
            first, again, (lora_rows, unlabeled_rows) = self.train(checkpoints)
        lora_done = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            place = Path(scratch) if again else folder
            scored = export_fp32(first, held, place, self.tell.advance)
            blend = self.blending(scored.logits, linear_logits, crossed).blend

            def alike(fp32: FloatArray, int8: FloatArray) -> float:
                one, other = (blend_logits(logits, linear_logits[: len(logits)], blend).argmax(1) for logits in (fp32, int8))
                return float((one == other).mean())

            scored = add_fp16(add_int8(scored, first.tokenizer, held, place, alike), first.tokenizer, held, place, alike)
            shipped = scored
            if again:
                shipped = export_fp32(again, held[:REFIT_PARITY_ROWS], folder, self.tell.advance)
                shipped = add_int8(shipped, again.tokenizer, held[:REFIT_PARITY_ROWS], folder, alike, scored.int8)
                if "fp16" in scored.logits:
                    shipped = add_fp16(shipped, again.tokenizer, held[:REFIT_PARITY_ROWS], folder, alike)
        # Where a variant of the refit did not label alike, what was scored does without it too.
        scored = replace(scored, logits={name: logits for name, logits in scored.logits.items() if name in shipped.logits})
        return FitModels(
            first=first,
            lora=again or first,
            linear=linear,
            exported=shipped,
            logits=scored.logits,
            linear_logits=linear_logits,
            blending=self.blending(scored.logits, linear_logits, crossed),
            random_split=self.at_random(),
            lora_rows=lora_rows,
            unlabeled_rows=unlabeled_rows,
            lora_seconds=lora_done - linear_done,
            linear_seconds=linear_done - start,
            seconds=time.perf_counter() - start,
        )

    def blending(self, logits: Mapping[Variant, FloatArray], linear: FloatArray, crossed: tuple[FloatArray, Classes]) -> BlendCalibration:
        """What the validation rows choose, the first of ``logits`` by variant and of ``linear``, each *(held, classes)*."""
        truth = self.labeled.classes[self.parts.validation]
        by_validation = {variant: values[: len(truth)] for variant, values in logits.items()}
        return BlendCalibration.fit(
            by_validation, linear[: len(truth)], truth, implied_class_shares(self.recipe.balance, self.lora_shares), crossed
        )

    def left(self) -> float | None:
        """Seconds of the time budget that training may still take; None without one."""
        if self.recipe.time_budget is None:
            return None
        reserved = EXPORT_SECONDS * max(1.0, self.load_seconds) + len(self.parts.held_out) / min(SCORED_PER_SECOND, self.read_speed)
        return max(1.0, self.recipe.time_budget - reserved - (time.perf_counter() - self.started))

    # --- the linear model ---------------------------------------------------------------------------------------------------------------

    def train_linear(self, held: Sequence[str]) -> tuple[LinearModel, FloatArray, tuple[FloatArray, Classes]]:
        """The linear model to ship, the logits *(held, classes)* of the one that is scored, and out-of-fold logits with their classes."""
        model = self.fit_linear(self.parts.train, "the linear model")
        logits = model.logits(held)
        crossed = self.cross_fit()
        if self.recipe.refit:
            model = self.fit_linear(np.arange(len(self.rows)), "refit of the linear model")
        if self.recipe.balance == "logit-adjust":
            truth = self.labeled.classes[self.parts.validation]
            shift = logit_adjustment(self.shares, fit_scale(logits[: len(truth)], truth, crossed))
            model, logits, crossed = replace(model, bias=model.bias + shift), logits + shift, (crossed[0] + shift, crossed[1])
        return model, logits, crossed

    def linear_rows(self, rows: IntArray, fits: int | None = None) -> IntArray:
        """The rows that the linear model learns from: all, or a draw that memory and the time budget allow for so many ``fits``."""
        characters = sum(len(self.rows.texts[row]) for row in rows)
        most = int(len(rows) * min(1.0, MAX_LINEAR_CHARACTERS / max(characters, 1)))
        left = self.left()
        if left is not None and most > TIMED_LINEAR_ROWS:
            if self.linear_speed is None:
                trial = stratified_sample(self.rows.classes, rows, TIMED_LINEAR_ROWS, self.recipe.seed)
                start = time.perf_counter()
                fit_linear(self.balanced(self.rows.take(trial).plus(self.names)), self.count, self.recipe.seed)
                self.linear_speed = TIMED_LINEAR_ROWS / (time.perf_counter() - start)
            fits = fits or (2 if self.recipe.refit else 1)
            seconds = max(1.0, left * LINEAR_SHARE / fits)
            most = min(most, max(TIMED_LINEAR_ROWS, int(self.linear_speed * seconds)))
        return stratified_sample(self.rows.classes, rows, most, self.recipe.seed)

    def fit_linear(self, rows: IntArray, stage: str) -> LinearModel:
        """Fit on ``rows`` and the categories' names."""
        chosen = self.linear_rows(rows)
        if len(chosen) < len(rows):
            self.talk.say(f"the linear model learns from a draw of {len(chosen):,} of {len(rows):,} rows")
        return fit_linear(
            self.balanced(self.rows.take(chosen).plus(self.names)),
            self.count,
            self.recipe.seed,
            lambda done, whole: self.tell.advance(f"{stage}, category", done, whole),
        )

    def balanced(self, examples: Examples) -> Examples:
        """What the linear model learns from, weighed as the recipe's balance says."""
        return balance_weights(examples, self.count, self.recipe.balance, self.recipe.seed)

    def cross_fit(self) -> tuple[FloatArray, Classes]:
        """Out-of-fold logits of the linear model on training rows, and their classes: none where validation rows say enough."""
        if len(self.parts.validation) >= MAX_CROSS_FIT_ROWS:
            return np.empty((0, self.count), np.float32), self.parts.train[:0]
        train = self.linear_rows(self.parts.train, FOLDS)
        keys = np.unique(np.array([self.labeled.keys[row] for row in train], dtype=object), return_inverse=True)[1]
        folds = np.random.default_rng(self.recipe.seed).permutation(keys.max() + 1)[keys] % FOLDS
        # Focal loss would fit each fold three times; it moves the scale least.
        taught = self.rows.take(train) if self.recipe.balance == "focal" else self.balanced(self.rows.take(train))
        logits, scored = out_of_fold_logits(taught, folds, self.names, self.count, self.recipe.seed)
        return logits, self.rows.classes[train[scored]]

    def at_random(self) -> RandomSplit | None:
        """What a split that does not look at products would show of the linear model; None where no product has several rows.

        Both ways it learns from as many rows and is scored on as many.
        """
        if len(set(self.labeled.keys)) == len(self.labeled.keys):
            return None
        most = TIMED_LINEAR_ROWS if self.recipe.time_budget else MAX_RANDOM_SPLIT_ROWS
        random = np.random.default_rng(self.recipe.split_seed)
        scored = random.permutation(len(self.rows))[: len(self.parts.test)]
        taught = np.setdiff1d(np.arange(len(self.rows)), scored)
        count = min(most, len(self.parts.train), len(taught))

        def learned(train: IntArray, test: IntArray) -> SplitScores:
            chosen = stratified_sample(self.rows.classes, train, count, self.recipe.seed)
            model = fit_linear(self.balanced(self.rows.take(chosen).plus(self.names)), self.count, self.recipe.seed)
            outcomes = Outcomes.of(model.logits([self.rows.texts[row] for row in test]), self.rows.classes[test], test)
            metrics = outcomes.point.metrics
            return SplitScores(accuracy=float(metrics["accuracy"][0]), macro_f1=float(metrics["macro_f1"][0]))

        return RandomSplit(train=count, by_product=learned(self.parts.train, self.parts.test), at_random=learned(taught, scored))

    # --- the base -----------------------------------------------------------------------------------------------------------------------

    def lora_rows(self, checkpoints: Path) -> tuple[IntArray, list[str]]:
        """The rows that LoRA reads, sorted: validation rows to look at, and of the others as many as the limits allow.

        Unlabeled texts get what room the labeled rows leave.
        """
        others = np.concatenate((self.parts.train, self.parts.test)) if self.recipe.refit else self.parts.train
        kept, mark = checkpoints / "rows", self.fingerprint(others, self.unlabeled)
        # A fit that goes on takes the rows it had taken: how many there is time for would not be measured alike again.
        most = _checkpoint_rows(kept, mark) or self.affordable(others)
        most = int(ranks().agree(most))
        if ranks().first:
            checkpoints.mkdir(parents=True, exist_ok=True)
            with atomic_write(kept) as place:
                place.write_text(json.dumps({"rows": most, "fit": mark}), encoding="utf-8")
        if most < len(others):
            self.talk.say(
                f"{METHOD_TITLES[self.recipe.method]} learns from a draw of {most:,} of {len(others):,} rows; a longer --time-budget "
                f"takes more"
            )
        watched = stratified_sample(self.rows.classes, self.parts.validation, min(MAX_EPOCH_VALIDATION_ROWS, most // 4), self.recipe.seed)
        taught = stratified_sample(self.rows.classes, others, most, self.recipe.seed)
        unlabeled = self.unlabeled_beside(len(taught), most)
        if len(unlabeled) < len(self.unlabeled):
            self.talk.say(f"{len(unlabeled):,} of {len(self.unlabeled):,} unlabeled texts are learned from")
        return np.sort(np.concatenate((taught, watched))), unlabeled

    def unlabeled_beside(self, labeled: int, most: int) -> list[str]:
        """The unlabeled texts that there is room for beside so many labeled rows, of ``most`` rows in all."""
        kept = MAX_TARGET_CELLS // self.count - labeled - len(self.names)
        return self.unlabeled[: max(0, min(most - labeled, kept))]

    def affordable(self, others: IntArray) -> int:
        """How many of ``others`` LoRA can learn from: by the time budget, or in minutes."""
        left = self.left()
        if left is None:
            return MAX_ROW_PASSES[self.device.type] // default_epochs(len(self.parts.train) + len(self.unlabeled))
        seconds = []
        if self.device.type == "cuda":  # which takes seconds to start, once for the process
            self.read(self.rows.take(others[:1]), TrainingMessages())
        for count in (1, TIMED_FEATURE_ROWS):  # one row takes what loading the base does
            trial = stratified_sample(self.rows.classes, others, count, self.recipe.seed)
            start = time.perf_counter()
            texts = self.rows.take(trial)
            self.read(texts, TrainingMessages())
            if self.teacher:
                self.teacher.targets(texts)
            seconds.append(time.perf_counter() - start)
        self.load_seconds, self.read_speed = seconds[0], len(trial) / max(seconds[1] - seconds[0], 1e-3)
        return max(TIMED_FEATURE_ROWS, int((self.left() or left) * READING_SHARE * self.read_speed))

    def read(self, examples: Examples, tell: TrainingMessages) -> BaseFeatures:
        """The base's view of the examples."""
        tokenizer = Tokenizer(self.base.tokenizer, self.recipe.max_tokens or self.base.longest, self.base.pad_id)
        return compute_base_features(
            self.base, tokenizer, examples.texts, self.device, use_bf16(self.recipe.dtype, self.device), tell.advance
        )

    def studied(self, rows: IntArray, unlabeled: Sequence[str]) -> TrainingInput:
        """What a training is fed with: ``rows``, the categories' names and ``unlabeled`` texts, and the teacher's word on all of them."""
        examples = self.rows.take(rows).plus(self.names).plus(Examples.without_classes(unlabeled))
        targets = None
        if self.teacher:
            targets = self.teacher.targets(examples, lambda done: self.tell.advance("the teacher labels", done, len(examples)))
        beside = np.arange(len(rows), len(examples))
        return TrainingInput(examples, self.read(examples, self.tell), targets, beside, self.fingerprint(rows, unlabeled))

    def train(self, checkpoints: Path) -> tuple[TrainedModel, TrainedModel | None, tuple[int, int]]:
        """LoRA on the training rows, and its refit on all rows, where asked; and how many labeled and unlabeled rows it saw."""
        rows, unlabeled = self.lora_rows(checkpoints)
        studied = self.studied(rows, unlabeled)
        taught, validation = (np.flatnonzero(np.isin(rows, part)) for part in (self.parts.train, self.parts.validation))
        learn = np.concatenate((taught, studied.beside))
        whole = np.arange(len(studied.examples))
        left = self.left()
        share = len(learn) / (len(learn) + len(whole)) if self.recipe.refit else 1.0
        task = studied.task(learn, validation, self.count, left and left * share)
        self.lora_shares = task.shares
        first = train_classifier(
            task,
            self.base,
            self.recipe,
            Checkpoint(checkpoints / "held-out.safetensors", studied.mark),
            self.tell,
        )
        if not self.recipe.refit:
            return first, None, (len(taught), len(unlabeled))
        task = studied.task(whole, whole[:0], self.count, self.left())
        again = train_classifier(
            task, self.base, self.recipe, Checkpoint(checkpoints / "refit.safetensors", studied.mark), self.tell, repeat=first
        )
        return first, again, (len(taught), len(unlabeled))

    def fingerprint(self, rows: IntArray, unlabeled: Sequence[str]) -> str:
        """What a checkpoint has to be of: the same texts, categories and options, by the same packages, in as many processes."""
        teacher = self.teacher.adapter.fingerprint if self.teacher else None
        made_of = [self.recipe.model_dump(mode="json"), self.base.sha256, package_versions(), ranks().count, teacher]
        told = json.dumps([*made_of, self.labeled.categories.names])
        mark = hashlib.sha256(told.encode("utf-8", "surrogatepass"))
        for row in rows:
            mark.update(f"{self.rows.classes[row]} {self.rows.texts[row]}\n".encode("utf-8", "surrogatepass"))
        for text in unlabeled:
            mark.update(f"{text}\n".encode("utf-8", "surrogatepass"))
        return mark.hexdigest()


def _checkpoint_rows(file: Path, mark: str) -> int | None:
    """How many rows a stopped fit of ``mark`` had taken; None where there was none, or one of other rows or options."""
    try:
        kept = json.loads(read_small_file(file, 1024))
        return int(kept["rows"]) if kept["fit"] == mark else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def resolve_recipe(recipe: Recipe, base: Backbone, labeled: LabeledRows, taught: int) -> Recipe:
    """The recipe with the options that depend on the base and on the ``taught`` rows; a base on the hub with its commit."""
    if recipe.max_tokens and recipe.max_tokens > base.longest:
        raise UsageError(f"--max-tokens {recipe.max_tokens}: {base.hub} has positions for {base.longest:,}; ask for at most so many.")
    sample = labeled.texts[:: max(1, len(labeled.texts) // 20_000)]
    return recipe.but(
        {
            "base": base.name,
            "pool": recipe.pool or base.pool,
            "lr": recipe.lr or default_learning_rate(base, recipe.method),
            "epochs": recipe.epochs or default_epochs(taught),
            "max_tokens": recipe.max_tokens or choose_tokenizer(base, sample).max_tokens,
        }
    )
